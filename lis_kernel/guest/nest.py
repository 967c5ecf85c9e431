"""The inner wall: namespaces and mounts of one sandbox, inside the zygote's jail.

`zygote.py` calls `unshare` in a fork of its own, then `build` in the process that became PID 1 of
the new namespaces, and `lock` before anything of the model's. The jail around it (`bwrap`'s work)
already has a read-only root without the host's files, without a network and without capabilities
outside of it: here each sandbox is only set apart from its siblings and given a disk of its own.
Nothing is looked up in a place where a sandbox could write.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE = 1024, 4096, 16384, 1 << 18
MNT_DETACH = 2
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
USER = 1000
DISK = "/mnt"
"""Where the disk stands while it is made."""

BOUNDS = {
    # not even one below: the filter forbids it too, where there is one for this machine
    "max_user_namespaces": b"0",
    # the siblings have one uid on the host, and what it may have is for all of them
    "max_inotify_instances": b"32",
    "max_inotify_watches": b"32768",
}

LIBC = ctypes.CDLL(None, use_errno=True)


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


def unshare():
    """Leave the siblings' namespaces; whatever is forked from now on is in the new ones.

    Raises OSError: the system, or the jail, does not let namespaces nest.
    """
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    if os.path.exists("/proc/self/ns/cgroup"):
        flags |= CLONE_NEWCGROUP
    call("unshare", LIBC.unshare(flags))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{USER} {USER} 1"),
        ("gid_map", f"{USER} {USER} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)


def build(disk_bytes, inodes, places, files):
    """Make the sandbox's disk and mounts; an open descriptor of the disk.

    `places` maps a folder of the disk to where it stands; `files` maps the absolute path of an
    existing file to a descriptor of what shall stand there instead, which is closed. Run as PID 1
    of the new namespaces.

    Raises OSError: a mount was refused; the caller must not go on.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    safe = MS_NOSUID | MS_NODEV
    # the jail's own proc and terminals are covered, and no power is left to uncover them
    mount("proc", "/proc", "proc", safe | MS_NOEXEC)
    if os.path.exists("/proc/keys"):  # the names of its owner's keys, which no namespace hides
        mount("/dev/null", "/proc/keys", None, MS_BIND)
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666")
    if files:
        mount("lis", DISK, "tmpfs", safe, "size=16m,mode=0755")
        for number, (path, given) in enumerate(files.items()):
            copy = f"{DISK}/{number}"
            with open(given, "rb") as file:
                write(copy, file.read())
            mount(copy, path, None, MS_BIND)
            mount(None, path, None, MS_BIND | 32 | MS_RDONLY | safe)
        call("umount", LIBC.umount2(DISK.encode(), MNT_DETACH))
    options = f"size={disk_bytes},nr_inodes={inodes},mode=0700"
    mount("lis", DISK, "tmpfs", safe | MS_NOATIME, options)
    disk = os.open(DISK, os.O_RDONLY | os.O_DIRECTORY)
    for name, place in places.items():
        os.mkdir(f"{DISK}/{name}", 0o700)
        mount(f"{DISK}/{name}", place, None, MS_BIND)
    call("umount", LIBC.umount2(DISK.encode(), MNT_DETACH))
    loopback()
    for name, most in BOUNDS.items():
        write(f"/proc/sys/user/{name}", most)
    return disk


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


def lock(landlock, seccomp):
    """No power is left, for good; then Landlock and the filter.

    Raises OSError: something is not locked; the caller must not go on.
    """
    drop()
    if landlock:
        from guest import landlock as rules

        rules.restrict(**landlock)
    if seccomp:
        from guest import filter

        filter.install(seccomp)
