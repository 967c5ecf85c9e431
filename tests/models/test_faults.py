"""What both clients of real APIs must do alike, and above all when the server misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from wire import Fail, Say, WireServer

from lis_kernel.config import ModelConfig
from lis_kernel.errors import (
    ContextOverflow,
    ModelAuth,
    ModelError,
    ModelUnavailable,
    RateLimited,
)
from lis_kernel.models import make_model
from lis_kernel.models.base import model_error
from lis_kernel.protocols import Model
from lis_kernel.types import (
    AssistantMessage,
    Message,
    RawCall,
    Reply,
    SystemMessage,
    ToolMessage,
    ToolResult,
    ToolSpec,
    UserMessage,
)

Open = Callable[..., AbstractAsyncContextManager[Model]]
BASH = ToolSpec(
    name="execute_bash",
    description="Run a command.",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}},
)
HELLO: list[Message] = [SystemMessage(text="Be brief."), UserMessage(text="Hello")]


@pytest.fixture(params=["anthropic", "openai"])
def open_model(request: pytest.FixtureRequest) -> Open:
    @asynccontextmanager
    async def opened(server: WireServer, **settings: Any) -> AsyncIterator[Model]:
        path = "" if request.param == "anthropic" else "/v1"
        settings = {"retries": 2, "context_window": 50_000, **settings}
        name = f"{request.param}/m"
        model = make_model(ModelConfig(name=name, base_url=server.url + path, **settings))
        try:
            yield model
        finally:
            await model.aclose()

    return opened


def as_message(model: Model, reply: Reply) -> AssistantMessage:
    return AssistantMessage(
        text=reply.text,
        reasoning=reply.reasoning,
        calls=reply.calls,
        raw=reply.raw,
        provider=model.provider,
    )


async def test_answer_with_text_thought_and_calls(open_model: Open) -> None:
    say = Say(
        text="Looking.",
        thinking="Where is it?",
        calls=[("execute_bash", {"command": "ls ä"}), ("execute_bash", {"command": "pwd"})],
    )
    heard: list[tuple[str, str]] = []
    with WireServer([say]) as server:
        async with open_model(server) as model:
            reply = await model.generate(
                HELLO, [BASH], on_text=lambda channel, text: heard.append((channel, text))
            )
    assert (reply.text, reply.reasoning, reply.finish) == ("Looking.", "Where is it?", "tool_calls")
    assert [call.name for call in reply.calls] == ["execute_bash"] * 2
    assert len({call.id for call in reply.calls}) == 2
    assert heard == [
        ("reasoning", "Where "),
        ("reasoning", "is it?"),
        ("text", "Look"),
        ("text", "ing."),
    ]
    usage = reply.usage
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (100, 40, 20)
    assert usage.cost_usd is None  # nobody sells `m`
    assert reply.seconds > 0


async def test_conversation_goes_back_as_the_api_wants_it(open_model: Open) -> None:
    """Every oddity that a model may write must not block the turns after it."""
    first = Say(
        thinking="Hm.",
        text=" \n",
        calls=[("execute_bash", '{"command": "ls'), ("bad name!", "[1, 2]"), ("submit", "")],
    )
    second = Say(thinking="Only a thought", finish="length")
    with WireServer([first, second, Say("Done")]) as server:
        async with open_model(server) as model:
            messages = [*HELLO]
            reply = await model.generate(messages, [BASH])
            results = [
                ToolResult(call_id=call.id, name=call.name, text=text, is_error=True)
                for call, text in zip(reply.calls, ["", " ", "half \ud83d"], strict=True)
            ]
            messages += [
                as_message(model, reply),
                ToolMessage(results=tuple(results)),
                UserMessage(text="Go on."),
            ]
            reply = await model.generate(messages, [BASH])
            messages += [as_message(model, reply), UserMessage(text=""), UserMessage(text="!")]
            assert (await model.generate(messages, [BASH])).text == "Done"
    assert server.refused == []


async def test_messages_of_another_provider_are_rebuilt(open_model: Open) -> None:
    """Ids used twice, even in one message, or of another alphabet, stay answered one by one."""
    calls = (
        RawCall(id="functions.a:0", name="execute_bash", arguments={"command": "ls"}),
        RawCall(id="functions.a:0", name="execute_bash", arguments="null"),
        RawCall(id="x" * 90, name="", arguments=None),
    )
    results = tuple(
        ToolResult(call_id=call.id, name=call.name, text=f"result {i}")
        for i, call in enumerate(calls)
    )
    turn: list[Message] = [
        AssistantMessage(text="", calls=calls, raw={"content": "foreign"}, provider="elsewhere"),
        ToolMessage(results=results),
    ]
    with WireServer([Say("ok"), Say("ok")]) as server:
        async with open_model(server) as model:
            await model.generate([*HELLO, *turn], [BASH])
            await model.generate([*HELLO, *turn, *turn], [BASH])
    assert server.refused == []
    old, new = (request["messages"] for request in server.requests)
    if model.provider == "openai":  # Anthropic's cache marks move
        assert new[: len(old)] == old, "the sent prefix must stay the same, for prompt caches"


async def test_cut_arguments_are_kept_as_they_came(open_model: Open) -> None:
    broken = '{"command": "cat > big.py <<E'
    with WireServer([Say(calls=[("execute_bash", broken)], finish="length")]) as server:
        async with open_model(server) as model:
            reply = await model.generate(HELLO, [BASH])
    assert reply.finish == "length"
    assert reply.calls[0].arguments == broken


@pytest.mark.parametrize("fault", ["cut", "short", "garbage", "error"])
async def test_broken_stream_is_asked_for_again(open_model: Open, fault: Any) -> None:
    whole = Say("It is whole.")
    with WireServer([Say("It is broken.", fault=fault), whole]) as server:
        async with open_model(server) as model:
            reply = await model.generate(HELLO, [])
    assert reply.text == whole.text
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["cut", "short", "garbage", "error"])
async def test_stream_that_always_breaks_is_given_up(open_model: Open, fault: Any) -> None:
    with WireServer([Say("It is broken.", fault=fault)] * 9) as server:
        async with open_model(server) as model:
            with pytest.raises(ModelUnavailable):
                await model.generate(HELLO, [])
    assert len(server.requests) == 3


async def test_endless_answer_is_given_up_at_once(open_model: Open) -> None:
    with WireServer([Say(fault="huge")]) as server:
        async with open_model(server) as model:
            with pytest.raises(ModelUnavailable, match="longer than"):
                await model.generate(HELLO, [])
    assert len(server.requests) == 1


async def test_silent_server_is_given_up(open_model: Open) -> None:
    with WireServer([Say("It hangs.", fault="hang")] * 2) as server:
        async with open_model(server, timeout=1, retries=1) as model:
            with pytest.raises(ModelUnavailable, match=r"[Tt]ime"):
                await model.generate(HELLO, [])
    assert len(server.requests) == 2


async def test_no_server_is_model_unavailable(open_model: Open) -> None:
    with WireServer([]) as server:
        pass
    async with open_model(server, retries=0) as model:
        with pytest.raises(ModelUnavailable):
            await model.generate(HELLO, [])


async def test_rate_limit_and_overload_pass_with_retries(open_model: Open) -> None:
    with WireServer([Fail(429), Fail(529), Say("At last.")]) as server:
        async with open_model(server) as model:
            assert (await model.generate(HELLO, [])).text == "At last."


@pytest.mark.parametrize(
    ("fail", "error", "requests"),
    [
        (Fail(429, "slow down"), RateLimited, 3),
        (Fail(500, "oops"), ModelUnavailable, 3),
        (Fail(401, "invalid x-api-key"), ModelAuth, 1),
        (Fail(403, "not for you"), ModelAuth, 1),
        (Fail(404, "model: no such model"), ModelError, 1),
        (Fail(400, "prompt is too long: 210000 tokens > 200000 maximum"), ContextOverflow, 1),
    ],
)
async def test_refusals_have_their_names(
    open_model: Open, fail: Fail, error: type[ModelError], requests: int
) -> None:
    with WireServer([fail] * 9) as server:
        async with open_model(server, api_key_env=None) as model:
            with pytest.raises(error, match=fail.message) as caught:
                await model.generate(HELLO, [])
    assert type(caught.value) is error
    assert len(server.requests) == requests


async def test_cancelling_passes_through(open_model: Open) -> None:
    with WireServer([Say("Slow " * 9, fault="hang"), Say("Still alive.")]) as server:
        async with open_model(server) as model:
            started = asyncio.Event()
            task = asyncio.create_task(model.generate(HELLO, [], on_text=lambda *_: started.set()))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await model.generate(HELLO, [])).text == "Still alive."


async def test_listener_errors_are_its_own(open_model: Open) -> None:
    def broken(channel: str, text: str) -> None:
        raise KeyError("a bug of the listener")

    with WireServer([Say("Hello.")]) as server:
        async with open_model(server) as model:
            with pytest.raises(KeyError):
                await model.generate(HELLO, [], on_text=broken)


async def test_missing_key_says_what_to_set(open_model: Open) -> None:
    with WireServer([]) as server, pytest.raises(ModelAuth, match="MY_KEY"):
        async with open_model(server, api_key_env="MY_KEY"):
            pass


@pytest.mark.parametrize(
    "words",
    [
        "input length and `max_tokens` exceed context limit: 199000 + 8000 > 200000",
        "Your input exceeds the context window of this model. (context_length_exceeded)",
        "This model's maximum context length is 8192 tokens. However, you requested 9000",
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "the request exceeds the available context size, try increasing it",
        "`inputs tokens + max_new_tokens` must be <= 8192",
    ],
)
def test_every_servers_words_for_a_full_context(words: str) -> None:
    assert isinstance(model_error(400, words, "KEY"), ContextOverflow)


def test_no_request_survives_as_something_else() -> None:
    assert isinstance(model_error(413, "request_too_large", "KEY"), ContextOverflow)
    assert isinstance(model_error(None, "no answer", "KEY"), ModelUnavailable)
    assert type(model_error(422, "unknown field", "KEY")) is ModelError
