"""A user's notebook on `lis-python`, in JupyterLab."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from lab_pages import Jupyter, photograph
from playwright.async_api import expect

pytestmark = [
    pytest.mark.lab,
    pytest.mark.bwrap,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]

FRAME = """import pandas as pd
pd.DataFrame({"city": ["Oslo", "Bergen"], "sold": [3, 4]})"""
PLOT = """import matplotlib.pyplot as plt
plt.plot([1, 3, 2]);"""


async def test_the_launcher_shows_our_kernels(lab: Jupyter) -> None:
    page = await lab.launcher()
    for name in ("Python 3 (sandbox)", "Python 3 (sandbox, Docker)", "Python 3 (sandbox, Podman)"):
        card = page.locator(f'.jp-LauncherCard[data-category="Notebook"][title*="{name}"]').first
        await expect(card).to_be_visible()
        logo = card.locator("img.jp-Launcher-kernelIcon")
        assert await logo.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    await photograph(page, lab.pictures, "launcher")


async def test_cells_images_and_frames(lab: Jupyter) -> None:
    lab.write("kernel.ipynb", "import os\nos.getcwd(), os.getuid() != 0", FRAME, PLOT, "1 / 0")
    notebook = await lab.open("kernel.ipynb")
    assert await notebook.run(0) == "('/testbed', True)"
    assert "Bergen" in await notebook.run(1)
    table = await notebook.in_view(1, ".jp-RenderedHTMLCommon table")
    assert await table.locator("tbody tr").count() == 2
    await notebook.run(2)
    image = await notebook.in_view(2, "img")
    assert await image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    assert "ZeroDivisionError" in await notebook.run(3)
    await notebook.select(0)
    await notebook.picture("kernel")


async def test_interrupt_and_restart(lab: Jupyter) -> None:
    lab.write(
        "stop.ipynb",
        "x = 1\nopen('kept', 'w').write('kept');",
        "import time\nprint('on', flush=True)\ntime.sleep(600)",
        "print('x' in globals(), open('kept').read())",
    )
    notebook = await lab.open("stop.ipynb")
    await notebook.run(0)
    assert await notebook.run(2) == "True kept\n"
    await notebook.start(1)
    await notebook.until("panel.content.widgets[1].model.outputs.length > 0")
    await notebook.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    await notebook.finished(1)
    assert "KeyboardInterrupt" in await notebook.text(1)
    assert await notebook.run(2) == "True kept\n"
    await notebook.restart()
    assert await notebook.run(2) == "False kept\n"
