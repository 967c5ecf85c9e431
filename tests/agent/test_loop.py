"""The loop, told as stories: a real sandbox and kernel, a scripted model, every oddity of replies.

Each story's conversation goes through both providers' strict checks, each notebook through
`story.check_notebook`, and the autouse fixture sees that nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from leftovers import processes_of
from story import (
    CheckedModel,
    bash,
    call,
    cells,
    check_notebook,
    python,
    reply,
    shown,
    submit,
    tell,
)

from lis_kernel.agent import Agent, events
from lis_kernel.config import Budget, Limits, ModelConfig, RunConfig, SandboxConfig
from lis_kernel.errors import ConfigError, ModelUnavailable, SandboxUnavailable
from lis_kernel.models.scripted import ScriptedModel
from lis_kernel.protocols import OnText
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.trajectory import load
from lis_kernel.trajectory.notebook import KEY
from lis_kernel.types import Message, RawCall, Reply, StopReason, Task, ToolSpec, Usage

pytestmark = pytest.mark.bwrap

S = StopReason
NUMBERS = list(range(1, 40))


# -- the whole way ---------------------------------------------------------------------------


async def test_a_task_goes_to_an_answer_files_and_a_notebook(tmp_path: Path) -> None:
    data = tmp_path / "numbers of mine.txt"
    data.write_text("\n".join(map(str, NUMBERS)))
    folder = tmp_path / "more"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("A")
    seen: list[events.Event] = []
    run, model = await tell(
        tmp_path / "runs",
        reply(bash("cd input && ls -1 . more/deep && export WORD=kept"), text="I look."),
        reply(
            python("numbers = [int(line) for line in open('/testbed/input/numbers of mine.txt')]")
        ),
        reply(bash("pwd; echo $WORD")),
        reply(call("str_replace_editor", command="create", path="/testbed/a.py", file_text="x\n")),
        reply(
            call(
                "str_replace_editor",
                command="str_replace",
                path="/testbed/a.py",
                old_str="x",
                new_str="print('edited')",
            )
        ),
        reply(bash("python3 /testbed/a.py > /testbed/output/said.txt")),
        reply(python("total = sum(numbers)\ntotal")),
        reply(submit(str(sum(NUMBERS))), text="Done."),
        prompt="Add up the numbers.",
        files=[data, folder],
        on_event=seen.append,
    )
    assert (run.stop_reason, run.answer, run.detail) == (S.SUBMITTED, str(sum(NUMBERS)), "")
    texts = [shown(model, n)[0] for n in range(1, 8)]
    assert texts[0].startswith("[exit code 0]")
    assert "numbers of mine.txt" in texts[0] and "a.txt" in texts[0]
    assert "/testbed/input\nkept" in texts[2]
    assert "edited" in texts[4]
    assert f"RESULT:\n{sum(NUMBERS)}" in texts[6]
    assert texts[6].endswith("left]")
    assert {path.name: path.read_text() for path in run.files} == {
        "answer.txt": str(sum(NUMBERS)),
        "said.txt": "edited\n",
    }
    kinds = [cell["metadata"][KEY]["kind"] for cell in run.notebook["cells"]]
    assert kinds == ["system", "task", "setup", *["turn", "call"] * 8, "outcome"]
    assert [c["id"] for c in cells(run)] == [f"call_{n}_0" for n in range(8)]
    assert [len(turn.calls) for turn in run.turns] == [1] * 8
    assert run.usage.total_tokens > 0
    assert cells(run)[0]["source"].startswith("%%bash\ncd input")
    assert cells(run)[-1]["source"] == f'submit("{sum(NUMBERS)}")'
    counts = [c["execution_count"] for c in run.notebook["cells"] if c["cell_type"] == "code"]
    assert counts == sorted(set(counts)), "counts grow from cell to cell"
    ended = seen[-1]
    assert isinstance(ended, events.RunEnded) and ended.answer == run.answer
    assert sum(isinstance(event, events.CallFinished) for event in seen) == 8
    assert nbformat.read(run.path, as_version=4).metadata[KEY].sandbox.backend == "zygote"


async def test_several_calls_of_a_reply_run_in_order(tmp_path: Path) -> None:
    run, model = await tell(
        tmp_path,
        reply(
            bash("echo one >> log; cat log"),
            bash("echo two >> log; cat log"),
            bash("false"),
            bash("echo three >> log; cat log"),
        ),
        reply(submit("x")),
    )
    texts = shown(model)
    assert [text.count("\n") for text in texts[:2]] == [2, 3]
    assert texts[2].startswith("[exit code 1]")
    assert "one\ntwo\nthree" in texts[3]
    assert "turns left]" not in "".join(texts[:3]) and texts[3].endswith("turns left]")
    assert run.stop_reason is S.SUBMITTED


async def test_the_papers_tools(tmp_path: Path) -> None:
    run, model = await tell(
        tmp_path,
        reply(python("1")),
        reply(bash("echo 7 > output/answer.txt")),
        reply(submit("8")),
        tools="paper",
    )
    assert "There is no tool 'execute_python'" in shown(model, 1)[0]
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "7")


# -- irregular replies -----------------------------------------------------------------------

IRREGULAR: list[tuple[str, dict[str, Any], str]] = [
    ("unknown tool", call("browse", url="x"), "There is no tool 'browse'"),
    ("malformed JSON", {"name": "execute_bash", "arguments": '{"command": "ls'}, "not valid JSON"),
    ("a list", {"name": "execute_bash", "arguments": ["ls"]}, "must be a JSON object"),
    ("a number", {"name": "execute_bash", "arguments": 7}, "must be a JSON object"),
    ("a JSON string", {"name": "execute_bash", "arguments": '"ls"'}, "must be a JSON object"),
    ("empty command", bash("  \n"), "'command' is empty"),
    ("no command", {"name": "execute_bash", "arguments": {}}, "'command' is missing"),
    ("unknown argument", call("execute_bash", cmd="ls"), "no argument 'cmd'"),
    ("wrong type", call("execute_python", code=["1"]), "must be a string"),
    ("NUL", bash("echo \0"), "NUL"),
    ("no name", {"name": "", "arguments": {}}, "There is no tool ''"),
    ("malformed submit", {"name": "submit", "arguments": "{answer: 42}"}, "not valid JSON"),
    ("submit of a list", {"name": "submit", "arguments": ["42"]}, "must be a JSON object"),
    ("another submit", call("submit_answer", answer="42"), "There is no tool"),
]


async def test_calls_that_cannot_be_understood_are_answered_and_not_run(tmp_path: Path) -> None:
    odd = [made for _, made, _ in IRREGULAR]
    run, model = await tell(
        tmp_path,
        *(reply(made) for made in odd),
        reply(*odd),
        reply(submit("x")),
        budget={"turns": 40},
    )
    for turn, (name, _, expected) in enumerate(IRREGULAR, 1):
        (text,) = shown(model, turn)
        assert expected in text, name
    assert len(shown(model)) == len(odd)
    assert len(cells(run, "refused")) == 2 * len(odd)
    assert len(cells(run)) == 1
    assert run.stop_reason is S.SUBMITTED


async def test_arguments_beside_the_name_and_aliases_are_understood(tmp_path: Path) -> None:
    run, model = await tell(
        tmp_path,
        reply({"name": "execute_bash", "command": "echo beside"}),
        reply({"name": "bash", "arguments": '{"command": "echo alias"}'}),
        reply({"name": "finish", "arguments": {"answer": "ok"}}),
    )
    assert "beside" in shown(model, 1)[0]
    assert "alias" in shown(model, 2)[0]
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "ok")


async def test_submit_in_prose_is_no_submit(tmp_path: Path) -> None:
    run, model = await tell(
        tmp_path,
        reply(text='I call submit("42"). submitted: the answer is 42'),
        reply(bash("echo submitted: the answer in /testbed/output/answer.txt")),
        reply(text="```submit\n42\n```"),
        budget={"turns": 3},
    )
    assert "No tool was called" in shown(model, 1)[0]
    assert (run.stop_reason, run.answer) == (S.MAX_TURNS, None)
    assert len(cells(run, "nudge")) == 2


async def test_submit_with_nothing_is_refused_once(tmp_path: Path) -> None:
    run, model = await tell(tmp_path, reply(submit()), reply(submit()), reply(bash("echo never")))
    assert "write the answer to" in shown(model, 1)[0]
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, None)
    assert len(model.prompts) == 2


async def test_calls_after_a_submit_are_answered_but_not_run(tmp_path: Path) -> None:
    run, _ = await tell(
        tmp_path,
        reply(submit("42"), bash("echo 43 > /testbed/output/answer.txt"), submit("44")),
    )
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "42")
    assert [c["source"] for c in cells(run)] == ['submit("42")']


async def test_ids_of_every_kind_are_kept_apart(tmp_path: Path) -> None:
    ids = ["same", "same", "", "", "functions.bash:0", "functions.bash:0", "x" * 300, "ä" * 100]
    again = [Reply(calls=tuple(RawCall(id=i, name="bash", arguments="{}") for i in ids))] * 3
    run, _ = await tell(tmp_path, *again, reply(submit("x")))
    assert len(cells(run, "refused")) == 3 * len(ids)
    assert run.stop_reason is S.SUBMITTED


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


DEEP = {
    "an object, 60": nested(60),
    "an object, 300": nested(300),
    "text, 60": json.dumps(nested(60)),
    "text, 100,000": '{"a":' * 100_000,
}


@pytest.mark.parametrize("arguments", DEEP.values(), ids=DEEP)
async def test_deeply_nested_arguments(tmp_path: Path, arguments: Any) -> None:
    odd = Reply(
        calls=(RawCall(id="1", name="execute_bash", arguments=arguments, extra={"b": arguments}),),
        raw={"content": arguments},
    )
    run, model = await tell(tmp_path, odd, reply(submit("x")))
    assert "execute_bash" in shown(model)[0]
    assert run.stop_reason is S.SUBMITTED


async def test_text_that_is_no_unicode(tmp_path: Path) -> None:
    bad = "\ud83d half \udc00 \x00 \x1b[31m \u2028 \U0001f600"
    odd = Reply(
        text=bad,
        reasoning=bad,
        calls=(
            RawCall(id="1\ud800", name="b\udfff", arguments={bad: bad}, extra={bad: [bad]}),
            RawCall(id="2", name="execute_python", arguments={"code": f"print({bad!r})"}),
        ),
        raw={"content": [{bad: bad}], "number": float("nan")},
    )
    run, _ = await tell(tmp_path, odd, reply(submit(f"ä {bad}")))
    assert run.stop_reason is S.SUBMITTED
    assert run.answer is not None and run.answer.startswith("ä ")


# -- code blocks -----------------------------------------------------------------------------


async def test_code_blocks(tmp_path: Path) -> None:
    run, model = await tell(
        tmp_path,
        reply(text="First I think."),
        reply(text="```python\nx = 42\nprint(x)\n```\nOutput:\n```\n7\n```\n```submit\n7\n```"),
        reply(text="Then\n```bash\necho from bash\n```"),
        reply(text="```submit\n42\n```"),
        protocol="blocks",
    )
    assert "No code block" in shown(model, 1)[0]
    assert "STDOUT:\n42" in shown(model, 2)[0]
    assert "from bash" in shown(model, 3)[0]
    assert all(m.role != "tool" for prompt in model.prompts for m in prompt)
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "42")
    assert len(cells(run, "example")) >= 2
    assert [c["id"] for c in cells(run)] == ["block_2_0", "block_3_0", "block_4_0"]


async def test_calls_count_for_nothing_under_code_blocks(tmp_path: Path) -> None:
    run, _ = await tell(tmp_path, reply(submit("42")), protocol="blocks", budget={"turns": 1})
    assert (run.stop_reason, run.answer) == (S.MAX_TURNS, None)


# -- cells that misbehave --------------------------------------------------------------------


async def test_a_killed_kernel_is_replaced(tmp_path: Path) -> None:
    run, model = await tell(
        tmp_path,
        reply(python("x = 1"), bash("echo kept > file; cd /tmp")),
        reply(python("print('last words', flush=True)\nimport os; os.kill(os.getpid(), 9)")),
        reply(python("x"), bash("pwd; cat file")),
        reply(submit("42")),
    )
    assert "restarted" in shown(model, 2)[0]
    lost, kept = shown(model, 3)
    assert "NameError" in lost
    assert "/testbed\nkept" in kept
    died = cells(run)[2]
    assert died["metadata"][KEY]["status"] == "died"
    assert "skip-execution" in died["metadata"]["tags"]
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "42")


async def test_cells_that_run_too_long(tmp_path: Path) -> None:
    stubborn = (
        "import time\nprint('begun', flush=True)\n"
        "while True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    )
    run, model = await tell(
        tmp_path,
        reply(bash("cd /tmp; export A=1")),
        reply(bash("echo first; sleep 60; echo never")),
        reply(bash("echo $A; pwd; echo loop; while true; do :; done")),
        reply(bash("echo $A; pwd")),
        reply(python("x = 5\nprint('begun', flush=True)\nimport time; time.sleep(60)")),
        reply(python("x")),
        reply(python(stubborn)),
        reply(python("'x' in globals()"), bash("echo alive")),
        reply(submit("42")),
        limits={"cell_seconds": 2, "grace_seconds": 4},
    )
    sleep, loop, after, python_sleep, kept, ignored = (shown(model, n)[0] for n in range(2, 8))
    for text in (sleep, loop, python_sleep, ignored):
        assert "2 s" in text or "stopped" in text or "time" in text.lower()
    assert "first" in sleep and "never" not in sleep
    assert "1\n/tmp\nloop" in loop, "directory and environment survive the first time-out"
    assert "1\n/tmp" in after, "and the loop in bash itself"
    assert "begun" in python_sleep and "restarted" not in python_sleep
    assert "RESULT:\n5" in kept
    assert "begun" in ignored and "restarted" in ignored
    gone, alive = shown(model, 8)
    assert "False" in gone and "alive" in alive
    statuses = [c["metadata"][KEY]["status"] for c in cells(run)]
    assert statuses[:7] == ["ok", "timeout", "timeout", "ok", "timeout", "ok", "timeout"]
    assert run.stop_reason is S.SUBMITTED


async def test_a_flood_of_output_stays_out_of_the_notebook(tmp_path: Path) -> None:
    run, model = await tell(
        tmp_path,
        reply(python("for n in range(100): print('x' * 1_000_000)")),
        reply(bash("head -c 100000000 /dev/zero | tr '\\0' 'y'")),
        reply(
            python(
                "import sys\nfor n in range(3000):\n"
                "    print('o', flush=True); print('e', file=sys.stderr, flush=True)"
            )
        ),
        reply(submit("42")),
        limits={"cell_seconds": 60},
    )
    assert run.stop_reason is S.SUBMITTED
    assert run.path.stat().st_size < 6_000_000
    for cell in cells(run):
        assert len(str(cell["outputs"])) < 2_500_000
        assert cell["metadata"][KEY]["status"] == "ok"
    assert all(len(shown(model, n)[0]) < 50_000 for n in range(1, 4))


async def test_a_fast_printer_loses_nothing(tmp_path: Path) -> None:
    run, _ = await tell(
        tmp_path,
        reply(python("for n in range(40000): print(n, flush=True)")),
        reply(submit("42")),
        limits={"cell_seconds": 60},
    )
    assert cells(run)[0]["outputs"][0]["text"].count("\n") == 40_000


async def test_one_flood_alone_keeps_the_notebook_small(tmp_path: Path) -> None:
    run, _ = await tell(
        tmp_path, reply(python("for n in range(100): print('x' * 1_000_000)")), reply(submit("1"))
    )
    assert run.stop_reason is S.SUBMITTED
    assert run.path.stat().st_size < 2_500_000


async def test_outputs_that_no_honest_kernel_sends(tmp_path: Path) -> None:
    """Forged messages: types that lie, JSON that is none, nesting without end."""
    forge = (
        "import json\n"
        "send = get_ipython().kernel.session\n"
        "sock = get_ipython().kernel.iopub_socket\n"
        "parent = get_ipython().kernel.get_parent()\n"
        "def publish(kind, content):\n"
        "    send.send(sock, kind, content, parent=parent)\n"
        "deep = 'x'\n"
        "for _ in range(400): deep = [deep]\n"
        "nan = {'application/json': {'n': float('nan')}}\n"
        "publish('display_data', {'data': nan, 'metadata': {}})\n"
        "publish('display_data', {'data': {'application/json': deep}, 'metadata': {'d': deep}})\n"
        "publish('display_data', {'data': {'image/odd+json': ['a', 'b']}, 'metadata': {}})\n"
        "publish('display_data', {'data': {'image/odd+json': {'a': 1}}, 'metadata': {}})\n"
        "publish('display_data', {'data': {'text/json': ['a', 'b'], 'text/plain': ['c', 'd']}, "
        "'metadata': {'x': float('inf')}})\n"
        "publish('display_data', {'data': {'': 1, 'text/plain': None}, 'metadata': []})\n"
        "publish('execute_result', {'data': {}, 'execution_count': 'one'})\n"
        "publish('stream', {'name': 'stdout', 'text': '\\ud83d'})\n"
        "publish('error', {'ename': 1, 'evalue': None, 'traceback': [1, {}]})\n"
        "publish('error', 'nothing')\n"
    )
    run, _ = await tell(tmp_path, reply(python(forge)), reply(submit("42")))
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "42")


# -- budgets ---------------------------------------------------------------------------------


async def test_turns(tmp_path: Path) -> None:
    run, model = await tell(
        tmp_path, *[reply(bash("echo hi"))] * 5, reply(submit("42")), budget={"turns": 3}
    )
    assert (run.stop_reason, len(run.turns), run.answer) == (S.MAX_TURNS, 3, None)
    assert "[one turn left: submit now]" in shown(model)[0]


async def test_a_submit_in_the_last_turn_counts(tmp_path: Path) -> None:
    run, _ = await tell(tmp_path, reply(submit("42")), budget={"turns": 1})
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "42")


async def test_tokens(tmp_path: Path) -> None:
    run, _ = await tell(tmp_path, *[reply(bash("echo hi"))] * 50, budget={"tokens": 2_000})
    assert run.stop_reason is S.MAX_TOKENS
    assert 1 <= len(run.turns) < 50


async def test_an_answer_without_a_submit_is_kept_but_not_submitted(tmp_path: Path) -> None:
    run, _ = await tell(
        tmp_path, reply(bash("echo 42 > /testbed/output/answer.txt")), budget={"turns": 1}
    )
    assert (run.stop_reason, run.answer) == (S.MAX_TURNS, "42")


class Priced(CheckedModel):
    """Costs a dollar a call; or nobody knows what."""

    dollars: float | None = 1.0

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        max_tokens: int | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        made = await super().generate(messages, tools, max_tokens=max_tokens, on_text=on_text)
        return made.model_copy(update={"usage": Usage(input_tokens=9, cost_usd=self.dollars)})


async def test_cost(tmp_path: Path) -> None:
    model = Priced.from_replies([reply(bash("echo hi"))] * 9)
    run, _ = await tell(tmp_path, model=model, budget={"cost_usd": 2.5})
    assert (run.stop_reason, len(run.turns), run.usage.cost_usd) == (S.MAX_COST, 3, 3.0)


async def test_a_cost_that_cannot_be_bounded_is_said(tmp_path: Path) -> None:
    model = Priced.from_replies([reply(bash("echo hi"))] * 9)
    model.dollars = None
    with pytest.raises(ConfigError, match="--max-cost"):
        await tell(tmp_path, model=model, budget={"cost_usd": 2.5})
    (path,) = tmp_path.glob("*/trajectory.ipynb")
    assert check_notebook(path).stop_reason is S.MODEL_ERROR


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param(reply(bash("echo begun; sleep 60")), id="cell"),
        pytest.param(reply(bash("echo never"), delay=60), id="model"),
    ],
)
async def test_seconds(tmp_path: Path, slow: dict[str, Any]) -> None:
    run, _ = await tell(tmp_path, reply(bash("echo hi")), slow, budget={"seconds": 3})
    assert (run.stop_reason, run.answer) == (S.TIMEOUT, None)
    if len(run.turns) == 2:
        cut = cells(run)[-1]
        assert cut["metadata"][KEY]["status"] == "interrupted"
        assert "begun" in str(cut["outputs"])


async def test_no_time_at_all(tmp_path: Path) -> None:
    run, _ = await tell(tmp_path, reply(submit("42")), budget={"seconds": 0.001})
    assert (run.stop_reason, run.answer) == (S.TIMEOUT, None)


async def test_old_observations_make_room_and_then_the_window_is_full(tmp_path: Path) -> None:
    noise = reply(python("print('\\n'.join(str(n) * 20 for n in range(70)))"))
    run, model = await tell(
        tmp_path,
        *[noise] * 12,
        reply(bash("echo " + "x" * 30_000)),
        reply(submit("never")),
        context_window=8_000,
    )
    pointers = [
        result.text
        for message in model.prompts[-1]
        if message.role == "tool"
        for result in message.results
        if result.text.startswith("[dropped to save room: the output of cell ")
    ]
    assert pointers
    named = pointers[0].split("cell ")[1].split(".")[0]
    assert named in [cell["id"] for cell in cells(run)]
    dropped = [
        name for cell in cells(run, "turn") for name in cell["metadata"][KEY].get("dropped", [])
    ]
    assert len(dropped) == len(set(dropped)) >= len(pointers)
    assert (run.stop_reason, run.answer) == (S.CONTEXT_WINDOW, None)


# -- being stopped ---------------------------------------------------------------------------


def agent_of(out: Path, *replies: dict[str, Any], on_event: Any = lambda _: None) -> Agent:
    config = RunConfig(model=ModelConfig(name="scripted:replies"), limits=Limits(grace_seconds=3))
    return Agent(config, out=out, model=CheckedModel.from_replies(replies), on_event=on_event)


@pytest.mark.parametrize("presses", [1, 2, 3])
async def test_stop_during_a_cell(tmp_path: Path, presses: int) -> None:
    """Once lets the cell end and say what it has; more often kills the kernel."""

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.CallOutput):
            loop = asyncio.get_running_loop()
            for n in range(presses):
                loop.call_later(0.1 * n, agent.abandon if n else agent.stop)

    agent = agent_of(
        tmp_path,
        reply(bash("echo 41 > /testbed/output/answer.txt; echo begun; sleep 60")),
        reply(submit("42")),
        on_event=on_event,
    )
    run = await agent.arun(Task(prompt="Wait."))
    check_notebook(run.path, run)
    assert run.stop_reason is S.INTERRUPTED
    cut = cells(run)[-1]
    assert cut["metadata"][KEY]["status"] == "interrupted"
    assert "begun" in str(cut["outputs"])
    if presses == 1:
        assert run.answer == "41"


async def test_stop_during_a_model_call(tmp_path: Path) -> None:
    agent = agent_of(
        tmp_path,
        reply(bash("echo hi")),
        reply(submit("42"), delay=60),
        on_event=lambda e: (
            agent.stop() if isinstance(e, events.TurnStarted) and e.turn == 2 else None
        ),
    )
    run = await agent.arun(Task(prompt="Wait."))
    check_notebook(run.path, run)
    assert (run.stop_reason, run.answer, len(run.turns)) == (S.INTERRUPTED, None, 1)


async def test_stop_before_the_run(tmp_path: Path) -> None:
    agent = agent_of(tmp_path, reply(submit("42")))
    agent.stop()
    run = await agent.arun(Task(prompt="Wait."))
    check_notebook(run.path, run)
    assert (run.stop_reason, run.answer) == (S.INTERRUPTED, None)


async def test_an_agent_can_run_again_after_it_was_stopped(tmp_path: Path) -> None:
    agent = agent_of(tmp_path, reply(submit("42")))
    agent.stop()
    assert (await agent.arun(Task(prompt="Wait."))).stop_reason is S.INTERRUPTED
    again = await agent.arun(Task(prompt="Wait."))
    assert (again.stop_reason, again.answer) == (S.SUBMITTED, "42")


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("how", ["stop", "abandon", "cancel"])
async def test_stop_while_it_starts(tmp_path: Path, delay: float, how: str) -> None:
    agent = agent_of(tmp_path, reply(submit("42"), delay=30))
    work = asyncio.create_task(agent.arun(Task(prompt="Wait.")))
    await asyncio.sleep(delay)
    if how == "cancel":
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    else:
        getattr(agent, how)()
        assert (await work).stop_reason is S.INTERRUPTED
    for path in tmp_path.glob("*/trajectory.ipynb"):
        read = check_notebook(path)
        assert read.stop_reason is S.INTERRUPTED
        assert read.verify() == len(read.notebook["cells"])


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_cancel(tmp_path: Path, times: int) -> None:
    """However often it is cancelled, the notebook is closed and the sandbox gone."""
    begun = asyncio.Event()
    agent = agent_of(
        tmp_path,
        reply(bash("echo begun; sleep 60")),
        on_event=lambda e: begun.set() if isinstance(e, events.CallOutput) else None,
    )
    work = asyncio.create_task(agent.arun(Task(prompt="Wait.")))
    await begun.wait()
    for _ in range(times):
        work.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await work
    (path,) = tmp_path.glob("*/trajectory.ipynb")
    read = check_notebook(path)
    assert read.stop_reason is S.INTERRUPTED
    assert read.verify() == len(read.notebook["cells"])


# -- sandboxes that fail ---------------------------------------------------------------------


async def test_a_sandbox_that_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Path
) -> None:
    (runtime / "file").write_text("not a folder")
    monkeypatch.setenv("LIS_RUNTIME_DIR", str(runtime / "file"))
    run, _ = await tell(tmp_path, reply(submit("42")))
    (runtime / "file").unlink()
    assert (run.stop_reason, run.answer) == (S.SANDBOX_ERROR, None)
    assert run.detail


@pytest.mark.parametrize("missing", ["/nowhere/bwrap", "/bin/false"])
async def test_a_jail_that_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr("lis_kernel.sandbox.bubblewrap.find_bwrap", lambda: missing)
    cold = SandboxConfig(backend="bubblewrap")  # the zygote's jail stands already
    run, _ = await tell(tmp_path, reply(submit("42")), sandbox=cold)
    assert (run.stop_reason, run.answer) == (S.SANDBOX_ERROR, None)
    assert run.detail
    assert cells(run, "setup")[0]["metadata"][KEY]["status"] == "died"


class Unavailable(BubblewrapSandbox):
    """A backend that does not work here."""

    async def start(self) -> None:
        raise SandboxUnavailable("user namespaces are switched off: set x=1")


async def test_a_backend_that_is_not_available(tmp_path: Path) -> None:
    run, _ = await tell(
        tmp_path, reply(submit("42")), sandbox={"backend": f"{__name__}:Unavailable"}
    )
    assert (run.stop_reason, run.answer) == (S.SANDBOX_ERROR, None)
    assert run.detail == "user namespaces are switched off: set x=1"


@pytest.mark.parametrize(
    ("backend", "keeper"), [("bubblewrap", "keeper.sh"), ("zygote", "lis: init of a sandbox")]
)
async def test_a_jail_killed_in_a_cell_is_replaced(
    tmp_path: Path, runtime: Path, backend: str, keeper: str
) -> None:
    def kill(event: events.Event) -> None:
        if isinstance(event, events.CallOutput) and "now" in str(event.content):
            kill_all(runtime, but=keeper)  # without it the files are gone: sandbox_lost

    run, model = await tell(
        tmp_path,
        reply(bash("echo kept > file; echo now; sleep 60")),
        reply(bash("cat file")),
        reply(submit("42")),
        on_event=kill,
        sandbox=SandboxConfig(backend=backend),
    )
    assert "restarted" in shown(model, 1)[0]
    assert "kept" in shown(model, 2)[0]
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "42")


def kill_all(folder: Path, but: str = "nothing") -> None:
    for pid, command in processes_of(folder.name).items():
        if but in command:
            continue
        with_no_fear = (ProcessLookupError, PermissionError)
        try:
            os.kill(pid, signal.SIGKILL)
        except with_no_fear:
            continue


async def test_a_sandbox_that_is_killed_again_and_again(tmp_path: Path, runtime: Path) -> None:
    stopping = asyncio.Event()

    async def killer() -> None:
        while not stopping.is_set():
            kill_all(runtime)
            await asyncio.sleep(0.03)

    killers: list[asyncio.Task[None]] = []

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.CallStarted) and not killers:
            killers.append(asyncio.create_task(killer()))

    run, _ = await tell(
        tmp_path,
        reply(bash("echo 42 > /testbed/output/answer.txt; sleep 1")),
        reply(submit("42")),
        on_event=on_event,
    )
    stopping.set()
    await asyncio.gather(*killers)
    assert run.stop_reason is S.SANDBOX_LOST
    assert run.detail


async def test_a_state_folder_that_vanishes(tmp_path: Path, runtime: Path) -> None:
    def on_event(event: events.Event) -> None:
        if isinstance(event, events.CallOutput):
            for folder in list(runtime.iterdir()):
                shutil.rmtree(folder)
            kill_all(runtime)

    run, _ = await tell(
        tmp_path,
        reply(bash("echo now; sleep 60")),
        reply(submit("42")),
        on_event=on_event,
    )
    assert (run.stop_reason, run.answer) == (S.SANDBOX_LOST, None)


async def test_a_sandbox_lost_after_the_submit_has_no_answer(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a disk of its own would outlive its folder: here it is just the folder
    monkeypatch.setattr("lis_kernel.sandbox.keeper._possible", lambda loop: [("none", "none")])

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.CallFinished) and event.observation.done:
            for folder in list(runtime.iterdir()):
                shutil.rmtree(folder)

    run, _ = await tell(
        tmp_path,
        reply(submit("42")),
        on_event=on_event,
        sandbox=SandboxConfig(backend="bubblewrap"),
    )
    assert (run.stop_reason, run.answer) == (S.SANDBOX_LOST, None)


# -- models and views that fail --------------------------------------------------------------


class Broken(ScriptedModel):
    """A client with a bug in it."""

    error: Exception = KeyError("content")

    async def generate(self, *_: Any, **__: Any) -> Reply:
        raise self.error


@pytest.mark.parametrize("error", [KeyError("content"), ModelUnavailable("down"), OSError("no")])
async def test_a_model_that_fails_is_a_model_error(tmp_path: Path, error: Exception) -> None:
    model = Broken.from_replies([])
    model.error = error
    run, _ = await tell(tmp_path, model=model)
    assert (run.stop_reason, run.answer) == (S.MODEL_ERROR, None)
    assert str(error) in run.detail


async def test_a_script_that_ends_too_early(tmp_path: Path) -> None:
    run, _ = await tell(tmp_path, reply(bash("echo hi")))
    assert (run.stop_reason, run.answer) == (S.MODEL_ERROR, None)


async def test_a_view_that_fails_does_not_stop_the_run(tmp_path: Path) -> None:
    def on_event(event: events.Event) -> None:
        raise BrokenPipeError("nobody reads this")

    run, _ = await tell(
        tmp_path, reply(bash("ln -s x output/l; echo hi")), reply(submit("42")), on_event=on_event
    )
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "42")


# -- what comes out --------------------------------------------------------------------------


async def test_a_hostile_output_folder(tmp_path: Path) -> None:
    make = r"""cd /testbed/output
ln -s /etc/passwd link; ln -s /testbed/input folder_link; mkfifo pipe
mkdir -p sub; echo fine > sub/good.txt; ln sub/good.txt hard; echo plain > plain.txt
truncate -s 1G sparse; echo n > $'new\nline\033[31m'
mknod device c 1 3 2>/dev/null || true
python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('socket')"
echo x > $'bad\xff\xfe'; mkdir locked; echo y > locked/z; chmod 000 locked
for i in $(seq 3000); do ln -s nowhere zz$i; done
ln -s /etc/hostname answer.txt
"""
    run, _ = await tell(
        tmp_path,
        reply(bash(make)),
        reply(bash("echo the answer > /testbed/answer.txt")),
        reply(submit()),
        limits={"collect_bytes": 1_000_000, "cell_seconds": 60},
    )
    assert run.stop_reason is S.SUBMITTED
    assert run.answer == "the answer"
    names = {path.name for path in run.files}
    assert "plain.txt" in names
    assert not names & {"link", "pipe", "hard", "sparse", "device", "answer.txt", "socket"}
    assert not any(path.is_symlink() for path in (run.path.parent / "files").rglob("*"))
    refused = "\n".join(run.metadata["refused"])
    for name in ("link", "pipe", "hard", "sparse", "socket"):
        assert f"{name}: " in refused
    assert "\x1b" not in refused
    assert len(run.metadata["refused"]) < 200
    assert "more" in refused
    for path in run.files:
        assert path.is_file()
    outside = {p.name for p in (run.path.parent).iterdir()}
    assert outside == {"trajectory.ipynb", "files"}


async def test_folders_without_end(tmp_path: Path, runtime: Path) -> None:
    deep = (
        'echo 42 > /testbed/output/answer.txt; cd /testbed/output; python3 -c "import os\n'
        "for _ in range(1500): os.mkdir('d'); os.chdir('d')\""
    )
    run, _ = await tell(tmp_path, reply(bash(deep)), budget={"turns": 1})
    assert (run.stop_reason, run.answer) == (S.MAX_TURNS, "42")
    assert not list(runtime.iterdir())


async def test_odd_names_come_out_whole(tmp_path: Path) -> None:
    run, _ = await tell(
        tmp_path,
        reply(
            bash(r"""cd output; echo 1 > $'bad\xff'; echo 2 > $'new\nline'; echo 3 > 'ü `x` *'""")
        ),
        reply(submit("42")),
    )
    assert (run.stop_reason, run.answer) == (S.SUBMITTED, "42")
    read = {path.name: path.read_text() for path in load(run.path).files}
    assert read["new\nline"] == "2\n" and read["ü `x` *"] == "3\n"
    assert any("bad" in line for line in run.metadata["refused"])


async def test_odd_names_go_in(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"in\xff put.txt")
    odd.write_text("1")
    real = tmp_path / "real.txt"
    real.write_text("2")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").write_text("3")
    run, model = await tell(
        tmp_path / "runs",
        reply(
            bash("cat /testbed/input/in*put.txt /testbed/input/link.txt /testbed/input/folder/x")
        ),
        reply(submit("42")),
        files=[odd, link, folder / "." / ".." / "folder"],
    )
    assert "123" in shown(model, 1)[0]
    assert run.stop_reason is S.SUBMITTED


async def test_files_that_cannot_be_given(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "x.txt", tmp_path / "a" / "x.txt"):
        path.write_text("x")
    for files in ([tmp_path / "missing"], [tmp_path / "x.txt", tmp_path / "a" / "x.txt"]):
        with pytest.raises(ConfigError, match="--files"):
            await tell(tmp_path / "runs", reply(submit("42")), files=files)
    assert not (tmp_path / "runs").exists(), "nothing was started"


async def test_a_folder_with_odd_things_in_it_can_be_given(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "good.txt").write_text("good")
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    run, _ = await tell(
        tmp_path / "runs",
        reply(bash("cat input/data/good.txt")),
        reply(submit("42")),
        files=[folder],
    )
    assert run.stop_reason in (S.SUBMITTED, S.SANDBOX_ERROR)
    assert run.stop_reason is S.SUBMITTED or "dangling" in run.detail


async def test_the_record_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY_OF_A_TEST", "s3cr3t-value")
    config = RunConfig(
        model=ModelConfig(name="scripted:x", api_key_env="SECRET_KEY_OF_A_TEST"), budget=Budget()
    )
    model = CheckedModel.from_replies([reply(bash("env")), reply(submit("42"))])
    run = await Agent(config, out=tmp_path, model=model).arun(Task(prompt="x"))
    assert "s3cr3t-value" not in run.path.read_text()
