"""The host's hands on a sandbox's files: the sandbox's own methods, and the usual tools.

`files_out.py` runs each attempt with both. `Plain` is the canary: shutil and cat on the folder that
the guest writes, and a look before a copy where an attempt races against it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from lis_kernel.attacks.ground import Box, Ground, Outcome
from lis_kernel.errors import SandboxError

__all__ = [
    "ATTEMPTS",
    "NO_LINKS",
    "Hands",
    "Plain",
    "Taken",
    "Waits",
    "attempt",
    "hands",
    "refusal",
]

NO_LINKS = "each step is opened without following links"

WAIT_SECONDS = 0.4
"""A tool that takes longer would wait for ever."""
WINDOW = 0.0005
"""Seconds between a look and what is done then: a busy machine's."""
SETUP = """
import contextlib, os, stat, subprocess, threading, time
from ipykernel import get_connection_file
HOME, RUN = os.getcwd(), os.path.dirname(get_connection_file())
SECRET, OUTSIDE, MARKS, OWN = {secret!r}, {outside!r}, {marks!r}, "own"
def fresh():
    subprocess.run("chmod -R u+rwX output; rm -rf output d t one own", shell=True, cwd=HOME)
    os.chdir(HOME)
    os.mkdir("output")
"""


class Waits(Exception):
    """A tool does not come back; the text says which."""


@dataclass
class Taken:
    """What the host has after it took files out."""

    names: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    stolen: str = ""
    """Where the secret lies, if it does."""
    bytes: int = 0
    modes: list[int] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


class Hands:
    """The methods that the agent uses."""

    def __init__(self, ground: Ground, box: Box) -> None:
        self.ground = ground
        self.box = box
        self.marks = ground.folder / "marks"
        """Writable for everybody; what lies here was written outside the sandbox."""
        self.marks.mkdir(exist_ok=True)
        self.marks.chmod(0o777)
        self.given = ground.folder / "given"
        self.given.write_text("given")
        self.given_folder = ground.folder / "tree"
        (self.given_folder / "sub").mkdir(parents=True, exist_ok=True)
        (self.given_folder / "sub" / "three").write_text("given")

    async def fresh(self) -> None:
        """An empty output folder, and the names that attempts use."""
        outside = self.ground.folder / "outside"
        outside.mkdir(exist_ok=True)
        shutil.copy(self.ground.secret, outside / "secret")
        words = {"secret": self.ground.secret, "outside": outside, "marks": self.marks}
        setup = SETUP.format(**{name: str(path) for name, path in words.items()})
        await self.box.text(f"{setup}\nfresh()")

    async def cell(self, source: str) -> str:
        return await self.box.text(source, 25)

    async def restart_over(self, source: str) -> None:
        """Do this, then let the kernel be started again."""
        await self.cell(source)
        await self.box.cell("os.kill(os.getpid(), 9)")

    def marked(self, name: str) -> str:
        """Says where the mark is, if it is; and takes it away."""
        path = self.marks / name
        if not path.exists():
            return ""
        path.unlink()
        return f"the host wrote {path}"

    async def collect(self, limit: int = 1 << 30, checked: str = "") -> Taken:
        """Take the output folder out. `checked` is what `Plain` looks at first."""
        with tempfile.TemporaryDirectory(dir=self.ground.folder) as folder:
            target, started = Path(folder) / "files", time.monotonic()
            taken = await asyncio.to_thread(self._collect, target, limit, checked)
            taken.seconds = time.monotonic() - started
            await asyncio.to_thread(self._look, target, taken)
        return taken

    def _collect(self, target: Path, limit: int, checked: str) -> Taken:
        names, refused = self.box.sandbox.collect("/testbed/output", target, limit)
        return Taken(names, refused)

    def _look(self, target: Path, taken: Taken) -> None:
        for place, _, names in os.walk(target):
            for name in names:
                path = Path(place, name)
                info = path.lstat()
                if stat.S_ISREG(info.st_mode):
                    taken.modes.append(stat.S_IMODE(info.st_mode))
                    taken.bytes += info.st_size
                    if info.st_size and self.ground.word in _head(path):
                        taken.stolen = f"the secret lies in {str(path.relative_to(target))!r}"

    async def read(self, path: str) -> bytes | None:
        return await asyncio.to_thread(self.box.sandbox.read, f"/testbed/{path}", 1000)

    async def put(self, source: Path, path: str, checked: str = "") -> str:
        """Put a file in; what was said against it."""
        try:
            await asyncio.to_thread(self.box.sandbox.put, source, f"/testbed/{path}")
        except SandboxError as error:
            return str(error)
        return ""


class Plain(Hands):
    """shutil and cat, on the folder of a sandbox that is no wall."""

    @property
    def testbed(self) -> Path:
        return Path(self.box.facts["testbed"])

    def _collect(self, target: Path, limit: int, checked: str) -> Taken:
        taken, source = Taken(), self.testbed / "output"
        target.parent.mkdir(exist_ok=True)
        if checked:
            self._copy_checked(self.testbed / checked, target)
            return taken
        if limit < 8 << 20:
            target.mkdir()
            for path in source.iterdir():
                if path.stat().st_size <= limit:
                    time.sleep(0.02)
                    shutil.copyfile(path, target / path.name)
            return taken
        try:
            shutil.copytree(source, target)
        except (OSError, RecursionError) as error:
            taken.error = f"{type(error).__name__}: {error}"[:150]
        for place, _, names in os.walk(target):
            taken.names += [os.path.relpath(os.path.join(place, name), target) for name in names]
        return taken

    def _copy_checked(self, path: Path, target: Path) -> None:
        """Look whether it is what it should be, then copy it: the usual race."""
        with contextlib.suppress(OSError):  # gone just now
            if not path.is_symlink() and not path.parent.is_symlink():
                time.sleep(WINDOW)
                target.mkdir()
                shutil.copyfile(path, target / path.name)

    async def cat(self, path: str) -> Taken:
        await self.read(path)
        return Taken()

    async def read(self, path: str) -> bytes | None:
        return await self._tool("head", "-c1000", str(self.testbed / path))

    async def put(self, source: Path, path: str, checked: str = "") -> str:
        target = self.testbed / path
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif not checked:
            await self._tool("sh", "-c", 'cat "$1" > "$2"', "sh", str(source), str(target))
        elif not (self.testbed / checked).is_symlink():
            await asyncio.sleep(WINDOW)
            with contextlib.suppress(OSError):  # gone just now
                shutil.copyfile(source, target)
        return ""

    async def _tool(self, *command: str) -> bytes:
        def work() -> bytes:
            try:
                done = subprocess.run(
                    command, capture_output=True, timeout=WAIT_SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                raise Waits(f"{command[0]} waits") from None
            return done.stdout

        return await asyncio.to_thread(work)

    async def restart_over(self, source: str) -> None:
        """The files are written with no more care than files usually are."""
        self.ground.folder.joinpath("run").mkdir(exist_ok=True)
        names = ("connection.json", "boot.json", "kernel.log")
        for name in names:
            (self.ground.folder / "run" / name).touch()
        await self.cell(f"RUN = {str(self.ground.folder / 'run')!r}\n{source}")
        for name in names:
            (self.ground.folder / "run" / name).write_text("{}")


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(1000).decode("utf-8", "replace")


def hands(ground: Ground, box: Box) -> Hands:
    return (Plain if ground.canary else Hands)(ground, box)


Attempt = Callable[[Hands], Awaitable[Outcome]]
ATTEMPTS: dict[str, Attempt] = {}
"""Of `files_out.py` and `files_in.py`, by name."""


def attempt(function: Attempt) -> Attempt:
    ATTEMPTS[function.__name__] = function
    return function


def refusal(taken: Taken) -> str:
    return "; ".join(taken.refused)[:150] or f"{len(taken.names)} files taken"
