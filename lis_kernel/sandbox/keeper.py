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
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, Protocol

from lis_kernel.errors import SandboxError, SandboxLost, SandboxUnavailable
from lis_kernel.sandbox import disk
from lis_kernel.sandbox.reaper import LABEL

__all__ = ["Keeper", "Mode", "Place", "uid_of"]

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
MARGIN = 0.5
"""Seconds that the keeper gives the owner to end the sandbox in time."""
NOT_AS_ROOT = (
    "a sandbox is never root on this host, and root cannot give it a mount namespace and a uid of "
    "its own here (that takes CAP_SYS_ADMIN, CAP_SETUID and util-linux): run `lis` as another user."
)
FILES = "files"
"""Folder of empty files over which the sources that are files are bound."""


def uid_of(name: str) -> int:
    """The host's uid for the processes of sandbox `name`, where root runs it."""
    return UIDS + int(name, 16)


class Place(Protocol):
    """Where a sandbox's files are and whose they are: a keeper, or a fork of the zygote."""

    @property
    def uid(self) -> int | None:
        """The host's uid of the sandbox's processes, where that is not ours."""

    @property
    def files(self) -> Path | None:
        """The disk, as we see it; None if there is none of a bounded size."""

    @property
    def disk(self) -> Disk: ...

    @property
    def disk_bytes(self) -> int:
        """Size of the disk that came to be."""


class Keeper:
    """The keeper of the sandbox `folder`, and what it came to hold.

    Args:
        folder: the sandbox's folder; need not exist before `start`.
        disk_bytes: size of the disk; one inode for each 16 KiB of it. 0 for one in memory.
        tmpfs_bytes: size of a disk that lies in memory.
        sources: name → host folder or file that the jail will bind; see `path`.
        owned: names of those in which the sandbox's own uid, where it has one, shall have the
            rights of their owner, see `idmap.py`.
        seconds: the sandbox's time to live; every process but the keeper is killed at its end.
        namespace: False for a keeper that only cleans up.
    """

    def __init__(
        self,
        folder: Path,
        disk_bytes: int,
        tmpfs_bytes: int,
        sources: Mapping[str, Path],
        *,
        owned: Collection[str] = (),
        seconds: float | None = None,
        namespace: bool = True,
    ) -> None:
        self.folder = folder
        self.sources = dict(sources)
        self._sizes = {"loop": disk_bytes, "tmpfs": tmpfs_bytes, "none": disk_bytes}
        there = {name for name, source in self.sources.items() if source.exists()}
        self._files = {name for name in there if not self.sources[name].is_dir()}
        self._owned = set(owned) & there
        self._seconds = seconds
        self._closed = False
        hidden = [folder.resolve(), *(source.resolve() for source in self.sources.values())]
        self._view = _view(hidden)
        self.mode: Mode = "none"
        self.disk: Disk = "none"
        self.uid: int | None = None
        """The host's uid of the sandbox's processes, where that is not ours."""
        self.files: Path | None = None
        """The disk, as we see it; None if there is none of a bounded size."""
        self.not_owned: dict[str, str] = {}
        """Of `owned`, those which are bound as they are, and why."""
        self._fd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._queue: list[tuple[Mode, Disk]] = [("none", "none")]
        if namespace:
            self._queue = _possible(loop=disk_bytes > 0)
        if self._view is None:
            self._queue = [kind for kind in self._queue if kind[0] == "none"]
        if not self._queue:
            raise SandboxUnavailable(NOT_AS_ROOT)
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
        self.uid = uid_of(self.folder.name) if self.mode == "root" else None
        unshare = {
            "root": ["unshare", "--mount"],
            "user": ["unshare", "--user", "--map-root-user", "--mount"],
            "none": [],
        }[self.mode]
        files = (HERE / "keeper.sh", self.folder, sys.executable, HERE / "reaper.py")
        seconds = [] if self._seconds is None else [f"{self._seconds + MARGIN:.2f}"]
        self._process = subprocess.Popen(
            [*unshare, "sh", *map(str, files), *seconds],
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
                async with asyncio.timeout(SECONDS):
                    await asyncio.to_thread(self._go)
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
                    if os.geteuid() == 0:
                        raise SandboxUnavailable(f"{NOT_AS_ROOT} {why}") from error
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
            if self.uid is not None and self._owned:
                self.not_owned = self._bind_owned(self.uid)
        finally:
            fstab.unlink(missing_ok=True)
            image.unlink(missing_ok=True)  # it lives on for as long as it is mounted

    def _bind_owned(self, uid: int) -> dict[str, str]:
        """Raises: OSError: with the last words of `idmap.py`."""
        wanted = [[n, str(self.sources[n]), str(self.path(n))] for n in sorted(self._owned)]
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(HERE / "idmap.py"), str(self.pid), str(uid)],
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        if done.returncode:
            raise OSError(f"a mount cannot be made: {done.stderr.strip().rpartition(chr(10))[2]}")
        return dict(json.loads(done.stdout))

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
        later = self._owned if self.uid is not None else set()
        folders = {
            name: source
            for name, source in self.sources.items()
            if name not in self._files and name not in later and source.exists()
        }  # what is missing is told by the jail, which says for what it is needed
        if self._files:
            folders[FILES] = self.folder / FILES
        for name, source in folders.items():
            lines.append(f"{_escaped(source)} {self._view}/{name} none rbind,X-mount.mkdir")
        for name in sorted(self._files - later):
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
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its clock too
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


def real_root(uid_map: Path = Path("/proc/self/uid_map")) -> bool:
    """Whether we are the host's root; not so in a user namespace that calls somebody else 0."""
    if os.geteuid() != 0:
        return False
    try:
        return uid_map.read_text().split()[:2] == ["0", "0"]
    except OSError:
        return True


def _possible(loop: bool = True) -> list[tuple[Mode, Disk]]:
    """What may be tried here, the best first. For root never without a uid of the sandbox's own."""
    have = {tool for tool in ("unshare", "nsenter", "mount", "setpriv") if shutil.which(tool)}
    enough = {"unshare", "nsenter", "mount"} <= have
    if real_root():
        if not enough or "setpriv" not in have:
            return []
        loops: list[tuple[Mode, Disk]] = [("root", "loop")] if loop and disk.tools() else []
        return [*loops, ("root", "tmpfs")]
    return [("user", "tmpfs"), ("none", "none")] if enough else [("none", "none")]
