"""The benchmarks run: real sandboxes, few rounds. How fast they are is no test's business."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KEYS = {"name", "unit", "n", "min", "median", "p95", "rivals", "goals"}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """What a bench uses as /tmp; short, for there are sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def run(program: str, *words: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / program), *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(Path.home())}
        | {"TMPDIR": str(scratch)},
    )


def nothing_left(scratch: Path) -> None:
    """No file, and no process that was told of this folder."""
    assert list(scratch.iterdir()) == []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        assert str(scratch).encode() not in words, words


def rows_of(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """By name, and the machine."""
    *rows, machine = json.loads(path.read_text("utf-8"))
    assert machine["name"] == "machine"
    return {row["name"]: row for row in rows}, machine


@pytest.mark.bwrap
def test_two_quick_rows(scratch: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    asked = ("bwrap_cold", "shell_rtt", "--quick", "--no-docker", "--json", str(path))
    done = run("bench.py", *asked, scratch=scratch)
    assert done.returncode == 0, done.stdout + done.stderr
    rows, machine = rows_of(path)
    assert set(rows) == {"bwrap_cold", "shell_rtt"} and machine["cpus"] > 0
    for name, row in rows.items():
        assert set(row) >= KEYS and name in done.stdout
        assert row["n"] == 3 and 0 < row["min"] <= row["median"] <= row["p95"]
        assert row["rivals"]["plain"]["ratio"] > 0
        assert all(goal["met"] in (True, False, None) for goal in row["goals"])
    nothing_left(scratch)


@pytest.mark.bwrap
def test_the_rows_of_the_magics(scratch: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    asked = ("magic_first", "magic_output", "--quick", "--json", str(path))
    done = run("bench.py", *asked, scratch=scratch)
    assert done.returncode == 0, done.stdout + done.stderr
    rows, _ = rows_of(path)
    assert set(rows["magic_first"]["rivals"]) == {"plain", "plain start"}
    assert set(rows["magic_output"]["rivals"]) == {"plain"}
    assert all(row["n"] == 3 and row["min"] > 0 and row["first"] > 0 for row in rows.values())
    nothing_left(scratch)


@pytest.mark.bwrap
def test_a_row_that_cannot_be_run_fails_alone(scratch: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    asked = ("bwrap_cold", "live_branch", "--quick", "--no-docker", "--json", str(path))
    done = run("bench.py", *asked, "--backend", "bubblewrap", scratch=scratch)
    assert done.returncode == 1
    rows, _ = rows_of(path)
    assert rows["bwrap_cold"]["n"] == 3 and rows["live_branch"]["n"] == 0
    assert rows["live_branch"]["error"] and rows["live_branch"]["error"] in done.stdout


def test_an_unknown_row_is_refused(scratch: Path) -> None:
    done = run("bench.py", "nosuch", scratch=scratch)
    assert done.returncode == 2 and "cell_rtt" in done.stderr


def test_every_row_has_a_goal() -> None:
    words = "import bench, goals; assert set(bench.NAMES) == set(goals.GOALS), bench.NAMES"
    subprocess.run([sys.executable, "-c", words], check=True, cwd=HERE)


@pytest.mark.bwrap
@pytest.mark.slow
def test_a_short_soak(scratch: Path, tmp_path: Path) -> None:
    path = tmp_path / "soak.json"
    asked = ("--minutes", "0.5", "--together", "2", "--json", str(path))
    done = run("soak.py", *asked, scratch=scratch)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text("utf-8"))
    assert found["rollouts"] > 0 and not found["failures"] and not found["bad"]
    assert found["after"]["processes"] == 0
    assert found["after"]["cgroups"] <= found["before"]["cgroups"]
    nothing_left(scratch)
