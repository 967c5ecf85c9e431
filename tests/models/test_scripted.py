"""Scripts: lists of replies, trajectory notebooks, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError, ModelError
from lis_kernel.models import make_model
from lis_kernel.models.scripted import ScriptedModel
from lis_kernel.protocols import Model
from lis_kernel.types import Message, RawCall, Reply, UserMessage

HELLO: list[Message] = [UserMessage(text="Hello there")]


def script(folder: Path, content: Any, name: str = "script.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return f"scripted:{path}"


async def test_replies_in_order_then_an_error(tmp_path: Path) -> None:
    name = script(
        tmp_path,
        [
            {
                "text": "First, ls.",
                "reasoning": "Hm.",
                "tool_calls": [
                    {"name": "execute_bash", "arguments": {"command": "ls"}},
                    {"name": "execute_bash", "arguments": "{broken", "id": "x"},
                    {"name": "odd", "command": "ls"},
                ],
            },
            {"text": "Done."},
        ],
    )
    model = make_model(ModelConfig(name=name))
    assert isinstance(model, Model)
    assert (model.provider, model.context_window) == ("scripted", 1_000_000)
    heard: list[tuple[str, str]] = []
    reply = await model.generate(HELLO, [], on_text=lambda *piece: heard.append(piece))
    assert reply.calls == (
        RawCall(id="call_0_0", name="execute_bash", arguments={"command": "ls"}),
        RawCall(id="x", name="execute_bash", arguments="{broken"),
        RawCall(id="call_0_2", name="odd", extra={"command": "ls"}),
    )
    assert "".join(text for channel, text in heard if channel == "text") == "First, ls."
    assert len(heard) > 4
    assert reply.usage.input_tokens == len("Hello there") // 4
    assert (reply.finish, reply.usage.cost_usd) == ("tool_calls", 0.0)
    assert (await model.generate(HELLO, [])).finish == "stop"
    with pytest.raises(ModelError, match="2 replies and the run asked for more"):
        await model.generate(HELLO, [])
    await model.aclose()


async def test_a_notebook_of_ours_is_a_script(tmp_path: Path) -> None:
    replies = [Reply(text="one", seconds=99.0), Reply(text="two")]
    cells = [{"cell_type": "code", "metadata": {}}] + [
        {"metadata": {"lis_kernel": {"kind": "turn", "reply": reply.model_dump(mode="json")}}}
        for reply in replies
    ]
    name = script(tmp_path, {"cells": cells, "nbformat": 4}, "run.ipynb")
    model = ScriptedModel(ModelConfig(name=name, context_window=1000))
    assert model.context_window == 1000
    assert [(await model.generate(HELLO, [])).text for _ in replies] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{nothing", "is not JSON"),
        ({"text": "no list"}, "no list of replies"),
        ([{"text": "fine"}, {"txt": "typo"}], "entry 1 is no reply: txt"),
        ([{"tool_calls": [{"arguments": {}}]}], "entry 0 is no reply: tool_calls.0.name"),
        (["text"], "entry 0 is no reply"),
        ({"cells": [{"metadata": {}}]}, "has no turns"),
        ({"cells": [{"metadata": {"lis_kernel": {"kind": "turn"}}}]}, "turn in cell 0"),
    ],
)
def test_a_bad_script_names_the_place_and_the_fix(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_model(ModelConfig(name=script(tmp_path, content)))
    assert "script.json" in str(caught.value)
    assert "Write a JSON list" in caught.value.fix


def test_a_missing_script(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        make_model(ModelConfig(name=f"scripted:{tmp_path}/none.json"))


async def test_from_replies_takes_replies_and_entries() -> None:
    model = ScriptedModel.from_replies([Reply(text="a"), {"text": "b"}])
    assert [(await model.generate(HELLO, [])).text for _ in range(2)] == ["a", "b"]
