"""Writes the filters beside it: `python -m lis_kernel.sandbox.seccomp.generate`.

Classic BPF by hand, for no dependency and so that every instruction can be read here. A system call
is looked up by its number in one pass; the kernel remembers which numbers are always allowed, so
the length of the list costs nothing. `tests/sandbox/test_seccomp.py` compares files and script.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import get_args

from lis_kernel.sandbox.seccomp import Kind

__all__ = ["MACHINES", "build", "main"]

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_* of each."""

ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97

LOAD, RETURN, IF_EQUAL, IF_ANY_BIT, IF_AT_LEAST = 0x20, 0x06, 0x15, 0x45, 0x35
NUMBER, ARCH, ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`; an argument has 8 bytes, the lower 4 of them first."""

X32_BIT = 0x40000000
NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
TERMINAL_TRICKS = (0x5412, 0x541C)
"""TIOCSTI types into somebody's terminal; TIOCLINUX pastes into it."""
PERSONALITIES = (0, 0xFFFFFFFF)
"""Plain Linux, and the question which one it is."""
FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, INET, INET6, NETLINK. Not AF_VSOCK, which no network namespace holds back, nor the
kernel's little-used ones."""

Numbers = tuple[int | None, int | None]

SET_ID_BITS = 0o6000
"""S_ISUID and S_ISGID: in a writable mount such a file would be one on the host."""
MAKES_A_FILE = 0x40 | 0x400000
"""O_CREAT and O_TMPFILE, with which alone `open` looks at its mode."""

# x86_64, aarch64; None where the architecture has no such call
CLONE: Numbers = (56, 220)
IOCTL: Numbers = (16, 29)
PERSONALITY: Numbers = (135, 92)
SOCKETS: tuple[Numbers, ...] = ((41, 198), (53, 199))  # socket, socketpair
MODES: dict[str, tuple[Numbers, int]] = {  # and which argument the mode is
    "chmod": ((90, None), 1),
    "fchmod": ((91, 52), 1),
    "fchmodat": ((268, 53), 2),
    "fchmodat2": ((452, 452), 2),
    "creat": ((85, None), 1),
    "mknod": ((133, None), 1),
    "mknodat": ((259, 33), 2),
}
OPENS: dict[str, tuple[Numbers, int, int]] = {  # flags, mode
    "open": ((2, None), 1, 2),
    "openat": ((257, 56), 2, 3),
}

MODE_IN_MEMORY: dict[str, Numbers] = {"openat2": (437, 437)}  # ENOSYS

MISSING: dict[str, Numbers] = {  # ENOSYS: programs ask, and do without
    "clone3": (435, 435),  # its flags lie in memory, where no filter can look
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}

DENIED: dict[str, Numbers] = {  # EPERM
    # namespaces and mounts: the way out, or a new surface to find it
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # other processes' memory and descriptors
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # the kernel's keys: one ring for all of a uid, whatever its namespaces
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # large surfaces, again and again the first step of an escape
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    # files by handle: past every mount
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # the machine itself
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # leftovers that nobody calls
    "modify_ldt": (154, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
}


class Program:
    """Instructions; each of our rules is a block that ends in a `ret` or is jumped over."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, int, int]] = []

    def load(self, offset: int) -> None:
        self.code.append((LOAD, 0, 0, offset))

    def ret(self, action: int) -> None:
        self.code.append((RETURN, 0, 0, action))

    def ret_if(self, test: int, value: int, action: int) -> None:
        self.code.append((test, 0, 1, value))
        self.ret(action)

    def ret_unless(self, test: int, value: int, action: int) -> None:
        self.code.append((test, 1, 0, value))
        self.ret(action)

    def on_call(self, number: int, block: Program) -> None:
        """Run `block`, which must end in a `ret`, for this system call."""
        self.code.append((IF_EQUAL, 0, len(block.code), number))
        self.code += block.code

    def binary(self) -> bytes:
        return b"".join(struct.pack("<HBBI", *instruction) for instruction in self.code)


def argument(n: int) -> int:
    return ARGUMENTS + 8 * n


def build(machine: str, *, kind: Kind = "") -> bytes:
    """The filter for `machine`, as `struct sock_filter[]`.

    With `set-id` files may be given set-id bits: for a container whose root installs packages. With
    `branch` a process that has the capability may `chroot`: for a kernel that can be branched.
    """
    set_id = kind == "set-id"
    which = list(MACHINES).index(machine)
    program = Program()
    program.load(ARCH)
    program.ret_unless(IF_EQUAL, MACHINES[machine], KILL_PROCESS)
    program.load(NUMBER)
    if machine == "x86_64":  # its second set of system calls has other numbers: past the list
        program.ret_if(IF_AT_LEAST, X32_BIT, KILL_PROCESS)
    for numbers, block in rules() + ([] if set_id else set_id_rules()):
        if (number := numbers[which]) is not None:
            program.on_call(number, block)
    missing = MISSING if set_id else MISSING | MODE_IN_MEMORY
    for table, error in ((missing, ENOSYS), (DENIED, EPERM)):
        for name, numbers in table.items():
            if (number := numbers[which]) is not None and (name, kind) != ("chroot", "branch"):
                program.ret_if(IF_EQUAL, number, ERRNO | error)
    program.ret(ALLOW)
    return program.binary()


def rules() -> list[tuple[Numbers, Program]]:
    """The calls that depend on an argument."""
    clone, ioctl, personality, sockets = Program(), Program(), Program(), Program()
    clone.load(argument(0))
    clone.ret_if(IF_ANY_BIT, NEW_NAMESPACES, ERRNO | EPERM)
    clone.ret(ALLOW)
    ioctl.load(argument(1))
    for request in TERMINAL_TRICKS:
        ioctl.ret_if(IF_EQUAL, request, ERRNO | EPERM)
    ioctl.ret(ALLOW)
    personality.load(argument(0))
    for kind in PERSONALITIES:
        personality.ret_if(IF_EQUAL, kind, ALLOW)
    personality.ret(ERRNO | EPERM)
    sockets.load(argument(0))
    for family in FAMILIES:
        sockets.ret_if(IF_EQUAL, family, ALLOW)
    sockets.ret(ERRNO | EAFNOSUPPORT)
    return [
        (CLONE, clone),
        (IOCTL, ioctl),
        (PERSONALITY, personality),
        *((numbers, sockets) for numbers in SOCKETS),
    ]


def set_id_rules() -> list[tuple[Numbers, Program]]:
    """The calls that give a file its mode."""
    found = [(numbers, _no_set_id(mode)) for numbers, mode in MODES.values()]
    for numbers, flags, mode in OPENS.values():
        block = Program()
        block.load(argument(flags))
        block.ret_unless(IF_ANY_BIT, MAKES_A_FILE, ALLOW)
        block.code += _no_set_id(mode).code
        found.append((numbers, block))
    return found


def _no_set_id(mode: int) -> Program:
    """EPERM if the argument `mode` has a set-id bit."""
    block = Program()
    block.load(argument(mode))
    block.ret_if(IF_ANY_BIT, SET_ID_BITS, ERRNO | EPERM)
    block.ret(ALLOW)
    return block


def main() -> None:
    here = Path(__file__).parent
    for machine in MACHINES:
        for kind in get_args(Kind):
            name = f"{machine}+{kind}" if kind else machine
            (here / f"{name}.bpf").write_bytes(build(machine, kind=kind))


if __name__ == "__main__":
    main()
