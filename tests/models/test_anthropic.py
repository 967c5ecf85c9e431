"""What is Anthropic's alone: thinking, prompt caching, credentials, the Messages format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from wire import Say, WireServer

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ModelAuth
from lis_kernel.models import DEFAULT_ANTHROPIC
from lis_kernel.models.anthropic import AnthropicModel
from lis_kernel.models.anthropic_messages import to_messages
from lis_kernel.types import (
    AssistantMessage,
    Message,
    RawCall,
    SystemMessage,
    ToolMessage,
    ToolResult,
    ToolSpec,
    UserMessage,
)

TOOL = ToolSpec(name="bash", description="Run.", parameters={"type": "object"})


def model_for(server: WireServer, **settings: Any) -> AnthropicModel:
    settings = {"name": "anthropic/claude-sonnet-4-6", "retries": 0, **settings}
    return AnthropicModel(ModelConfig(base_url=server.url, **settings))


async def test_thinking_goes_back_unchanged() -> None:
    """The server compares every thinking block with the one that it signed."""
    messages: list[Message] = [UserMessage(text="Go")]
    script = [Say(f"t{i}", thinking=f"thought {i} é", calls=[("bash", {})]) for i in range(3)]
    with WireServer(script) as server:
        model = model_for(server)
        for _ in script:
            reply = await model.generate(messages, [TOOL])
            call = reply.calls[0]
            messages += [
                AssistantMessage(calls=reply.calls, raw=reply.raw, provider=model.provider),
                ToolMessage(results=(ToolResult(call_id=call.id, name="bash", text="ok"),)),
            ]
        await model.aclose()
    assert server.refused == []
    types = [block["type"] for block in server.requests[-1]["messages"][1]["content"]]
    assert types == ["thinking", "text", "tool_use"]


async def test_request_carries_cache_marks_settings_and_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-test")
    history: list[Message] = [SystemMessage(text="S")]
    for turn in range(3):
        history += [UserMessage(text=f"u{turn}"), AssistantMessage(text=f"a{turn}")]
    with WireServer([Say("ok")]) as server:
        model = model_for(
            server,
            api_key_env="MY_KEY",
            temperature=0.5,
            extra_body={"top_k": 5},
            max_output_tokens=1000,
        )
        reply = await model.generate([*history, UserMessage(text="last")], [TOOL])
        await model.aclose()
    body = server.requests[0]
    assert (body["temperature"], body["top_k"], body["max_tokens"]) == (0.5, 5, 1000)
    assert "cache_control" in body["system"][0]
    marked = [i for i, m in enumerate(body["messages"]) if "cache_control" in m["content"][-1]]
    assert marked == [4, 6], "the end of this request and of the one before"
    assert any("sk-test" in value for value in server.headers[0].values())
    # 60 fresh tokens at $3, 40 from the cache at $0.3, 20 of answer at $15, per million
    assert reply.usage.cost_usd == pytest.approx((60 * 3 + 40 * 0.3 + 20 * 15) / 1e6)
    assert model.context_window == 1_000_000


def test_results_and_the_users_words_share_a_message() -> None:
    calls = (RawCall(id="a", name="bash", arguments={}), RawCall(id="b", name="bash"))
    sent = to_messages(
        [
            UserMessage(text="one"),
            UserMessage(text="two"),
            AssistantMessage(text="", calls=calls),
            ToolMessage(
                results=(
                    ToolResult(call_id="a", name="bash", text="A"),
                    ToolResult(call_id="b", name="bash", text="", is_error=True),
                )
            ),
            UserMessage(text="three"),
        ]
    )
    assert [m["role"] for m in sent] == ["user", "assistant", "user"]
    assert [b["type"] for b in sent[2]["content"]] == ["tool_result", "tool_result", "text"]
    assert [b["input"] for b in sent[1]["content"]] == [{}, {}]


def test_a_cut_thought_and_a_dropped_call_are_not_sent() -> None:
    raw = {
        "content": [
            {"type": "thinking", "thinking": "cut", "signature": ""},
            {"type": "text", "text": "I will"},
            {"type": "tool_use", "id": "t1", "name": "bash", "input": '{"comm'},
        ]
    }
    message = AssistantMessage(raw=raw, provider="anthropic")
    assert to_messages([message])[0]["content"] == [{"type": "text", "text": "I will"}]


def test_no_key_at_all() -> None:
    with pytest.raises(ModelAuth, match="ANTHROPIC_API_KEY"):
        AnthropicModel(ModelConfig(name=DEFAULT_ANTHROPIC))


def test_a_broken_login_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    with pytest.raises(ModelAuth, match=r"not found.*ANTHROPIC_API_KEY"):
        AnthropicModel(ModelConfig(name=DEFAULT_ANTHROPIC))


def test_default_model_is_one_that_the_sdk_knows_and_does_not_deprecate() -> None:
    from anthropic.resources.messages.messages import DEPRECATED_MODELS
    from anthropic.types import Model

    name = DEFAULT_ANTHROPIC.removeprefix("anthropic/")
    assert name in get_args(get_args(Model)[0])
    assert name not in DEPRECATED_MODELS
