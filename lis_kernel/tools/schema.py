"""Checking a call's arguments against its tool's JSON schema, in words that a model can act on.

Only the part of JSON schema that tools use: `type`, `enum`, `items`, `properties`, `required`.
Two slips of weak models are mended because they can mean only one thing: a number or a list
written as a string, and null for an argument that may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lis_kernel.errors import ToolError
from lis_kernel.types import ToolSpec

__all__ = ["check", "name_of"]

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (Mapping,),
}
_NAMES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}


def check(spec: ToolSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with the slips mended, in the schema's order.

    Raises:
        ToolError: an argument is unknown, missing or of the wrong type; names it.
    """
    properties: Mapping[str, Any] = spec.parameters.get("properties", {})
    required = spec.parameters.get("required", ())
    unknown = [name for name in arguments if name not in properties]
    if unknown:
        known = ", ".join(properties) or "none"
        raise ToolError(f"{spec.name} has no argument {unknown[0]!r:.80}. Its arguments: {known}.")
    checked = {}
    for name, schema in properties.items():
        value = arguments.get(name)
        if value is not None:
            checked[name] = _fit(value, schema, f"{spec.name}: argument {name!r}")
        elif name in required:
            raise ToolError(f"{spec.name}: the required argument {name!r} is missing.")
    return checked


def _fit(value: Any, schema: Mapping[str, Any], where: str) -> Any:
    """`value`, mended if need be, as `schema` wants it."""
    wanted = schema.get("type")
    if wanted in _TYPES:
        value = _mend(value, wanted)
        is_bool = isinstance(value, bool)  # an int to Python, not to JSON
        if not isinstance(value, _TYPES[wanted]) or (is_bool and wanted != "boolean"):
            raise ToolError(f"{where} must be {_NAMES[wanted]}, not {name_of(value)}.")
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(str(choice) for choice in schema["enum"])
        raise ToolError(f"{where} is {value!r:.80}; it must be one of: {allowed}.")
    if wanted == "array" and "items" in schema:
        return [_fit(item, schema["items"], f"{where}, item {n}") for n, item in enumerate(value)]
    return value


def _mend(value: Any, wanted: str) -> Any:
    if isinstance(value, str) and wanted in ("integer", "number", "array"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    if wanted == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def name_of(value: Any) -> str:
    """What `value` is, in JSON's words."""
    if value is None:
        return "null"
    for name in ("boolean", *_NAMES):  # boolean first: to Python it is an integer too
        if isinstance(value, _TYPES[name]):
            return _NAMES[name]
    return f"a {type(value).__name__}"
