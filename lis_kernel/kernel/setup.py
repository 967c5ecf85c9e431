"""What an agent's sandbox and its kernel are made from: settings, setup cell, caps on outputs.

Floor 2, asked by `agent/loop.py`, which records the setup cell, and by `kernel/pool.py`, whose
kernels have run it before the task is known. Two sandboxes of equal `Kind` can stand for each
other.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lis_kernel import registry
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.protocols import Progress, Sandbox
from lis_kernel.tools import observation

__all__ = ["Kind", "setup_source"]


@cache
def setup_source() -> str:
    """The setup cell: the guest's helpers, whole, so that the notebook needs nothing of ours."""
    guest = runpy.run_path(str(Path(__file__).parent.parent / "guest" / "first_cell.py"))
    text: str = guest["source"]()
    return text


def _caps() -> Mapping[str, int]:
    """Of `guest/output.py`: what an observation leaves out lies in a file of the sandbox."""
    return {
        "spill_lines": observation.HEAD_LINES + observation.TAIL_LINES,
        "spill_chars": observation.STREAM_CHARS,
    }


@dataclass(frozen=True)
class Kind:
    """Everything that decides what a sandbox is; setup and caps are an agent's unless given."""

    config: SandboxConfig = field(default_factory=SandboxConfig)
    limits: Limits = field(default_factory=Limits)
    setup: str = field(default_factory=setup_source)
    caps: Mapping[str, int] = field(default_factory=_caps)

    def sandbox(self, say: Callable[[str], None], progress: Progress) -> Sandbox:
        """A sandbox that is not started yet.

        Raises:
            ConfigError: the backend is unknown, or a setting is wrong or none of its.
        """
        backend = registry.load(registry.SANDBOXES, self.config.backend, "--backend")
        made: Sandbox = backend(
            self.config, self.limits, caps=self.caps, say=say, progress=progress
        )
        return made

    def fit(self, other: Kind) -> None:
        """See that a sandbox of this kind, a pool's, does for a run that asks for `other`.

        Raises:
            ConfigError: naming the first setting that differs.
        """
        for name, ours, theirs in self._beside(other):
            if ours != theirs:
                raise ConfigError(
                    "pool",
                    f"its sandboxes have {name} {_short(ours)}, the run's {_short(theirs)}.",
                    "Make the pool with the settings of the run.",
                )

    def _beside(self, other: Kind) -> Iterator[tuple[str, Any, Any]]:
        for name in SandboxConfig.model_fields:
            yield f"sandbox.{name}", getattr(self.config, name), getattr(other.config, name)
        for name in Limits.model_fields:
            yield f"limits.{name}", getattr(self.limits, name), getattr(other.limits, name)
        yield "output caps", dict(self.caps), dict(other.caps)
        yield "the setup cell", self.setup, other.setup


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:60]}… ({len(text)} characters)"
