"""1,000 replies that no model should write, in runs with a real sandbox.

Whatever a reply holds, the run goes on, the conversation stays one that both strict APIs take, the
notebook is valid and verifies, and nothing but a well-formed submit ends it as submitted. A part
goes through the real SDKs and the strict server, so that every request is checked as it is sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from story import CheckedModel, cells, check_notebook
from wire import Fail, Say, WireServer

from lis_kernel.agent import Agent
from lis_kernel.config import Budget, Limits, ModelConfig, RunConfig
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import RawCall, Reply, StopReason, Task

pytestmark = [pytest.mark.bwrap, pytest.mark.slow]

S = StopReason
LIMITS = Limits(cell_seconds=2, grace_seconds=3)
FUZZ = settings(
    deadline=None,
    database=None,
    derandomize=os.environ.get("CI") == "true",
    phases=[Phase.generate],  # a run takes seconds: to shrink one would take an hour
    suppress_health_check=list(HealthCheck),
)

# -- what a model might write ----------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=()), max_size=40)
"""Any characters at all: NUL, escapes, halves of surrogate pairs."""
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
commands = st.sampled_from(
    [
        "echo hello",
        "exit 3",
        "set -e; false",
        "echo submitted: the answer in /testbed/output/answer.txt",
        "print('submitted: 42')",
        "submit('from a cell')",
        "x = 1/0",
        "'unclosed",
        "import sys; sys.exit()",
        "",
        " ",
    ]
)
fitting = st.one_of(
    st.fixed_dictionaries({"command": commands | texts}),
    st.fixed_dictionaries({"code": commands | texts}),
    st.fixed_dictionaries(
        {
            "command": st.sampled_from(["view", "create", "str_replace", "insert", "undo"]),
            "path": st.sampled_from(["/testbed/a", "/testbed", "", "b\0"]) | texts,
        },
        optional={
            "file_text": json_values | texts,
            "old_str": texts,
            "new_str": texts,
            "insert_line": json_values | st.integers(-2, 3),
            "view_range": json_values,
        },
    ),
    st.fixed_dictionaries({"answer": json_values}),
)
objects = fitting | st.dictionaries(texts, json_values, max_size=3)
arguments = st.one_of(
    objects,
    objects.map(json.dumps),
    objects.map(lambda value: json.dumps(value)[:-2]),  # cut
    objects.map(lambda value: f"```json\n{json.dumps(value)}\n```"),
    json_values,
    json_values.map(json.dumps),
    texts,
    st.just('{"a":' * 5_000),
)
names = st.one_of(
    st.sampled_from(["execute_bash", "execute_python", "str_replace_editor", "bash", "python"]),
    st.sampled_from(["execute_bash", "execute_python", "str_replace_editor", " file_editor "]),
    st.sampled_from(["Submit", "submit()", "submitted", "finish_task", "functions.submit", ""]),
    texts,
)
submits = st.sampled_from(["submit", "finish", " submit "])
ids = st.one_of(
    st.sampled_from(["", "a", "b", "call_0", "functions.bash:0", "setup", "turn-1", "outcome"]),
    st.just("x" * 5_000),
    texts,
)
good = st.one_of(
    st.tuples(st.just("execute_bash"), st.fixed_dictionaries({"command": commands | texts})),
    st.tuples(st.just("execute_python"), st.fixed_dictionaries({"code": commands | texts})),
    st.tuples(
        st.just("str_replace_editor"),
        st.fixed_dictionaries(
            {
                "command": st.sampled_from(["view", "create", "str_replace", "insert"]),
                "path": st.sampled_from(["/testbed/a", "/testbed", "", "b"]) | texts,
            },
            optional={
                "file_text": texts,
                "old_str": texts,
                "new_str": texts,
                "insert_line": st.integers(-2, 3),
            },
        ),
    ),
)
odd = st.tuples(st.integers(0, 9).flatmap(lambda n: names if n else submits), arguments)
pairs = good | odd
calls = st.builds(
    lambda call_id, pair, extra: RawCall(id=call_id, name=pair[0], arguments=pair[1], extra=extra),
    ids,
    pairs,
    st.just({}) | st.dictionaries(texts | st.just("command"), json_values, max_size=2),
)
blocks = st.builds(
    "{}\n```{}\n{}\n```\n{}".format, texts, st.sampled_from(["bash", "python"]), commands, texts
)
fences = st.builds(
    "{}{}\n{}\n{}\n{}".format,
    st.sampled_from(["```", "~~~", "````", "  ```"]),
    st.sampled_from(["bash", "python", "py", "sh", "json", "", "Submit it", "submission"]) | texts,
    commands | texts,
    st.sampled_from(["```", "~~~", "````", "", "```bash"]),
    texts,
)
submit_fences = st.builds("```submit\n{}\n```".format, texts)
prose = st.one_of(
    texts,
    st.sampled_from(["submit()", 'I call submit("42")', "<tool_call>{}</tool_call>", "submit"]),
    st.lists(fences | texts, max_size=3).map("\n".join),
    st.integers(0, 9).flatmap(lambda n: blocks if n else submit_fences),
)
replies = st.builds(
    Reply,
    text=prose,
    reasoning=texts,
    calls=st.lists(calls, max_size=3).map(tuple),
    raw=st.just({}) | st.dictionaries(texts, json_values, max_size=2),
    finish=st.sampled_from(["stop", "tool_calls", "length", "refusal", "other"]),
)


# -- what must hold --------------------------------------------------------------------------


def may_submit(protocol: str, text: str, made: Sequence[tuple[str, Any]]) -> bool:
    """Whether a reply holds something that can be read as a submit: a call of it, or its block."""
    if protocol == "blocks":
        return re.search(r"^[ \t]*(```+|~~~+)[ \t]*\{?\.?submit\b", text, re.M | re.I) is not None
    return any(
        name.strip() in ("submit", "finish") and _may_be_object(value) for name, value in made
    )


def _may_be_object(value: Any) -> bool:
    """Whether arguments are an object or nothing; looks at text only as far as its brackets."""
    if isinstance(value, str):
        bare = value.strip().removeprefix("```").removeprefix("json").removesuffix("```").strip()
        return bare in ("", "null") or (bare[:1] + bare[-1:]) == "{}"
    return value is None or isinstance(value, dict)


def check(run: Trajectory, protocol: str, last: Reply | Say) -> None:
    """A run of fuzzed replies ended as it may: submitted by its last reply, or all used up."""
    check_notebook(run.path, run)
    assert run.stop_reason in (S.SUBMITTED, S.MAX_TURNS), run.detail
    if run.stop_reason is not S.SUBMITTED:
        return
    made = (
        [(c.name, c.arguments) for c in last.calls] if isinstance(last, Reply) else list(last.calls)
    )
    assert may_submit(protocol, last.text, made), "a false submit"
    ours = cells(run)[-1]["metadata"]["lis_kernel"]
    assert (ours["tool"], ours["done"]) == ("submit", True)


def config(protocol: Literal["tools", "blocks"], turns: int, **model: Any) -> RunConfig:
    return RunConfig(
        model=ModelConfig(**{"name": "scripted:replies", **model}),
        limits=LIMITS,
        budget=Budget(turns=turns),
        protocol=protocol,
    )


@pytest.mark.parametrize("protocol", ["tools", "blocks"])
def test_a_thousand_replies(protocol: Literal["tools", "blocks"]) -> None:
    """Batches of 50; after a submit a new run goes on with what is left."""
    used = 0

    async def go_through(batch: list[Reply]) -> None:
        nonlocal used
        with tempfile.TemporaryDirectory() as out:
            while batch:
                model = CheckedModel.from_replies(batch)
                agent = Agent(config(protocol, len(batch)), out=out, model=model)
                run = await agent.arun(Task(prompt="Fuzz."))
                turns = len(run.turns)
                check(run, protocol, batch[turns - 1])
                used, batch = used + turns, batch[turns:]

    @settings(FUZZ, max_examples=10)
    @given(st.lists(replies, min_size=50, max_size=50))
    def fuzz(batch: list[Reply]) -> None:
        asyncio.run(go_through(batch))

    fuzz()
    assert used >= 500


says = st.builds(
    Say,
    text=prose,
    thinking=texts,
    calls=st.lists(pairs.filter(lambda pair: isinstance(pair[1], dict | str)), max_size=3),
    finish=st.none() | st.just("length"),
)


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_replies_over_the_wire(provider: str) -> None:
    """The strict server refuses nothing of what the real client sends, turn after turn."""

    async def go_through(batch: list[Say], out: Path) -> None:
        while batch:
            script: list[Say | Fail] = []
            for position, say in enumerate(batch):
                script += [Fail(500), say] if position % 10 == 5 else [say]
            with WireServer(script) as server:
                url = server.url + ("/v1" if provider == "openai" else "")
                asked = config(
                    "tools",
                    len(batch),
                    name=f"{provider}/m",
                    base_url=url,
                    context_window=1_000_000,
                )
                run = await Agent(asked, out=out).arun(Task(prompt="Fuzz."))
            assert server.refused == []
            turns = len(run.turns)
            check(run, "tools", batch[turns - 1])
            batch = batch[turns:]

    @settings(FUZZ, max_examples=5)
    @given(st.lists(says, min_size=25, max_size=25))
    def fuzz(batch: list[Say]) -> None:
        with tempfile.TemporaryDirectory() as out:
            asyncio.run(go_through(batch, Path(out)))

    fuzz()
