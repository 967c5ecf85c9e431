"""A root of the user's own for bubblewrap sandboxes: an unpacked image instead of the host's /usr.

`SandboxConfig.rootfs` names the folder, made by debootstrap or out of a container's export. It is
only ever read; what a sandbox must have of its own in /etc lies in a copy of that folder under
`<data dir>/images/`, with the tree's digest and packages. What the tree holds is not trusted: no
symlink of it is followed on the host. `rootfs_python.py` finds the Python for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lis_kernel.config import data_dir
from lis_kernel.errors import ConfigError
from lis_kernel.sandbox.state import open_beneath

__all__ = ["FIELD", "Rootfs", "find_inside", "prepare"]

FIELD = "rootfs"
LAYOUT = 1
"""Raised when what `prepare` makes changes."""
OWN = {
    "boot",
    "dev",
    "etc",
    "lost+found",
    "media",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "testbed",
    "tmp",
}
"""Top folders that are the sandbox's own, or nobody's business."""
SHARED = {"home": {"user"}, "opt": {"lis", "lis-guest", "python"}}
"""Top folders of which all is taken but what the sandbox has there."""
OF_OURS = {
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "",
    "lis-ca.pem": "",
}
"""Files of /etc that are ours in every sandbox; over the empty ones something may be bound."""
ACCOUNTS = {"passwd": "user:x:1000:1000:user:/home/user:/bin/bash", "group": "user:x:1000:"}
MAX_FILE = 16 << 20
UNPACK = (
    "Unpack an image there: `debootstrap bookworm DIR`, or `docker export CONTAINER | tar -xC DIR`."
)


@dataclass(frozen=True)
class Rootfs:
    """A checked tree, and the folder with what was made of it.

    `digest` is over names, modes and contents; `system` is what os-release calls it.
    """

    root: Path
    store: Path
    digest: str
    system: str
    packages: tuple[str, ...]

    @property
    def etc(self) -> Path:
        """The copy of its /etc, for all sandboxes with this root as it is now."""
        return self.store / f"etc-{self.digest[-12:]}"

    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {"digest": self.digest, "system": self.system, "packages": list(self.packages)}

    def binds(self, tree: Path, etc: Path) -> list[str]:
        """`bwrap`'s options; `tree` and `etc` are where it finds the root and the copy of /etc."""
        argv: list[str] = []
        for name, entry in _entries(self.root):
            if name in OWN:
                continue
            if name in SHARED and not entry.is_symlink():
                for inner, below in _entries(Path(entry.path)):
                    if inner not in SHARED[name]:
                        argv += _bind(below, tree / name / inner, f"/{name}/{inner}")
            else:
                argv += _bind(entry, tree / name, f"/{name}")
        return [*argv, "--ro-bind", str(etc), "/etc"]

    @property
    def has_var_tmp(self) -> bool:
        """Whether /var/tmp is there to be bound over."""
        return _is_dir(self.root / "var") and _is_dir(self.root / "var" / "tmp")


def _entries(folder: Path) -> list[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as found:
        return sorted((entry.name, entry) for entry in found)


def _bind(entry: os.DirEntry[str], source: Path, target: str) -> list[str]:
    if entry.is_symlink():
        return ["--symlink", os.readlink(entry.path), target]
    return ["--ro-bind", str(source), target] if entry.is_dir(follow_symlinks=False) else []


def _is_dir(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def find_inside(root: Path, path: str) -> Path | None:
    """The host's path of `path`, its symlinks followed as they are inside; None if not there."""
    done, todo = root, [step for step in path.split("/") if step]
    for _ in range(200):
        if not todo:
            return done if done.exists() and not done.is_symlink() else None
        step = todo.pop(0)
        if step in (".", ".."):
            done = done.parent if step == ".." and done != root else done
        elif (done / step).is_symlink():
            target = os.readlink(done / step)
            done = root if target.startswith("/") else done
            todo = [part for part in target.split("/") if part] + todo
        else:
            done = done / step
    return None


def prepare(
    given: Path, say: Callable[[str], None] = lambda _: None, *, again: bool = False
) -> Rootfs:
    """Check the tree, and read it through unless it was read before; a second for 300 MB.

    A change of the tree is seen by the times of its main folders and its package database, any
    other with `again`.

    Raises:
        ConfigError: it is no root file system that a sandbox can use.
    """
    root = given.expanduser().resolve()
    try:
        _check(root)
        store = data_dir() / "images" / f"rootfs-{_fingerprint(root)}"
        store.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(store.with_suffix(".lock")):
            if again or (found := _load(root, store)) is None:
                say(f"reading {root} (once) …")
                found = _make(root, store)
    except OSError as error:
        raise ConfigError(FIELD, f"{root} cannot be read: {error}.") from error
    return found


def _check(root: Path) -> None:
    if not root.is_dir():
        raise ConfigError(FIELD, f"{root} is not a folder.", UNPACK)
    if root == Path("/"):
        raise ConfigError(FIELD, "/ is this host's own root.", "Leave it out to use the host's.")
    if find_inside(root, "/bin/bash") is None:
        raise ConfigError(FIELD, f"{root} has no /bin/bash.", f"Install it there. {UNPACK}")


def _fingerprint(root: Path) -> str:
    seen = [str(LAYOUT), str(root)]
    for name in ("", "etc", "opt", "usr", "usr/bin", "usr/lib", "usr/local/bin", *DATABASES):
        try:
            info = (root / name).lstat()
            seen.append(f"{name} {info.st_dev} {info.st_ino} {info.st_mtime_ns}")
        except OSError:
            seen.append(name)
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()[:12]


def _load(root: Path, store: Path) -> Rootfs | None:
    try:
        facts = json.loads((store / "manifest.json").read_text("utf-8"))
        return Rootfs(root, store, facts["digest"], facts["system"], tuple(facts["packages"]))
    except (OSError, ValueError, KeyError):
        return None


def _make(root: Path, store: Path) -> Rootfs:
    store.mkdir(mode=0o755, exist_ok=True)
    packages = next((found for name in DATABASES if (found := _packages(root, name))), ())
    made = Rootfs(root, store, _digest(root), _system(root), packages)
    old = _load(root, store)
    if old is None or old.digest != made.digest:
        for chosen in store.glob("image-*"):  # which Python it takes may have changed
            chosen.unlink()
    if not made.etc.exists():  # an older one may be in use: it stays
        half = store / "etc.partial"
        shutil.rmtree(half, ignore_errors=True)
        _copy_etc(root, half)
        half.rename(made.etc)
    partial = store / "manifest.json.partial"
    partial.write_text(json.dumps(made.facts(), indent=1), "utf-8")
    partial.replace(store / "manifest.json")
    return made


# -- what it is ----------------------------------------------------------------------------------

DATABASES = {
    "var/lib/dpkg/status": ("Package: ", "Version: "),
    "lib/apk/db/installed": ("P:", "V:"),
}
"""Of Debian's and Alpine's packages: how the lines with name and version begin."""


def _read(root: Path, name: str, limit: int = 64 << 20) -> str:
    """A file of the tree; empty if it is none, or behind a symlink."""
    fd = open_beneath(root, name.split("/"))
    if fd is None:
        return ""
    with os.fdopen(fd, "rb", closefd=False) as file:
        try:
            plain = stat.S_ISREG(os.fstat(fd).st_mode)
            return file.read(limit).decode("utf-8", "replace") if plain else ""
        finally:
            os.close(fd)


def _packages(root: Path, database: str) -> tuple[str, ...]:
    """`name=version` of each installed package, sorted."""
    names = DATABASES[database]
    found = []
    for paragraph in _read(root, database).split("\n\n"):
        lines = paragraph.splitlines()
        values = [[line[len(n) :] for line in lines if line.startswith(n)] for n in names]
        gone = any(line.startswith("Status: ") and " installed" not in line for line in lines)
        if all(values) and not gone:
            found.append(f"{values[0][0].strip()}={values[1][0].strip()}")
    return tuple(sorted(found))


def _system(root: Path) -> str:
    for name in ("usr/lib/os-release", "etc/os-release"):
        for line in _read(root, name, 1 << 16).splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip().strip("\"'")[:200]
    return "unknown"


def _digest(root: Path) -> str:
    """sha256 over every name, kind, mode and content; what we may not read counts by its size."""
    whole = hashlib.sha256()
    for path, info in _walk(root):
        what = b""
        if stat.S_ISLNK(info.st_mode):
            what = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(info.st_mode):
            what = _content(path) or str(info.st_size).encode()
        name = os.fsencode(path.relative_to(root))
        whole.update(b"%s\0%o\0%s\n" % (name, info.st_mode, what))
    return f"sha256:{whole.hexdigest()}"


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        info = (folder / name).lstat()
        yield folder / name, info
        if stat.S_ISDIR(info.st_mode):
            yield from _walk(folder / name)


def _content(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# -- its /etc ------------------------------------------------------------------------------------


def _copy_etc(root: Path, target: Path) -> None:
    """All that everybody may read there, and our own files."""
    target.mkdir(mode=0o755)
    if _is_dir(root / "etc"):
        closed: list[Path] = []
        for path, info in _walk(root / "etc"):
            if any(folder in path.parents for folder in closed):
                continue
            copy, mode = target / path.relative_to(root / "etc"), info.st_mode
            if stat.S_ISLNK(mode):
                copy.symlink_to(os.readlink(path))
            elif stat.S_ISDIR(mode) and mode & 0o005 == 0o005:
                copy.mkdir(mode=0o755)
            elif stat.S_ISDIR(mode):
                closed.append(path)
            elif stat.S_ISREG(mode) and mode & 0o004 and info.st_size <= MAX_FILE:
                shutil.copyfile(path, copy, follow_symlinks=False)
                copy.chmod(mode & 0o755 | 0o044)
    for name, ours in ACCOUNTS.items():
        lines = _read(root, f"etc/{name}", 1 << 20).splitlines()
        theirs = [li for li in lines if li.split(":")[0] != "user" and ":1000:" not in li]
        _replace(target / name, "\n".join([*theirs, ours, ""]))
    for name, text in OF_OURS.items():
        _replace(target / name, text)


def _replace(path: Path, text: str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(0o644)
