"""Who may do what: the extension's addresses are as closed as Jupyter's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_server import BASE, Server

READS = [
    "lis/api/runs", "lis/api/runs/x", "lis/api/runs/x/events", "lis/api/sandboxes", "lis/runs",
    "lis",
]  # fmt: skip
ACTIONS = ("stop", "pause", "resume", "say", "attach")
WRITES = [
    "lis/api/runs",
    *(f"lis/api/runs/x/{action}" for action in ACTIONS),
    "lis/api/sandboxes/x/stop",
]
PAGES = ("lis", "lis/runs")


@pytest.mark.parametrize("authorization", [None, "token wrong", "Basic Og=="])
def test_strangers_are_refused(server: Server, authorization: str | None) -> None:
    for path in READS:
        answer = server.ask(path, Authorization=authorization)
        if path in PAGES:  # a browser is sent to the login
            assert answer.status == 302
            assert answer.headers["Location"].startswith(f"{BASE}login?next=")
        else:
            assert (answer.status, answer.message) == (403, "Forbidden")
    for path in WRITES:
        answer = server.ask(path, {"task": "x"}, Authorization=authorization)
        assert answer.status == 403, path
    assert not server.runs.exists()


def test_a_browser_must_show_that_the_page_sent_the_request(server: Server) -> None:
    page = server.ask(f"lis/runs?token={server.token}", Authorization=None)
    assert page.status == 200
    cookies = "; ".join(c.split(";")[0] for c in page.headers.get_all("Set-Cookie"))
    assert "_xsrf=" in cookies
    (proof,) = re.findall(r'data-xsrf="([^"]+)"', page.text)
    cookie = {"Authorization": None, "Cookie": cookies}
    assert server.ask("lis/api/runs", Referer=server.url("lis/runs"), **cookie).status == 200
    for path in WRITES:
        forged = server.ask(path, {"task": " "}, **cookie)
        assert forged.status == 403, path
        assert "_xsrf" in forged.message
    meant = server.ask("lis/api/runs", {"task": " "}, X_XSRFToken=proof, **cookie)
    assert (meant.status, meant.json["field"]) == (400, "task")


@pytest.fixture(params=["Lookers", "Nobody"])
def restricted(
    request: pytest.FixtureRequest, runtime: Path, tmp_path: Path
) -> Iterator[tuple[str, Server]]:
    option = f"--ServerApp.authorizer_class=denying.{request.param}"
    started = Server(tmp_path, option)
    try:
        yield request.param, started
    finally:
        started.end()


def test_an_authoriser_decides_about_the_resource_lis(restricted: tuple[str, Server]) -> None:
    kind, server = restricted
    for path in READS:
        answer = server.ask(path)
        if kind == "Nobody":
            assert answer.status == 403, path
        else:
            assert answer.status in (200, 302, 404), path
    for path in WRITES:
        answer = server.ask(path, {"task": "x"})
        assert answer.status == 403, path
        assert answer.message == "User is not authorized to write on resource: lis."
    assert server.ask("api/status").status == 200
    assert not server.runs.exists()


def test_the_page_runs_no_script_but_its_own(server: Server) -> None:
    page = server.ask("lis/runs")
    policy = dict(
        part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert "frame-ancestors" in policy
    assert re.findall(r"<script(?![^>]* src=)", page.text) == []
    assert re.findall(r"\son\w+=|\sstyle=|<style|javascript:", page.text) == []
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert address.startswith(f"{BASE}lis/static/")
        assert server.ask(address.removeprefix(BASE)).status == 200
    assert server.ask("lis").headers["Location"] == f"{BASE}lis/runs"
    assert server.ask("lis/static/../page.py").status in (403, 404)
