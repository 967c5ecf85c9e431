"""The page `/lis/runs` in Chromium: what it shows of runs, and what can be done from it.

Screenshots of it go to the folder of the other ones, see `tests/lab/conftest.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
import pytest_asyncio
from engines import CHROMIUM
from playwright.async_api import BrowserContext, Locator, Page, async_playwright, expect
from run_server import BASE, Server

from lis_kernel.trajectory import Recorder
from lis_kernel.types import Usage

pytestmark = [pytest.mark.lab, pytest.mark.bwrap]

PICTURES = Path(
    os.environ.get("LIS_SCREENSHOTS") or Path(__file__).parents[2] / "build" / "screenshots"
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = (
    "</td><script>document.title='x'</script><img src=x onerror=\"document.title='x'\">\x1b[2J"
)
ENDED: list[tuple[str, str, dict[str, Any]]] = [
    (
        "Which of these CSVs hold duplicate rows? Fix them.",
        "anthropic/claude-sonnet-4-5",
        {"answer": "2 of 7: orders.csv (31 rows) and visits.csv (4 rows); both are fixed."},
    ),
    (
        "Fit the decay curve in counts.txt and plot it with its residuals.",
        "openai/gpt-5-mini",
        {"answer": "half-life 8.02 ± 0.03 days", "files": ["fit.png", "residuals.csv"]},
    ),
    ("Prove that the sum of the first n odd numbers is n².", "local/qwen3-1.7b", {"answer": "n²"}),
    ("Translate the report into Norwegian.", "openai/gpt-5-mini", {"stop_reason": "max_cost"}),
    (
        "Read the archive and list what is in it.",
        "anthropic/claude-sonnet-4-5",
        {"stop_reason": "model_error", "detail": "Refused by the provider: credit balance too low"},
    ),
    (HOSTILE, "openai/<b>bold</b>", {"answer": HOSTILE, "files": [f"{HOSTILE[:9]}.txt"]}),
]


def record(runs: Path, n: int, task: str, model: str, outcome: dict[str, Any]) -> None:
    """A run that has ended, the older the greater `n`."""
    folder = runs / f"20261101-10{59 - n:02}00-run"
    folder.mkdir(parents=True)
    metadata = {
        "created": f"2026-11-01T10:{59 - n:02}:00Z",
        "task": {"prompt": task, "files": []},
        "config": {"model": {"name": model}},
    }
    recorder = Recorder(folder / "trajectory.ipynb", metadata)
    submitted = {
        "stop_reason": "submitted", "detail": "", "answer": None, "files": [], "turns": 4 + n,
        "seconds": 21.4 * (n + 1), "usage": Usage(
            input_tokens=9_120 * (n + 2), output_tokens=1_207, cost_usd=0.0312 * (n + 1)
        ).model_dump(),
    }  # fmt: skip
    recorder.close(**{**submitted, **outcome})
    recorder.save()


@pytest_asyncio.fixture
async def context(server: Server) -> AsyncIterator[BrowserContext]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield context
        await browser.close()


async def visit(context: BrowserContext, server: Server, said: list[str]) -> Page:
    """The page, logged in; what its console says is kept."""
    page = await context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    await page.goto(server.url(f"lis/runs?token={server.token}"))
    return page


async def photograph(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await page.screenshot(path=PICTURES / f"{name}-{scheme}.png")


def row(page: Page, task: str) -> Locator:
    return page.locator("#runs tbody").filter(has_text=task)


def call(tool: str, delay: float = 0, **arguments: object) -> dict[str, object]:
    return {"tool_calls": [{"name": tool, "arguments": arguments}], "delay": delay}


async def test_from_nothing_to_a_run_in_ones_hands(
    server: Server, context: BrowserContext, script: Any
) -> None:
    said: list[str] = []
    page = await visit(context, server, said)
    await expect(page.locator("#none")).to_be_visible()
    await photograph(page, "runs-none")

    count = {
        **call("execute_bash", command="sort orders.csv | uniq -d | wc -l"),
        "text": "I count.",
    }
    wait = call("execute_python", 0.5, code="import time; time.sleep(0.2); print('row', 1)")
    await page.locator("#none button").click()
    await page.fill("#start [name=task]", "Which rows of orders.csv occur twice?")
    await page.fill("#start [name=model]", "nobody/x")
    await page.click("#start .main")
    await expect(page.locator("#start .refused")).to_contain_text("unknown 'nobody'")
    await photograph(page, "runs-new")
    await page.fill("#start [name=model]", script(count, *[wait] * 300))
    await page.fill("#start [name=max_turns]", "50")
    await page.click("#start .main")
    run = row(page, "Which rows of orders.csv")
    await expect(run.locator(".pill")).to_have_text("running")
    await expect(page.locator("#start")).to_be_hidden()
    await expect(run.locator(".turns")).to_have_text(re.compile(r"\d+/50"))

    await expect(run.locator(".turns")).to_have_text(re.compile(r"[3-9]/50"))
    await run.locator(".toggle").click()  # the log tells what happened before it was opened
    await expect(run.locator(".log > div").first).to_have_text("I count.")
    await expect(run.locator(".log .code").first).to_contain_text("sort orders.csv")
    await expect(run.locator(".log .output", has_text="row 1").first).to_be_visible()
    await expect(run.locator(".log .done").first).to_contain_text("ok")
    await run.get_by_text("Pause").click()
    await expect(run.locator(".pill")).to_have_text("paused")
    await expect(run.locator(".log")).to_contain_text("paused: the sandbox is yours")
    for _ in range(2):  # closed and opened again
        await run.locator(".toggle").click()
    await expect(run.locator(".log > div").first).to_have_text("I count.")
    await expect(run.locator(".log > div").last).to_have_text("paused: the sandbox is yours")
    await expect(run.locator(".log .code", has_text="sort orders.csv")).to_have_count(1)
    await photograph(page, "runs-paused")
    await run.get_by_text("Say").click()
    await page.fill("#say [name=text]", "Mind the header.")
    await page.press("#say [name=text]", "Control+Enter")
    await expect(page.locator("#say")).to_be_hidden()
    async with context.expect_page() as opened:
        await run.get_by_text("Attach").click()
    lab = await opened.value
    assert re.fullmatch(rf".*{BASE}lab/tree/attach-.*-orders-csv-occur\.ipynb", lab.url)
    await lab.close()
    await expect(page.locator("#notes a")).to_have_attribute("href", re.compile("attach-.*ipynb"))
    await run.get_by_text("Resume").click()
    await expect(run.locator(".pill")).to_have_text("running")
    await expect(run.locator(".log")).to_contain_text("Mind the header.")
    await page.locator("#boxes summary").click()
    await expect(page.locator("#boxes tbody")).to_contain_text("which-rows-of-orders-csv")
    await run.get_by_text("Stop").click()
    await page.click("#stop .main")
    await expect(run.locator(".pill")).to_have_text("interrupted")
    await expect(run.get_by_role("link", name="Open", exact=True)).to_have_attribute(
        "href", re.compile(rf"{BASE}lab/tree/runs/.*/trajectory\.ipynb")
    )
    said.remove("Failed to load resource: the server responded with a status of 400 (Bad Request)")
    assert said == []


async def test_many_runs_wide_and_narrow(
    server: Server, context: BrowserContext, script: Any
) -> None:
    for n, ended in enumerate(ENDED):
        record(server.runs, n, *ended)
    (server.runs / "broken").mkdir()
    (server.runs / "broken" / "trajectory.ipynb").write_text("[")
    wait = call("execute_bash", 0.5, command="echo looking")
    name = server.start(
        task="Find the outliers in sensors.csv.", model=script(*[wait] * 999), max_turns=999
    )
    said: list[str] = []
    page = await visit(context, server, said)
    rows = page.locator("#runs tbody")
    await expect(rows.first.locator(".pill")).to_have_text("running")
    await photograph(page, "runs-wide")

    hostile = row(page, "</td><script>")
    await hostile.locator(".toggle").click()
    await expect(hostile.locator("dd").first).to_contain_text("<script>document.title='x'</script>")
    assert await hostile.locator("script, img, b").count() == 0
    assert "\x1b" not in await hostile.inner_text()
    assert (await page.title()).endswith("Runs")

    await page.fill("#find", "norwegian MAX_cost")
    await expect(rows).to_have_count(1)
    await page.fill("#find", "nowhere")
    await expect(page.locator("#nothing")).to_be_visible()
    await page.fill("#find", "")
    await page.get_by_text("Live", exact=True).click()
    await expect(rows).to_have_count(1)
    await page.get_by_text("All", exact=True).click()

    await hostile.locator(".toggle").click()
    await page.set_viewport_size({"width": 600, "height": 900})
    await photograph(page, "runs-narrow")
    for width in (360, 600, 900, 1000, 1280):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []

    server.ask(f"lis/api/runs/{name}/stop", {})
    await expect(row(page, "outliers").locator(".pill")).to_have_text("interrupted")
    await page.route("**/lis/api/runs", lambda route: route.abort())
    await expect(page.locator("#trouble")).to_contain_text("The server does not answer.")
    await page.unroute("**/lis/api/runs")
    await expect(page.locator("#trouble")).to_be_hidden()
