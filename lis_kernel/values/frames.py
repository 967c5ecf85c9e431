"""pandas' frames and series as Arrow tables: dtypes, index and names come back as they were."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from . import arrays
from .arrow import Column
from .plain import NotCopied

__all__ = ["dump", "load"]

_MASKED = {
    *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
    *("Float32", "Float64", "boolean"),
}
_LABELS = ("str", "string", "object", "int64", "uint64", "float64", "bool")
"""Dtypes that an index of column names may have."""
_ZONE = re.compile(r"(?!dateutil)[A-Za-z0-9_+\-:/]{1,64}")
_FREQUENCY = re.compile(r"[A-Za-z0-9\-]{1,40}")
_SCALARS = (str, int, float, bool, type(None))


# -- out -------------------------------------------------------------------------------------


def dump(value: Any, name: str) -> bytes:
    """A data frame or a series as an Arrow stream.

    Raises:
        NotCopied: a column, the index or a label is of a kind that is not copied.
    """
    if type(value) not in (pd.DataFrame, pd.Series):
        strange = type(value)
        base = "pd.DataFrame" if isinstance(value, pd.DataFrame) else "pd.Series"
        raise NotCopied(
            f"{name} is a {strange.__module__}.{strange.__name__}: {base}(…) makes it plain"
        )
    made: list[Column] = []
    if isinstance(value, pd.DataFrame):
        parts = [value.iloc[:, n] for n in range(value.shape[1])]
        words: dict[str, Any] = {"labels": _labels(value.columns, f"{name}.columns")}
    else:
        parts = [value]
        words = {"name": _label(value.name, f"{name}.name")}
    kind = "frame" if isinstance(value, pd.DataFrame) else "series"
    words["columns"] = [_pack(part, f"{name}[{part.name!r:.80}]", made) for part in parts]
    words["index"] = _index(value.index, f"{name}.index", made)
    return arrays.stream(kind, made, len(value), words)


def _label(value: Any, whose: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) not in _SCALARS:
        raise NotCopied(f"{whose} has {value!r:.80}, and labels must be text or numbers: rename it")
    return value


def _labels(columns: Any, whose: str) -> dict[str, Any]:
    names = [_label(name, f"{whose}.names") for name in columns.names]
    if isinstance(columns, pd.MultiIndex):
        rows = [[_label(part, whose) for part in label] for label in columns]
        return {"levels": rows, "names": names}
    if type(columns) is pd.RangeIndex:
        return {"range": [columns.start, columns.stop, columns.step], "names": names}
    if str(columns.dtype) not in _LABELS:
        raise NotCopied(
            f"{whose} has the dtype {columns.dtype}, and labels must be text or numbers: "
            f"{whose} = {whose}.map(str)"
        )
    rows = [_label(label, whose) for label in columns]
    return {"flat": rows, "dtype": str(columns.dtype), "names": names}


def _index(index: Any, whose: str, made: list[Column]) -> dict[str, Any]:
    names = [_label(name, f"{whose}.names") for name in index.names]
    if type(index) is pd.RangeIndex:
        return {"range": [index.start, index.stop, index.step], "names": names}
    multi = isinstance(index, pd.MultiIndex)
    parts = [index.get_level_values(n) for n in range(index.nlevels)] if multi else [index]
    specs = [_pack(part, whose, made) for part in parts]
    found: dict[str, Any] = {"parts": specs, "names": names, "multi": multi}
    if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex) and index.freqstr:
        found["freq"] = index.freqstr
    return found


def _pack(part: Any, whose: str, made: list[Column]) -> Any:
    """Add a series' or an index's values to `made`; what is to be known of them."""
    dtype = part.dtype
    name = f"{len(made)}"
    if getattr(part, "name", None) is not None:
        name = str(part.name)
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        made.append(arrays.column(name, part.to_numpy(), whose))
        return dtype.newbyteorder("<").str
    objects = isinstance(dtype, np.dtype)
    if objects or isinstance(dtype, pd.StringDtype):
        made.append(_texts(name, part, whose))
        return "object" if objects else dtype.name
    if isinstance(dtype, pd.DatetimeTZDtype):
        zone = str(dtype.tz)
        if not _ZONE.fullmatch(zone):
            raise NotCopied(f"{whose} has the time zone {zone:.80}: .dt.tz_convert('UTC') first")
        plain = np.asarray(pd.DatetimeIndex(part).asi8).view(f"M8[{dtype.unit}]")
        column = arrays.column(name, plain, whose)
        column.kind += "UTC"
        made.append(column)
        return {"zone": zone, "unit": dtype.unit}
    if isinstance(dtype, pd.CategoricalDtype):
        return _categories(name, part, whose, made)
    if str(dtype) in _MASKED:
        missing = np.asarray(part.isna())
        usual = dtype.numpy_dtype
        filled = part.array.to_numpy(dtype=usual, na_value=usual.type(0))
        made.append(arrays.column(name, filled, whose, missing))
        return {"masked": str(dtype)}
    raise NotCopied(
        f"{whose} has the dtype {dtype}, which is not copied: "
        "make it numbers, text or dates (.astype), or leave it out"
    )


def _texts(name: str, part: Any, whose: str) -> Column:
    objects = part.to_numpy(dtype=object)
    missing = np.asarray(part.isna())
    here = objects[~missing]
    strange = next((item for item in here if type(item) is not str), None)
    if strange is None and isinstance(part.dtype, np.dtype):
        strange = next((item for item in objects[missing] if item is not None), None)
    if strange is not None:
        kind = type(strange)
        raise NotCopied(
            f"{whose} is a column of objects and holds a {kind.__module__}.{kind.__name__}: only "
            "text and None are copied in it; give it a dtype (.astype, .convert_dtypes)"
        )
    try:
        texts = [b"" if gone else s.encode() for s, gone in zip(objects, missing, strict=True)]
    except UnicodeEncodeError as error:
        raise NotCopied(f"{whose} holds text that is no Unicode: {error}") from error
    offsets = np.zeros(len(texts) + 1, "<i8")
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    valid, nulls = arrays.bitmap(missing)
    return Column(name, "text", len(texts), [offsets.tobytes(), b"".join(texts)], valid, nulls)


def _categories(name: str, part: Any, whose: str, made: list[Column]) -> dict[str, Any]:
    data = pd.Categorical(part)
    inner: list[Column] = []
    spec = _pack(data.categories, f"{whose}'s categories", inner)
    codes = np.asarray(data.codes)
    column = arrays.column(name, codes, whose, codes < 0)
    column.dictionary, column.ordered = inner[0], bool(data.ordered)
    if inner[0].dictionary is not None:
        raise NotCopied(f"{whose}'s categories are categories themselves")
    made.append(column)
    return {"categories": spec}


# -- in --------------------------------------------------------------------------------------


def load(kind: str, columns: Sequence[Column], words: dict[str, Any]) -> Any:
    """What `dump` was given. Raises ValueError and its like for what is none of its."""
    left = list(reversed(columns))
    parts = [_unpack(spec, left.pop()) for spec in words["columns"]]
    lengths = {len(part) for part in parts}
    index = _read_index(words["index"], left)
    if left or lengths - {len(index)}:
        raise ValueError("columns of another length")
    if kind == "series":
        return pd.Series(parts[0], index, _dtype(parts[0]), _scalar(words["name"]), copy=False)
    if kind != "frame":
        raise ValueError("neither a frame nor a series")
    made = {n: pd.Series(part, index, _dtype(part), copy=False) for n, part in enumerate(parts)}
    frame = pd.DataFrame(made, index=index)
    frame.columns = _read_labels(words["labels"])
    return frame


def _scalar(value: Any) -> Any:
    if type(value) not in _SCALARS:
        raise ValueError("a label that is none")
    return value


def _range(found: dict[str, Any]) -> Any:
    start, stop, step = (int(n) for n in found["range"])
    return pd.RangeIndex(start, stop, step, name=_scalar(found["names"][0]))


def _read_labels(found: dict[str, Any]) -> Any:
    names = [_scalar(name) for name in found["names"]]
    if "range" in found:
        return _range(found)
    if "levels" in found:
        rows = [tuple(_scalar(part) for part in row) for row in found["levels"]]
        if any(len(row) != len(names) for row in rows):
            raise ValueError("labels of another depth")
        parts: list[Any] = list(zip(*rows, strict=True)) if rows else [[] for _ in names]
        return pd.MultiIndex.from_arrays(parts, names=names)
    dtype = found["dtype"]
    if dtype not in _LABELS:
        raise ValueError(f"labels of {dtype!r:.40}")
    rows = [_scalar(label) for label in found["flat"]]
    return pd.Index(rows, dtype=_text_dtype(dtype), name=names[0])


def _read_index(found: dict[str, Any], left: list[Column]) -> Any:
    if "range" in found:
        return _range(found)
    names = [_scalar(name) for name in found["names"]]
    parts = [_unpack(spec, left.pop()) for spec in found["parts"]]
    made = [pd.Index(part, _dtype(part), copy=False) for part in parts]
    if found["multi"]:
        return pd.MultiIndex.from_arrays(made, names=names)
    index = made[0].rename(names[0])
    frequency = found.get("freq")
    if isinstance(frequency, str) and _FREQUENCY.fullmatch(frequency):
        with contextlib.suppress(ValueError):  # one with holidays of its own has no name
            index.freq = frequency
    return index


def _text_dtype(name: str) -> Any:
    """pandas before 3 has no dtype `str`; there text is a column of objects."""
    known = name != "str" or int(pd.__version__.split(".")[0]) >= 3
    return name if known else object


def _unpack(spec: Any, column: Column) -> Any:
    if spec in ("object", "str", "string"):
        return _read_texts(column, spec)
    if isinstance(spec, str):
        return arrays.values(column, arrays.dtype_of(spec))
    if "zone" in spec:
        if not _ZONE.fullmatch(spec["zone"]) or column.kind != f"stamp:{spec['unit']}:UTC":
            raise ValueError("no time zone")
        column.kind = column.kind.removesuffix("UTC")
        plain = arrays.values(column, arrays.dtype_of(f"<M8[{spec['unit']}]"))
        return pd.DatetimeIndex(plain).tz_localize("UTC").tz_convert(spec["zone"]).array
    if "categories" in spec and column.dictionary is not None:
        inner, column.dictionary = column.dictionary, None
        kinds = _unpack(spec["categories"], inner)
        categories = pd.Index(kinds, _dtype(kinds), copy=False)
        codes = arrays.values(column, np.dtype(f"<{column.kind}"))
        return pd.Categorical.from_codes(codes, categories, ordered=column.ordered)
    if spec.get("masked") in _MASKED:
        dtype = pd.api.types.pandas_dtype(spec["masked"])
        usual = np.dtype(dtype.numpy_dtype).newbyteorder("<")
        plain = arrays.values(column, usual)
        made = pd.array(plain, dtype=dtype)
        made[arrays.missing(column)] = pd.NA
        return made
    raise ValueError(f"a column of {json.dumps(spec):.80}")


def _read_texts(column: Column, spec: str) -> Any:
    if column.kind != "text" or column.dictionary is not None:
        raise ValueError("no text where text was said")
    offsets = np.frombuffer(column.buffers[0], "<i8")
    data = bytes(column.buffers[1])
    if column.length == 0:
        offsets = np.zeros(1, "<i8")
    if offsets[0] != 0 or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise ValueError("text outside the data")
    places = offsets.tolist()
    texts = np.empty(column.length, object)
    for n in range(column.length):
        texts[n] = data[places[n] : places[n + 1]].decode("utf-8")
    texts[arrays.missing(column)] = None
    return texts if _text_dtype(spec) in (object, "object") else pd.array(texts, dtype=spec)


def _dtype(part: Any) -> Any:
    """What pandas must be told, as it makes more of objects than they are."""
    return object if isinstance(part, np.ndarray) and part.dtype.kind == "O" else None
