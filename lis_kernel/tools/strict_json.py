"""JSON as every reader takes it: Python alone reads and writes bare `NaN` and `Infinity`.

What is sent tells of notebooks and outputs that anybody may have written, so a number that is none
becomes null instead of taking all that it is sent with away from a browser or from `jq`.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["json_text"]


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON; numbers that are not finite are null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(finite, indent=indent, allow_nan=False)
