"""A notebook on `lis-agent`: its cells are tasks, in one conversation and one sandbox."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from lab_pages import Jupyter, photograph
from playwright.async_api import expect
from stories import ENDLESS, SLOW, TASK, script
from story import python, reply, submit

pytestmark = [
    pytest.mark.lab,
    pytest.mark.bwrap,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]

MORE = [
    reply(python("sales.groupby('month')['sold'].sum()"), text="The same table, by **month**."),
    reply(submit("Month 3, with 123.")),
]


async def test_the_launcher_shows_the_agent(lab: Jupyter) -> None:
    page = await lab.launcher()
    card = page.locator('.jp-LauncherCard[data-category="Notebook"][title*="Agent (sandbox)"]')
    await expect(card.first).to_be_visible()
    logo = card.first.locator("img.jp-Launcher-kernelIcon")
    assert await logo.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    await card.first.click()
    await expect(page.locator(".jp-Notebook").first).to_be_visible()


async def test_tasks_go_on_from_cell_to_cell(lab: Jupyter) -> None:
    model = script(lab.server.root / "agent.json", [*SLOW, *MORE])
    lab.write(
        "agent.ipynb",
        f"%model {model}\n{TASK}",
        "%python sales.plot.line(x='month', y='sold');",
        "Which month was best?",
        "%modl local/qwen2.5-coder-1.5b",
        kernel="lis-agent",
    )
    notebook = await lab.open("agent.ipynb")
    await notebook.start(0)
    view = notebook.page.locator(".lis-live")
    await expect(view).to_contain_text("step 2")
    await notebook.select(0)
    await notebook.picture("agent-running")
    await view.get_by_role("button", name="Pause").click()
    await expect(view.get_by_role("button", name="Hand back")).to_be_visible()
    await view.locator("textarea").fill("left = 6 * 7\nprint('mine', left)")
    await view.get_by_role("button", name="Run").click()
    await expect(view).to_contain_text("mine 42")
    await view.get_by_role("button", name="Hand back").click()
    await notebook.finished(0)
    await expect(notebook.cell(0)).to_contain_text("submitted")
    assert (await notebook.text(0)).partition("\n")[2].startswith("Bergen\n")
    await notebook.select(0)
    await notebook.picture("agent-ended")

    await notebook.run(1)
    image = await notebook.in_view(1, "img")
    assert await image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    assert (await notebook.run(2)).startswith("Month 3, with 123.\n")
    assert "Did you mean %model?" in await notebook.run(3)
    await notebook.select(3)
    await notebook.picture("agent-conversation")
    # prose is shown as prose, not as Python
    assert (await notebook.value("panel.content.codeMimetype")).endswith("markdown")
    assert await notebook.page.evaluate("window.owned") is None

    await notebook.save()
    await notebook.page.close()
    lab.server.end_kernels()
    notebook = await lab.open("agent.ipynb", kernel=False)
    card = await notebook.in_view(2, ".jp-OutputArea-output")
    await expect(card).to_contain_text("Month 3, with 123.")
    assert await notebook.page.get_by_role("button", name="Pause").count() == 0


async def test_the_stop_button_and_the_views_own(lab: Jupyter) -> None:
    model = script(lab.server.root / "endless.json", ENDLESS * 2)
    lab.write("endless.ipynb", f"%model {model}", "Wait.", "Again.", kernel="lis-agent")
    notebook = await lab.open("endless.ipynb")
    await notebook.run(0)
    await notebook.start(1)
    view = notebook.page.locator(".lis-live")
    await expect(view).to_contain_text("begun")
    await view.get_by_role("button", name="Stop").click()
    await notebook.finished(1)
    await notebook.start(2)
    await expect(view).to_contain_text("begun")
    await notebook.command("notebook:interrupt-kernel")
    await notebook.finished(2)
    for cell in (1, 2):
        assert "KeyboardInterrupt: the run was stopped" in await notebook.text(cell)
    await notebook.select(2)
    await photograph(notebook.page, lab.pictures, "agent-stopped")
