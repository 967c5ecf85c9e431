"""From what a model wrote to a call that can be carried out, or to a text that says what to mend.

Called by the agent loop for every `RawCall`. Only slips with a single possible meaning are mended;
everything else is a `ToolError`, which becomes the answer to that call. Garbage is never turned
into a call, least of all into a `submit`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from lis_kernel.errors import ToolError
from lis_kernel.protocols import Tool
from lis_kernel.tools.schema import check, name_of
from lis_kernel.tools.toolset import ALIASES
from lis_kernel.types import RawCall, ToolCall

__all__ = ["understand"]


def understand(raw: RawCall, tools: Mapping[str, Tool]) -> ToolCall:
    """The call that `raw` stands for. Its cell has been built once, so it can be built.

    Raises:
        ToolError: it stands for none; the text tells the model what to write instead.
    """
    name = _tool_name(raw.name, tools)
    spec = tools[name].spec
    known = spec.parameters.get("properties", {})
    arguments = _object(raw.arguments, name)
    if _is_whole_call(arguments, name):
        arguments = _object(arguments["arguments"], name)
    if not arguments:  # some models put them beside the name
        arguments = {key: value for key, value in raw.extra.items() if key in known}
    if not spec.parameters.get("required"):  # as in submit: what is said beside it does no harm
        arguments = {key: value for key, value in arguments.items() if key in known}
    arguments = check(spec, arguments)
    tools[name].to_cell(arguments)
    return ToolCall(id=raw.id, name=name, arguments=arguments)


def _tool_name(written: str, tools: Mapping[str, Tool]) -> str:
    written = written.strip()
    name = ALIASES.get(written, written) if written not in tools else written
    if name in tools:
        return name
    near = difflib.get_close_matches(written[:100].lower(), [*tools, *ALIASES], n=1)
    guess = ALIASES.get(near[0], near[0]) if near else ""
    hint = f" Did you mean {guess}?" if guess in tools else ""
    raise ToolError(f"There is no tool {written!r:.100}. The tools are: {', '.join(tools)}.{hint}")


def _object(arguments: Any, name: str) -> dict[str, Any]:
    """The arguments as an object; nothing at all is an empty one."""
    if isinstance(arguments, str):
        arguments = _parsed(arguments, name)
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise ToolError(f"{name}: the arguments must be a JSON object, not {name_of(arguments)}.")
    return arguments


def _parsed(text: str, name: str) -> Any:
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    if not text:
        return None
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        raise ToolError(
            f"{name}: the arguments are not valid JSON ({error.msg} at line {error.lineno}, column "
            f"{error.colno}). Nothing was run. Write one JSON object; inside strings, escape "
            f"quotes, backslashes and newlines."
        ) from None
    except (ValueError, RecursionError):  # an integer of thousands of digits; endless nesting
        raise ToolError(f"{name}: the arguments cannot be read. Nothing was run.") from None


def _is_whole_call(arguments: Mapping[str, Any], name: str) -> bool:
    """True if the model wrote name and arguments once more inside the arguments."""
    inner = arguments.get("name")
    return (
        arguments.keys() == {"name", "arguments"}
        and isinstance(inner, str)
        and ALIASES.get(inner, inner) == name
    )
