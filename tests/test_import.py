"""`import lis_kernel` is quick and loads nothing heavy; the public names are there."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import lis_kernel

HEAVY = ["anthropic", "openai", "ipywidgets", "docker", "ray", "torch", "trl", "xllamacpp", "zmq"]


def test_import_loads_no_heavy_library() -> None:
    code = "import sys, json, lis_kernel; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert loaded.isdisjoint(HEAVY)


def test_public_names_load() -> None:
    for name in lis_kernel.__all__:
        assert getattr(lis_kernel, name) is not None
    assert set(lis_kernel.__all__) <= set(dir(lis_kernel))


def test_import_time_is_reported(record_property) -> None:
    """Reported, not asserted: the goal is under 150 ms more than bare Python."""

    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started

    pairs = [(seconds("pass"), seconds("import lis_kernel")) for _ in range(5)]
    extra = statistics.median(ours - bare for bare, ours in pairs)
    record_property("import_extra_ms", round(1000 * extra, 1))
    print(f"\nimport lis_kernel: {1000 * extra:.0f} ms more than bare Python (median of 5)")
