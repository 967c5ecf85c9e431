"""Attempts at more power than the sandbox has: users, capabilities, namespaces, other processes.

What the kernel itself offers to the powerful is in `kernel_calls.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pty
import signal
import stat
import struct
import subprocess
import time
from collections.abc import Iterator

from .driver import LIBC, MACHINE, Facts, Refused, Skip, allowed_but_wrong, attempt, syscall

ALSO = ("kernel_calls",)


@contextlib.contextmanager
def mapped() -> Iterator[None]:
    """EINVAL is how the kernel says that a namespace has no such user."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise Refused(str(error), "user namespace: it has one user") from error


# -- users and capabilities ------------------------------------------------------------------------


@attempt
def become_root(facts: Facts) -> str:
    with mapped():
        os.setuid(0)
    return "setuid(0)"


@attempt
def become_another_group(facts: Facts) -> str:
    with mapped():
        os.setgid(0)
    return "setgid(0)"


@attempt
def take_more_groups(facts: Facts) -> str:
    os.setgroups([0, 4, 6])  # root, adm, disk
    return "setgroups"


@attempt
def become_another_user(facts: Facts) -> str:
    with mapped():
        os.setresuid(65534, 65534, 65534)
    return "setresuid(65534)"


@attempt
def capabilities_in_force(facts: Facts) -> str:
    return _capabilities("CapEff")


@attempt
def capabilities_to_come(facts: Facts) -> str:
    """What exec of a program with file capabilities could still give."""
    return _capabilities("CapBnd")


def _capabilities(which: str) -> str:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith(which):
            if int(line.split()[1], 16):
                return line
            raise Refused(line, "no capabilities, not even in the bounding set")
    raise Skip(f"{which} is not told")


@attempt
def raise_capabilities(facts: Facts) -> str:
    header = struct.pack("Ii", 0x20080522, 0)
    admin = 1 << 21
    syscall((126, 91), header, struct.pack("IIIIII", admin, admin, admin, 0, 0, 0))
    return "capset gave CAP_SYS_ADMIN"


@attempt
def run_setuid_programs(facts: Facts) -> str:
    """Start each setuid program of the image, as one who is not root, and look whose it is."""
    programs = [p for p in _setuid_programs() if os.path.basename(p) in ("su", "passwd", "chsh")]
    if not programs:
        raise Refused("none is found", "no setuid programs in the image")
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    lead, follow = pty.openpty()
    for program in programs:
        process = subprocess.Popen([program], stdin=follow, stdout=follow, stderr=follow)
        try:
            for _ in range(40):
                time.sleep(0.01)
                with contextlib.suppress(OSError):
                    status = _read(f"/proc/{process.pid}/status")
                    uids = next(x for x in status.splitlines() if x.startswith("Uid:")).split()
                    if uids[2] == "0":
                        return f"{program} runs as root"
        finally:
            with contextlib.suppress(OSError):
                process.kill()
    os.close(lead)
    raise Refused(f"{', '.join(programs)} ran, none as root", "no_new_privs, nosuid mounts")


def _setuid_programs() -> list[str]:
    found = []
    for folder in ("/usr/bin", "/usr/sbin", "/bin", "/usr/lib", "/usr/libexec", "/opt"):
        for where, _, names in os.walk(folder):
            for name in names if where.count("/") < 4 else ():
                with contextlib.suppress(OSError):
                    path = os.path.join(where, name)
                    info = os.lstat(path)
                    if stat.S_ISREG(info.st_mode) and info.st_mode & stat.S_ISUID:
                        found.append(path)
    return found


@attempt
def gain_privileges_by_exec(facts: Facts) -> str:
    """Whether no_new_privs is set: without it, exec may give what the parent has not."""
    if LIBC.prctl(39, 0, 0, 0, 0) == 0:
        return "no_new_privs is not set"
    raise Refused("no_new_privs is set", "no_new_privs")


@attempt
def run_without_a_filter(facts: Facts) -> str:
    """Whether a seccomp filter is in force at all."""
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("Seccomp:"):
            if line.split()[1] == "0":
                return "no seccomp filter"
            raise Refused(line, "seccomp filter")
    raise Skip("the kernel does not tell")


# -- namespaces ------------------------------------------------------------------------------------


@attempt
def nest_a_user_namespace(facts: Facts) -> str:
    new_user = 0x10000000
    syscall((272, 97), new_user)
    return "unshare(CLONE_NEWUSER)"


@attempt
def nest_by_clone(facts: Facts) -> str:
    new_user, child = 0x10000000, 17
    pid = syscall((56, 220), new_user | child, None, None, None, None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "clone(CLONE_NEWUSER)"


@attempt
def nest_by_clone3(facts: Facts) -> str:
    """clone3 keeps its flags in memory, where a filter cannot look."""
    arguments = struct.pack("11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    pid = syscall((435, 435), arguments, len(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "clone3(CLONE_NEWUSER)"


@attempt
def unshare_other_namespaces(facts: Facts) -> str:
    net_pid_ipc = 0x40000000 | 0x20000000 | 0x08000000
    syscall((272, 97), net_pid_ipc)
    return "unshare(net, pid, ipc)"


@attempt
def leave_by_x32_calls(facts: Facts) -> str:
    """x86_64 has a second set of numbers, which a careless filter lets through."""
    if MACHINE != 0:
        raise Skip("only x86_64 has x32 calls")
    x32 = 0x40000000
    try:
        return f"getpid by its x32 number: {syscall((x32 | 39, -1))}"
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Skip("the kernel is built without x32") from error
        raise


@attempt
def leave_by_32_bit_calls(facts: Facts) -> str:
    """int 0x80 enters by the i386 table: other numbers, another filter's blind spot."""
    if MACHINE != 0:
        raise Skip("only x86_64 has i386 calls")
    import mmap

    # mov eax, 20 (getpid); int 0x80; ret
    code = bytes.fromhex("b814000000cd80c3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    result = call()
    if result == os.getpid():
        return f"i386 getpid: {result}"
    raise Refused(f"i386 getpid: {result}", "the kernel has no i386 calls")


# -- other processes -------------------------------------------------------------------------------


@attempt
def trace_a_host_process(facts: Facts) -> str:
    seize = 0x4206
    syscall((101, 117), seize, facts["victim"], 0, 0)
    return "ptrace attached to a process of the host"


@attempt
def trace_init(facts: Facts) -> str:
    """Attach to PID 1, which holds the sandbox; it need not be killed for that."""
    seize = 0x4206
    syscall((101, 117), seize, facts["target"], 0, 0)
    return "ptrace attached"


@attempt
def read_a_processes_memory(facts: Facts) -> str:
    with open(f"/proc/{facts['victim']}/mem", "rb") as file:
        file.fileno()
    return "opened /proc/PID/mem of a process of the host"


@attempt
def copy_memory_of_init(facts: Facts) -> str:
    """process_vm_readv needs no stop; a wrong address shows the permission."""
    place = ctypes.create_string_buffer(16)
    local = struct.pack("QQ", ctypes.addressof(place), 8)
    remote = struct.pack("QQ", 0x1000, 8)
    return allowed_but_wrong((310, 270), facts["target"], local, 1, remote, 1, 0)


@attempt
def kill_a_host_process(facts: Facts) -> str:
    os.kill(facts["victim"], 0)
    name = _read(f"/proc/{facts['victim']}/environ")
    if facts["word"] in name:
        os.kill(facts["victim"], signal.SIGCONT)
        return "a signal reached a process of the host"
    raise Refused("the number is another process's here", "pid namespace")


@attempt
def open_a_host_process(facts: Facts) -> str:
    fd = syscall((434, 434), facts["victim"], 0)
    name = _read(f"/proc/{facts['victim']}/environ")
    os.close(fd)
    if facts["word"] in name:
        return "a pidfd of a process of the host"
    raise Refused("the number is another process's here", "pid namespace")


@attempt
def take_descriptors_of_init(facts: Facts) -> str:
    """pidfd_getfd copies an open descriptor out of another process."""
    fd = syscall((434, 434), facts["target"], 0)
    got = syscall((438, 438), fd, 0, 0)
    return f"pidfd_getfd gave {got}"


@attempt
def raise_priority(facts: Facts) -> str:
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    return "nice -10"


@attempt
def go_first_at_the_disk(facts: Facts) -> str:
    real_time = 1 << 13
    syscall((251, 30), 1, 0, real_time)
    return "ioprio_set: everybody else waits for the disk"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
