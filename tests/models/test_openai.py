"""What is Chat Completions' alone: the many servers that speak it, each in its own way."""

from __future__ import annotations

from typing import Any

import pytest
from wire import Fail, Say, WireServer

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError, ModelAuth
from lis_kernel.models.openai import OpenAIModel
from lis_kernel.models.openai_messages import Answer, to_messages
from lis_kernel.models.text import CallIds
from lis_kernel.types import AssistantMessage, Message, RawCall, UserMessage

HELLO: list[Message] = [UserMessage(text="Hello")]


def model_for(server: WireServer, name: str = "openai/served", **settings: Any) -> OpenAIModel:
    settings = {"retries": 0, **settings}
    return OpenAIModel(ModelConfig(name=name, base_url=server.url + "/v1", **settings))


def assemble(*deltas: dict[str, Any]) -> tuple[RawCall, ...]:
    answer = Answer()
    for delta in deltas:
        list(answer.feed({"choices": [{"delta": {"tool_calls": [delta]}}]}))
    list(answer.feed({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
    reply = answer.reply()
    assert reply.finish == "tool_calls"
    return reply.calls


def piece(name: str | None = None, arguments: Any = None, **rest: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **rest}


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param(
            [
                piece("f", "", index=0, id="a"),
                piece(None, '{"x"', index=0),
                piece(None, ": 1}", index=0),
                piece("g", "{}", index=1, id="b"),
            ],
            id="as OpenAI",
        ),
        pytest.param(
            [
                piece("f", '{"x"', index=0, id="a"),
                piece("g", "{", index=1, id="b"),
                piece(None, ": 1}", index=0, id="a"),
                piece(None, "}", index=1, id="b"),
            ],
            id="interleaved, id in every piece",
        ),
        pytest.param(
            [piece("f", '{"x": 1}', index=0, id="a"), piece("g", "{}", index=0, id="b")],
            id="whole calls, always index 0",
        ),
        pytest.param(
            [piece("f", '{"x"', id="a"), piece(None, ": 1}"), piece("g", "{}", id="b")],
            id="no index",
        ),
        pytest.param(
            [piece("f", '{"x": 1}'), piece("g", "{}")],
            id="no index, no id",
        ),
        pytest.param(
            [piece("f", {"x": 1}, index=0), piece("g", {}, index=1)],
            id="objects for arguments",
        ),
    ],
)
def test_calls_are_put_together(deltas: list[dict[str, Any]]) -> None:
    calls = assemble(*deltas)
    assert [(c.name, c.arguments) for c in calls] == [("f", '{"x": 1}'), ("g", "{}")]
    assert len({c.id for c in calls} - {""}) == 2


def test_one_id_for_two_calls_is_made_two() -> None:
    calls = assemble(piece("f", "{}", index=0, id="a"), piece("g", "{}", index=1, id="a"))
    assert [c.id for c in calls] == ["a", "a_2"]


def test_what_a_model_put_beside_the_known_keys() -> None:
    delta = {"index": 0, "id": "a", "command": "ls", "function": {"name": "f", "path": "/x"}}
    (call,) = assemble(delta)
    assert call.extra == {"command": "ls", "path": "/x"}


def test_refusal_is_text_and_says_so() -> None:
    answer = Answer()
    list(answer.feed({"choices": [{"delta": {"refusal": "No."}, "finish_reason": "stop"}]}))
    assert (answer.reply().text, answer.reply().finish) == ("No.", "refusal")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
async def test_reasoning_goes_back_under_its_own_key(key: str) -> None:
    with WireServer([Say("a", thinking="Hm."), Say("b")], reasoning_key=key) as server:
        model = model_for(server)
        reply = await model.generate(HELLO, [])
        said = AssistantMessage(text=reply.text, raw=reply.raw, provider=model.provider)
        await model.generate([*HELLO, said, UserMessage(text="More")], [])
        await model.aclose()
    assert server.requests[1]["messages"][1] == {"role": "assistant", "content": "a", key: "Hm."}


async def test_own_server_is_asked_for_its_window_and_needs_no_key() -> None:
    with WireServer([Say("a"), Say("b")], counts_tokens=False) as server:
        model = model_for(server, prices=(1.0, 2.0), extra_body={"top_k": 5})
        reply = await model.generate(HELLO, [], max_tokens=50)
        await model.aclose()
    assert model.context_window == 4096
    body = server.requests[0]
    assert (body["max_tokens"], body["top_k"]) == (50, 5)
    assert "max_completion_tokens" not in body
    assert reply.usage.input_tokens == len("Hello") // 4, "estimated, as the server does not count"
    assert reply.usage.cost_usd == pytest.approx(1e-6)


async def test_own_server_is_asked_for_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    served = {"id": "qwen.gguf", "meta": {"n_ctx_train": 32768}}
    with WireServer([Say("a")], models=[served]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/v1")
        model = OpenAIModel(ModelConfig(name="openai/"))
        await model.generate(HELLO, [])
        await model.aclose()
    assert server.requests[0]["model"] == "qwen.gguf"
    assert (model.name, model.context_window) == ("openai/qwen.gguf", 32768)


async def test_own_server_without_a_list_of_models() -> None:
    with WireServer([Say("a")], models=Fail(404)) as server:
        model = model_for(server, "openai/other", retries=1)
        assert (await model.generate(HELLO, [])).text == "a"
        await model.aclose()
    assert model.context_window == 128_000


def test_the_real_api_needs_a_name_and_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--model"):
        OpenAIModel(ModelConfig(name="openai/"))
    with pytest.raises(ModelAuth, match="OPENAI_API_KEY"):
        OpenAIModel(ModelConfig(name="openai/gpt-x"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    model = OpenAIModel(ModelConfig(name="openai/gpt-x", max_output_tokens=7, temperature=0.0))
    request = model._request(HELLO, [], None)
    assert (request["max_completion_tokens"], request["temperature"]) == (7, 0.0)


def test_signatures_beside_a_call_go_back_with_it() -> None:
    answer = Answer()
    extra = {"extra_content": {"thought_signature": "abc"}}
    list(answer.feed({"choices": [{"delta": {"tool_calls": [piece("f", "{}", id="a", **extra)]}}]}))
    list(answer.feed({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}))
    reply = answer.reply()
    said = AssistantMessage(calls=reply.calls, raw=reply.raw, provider="openai")
    (sent,) = to_messages([said], CallIds())
    assert sent["tool_calls"][0]["extra_content"] == {"thought_signature": "abc"}
