"""A local server that speaks Anthropic's Messages API and OpenAI's Chat Completions, byte for byte.

The real SDKs talk to it over real sockets, so that tests see what users see. It answers from a
script, one item a request, and refuses with a 400 what the real APIs refuse: unanswered calls,
blank texts, altered thinking, an id used twice. See `WireServer`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Literal, Self

__all__ = ["Fail", "Say", "WireServer"]

Fault = Literal["cut", "short", "garbage", "error", "hang", "huge"]


@dataclass(frozen=True)
class Say:
    """One answer, whole or spoilt.

    `calls` are (name, arguments): a dict is sent as JSON, a string as it is. `fault`: `cut` breaks
    the connection in the middle, `short` ends the stream cleanly but too early, `garbage` sends
    what is no JSON, `error` an error event, `hang` nothing more, `huge` 9 MB of text.
    """

    text: str = ""
    thinking: str = ""
    calls: Sequence[tuple[str, Any]] = ()
    finish: Literal["length"] | None = None
    """`length`: the answer was cut at its bound of tokens."""
    fault: Fault | None = None
    tokens: tuple[int, int, int] = (100, 40, 20)
    """Prompt tokens in all, of these from the cache, tokens of the answer."""


@dataclass(frozen=True)
class Fail:
    """An HTTP error instead of an answer."""

    status: int
    message: str = "something broke"
    code: str | None = None


@dataclass
class WireServer:
    """Answers `script` item by item on a loopback port of its own; used as a context manager.

        with WireServer([Fail(429), Say("Hello", calls=[("bash", {"command": "ls"})])]) as server:
            model = AnthropicModel(ModelConfig(name="anthropic/claude", base_url=server.url))
            # or OpenAIModel(ModelConfig(name="openai/m", base_url=server.url + "/v1"))

    `requests` holds every request body; `refused` the reasons for each 400 of ours, and a test
    that expects none should assert that it is empty. Past its end the script answers `Fail(400)`.
    Errors carry `retry-after: 0.01`, so that the SDKs' own back-off costs tests nothing.
    """

    script: Sequence[Say | Fail]
    counts_tokens: bool = True
    """False: an OpenAI-compatible server that sends no usage."""
    reasoning_key: str = "reasoning_content"
    models: Sequence[dict[str, Any]] | Fail = ({"id": "served", "max_model_len": 4096},)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._items = iter(self.script)
        self._ids = count(1)
        self.signed: dict[str, str] = {}
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"wire": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def next_item(self) -> Say | Fail:
        return next(self._items, Fail(400, "the script of the test server is used up"))

    def new_id(self, prefix: str) -> str:
        return f"{prefix}{next(self._ids):04d}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wire: WireServer

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if isinstance(self.wire.models, Fail):
            self._fail(self.wire.models, anthropic=False)
            return
        data = [{"object": "model", **m} for m in self.wire.models]
        self._json(200, {"object": "list", "data": data})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.wire.requests.append(body)
        self.wire.headers.append({k.lower(): v for k, v in self.headers.items()})
        anthropic = self.path.startswith("/v1/messages")
        try:
            (check_anthropic if anthropic else check_openai)(body, self.wire.signed)
        except Refused as reason:
            self.wire.refused.append(str(reason))
            self._fail(Fail(400, str(reason)), anthropic)
            return
        item = self.wire.next_item()
        if isinstance(item, Fail):
            self._fail(item, anthropic)
        else:
            self._stream(item, (anthropic_events if anthropic else openai_chunks)(item, self.wire))

    def _fail(self, fail: Fail, anthropic: bool) -> None:
        error: dict[str, Any] = {"message": fail.message}
        if anthropic:
            error["type"] = fail.code or _ANTHROPIC_TYPES.get(fail.status, "api_error")
            self._json(fail.status, {"type": "error", "error": error, "request_id": "req_1"})
        else:
            error |= {"type": "error", "param": None, "code": fail.code}
            self._json(fail.status, {"error": error})

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after", "0.01")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, say: Say, events: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        sent = list(events)
        if say.fault in ("cut", "short", "hang"):
            sent = sent[: max(2, len(sent) // 2)]
        try:
            for event in sent:
                self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            if say.fault == "hang":
                self.wire.closing.wait(30)
            if say.fault in ("cut", "hang"):
                self.close_connection = True
            else:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the client went away, as it may


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _sse(data: Any, event: str | None = None) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [part for part in (text[:middle], text[middle:]) if part]


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def anthropic_events(say: Say, wire: WireServer) -> Iterator[bytes]:
    """The events of one answer, named and ordered as the Messages API sends them."""

    def event(kind: str, **rest: Any) -> bytes:
        return _sse({"type": kind, **rest}, kind)

    prompt, cached, written = say.tokens
    usage = {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": 1,
        "service_tier": "standard",
    }
    message = {
        "id": wire.new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield event("message_start", message=message)
    yield event("ping")
    index = count()
    if say.thinking:
        signature = wire.new_id("sig_")
        wire.signed[signature] = say.thinking
        i = next(index)
        block = {"type": "thinking", "thinking": "", "signature": ""}
        yield event("content_block_start", index=i, content_block=block)
        deltas: list[dict[str, Any]] = [
            {"type": "thinking_delta", "thinking": part} for part in _halves(say.thinking)
        ]
        for delta in [*deltas, {"type": "signature_delta", "signature": signature}]:
            yield event("content_block_delta", index=i, delta=delta)
        yield event("content_block_stop", index=i)
    if say.text or say.fault == "huge":
        i = next(index)
        yield event("content_block_start", index=i, content_block={"type": "text", "text": ""})
        for part in _parts(say):
            delta = {"type": "text_delta", "text": part}
            yield event("content_block_delta", index=i, delta=delta)
        yield event("content_block_stop", index=i)
    if say.fault == "garbage":
        yield _sse('{"type": "content_block_delta", "index": 0, "del', "content_block_delta")
    if say.fault == "error":
        error = {"type": "overloaded_error", "message": "Overloaded"}
        yield event("error", error=error)
        return
    for name, arguments in say.calls:
        i = next(index)
        block = {"type": "tool_use", "id": wire.new_id("toolu_"), "name": name, "input": {}}
        yield event("content_block_start", index=i, content_block=block)
        for part in ["", *_halves(_arguments(arguments))]:
            delta = {"type": "input_json_delta", "partial_json": part}
            yield event("content_block_delta", index=i, delta=delta)
        yield event("content_block_stop", index=i)
    reason = "tool_use" if say.calls else "end_turn"
    reason = "max_tokens" if say.finish == "length" else reason
    delta = {"stop_reason": reason, "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": written})
    yield event("message_stop")


def _parts(say: Say) -> Iterator[str]:
    if say.fault == "huge":
        for _ in range(9):
            yield "x" * 1_000_000
    yield from _halves(say.text)


def openai_chunks(say: Say, wire: WireServer) -> Iterator[bytes]:
    """The chunks of one answer, as Chat Completions sends them."""

    def chunk(delta: dict[str, Any] | None, finish: str | None = None, **rest: Any) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return _sse({**head, "choices": [] if delta is None else choices, "usage": None, **rest})

    yield chunk({"role": "assistant", "content": ""})
    for part in _halves(say.thinking):
        yield chunk({wire.reasoning_key: part})
    for part in _parts(say):
        yield chunk({"content": part})
    if say.fault == "garbage":
        yield _sse('{"id": "chatcmpl-1", "choi')
    if say.fault == "error":
        yield _sse({"error": {"message": "The server had an error", "type": "server_error"}})
        return
    for index, (name, arguments) in enumerate(say.calls):
        function = {"name": name, "arguments": ""}
        call = {"id": wire.new_id("call_"), "type": "function", "function": function}
        yield chunk({"tool_calls": [{"index": index, **call}]})
        for part in _halves(_arguments(arguments)):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    yield chunk({}, say.finish or ("tool_calls" if say.calls else "stop"))
    if wire.counts_tokens:
        prompt, cached, written = say.tokens
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        yield chunk(None, usage=usage)
    yield _sse("[DONE]")


class Refused(Exception):
    """The request breaks a rule of the real API."""


def _need(condition: object, reason: str) -> None:
    if not condition:
        raise Refused(reason)


def check_anthropic(body: dict[str, Any], signed: dict[str, str]) -> None:
    """Refuse what the Messages API refuses. `signed` maps each signature to its thinking."""
    _need(body.get("stream") is True, "stream: this server only streams")
    _need(isinstance(body.get("max_tokens"), int), "max_tokens: Field required")
    marks = json.dumps(body).count('"cache_control"')
    _need(marks <= 4, f"A maximum of 4 blocks with cache_control may be provided. Found {marks}.")
    for block in body.get("system", []):
        _need(block["text"].strip(), "system: text content blocks must be non-empty")
    for tool in body.get("tools", []):
        _need(tool["input_schema"]["type"] == "object", "tools: input_schema must be an object")
    messages = body["messages"]
    _need(messages, "messages: at least one message is required")
    ids: set[str] = set()
    owed: list[str] = []
    for position, message in enumerate(messages):
        at = f"messages.{position}"
        role = ("user", "assistant")[position % 2]
        _need(message["role"] == role, f"{at}: roles must alternate")
        content = message["content"]
        _need(content, f"{at}: content must be non-empty")
        if role == "user":
            given = [b["tool_use_id"] for b in content if b["type"] == "tool_result"]
            first = [b["type"] for b in content[: len(given)]]
            _need(
                given == owed and set(first) <= {"tool_result"},
                f"{at}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{owed}, but {given}",
            )
        owed = [b["id"] for b in content if b["type"] == "tool_use"]
        for block in content:
            _check_block(block, at, signed)
        _need(content[-1]["type"] != "thinking", f"{at}: the final block cannot be `thinking`")
        for call_id in owed:
            _need(call_id not in ids, f"{at}: `tool_use` ids must be unique")
            ids.add(call_id)
    _need(not owed, "the last call was not answered")
    _need(messages[-1]["role"] == "user", "This model does not support assistant message prefill")


def _check_block(block: dict[str, Any], at: str, signed: dict[str, str]) -> None:
    match block["type"]:
        case "text":
            _need(block["text"].strip(), f"{at}: text content blocks must be non-empty")
        case "thinking":
            whole = signed.get(block.get("signature", "")) == block["thinking"]
            _need(whole, f"{at}: Invalid `signature` in `thinking` block")
            _need("cache_control" not in block, f"{at}: thinking cannot be cached")
        case "tool_use":
            _need(re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]), f"{at}: id: wrong pattern")
            name = re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", block["name"])
            _need(name, f"{at}: name: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
            _need(isinstance(block["input"], dict), f"{at}: input: not a valid dictionary")
        case "tool_result":
            _need(block["content"], f"{at}: content cannot be empty")


def check_openai(body: dict[str, Any], signed: dict[str, str]) -> None:
    """Refuse what Chat Completions, and the chat templates behind it, refuse."""
    _need(body.get("stream") is True, "stream: this server only streams")
    ids: set[str] = set()
    owed: list[str] = []
    _need(body["messages"], "messages: at least one message is required")
    for position, message in enumerate(body["messages"]):
        at, role = f"messages[{position}]", message["role"]
        _need(role != "system" or position == 0, f"{at}: the system message must be the first")
        if role == "tool":
            expected = owed.pop(0) if owed else None
            _need(
                message["tool_call_id"] == expected,
                f"{at}: tool_call_id {message['tool_call_id']!r}, but {expected!r} was to follow",
            )
        else:
            _need(not owed, f"{at}: tool_calls without response messages: {owed}")
        _need(isinstance(message["content"], str), f"{at}: content must be a string")
        for call in message.get("tool_calls", []):
            _need(role == "assistant", f"{at}: only an assistant makes calls")
            _need(call["type"] == "function", f"{at}: type must be 'function'")
            _need(call["id"] and call["id"] not in ids, f"{at}: ids must be unique")
            ids.add(call["id"])
            owed.append(call["id"])
            name = re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", call["function"]["name"])
            _need(name, f"{at}: function.name: wrong pattern")
            _need(_is_object(call["function"]["arguments"]), f"{at}: arguments: not a JSON object")
    _need(not owed, f"tool_calls without response messages: {owed}")


def _is_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, TypeError):
        return False
