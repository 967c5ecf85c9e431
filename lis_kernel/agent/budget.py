"""The bounds of a run: turns, tokens, cost. Each that is reached is a stop reason of its own.

Asked by `agent/loop.py` before each model call. Wall-clock time is not here: it has to end a turn
in the middle, so the loop itself watches it.
"""

from __future__ import annotations

from lis_kernel.config import Budget
from lis_kernel.errors import ConfigError
from lis_kernel.types import StopReason, Usage

__all__ = ["Meter"]


class Meter:
    """Counts what a run has used against its budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.turns = 0
        self.usage = Usage()

    def add(self, usage: Usage) -> None:
        """Count one turn.

        Raises:
            ConfigError: a cost budget was set and the model's price is not known, so the budget
                could never stop the run.
        """
        self.turns += 1
        self.usage += usage
        if self.budget.cost_usd is not None and usage.cost_usd is None:
            raise ConfigError(
                "--max-cost",
                "the price of this model is not known, so a cost cannot be bounded.",
                "Give it with --price INPUT,OUTPUT (USD per million tokens), or use --max-tokens.",
            )

    def exceeded(self) -> StopReason | None:
        """The first budget that leaves no room for another turn, or None."""
        if self.turns >= self.budget.turns:
            return StopReason.MAX_TURNS
        if self.budget.tokens is not None and self.usage.total_tokens >= self.budget.tokens:
            return StopReason.MAX_TOKENS
        cost = self.usage.cost_usd or 0.0
        if self.budget.cost_usd is not None and cost >= self.budget.cost_usd:
            return StopReason.MAX_COST
        return None

    def hint(self) -> str:
        """What the model is told about its remaining turns, with each observation."""
        left = self.budget.turns - self.turns
        if left <= 0:
            return ""
        if left == 1:
            return "[one turn left: submit now]"
        return f"[{left} turns left]"
