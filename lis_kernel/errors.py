"""Everything that can go wrong, by whose fault it is.

    LisKernelError
    ├─ ConfigError            a setting is wrong: names the field and the fix
    ├─ SandboxError           the box failed, not the command in it
    │  ├─ SandboxUnavailable  this backend cannot work here: says what to install or set
    │  ├─ LimitExceeded       the box hit one of its limits
    │  ├─ SandboxBusy         somebody else is at work in it
    │  └─ SandboxLost         the box died under us
    ├─ KernelError
    │  ├─ StartTimeout        the kernel did not report ready in time
    │  ├─ KernelDied          the kernel process ended
    │  └─ CellTimeout         a cell could be stopped only by restarting the kernel
    ├─ ModelError             the model's API failed after its retries
    │  ├─ ModelAuth           no key, or a refused one
    │  ├─ RateLimited         still 429 after the retries
    │  ├─ ContextOverflow     the conversation is longer than the model's window
    │  └─ ModelUnavailable    no connection, 5xx, a cut or unreadable answer
    ├─ ToolError              the only family that the model is shown, as an observation
    ├─ TrajectoryError
    │  ├─ SchemaError         the file is not a trajectory notebook of a version we read
    │  ├─ ReplayMismatch      a replayed cell gave other outputs
    │  └─ Tampered            a cell's hash does not fit its content
    └─ RewardError            a grader broke: the reward is None with this reason

Stopping a run is a value (`types.StopReason`), not an exception.
"""

from __future__ import annotations

__all__ = [
    "CellTimeout",
    "ConfigError",
    "ContextOverflow",
    "KernelDied",
    "KernelError",
    "LimitExceeded",
    "LisKernelError",
    "ModelAuth",
    "ModelError",
    "ModelUnavailable",
    "RateLimited",
    "ReplayMismatch",
    "RewardError",
    "SandboxBusy",
    "SandboxError",
    "SandboxLost",
    "SandboxUnavailable",
    "SchemaError",
    "StartTimeout",
    "Tampered",
    "ToolError",
    "TrajectoryError",
]


class LisKernelError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(LisKernelError):
    """A setting is wrong.

    Args:
        field: the setting, as the user wrote it (`--model`, `budget.turns`).
        problem: what is wrong with it.
        fix: what to write instead.
    """

    def __init__(self, field: str, problem: str, fix: str = "") -> None:
        self.field, self.problem, self.fix = field, problem, fix
        super().__init__(f"{field}: {problem}" + (f" {fix}" if fix else ""))


class SandboxError(LisKernelError):
    """The box failed, not the command in it."""


class SandboxUnavailable(SandboxError):
    """This backend cannot work on this machine; the message says what to install or set."""


class LimitExceeded(SandboxError):
    """The box hit one of its limits."""


class SandboxBusy(SandboxError):
    """Somebody else is at work in the box; nothing was run."""


class SandboxLost(SandboxError):
    """The box died while it was in use."""


class KernelError(LisKernelError):
    """The kernel in the box failed."""


class StartTimeout(KernelError):
    """The kernel did not report ready in time."""


class KernelDied(KernelError):
    """The kernel process ended."""


class CellTimeout(KernelError):
    """A cell ignored every interrupt; only restarting the kernel stopped it."""


class ModelError(LisKernelError):
    """The model's API failed, after the retries that make sense."""


class ModelAuth(ModelError):
    """No API key, or one that the provider refused."""


class RateLimited(ModelError):
    """Still told to slow down (429) after the retries."""


class ContextOverflow(ModelError):
    """The conversation is longer than the model's context window."""


class ModelUnavailable(ModelError):
    """No connection, a 5xx, a time-out, a cut stream or an answer that cannot be read."""


class ToolError(LisKernelError):
    """A call that cannot be carried out; the text is shown to the model."""


class TrajectoryError(LisKernelError):
    """A trajectory notebook cannot be used."""


class SchemaError(TrajectoryError):
    """Not a trajectory notebook, or of a schema version that this release does not read."""


class ReplayMismatch(TrajectoryError):
    """A replayed cell gave other outputs than the recorded ones."""


class Tampered(TrajectoryError):
    """A cell's hash does not fit its content."""


class RewardError(LisKernelError):
    """A grader broke; the reward is None with this reason, never 0.0."""
