"""`execute_python`: code becomes a cell as it is, with everything that a notebook cell can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lis_kernel.errors import ToolError
from lis_kernel.tools.literal import has_surrogate
from lis_kernel.tools.observation import observe
from lis_kernel.tools.schema import check
from lis_kernel.types import CellResult, Observation, ToolSpec

__all__ = ["ExecutePython"]


class ExecutePython:
    """Runs Python in the notebook's own kernel.

    Args:
        cell_seconds: the time limit that the model is told of.
    """

    def __init__(self, cell_seconds: float = 120.0) -> None:
        self.spec = ToolSpec(
            name="execute_python",
            description=(
                "Run Python code as a cell of a Jupyter notebook. Variables, imports and functions "
                "are still there at the next call. You see what it prints, the value of its last "
                "expression and any traceback; long output is cut in the middle, and the text says "
                "in which file all of it lies. Standard input is closed. A cell is stopped after "
                f"{cell_seconds:g} seconds. The shell of execute_bash sees the same files, but not "
                "these variables."
            ),
            parameters={
                "type": "object",
                "properties": {"code": {"type": "string", "description": "The code of the cell."}},
                "required": ["code"],
            },
        )

    def to_cell(self, arguments: Mapping[str, Any]) -> str:
        code: str = check(self.spec, arguments)["code"]
        if not code.strip():
            raise ToolError("execute_python: 'code' is empty. Write the code to run.")
        if has_surrogate(code):
            raise ToolError(
                "execute_python: 'code' holds half of a surrogate pair, which Python cannot "
                "compile. Write it as an escape, such as '\\ud83d', inside a string."
            )
        return code

    def to_observation(self, result: CellResult) -> Observation:
        return observe(result, "python")
