"""numpy's arrays and scalars as a table of one column, and columns as arrays."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import arrow
from .arrow import Column
from .plain import NotCopied

__all__ = ["column", "dump", "load", "read", "stream", "values"]

KEY = "lis"
_DTYPE = re.compile(r"[<|](?:b1|[iu][1248]|f[248]|c(?:8|16)|[US]\d{1,9}|[mM]8\[\w{1,4}\])")
MOST_WORDS = 10_000_000


def dump(value: Any, name: str) -> bytes:
    """An array or a numpy scalar as an Arrow stream. Raises NotCopied."""
    if type(value) is not np.ndarray and not isinstance(value, np.generic):
        strange = f"{type(value).__module__}.{type(value).__name__}"
        raise NotCopied(f"{name} is a {strange}: np.asarray makes it plain")
    array = np.asarray(value)
    kind = "array" if type(value) is np.ndarray else "scalar"
    made = column("values", array.reshape(-1), name)
    words = {"shape": list(array.shape), "dtype": _little(array.dtype).str}
    return stream(kind, [made], made.length, words)


def load(kind: str, columns: Sequence[Column], words: dict[str, Any]) -> Any:
    """What `dump` was given."""
    shape = tuple(int(size) for size in words["shape"])
    if len(columns) != 1 or len(shape) > 64 or min(shape, default=0) < 0:
        raise ValueError("no array")
    if math.prod(shape) != columns[0].length:
        raise ValueError("another shape than the data has")
    array = values(columns[0], dtype_of(words["dtype"])).reshape(shape)
    return array[()] if kind == "scalar" else array


def stream(kind: str, columns: Sequence[Column], length: int, words: dict[str, Any]) -> bytes:
    """The columns with `words` (as JSON) in their schema."""
    return arrow.write(columns, length, {KEY: json.dumps({"kind": kind, **words})})


def read(data: bytes) -> tuple[str, list[Column], dict[str, Any]]:
    """What `stream` wrote: its kind, columns and words. Raises ValueError."""
    columns, words = arrow.read(data)
    text = words.get(KEY, "")
    if not text or len(text) > MOST_WORDS:
        raise ValueError("a table, but none of ours")
    found = json.loads(text)
    return str(found["kind"]), columns, found


def _little(dtype: Any) -> Any:
    return dtype.newbyteorder("<")


def dtype_of(text: Any) -> Any:
    """A dtype by its name, if it is one of those that are copied."""
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise ValueError(f"a dtype {text!r:.80}")
    return np.dtype(text)


def column(name: str, array: Any, whose: str, missing: Any = None) -> Column:
    """A flat array as a column; `missing` is a mask of the rows without a value.

    Raises:
        NotCopied: of objects, or of a dtype that has no place in Arrow.
    """
    dtype = _little(array.dtype)
    if not _DTYPE.fullmatch(dtype.str) or dtype.itemsize == 0:
        raise NotCopied(
            f"{whose} has the dtype {array.dtype}, which is not copied: "
            "make it numbers, text or dates (.astype)"
        )
    array = np.ascontiguousarray(array, dtype)
    if dtype.kind == "b":
        kind, data = "bool", np.packbits(array, bitorder="little")
    else:
        kind, data = _kind(dtype), array.view(np.uint8)
    valid, nulls = bitmap(missing)
    return Column(name, kind, len(array), [data.tobytes()], valid, nulls)


def _kind(dtype: Any) -> str:
    if dtype.kind in "iuf":
        return f"{dtype.kind}{dtype.itemsize}"
    if dtype.kind in "mM":
        unit, count = np.datetime_data(dtype)
        if unit in arrow.UNITS and count == 1:
            return f"stamp:{unit}:" if dtype.kind == "M" else f"span:{unit}"
    return f"fixed:{dtype.itemsize}"


def bitmap(missing: Any) -> tuple[bytes | None, int]:
    """A mask of missing rows as Arrow's bitmap of those that are there, and how many are not."""
    if missing is None or not missing.any():
        return None, 0
    return np.packbits(~missing, bitorder="little").tobytes(), int(missing.sum())


def missing(made: Column) -> Any:
    """The mask of the rows without a value."""
    if made.valid is None:
        return np.zeros(made.length, bool)
    bits = np.unpackbits(np.frombuffer(made.valid, np.uint8), bitorder="little")
    return ~bits[: made.length].astype(bool)


def values(made: Column, dtype: Any) -> Any:
    """A column's values as an array of its own memory."""
    expected = "bool" if dtype.kind == "b" else _kind(dtype)
    if made.kind != expected or made.dictionary is not None:
        raise ValueError(f"{made.kind} where {expected} was said")
    data = np.frombuffer(made.buffers[0], np.uint8)
    if dtype.kind == "b":
        return np.unpackbits(data, bitorder="little")[: made.length].astype(bool)
    array = data.view(dtype) if len(data) else np.empty(0, dtype)
    if len(array) != made.length:
        raise ValueError("values are missing")
    if dtype.kind == "U" and (array.view(np.uint32) > 0x10FFFF).any():
        raise ValueError("text that is none")
    return array.copy()
