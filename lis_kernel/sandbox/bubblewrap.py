"""The `bubblewrap` backend: one `bwrap` jail a sandbox, no daemon, no root needed.

All namespaces are unshared, so there is no network but a loopback of its own (unless the policy is
`open`; under an allow-list a proxy's unix socket is the way out); the file system is an explicit
read-only list plus a few writable folders; capabilities are dropped. The kernel is reached over
unix sockets in a bind-mounted folder. A seccomp filter and Landlock stand behind these walls,
control groups and a disk of its own bound what it takes (`sandbox/walled.py`). It shares the host's
kernel: see SECURITY notes in the README for what that means.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError, SandboxError, SandboxUnavailable
from lis_kernel.protocols import Progress
from lis_kernel.sandbox import image, image_build, mounts, rootfs, rootfs_python, seccomp
from lis_kernel.sandbox.jail import DISK, command, find_bwrap, sources, write_etc
from lis_kernel.sandbox.keeper import Keeper
from lis_kernel.sandbox.launch import GUEST_INSIDE, START_SECONDS, GuestProcess, launch
from lis_kernel.sandbox.walled import WalledSandbox

__all__ = ["BubblewrapSandbox", "check", "find_bwrap", "image_for"]


class BubblewrapSandbox(WalledSandbox):
    """A cold start per sandbox; the reference and fallback of the other backends."""

    backend: ClassVar[str] = "bubblewrap"
    _image: image.Image | None = None
    _rootfs: rootfs.Rootfs | None = None
    _compile = False

    async def start(self) -> None:
        """Prepare the jail.

        Raises:
            ConfigError: a mount or the rootfs is wrong.
            SandboxUnavailable: no bwrap, or the system forbids user namespaces.
        """
        self._mounts = mounts.parse(self.config.mounts)
        self._bwrap = find_bwrap()
        if self._image is None:
            self._rootfs, self._image = await image_for(self.config.rootfs, self.say, self.progress)
        await super().start()

    def _sources(self) -> dict[str, Path]:
        assert self._image is not None  # start came first
        tree = self._rootfs
        return {
            **sources(self._image, self._bwrap, self.folder / "etc"),
            **({"rootfs": tree.root, "rootfs-etc": tree.etc} if tree else {}),
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
        write_etc(self._public)

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
            at = self.keeper.path
            jail = command(
                self._bwrap, self._image, at, fds, self.network, self._mounts, self._rootfs
            )
            return await launch(
                [*self._enter(), *jail],
                self.state,
                python=f"{image.PREFIX}/bin/python",
                guest=GUEST_INSIDE,
                run_inside="/run/lis",
                boot=boot,
                env=self._environment(),
                pass_fds=fds,
                program="compile.py" if self._compile else "boot.py",
                seconds=COMPILE_SECONDS if self._compile else START_SECONDS,
            )

    @staticmethod
    def _explained(error: SandboxError) -> SandboxError:
        reason = refusal(str(error))
        return SandboxUnavailable(reason) if reason else error

    def describe(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {**super().describe()}
        if self.config.mounts:
            facts["mounts"] = list(self.config.mounts)
        if self._rootfs is not None:
            facts["rootfs"] = self._rootfs.facts()
        if built := self._image:
            packages = list(built.packages)
            facts.update(image=built.digest, python=built.python, packages=packages)
            facts.update(seccomp=seccomp.digest(), landlock_abi=landlock_abi())
        return facts


OLDEST_LANDLOCK = 2
OURS = ("image", "python", "guest", "bwrap", "rootfs", "rootfs-etc")
COMPILE_SECONDS = 600.0


async def image_for(
    root: Path | None,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
    *,
    again: bool = False,
) -> tuple[rootfs.Rootfs | None, image.Image]:
    """What a sandbox is made of; built first where it must be.

    `root` is `SandboxConfig.rootfs`; it is read anew with `again`.

    Raises:
        ConfigError: no sandbox can stand on this root.
        SandboxUnavailable: the image cannot be built.
    """
    if root is None:
        return None, image.find() or await image_build.prepare(say, progress)
    tree = await asyncio.to_thread(rootfs.prepare, root, say, again=again)

    async def trial(tried: image.Image, target: Path | None) -> None:
        limits = Limits(cpus=os.cpu_count() or 1)
        sandbox = BubblewrapSandbox(SandboxConfig(), limits)
        sandbox._image, sandbox._rootfs, sandbox._compile = tried, tree, target is not None
        try:
            await sandbox.start()
            await sandbox.launch_kernel()
            if target is not None:
                sandbox.collect("/testbed/output", target, limits.collect_bytes)
        finally:
            await sandbox.stop()

    return tree, await rootfs_python.choose(tree, trial, say, progress)


def _closed(path: Path, writable: bool = False) -> bool:
    """Whether a uid that owns nothing on this host cannot use it; looks at its top alone."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # what is missing is told by the start
    wanted = (0o5 if stat.S_ISDIR(mode) else 0o4) | (0o2 if writable else 0)
    return mode & wanted != wanted


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
