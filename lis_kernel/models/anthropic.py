"""`anthropic/<model>`: the Messages API, through the official SDK.

The client: credentials, requests, errors, prices. What the API's messages look like, there and
back, is in `anthropic_messages.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Literal

import anthropic

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ModelAuth, ModelError
from lis_kernel.models import split_name
from lis_kernel.models.anthropic_messages import CACHE, PROVIDER, Answer, to_messages
from lis_kernel.models.base import api_key, collect, model_error, retrying
from lis_kernel.models.prices import FALLBACK_WINDOWS, context_window, priced
from lis_kernel.models.text import scrub
from lis_kernel.protocols import OnText, Progress
from lis_kernel.types import Message, Reply, SystemMessage, ToolSpec

__all__ = ["AnthropicModel"]

KEY = "ANTHROPIC_API_KEY"
MAX_OUTPUT_TOKENS = 32_000
"""Default bound of one reply: `max_tokens` is required, and every current model takes this."""

# An error event arrives under the stream's own status 200; its type says what it would have been.
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
}


class AnthropicModel:
    """A Claude model, or one behind a server that speaks the same API (`base_url`)."""

    provider = PROVIDER
    default_protocol: Literal["tools", "blocks"] = "tools"

    def __init__(self, config: ModelConfig) -> None:
        """Open nothing yet.

        Raises:
            ModelAuth: no credentials are set for the provider's own API.
        """
        self.name = config.name
        self._config = config
        self._model = split_name(config.name)[1]
        base_url = config.base_url or os.environ.get("ANTHROPIC_BASE_URL") or None
        key = api_key(config.api_key_env, KEY)
        if key is None and base_url is not None and not os.environ.get("ANTHROPIC_AUTH_TOKEN"):
            key = "none"  # servers of your own need no key, but the SDK does
        try:
            self._client = anthropic.AsyncAnthropic(
                api_key=key,
                base_url=base_url,
                max_retries=config.retries,
                # The read time-out runs anew with every chunk of bytes; a ping resets it too.
                timeout=anthropic.Timeout(config.timeout, connect=min(config.timeout, 10.0)),
            )
        except anthropic.CredentialsError as error:
            raise self._translate(error) from error
        # Without a key the SDK looks for a token or a login profile of the user.
        client = self._client
        if not (client.api_key or client.auth_token or client.credentials):
            raise ModelAuth(f"No API key. Set the environment variable {KEY}.")
        # A Claude behind a gateway is a Claude: window and price go by the name alone.
        known = context_window(self.provider, self._model)
        self.context_window = config.context_window or known or FALLBACK_WINDOWS["anthropic"]

    async def prepare(self, progress: Progress | None = None) -> None:
        """Nothing has to be prepared."""

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
        request = self._request(messages, tools, max_tokens)
        reply = await retrying(lambda: self._attempt(request, on_text), self._config.retries)
        return reply.model_copy(update={"seconds": time.monotonic() - started})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _attempt(self, request: dict[str, Any], on_text: OnText | None) -> Reply:
        answer = Answer()
        try:
            stream = await self._client.messages.create(**request, stream=True)
        except Exception as error:
            raise self._translate(error) from error
        async with stream:
            await collect(stream, answer.feed, self._translate, on_text)
        reply = answer.reply()
        usage = priced(reply.usage, self.provider, self._model, prices=self._config.prices)
        return reply.model_copy(update={"usage": usage})

    def _request(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], max_tokens: int | None
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self._model,
            "max_tokens": max_tokens or self._config.max_output_tokens or MAX_OUTPUT_TOKENS,
            "messages": to_messages(messages),
        }
        system = "\n\n".join(m.text for m in messages if isinstance(m, SystemMessage))
        if system.strip():
            # Tools come before the system prompt, so that this breakpoint covers them as well.
            request["system"] = [{"type": "text", "text": system, "cache_control": CACHE}]
        if tools:
            request["tools"] = [
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": tool.parameters,
                }
                for tool in tools
            ]
        # The SDK's methods have no temperature any more, as the newer models refuse one; older
        # models and compatible servers still take it, and it is the user who asked for it.
        extra = dict(self._config.extra_body)
        if self._config.temperature is not None:
            extra.setdefault("temperature", self._config.temperature)
        request = scrub(request)
        if extra:
            request["extra_body"] = extra
        return request

    def _translate(self, error: Exception) -> ModelError:
        if isinstance(error, ModelError):
            return error
        key = self._config.api_key_env or KEY
        if isinstance(error, anthropic.APIStatusError):
            status = error.status_code
            if status < 400:
                status = _STATUS.get(str(error.type), 500)
            return model_error(status, error.api_message or error.message, key)
        if isinstance(error, anthropic.CredentialsError):
            return ModelAuth(f"{error} Or set the environment variable {key}.")
        return model_error(None, f"No readable answer: {type(error).__name__}: {error}", key)
