"""The conformance suite on each backend, and what `conformance.KNOWN` says does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conformance import BEHAVIOURS, KNOWN, Bench

NEEDS = {"zygote": "bwrap", "bubblewrap": "bwrap", "docker": "docker", "podman": "podman"}


def cases() -> Iterator[Any]:
    for backend, known in KNOWN.items():
        assert set(known) <= set(BEHAVIOURS)
        marks = [getattr(pytest.mark, NEEDS[backend])] if backend in NEEDS else []
        for name in BEHAVIOURS:
            reason = [pytest.mark.skip(known[name])] if name in known else []
            yield pytest.param(backend, name, marks=[*marks, *reason], id=f"{backend}-{name}")


@pytest.mark.parametrize(("backend", "name"), list(cases()))
async def test_behaviour(backend: str, name: str, tmp_path) -> None:
    bench = Bench(backend, tmp_path)
    try:
        await BEHAVIOURS[name](bench)
    finally:
        await bench.close()
