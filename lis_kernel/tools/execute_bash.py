"""`execute_bash`: a command becomes a `%%bash` cell.

The sandbox's kernel gives `%%bash` one persistent shell; a stock kernel runs each such cell in a
shell of its own. Either way the notebook shows the command as the model wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lis_kernel.errors import ToolError
from lis_kernel.tools.literal import has_surrogate, is_verbatim, literal
from lis_kernel.tools.observation import observe
from lis_kernel.tools.schema import check
from lis_kernel.types import CellResult, Observation, ToolSpec

__all__ = ["ExecuteBash"]


class ExecuteBash:
    """Runs a shell command; the paper's tool, with its parameters.

    Args:
        cell_seconds: the time limit that the model is told of.
    """

    def __init__(self, cell_seconds: float = 120.0) -> None:
        self.spec = ToolSpec(
            name="execute_bash",
            description=(
                "Run a bash command. It is one shell for the whole task: the directory, exported "
                "variables, functions and background jobs are still there at the next call, and "
                "so are files. Standard input is closed, so a command must not ask questions. A "
                f"command is stopped after {cell_seconds:g} seconds; start longer work in the "
                "background with its output in a file. You see the exit code, stdout and stderr; "
                "long output is cut in the middle, and the text says in which file all of it lies."
            ),
            parameters={
                "type": "object",
                "properties": {
                    "command": {
                        "type": "string",
                        "description": "The command, of one or several lines.",
                    }
                },
                "required": ["command"],
            },
        )

    def to_cell(self, arguments: Mapping[str, Any]) -> str:
        command: str = check(self.spec, arguments)["command"]
        if not command.strip():
            raise ToolError("execute_bash: 'command' is empty. Write the command to run.")
        if "\0" in command or has_surrogate(command):
            raise ToolError(
                "execute_bash: 'command' holds a NUL character or half of a surrogate pair, "
                "which bash cannot take. Let printf or python3 make such bytes."
            )
        if is_verbatim(command):
            return f"%%bash\n{command}"
        # What `%%bash` stands for, written out: a cell's plain lines would not arrive unchanged.
        return f'get_ipython().run_cell_magic(\n    "bash",\n    "",\n    {literal(command)},\n)'

    def to_observation(self, result: CellResult) -> Observation:
        return observe(result, "shell")
