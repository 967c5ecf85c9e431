"""`submit`: the call that ends a run; a cell `submit()`.

`guest/submit.py` looks whether there is an answer and prints a line that starts with "submitted",
or raises once if there is nothing. Only that line, from a cell that ended well, makes an
observation `done`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lis_kernel.tools.literal import literal
from lis_kernel.tools.observation import observe, stream_text
from lis_kernel.tools.schema import check
from lis_kernel.types import CellResult, Observation, ToolSpec

__all__ = ["Submit"]

_SUBMITTED = re.compile(r"^submitted\b", re.MULTILINE)


class Submit:
    """Ends the run.

    Args:
        answer: offer the optional argument `answer`; the paper's tool has none.
    """

    def __init__(self, *, answer: bool) -> None:
        description = (
            "End the task, when the answer or the files you were asked for are in "
            "/testbed/output. Nothing can be changed afterwards."
        )
        properties: dict[str, Any] = {}
        if answer:
            description += " A short answer can be given here; it is written to answer.txt there."
            properties["answer"] = {
                "type": "string",
                "description": "The answer, if it is not in /testbed/output/answer.txt yet.",
            }
        self.spec = ToolSpec(
            name="submit",
            description=description,
            parameters={"type": "object", "properties": properties, "required": []},
        )

    def to_cell(self, arguments: Mapping[str, Any]) -> str:
        answer = check(self.spec, arguments).get("answer")
        if answer is None:
            return "submit()"
        argument = literal(answer)
        if "\n" not in argument:
            return f"submit({argument})"
        return f"submit(\n    answer={argument},\n)"

    def to_observation(self, result: CellResult) -> Observation:
        observation = observe(result, "plain")
        done = result.status == "ok" and _SUBMITTED.search(stream_text(result, "stdout"))
        return observation.model_copy(update={"done": bool(done)})
