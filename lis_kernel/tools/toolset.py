"""The two tool sets, the paper's and the one with a notebook's Python, and others beside them."""

from __future__ import annotations

from collections.abc import Sequence

from lis_kernel import registry
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


def toolset(name: str, cell_seconds: float = 120.0, more: Sequence[str] = ()) -> dict[str, Tool]:
    """The tools of `paper` or `notebook`, by name, in the order in which they are offered.

    `cell_seconds` is the time limit that their descriptions name. `more` names tools of other
    packages, see `registry.load`; each is made without arguments.

    Raises:
        ConfigError: there is no such set or tool, or a tool's name is taken.
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
    offered = {tool.spec.name: tool for tool in tools}
    for named in more:
        tool = registry.load(registry.TOOLS, named, "more_tools")()
        if tool.spec.name in {*offered, *ALIASES}:
            raise ConfigError("more_tools", f"{named!r}: there is a tool {tool.spec.name!r}.")
        offered[tool.spec.name] = tool
    return offered
