"""Attempts at the host's files, judged from the host: was the secret said, is there a mark?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lis_kernel.attacks.ground import Ground, Outcome
from lis_kernel.sandbox import cgroup
from lis_kernel.sandbox.launch import GUEST

__all__ = ["run"]


async def run(ground: Ground) -> Mapping[str, Outcome]:
    """Every attempt of `inside/host_files.py`."""
    box = await ground.shared()
    marks = ground.folder / "marks"
    marks.mkdir()
    marks.chmod(0o777)
    victim = ground.victim(box.facts.get("host_uid"))
    where = cgroup.layout()
    device = os.stat(ground.folder).st_dev
    reports = await box.attempts(
        "host_files",
        {
            "init": victim.pid if ground.canary else 1,
            "secret": str(ground.secret),
            "outside": str(ground.folder),
            "mark": f"{marks}/",
            "victim_mark": ground.word,
            "device": [os.major(device), os.minor(device)],
            "host_root": _root_device(),
            "guest": str(GUEST),
            "cgroups": [str(path) for path in (*where.folders.values(), "/sys/fs/cgroup")],
            "cgroup_v1": next(iter(where.folders), "") if where.kind == "cgroup v1" else "",
        },
    )
    outcomes = {}
    for name, report in reports.items():
        seen = ""
        if (marks / name).exists():
            seen = f"the host has {marks / name}"
        elif ground.word in report.evidence:
            seen = "the host's secret was read"
        outcomes[name] = ground.judge(report, seen)
    return outcomes


def _root_device() -> str:
    """`major:minor` of the host's root file system, as mountinfo writes it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == "/":
            return words[2]
    return ""
