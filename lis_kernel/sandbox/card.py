"""A sandbox as the card that a notebook shows of it: what it is, how it is bounded, by what."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lis_kernel import cards
from lis_kernel.config import amount

__all__ = ["card"]

_NAMES = {
    "memory_bytes": "Memory",
    "disk_bytes": "Disk",
    "pids": "Processes",
    "cpus": "CPUs",
    "open_files": "Open files",
    "core_bytes": "Core dumps",
    "cell_seconds": "Time of a cell",
    "sandbox_seconds": "Time in all",
}
_TOP = ("memory_bytes", "disk_bytes", "cpus", "pids")


def card(
    described: Mapping[str, Any],
    *,
    state: str,
    alive: bool,
    name: str = "",
    created: float | None = None,
) -> str:
    """The card of a sandbox.

    Args:
        described: what its `describe` says.
        state: one word, e.g. `running`; `alive` is whether that is good.
        name: what people call it.
        created: seconds since the epoch.
    """
    backend = str(described.get("backend", "sandbox"))
    network = str(described.get("network", ""))
    limits = described.get("limits")
    limits = limits if isinstance(limits, Mapping) else {}
    top = [
        cards.bar(_NAMES[key], _amount(key, _limit(limits[key])), None)
        for key in _TOP
        if key in limits
    ]
    top.append(cards.bar("Network", network or "unknown", None))
    if created:
        top.append(cards.bar("Age", cards.duration(max(0.0, time.time() - created)), None))
    title = f"{name} · {backend}" if name else f"{backend} sandbox"
    head = (
        '<div style="display:flex;flex-wrap:wrap;gap:6px 12px;align-items:center">'
        f"{cards.badge(state, 'good' if alive else 'plain')}"
        f'<span style="font-size:15px;font-weight:600">{cards.escape(title)}</span></div>'
    )
    if backend == "local":
        head += cards.note("No isolation: what runs here runs as you.", "bad")
    return cards.page(head, cards.row(top), _limits(limits) + _inside(described))


def _limits(limits: Mapping[str, Any]) -> str:
    rows = [
        [_NAMES.get(key, key), _amount(key, _limit(held)), str(_held_by(held))]
        for key, held in limits.items()
    ]
    return cards.fold("Limits", cards.table(rows, ["limit", "most", "held by"])) if rows else ""


def _inside(described: Mapping[str, Any]) -> str:
    """Image and packages."""
    said = [(key, cards.escape(described[key])) for key in ("python", "image") if key in described]
    packages = described.get("packages")
    if isinstance(packages, list) and packages:
        names = ", ".join(str(package) for package in packages)
        said.append((f"{len(packages)} packages", cards.escape(names)))
    return cards.fold("Inside", cards.facts(said)) if said else ""


def _limit(held: Any) -> Any:
    return held.get("limit") if isinstance(held, Mapping) else held


def _held_by(held: Any) -> Any:
    return held.get("held_by", "") if isinstance(held, Mapping) else ""


def _amount(key: str, limit: Any) -> str:
    if not isinstance(limit, int | float):
        return "not bounded" if limit is None else str(limit)
    if key.endswith("_bytes"):
        return amount(int(limit))
    return f"{limit:g} s" if key.endswith("_seconds") else f"{limit:g}"
