"""`openai/<model>`: Chat Completions, from OpenAI or any server that speaks it (`base_url`).

vLLM, SGLang, llama.cpp and most gateways agree on the shape of the API and differ in its corners;
what the messages look like is in `openai_messages.py`. With no model in the name, and for the
length of its context, a server of one's own is asked once what it serves (`/models`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import openai

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError, ModelAuth, ModelError
from lis_kernel.models import split_name
from lis_kernel.models.base import api_key, collect, model_error, retrying
from lis_kernel.models.openai_messages import PROVIDER, Answer, to_messages
from lis_kernel.models.prices import FALLBACK_WINDOWS, context_window, priced
from lis_kernel.models.text import CallIds, estimate, scrub
from lis_kernel.protocols import OnText, Progress
from lis_kernel.types import Message, Reply, ToolSpec

__all__ = ["OpenAIModel"]

KEY = "OPENAI_API_KEY"
_WINDOW = ("max_model_len", "context_length", "context_window", "n_ctx", "n_ctx_train")
"""Names of the context's length in an entry of `/models`: vLLM and SGLang, gateways, llama.cpp."""


class OpenAIModel:
    """A model behind the Chat Completions API."""

    provider = PROVIDER
    default_protocol: Literal["tools", "blocks"] = "tools"

    def __init__(self, config: ModelConfig) -> None:
        """Open nothing yet.

        Raises:
            ConfigError: no model is named, and there is no server of one's own to ask.
            ModelAuth: no key is set for the provider's own API.
        """
        self.name = config.name
        self._config = config
        self._model = split_name(config.name)[1]
        self._base_url = config.base_url or os.environ.get("OPENAI_BASE_URL") or None
        key = api_key(config.api_key_env, KEY)
        if self._base_url is None:
            if not self._model:
                raise ConfigError("--model", "'openai/' names no model.", "Write openai/<model>.")
            if key is None:
                raise ModelAuth(f"No API key. Set the environment variable {KEY}.")
        # a proxy for the outside world cannot reach a server on this very machine
        direct = openai.DefaultAsyncHttpxClient(trust_env=False) if self._is_here() else None
        self._client = openai.AsyncOpenAI(
            http_client=direct,
            api_key=key or "none",  # servers of your own need no key, but the SDK does
            base_url=self._base_url,
            max_retries=config.retries,
            # The read time-out runs anew with every chunk of bytes; a comment resets it too.
            timeout=openai.Timeout(config.timeout, connect=min(config.timeout, 10.0)),
        )
        known = context_window(self.provider, self._model, self._base_url)
        self.context_window = config.context_window or known or FALLBACK_WINDOWS["openai"]
        self._ask_server = self._base_url is not None and not (
            self._model and (config.context_window or known)
        )

    def _is_here(self) -> bool:
        host = (urlsplit(self._base_url).hostname if self._base_url else None) or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    async def prepare(self, progress: Progress | None = None) -> None:
        """Ask a server of one's own what it serves, where that is not known.

        It may set `context_window`, and the model in `name`.

        Raises:
            ModelUnavailable, ModelError: the server does not answer, or serves nothing.
        """
        if self._ask_server:
            await self._learn()

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        max_tokens: int | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Answer `messages`. See `protocols.Model.generate`.

        Raises:
            ModelAuth, RateLimited, ContextOverflow, ModelUnavailable, ModelError
        """
        started = time.monotonic()
        await self.prepare()
        request = self._request(messages, tools, max_tokens)
        reply = await retrying(lambda: self._attempt(request, on_text), self._config.retries)
        usage = reply.usage
        if not usage.total_tokens:
            usage = estimate(messages, reply)
        usage = priced(
            usage,
            self.provider,
            self._model,
            prices=self._config.prices,
            base_url=self._base_url,
        )
        seconds = time.monotonic() - started
        return reply.model_copy(update={"usage": usage, "seconds": seconds})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _attempt(self, request: dict[str, Any], on_text: OnText | None) -> Reply:
        answer = Answer()
        try:
            stream = await self._client.chat.completions.create(**request, stream=True)
        except Exception as error:
            raise self._translate(error) from error
        async with stream:
            await collect(stream, answer.feed, self._translate, on_text)
        return answer.reply()

    def _request(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], max_tokens: int | None
    ) -> dict[str, Any]:
        # OpenAI refuses more than 40 characters of id; others read a meaning into their own ids.
        ids = CallIds(longest=40) if self._base_url is None else CallIds(bad="", longest=512)
        request: dict[str, Any] = {
            "model": self._model,
            "messages": list(to_messages(messages, ids)),
            "stream_options": {"include_usage": True},
        }
        limit = max_tokens or self._config.max_output_tokens
        if limit is not None:
            # OpenAI's reasoning models refuse the old name; many compatible servers ignore the new.
            official = self._base_url is None
            request["max_completion_tokens" if official else "max_tokens"] = limit
        if self._config.temperature is not None:
            request["temperature"] = self._config.temperature
        if tools:
            request["tools"] = [
                {"type": "function", "function": tool.model_dump()} for tool in tools
            ]
        request = scrub(request)
        if self._config.extra_body:
            request["extra_body"] = self._config.extra_body
        return request

    async def _learn(self) -> None:
        """Ask the server for its model and the length of that model's context.

        Raises:
            ModelError: no model was named, and the server does not say which it has.
        """
        # Not worth a long wait: a server without this page is fine, if we know what to ask it for.
        client = self._client.with_options(timeout=min(self._config.timeout, 10.0))
        try:
            served = [model.model_dump() async for model in client.models.list()]
        except Exception as error:
            if not self._model:
                raise self._translate(error) from error
            served = []
        self._ask_server = False
        if not self._model:
            if not served:
                raise ModelError(f"{self._base_url} serves no model. Name one: openai/<model>.")
            self._model = str(served[0].get("id"))
            self.name = f"openai/{self._model}"
        ours = next((m for m in served if m.get("id") == self._model), None)
        if ours is None and len(served) == 1:
            ours = served[0]  # llama.cpp answers to any name
        self.context_window = self._config.context_window or _window(ours) or self.context_window

    def _translate(self, error: Exception) -> ModelError:
        if isinstance(error, ModelError):
            return error
        key = self._config.api_key_env or KEY
        if isinstance(error, openai.APIStatusError):
            return model_error(error.status_code, _words(error), key)
        if isinstance(error, openai.APIError) and error.body is not None:
            # An error event in the stream: its code, where there is one, is an HTTP status (vLLM)
            # or a word (OpenAI).
            code = str(error.code)
            return model_error(int(code) if code.isdecimal() else 500, _words(error), key)
        return model_error(None, f"No readable answer: {type(error).__name__}: {error}", key)


def _words(error: openai.APIError) -> str:
    """What the server said, with its code, which tells a full context more surely."""
    body = error.body
    said = body.get("message") if isinstance(body, Mapping) else None
    return f"{said or error.message}" + (f" ({error.code})" if error.code else "")


def _window(served: Mapping[str, Any] | None) -> int | None:
    """The length of context in an entry of `/models`, by whichever name the server has for it."""
    entry = served or {}
    meta = entry.get("meta")
    for place in (entry, meta if isinstance(meta, Mapping) else {}):
        for key in _WINDOW:
            value = place.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return None
