"""Attempts at more power: the host plants a victim process of the sandbox's own uid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lis_kernel.attacks.ground import Ground, Outcome

__all__ = ["run"]


async def run(ground: Ground) -> Mapping[str, Outcome]:
    """Every attempt of `inside/privilege.py`."""
    box = await ground.shared()
    victim = ground.victim(box.facts.get("host_uid"))
    reports = await box.attempts(
        "privilege",
        {
            "victim": victim.pid,
            # another process that the attempt can see: its init, or the victim
            "target": victim.pid if ground.canary else 1,
            "word": ground.word,
            "block_device": _block_device(),
        },
    )
    return {name: ground.judge(report) for name, report in reports.items()}


def _block_device() -> str:
    """The device that the host's root file system lies on, as far as it has a name."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == "/":
            return words[words.index("-") + 2]
    return "/dev/none"
