"""Run in a sandbox by `runpy.run_path`: takes values in and lays them out for the other side.

The caller calls `take`, `lay` or `clear` of what that gives.
"""

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

__all__ = ["clear", "lay", "take"]


def _values() -> Any:
    here = Path(__file__).resolve().parent
    sys.path.insert(0, str(here.parent))
    try:
        return importlib.import_module(here.name)
    finally:
        sys.path.remove(str(here.parent))


def take(path: str) -> Any:
    """The value that was put at `path`; its ending says in which form."""
    values = _values()
    file = Path(path)
    name = file.name.partition(".")[0]
    if not file.exists():
        raise FileNotFoundError(
            f"{name} was copied from a person's notebook and is not here any more: give it a value"
        )
    try:
        return values.load(file.suffix.removeprefix("."), file.read_bytes(), name)
    finally:
        file.unlink()


def lay(folder: str, names: list[str], known: dict[str, Any], limit: int) -> None:
    """Write each named value to `folder` for the other side.

    Raises:
        ValueError: one cannot be copied.
    """
    values = _values()
    clear(folder)
    for name in names:
        if name not in known:
            raise values.NotCopied(f"there is no variable {name!r} in the sandbox")
        form, data = values.dump(known[name], name)
        if len(data) > limit:
            raise values.NotCopied(
                f"{name} takes {len(data):,} bytes, and {limit:,} are copied: write it to a file "
                "in the sandbox, and get that (%sandbox get)"
            )
        Path(folder).mkdir(exist_ok=True)
        Path(folder, f"{name}.{form}").write_bytes(data)


def clear(folder: str) -> None:
    """Remove what was laid out."""
    shutil.rmtree(folder, ignore_errors=True)
