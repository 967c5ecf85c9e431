"""Attempts at the kernel's large or dangerous calls, and at terminals and devices.

Where a call would change the machine, it is made so that only its permission shows: a wrong
argument that the kernel looks at after the question who asks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pty
import socket
import stat
import struct
import termios

from .driver import MACHINE, Facts, Refused, allowed_but_wrong, attempt, syscall


@attempt
def load_bpf(facts: Facts) -> str:
    attributes = struct.pack("IIII", 2, 4, 4, 1) + bytes(112)  # an array map
    return f"bpf gave map {syscall((321, 280), 0, attributes, len(attributes))}"


@attempt
def count_performance(facts: Facts) -> str:
    """perf_event_open on all processes of a processor: sees the kernel."""
    event = struct.pack("IIQ", 1, 112, 0) + bytes(96)
    everybody, cpu = ctypes.c_long(-1), 0
    return f"perf gave {syscall((298, 241), event, everybody, cpu, ctypes.c_long(-1), 0)}"


@attempt
def fault_in_userspace(facts: Facts) -> str:
    """userfaultfd stops the kernel in mid-copy: the tool of many an exploit."""
    return f"userfaultfd gave {syscall((323, 282), os.O_CLOEXEC)}"


@attempt
def submit_io_by_ring(facts: Facts) -> str:
    """io_uring does calls that no filter sees."""
    parameters = ctypes.create_string_buffer(120)
    return f"io_uring gave {syscall((425, 425), 1, parameters)}"


@attempt
def watch_every_file(facts: Facts) -> str:
    return f"fanotify gave {syscall((300, 262), 0, 0)}"


@attempt
def keep_a_key(facts: Facts) -> str:
    """The user's keyring is one for all of a uid, whatever its namespaces."""
    user = ctypes.c_long(-4)
    key = syscall((248, 217), b"user", b"lis-attack", b"x", 1, user)
    unlink = 9
    with contextlib.suppress(OSError):
        syscall((250, 219), unlink, key, user)
    return f"add_key gave {key}"


@attempt
def read_keyrings(facts: Facts) -> str:
    describe_session, session = 6, ctypes.c_long(-3)
    return f"keyctl: {syscall((250, 219), describe_session, session, None, 0)}"


@attempt
def request_a_key(facts: Facts) -> str:
    """request_key may start a program on the host."""
    return allowed_but_wrong((249, 218), b"user", b"lis-attack-none", None, 0)


@attempt
def load_another_kernel(facts: Facts) -> str:
    too_many_segments = 10_000
    return allowed_but_wrong((246, 104), 0, too_many_segments, None, 0)


@attempt
def load_another_kernel_from_a_file(facts: Facts) -> str:
    wrong = ctypes.c_long(-1)
    return allowed_but_wrong((320, 294), wrong, wrong, 0, None, 0)


@attempt
def load_a_module(facts: Facts) -> str:
    return allowed_but_wrong((175, 105), None, 0, b"")


@attempt
def load_a_module_from_a_file(facts: Facts) -> str:
    return allowed_but_wrong((313, 273), ctypes.c_long(-1), b"", 0)


@attempt
def unload_a_module(facts: Facts) -> str:
    return allowed_but_wrong((176, 106), b"lis_attack_no_such_module", os.O_NONBLOCK)


@attempt
def reboot_the_machine(facts: Facts) -> str:
    """With a wrong magic number, which is looked at after the permission."""
    return allowed_but_wrong((142 if MACHINE else 169, 142), 1, 2, 3, None)


@attempt
def add_swap(facts: Facts) -> str:
    return allowed_but_wrong((167, 224), b"/lis-attack-none", 0)


@attempt
def set_the_clock(facts: Facts) -> str:
    """adjtimex with a nonsense tick: EINVAL for who may, EPERM for who may not."""
    tick = 0x4000
    timex = struct.pack("I4xqqqqi4x", tick, 0, 0, 0, 0, 0) + bytes(200)
    buffer = ctypes.create_string_buffer(timex)
    return allowed_but_wrong((159, 171), buffer)


@attempt
def rename_the_host(facts: Facts) -> str:
    name = socket.gethostname().encode()
    syscall((170, 161), name, len(name))
    return "sethostname"


@attempt
def account_processes(facts: Facts) -> str:
    return allowed_but_wrong((163, 89), b"/lis-attack-none/none")


@attempt
def set_quotas(facts: Facts) -> str:
    get_quota_of_all = 0x80000700  # Q_GETQUOTA, of root
    return allowed_but_wrong((179, 60), get_quota_of_all, facts["block_device"].encode(), 0, None)


@attempt
def touch_ports(facts: Facts) -> str:
    """iopl: the machine's I/O ports."""
    syscall((172, -1), 3)
    return "iopl(3)"


@attempt
def switch_off_randomness(facts: Facts) -> str:
    no_randomize = 0x0040000
    syscall((135, 92), no_randomize)
    return "personality(ADDR_NO_RANDOMIZE)"


@attempt
def move_pages_of_others(facts: Facts) -> str:
    return allowed_but_wrong((279, 239), facts["target"], 0, None, None, None, 0)


# -- terminals and devices -------------------------------------------------------------------------


@attempt
def type_into_a_terminal(facts: Facts) -> str:
    """TIOCSTI: keys that whoever started us would seem to have pressed."""
    return _terminal(termios.TIOCSTI, b"x")


@attempt
def paste_into_a_terminal(facts: Facts) -> str:
    """TIOCLINUX is refused for its kind of terminal where it is not refused for who asks."""
    try:
        return _terminal(0x541C, b"\x03")
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return f"permitted; then {error.strerror}"
        raise


def _terminal(request: int, data: bytes) -> str:
    lead, follow = pty.openpty()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.setsid()
            fcntl.ioctl(follow, termios.TIOCSCTTY, 0)
            fcntl.ioctl(follow, request, data)
        except OSError as error:
            code = error.errno or 255
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    os.close(lead)
    if number := os.waitstatus_to_exitcode(status):
        raise OSError(number, os.strerror(number))
    return f"ioctl {request:#x} typed into a terminal"


@attempt
def make_a_device(facts: Facts) -> str:
    """A character device, e.g. the machine's memory."""
    path = f"mem-{os.getpid()}"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 1))
    os.unlink(path)
    return "mknod of /dev/mem"


@attempt
def open_the_machines_devices(facts: Facts) -> str:
    """Virtual machines, tunnels, file systems in user space, loop devices, the graphics card."""
    names = ("kvm", "net/tun", "fuse", "loop-control", "vhost-net", "dri/card0", "input/event0")
    last = "no such device"
    for name in names:
        try:
            os.close(os.open(f"/dev/{name}", os.O_RDWR))
            return f"/dev/{name} opens"
        except OSError as error:
            if error.errno != errno.ENOENT:
                last = f"/dev/{name}: {error.strerror}"
    raise Refused(last, "a /dev of its own: null, zero, full, random, tty")
