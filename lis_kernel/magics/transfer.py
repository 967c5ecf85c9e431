"""`%sandbox put` and `%sandbox get`: files and folders on their way into a sandbox and out of it.

What a person gives goes in under the name by which they called it; what comes out of the sandbox
is hostile, so no link is followed there, and nothing is replaced here unasked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.agent.workspace import bytes_of, given_name
from lis_kernel.config import amount
from lis_kernel.errors import ConfigError, SandboxError
from lis_kernel.tools.terminal import plain_text

__all__ = ["get", "inside", "put"]

HOME = PurePosixPath("/testbed")
"""Where cells begin, and what relative paths are relative to."""
REFUSALS = 20
"""Sentences of what was not taken that are shown."""


def inside(path: str) -> PurePosixPath:
    """A path of the sandbox, relative to where its cells begin."""
    return HOME / path


def put(shared: SharedSandbox, words: Sequence[str], to: str | None) -> None:
    """Copy files and folders of this machine into the running sandbox.

    Raises:
        ConfigError: one is not there, or cannot be what `to` says.
        SandboxError: it does not fit, or is no plain file.
    """
    if not words:
        raise ConfigError("%sandbox put", "no path was given.")
    if to and len(words) > 1 and not to.endswith("/"):
        raise ConfigError("--to", "several files need a folder.", f"Write {to}/")
    for word in words:
        source = Path(word).expanduser()
        if not source.exists():
            raise ConfigError("%sandbox put", f"{word} does not exist.")
        name = given_name(source)
        target = inside(to or name)
        if to and to.endswith("/"):
            target = target / name
        if (needed := bytes_of(source)) > (room := shared.limits.disk_bytes):
            raise ConfigError(
                "%sandbox put",
                f"{word} takes {amount(needed)}, and the sandbox's disk has {amount(room)}.",
                f"Begin one with more: %sandbox stop {shared.name}, then %sandbox limits "
                f"{shared.name} --disk {2 * needed >> 20}M",
            )
        try:
            shared.sandbox.put(source, str(target))
        except IsADirectoryError as error:
            raise ConfigError("--to", f"{target} is a folder.", f"Write {target}/") from error
        except OSError as error:
            raise SandboxError(f"{word} does not fit into the sandbox: {error}") from error
        print(f"{word} → {target}")


def get(shared: SharedSandbox, words: Sequence[str], to: str | None, *, force: bool) -> None:
    """Copy files and folders of the sandbox out; `force` replaces what is here.

    Raises:
        ConfigError: something is here already, or is of another kind.
        SandboxError: it is not there, or too large.
    """
    if not words:
        raise ConfigError("%sandbox get", "no path was given.")
    into = to is not None and (len(words) > 1 or to.endswith("/") or Path(to).expanduser().is_dir())
    for word in words:
        path = inside(word)
        target = Path(to or path.name).expanduser()
        target = target / path.name if into else target
        if target.exists() and not force:
            raise ConfigError("%sandbox get", f"{target} is there already.", "Say --to or --force.")
        if not _file(shared, path, target):
            _folder(shared, path, target)


def _file(shared: SharedSandbox, path: PurePosixPath, target: Path) -> bool:
    """Copy `path` to `target`, if it is a file."""
    limit = shared.limits.collect_bytes
    data = shared.sandbox.read(str(path), limit + 1)
    if data is None:
        return False
    if len(data) > limit:
        raise SandboxError(f"{path} has more than {amount(limit)}, the most that is taken out")
    if target.is_dir():
        raise ConfigError("%sandbox get", f"{target} is a folder.", "Say --to FILE.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    print(f"{path} → {target} ({amount(len(data))})")
    return True


def _folder(shared: SharedSandbox, path: PurePosixPath, target: Path) -> None:
    limit = shared.limits.collect_bytes
    if not target.exists():
        taken, refused = shared.sandbox.collect(str(path), target, limit)
    elif target.is_dir():
        with tempfile.TemporaryDirectory(prefix=".lis-", dir=target) as place:
            found, refused = shared.sandbox.collect(str(path), Path(place), limit)
            taken, kept = _replace(Path(place), target, found)
            refused += kept
    else:
        raise ConfigError("%sandbox get", f"{target} is no folder.", "Say --to FOLDER.")
    if not taken and not refused:
        raise SandboxError(f"there is no file, and no folder with files, {path} in the sandbox")
    print(f"{path} → {target} ({len(taken)} {'file' if len(taken) == 1 else 'files'})")
    for sentence in refused[:REFUSALS]:
        print(f"not taken: {plain_text(sentence)[:300]}")


def _replace(fresh: Path, target: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Move the files `names` to the folder `target`; those moved, and why others were not."""
    moved, kept = [], []
    for name in names:
        try:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).replace(target / name)
            moved.append(name)
        except OSError as error:
            kept.append(f"{name!a}: {error.strerror}")
    return moved, kept
