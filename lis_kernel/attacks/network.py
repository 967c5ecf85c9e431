"""Attempts at the network, under `none` and under an allow-list; the host listens for the words.

Without walls the direct attempts, here, reach the host's listeners. Those through the proxy are in
`proxied.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

from lis_kernel.attacks import proxied
from lis_kernel.attacks.ground import Ground, Outcome
from lis_kernel.attacks.listeners import MULTICAST, Listeners
from lis_kernel.sandbox.container_spec import RUN_INSIDE

__all__ = ["run"]

OWN_RUN = ["/run/lis", RUN_INSIDE]
"""Where a sandbox has its own kernel's sockets."""


async def run(ground: Ground) -> Mapping[str, Outcome]:
    """Every attempt of `inside/network.py` and `inside/proxied.py`."""
    listeners = Listeners(ground.folder, ground.secret)
    ground.on_end(listeners.close)
    direct, through = await asyncio.gather(
        _direct(ground, listeners), proxied.run(ground, listeners)
    )
    return {**direct, **through}


async def _direct(ground: Ground, listeners: Listeners) -> dict[str, Outcome]:
    """What is tried where there is no network at all."""
    box = await ground.shared()
    victim = ground.victim(box.facts.get("host_uid"))
    reports = await box.attempts("network", direct_facts(ground, listeners, victim.pid))
    await listeners.settle()
    outcomes = {}
    for name, report in reports.items():
        seen = ""
        if where := listeners.who_heard(name):
            seen = f"the host's listener heard it ({where})"
        elif ground.word in report.evidence:
            seen = "the host's secret was read"
        outcomes[name] = ground.judge(report, seen)
    return outcomes


def direct_facts(ground: Ground, listeners: Listeners, victim: int) -> dict[str, Any]:
    """Where the host's listeners are, and what else only the host can know."""
    return {
        "key": listeners.key,
        "places": listeners.places,
        "multicast": MULTICAST,
        "victim": victim,
        "init": victim if ground.canary else 1,
        "devices": sorted(name for _, name in socket.if_nameindex() if name != "lo"),
        # where no wall is, the search looks at nothing but what was put there for it
        "own_run": [] if ground.canary else OWN_RUN,
        "socket_roots": [str(ground.folder)] if ground.canary else ["/"],
    }
