"""The magics in a user's notebook: `%%sandbox`, `%%agent`, and what is left when they are done."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from lab_pages import Jupyter
from leftovers import left_within
from playwright.async_api import expect
from stories import SALES, SLOW, TASK, script

import lis_kernel as lis
from lis_kernel.trajectory.notebook import KEY, source_of

pytestmark = [
    pytest.mark.lab,
    pytest.mark.bwrap,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]

PROGRESS = """%%sandbox
import time
from IPython.display import HTML, display
bar = display(HTML("<progress max='20' value='0'></progress>"), display_id=True)
for n in range(1, 21):
    time.sleep(0.5)
    bar.update(HTML(f"<progress max='20' value='{n}'></progress>"))
    print(f"\\r{n * 5} %", end="", flush=True)"""
FRAME = """%%sandbox -o sales
import pandas as pd, matplotlib.pyplot as plt
frame = pd.DataFrame({"city": ["Oslo", "Bergen"], "sold": [127, 216]})
sales = frame["sold"].tolist()
frame.plot.bar(x="city", y="sold", figsize=(5, 2.5), rot=0)
plt.show()
frame"""
ENDLESS = "%%sandbox\nimport time\nprint('begun', flush=True)\ntime.sleep(600)"


async def test_a_sandbox_cell_shows_what_comes_as_it_comes(lab: Jupyter) -> None:
    lab.write(
        "magics.ipynb", "%load_ext lis_kernel", PROGRESS, FRAME, "sum(sales)", "%sandbox ls",
        kernel="python3",
    )  # fmt: skip
    notebook = await lab.open("magics.ipynb")
    await notebook.run(0)
    await notebook.start(1)
    bar = notebook.cell(1).locator("progress")
    await expect(bar).to_be_visible()
    assert await bar.count() == 1
    assert 0 <= float(await bar.get_attribute("value") or 0) < 20
    assert await notebook.value("panel.content.widgets[1].model.executionState") == "running"
    await notebook.finished(1)
    assert (await notebook.text(1)).endswith("100 %")
    assert await bar.get_attribute("value") == "20"

    await notebook.run(2)
    await notebook.in_view(2, "img")
    assert await (await notebook.in_view(2, "table")).locator("tbody tr").count() == 2
    assert await notebook.run(3) == "343"
    await notebook.run(4)
    await expect(await notebook.in_view(4, ".jp-OutputArea-output")).to_contain_text("default")
    await notebook.picture("magics-sandbox", first=1)


async def test_an_interrupt_reaches_the_sandbox_and_a_restart_ends_it(lab: Jupyter) -> None:
    lab.write(
        "ended.ipynb", "%load_ext lis_kernel", "%%sandbox\nx = 1", ENDLESS, "%%sandbox\nprint(x)",
        kernel="python3",
    )  # fmt: skip
    notebook = await lab.open("ended.ipynb")
    await notebook.run(0)
    await notebook.run(1)
    await notebook.start(2)
    await notebook.until("panel.content.widgets[2].model.outputs.length > 0")
    await notebook.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    await notebook.finished(2)
    assert "KeyboardInterrupt" in await notebook.text(2)
    assert await notebook.run(3) == "1\n"
    assert left_within(0, lab.server.runtime)
    await notebook.restart()
    assert left_within(20, lab.server.runtime) == {}


async def test_two_notebooks_have_two_sandboxes(lab: Jupyter) -> None:
    set_up = "%load_ext lis_kernel"
    look = "%%sandbox\nimport os\nprint('x' in globals(), os.listdir('/testbed/output'))"
    ours = "%%sandbox\nx = 1\nopen('/testbed/output/ours', 'w').close()"
    lab.write("one.ipynb", set_up, ours, look, kernel="python3")
    lab.write("two.ipynb", set_up, look, kernel="python3")
    one, two = await lab.open("one.ipynb"), await lab.open("two.ipynb")
    for notebook in (one, two):
        await notebook.run(0)
    await one.run(1)
    assert await two.run(1) == "False []\n"
    assert await one.run(2) == "True ['ours']\n"


async def test_an_agents_cell_is_paused_worked_in_and_resumed(lab: Jupyter) -> None:
    model = script(lab.server.root / "agents.json", SLOW)
    lab.write(
        "agents.ipynb",
        "%load_ext lis_kernel",
        "%%sandbox\nmine = 'from before'",
        f"%%agent -m {model} -o traj\n{TASK}",
        "%%sandbox\nleft = 6 * 7\nprint(mine, len(sales))",
        "%agent resume",
        "print(traj.stop_reason, traj.answer, traj.path)",
        "%%sandbox bash\nls output",
        kernel="python3",
    )
    notebook = await lab.open("agents.ipynb")
    await notebook.run(0)
    await notebook.run(1)
    await notebook.start(2)
    view = notebook.page.locator(".lis-live")
    await expect(view).to_contain_text("step 2")
    await notebook.picture("magics-agent", first=2)
    await view.get_by_role("button", name="Pause").click()
    await notebook.finished(2)
    assert await notebook.run(3) == "from before 6\n"
    await notebook.picture("magics-paused", first=2)
    await notebook.run(4)
    reason, answer, path = (await notebook.run(5)).split()
    assert (reason, answer) == ("submitted", "Bergen")
    assert "sales.png" in await notebook.run(6)
    await notebook.picture("magics-ended", first=2)
    record = lis.load(lab.server.root / path)
    record.verify()
    mine = [c for c in record.notebook["cells"] if c["metadata"][KEY].get("author") == "human"]
    assert "left = 6 * 7\nprint(mine, len(sales))" in [source_of(cell).strip() for cell in mine]
    told = [c for c in record.notebook["cells"] if "print('found'" in source_of(c)]
    assert "found True" in str(told[0]["outputs"])

    page = await lab.context.new_page()
    await page.goto(f"{lab.server.url}lis/runs?token={lab.server.token}")
    await expect(page.locator("tr.run", has_text=TASK).first).to_contain_text("submitted")

    await notebook.save()
    await notebook.page.close()
    lab.server.end_kernels()
    notebook = await lab.open("agents.ipynb", kernel=False)
    await expect(await notebook.in_view(2, ".jp-OutputArea-output")).to_contain_text("submitted")
    await notebook.picture("magics-reopened", first=2)


async def test_in_notebook_7(classic: Jupyter) -> None:
    model = script(classic.server.root / "classic.json", SALES)
    classic.write(
        "classic.ipynb",
        "%load_ext lis_kernel",
        FRAME,
        f"%%agent -m {model} -o traj\n{TASK}",
        "print(traj.answer)",
        kernel="python3",
    )
    notebook = await classic.open("classic.ipynb")
    await notebook.run(0)
    await notebook.run(1)
    await notebook.in_view(1, "img")
    await notebook.picture("notebook7-sandbox", first=0)
    await notebook.run(2)
    await expect(await notebook.in_view(2, ".jp-OutputArea-output")).to_contain_text("submitted")
    assert await notebook.run(3) == "Bergen\n"
    await notebook.picture("notebook7-agent", first=2)

    (path,) = (classic.server.root / "runs").glob("*/trajectory.ipynb")
    record = await classic.open(str(path.relative_to(classic.server.root)))
    await expect(record.page.locator('[data-lis~="task"]')).to_be_visible()
    assert await record.value("panel.sessionContext.session.kernel.name") == "lis-python"
    await record.picture("notebook7-trajectory", first=0)
