"""The two tool sets: the paper's three tools, and those with a notebook's Python beside them."""

from __future__ import annotations

from lis_kernel.errors import ConfigError
from lis_kernel.protocols import Tool
from lis_kernel.tools.execute_bash import ExecuteBash
from lis_kernel.tools.execute_python import ExecutePython
from lis_kernel.tools.str_replace_editor import StrReplaceEditor
from lis_kernel.tools.submit import Submit

__all__ = ["ALIASES", "toolset"]

ALIASES = {
    "bash": "execute_bash",
    "python": "execute_python",
    "file_editor": "str_replace_editor",
    "finish": "submit",
}
"""Other names that models were trained on: understood in a call, never offered."""


def toolset(name: str, cell_seconds: float = 120.0) -> dict[str, Tool]:
    """The tools of `paper` or `notebook`, by name, in the order in which they are offered.

    `cell_seconds` is the time limit that their descriptions name.

    Raises:
        ConfigError: there is no such set.
    """
    tools: list[Tool]
    if name == "paper":
        tools = [ExecuteBash(cell_seconds), StrReplaceEditor(), Submit(answer=False)]
    elif name == "notebook":
        tools = [
            ExecuteBash(cell_seconds),
            ExecutePython(cell_seconds),
            StrReplaceEditor(),
            Submit(answer=True),
        ]
    else:
        raise ConfigError("tools", f"unknown tool set {name!r}.", "Known: paper, notebook.")
    return {tool.spec.name: tool for tool in tools}
