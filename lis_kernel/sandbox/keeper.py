"""One small process a sandbox: holds its disk and its place in the file system, and outlives us.

Used by the backends that start processes. The keeper (`keeper.sh`, a shell of about 1 MB) sits in a
mount namespace with a disk of a bounded size and with the host folders that the jail needs. The
jail is started in that namespace; run by root, as an unprivileged uid of the sandbox's own. We
reach the disk through an open folder: it ends with us, and nothing is ever mounted on the host.
Once we are gone, however that came, the keeper removes what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lis_kernel.errors import SandboxError, SandboxLost
from lis_kernel.sandbox import disk
from lis_kernel.sandbox.reaper import LABEL

__all__ = ["Keeper", "Mode", "uid_of"]

log = logging.getLogger(__name__)

Mode = Literal["root", "user", "none"]
"""Whose mount namespace: real root's, a user namespace's, or none at all."""
Disk = Literal["loop", "tmpfs", "none"]
"""A file system in a file, files in memory, or just a folder without a bound."""
HERE = Path(__file__).parent
VIEWS = ("/mnt", "/media", "/srv", "/opt")
"""Where the keeper's namespace may hold the disk and the sources: it hides what was there."""
UIDS = 1_900_000_000
"""First uid of ours on the host: a range that no distribution hands out."""
UID_BITS = 27
"""The sandbox's id, a number of so many bits, is added to it: no two sandboxes share a uid."""
SECONDS = 20.0
FILES = "files"
"""Folder of empty files over which the sources that are files are bound."""


def uid_of(name: str) -> int:
    """The host's uid for the processes of sandbox `name`, where root runs it."""
    return UIDS + int(name, 16)


class Keeper:
    """The keeper of the sandbox `folder`, and what it came to hold.

    Args:
        folder: the sandbox's folder; need not exist before `start`.
        disk_bytes: size of the disk; one inode for each 16 KiB of it.
        tmpfs_bytes: size of a disk that lies in memory.
        sources: name → host folder or file that the jail will bind; see `path`.
        namespace: False for a keeper that only cleans up.
        own_uid: False to run the sandbox's processes as root where root starts them.
    """

    def __init__(
        self,
        folder: Path,
        disk_bytes: int,
        tmpfs_bytes: int,
        sources: Mapping[str, Path],
        *,
        namespace: bool = True,
        own_uid: bool = True,
    ) -> None:
        self.folder = folder
        self.sources = dict(sources)
        self._sizes = {"loop": disk_bytes, "tmpfs": tmpfs_bytes, "none": disk_bytes}
        there = {name for name, source in self.sources.items() if source.exists()}
        self._files = {name for name in there if not self.sources[name].is_dir()}
        self._own_uid = own_uid
        self._closed = False
        hidden = [folder.resolve(), *(source.resolve() for source in self.sources.values())]
        self._view = _view(hidden)
        self.mode: Mode = "none"
        self.disk: Disk = "none"
        self.uid: int | None = None
        """The host's uid of the sandbox's processes, where that is not ours."""
        self.files: Path | None = None
        """The disk, as we see it; None if there is none of a bounded size."""
        self._sizes = {"loop": disk_bytes, "tmpfs": tmpfs_bytes, "none": disk_bytes}
        self._fd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._queue: list[tuple[Mode, Disk]] = [("none", "none")]
        if namespace:
            self._queue = _possible()
        if self._view is None:
            self._queue = self._queue[-1:]
        self._spawn()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def disk_bytes(self) -> int:
        """Size of the disk that came to be."""
        return self._sizes[self.disk]

    def _spawn(self) -> None:
        """Start the process in the best way left. It waits for `start` before it does a thing."""
        self.mode, self.disk = self._queue[0]
        self.uid = uid_of(self.folder.name) if self.mode == "root" and self._own_uid else None
        unshare = {
            "root": ["unshare", "--mount"],
            "user": ["unshare", "--user", "--map-root-user", "--mount"],
            "none": [],
        }[self.mode]
        files = (HERE / "keeper.sh", self.folder, sys.executable, HERE / "reaper.py")
        self._process = subprocess.Popen(
            [*unshare, "sh", *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), LABEL: self.folder.name},
            cwd="/",
            start_new_session=True,
        )

    async def start(self) -> None:
        """Let it begin, now that the folder is there; with less where this system refuses more.

        Raises:
            SandboxError: not even a keeper without a namespace can be started.
        """
        while True:
            try:
                await asyncio.wait_for(asyncio.to_thread(self._go), SECONDS)
                break
            except OSError as error:
                if self._closed:
                    raise SandboxLost("the sandbox was stopped while it started") from error
                log.info("no keeper of kind %s, %s here: %s", self.mode, self.disk, error)
                failed = self._process
                self._queue.pop(0)
                if self._queue:  # for this sandbox alone: the next one tries the best again
                    self._spawn()
                _end(failed)  # after the next one began: never is there no keeper
                if not self._queue:
                    why = f"the sandbox's keeper cannot be started: {error}"
                    raise SandboxError(why) from error
        if self.mode != "none":
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._fd = os.open(f"/proc/{self.pid}/root{self._view}/disk", flags)
            # by our pid, not by `self`: other programs of this user may connect to the sockets
            self.files = Path(f"/proc/{os.getpid()}/fd/{self._fd}")
            if self.uid is not None:
                os.chown(self._fd, self.uid, self.uid)

    def _go(self) -> None:
        """Tell the keeper what to mount and wait until it has.

        Raises:
            OSError: with its last words.
        """
        process = self._process
        assert process is not None and process.stdin and process.stdout and process.stderr
        fstab, image = self.folder / "fstab", self.folder / "disk.img"
        if self.disk == "loop":
            disk.make(image, self._sizes["loop"])
        if self.mode != "none":
            if self._files:
                places = self.folder / FILES
                places.mkdir(mode=0o755, exist_ok=True)
                for name in self._files:
                    (places / name).touch()
            fstab.write_text("".join(f"{line}\n" for line in self._fstab(image)), "utf-8")
        try:
            process.stdin.write(b"go\n")
            process.stdin.flush()
            if process.stdout.readline() != b"ready\n":
                raise OSError(process.stderr.read(2000).decode("utf-8", "replace").strip())
        finally:
            fstab.unlink(missing_ok=True)
            image.unlink(missing_ok=True)  # it lives on for as long as it is mounted

    def _fstab(self, image: Path) -> list[str]:
        size = self._sizes["tmpfs"]
        inodes = size // disk.BYTES_PER_INODE + 256
        safe = "nosuid,nodev,noatime,X-mount.mkdir"
        lines = [f"lis {self._view} tmpfs size=256k,mode=0755,{safe}"]
        if self.disk == "loop":
            lines.append(f"{_escaped(image)} {self._view}/disk ext4 loop,{safe}")
        else:
            lines.append(
                f"lis {self._view}/disk tmpfs size={size},nr_inodes={inodes},mode=0700,{safe}"
            )
        folders = {name: source for name, source in self.sources.items() if name not in self._files}
        if self._files:
            folders[FILES] = self.folder / FILES
        for name, source in folders.items():
            lines.append(f"{_escaped(source)} {self._view}/{name} none rbind,X-mount.mkdir")
        for name in sorted(self._files):
            lines.append(f"{_escaped(self.sources[name])} {self._view}/{FILES}/{name} none bind")
        return lines

    def path(self, name: str) -> Path:
        """Where the jail, started behind `prefix`, finds the source `name`, or `disk`."""
        if self.mode != "none" and self._view is not None:
            return self._view / FILES / name if name in self._files else self._view / name
        return self.folder if name == "disk" else self.sources[name]

    @property
    def prefix(self) -> list[str]:
        """Runs what follows in the keeper's namespace and, for root, as the sandbox's own uid."""
        enter = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt"]
        if self.mode == "root":
            if self.uid is None:
                return [*enter, "--"]
            drop = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
            return [*enter, "--", "setpriv", *drop, "--"]
        if self.mode == "user":
            return [*enter, f"--user=/proc/{self.pid}/ns/user", "--preserve-credentials", "--"]
        return []

    def close(self) -> None:
        """End it without its clean-up: the caller did that. May be called twice."""
        self._closed = True
        process, self._process = self._process, None
        _end(process)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self.files = -1, None


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a keeper: whoever does so has removed what it would, or started another."""
    if process is None:
        return
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)  # an ended namespace writes its disk out first
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _view(sources: list[Path]) -> Path | None:
    """A folder of this system that holds none of the sources."""
    for name in VIEWS:
        path = Path(name)
        if path.is_dir() and not any(source.is_relative_to(path) for source in sources):
            return path
    return None


def _escaped(path: Path) -> str:
    """As fstab(5) wants it."""
    text = str(path)
    for char in "\\ \t\n":
        text = text.replace(char, f"\\{ord(char):03o}")
    return text


def _possible() -> list[tuple[Mode, Disk]]:
    kinds: list[tuple[Mode, Disk]] = [("none", "none")]
    have = {tool for tool in ("unshare", "nsenter", "mount", "setpriv") if shutil.which(tool)}
    if {"unshare", "nsenter", "mount"} <= have:
        kinds.insert(0, ("user", "tmpfs"))
        if os.geteuid() == 0 and "setpriv" in have:
            kinds.insert(0, ("root", "tmpfs"))
            if disk.tools():
                kinds.insert(0, ("root", "loop"))
    return kinds
