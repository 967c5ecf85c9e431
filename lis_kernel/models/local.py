"""`local/<name>`: a small model on the user's own machine, with no key and no network.

The first reply fetches the weights if they are not here (`models/weights.py`) and starts the
process that holds them (`models/llama_server.py`), one for all models of the same file. What is
left is an OpenAI-compatible server on loopback, and its client is the one in `models/openai.py`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError
from lis_kernel.models import split_name, weights
from lis_kernel.models.llama_server import CONTEXT, LlamaServer, require_llama_cpp
from lis_kernel.models.openai import OpenAIModel
from lis_kernel.protocols import OnText, Progress
from lis_kernel.types import Message, Reply, ToolSpec

__all__ = ["LocalModel"]

REPLY_TOKENS = 2_048
"""Longest reply by default: small models repeat themselves, and nobody else would stop them."""

TEMPERATURE = 0.0
"""Greedy: what small models were measured at; and runs can be repeated."""

LINGER_SECONDS = 300.0
"""How long an unused model stays loaded, with its prompt cache, for the next run to find."""

_log = logging.getLogger(__name__)


class LocalModel:
    """A GGUF model behind llama.cpp's server, which several of these may share.

    `config.name` is `local/<name of the catalogue>` or `local/<path to a .gguf file>`.
    """

    provider = "local"
    default_protocol: Literal["tools", "blocks"] = "blocks"

    def __init__(self, config: ModelConfig) -> None:
        """Load nothing yet.

        Raises:
            ConfigError: no such model, a setting that only remote servers have, or xllamacpp is
                not installed.
        """
        if config.base_url is not None:
            raise ConfigError(
                "--base-url", "local models are served by this program.", "Use --model openai/…"
            )
        self.name = config.name
        self.context_window = config.context_window or CONTEXT
        self._weights = split_name(config.name)[1]
        if not self._weights.endswith(".gguf"):
            weights.find(self._weights)
        require_llama_cpp()
        self._config = config
        self._server: LlamaServer | None = None
        self._client: OpenAIModel | None = None
        self._client_url = ""

    async def prepare(self, progress: Progress | None = None) -> None:
        """Fetch and load what is not here or not loaded yet; `generate` would do it silently.

        Raises:
            ConfigError: no file at the given path.
            ModelUnavailable: the weights cannot be had or loaded.
        """
        await self._url(progress)

    async def _url(self, progress: Progress | None = None) -> str:
        """The base URL of the server, which is started if need be."""
        if self._server is None:
            path = await self._fetch(progress)
            if self._server is None:  # another call may have been here during the await
                # A model asked for a smaller window fits into the server of the usual one.
                self._server = _borrow(path, max(self.context_window, CONTEXT))
        try:
            return await asyncio.to_thread(self._server.url)
        except asyncio.CancelledError:
            # The thread reads from a process that may be loading for long; end both with us.
            self._release(0.0)
            raise

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
            ConfigError: see `prepare`.
            ContextOverflow, ModelUnavailable, ModelError
        """
        url = await self._url()
        client = self._client
        if client is None or url != self._client_url:
            stale, client = client, self._client_of(url)
            self._client, self._client_url = client, url
            if stale is not None:
                await stale.aclose()
        return await client.generate(messages, tools, max_tokens=max_tokens, on_text=on_text)

    async def aclose(self) -> None:
        """Close connections, and let the weights go if nobody else asks for them soon."""
        client, self._client = self._client, None
        self._release(LINGER_SECONDS)
        if client is not None:
            await client.aclose()

    async def _fetch(self, progress: Progress | None) -> Path:
        if not self._weights.endswith(".gguf"):
            entry = weights.find(self._weights)
            if (path := weights.local_path(entry)) is not None:
                return path
            gb = entry.size / 1e9
            _log.warning("fetching %s (%.1f GB) to %s, once", entry.name, gb, weights.directory())
        cancelled = threading.Event()

        def report(done: int, total: int, label: str) -> None:
            if cancelled.is_set():
                raise _Cancelled
            if progress is not None:
                progress(done, total, label)

        try:
            return await asyncio.to_thread(weights.fetch, self._weights, progress=report)
        finally:
            cancelled.set()

    def _client_of(self, url: str) -> OpenAIModel:
        config = self._config
        greedy = config.temperature is None
        settings = {
            "name": f"openai/{self._weights.rpartition('/')[2]}",
            "base_url": url,
            "api_key_env": None,
            "context_window": self.context_window,
            "temperature": TEMPERATURE if greedy else config.temperature,
            "max_output_tokens": config.max_output_tokens or REPLY_TOKENS,
            "prices": config.prices or (0.0, 0.0),
        }
        return OpenAIModel(config.model_copy(update=settings))

    def _release(self, linger: float) -> None:
        server, self._server = self._server, None
        if server is not None:
            _give_back(server, linger)


class _Cancelled(Exception):
    """Ends a fetch whose caller was cancelled; nobody is left to see it."""


@dataclass
class _Shared:
    server: LlamaServer
    users: int = 0
    timer: threading.Timer | None = None


_shared: dict[tuple[Path, int], _Shared] = {}
_lock = threading.Lock()  # models may live in several event loops


def _borrow(path: Path, context: int) -> LlamaServer:
    """The server of this file, to be given back."""
    key = (path.resolve(), context)
    with _lock:
        shared = _shared.get(key)
        if shared is None:
            shared = _shared[key] = _Shared(LlamaServer(key[0], path.stem, context))
        if shared.timer is not None:
            shared.timer.cancel()
            shared.timer = None
        shared.users += 1
        return shared.server


def _give_back(server: LlamaServer, linger: float) -> None:
    """Stop `server` after `linger` seconds, unless somebody uses it or borrows it till then."""
    with _lock:
        shared = _shared[server.weights, server.context]
        shared.users -= 1
        if shared.users == 0 and linger > 0:
            shared.timer = threading.Timer(linger, _stop_unused, (shared,))
            shared.timer.daemon = True
            shared.timer.start()
    if linger <= 0:
        _stop_unused(shared)


def _stop_unused(shared: _Shared) -> None:
    key = shared.server.weights, shared.server.context
    with _lock:
        if shared.users or _shared.get(key) is not shared:
            return
        del _shared[key]
    shared.server.stop()
