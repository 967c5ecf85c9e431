"""Which limit a cell ran into, and how much that is in the words that the model is told.

Asked by `kernel/session.py` once a cell is over.
"""

from __future__ import annotations

import signal

from lis_kernel.config import Limits, amount
from lis_kernel.protocols import KernelProcess, Sandbox
from lis_kernel.types import CellResult, Verdict

__all__ = ["limit_of", "verdict_on"]


async def verdict_on(
    result: CellResult, sandbox: Sandbox, process: KernelProcess | None
) -> Verdict | None:
    """Our clock's, the sandbox's, or `killed` for a kernel that ended by SIGKILL; mostly None."""
    verdict = sandbox.verdict()
    if result.status == "timeout":
        return "timeout"
    if verdict is None and result.status == "died" and process is not None:
        status = await process.wait()
        return "killed" if status in (-signal.SIGKILL, 128 + signal.SIGKILL) else None
    return verdict


def limit_of(verdict: Verdict, sandbox: Sandbox, limits: Limits, seconds: float) -> str:
    """How much the limit is; `seconds` is the cell's own."""
    held = sandbox.describe().get("limits", {})
    disk = held.get("disk_bytes", limits.disk_bytes)
    if isinstance(disk, dict):
        disk = disk["limit"]
    if disk is None:  # not bounded by us
        disk = limits.disk_bytes
    return {
        "oom": amount(limits.memory_bytes),
        "disk_full": amount(disk),  # a disk in memory may have had to be smaller
        "pids": f"{limits.pids} processes and threads",
        "timeout": f"{seconds:g} s",
        "killed": "",
    }[verdict]
