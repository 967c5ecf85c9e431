"""Keeps a zygote: `python -m lis_kernel.sandbox.warden FOLDER [PACKAGE...]`.

One process per user and image, started by the first sandbox that wants it (`berth.py`) and
ended when none was wanted for a while. It holds the jail in which the zygote forks sandboxes
(`guest/zygote.py`), passes their owners' sockets on to it, and stays connected to each owner: when
one is gone, however that came, it removes what the owner left. What a sandbox may do is not its
business, and nothing in a sandbox can reach it: no socket of its is in the jail but the zygote's,
which no fork keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from lis_kernel.errors import LisKernelError, SandboxUnavailable
from lis_kernel.sandbox import image, jail
from lis_kernel.sandbox.keeper import Keeper
from lis_kernel.sandbox.launch import GUEST_INSIDE, last_words
from lis_kernel.sandbox.network import CA, Network
from lis_kernel.sandbox.reaper import LABEL
from lis_kernel.sandbox.state import StateDir, new_folder

__all__ = ["IDLE_SECONDS", "READY_SECONDS", "SOCKET", "Warden", "main"]

SOCKET = "s"
"""In the folder that the warden is told: where it listens."""
IDLE_SECONDS = 600.0
"""It ends when there was no sandbox for so long; `LIS_ZYGOTE_SECONDS` sets it."""
READY_SECONDS = 60.0
BACKLOG = 4096
FOLDER = re.compile(r"/.*/[0-9a-f]{8}")
"""What an owner may say that its sandbox's folder is: the last thing before that is removed."""
PATH_BYTES = 1024


class Jail:
    """The bubblewrap jail with the zygote in it."""

    def __init__(self, folder: Path, packages: list[str]) -> None:
        built = image.find()
        if built is None:
            raise SandboxUnavailable("the image has not been built")
        bwrap = jail.find_bwrap()
        self.state = StateDir(new_folder(folder))
        etc = self.state.root / "etc"
        self.state.record(
            {"id": self.state.name, "backend": "zygote (its jail)", "owner": os.getpid()}
            | {"created": time.time(), "ttl": None}
        )
        jail.write_etc(etc)
        (etc / CA).touch()  # stands there for what a sandbox is given
        (etc / CA).chmod(0o644)
        sources = jail.sources(built, bwrap, etc)
        self.keeper = Keeper(self.state.root, 0, 1 << 20, sources)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = self.state.root / "zygote.log"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            asyncio.run(self.keeper.start())
            if self.keeper.mode == "none":
                raise SandboxUnavailable("there is no namespace for it (util-linux)")
            command = jail.command(bwrap, built, self.keeper.path, [], Network("none"), shared=True)
            program = [f"{image.PREFIX}/bin/python", f"{GUEST_INSIDE}/zygote.py"]
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*self.keeper.prefix, *command, *program, str(theirs.fileno()), *packages],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={"PATH": os.environ.get("PATH", os.defpath), LABEL: self.state.name},
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    start_new_session=True,
                )
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None  # or there is no jail
        return self._process

    def wait_ready(self) -> None:
        """Raises: SandboxUnavailable: the zygote cannot make sandboxes here; says why."""
        self.control.settimeout(READY_SECONDS)
        try:
            word = self.control.recv(4096).decode("utf-8", "replace")
        except OSError as error:
            word = str(error)
        if word != "ready":
            self.process.kill()
            self.process.wait(5)
            raise SandboxUnavailable(word or last_words(self.log) or "it ended at once")
        self.control.settimeout(None)

    def close(self) -> None:
        """End the jail with every sandbox in it, and remove its traces. May be called twice."""
        self.control.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self.state.remove()
        self.keeper.close()


class Warden:
    """Serves owners until there are none.

    Args:
        folder: where its socket is made; private to this user.
        prison: the jail; the caller closes it.
    """

    def __init__(self, folder: Path, prison: Jail, idle: float = IDLE_SECONDS) -> None:
        self.path = folder / SOCKET
        self.jail = prison
        self.idle = idle
        self._owners: dict[socket.socket, str] = {}
        self._reaping: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._listener.bind(str(self.path))
        self.path.chmod(0o600)
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        self._made = self.path.stat().st_ino

    def run(self) -> None:
        """Serve, until the zygote has ended or nobody wanted it for `idle` seconds."""
        ended = os.pidfd_open(self.jail.process.pid)
        self._selector.register(ended, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        alone = time.monotonic()
        while True:
            if self._owners:
                alone = time.monotonic()
            elif time.monotonic() >= alone + self.idle:
                return
            wait = None if self._owners and not self._reaping else min(self.idle, 5.0)
            for key, _ in self._selector.select(wait):
                if key.fileobj == ended:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._hear(key.fileobj)
            self._reaping = [child for child in self._reaping if child.poll() is None]
            if not self._owners and not self._is_found():
                return

    def close(self) -> None:
        """Listen no more."""
        if self._is_found():
            self.path.unlink(missing_ok=True)
        self._listener.close()

    def _is_found(self) -> bool:
        """Whether the socket in our place is ours still."""
        try:
            return self.path.stat().st_ino == self._made
        except OSError:
            return False

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                self._owners[connection] = ""
                self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection: socket.socket) -> None:
        """An owner says its sandbox's folder, hands over the socket for it, or is gone."""
        try:
            message, descriptors, _, _ = socket.recv_fds(connection, PATH_BYTES, 1)
        except OSError:
            message, descriptors = b"", []
        folder = os.fsdecode(message)
        if not FOLDER.fullmatch(folder):
            self._selector.unregister(connection)
            connection.close()
            self._remove(self._owners.pop(connection))
        else:
            self._owners[connection] = folder
            if descriptors:
                with contextlib.suppress(OSError):  # it has ended: the owner sees its socket's end
                    socket.send_fds(self.jail.control, [b"fork"], descriptors)
        for fd in descriptors:
            os.close(fd)

    def _remove(self, owned: str) -> None:
        """Remove what the owner of the sandbox in the folder `owned` left, if it did."""
        folder = Path(owned)
        if owned and (folder.exists() or folder.with_name(f".{folder.name}").exists()):
            reaper = Path(__file__).with_name("reaper.py")
            command = [sys.executable, "-I", "-S", str(reaper), str(folder)]
            self._reaping.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/"))


def main(folder: str, *packages: str) -> None:
    """Start the zygote, say `ready` or what is wrong on standard output, and serve."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one for each sandbox
    idle = float(os.environ.get("LIS_ZYGOTE_SECONDS") or IDLE_SECONDS)
    prison = None
    try:
        prison = Jail(Path(folder), list(packages))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(0))
        prison.wait_ready()
        warden = Warden(Path(folder), prison, idle)
    except (LisKernelError, OSError) as error:
        if prison is not None:
            prison.close()
        os.write(1, f"{error}".encode())
        sys.exit(1)
    os.write(1, b"ready")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        warden.run()
    finally:
        warden.close()
        prison.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
