"""One environment, one browser, and one server of each kind for all tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from lab_server import Server
from lab_venv import ROOT, installed
from leftovers import left_within

PICTURES = Path(os.environ.get("LIS_SCREENSHOTS") or ROOT / "build" / "screenshots")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel of this checkout and JupyterLab."""
    return installed(tmp_path_factory.mktemp("wheel"))


def _server(environment: Path, app: str, folder: Path) -> Iterator[Server]:
    runtime = Path(tempfile.mkdtemp(prefix="lis-l-", dir="/tmp"))
    server = Server(environment, app, folder, runtime)
    try:
        yield server
    finally:
        server.stop()
        left = left_within(10, runtime)
        entries = [entry.name for entry in runtime.iterdir()] if runtime.exists() else []
        shutil.rmtree(runtime, ignore_errors=True)
        assert not left, f"processes were left: {left}"
        assert not entries, f"sandbox folders were left: {entries}"


@pytest.fixture(scope="session")
def lab_server(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _server(environment, "lab", tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def run(lab_server: Server) -> Path:
    """The notebook of a run that has ended, below the server's root."""
    from stories import SALES, TASK, script

    model = script(lab_server.root / "script.json", SALES)
    done = lab_server.run("lis", "run", TASK, "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    return lab_server.root / json.loads(done.stdout)["trajectory"]


@pytest.fixture(scope="session")
def classic_server(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _server(environment, "notebook", tmp_path_factory.mktemp("classic"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Any]:
    from engines import CHROMIUM
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        await browser.close()


async def _jupyter(server: Server, browser: Any) -> AsyncIterator[Any]:
    from lab_pages import Jupyter

    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        yield Jupyter(server, context, PICTURES)
    finally:
        await context.close()
        server.end_kernels()


@pytest_asyncio.fixture(loop_scope="session")
async def lab(lab_server: Server, browser: Any) -> AsyncIterator[Any]:
    """JupyterLab in a browser's window of its own; the test's kernels are ended after it."""
    async for jupyter in _jupyter(lab_server, browser):
        yield jupyter


@pytest_asyncio.fixture(loop_scope="session")
async def classic(classic_server: Server, browser: Any) -> AsyncIterator[Any]:
    """Notebook 7, likewise."""
    async for jupyter in _jupyter(classic_server, browser):
        yield jupyter
