"""Whole runs with the real SDKs against a server that speaks each provider's protocol strictly.

Every fault ends in its stop reason, with a closed notebook, no answer and no sandbox left; and a
run of many turns goes through, thinking replayed unchanged, without one request that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from story import cells, check_notebook
from wire import Fail, Say, WireServer

from lis_kernel.agent import Agent
from lis_kernel.agent.context import POINTER
from lis_kernel.config import ModelConfig, RunConfig
from lis_kernel.errors import ModelAuth
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import StopReason, Task

pytestmark = pytest.mark.bwrap

S = StopReason
BASH = ("execute_bash", {"command": "echo hello"})
DONE = Say("Done.", thinking="That was it.", calls=[("submit", {"answer": "42"})])


@pytest.fixture(params=["anthropic", "openai"])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def run(
    out: Path, server: WireServer, provider: str, *, budget: Any = None, **model: Any
) -> Trajectory:
    """One run with the real client of `provider`; its notebook is checked."""
    url = server.url + ("/v1" if provider == "openai" else "")
    settings: dict[str, Any] = {"retries": 2, "context_window": 100_000, **model}
    config = RunConfig.model_validate(
        {
            "model": ModelConfig(name=f"{provider}/m", base_url=url, **settings),
            "budget": budget or {"turns": 20},
        }
    )
    trajectory = await Agent(config, out=out).arun(Task(prompt="Say 42."))
    check_notebook(trajectory.path, trajectory)
    return trajectory


async def test_a_run_of_many_turns(tmp_path: Path, provider: str) -> None:
    """Thinking, several calls, odd calls, prose alone: each request is one that the API takes."""
    script = [
        Say(
            "I look.", thinking="Where is it?", calls=[BASH, ("execute_python", {"code": "x = 6"})]
        ),
        Say(thinking="Now compute.", calls=[("execute_python", {"code": "print(x * 7)\nx"})]),
        Say("Only words, no call.", thinking="Hm."),
        Say(
            " ", thinking="Odd ones.", calls=[("execute_bash", '{"command": "ls'), ("no such!", [])]
        ),
        Say("Cut", calls=[("execute_bash", '{"comm')], finish="length"),
        Say(thinking="Cut in thought", finish="length"),
        Say("", calls=[("execute_bash", {"command": "printf '\\xff\\x00'; echo ä"}), BASH, BASH]),
        Say("", calls=[("str_replace_editor", {"command": "create", "path": "/testbed/a"})]),
        DONE,
    ]
    with WireServer(script) as server:
        trajectory = await run(tmp_path, server, provider)
    assert server.refused == []
    assert (trajectory.stop_reason, trajectory.answer) == (S.SUBMITTED, "42")
    assert len(server.requests) == len(trajectory.turns) == len(script)
    assert trajectory.turns[0].reply.reasoning == "Where is it?"
    last = str(server.requests[-1])
    assert "Where is it?" in last and "Odd ones." in last, "thinking goes back"
    assert "hello" in last and "42" in last
    assert trajectory.usage.total_tokens == len(script) * 120


async def test_code_blocks_over_the_wire(tmp_path: Path, provider: str) -> None:
    script = [
        Say("```bash\necho 42\n```\nand then", thinking="Hm."),
        Say("No block."),
        Say("```submit\n42\n```"),
    ]
    url_path = "/v1" if provider == "openai" else ""
    with WireServer(script) as server:
        config = RunConfig(
            model=ModelConfig(name=f"{provider}/m", base_url=server.url + url_path),
            protocol="blocks",
        )
        trajectory = await Agent(config, out=tmp_path).arun(Task(prompt="Say 42."))
    check_notebook(trajectory.path, trajectory)
    assert server.refused == []
    assert (trajectory.stop_reason, trajectory.answer) == (S.SUBMITTED, "42")
    assert all("tools" not in request for request in server.requests)


FAULTS: dict[str, tuple[Sequence[Say | Fail], StopReason, dict[str, Any]]] = {
    "429 then success": ([Fail(429), Fail(429), DONE], S.SUBMITTED, {}),
    "500 then success": ([Fail(500), DONE], S.SUBMITTED, {}),
    "cut then success": ([Say("Hello there", fault="cut"), DONE], S.SUBMITTED, {}),
    "garbage then success": ([Say("Hello", fault="garbage"), DONE], S.SUBMITTED, {}),
    "429 to the end": ([Fail(429)] * 9, S.MODEL_ERROR, {}),
    "500 to the end": ([Fail(500)] * 9, S.MODEL_ERROR, {}),
    "529 to the end": ([Fail(529)] * 9, S.MODEL_ERROR, {}),
    "cut streams": ([Say("Hello there", fault="cut")] * 9, S.MODEL_ERROR, {}),
    "streams that end early": ([Say("Hello there", fault="short")] * 9, S.MODEL_ERROR, {}),
    "garbage": ([Say("Hello", fault="garbage")] * 9, S.MODEL_ERROR, {}),
    "errors in the stream": ([Say("Hello", fault="error")] * 9, S.MODEL_ERROR, {}),
    "slow answers": ([Say("Hello", fault="hang")] * 9, S.MODEL_ERROR, {"timeout": 0.3}),
    "a huge answer": ([Say("Hello", fault="huge")], S.MODEL_ERROR, {}),
    "401": ([Fail(401)], S.MODEL_ERROR, {}),
    "403": ([Fail(403)], S.MODEL_ERROR, {}),
    "404": ([Fail(404)], S.MODEL_ERROR, {}),
    "no context left": ([Fail(400, "prompt is too long: 9 > 8")] * 9, S.CONTEXT_WINDOW, {}),
    "a small window": ([DONE], S.CONTEXT_WINDOW, {"context_window": 100}),
}


@pytest.mark.parametrize(
    ("turn", "fault"), [(1, "500 to the end"), (1, "cut streams"), *[(2, name) for name in FAULTS]]
)
async def test_faults(tmp_path: Path, provider: str, fault: str, turn: int) -> None:
    """At once, or after a good turn, whose file must not pass for a submitted answer."""
    script, reason, settings = FAULTS[fault]
    good = Say("", calls=[("execute_bash", {"command": "echo 41 > output/answer.txt"})])
    with WireServer([*[good] * (turn - 1), *script]) as server:
        trajectory = await run(tmp_path, server, provider, **settings)
    assert trajectory.stop_reason is reason, trajectory.detail
    if reason is S.SUBMITTED:
        assert (trajectory.answer, trajectory.detail) == ("42", "")
        return
    assert trajectory.detail, "the notebook says what went wrong"
    turns = 0 if fault == "a small window" else turn - 1
    assert len(trajectory.turns) == turns
    assert trajectory.answer == ("41" if turns else None)


async def test_a_slow_answer_meets_the_budget(tmp_path: Path, provider: str) -> None:
    with WireServer([Say("Hello", fault="hang")]) as server:
        trajectory = await run(tmp_path, server, provider, budget={"seconds": 2})
    assert (trajectory.stop_reason, trajectory.answer) == (S.TIMEOUT, None)


async def test_the_server_says_that_the_conversation_is_too_long(
    tmp_path: Path, provider: str
) -> None:
    """Old observations are dropped, and the run goes on."""
    long = Say("", calls=[("execute_python", {"code": "print('word ' * 500)"})])
    too_long = Fail(400, "This model's maximum context length is 9 tokens", "invalid")
    with WireServer([*[long] * 5, too_long, DONE]) as server:
        trajectory = await run(tmp_path, server, provider)
    assert server.refused == []
    assert (trajectory.stop_reason, trajectory.answer) == (S.SUBMITTED, "42")
    marked = POINTER.split("{", maxsplit=1)[0]
    assert marked not in str(server.requests[5])
    assert marked in str(server.requests[6])
    assert cells(trajectory, "turn")[-1]["metadata"]["lis_kernel"]["dropped"]


async def test_no_key_starts_nothing(tmp_path: Path, provider: str) -> None:
    with pytest.raises(ModelAuth, match="API_KEY"):
        await Agent(RunConfig(model=ModelConfig(name=f"{provider}/m")), out=tmp_path / "runs").arun(
            Task(prompt="x")
        )
    assert not (tmp_path / "runs").exists()


async def test_a_server_that_is_not_there(tmp_path: Path, provider: str) -> None:
    with WireServer([]) as server:
        pass
    trajectory = await run(tmp_path, server, provider, retries=0)
    assert (trajectory.stop_reason, trajectory.answer) == (S.MODEL_ERROR, None)
