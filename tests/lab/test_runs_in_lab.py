"""The page of runs: a tab of JupyterLab that follows its theme, and a page of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from lab_pages import DARK, LIGHT, Jupyter, photograph, use_theme
from playwright.async_api import expect
from stories import ENDLESS, TASK, script

pytestmark = [
    pytest.mark.lab,
    pytest.mark.bwrap,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]

DARK_IN_FRAME = "() => matchMedia('(prefers-color-scheme: dark)').matches"


def row_of(run: Path) -> str:
    return f'tr.run:has(a.task[href*="{run.parent.name}"])'


async def test_a_tab_of_runs_that_opens_their_notebooks(lab: Jupyter, run: Path) -> None:
    page = await lab.launcher()
    await page.locator('.jp-LauncherCard[title*="agents on this server"]').click()
    frame = page.frame_locator(".lis-runs iframe")
    row = frame.locator(row_of(run))
    await expect(row).to_contain_text(TASK)
    await expect(row).to_contain_text("Bergen")
    await expect(row).to_contain_text("submitted")
    await row.locator(".toggle").click()
    await expect(frame.locator("tr.details", has_text="sales.png")).to_be_visible()
    await photograph(page, lab.pictures, "runs-tab")

    # Chromium lets a frame's style know the theme around it
    await page.emulate_media(color_scheme="null")
    inner = page.frames[-1]
    for theme in (DARK, LIGHT):
        await use_theme(page, theme, system=False)
        assert await inner.evaluate(DARK_IN_FRAME) is (theme == DARK)

    await row.locator("a.task").click()
    await expect(page.locator(".jp-NotebookPanel")).to_be_visible()
    assert len(lab.context.pages) == 1
    path = "window.jupyterapp.shell.currentWidget.context?.path"
    await page.wait_for_function(f"() => {path} === {str(run.relative_to(lab.server.root))!r}")


async def test_attach_opens_its_notebook_beside_the_tab(lab: Jupyter) -> None:
    model = script(lab.server.root / "joined.json", ENDLESS)
    started = lab.server.ask("POST", "lis/api/runs", {"task": "Join me.", "model": model})
    page = await lab.launcher()
    await page.locator('.jp-LauncherCard[title*="agents on this server"]').click()
    row = page.frame_locator(".lis-runs iframe").locator("tr.run", has_text="Join me.")
    await row.get_by_role("button", name="Attach").click()
    await expect(page.locator(".jp-NotebookPanel")).to_contain_text(started["id"])
    assert len(lab.context.pages) == 1
    lab.server.ask("POST", f"lis/api/runs/{started['id']}/stop", {})
    await expect(row).to_contain_text("interrupted")


async def test_the_page_alone(lab: Jupyter, run: Path) -> None:
    page = await lab.context.new_page()
    await page.goto(f"{lab.server.url}lis/runs?token={lab.server.token}")
    row = page.locator(row_of(run))
    await expect(row).to_contain_text("Bergen")
    await photograph(page, lab.pictures, "runs-page")
