"""A run's notebook as JupyterLab opens it: folded, styled, untrusted, and to be run again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import nbformat
import pytest
import pytest_asyncio

pytest.importorskip("playwright", reason="playwright is not installed")
from lab_pages import Jupyter, Notebook
from playwright.async_api import expect
from stories import HUNG, SALES, script

import lis_kernel as lis
from lis_kernel.trajectory.notebook import KEY

pytestmark = [
    pytest.mark.lab,
    pytest.mark.bwrap,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]


@pytest_asyncio.fixture(loop_scope="session")
async def opened(lab: Jupyter, run: Path) -> AsyncIterator[Notebook]:
    yield await lab.open(str(run.relative_to(lab.server.root)))


def kinds(path: Path) -> list[str]:
    return [cell["metadata"][KEY]["kind"] for cell in nbformat.read(path, 4).cells]


def holding(path: Path, text: str) -> int:
    """The number of the one code cell with this text."""
    cells = enumerate(nbformat.read(path, 4).cells)
    (number,) = [n for n, cell in cells if cell.cell_type == "code" and text in cell.source]
    return number


async def test_it_opens_folded_and_styled_in_a_sandbox(opened: Notebook, run: Path) -> None:
    page, order = opened.page, kinds(run)
    name = page.locator(".jp-KernelName .jp-ToolbarButtonComponent-label")
    await expect(name).to_have_text("Python 3 (sandbox)")
    assert await opened.value("panel.sessionContext.session.kernel.name") == "lis-python"

    system, task, setup = (order.index(kind) for kind in ("system", "task", "setup"))
    details = await opened.in_view(system, "details")
    assert await details.get_attribute("open") is None
    await expect(opened.cell(task)).to_have_attribute("data-lis", "task")
    await expect(opened.cell(setup).locator(".jp-InputPlaceholder")).to_be_visible()
    await opened.picture("trajectory-top")

    box = await opened.in_view(holding(run, "print('row'"), ".jp-Cell-outputWrapper")
    assert (await box.bounding_box() or {})["height"] < 500
    plot = holding(run, "plot.bar")
    await expect(await opened.in_view(plot, "img")).to_be_visible()
    await opened.picture("trajectory-middle", first=plot - 1)

    outcome = len(order) - 1
    await expect(await opened.in_view(outcome, "h2")).to_contain_text("Submitted")
    await expect(opened.cell(outcome)).to_have_attribute("data-lis", "outcome")
    await opened.picture("trajectory-end")
    await opened.js("await panel.sessionContext.session.kernel.info")
    assert await opened.value("panel.context.model.dirty") is False


async def test_its_turns_are_its_table_of_contents(opened: Notebook) -> None:
    await opened.command("toc:show-panel")
    contents = opened.page.locator(".jp-TableOfContents-tree .jp-tocItem-content")
    await expect(contents.first).to_have_text("Task")
    assert await contents.all_inner_texts() == [
        "Task",
        *(f"Turn {turn}" for turn in range(1, len(SALES) + 1)),
        "Submitted",
    ]
    await opened.picture("trajectory-contents")


async def test_it_is_untrusted_until_the_person_says_so(
    lab: Jupyter, opened: Notebook, run: Path
) -> None:
    hostile = holding(run, "window.owned")
    owned = "() => window.owned ?? 0"
    await expect(await opened.in_view(hostile, ".jp-RenderedHTML b")).to_have_text("a report")
    assert await opened.page.evaluate(owned) == 0
    assert await opened.cell(hostile).locator("script, [onerror]").count() == 0
    await opened.save()
    assert lis.load(run).verify() == len(kinds(run))  # what Jupyter saves is still the record
    await opened.page.close()
    opened = await lab.open(str(run.relative_to(lab.server.root)))
    await opened.in_view(hostile, ".jp-RenderedHTML b")
    assert await opened.page.evaluate(owned) == 0

    await opened.command("notebook:trust")
    await opened.accept()
    await opened.page.wait_for_function("() => window.owned > 0")


async def test_run_all_executes_it_again_in_a_fresh_sandbox(lab: Jupyter, run: Path) -> None:
    again = run.with_name("again.ipynb")
    again.write_bytes(run.read_bytes())
    notebook = await lab.open(str(again.relative_to(lab.server.root)))
    before = await notebook.said_by_all()
    await notebook.command("notebook:clear-all-cell-outputs")
    assert set(await notebook.said_by_all()) == {""}
    await notebook.command("notebook:run-all-cells")
    code = [n for n, kind in enumerate(kinds(run)) if kind in ("setup", "call")]
    await notebook.finished(*code)
    assert await notebook.said_by_all() == before
    assert len([said for said in before if said]) > 5


async def test_run_all_has_the_task_s_files_and_goes_on_behind_what_hung(lab: Jupyter) -> None:
    root = lab.server.root
    (root / "cities.csv").write_text("Oslo,Bergen")
    model = script(root / "hung.json", HUNG)
    words = ("--files", "cities.csv", "--cell-timeout", "1", "--model", model, "--json")
    done = lab.server.run("lis", "run", "Which city is first?", *words)
    assert done.returncode == 0, done.stderr
    path = root / json.loads(done.stdout)["trajectory"]
    notebook = await lab.open(str(path.relative_to(root)))
    code = [n for n, kind in enumerate(kinds(path)) if kind in ("setup", "call")]
    read, hung, split = code[1:4]
    before = [await notebook.text(n) for n in (read, split)]
    assert before == ["Oslo,Bergen", "['Oslo', 'Bergen']\n"]

    for _ in range(2):
        await notebook.command("notebook:clear-all-cell-outputs")
        await notebook.command("notebook:run-all-cells")
        await notebook.finished(*code)
        assert [await notebook.text(n) for n in (read, split)] == before
        assert (await notebook.text(hung)).startswith("Not run: when this was recorded, it ran out")
        await notebook.picture("trajectory-not-run", first=read)
        assert await notebook.run(hung) == "begun\ndone\n"
        await notebook.restart()
