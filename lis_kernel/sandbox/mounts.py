"""Host folders and files that a sandbox is given beside its own: `SandboxConfig.mounts`.

Parsed and checked here for every backend, before anything starts: read-only unless marked, never
over what the sandbox itself is made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lis_kernel.errors import ConfigError

__all__ = ["Mount", "parse"]

SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run"),
    *("/sbin", "/sys", "/usr", "/opt/lis", "/opt/lis-guest", "/opt/python"),
)
"""Neither these, nor what is below or above them, can be covered."""
WRITABLE = ("/testbed", "/tmp", "/var/tmp", "/home/user")
"""The sandbox's own folders: a mount may lie below one, but not hide it."""


@dataclass(frozen=True)
class Mount:
    """One host path and where the sandbox sees it."""

    source: Path
    target: str
    writable: bool = False


def parse(mounts: Iterable[str], field: str = "mounts") -> tuple[Mount, ...]:
    """Read `HOST_PATH:SANDBOX_PATH[:rw]`, as it stands in a config or kernelspec.

    Raises:
        ConfigError: not of that form, no such host path, or a place that cannot be covered.
    """
    parsed = tuple(_parse(text, field) for text in mounts)
    targets = [mount.target for mount in parsed]
    if twice := {target for target in targets if targets.count(target) > 1}:
        raise ConfigError(field, f"two mounts at {min(twice)}.", "Give each a place of its own.")
    return parsed


def _parse(text: str, field: str) -> Mount:
    place, _, mode = text.rpartition(":")
    if mode not in ("ro", "rw"):
        place, mode = text, "ro"
    host, colon, inside = place.rpartition(":")
    form = "Write HOST_PATH:SANDBOX_PATH, with :rw at the end if it may be written."
    if not colon:
        raise ConfigError(field, f"{text!r} has no place in the sandbox.", form)
    source = Path(host).expanduser()
    if not source.is_absolute():
        raise ConfigError(field, f"{host!r} is not an absolute path of the host.", form)
    if not source.exists():
        raise ConfigError(field, f"{source} does not exist on the host.")
    target = PurePosixPath("/" + inside.lstrip("/"))
    if not inside.startswith("/") or ".." in target.parts or "\0" in inside:
        raise ConfigError(field, f"{inside!r} is not an absolute path of the sandbox.", form)
    if any(_within(target, system) or _within(system, target) for system in SYSTEM):
        raise ConfigError(
            field, f"{target} belongs to the sandbox itself.", "Take another place, such as /data."
        )
    if any(_within(own, target) for own in WRITABLE):
        raise ConfigError(
            field, f"{target} would hide the sandbox's own.", f"Take one below: {target}/data."
        )
    return Mount(source.resolve(), str(target), mode == "rw")


def _within(path: str | PurePosixPath, folder: str | PurePosixPath) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
