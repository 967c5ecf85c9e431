"""lis_kernel: give any LLM a computer, inside Jupyter.

    import lis_kernel as lis
    traj = lis.run("Which of these CSVs hold duplicate rows? Fix them.", files=["data/"])

The names below are the public face; they are loaded when first used, so that the import is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lis_kernel.agent import Agent
    from lis_kernel.api import arun_many, load, run, run_many
    from lis_kernel.config import Budget, Limits, ModelConfig, RunConfig, SandboxConfig
    from lis_kernel.kernel.pool import Pool
    from lis_kernel.kernel.session import Kernel
    from lis_kernel.protocols import Model, Sandbox, Tool
    from lis_kernel.rollout import Rollout
    from lis_kernel.trajectory import Trajectory, Turn
    from lis_kernel.types import Observation, StopReason, Task, ToolCall

__all__ = [
    "Agent",
    "Budget",
    "Kernel",
    "Limits",
    "Model",
    "ModelConfig",
    "Observation",
    "Pool",
    "Rollout",
    "RunConfig",
    "Sandbox",
    "SandboxConfig",
    "StopReason",
    "Task",
    "Tool",
    "ToolCall",
    "Trajectory",
    "Turn",
    "arun_many",
    "load",
    "run",
    "run_many",
]

_HOMES = {
    "lis_kernel.agent": ["Agent"],
    "lis_kernel.api": ["arun_many", "load", "run", "run_many"],
    "lis_kernel.config": ["Budget", "Limits", "ModelConfig", "RunConfig", "SandboxConfig"],
    "lis_kernel.kernel.pool": ["Pool"],
    "lis_kernel.kernel.session": ["Kernel"],
    "lis_kernel.protocols": ["Model", "Sandbox", "Tool"],
    "lis_kernel.rollout": ["Rollout"],
    "lis_kernel.trajectory": ["Trajectory", "Turn"],
    "lis_kernel.types": ["Observation", "StopReason", "Task", "ToolCall"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext lis_kernel`: `%%sandbox`, `%sandbox`, `%%agent` and `%agent`."""
    from lis_kernel.magics import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext lis_kernel`: the magics go, and their sandboxes end."""
    from lis_kernel.magics import unload

    unload(shell)
