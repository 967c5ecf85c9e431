"""What the clients of real APIs share: reading a stream, retrying it, and naming what went wrong.

The SDKs retry a request until its stream opens (429, 5xx, time-outs, connections); nobody but us
retries a stream that breaks later. `collect` reads one stream, `retrying` runs it again, and
`model_error` gives every failure its name in `errors.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Literal

from pydantic import BaseModel

from lis_kernel.errors import (
    ContextOverflow,
    ModelAuth,
    ModelError,
    ModelUnavailable,
    RateLimited,
)
from lis_kernel.models.text import scrub
from lis_kernel.protocols import OnText
from lis_kernel.types import Reply

__all__ = ["MAX_REPLY_CHARS", "Piece", "Retry", "api_key", "collect", "model_error", "retrying"]

MAX_REPLY_CHARS = 8_000_000
"""A reply that streams more than this is given up: no model's window is that large."""

RETRY_SECONDS = 0.5
"""Pause before a cut stream is asked for again; doubles each time, up to 8 seconds."""

Piece = tuple[Literal["text", "reasoning", "arguments"], str]
"""One streamed piece of a reply."""

_log = logging.getLogger(__name__)

# The servers' wordings: Anthropic, OpenAI, vLLM, SGLang, llama.cpp, TGI, Mistral, Groq, xAI.
_OVERFLOW = re.compile(
    r"prompt is too long|exceed[s]? (the )?context limit|context_length_exceeded"
    r"|(maximum|model'?s) context length|context window|context size|exceed_context_size"
    r"|maximum model length|maximum prompt length|inputs tokens \+ max_new_tokens"
    r"|reduce the length of the (messages|prompt|input)|exceeds the maximum number of tokens",
    re.IGNORECASE,
)


class Retry(Exception):
    """Raised inside one attempt: it may succeed if asked again; else `error` is the outcome."""

    def __init__(self, error: ModelError) -> None:
        self.error = error
        super().__init__(str(error))


async def retrying(attempt: Callable[[], Awaitable[Reply]], retries: int) -> Reply:
    """Run `attempt` until it gives a reply, at most `retries` times more.

    A second attempt starts the reply again from its first word: whoever listens to the stream
    hears the beginning once more, and should show the last reply, not the sum.

    Raises:
        ModelError: what the last attempt met; at once, if asking again cannot help.
    """
    for tried in range(retries + 1):
        try:
            return await attempt()
        except Retry as broken:
            if tried == retries:
                raise broken.error from broken.__cause__
            _log.info("asking again after: %s", broken.error)
        # Jitter, so that many rollouts cut at the same moment do not come back at the same one.
        await asyncio.sleep(min(RETRY_SECONDS * 2**tried, 8.0) * random.uniform(0.75, 1.25))
    raise AssertionError("unreachable: the last turn of the loop returns or raises")


async def collect(
    events: AsyncIterable[BaseModel],
    feed: Callable[[dict[str, Any]], Iterable[Piece]],
    translate: Callable[[Exception], ModelError],
    on_text: OnText | None,
) -> None:
    """Read a stream of the SDK to its end, one event at a time, into `feed`.

    `feed` may be careless with what a broken server sends: any exception out of it, or out of
    the SDK, means that the stream is unreadable. Exceptions of `on_text` pass through.

    Raises:
        Retry: the stream broke, or cannot be read.
        ModelError: the server refused in mid-stream, or talks without end.
    """
    stream = aiter(events)
    size = 0
    while True:
        try:
            event = await anext(stream, None)
            if event is None:
                return
            # exclude_unset keeps the message as the server wrote it, without the SDK's defaults.
            pieces = list(feed(event.model_dump(by_alias=True, exclude_unset=True, warnings=False)))
        except Exception as error:
            failure = translate(error)
            if isinstance(failure, ModelUnavailable | RateLimited):
                raise Retry(failure) from error
            raise failure from error
        for channel, text in pieces:
            size += len(text)
            if size > MAX_REPLY_CHARS:
                raise ModelUnavailable(
                    f"The model's answer is longer than {MAX_REPLY_CHARS:,} characters; given up."
                )
            if on_text is not None and channel != "arguments" and text:
                on_text(channel, scrub(text))


def model_error(status: int | None, message: str, key_name: str) -> ModelError:
    """The error for an HTTP status (None: no readable answer came) and the server's words."""
    message = message[:2000]
    if status is None:
        return ModelUnavailable(message)
    if status == 413 or (status >= 400 and _OVERFLOW.search(message)):
        return ContextOverflow(message)
    if status in (401, 403):
        return ModelAuth(
            f"The key in {key_name} was refused: {message}. Set {key_name} to one that may use "
            "this model."
        )
    if status == 429:
        return RateLimited(message)
    if status in (408, 409) or status >= 500:
        return ModelUnavailable(message)
    return ModelError(message)


def api_key(name: str | None, usual: str) -> str | None:
    """The key in the environment variable `name`, or in the provider's `usual` one.

    Raises:
        ModelAuth: the user named a variable and it is not set.
    """
    key = os.environ.get(name or usual) or None
    if key is None and name is not None:
        raise ModelAuth(f"The environment variable {name} is not set. Put the API key in it.")
    return key
