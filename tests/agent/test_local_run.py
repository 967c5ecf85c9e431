"""The README's first command with the real local model, and its notebook executed again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_stock import jupyter_execute, plain

from lis_kernel.trajectory import load

pytestmark = [pytest.mark.bwrap, pytest.mark.localmodel, pytest.mark.slow]


@pytest.mark.timeout(900)
def test_the_local_model_sums_the_primes_and_its_notebook_runs_again(tmp_path: Path) -> None:
    task = "What is the sum of all prime numbers below 100000? "
    command = [sys.executable, "-m", "lis_kernel", "run", task, "--out", str(tmp_path), "--json"]
    done = subprocess.run(
        [*command, "--max-turns", "10", "--timeout", "600"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["answer"] == "454396537"
    trajectory = load(summary["trajectory"])
    assert trajectory.verify() == len(trajectory.notebook["cells"])
    again = jupyter_execute(trajectory.path, tmp_path / "testbed")
    recorded = [c for c in trajectory.notebook["cells"] if c["cell_type"] == "code"]
    assert len(recorded) > 1
    for cell in recorded:
        assert plain(again[cell["id"]]) == plain(cell), cell["source"]
