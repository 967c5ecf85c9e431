"""The family `neighbours` against pairs of real sandboxes, and what is planted for it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from zygotes import until

from lis_kernel.attacks import attack
from lis_kernel.attacks.neighbours import ASKED, PARTS, baits_of

MAY_BE_MISSING = {
    "open_the_neighbours_control_group",
    "enter_the_neighbours_namespaces",
    *(name for names in PARTS.values() for name in names),
}
"""Canaries that a kernel or a machine may be without."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(b, marks=getattr(pytest.mark, m))
        for b, m in (("bubblewrap", "bwrap"), ("docker", "docker"))
    ],
)
async def test_nothing_gets_through(backend: str) -> None:
    findings = await attack(backend, families=["neighbours"])
    assert [f for f in findings if not f.good] == []
    assert {f.name for f in findings if not f.live} <= MAY_BE_MISSING
    unmade = {f.name for f in findings if f.result == "skipped"}
    assert unmade <= ({"use_the_neighbours_way_out"} if backend == "docker" else set())
    names = [f.name for f in findings]
    assert len(set(names)) == len(names) >= 40
    assert set(names) >= ASKED


PLANTER = """
import json, os, sys
os.chdir(sys.argv[1])
from lis_kernel.attacks.inside import plant
given = {"tag": sys.argv[2], "word": "the word", "home": sys.argv[1] + "/home", "shared": []}
print(json.dumps(plant.plant(given)["missing"]), flush=True)
print(json.dumps(plant.report()), flush=True)
sys.stdin.readline()
plant.uproot()
print("done", flush=True)
"""


def test_what_is_planted_is_found_and_taken_away_again(tmp_path: Path) -> None:
    tag = secrets.token_hex(6)
    (tmp_path / "home").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PLANTER, str(tmp_path), tag],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as neighbour:
        assert neighbour.stdin and neighbour.stdout
        assert set(json.loads(neighbour.stdout.readline())) <= {*PARTS, "key"}
        assert neighbour.stdout.readline().strip() == "{}", "nobody has touched anything yet"
        assert until(lambda: len(baits_of(tag)) == 4)  # a moment, until each is what it will be
        baits = baits_of(tag)
        for bait in baits:
            assert f"lis-neighbour-{tag}".encode() in Path(f"/proc/{bait}/cmdline").read_bytes()
        left = [name for name in os.listdir("/dev/shm") if tag in name]
        assert len(left) == 2, "memory and semaphore"
        neighbour.stdin.write("\n")
        neighbour.stdin.flush()
        assert neighbour.stdout.readline() == "done\n"
    assert baits_of(tag) == []
    for folder in ("/dev/shm", "/tmp", tmp_path, tmp_path / "home"):
        assert not [name for name in os.listdir(folder) if tag in name], folder
    key = str(int(tag[:7], 16))
    for kind in ("shm", "sem", "msg"):
        table = Path(f"/proc/sysvipc/{kind}")
        if table.exists():
            assert not any(line.split()[0] == key for line in table.read_text().splitlines())
