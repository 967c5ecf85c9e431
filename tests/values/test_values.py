"""Every value comes back equal and of its type, or is refused by name; damage is refused, too."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import math
import random
from collections import OrderedDict
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

from lis_kernel.values import NotCopied, arrays, dump, load

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def back(value: Any) -> Any:
    form, data = dump(value, "x")
    return load(form, data, "x")


@given(JSON)
def test_plain_values_come_back(value: Any) -> None:
    found = back(value)
    assert found == value and repr(found) == repr(value)


def test_odd_numbers_come_back() -> None:
    found = back([math.inf, -0.0, math.nan, 10**100, "\ud800"])
    assert found[0] == math.inf and str(found[1]) == "-0.0" and math.isnan(found[2])
    assert found[3:] == [10**100, "\ud800"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1, 2), "x is a builtins.tuple.*make it a list"),
        ({"a": [1, {2}]}, r"x\['a'\]\[1\] is a builtins.set"),
        ({1: 2}, "x has the key 1, and keys must be text"),
        (b"x", "%sandbox put"),
        (datetime.datetime(2026, 1, 1), "isoformat"),
        (Decimal("1"), "as text or float"),
        (OrderedDict(a=1), "make it a dict"),
        (lambda: 1, "define it in the sandbox"),
        (json, "import it in the sandbox"),
        (object(), "no pickle crosses the wall"),
        (10**5000, "cannot be copied"),
        (["\ud83d\ude00"], r"x\[0\] is text that is no Unicode"),
        ({"\ud83d\ude00": 1}, "a key of x is text that is no Unicode"),
        (np.array([object()]), "dtype object"),
        (np.ma.array([1]), "np.asarray makes it plain"),
        (np.zeros(2, [("a", "i4")]), "dtype"),
        (pd.DataFrame({"a": [{1}]}), r"x\['a'\] is a column of objects and holds a builtins.set"),
        (pd.Series(["x", math.nan], dtype=object), "holds a builtins.float"),
        (pd.DataFrame({"a": ["\ud800"]}, dtype=object), "no Unicode"),
        (pd.DataFrame({("a", (1,)): [1]}), "labels must be text or numbers"),
        (pd.DataFrame({pd.Timestamp("2026"): [1]}), "labels must be text or numbers"),
        (pd.DataFrame({"a": pd.period_range("2026", periods=1, freq="D")}), "period"),
        (pd.Series([1], dtype=pd.SparseDtype("int64")), "Sparse"),
        (pd.Index([1]), "make it a series or a list"),
        (type("Sub", (pd.DataFrame,), {})({"a": [1]}), "makes it plain"),
    ],
    ids=lambda value: str(type(value).__name__)[:20],
)
def test_what_is_not_copied_is_refused_by_name(value: Any, said: str) -> None:
    with pytest.raises(NotCopied, match=said):
        dump(value, "x")


def test_what_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotCopied, match="holds itself"):
        dump(value, "x")


ARRAYS = [
    np.arange(24, dtype="i4").reshape(2, 3, 4),
    np.array(3.5),
    np.array([], dtype="f8"),
    np.zeros((0, 3), "u1"),
    np.array([True, False, True] * 5),
    np.array([1.5, np.nan], "f2"),
    np.array([1 + 2j, 3], "c16"),
    np.array(["a", "größer"]),
    np.array([b"ab", b""]),
    np.array(["2026-01-01", "NaT"], "M8[ns]"),
    np.array(["2026-01-01"], "M8[D]"),
    np.array([1, 2], "m8[ms]"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(3, dtype=">i8"),
    np.arange(10)[::-2],
    np.float32(1.5),
    np.bool_(True),
    np.datetime64("2026-01-01T00", "h"),
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_come_back(value: Any) -> None:
    found = back(value)
    assert type(found) is type(value) and found.shape == value.shape
    assert found.dtype == value.dtype.newbyteorder("<")
    np.testing.assert_array_equal(found, value)
    if isinstance(found, np.ndarray):
        found.flags.writeable = True  # its own memory


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "int": [1, 2, 3],
            "small": np.array([1, 2, 3], "i1"),
            "float": [0.5, None, 2.0],
            "bool": [True, False, True],
            "text": ["a", None, "größer"],
            "string": pd.array(["a", None, ""], dtype="string"),
            "object": pd.Series(["a", None, "b"], dtype=object),
            "date": pd.to_datetime(["2026-01-01", None, "2026-01-03"]),
            "zone": pd.to_datetime(["2026-01-01", None, "2026-07-03"]).tz_localize("Europe/Berlin"),
            "span": pd.to_timedelta([1, 2, None], unit="s"),
            "kind": pd.Categorical(["x", None, "y"], ["y", "x", "z"], ordered=True),
            "number": pd.Categorical([3, 1, 3]),
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "maybe": pd.array([True, None, False], dtype="boolean"),
            "real": pd.array([1.5, None, 2.5], dtype="Float32"),
            "complex": [1j, 2, 3],
        }
    )


FRAMES = {
    "all": frame(),
    "no rows": frame().iloc[:0],
    "no columns": pd.DataFrame(index=range(3)),
    "nothing": pd.DataFrame(),
    "text index": frame().set_index("text"),
    "dates": pd.DataFrame({"a": [1, 2]}, pd.date_range("2026", periods=2, freq="D", name="d")),
    "two levels": frame().set_index(["kind", "int"]),
    "levels of columns": pd.DataFrame([[1, 2]], columns=[["a", "a"], ["b", "c"]]),
    "twice the same": pd.DataFrame([[1, "x"]], columns=["a", "a"]),
    "numbers as columns": pd.DataFrame(np.eye(3)),
    "mixed columns": pd.DataFrame([[1, 2, 3]], columns=["a", 1, None]),
    "named columns": pd.DataFrame({"a": [1]}).rename_axis(columns="c"),
    "a part": pd.DataFrame({"a": range(10)}).iloc[2:8:2],
    "counted": pd.DataFrame({"g": ["a", "b", "a"], "n": [1, 2, 3]}).groupby("g").agg(["sum"]),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_come_back(name: str) -> None:
    found = back(FRAMES[name])
    assert_frame_equal(
        found, FRAMES[name], check_freq=True, check_column_type="exact", check_index_type="exact"
    )
    if len(found.columns):
        found.iloc[:, :1] = found.iloc[:, :1]  # can be written to


@pytest.mark.parametrize("column", frame().columns)
def test_series_come_back(column: str) -> None:
    assert_series_equal(back(frame()[column]), frame()[column])


@given(st.lists(st.text() | st.none(), max_size=20), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back(texts: list[str | None], extra: int) -> None:
    try:
        "".join(text or "" for text in texts).encode()
    except UnicodeEncodeError:
        return
    value = pd.Series(texts, dtype="str", name="a" * extra)
    assert_series_equal(back(value), value)


def test_it_is_arrow_that_others_read() -> None:
    value = frame()
    table = arrow.ipc.open_stream(io.BytesIO(dump(value, "x")[1])).read_all()
    table.validate(full=True)
    assert table.column_names == list(value.columns)
    read = table.drop_columns(["complex"]).to_pandas()
    same = ["int", "small", "float", "bool", "text", "kind", "date", "span", "zone", "number"]
    assert read["whole"].tolist()[::2] == [1, 3] and read["whole"].isna().tolist()[1]
    for name in same:
        assert_series_equal(read[name], value[name], check_dtype=name != "zone")


def test_arrow_of_others_is_read() -> None:
    words = {"kind": "array", "shape": [3], "dtype": "<i8"}
    schema = arrow.schema([("values", arrow.int64())]).with_metadata({"lis": json.dumps(words)})
    sink = io.BytesIO()
    with arrow.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(arrow.record_batch([[1, 2, 3]], schema=schema))
    assert load("arrow", sink.getvalue(), "x").tolist() == [1, 2, 3]


def test_damage_is_refused_or_harmless() -> None:
    """Bytes changed and lost, wherever they are: nothing but NotCopied comes of it."""
    random.seed(1)
    sources = [dump(value, "x")[1] for value in (frame(), ARRAYS[0], frame().set_index("kind"))]
    for data in sources:
        for at in [*range(0, len(data), 7), *random.choices(range(len(data)), k=500)]:
            for byte in (0, 0x7F, 0xFF):
                damaged = data[:at] + bytes([byte]) + data[at + 1 :]
                with contextlib.suppress(NotCopied):
                    load("arrow", damaged, "x")
        for cut in range(0, len(data) - 8, 11):
            with pytest.raises(NotCopied):
                load("arrow", data[:cut], "x")


@pytest.mark.parametrize(
    "words",
    [
        {"kind": "array", "shape": [3], "dtype": "|O"},
        {"kind": "array", "shape": [10**12], "dtype": "<i8"},
        {"kind": "array", "shape": [-1, -3], "dtype": "<i8"},
        {"kind": "array", "shape": [3], "dtype": "<i8,<i8"},
        {"kind": "series", "columns": ["object"], "name": "a", "index": {"range": [0, 3, 1]}},
        {"kind": "series", "columns": [{"zone": "dateutil//etc/passwd", "unit": "ns"}]},
        {"kind": "frame", "columns": [], "index": {"range": [0, 10**15, 1], "names": [None]}},
        {"kind": "other"},
        {},
    ],
)
def test_words_that_lie_are_refused(words: dict[str, Any]) -> None:
    made = arrays.column("values", np.arange(3), "x")
    data = arrays.stream(words.pop("kind", "frame"), [made], 3, words)
    with pytest.raises(NotCopied):
        load("arrow", data, "x")


@pytest.mark.parametrize("values_at", [0, 8])
def test_columns_that_share_their_data_are_refused(
    values_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand columns over the same 256 MB would be as many copies of it."""
    made = [arrays.column("values", np.arange(3), "x")] * 2
    places = [(0, 0), (0, 24), (0, 0), (values_at, 24)]
    batch = [("q", 3), ("pairs", [(3, 0)] * 2), ("pairs", places)]
    monkeypatch.setattr("lis_kernel.values.arrow._batch", lambda *_: (batch, [bytes(32)]))
    with pytest.raises(ValueError, match="over each other"):
        arrays.read(arrays.stream("frame", made, 3, {}))


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff", b"x" * 100])
def test_what_is_no_value_is_refused(data: bytes) -> None:
    for form in ("json", "arrow"):
        with pytest.raises(NotCopied):
            load(form, data, "x")


def test_much_plain_data_is_refused() -> None:
    with pytest.raises(NotCopied, match="as a file"):
        dump(["x" * 1000] * 21_000, "x")
