"""The suite itself: what it makes of reports, and that it can fail."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from lis_kernel.attacks import FAMILIES, Finding, attack
from lis_kernel.attacks.ground import Ground, Outcome, Report
from lis_kernel.attacks.suite import merge
from lis_kernel.cli import app
from lis_kernel.errors import ConfigError


def finding(result: str, stopped_by: str, canary: str) -> Finding:
    return Finding("a", "f", "b", result, stopped_by, canary)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "stopped_by", "canary", "good"),
    [
        ("blocked", "a wall", "breached: read it", True),
        ("blocked", "a wall", "skipped: this kernel has no such call", True),
        ("blocked", "a wall", "blocked: it never works", False),
        ("blocked", "a wall", "broken: TypeError", False),
        ("skipped", "skipped: no SCTP here", "breached: read it", True),
        ("skipped", "broken: TypeError", "breached: read it", False),
        ("breached", "", "breached: read it", False),
    ],
)
def test_what_is_good(result: str, stopped_by: str, canary: str, good: bool) -> None:
    assert finding(result, stopped_by, canary).good is good


def test_an_attempt_that_gives_no_report_is_no_success() -> None:
    shown = {"a": Outcome("breached", "read it"), "b": Outcome("breached", "read it")}
    here, missing = merge("f", "b", {"a": Outcome("blocked", "ENOENT", "a wall")}, shown)
    assert here.good and not missing.good
    assert (here.stopped_by, missing.stopped_by) == ("a wall", "broken: it gave no report")
    # the whole family failed: each of its attempts says why
    (row, *_) = merge("f", "b", {"": Outcome("broken", "SandboxLost: x")}, shown)
    assert row.stopped_by == "broken: SandboxLost: x"


def test_the_hosts_eye_goes_before_the_guests_word() -> None:
    ground = Ground("local")
    refused = Report("a", "refused", "ENOENT", "ENOENT")
    assert ground.judge(refused).result == "blocked"
    assert ground.judge(refused, "the host has the mark").result == "breached"


async def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nope.*Known: host files"):
        await attack("bubblewrap", families=["nope"])


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(b, marks=getattr(pytest.mark, m))
        for b, m in (("bubblewrap", "bwrap"), ("docker", "docker"))
    ],
)
@pytest.mark.parametrize(("family", "least"), [("host files", 40), ("privilege", 45)])
async def test_nothing_gets_through(backend: str, family: str, least: int) -> None:
    findings = await attack(backend, families=[family])
    assert [f for f in findings if not f.good] == []
    assert sum(f.live and f.result == "blocked" for f in findings) >= least - 8
    assert len({f.name for f in findings}) == len(findings) >= least


async def test_the_suite_fails_without_walls() -> None:
    findings = await attack("local", families=["host files"])
    assert sum(f.result == "breached" for f in findings) > 20
    assert not any(f.good for f in findings if f.result == "breached")


def test_the_command_fails_without_walls_and_says_so() -> None:
    arguments = ["doctor", "--attack", "--backend", "local", "--family", "host files"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1 and "breaches" in done.output
    done = CliRunner().invoke(app, [*arguments, "--json"])
    (first, *_) = json.loads(done.stdout)
    assert set(first) == {"name", "family", "backend", "result", "stopped_by", "canary"}


def test_families_are_named() -> None:
    assert {"host files", "privilege"} <= set(FAMILIES)
