"""`str_replace_editor`: a call becomes a plain Python call of the editor in the sandbox.

The editor itself is `guest/editor.py`, whose text stands in the notebook's setup cell. Here are
only the schema and the writing of the call, one argument per line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lis_kernel.tools.literal import literal
from lis_kernel.tools.observation import observe
from lis_kernel.tools.schema import check
from lis_kernel.types import CellResult, Observation, ToolSpec

__all__ = ["StrReplaceEditor"]


class StrReplaceEditor:
    """Views and edits text files; the paper's tool, with its parameters."""

    spec = ToolSpec(
        name="str_replace_editor",
        description=(
            "View, create and edit text files; an edit lasts for the whole task. "
            "`view` shows a file with numbered lines (10,000 characters at most: use view_range "
            "for more) or a folder, two levels deep. `create` writes file_text to path, makes "
            "missing folders and replaces a file that is already there. `str_replace` puts "
            "new_str in place of old_str, which must occur exactly once, blanks and line ends "
            "included. `insert` puts new_str, as whole lines, after line insert_line."
        ),
        parameters={
            "type": "object",
            "properties": {
                "command": {
                    "type": "string",
                    "enum": ["view", "create", "str_replace", "insert"],
                    "description": "What to do.",
                },
                "path": {
                    "type": "string",
                    "description": "Absolute path of the file, or of the folder to view.",
                },
                "file_text": {
                    "type": "string",
                    "description": "For create: the whole content of the file.",
                },
                "old_str": {
                    "type": "string",
                    "description": "For str_replace: the text to replace.",
                },
                "new_str": {
                    "type": "string",
                    "description": "For str_replace (left out: delete old_str) and insert.",
                },
                "insert_line": {
                    "type": "integer",
                    "description": "For insert: the line to insert after; 0 is the top.",
                },
                "view_range": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "description": "For view: first and last line, such as [1, 40]; -1 is the end.",
                },
            },
            "required": ["command", "path"],
        },
    )

    def to_cell(self, arguments: Mapping[str, Any]) -> str:
        given = check(self.spec, arguments)
        # The command stands alone on line 2: IPython takes what looks like a prompt there for one.
        lines = ["str_replace_editor(", f"    {literal(given.pop('command'))},"]
        for name, value in given.items():
            lines.append(f"    {name}={literal(value) if isinstance(value, str) else repr(value)},")
        return "\n".join([*lines, ")"])

    def to_observation(self, result: CellResult) -> Observation:
        return observe(result, "plain")
