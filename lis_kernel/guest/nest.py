"""The inner wall: namespaces and mounts of one sandbox, inside the zygote's jail.

`zygote.py` forks by `fork_apart`; the child is PID 1 of new namespaces and calls `settle` before
it knows for whom, then `build`, and `lock` before anything of the model's. The jail around it
(`bwrap`'s work) already has a read-only root without the host's files, without a network and
without capabilities outside of it: here each sandbox is only set apart from its siblings and given
a disk of its own. Nothing is looked up in a place where a sandbox could write.
"""

import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct

X86 = platform.machine() == "x86_64"
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE = 32, 1024, 4096, 16384, 1 << 18
MNT_DETACH = 2
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE, CAP_SYS_CHROOT = 1, 18
CLONE, SETNS = (56, 308) if X86 else (220, 268)
OPEN_TREE, MOVE_MOUNT = 428, 429
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
AT_RECURSIVE, AT_FDCWD = 0x8000, -100
USER = 1000
DISK = "/mnt"
"""Where the disk stands while it is made."""
BRANCHES = "/branches"
"""Where the views of live branches stand, `0` to `15`."""
MOST_BRANCHES = 16

BOUNDS = {
    # not even one below: the filter forbids it too, where there is one for this machine
    "max_user_namespaces": b"0",
    # the siblings have one uid on the host, and what it may have is for all of them
    "max_inotify_instances": b"32",
    "max_inotify_watches": b"32768",
}

LIBC = ctypes.CDLL(None, use_errno=True)
PYTHON = ctypes.PyDLL(None, use_errno=True)
"""As LIBC, with the interpreter's lock held: for a call that comes back twice."""


def call(what, result):
    """Raises OSError, with `what` in it, for a call of libc that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source, target, kind=None, flags=0, options=None):
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    call(f"mount {target}", LIBC.mount(*texts, ctypes.c_ulong(flags), data))


def fork_apart():
    """As `os.fork`; the child is PID 1 of new namespaces, and none of its siblings' is left to it.

    One fork instead of two, `unshare` between them. There must be one thread alone. The C library
    is not told, and to it the child's thread has its parent's number: nothing here asks for it.

    Raises OSError: the system, or the jail, does not let namespaces nest, or there are too many.
    """
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    PYTHON.PyOS_BeforeFork()
    pid = PYTHON.syscall(ctypes.c_long(CLONE), ctypes.c_ulong(flags | signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        PYTHON.PyOS_AfterFork_Child()
    else:
        PYTHON.PyOS_AfterFork_Parent()
    return call("clone", pid)


def settle():
    """What every sandbox's PID 1 does first, whatever the sandbox shall be.

    Raises OSError: a mount was refused; the caller must not go on.
    """
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{USER} {USER} 1"),
        ("gid_map", f"{USER} {USER} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)

    mount(None, "/", None, MS_REC | MS_PRIVATE)
    safe = MS_NOSUID | MS_NODEV
    # the jail's own proc and terminals are covered, and no power is left to uncover them
    mount("proc", "/proc", "proc", safe | MS_NOEXEC)
    if os.path.exists("/proc/keys"):  # the names of its owner's keys, which no namespace hides
        mount("/dev/null", "/proc/keys", None, MS_BIND)
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666")
    loopback()
    for name, most in BOUNDS.items():
        write(f"/proc/sys/user/{name}", most)


def build(disk_bytes, inodes, places, files, branches=False):
    """Make the sandbox's disk and mounts, once it is settled; an open descriptor of the disk.

    `places` maps a folder of the disk to where it stands; `files` maps the absolute path of an
    existing file to a descriptor of what shall stand there instead, which is closed.

    Raises OSError: a mount was refused; the caller must not go on.
    """
    safe = MS_NOSUID | MS_NODEV
    if os.path.exists("/proc/self/ns/cgroup"):  # now that it is in its control group
        call("unshare", LIBC.unshare(CLONE_NEWCGROUP))
    if files:
        mount("lis", DISK, "tmpfs", safe, "size=16m,mode=0755")
        for number, (path, given) in enumerate(files.items()):
            copy = f"{DISK}/{number}"
            with open(given, "rb") as file:
                write(copy, file.read())
            mount(copy, path, None, MS_BIND)
            mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | safe)
        call("umount", LIBC.umount2(DISK.encode(), MNT_DETACH))
    disk = make_disk(disk_bytes, inodes, places)
    if branches:
        mount("lis", BRANCHES, "tmpfs", safe, "size=64k,mode=0755")
        for number in range(MOST_BRANCHES):
            os.mkdir(f"{BRANCHES}/{number}", 0o755)
        mount(None, BRANCHES, None, MS_BIND | MS_REMOUNT | MS_RDONLY | safe)
    return disk


def make_disk(disk_bytes, inodes, places):
    """A new disk, bound to its places; an open descriptor of it."""
    options = f"size={disk_bytes},nr_inodes={inodes},mode=0700"
    mount("lis", DISK, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOATIME, options)
    disk = os.open(DISK, os.O_RDONLY | os.O_DIRECTORY)
    for name, place in places.items():
        os.mkdir(f"{DISK}/{name}", 0o700)
        mount(f"{DISK}/{name}", place, None, MS_BIND)
    call("umount", LIBC.umount2(DISK.encode(), MNT_DETACH))
    return disk


def enter(user, mounts):
    """Go into a sandbox's user and mount namespaces: their parent's user has every power there."""
    call("setns", LIBC.syscall(ctypes.c_long(SETNS), user, CLONE_NEWUSER))
    call("setns", LIBC.syscall(ctypes.c_long(SETNS), mounts, CLONE_NEWNS))


def make_view(mounts, number, disk_bytes, inodes, places):
    """Let the sandbox's `/branches/<number>` be all of its root, with a new disk; that, open.

    Run in its namespaces (`enter`). It sees nothing of this before it is finished, so there is
    nothing on the way that its processes could change.
    """
    call("unshare", LIBC.unshare(CLONE_NEWNS))
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    for place in (*places.values(), BRANCHES):
        call(f"umount {place}", LIBC.umount2(place.encode(), MNT_DETACH))
    disk = make_disk(disk_bytes, inodes, places)
    flags = ctypes.c_uint(OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC)
    tree = LIBC.syscall(ctypes.c_long(OPEN_TREE), AT_FDCWD, b"/", flags)
    call("open_tree", tree)
    call("setns", LIBC.syscall(ctypes.c_long(SETNS), mounts, CLONE_NEWNS))
    target = f"{BRANCHES}/{number}".encode()
    flags = ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH)
    moved = LIBC.syscall(ctypes.c_long(MOVE_MOUNT), tree, b"", AT_FDCWD, target, flags)
    call("move_mount", moved)
    os.close(tree)
    return disk


def remove_view(number):
    """The end of what `make_view` made. Run in the sandbox's namespaces."""
    LIBC.umount2(f"{BRANCHES}/{number}".encode(), MNT_DETACH)


def write(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o444)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def loopback():
    """Bring `lo` up: the only interface there is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def drop(keep=()):
    """Give up every power over these namespaces, for good, but for the capabilities `keep`.

    Raises OSError: they were not given up; the caller must not go on.
    """
    for number in range(64):
        there = LIBC.prctl(PR_CAPBSET_READ, number, 0, 0, 0)
        if there < 0 and ctypes.get_errno() == errno.EINVAL:
            break  # above the last one that this kernel knows
        if there:  # not if it was given up before: then we may not even ask
            result = LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
            call("capability bounding set", result)
    LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    mask = sum(1 << number for number in keep)
    halves = mask & 0xFFFFFFFF, mask >> 32
    effective_permitted_inheritable = [word for half in halves for word in (half, half, 0)]
    call("capset", LIBC.capset(header, struct.pack("6I", *effective_permitted_inheritable)))
    call("no_new_privs", LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    call("dumpable", LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))  # no ptrace by code of the same uid


def lock(landlock, seccomp, keep=()):
    """No power is left, for good, but for the capabilities `keep`; then Landlock and the filter.

    Raises OSError: something is not locked; the caller must not go on.
    """
    drop(keep)
    if landlock:
        from guest import landlock as rules

        rules.restrict(**landlock)
    if seccomp:
        from guest import filter

        filter.install(seccomp)
