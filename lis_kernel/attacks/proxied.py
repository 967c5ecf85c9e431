"""Attempts through the proxy of an allow-list, judged by what the host's listeners heard.

On the canary's ground they go through a naive proxy, or through our own under a list that has what
is asked for: so each request is seen to be well-formed, and to reach the victim. Every refusal must
also stand in the sandbox's record of its attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lis_kernel.attacks.ground import Box, Ground, Outcome, Report
from lis_kernel.attacks.inside import driver, smuggling
from lis_kernel.attacks.inside import proxied as inside
from lis_kernel.attacks.listeners import Listeners, word_of
from lis_kernel.attacks.world import NaiveProxy, World, policy
from lis_kernel.errors import SandboxUnavailable
from lis_kernel.sandbox.container_spec import HOST_INSIDE, RUN_INSIDE
from lis_kernel.sandbox.policy import parse
from lis_kernel.sandbox.proxy import MAX_KEPT, Bounds, Proxy
from lis_kernel.types import Attempt

__all__ = ["NAMES", "NO_REFUSAL", "judge", "records", "run"]

RUN = ("/run/lis", RUN_INSIDE)
"""Where a sandbox may write what the host reads, as it sees it."""
DOORS = ("/run/lis", HOST_INSIDE)
"""Where it sees the proxy's socket."""
FORWARDER = ("127.0.0.1", 3128)
BOUNDS = Bounds(head=1.0, connect=2.0, idle=5.0, connections=24)
"""Shorter than a user's, so that an attempt at them takes no minute."""
NAMES = [
    name
    for name, function in driver.ATTEMPTS.items()
    if function.__module__ in (inside.__name__, smuggling.__name__)
]
LATER = ("ask_again_with_a_new_kernel", "drown_the_record")
"""Made after the others, one by one."""
MARK = ".mark.evil.example"
DIRECT = {
    "pass_the_proxy_by_tcp",
    "pass_the_proxy_by_udp",
    "pass_the_proxy_by_a_name_server",
    "put_a_link_in_place_of_the_proxys_socket",
}
"""These go past every proxy."""
NO_REFUSAL = DIRECT | {
    "send_a_second_request_at_once",
    "send_a_second_request_later",
    "send_more_than_the_length",
    "upgrade_the_connection",
    "drown_the_record",
}
"""These ask nothing of the proxy that it refuses: it never hears of them, or reads no further; or
they are judged in another way."""


async def run(ground: Ground, listeners: Listeners) -> Mapping[str, Outcome]:
    """Every attempt of `inside/proxied.py`."""
    world = World(listeners)
    victim = listeners.places["tcp_loopback"][1]
    async with contextlib.AsyncExitStack() as stack:
        try:
            box = await stack.enter_async_context(ground.box(network=policy(victim)))
        except SandboxUnavailable as error:
            return dict.fromkeys(NAMES, Outcome("skipped", str(error)))
        facts: dict[str, Any] = {
            "key": listeners.key,
            "places": listeners.places,
            "patience": 2.5,
            "connections": BOUNDS.connections,
            "flood": MAX_KEPT + 100,
        }
        if ground.canary:
            facts |= await stack.enter_async_context(_canary(ground.folder, world, victim))
        else:
            _attack(box, world)
            facts |= {
                "proxies": {"naive": FORWARDER, "listing": FORWARDER},
                "proxy_sockets": [f"{folder}/proxy.sock" for folder in DOORS],
                "run": RUN,
            }
        first = [name for name in NAMES if name not in LATER]
        reports = await box.attempts("proxied", {**facts, "only": first})
        await box.session.start()  # a new kernel
        reports |= await box.attempts("proxied", {**facts, "only": LATER[:1]})
        recorded = records(box.sandbox.attempts())
        reports |= await box.attempts("proxied", {**facts, "only": LATER[1:]})
        await listeners.settle()
        recorded["drown_the_record"] = list(box.sandbox.attempts())
    return {
        name: judge(ground, listeners, world, report, recorded) for name, report in reports.items()
    }


def _attack(box: Box, world: World) -> None:
    """Give the sandbox's own proxy the attack's names and addresses, and short times."""
    proxy = box.sandbox.network._proxy  # type: ignore[attr-defined]
    proxy._resolve, proxy._dial, proxy.bounds = world.resolve, world.dial, BOUNDS


@contextlib.asynccontextmanager
async def _canary(folder: Path, world: World, victim: int) -> AsyncIterator[dict[str, Any]]:
    """The two proxies that stand where the wall should be, as facts for the inside half."""
    run = folder / "run"
    run.mkdir()
    run.chmod(0o777)
    naive = NaiveProxy(world, run / "policy")
    port = await naive.start(run / "proxy.sock")
    listed = f"allow=evil.example,!127.0.0.1:{victim},!127.0.0.1:{port}"
    listing = Proxy(parse(listed), resolve=world.resolve, dial=world.dial)
    await listing.start(run / "listing.sock")
    for name in ("proxy.sock", "listing.sock"):
        (run / name).chmod(0o666)
    yield {
        "proxies": {"naive": ("127.0.0.1", port), "listing": str(run / "listing.sock")},
        "proxy_sockets": [str(run / "proxy.sock")],
        "run": [str(run)],
    }
    naive.close()
    await listing.stop()
    await asyncio.sleep(0)  # what was cancelled ends


def records(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    """The record, cut at the marks that each attempt sends before it begins."""
    found: dict[str, list[Attempt]] = {}
    now: list[Attempt] = []
    for attempt in attempts:
        if attempt.host.endswith(MARK):
            now = found.setdefault(attempt.host.removesuffix(MARK), [])
        else:
            now.append(attempt)
    return found


def judge(
    ground: Ground,
    listeners: Listeners,
    world: World,
    report: Report,
    recorded: Mapping[str, Sequence[Attempt]],
) -> Outcome:
    name = report.name
    through = "a proxy without this wall: " * (ground.canary and name not in DIRECT)
    word = word_of(listeners.key, name)
    record = recorded.get(name, [])
    seen = ""
    if name == "carry_words_out_in_a_refused_name" and any(word in host for host in world.asked):
        seen = "the host looked the name up"
    elif name == "leave_no_record" and not any(word in a.host for a in record):
        seen = "nothing of it is in the record"
    elif name == "drown_the_record" and not any(a.host == "*" or word in a.host for a in record):
        seen = "it is neither listed nor counted"
    elif where := listeners.who_heard(name):
        seen = f"the host's listener heard it ({where})"
    outcome = ground.judge(report, seen)
    if outcome.result == "breached":
        return Outcome("breached", f"{through}{outcome.evidence}")
    told = ground.canary or name in NO_REFUSAL or any(not attempt.allowed for attempt in record)
    if outcome.result == "blocked" and not told:
        return Outcome("breached", "it was refused, and the sandbox's record says nothing")
    return outcome
