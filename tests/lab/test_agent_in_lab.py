"""An agent at work under a user's cell: the view while it goes on, its buttons, what stays."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from lab_pages import Jupyter, Notebook
from leftovers import left_within
from playwright.async_api import expect
from stories import ENDLESS, SLOW, TASK, script

import lis_kernel as lis
from lis_kernel.trajectory.notebook import KEY, source_of

pytestmark = [
    pytest.mark.lab,
    pytest.mark.bwrap,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]


async def begun(lab: Jupyter, name: str, replies: list[dict]) -> Notebook:
    """A notebook on the user's own kernel whose second cell runs an agent, which has begun."""
    model = script(lab.server.root / f"{name}.json", replies)
    lab.write(
        f"{name}.ipynb",
        "import lis_kernel as lis",
        f"task = {TASK!r}\ntraj = lis.run(task, model={model!r})",
        "print(traj.stop_reason, traj.answer, traj.path)",
        kernel="python3",
    )
    notebook = await lab.open(f"{name}.ipynb")
    await notebook.run(0)
    await notebook.start(1)
    await expect(button(notebook, "Pause")).to_be_visible()
    return notebook


def button(notebook: Notebook, name: str):
    return notebook.page.locator(".lis-live").get_by_role("button", name=name)


async def test_a_person_takes_over_and_hands_back(lab: Jupyter) -> None:
    notebook = await begun(lab, "view", SLOW)
    view = notebook.page.locator(".lis-live")
    await expect(view).to_contain_text("step 2")
    await notebook.picture("view-running", first=0)

    await button(notebook, "Pause").click()
    await expect(button(notebook, "Hand back")).to_be_visible()
    await view.locator("textarea").fill("left = 6 * 7\nprint('mine', left)")
    await button(notebook, "Run").click()
    await expect(view).to_contain_text("mine 42")
    await notebook.picture("view-paused", first=0)

    await button(notebook, "Hand back").click()
    await notebook.finished(1)
    await expect(notebook.cell(1)).to_contain_text("submitted")
    await notebook.picture("view-ended", first=0)
    lefts = """node => [...node.querySelectorAll('summary span[title]')]
        .map(one => Math.round(one.getBoundingClientRect().left))"""
    assert len(set(await notebook.cell(1).evaluate(lefts))) == 1, "numbers, `you`, `told`"
    reason, answer, path = (await notebook.run(2)).split()
    assert (reason, answer) == ("submitted", "Bergen")
    record = lis.load(lab.server.root / path)
    record.verify()
    mine = [c for c in record.notebook["cells"] if c["metadata"][KEY].get("author") == "human"]
    assert [source_of(cell) for cell in mine] == ["left = 6 * 7\nprint('mine', left)"]
    told = [c for c in record.notebook["cells"] if "print('found'" in source_of(c)]
    assert "found True" in str(told[0]["outputs"])

    # reopened without a kernel it is a record that anybody can read
    await notebook.save()
    await notebook.page.close()
    lab.server.end_kernels()
    notebook = await lab.open("view.ipynb", kernel=False)
    card = await notebook.in_view(1, ".jp-OutputArea-output")
    await expect(card).to_contain_text("submitted")
    await expect(card).to_contain_text("print('mine', left)")
    assert await notebook.page.get_by_role("button", name="Pause").count() == 0
    await notebook.picture("view-reopened", first=0)


async def test_stop_ends_it(lab: Jupyter) -> None:
    notebook = await begun(lab, "stopped", ENDLESS)
    await expect(notebook.page.locator(".lis-live")).to_contain_text("begun")
    await notebook.page.locator(".lis-live").get_by_role("link", name="trajectory.ipynb").click()
    kernel = notebook.page.locator(".jp-KernelName", has_text="Python 3 (sandbox)")
    await expect(kernel).to_be_visible()  # beside the view, which lives on
    await notebook.command("docmanager:open", path="stopped.ipynb")
    await button(notebook, "Stop").click()
    await notebook.finished(1)
    assert (await notebook.run(2)).startswith("interrupted None")
    await notebook.picture("view-stopped", first=0)


async def test_a_restart_of_the_users_kernel_leaves_no_orphan(lab: Jupyter) -> None:
    notebook = await begun(lab, "orphan", ENDLESS)
    await expect(notebook.page.locator(".lis-live")).to_contain_text("begun")
    assert left_within(0, lab.server.runtime)
    await notebook.restart()
    assert left_within(20, lab.server.runtime) == {}

    # the page says so, and neither it nor a page that is opened later speaks of widgets
    view = notebook.page.locator(".lis-live")
    await expect(button(notebook, "Stop")).to_be_hidden()
    told = "node => getComputedStyle(node, '::after').content"
    assert "not heard any more" in await view.evaluate(told)
    icons = """node => [node, ...node.querySelectorAll('.jupyter-widgets-disconnected')]
        .filter(one => getComputedStyle(one, '::before').display !== 'none').length"""
    assert await view.evaluate(icons) == 0
    await notebook.picture("view-orphan", first=0)
    await notebook.save()
    await notebook.page.close()
    notebook = await lab.open("orphan.ipynb")
    await expect(notebook.cell(1)).to_contain_text("As it was at")
    await expect(notebook.cell(1)).to_contain_text("widget")  # it is there,
    await expect(notebook.cell(1).get_by_text("widget")).to_be_hidden()
