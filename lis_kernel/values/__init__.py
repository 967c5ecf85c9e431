"""Values as bytes and back, for copies between a person's kernel and a sandbox: never a pickle.

Plain values are JSON; data frames, series and arrays are an Arrow stream, written and read here
with bounds checked at every step: what comes out of a sandbox is hostile, and pyarrow would add a
third to every `import pandas` in it, 42 MB to its memory and 170 MB to the image. The package runs
on both sides, so it imports nothing of ours; `inside.py` is the sandbox's door to it.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

from . import plain
from .plain import NotCopied

__all__ = ["JSON_BYTES", "Form", "NotCopied", "dump", "load"]

Form = Literal["json", "arrow"]
JSON_BYTES = 20_000_000
"""Small lists take twenty times their text in memory, so there is less of it than of Arrow."""


def dump(value: Any, name: str) -> tuple[Form, bytes]:
    """`value` as bytes, from which `load` makes an equal one of the same type.

    `name` stands for it in messages.

    Raises:
        NotCopied: it is of another kind, or holds something that is; says what to do.
    """
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        from . import arrays

        return "arrow", arrays.dump(value, name)
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series):
        from . import frames

        return "arrow", frames.dump(value, name)
    data = plain.dump(value, name)
    if len(data) > JSON_BYTES:
        raise NotCopied(
            f"{name} takes {len(data):,} bytes as JSON, and {JSON_BYTES:,} are copied: make it a "
            "data frame or an array, or give it as a file (%sandbox put and get)"
        )
    return "json", data


def load(form: Form, data: bytes, name: str) -> Any:
    """The value that `dump` wrote.

    Raises:
        NotCopied: `data` is none of ours, or needs a package that is not here.
    """
    if form == "json":
        return plain.load(data[: JSON_BYTES + 1], name)
    try:
        from . import arrays
    except ImportError as error:
        raise NotCopied(f"{name} needs numpy here: pip install numpy") from error
    try:
        kind, columns, words = arrays.read(data)
        if kind in ("array", "scalar"):
            return arrays.load(kind, columns, words)
        try:
            from . import frames
        except ImportError as error:
            needed = "it is a data frame or a series, and needs pandas here: pip install pandas"
            raise NotCopied(f"{name}: {needed}") from error
        return frames.load(kind, columns, words)
    except NotCopied:
        raise
    except Exception as error:  # whatever a damaged or hostile table brings about
        raise NotCopied(f"{name} cannot be read: {type(error).__name__}: {error}") from error
