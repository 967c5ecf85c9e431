"""Plain values as JSON, only those that come back as they were."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["NotCopied", "dump", "load"]

MOST_DEEP = 200
_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""Two characters that are no Unicode, of which JSON makes one that is."""
_INSTEAD = {
    "tuple": "make it a list",
    "set": "make it a sorted list",
    "frozenset": "make it a sorted list",
    "bytes": "give it as a file (%sandbox put), or decode it to text",
    "datetime": "give its text (.isoformat()), or put it into a data frame",
    "date": "give its text (.isoformat())",
    "Decimal": "give it as text or float",
    "complex": "put it into a numpy array",
    "OrderedDict": "make it a dict",
    "defaultdict": "make it a dict",
    "Path": "give it as text",
    "PosixPath": "give it as text",
    "function": "define it in the sandbox",
    "module": "import it in the sandbox",
    "DataFrame": "make it a pandas data frame (to_pandas())",
    "Series": "make it a pandas series (to_pandas())",
    "Tensor": "make it a numpy array (.numpy())",
    "Index": "make it a series or a list",
    "generic": "make it Python's own (.item())",
    "ndarray": "make it a list (.tolist()), or copy it by itself",
    "timedelta": "give its seconds (.total_seconds())",
    "range": "make it a list",
    "deque": "make it a list",
    "list": "make it a plain list",
    "dict": "make it a plain dict",
    "str": "make it a plain str",
    "int": "make it a plain int",
    "float": "make it a plain float",
}
"""By the name of a class, or of one that it is made from."""


class NotCopied(ValueError):
    """A value that cannot be copied; the message names it and says what to do."""


def dump(value: Any, name: str) -> bytes:
    """`value` as JSON.

    Raises:
        NotCopied: it would not come back the same.
    """
    _check(value, name, 0)
    try:
        return json.dumps(value, separators=(",", ":")).encode("ascii")
    except ValueError as error:  # an integer of more digits than Python writes
        raise NotCopied(f"{name} cannot be copied: {error}") from error


def _check(value: Any, path: str, depth: int) -> None:
    kind = type(value)
    if value is None or kind in (bool, int, float):
        return
    if kind is str:
        if _HALVES.search(value):
            raise NotCopied(f"{path[:200]} is text that is no Unicode: encode it anew, or clean it")
        return
    if depth == MOST_DEEP:
        raise NotCopied(f"{path[:200]}… is nested too deeply, or holds itself: copy a part of it")
    if kind is list:
        for n, item in enumerate(value):
            _check(item, f"{path}[{n}]", depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise NotCopied(
                    f"{path} has the key {_short(key)}, and keys must be text to be copied: "
                    "make it a list of pairs, or a series"
                )
            _check(key, f"a key of {path}", depth + 1)
            _check(item, f"{path}[{_short(key)}]", depth + 1)
    else:
        raise NotCopied(
            f"{path[:200]} is a {kind.__module__}.{kind.__qualname__}, which is not copied "
            f"(no pickle crosses the wall): {_instead(kind)}"
        )


def _instead(kind: type) -> str:
    """What to do with a value of this kind."""
    if kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in ("DataFrame", "Series"):
        return "copy it by itself, under a name of its own"
    known = (_INSTEAD[base.__name__] for base in kind.__mro__ if base.__name__ in _INSTEAD)
    return next(known, "give its parts as text, numbers, lists and dicts")


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}…"


def load(data: bytes, name: str) -> Any:
    """The value of `dump`'s bytes. Raises NotCopied: they are no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotCopied(f"{name} cannot be read: {type(error).__name__}: {error}") from error
