"""The seams, on one screen: who is called, by whom, and when.

A backend, a model or a tool of your own needs only to fit one of these; register it under an
entry-point group (`lis_kernel.sandboxes`, `.models`, `.tools`) or name it by its dotted path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from lis_kernel.types import Attempt, CellResult, Message, Observation, Reply, ToolSpec, Verdict

__all__ = ["KernelProcess", "Model", "OnText", "Progress", "Sandbox", "Tool"]

Progress = Callable[[int, int, str], None]
"""Called often with how much is done, how much there is (bytes, for a model), and what is done;
what it raises ends the work."""

OnText = Callable[[Literal["text", "reasoning"], str], None]
"""Called with each piece of a reply as it streams: its channel and the new text."""


@runtime_checkable
class Model(Protocol):
    """Something that answers a conversation. Called by `agent.turn`, once a turn."""

    name: str
    """As the user names it, e.g. `anthropic/<model>`."""

    provider: str
    """Who writes `Reply.raw`; raw messages are replayed only to the same provider."""

    context_window: int
    """Tokens of prompt and answer together."""

    default_protocol: Literal["tools", "blocks"]
    """Native tool calls, or code blocks in plain text."""

    async def prepare(self, progress: Progress | None = None) -> None:
        """Get ready to answer: load weights, ask a server what it serves. Called once, first.

        `progress` is told about downloads; it may be called from another thread.

        Raises:
            ModelAuth, ModelUnavailable, ConfigError
        """
        ...

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        max_tokens: int | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Answer `messages`; `tools` is empty under the code-block protocol.

        Called once a turn. `max_tokens` bounds the reply; None leaves the model's own default.

        Raises:
            ModelAuth, RateLimited, ContextOverflow, ModelUnavailable: after the SDK's retries.
        """
        ...

    async def aclose(self) -> None:
        """Close connections. Called once, when the run is over."""
        ...


@runtime_checkable
class KernelProcess(Protocol):
    """A kernel running in a sandbox. Held by `kernel.session`."""

    connection_info: dict[str, Any]
    """As in a Jupyter connection file: transport (`ipc` only), ip, ports, key."""

    async def wait(self) -> int:
        """Wait for the process to end; its exit status."""
        ...

    @property
    def alive(self) -> bool: ...

    def kill(self) -> None:
        """End it and everything under it now. Must not block and may be called twice."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """Isolation: where processes run. Made by `agent.loop` through the registry, once a run."""

    @property
    def backend(self) -> str:
        """The registry's name of the backend."""
        ...

    async def start(self) -> None:
        """Prepare the box. Raises SandboxUnavailable with what to install or set."""
        ...

    async def launch_kernel(self) -> KernelProcess:
        """Start a kernel in the box and return when it is ready. Called at start and at restart.

        Raises:
            StartTimeout, SandboxError
        """
        ...

    async def reset(self) -> None:
        """End the kernel and all else; the box is again as after `start`, and as old.

        Called by whoever uses one box for several tasks, between them; then a kernel is launched.
        """
        ...

    async def branch(self) -> Sandbox:
        """Another box, started, whose files begin as a copy of this one's; without a kernel.

        Called between cells, to try two ways on; what still runs in here may be writing to a file
        as it is copied. The caller stops it.
        """
        ...

    def put(self, source: Path, target: str) -> None:
        """Copy a host file or folder to the absolute path `target` of the box."""
        ...

    def read(self, path: str, limit: int, since: int = 0) -> bytes | None:
        """At most `limit` bytes of a regular file of the box, or None if there is none.

        None also if it did not change `since` then, in nanoseconds since the epoch. Never follows
        a symlink, never opens a device or fifo.
        """
        ...

    def listing(self, path: str, most: int, since: int = 0) -> list[tuple[str, int]]:
        """Names and bytes of the first `most` regular files below `path`; follows no symlink.

        Only those that changed `since` then, in nanoseconds since the epoch. Called after a cell,
        for those who watch. The names are the sandbox's: hostile.
        """
        ...

    def collect(
        self, path: str, target: Path, limit: int, since: int = 0
    ) -> tuple[list[str], list[str]]:
        """Copy the tree under `path` of the box to the host folder `target`.

        Of the files only those that changed `since` then, in nanoseconds since the epoch. Returns
        the relative names taken, and one sentence for each thing refused (symlinks, devices, more
        than `limit` bytes in all).
        """
        ...

    def verdict(self) -> Verdict | None:
        """Which limit was breached since the last call, or None. Called after each cell."""
        ...

    def attempts(self) -> tuple[Attempt, ...]:
        """The tries to reach the network since the last call. Called after each cell."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What the box is made of, for the record: backend, image digest, packages, limits."""
        ...

    async def stop(self) -> None:
        """End every process and remove every trace. May be called twice, and after a failure."""
        ...

    def cleanup(self) -> None:
        """The synchronous last resort behind `stop`, called at interpreter exit."""
        ...


@runtime_checkable
class Tool(Protocol):
    """Two pure functions. A tool never holds a kernel. Called by `agent.turn`, once a call."""

    spec: ToolSpec

    def to_cell(self, arguments: Mapping[str, Any]) -> str:
        """Source of the cell that carries out the call.

        Raises:
            ToolError: the arguments do not fit; the text is shown to the model.
        """
        ...

    def to_observation(self, result: CellResult) -> Observation:
        """What the model is shown. Must depend on `result` alone."""
        ...
