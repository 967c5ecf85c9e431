"""Every family on one backend, each attempt beside its canary: `lis doctor --attack`.

A family is a coroutine `run(ground) -> {name: Outcome}`. It runs on the backend, where each
attempt must be blocked, and on the canary's ground, where the same attempt must get through: so a
suite that reports no breach has been seen to report some.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lis_kernel.attacks import (
    exhaustion,
    files_out,
    host_files,
    kernel_channel,
    neighbours,
    network,
    persistence,
    privilege,
)
from lis_kernel.attacks.ground import Ground, Outcome, together
from lis_kernel.errors import ConfigError, LisKernelError

__all__ = ["FAMILIES", "Finding", "attack", "merge"]

log = logging.getLogger(__name__)

FAMILY_SECONDS = 120.0

Family = Callable[[Ground], Awaitable[Mapping[str, Outcome]]]

FAMILIES: dict[str, Family] = {
    "host files": host_files.run,
    "privilege": privilege.run,
    "network": network.run,
    "neighbours": neighbours.run,
    "exhaustion": exhaustion.run,
    "kernel channel": kernel_channel.run,
    "files out": files_out.run,
    "persistence": persistence.run,
}
AT_ONCE = {"files out", "persistence"}
"""Families whose two grounds do not disturb each other: they measure neither memory nor load."""


class Finding(NamedTuple):
    """One attempt on one backend.

    `result` is skipped where the attempt cannot be made, or proved nothing; `stopped_by` then says
    why. `canary` begins with `breached` if the same attempt got through without the wall.
    """

    name: str
    family: str
    backend: str
    result: Literal["blocked", "breached", "skipped"]
    stopped_by: str
    canary: str

    @property
    def live(self) -> bool:
        """Whether the canary shows that the attempt can succeed."""
        return self.canary.startswith("breached")

    @property
    def good(self) -> bool:
        """Blocked and live, or impossible for a reason that is known beforehand."""
        if self.result == "breached" or self.stopped_by.startswith("broken"):
            return False
        return self.live or self.canary.startswith("skipped") or self.result == "skipped"


async def attack(
    backend: str,
    *,
    families: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str, float], None] = lambda family, seconds: None,
) -> list[Finding]:
    """Make every attempt on `backend`; the findings in the families' order.

    Args:
        families: only these; all if empty.
        options: further fields of `SandboxConfig`.
        progress: told about each family when it is done, with its seconds.

    Raises:
        ConfigError: on an unknown family.
        SandboxError: the backend does not start here.
    """
    for family in families:
        if family not in FAMILIES:
            raise ConfigError("--family", f"unknown {family!r}.", f"Known: {', '.join(FAMILIES)}.")
    async with Ground(backend, options=options) as ground:
        await ground.shared()  # a backend that does not start ends here, with its reason
    findings: list[Finding] = []
    local = logging.getLogger("lis_kernel.sandbox.local")
    local.disabled, before = backend != "local", local.disabled  # no walls: the canary means it
    try:
        for family in families or FAMILIES:
            started = time.monotonic()
            attacked = _run(family, Ground(backend, options=options))
            canary = _run(family, Ground("local", canary=True))
            if family in AT_ONCE:
                found, shown = await together(attacked, canary)
            else:
                found, shown = await attacked, await canary
            findings += merge(family, backend, found, shown)
            progress(family, time.monotonic() - started)
    finally:
        local.disabled = before
    return findings


async def _run(family: str, ground: Ground) -> Mapping[str, Outcome]:
    try:
        async with ground, asyncio.timeout(FAMILY_SECONDS):
            return await FAMILIES[family](ground)
    except (LisKernelError, OSError) as error:
        return {"": Outcome("broken", f"{type(error).__name__}: {error}")}


def merge(
    family: str, backend: str, found: Mapping[str, Outcome], shown: Mapping[str, Outcome]
) -> list[Finding]:
    """One finding a name; an attempt without a report on either ground is a fault."""
    findings = []
    nothing = Outcome("broken", "it gave no report")
    for name in dict.fromkeys([*shown, *found]):
        here, there = found.get(name, found.get("", nothing)), shown.get(name, nothing)
        result: Literal["blocked", "breached", "skipped"]
        if here.result == "breached":
            result, stopped_by = "breached", ""
            log.warning("%s: %s got through: %s", backend, name, here.evidence)
        elif here.result == "blocked":
            result, stopped_by = "blocked", here.wall or here.evidence
        else:
            result, stopped_by = "skipped", f"{here.result}: {here.evidence}"
        canary = f"{there.result}: {there.evidence or there.wall}"
        findings.append(Finding(name or "family", family, backend, result, stopped_by, canary))
    return findings
