"""The conversation as it is sent: fitted to the model's window, and to its protocol.

The whole history stays in the notebook. When it no longer fits, the oldest observations are
replaced by a pointer to their cell, many at once, so that the prompt's beginning, which providers
cache, changes rarely.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from lis_kernel.errors import ContextOverflow
from lis_kernel.tools.blocks import blocks_observation
from lis_kernel.types import AssistantMessage, Message, ToolMessage, UserMessage

__all__ = ["Context"]

KEPT = 2
"""The newest observations stay as they are."""
FILL = 0.7
"""After dropping, the prompt takes at most this part of its room."""
MESSAGE_TOKENS = 8
"""What a message costs beside its text."""
POINTER = "[dropped to save room: the output of cell {cell}. Run it again if you need it.]"


class Context:
    """A run's conversation.

    Args:
        window: tokens of prompt and reply that the model takes.
        reply_tokens: kept free for the reply.
        overhead: characters that every request holds beside the messages, e.g. tool schemas.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        protocol: Literal["tools", "blocks"],
        *,
        window: int,
        reply_tokens: int,
        overhead: int = 0,
    ) -> None:
        self.messages = list(messages)
        self.protocol = protocol
        self.dropped: set[str] = set()
        self._cells: dict[str, str] = {}
        self._room = window - reply_tokens
        self._overhead = overhead
        self._chars_per_token = 3.0  # cautious until the first reply says what it was

    def add(self, message: Message) -> None:
        self.messages.append(message)

    def remember_cell(self, call_id: str, cell: str) -> None:
        """Which cell holds the outputs of a call, for the pointer that may replace them."""
        self._cells[call_id] = cell

    def calibrate(self, input_tokens: int) -> None:
        """Learn from the provider's count of the prompt that `prompt` gave last."""
        if input_tokens > 100:
            ratio = self._chars() / input_tokens
            self._chars_per_token = min(6.0, max(1.0, ratio))

    def prompt(self) -> tuple[list[Message], list[str]]:
        """What to send now, and the ids of the calls whose observations were dropped for it.

        Raises:
            ContextOverflow: it does not fit even without the old observations.
        """
        newly: list[str] = []
        if self._tokens() > self._room:
            newly = self._drop(int(self._room * FILL))
            if self._tokens() > self._room:
                raise ContextOverflow(
                    f"the conversation needs about {self._tokens()} tokens and the model has room "
                    f"for {self._room}, with every old observation dropped"
                )
        return _joined([self._shown(message) for message in self._fitted()]), newly

    def shrink(self) -> None:
        """The provider says that the last prompt was too long: count more tokens per character."""
        self._chars_per_token = max(1.0, self._chars_per_token * 0.7)
        needed = self._tokens()
        if needed <= self._room:  # our count was far off: make it drop something
            self._room = int(needed * FILL)

    def _drop(self, goal: int) -> list[str]:
        newly: list[str] = []
        tool_messages = [m for m in self.messages if isinstance(m, ToolMessage)]
        for message in tool_messages[: max(0, len(tool_messages) - KEPT)]:
            for result in message.results:
                if result.call_id not in self.dropped and len(result.text) > 2 * len(POINTER):
                    self.dropped.add(result.call_id)
                    newly.append(result.call_id)
            if self._tokens() <= goal:
                break
        return newly

    def _fitted(self) -> list[Message]:
        fitted: list[Message] = []
        for message in self.messages:
            if not isinstance(message, ToolMessage):
                fitted.append(message)
                continue
            results = tuple(
                r.model_copy(update={"text": self._pointer(r.call_id)})
                if r.call_id in self.dropped
                else r
                for r in message.results
            )
            fitted.append(ToolMessage(results=results))
        return fitted

    def _pointer(self, call_id: str) -> str:
        return POINTER.format(cell=self._cells.get(call_id, call_id))

    def _shown(self, message: Message) -> Message:
        if self.protocol == "blocks" and isinstance(message, ToolMessage):
            return UserMessage(text=blocks_observation(message.results))
        if self.protocol == "blocks" and isinstance(message, AssistantMessage):
            return AssistantMessage(text=message.text)
        return message

    def _tokens(self) -> int:
        messages = self._fitted()
        return int(self._chars(messages) / self._chars_per_token) + MESSAGE_TOKENS * len(messages)

    def _chars(self, messages: Sequence[Message] | None = None) -> int:
        total = self._overhead
        for message in self._fitted() if messages is None else messages:
            if isinstance(message, ToolMessage):
                total += sum(len(r.text) for r in message.results)
            else:
                total += len(message.text)
            if isinstance(message, AssistantMessage) and self.protocol == "tools":
                total += len(message.reasoning) if message.raw else 0
                total += sum(len(json.dumps(c.arguments)) for c in message.calls)
        return total


def _joined(messages: Sequence[Message]) -> list[Message]:
    """One message where the user speaks twice in a row: some chat templates refuse two."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if isinstance(message, UserMessage) and isinstance(last, UserMessage):
            joined[-1] = UserMessage(text=f"{last.text}\n\n{message.text}")
        else:
            joined.append(message)
    return joined
