"""The house keeps its floors: a module may import only from floors below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import lis_kernel

ROOT = Path(lis_kernel.__file__).parent

FLOORS = {
    "types": 0,
    "protocols": 0,
    "errors": 0,
    "cards": 0,
    "config": 0,
    "registry": 0,
    "_sync": 0,
    "sandbox": 1,
    "models": 1,
    "tools": 1,
    "trajectory": 1,
    "tasks": 1,
    "values": 1,
    "kernel": 2,
    "agent": 3,
    "rollout": 4,
    "benchmarks": 5,
    "rl": 5,
    "attacks": 5,
    "agent_kernel": 6,
    "api": 6,
    "cli": 6,
    "magics": 6,
    "ui": 6,
    "server": 6,
    "__init__": 6,
    "__main__": 6,
}
"""Floor of each top-level module or folder. Floor 0 and floor 6 may import their own floor."""


def part(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of lis_kernel that a file imports, by whatever spelling."""
    found = set()
    package = ("lis_kernel", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*base, node.module or "")).strip(".")
            names = (
                [module]
                if module != "lis_kernel"
                else [f"lis_kernel.{alias.name}" for alias in node.names]
            )
        found |= {name.split(".")[1] for name in names if name.startswith("lis_kernel.")}
    return found


def violations(path: Path) -> list[str]:
    own = part(path)
    if own == "guest":
        return [f"{path}: the guest imports {name}" for name in imported(path)]
    wrong = []
    for name in imported(path) - {own}:
        if name == "guest":
            wrong.append(f"{path}: imports the guest, which is shipped by path")
        elif name in FLOORS:
            same = FLOORS[name] == FLOORS[own] and FLOORS[own] in (0, 6)
            if FLOORS[name] >= FLOORS[own] and not same:
                wrong.append(f"{path}: floor {FLOORS[own]} imports {name} of {FLOORS[name]}")
    return wrong


def test_every_part_has_a_floor() -> None:
    parts = {part(path) for path in ROOT.rglob("*.py")} - {"guest"}
    assert parts <= set(FLOORS)


def test_imports_go_down_only() -> None:
    assert [line for path in sorted(ROOT.rglob("*.py")) for line in violations(path)] == []


def test_the_test_can_fail(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("test_floors.ROOT", tmp_path)
    (tmp_path / "models").mkdir()
    bad = tmp_path / "models" / "bad.py"
    bad.write_text("from ..agent import loop\nfrom lis_kernel.tools import calls\n")
    assert len(violations(bad)) == 2


def test_no_cancel_is_lost() -> None:
    """Python 3.11's `wait_for` forgets a cancel that comes as its work is done."""
    users = [path for path in ROOT.rglob("*.py") if "wait_for(" in path.read_text("utf-8")]
    assert [path for path in users if "guest" not in path.parts] == []
