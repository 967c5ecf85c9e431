"""Arrow's streaming format, as much of it as tables of ours need: one batch of flat columns.

https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
Its messages are flatbuffers, of which `_Writer` and `_Table` know just enough. A reader of any
library can read what is written here; what is read may be hostile, so each place is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Column", "read", "write"]

Data = bytes | memoryview
UNITS = ("s", "ms", "us", "ns")
V5 = 4
SCHEMA, DICTIONARY, BATCH = 1, 2, 3
INT, FLOAT, BOOL, STAMP, FIXED, SPAN, TEXT = 2, 3, 6, 10, 15, 18, 20
CONTINUED = 0xFFFFFFFF
MOST_COLUMNS = 100_000
MOST_PAIRS = 16
MOST_TEXT = 10_000_000
"""Characters of one text beside the columns; many places may name the same one."""
MOST_ZONE = 100


@dataclass
class Column:
    """One column.

    `name` is for other readers; `read` leaves it empty. `kind` is `bool`, `i1` … `i8`, `u1` … `u8`,
    `f2` … `f8` (bytes of a number), `text`, `fixed:N` (N bytes each), `stamp:UNIT:ZONE` or
    `span:UNIT`. `buffers` are the values, for `text` offsets of 8 bytes and UTF-8; `valid` is a
    bitmap or None. With a `dictionary` the values are places in it.
    """

    name: str
    kind: str
    length: int
    buffers: Sequence[Data]
    valid: Data | None = None
    nulls: int = 0
    dictionary: Column | None = None
    ordered: bool = False


# -- writing ---------------------------------------------------------------------------------


def write(columns: Sequence[Column], length: int, words: dict[str, str]) -> bytes:
    """A stream of one batch; `words` stand in the schema's metadata."""
    fields = [_field(column, n) for n, column in enumerate(columns)]
    pairs = [("table", [("text", key), ("text", value)]) for key, value in words.items()]
    schema = [("h", 0), ("tables", fields), ("tables", pairs)]
    out = [_message(SCHEMA, schema, [])]
    for n, column in enumerate(columns):
        if column.dictionary is not None:
            inner, body = _batch([column.dictionary], column.dictionary.length)
            out.append(_message(DICTIONARY, [("q", n), ("table", inner)], body))
    batch, body = _batch(columns, length)
    out += [_message(BATCH, batch, body), struct.pack("<II", CONTINUED, 0)]
    return b"".join(out)


def _field(column: Column, number: int) -> tuple[str, Any]:
    dictionary = None
    kind, words = _type(column.kind)
    if column.dictionary is not None:
        index = ("table", words)
        dictionary = ("table", [("q", number), index, ("B", int(column.ordered))])
        kind, words = _type(column.dictionary.kind)
    return "table", [
        *(("text", column.name), ("B", 1), ("B", kind), ("table", words), dictionary),
        ("tables", []),
    ]


def _type(kind: str) -> tuple[int, list[tuple[str, Any]]]:
    head, _, rest = kind.partition(":")
    if head == "bool":
        return BOOL, []
    if head == "text":
        return TEXT, []
    if head == "fixed":
        return FIXED, [("i", int(rest))]
    if head == "stamp":
        unit, _, zone = rest.partition(":")
        return STAMP, [("h", UNITS.index(unit)), *([("text", zone)] if zone else [])]
    if head == "span":
        return SPAN, [("h", UNITS.index(rest))]
    if head[0] == "f":
        return FLOAT, [("h", {"2": 0, "4": 1, "8": 2}[head[1]])]
    return INT, [("i", 8 * int(head[1])), ("B", int(head[0] == "i"))]


def _batch(columns: Sequence[Column], length: int) -> tuple[list[tuple[str, Any]], list[Data]]:
    nodes, places, body, at = [], [], [], 0
    for column in columns:
        nodes.append((column.length, column.nulls))
        for data in (column.valid or b"", *column.buffers):
            size = len(data)
            padding = bytes(-size % 8)
            places.append((at, size))
            body += [data, padding]
            at += size + len(padding)
    return [("q", length), ("pairs", nodes), ("pairs", places)], body


def _message(kind: int, header: list[Any], body: Sequence[Data]) -> bytes:
    size = sum(len(part) for part in body)
    message = _Writer([("h", V5), ("B", kind), ("table", header), ("q", size)]).data
    message.extend(bytes(-len(message) % 8))
    return b"".join([struct.pack("<Ii", CONTINUED, len(message)), message, *body])


class _Writer:
    """A flatbuffer: a table is a list of slots, each None or its kind and value."""

    def __init__(self, root: list[Any]) -> None:
        self.data = bytearray(4)
        struct.pack_into("<I", self.data, 0, self._table(root))

    def _align(self, size: int, beyond: int = 0) -> None:
        self.data.extend(bytes(-(len(self.data) + beyond) % size))

    def _table(self, slots: list[Any]) -> int:
        self._align(8)
        index = len(self.data)
        self.data.extend(bytes(4 + 2 * len(slots)))
        self._align(8)
        start = len(self.data)
        self.data.extend(struct.pack("<i", start - index))
        later = []
        for n, slot in enumerate(slots):
            if slot is None:
                continue
            kind, value = slot
            flat = len(kind) == 1
            self._align(struct.calcsize(kind) if flat else 4)
            struct.pack_into("<H", self.data, index + 4 + 2 * n, len(self.data) - start)
            if not flat:
                later.append((len(self.data), kind, value))
            self.data.extend(struct.pack(f"<{kind}", value) if flat else bytes(4))
        struct.pack_into("<HH", self.data, index, 4 + 2 * len(slots), len(self.data) - start)
        for place, kind, value in later:
            self._refer(place, kind, value)
        return start

    def _refer(self, place: int, kind: str, value: Any) -> None:
        at = self._table(value) if kind == "table" else self._vector(kind, value)
        struct.pack_into("<I", self.data, place, at - place)

    def _vector(self, kind: str, value: Any) -> int:
        if kind == "text":
            value = value.encode("utf-8")
        self._align(8, beyond=4)  # what follows the count must be aligned
        at = len(self.data)
        self.data.extend(struct.pack("<I", len(value)))
        if kind == "text":
            self.data.extend(value + b"\0")
        elif kind == "pairs":
            for pair in value:
                self.data.extend(struct.pack("<qq", *pair))
        else:
            first = len(self.data)
            self.data.extend(bytes(4 * len(value)))
            for n, (_, slots) in enumerate(value):
                self._refer(first + 4 * n, "table", slots)
        return at


# -- reading ---------------------------------------------------------------------------------


def read(data: bytes) -> tuple[list[Column], dict[str, str]]:
    """The columns and words of such a stream.

    Raises:
        ValueError: it is none, or holds what `write` never writes.
    """
    view = memoryview(data)
    dictionaries: dict[int, list[Column]] = {}
    columns: list[Column] = []
    at = 0
    for _ in range(MOST_COLUMNS):
        mark, size = _unpack(view, "<Ii", at)
        if mark != CONTINUED or size < 0:
            raise ValueError("not an Arrow stream")
        if size == 0:
            break
        message = _Table(view[at + 8 : at + 8 + size])
        length = message.number(3, "q")
        at += 8 + size
        if not 0 <= length <= len(view) - at:
            raise ValueError("a part is missing")
        body = view[at : at + length]
        at += length
        kind, header = message.number(1, "B"), message.table(2)
        if kind == SCHEMA and not columns:
            columns = [_column(field, dictionaries) for field in header.tables(1)]
            words = {pair.text(0): pair.text(1) for pair in header.tables(2)[:MOST_PAIRS]}
        elif kind == DICTIONARY:
            _fill(header.table(1), body, dictionaries[header.number(0, "q")])
        elif kind == BATCH:
            _fill(header, body, columns)
            return columns, words
    raise ValueError("no batch in the stream")


def _column(field: _Table, dictionaries: dict[int, list[Column]]) -> Column:
    kind = _kind(field.number(2, "B"), field.table(3))
    if not field.has(4):
        return Column("", kind, 0, ())
    encoding = field.table(4)
    number = encoding.number(0, "q")
    values = Column("", kind, 0, ())
    dictionaries.setdefault(number, []).append(values)
    index = _kind(INT, encoding.table(1))
    ordered = bool(encoding.number(2, "B"))
    return Column("", index, 0, (), dictionary=values, ordered=ordered)


def _kind(kind: int, words: _Table) -> str:
    if kind == INT:
        bits = words.number(0, "i")
        if bits not in (8, 16, 32, 64):
            raise ValueError(f"an integer of {bits} bits")
        return ("i" if words.number(1, "B") else "u") + str(bits // 8)
    if kind == FLOAT:
        return ("f2", "f4", "f8")[words.number(0, "h")]
    if kind in (STAMP, SPAN):
        unit = UNITS[words.number(0, "h", 0 if kind == STAMP else 1)]
        zone = words.text(1, MOST_ZONE) if kind == STAMP and words.has(1) else ""
        return f"stamp:{unit}:{zone}" if kind == STAMP else f"span:{unit}"
    if kind == FIXED:
        return f"fixed:{words.number(0, 'i')}"
    if kind in (BOOL, TEXT):
        return "bool" if kind == BOOL else "text"
    raise ValueError(f"columns of Arrow's type {kind} are not read here")


def _fill(batch: _Table, body: memoryview, columns: list[Column]) -> None:
    if batch.has(3):
        raise ValueError("compressed")
    nodes, places = batch.pairs(1), iter(batch.pairs(2))
    if len(nodes) != len(columns):
        raise ValueError("columns are missing")
    left = len(body)
    for column, (length, nulls) in zip(columns, nodes, strict=True):
        if not 0 <= nulls <= length <= 8 * len(body):
            raise ValueError("a length that the data does not have")
        column.length, column.nulls = length, nulls
        needed = [(length + 7) // 8, *_sizes(column.kind, length)]
        buffers: list[memoryview] = []
        for size in needed:
            at, there = next(places, (-1, 0))
            if at < 0 or there < 0 or at + there > len(body):
                raise ValueError("values outside the data")
            if there < size and (buffers or there):
                raise ValueError("values are missing")
            if (left := left - there) < 0:  # each column would be a copy of the same
                raise ValueError("values that lie over each other")
            # the text's own length is in its offsets
            buffers.append(body[at : at + (size if size >= 0 else there)])
        column.valid = buffers[0] if nulls else None
        if nulls and len(buffers[0]) < needed[0]:
            raise ValueError("values are missing")
        column.buffers = buffers[1:]


def _sizes(kind: str, length: int) -> list[int]:
    """Bytes of each buffer, -1 where they are not known."""
    head, _, rest = kind.partition(":")
    if head == "bool":
        return [(length + 7) // 8]
    if head == "text":
        return [8 * (length + 1) if length else 0, -1]
    if head == "fixed":
        return [length * int(rest)]
    return [length * (8 if head in ("stamp", "span") else int(head[1]))]


def _unpack(data: memoryview, kind: str, at: int) -> tuple[Any, ...]:
    if not 0 <= at <= len(data) - struct.calcsize(kind):
        raise ValueError("it ends too early, or points outside itself")
    return struct.unpack_from(kind, data, at)


class _Table:
    """One table of a flatbuffer."""

    def __init__(self, data: memoryview, at: int | None = None) -> None:
        self._data = data
        self._at = _unpack(data, "<I", 0)[0] if at is None else at
        self._index = self._at - _unpack(data, "<i", self._at)[0]
        self._size = _unpack(data, "<H", self._index)[0]

    def _slot(self, number: int) -> int | None:
        """Where the field is, or None."""
        place = 4 + 2 * number
        if place + 2 > self._size:
            return None
        offset = _unpack(self._data, "<H", self._index + place)[0]
        return self._at + offset if offset else None

    def has(self, number: int) -> bool:
        return self._slot(number) is not None

    def number(self, number: int, kind: str, default: int = 0) -> int:
        at = self._slot(number)
        return default if at is None else int(_unpack(self._data, f"<{kind}", at)[0])

    def _target(self, number: int) -> int:
        at = self._slot(number)
        if at is None:
            raise ValueError("a field is missing")
        return at + int(_unpack(self._data, "<I", at)[0])

    def table(self, number: int) -> _Table:
        return _Table(self._data, self._target(number))

    def _vector(self, number: int, width: int) -> tuple[int, int]:
        """Where the items are, and how many."""
        if not self.has(number):
            return 0, 0
        at = self._target(number)
        count = int(_unpack(self._data, "<I", at)[0])
        if count * width > len(self._data) - at - 4:
            raise ValueError("a list that goes on outside the data")
        return at + 4, count

    def text(self, number: int, most: int = MOST_TEXT) -> str:
        at, count = self._vector(number, 1)
        if count > most:
            raise ValueError("a text that is too long")
        return bytes(self._data[at : at + count]).decode("utf-8")

    def tables(self, number: int) -> list[_Table]:
        at, count = self._vector(number, 4)
        if count > MOST_COLUMNS:
            raise ValueError(f"{count} columns")
        places = range(at, at + 4 * count, 4)
        return [_Table(self._data, p + int(_unpack(self._data, "<I", p)[0])) for p in places]

    def pairs(self, number: int) -> list[tuple[int, int]]:
        at, count = self._vector(number, 16)
        return list(struct.iter_unpack("<qq", self._data[at : at + 16 * count])) if count else []
