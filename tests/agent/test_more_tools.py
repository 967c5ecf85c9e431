"""A tool of somebody else's takes part in a run: offered, called, recorded as a cell of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from story import call, cells, reply, shown, submit, tell

from lis_kernel.errors import ConfigError
from lis_kernel.tools.observation import observe
from lis_kernel.types import StopReason, ToolSpec


class Double:
    """Doubles a number."""

    spec = ToolSpec(
        name="double",
        description="Double a number.",
        parameters={
            "type": "object",
            "properties": {"number": {"type": "integer"}},
            "required": ["number"],
        },
    )

    def to_cell(self, arguments):
        return f"{arguments['number']} * 2"

    def to_observation(self, result):
        return observe(result, "python")


NAMED = (f"{__name__}:Double",)


@pytest.mark.bwrap
async def test_it_is_called_and_its_cell_needs_nothing_of_its_package(tmp_path: Path) -> None:
    story = [
        reply(call("double", number=21)),
        reply(call("double", numbers=1)),
        reply(submit("42")),
    ]
    run, model = await tell(tmp_path, *story, more_tools=NAMED)
    assert (run.stop_reason, run.answer) == (StopReason.SUBMITTED, "42")
    assert [cell["source"] for cell in cells(run)] == ["21 * 2", 'submit("42")']
    assert run.metadata["config"]["more_tools"] == list(NAMED)
    assert "RESULT:\n42" in shown(model, 1)[0]
    assert shown(model, 2)[0].startswith("double has no argument 'numbers'")


async def test_code_blocks_cannot_call_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more_tools"):
        await tell(tmp_path, reply(submit()), more_tools=NAMED, protocol="blocks")
    assert not list(tmp_path.iterdir())
