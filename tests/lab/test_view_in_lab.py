"""The live view where all is not as one would wish: out of sight, closed meanwhile, untrusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from lab_pages import Jupyter
from playwright.async_api import expect
from stories import SALES, SLOW, TASK, script

pytestmark = [
    pytest.mark.lab,
    pytest.mark.bwrap,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]

MANY = "print('\\n'.join(map(str, range(60))))"


def running(model: str) -> str:
    return f"import lis_kernel as lis\ntraj = lis.run({TASK!r}, model={model!r})"


async def test_out_of_sight_the_buttons_work_as_well(lab: Jupyter) -> None:
    """JupyterLab draws no output that is far out of view, so no widget either."""
    model = script(lab.server.root / "below.json", SLOW)
    lab.write("below.ipynb", MANY, MANY, MANY, running(model), "traj.stop_reason", kernel="python3")
    notebook = await lab.open("below.ipynb")
    for cell in range(3):
        await notebook.run(cell)
    await notebook.js(
        "panel.content.activeCellIndex = 3; panel.content.deselectAll();"
        "window.jupyterapp.commands.execute('notebook:run-cell');"
        "await panel.content.scrollToItem(0);"
    )
    await notebook.until(
        "panel.content.widgets[3].model.outputs.length > 1 &&"
        " JSON.stringify(panel.content.widgets[3].model.outputs.toJSON()).includes('step')"
    )
    await notebook.select(3)
    stop = notebook.page.locator(".lis-live").get_by_role("button", name="Stop")
    await stop.click()
    await notebook.finished(3)
    assert "INTERRUPTED" in await notebook.run(4)


async def test_a_page_that_was_closed_meanwhile_finds_the_record(lab: Jupyter) -> None:
    model = script(lab.server.root / "closed.json", SLOW)
    lab.write("closed.ipynb", running(model), kernel="python3")
    notebook = await lab.open("closed.ipynb")
    await notebook.start(0)
    await expect(notebook.page.locator(".lis-live")).to_contain_text("Now the sums by city.")
    await notebook.save()
    await notebook.page.close()
    notebook = await lab.open("closed.ipynb", kernel=False)
    await expect(notebook.cell(0)).to_contain_text(TASK)
    # what the kernel says of the run's end reaches the widget that was saved, and no other display
    await expect(notebook.cell(0)).to_contain_text("Bergen sold 216, Oslo 127.")
    card = notebook.cell(0).get_by_text("submitted", exact=True)
    await expect(card).to_be_visible()
    assert await card.count() == 1
    await notebook.save()
    await notebook.page.close()
    lab.server.end_kernels()
    notebook = await lab.open("closed.ipynb", kernel=False)
    await expect(notebook.cell(0)).to_contain_text(TASK)


async def test_a_card_keeps_its_shape_in_a_notebook_that_is_not_trusted(lab: Jupyter) -> None:
    model = script(lab.server.root / "foreign.json", SALES)
    path = lab.write("foreign.ipynb", running(model), kernel="python3")
    notebook = await lab.open("foreign.ipynb")
    await notebook.run(0)
    await notebook.save()
    await notebook.page.close()
    book = json.loads(path.read_text())
    book["cells"][0]["source"] += "\n# changed by someone else"
    path.write_text(json.dumps(book))
    notebook = await lab.open("foreign.ipynb")
    assert await notebook.value("panel.content.widgets[0].model.trusted") is False
    card = await notebook.in_view(0, ".jp-OutputArea-output")
    await expect(card.get_by_text("submitted", exact=True)).to_be_visible()
    facts = await card.evaluate(
        """card => {
            const all = [...card.querySelectorAll('*')].map(node => getComputedStyle(node));
            const badge = [...card.querySelectorAll('span')].find(
                node => node.textContent === 'submitted' && node.style.color);
            return {
                folds: card.querySelectorAll('details').length,
                pictures: card.querySelectorAll('img').length,
                grid: all.some(style => style.display === 'flex'),
                framed: all.filter(style => style.borderTopWidth === '1px').length,
                badge: badge && getComputedStyle(badge).color,
            };
        }"""
    )
    assert facts["folds"] >= 5 and facts["pictures"] >= 2 and facts["grid"] and facts["framed"] > 3
    assert facts["badge"] == "rgb(56, 142, 60)", "the theme's own green"
    await notebook.picture("card-untrusted")


async def test_a_folded_cell_ends_where_its_cell_does(lab: Jupyter, run: Path) -> None:
    notebook = await lab.open(str(run.relative_to(lab.server.root)), kernel=False)
    await notebook.page.set_viewport_size({"width": 520, "height": 900})
    folded = notebook.page.locator(".jp-Placeholder-content", has_text="Set-up")
    room = """node => node.closest('.jp-Placeholder').getBoundingClientRect().right
        - node.getBoundingClientRect().right"""
    await expect(folded).to_be_visible()
    assert await folded.evaluate(room) >= 0
