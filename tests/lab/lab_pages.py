"""JupyterLab and Notebook 7 in Chromium: what a person does there, as functions of a test.

Everything is waited for by what the page shows or by what its model holds; nothing sleeps. What a
cell shows is read from the notebook's model and from the page: the page alone would not do, as
JupyterLab attaches only what is in view.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import nbformat
from lab_server import Server
from playwright.async_api import BrowserContext, Locator, Page, TimeoutError, expect

MILLISECONDS = 60_000
"""For one thing to happen, on a slow machine."""
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
READY = "() => window.jupyterapp && window.jupyterapp.restored.then(() => true)"
PANEL = """
const shell = window.jupyterapp.shell;
const panel = shell.currentWidget?.content?.widgets !== undefined
  ? shell.currentWidget
  : [...shell.widgets('main')].find(w => w.content?.widgets !== undefined);
"""


class Jupyter:
    """A server as one browser sees it."""

    def __init__(self, server: Server, context: BrowserContext, pictures: Path) -> None:
        self.server = server
        self.context = context
        self.pictures = pictures
        self.console: list[str] = []
        context.set_default_timeout(MILLISECONDS)
        expect.set_options(timeout=MILLISECONDS)

    def write(self, name: str, *sources: str, kernel: str = "lis-python") -> Path:
        """A notebook of these code cells, on the server's disk."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        spec = {"name": kernel, "display_name": kernel, "language": "python"}
        book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
        path = self.server.root / name
        nbformat.write(book, path)
        return path

    async def launcher(self) -> Page:
        """JupyterLab as it first opens."""
        page = await self.context.new_page()
        await self._go(page, f"lab/workspaces/w{uuid.uuid4().hex[:8]}")
        await expect(page.locator(".jp-Launcher")).to_be_visible()
        return page

    async def open(self, name: str, *, kernel: bool = True) -> Notebook:
        """A notebook in a page of its own, its kernel connected unless `kernel` is False."""
        page = await self.context.new_page()
        if self.server.app == "lab":
            await self._go(page, f"lab/workspaces/w{uuid.uuid4().hex[:8]}/tree/{name}")
        else:
            await self._go(page, f"notebooks/{name}")
        await expect(page.locator(".jp-Notebook").first).to_be_visible()
        notebook = Notebook(page, self.pictures)
        await notebook.ready(kernel=kernel)
        if self.server.app == "lab":  # more room for what is tried
            await page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        return notebook

    async def _go(self, page: Page, path: str) -> None:
        page.on("console", lambda said: self.console.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))
        await page.goto(f"{self.server.url}{path}?token={self.server.token}")
        try:
            await page.wait_for_function(READY)
        except TimeoutError as error:
            raise AssertionError("\n".join(self.console)) from error


class Notebook:
    """An open notebook."""

    def __init__(self, page: Page, pictures: Path) -> None:
        self.page = page
        self.pictures = pictures

    async def ready(self, *, kernel: bool = True) -> None:
        """Wait for the document and for its kernel."""
        await self.js("await panel.context.ready; await panel.revealed;")
        if kernel:
            await self.until(
                "panel.sessionContext.isReady &&"
                " ['idle', 'busy'].includes(panel.sessionContext.session?.kernel?.status)"
            )

    # -- what a person does ----------------------------------------------------------------------

    async def start(self, cell: int) -> None:
        """Select the cell and press Shift+Enter."""
        await self.select(cell)
        before = await self.value(f"panel.content.widgets[{cell}].model.executionCount")
        await self.page.keyboard.press("Shift+Enter")
        await self.until(
            f"panel.content.widgets[{cell}].model.executionState !== 'idle' ||"
            f" panel.content.widgets[{cell}].model.executionCount !== {json.dumps(before)}"
        )

    async def run(self, cell: int) -> str:
        """Run a cell to its end; what it said, see `text`."""
        await self.start(cell)
        await self.finished(cell)
        return await self.text(cell)

    async def select(self, cell: int) -> None:
        """Make the cell the active one, in view, in command mode."""
        await self.js(
            f"panel.content.activeCellIndex = {cell};"
            "panel.content.deselectAll(); panel.content.mode = 'command';"
            f"await panel.content.scrollToItem({cell});"
            "shell.activateById(panel.id); panel.content.activate();"
        )
        await self.page.wait_for_function(
            f"() => {{{PANEL} return panel.content.node.contains(document.activeElement)"
            f" && panel.content.activeCellIndex === {cell}; }}"
        )

    async def type(self, source: str) -> int:
        """Add a cell at the end and give it this source; its number."""
        return int(
            await self.js(
                "const model = panel.content.model.sharedModel;"
                f"const cell = {{cell_type: 'code', source: {json.dumps(source)}}};"
                "model.insertCell(model.cells.length, cell); return model.cells.length - 1;"
            )
        )

    async def command(self, name: str, **arguments: Any) -> None:
        """One of JupyterLab's commands, as from its palette; its questions are not waited for."""
        await self.js(
            f"window.jupyterapp.commands.execute({json.dumps(name)}, {json.dumps(arguments)})"
        )

    async def accept(self) -> None:
        """Say yes to the dialog that is open."""
        await self.page.locator(".jp-Dialog .jp-mod-accept").click()

    async def restart(self) -> None:
        """Restart the kernel as a person does, and wait for the new one."""
        await self.js(
            "window.restarting = window.jupyterapp.commands.execute('notebook:restart-kernel')"
        )
        await self.accept()
        await self.js("await window.restarting")

    async def save(self) -> None:
        await self.js("await panel.context.save()")

    # -- what there is to see --------------------------------------------------------------------

    async def finished(self, *cells: int) -> None:
        """Wait until these cells have run."""
        for cell in cells:
            model = f"panel.content.widgets[{cell}].model"
            await self.until(
                f"{model}.executionState === 'idle' && {model}.executionCount !== null"
            )

    def cell(self, number: int) -> Locator:
        """The cell on the page."""
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{number}"]')

    async def outputs(self, number: int) -> list[dict[str, Any]]:
        """The cell's outputs as nbformat has them."""
        found: list[dict[str, Any]] = await self.value(
            f"panel.content.widgets[{number}].model.outputs.toJSON()"
        )
        return found

    async def text(self, number: int) -> str:
        """What the cell printed, returned or failed with."""
        said = ""
        for output in await self.outputs(number):
            parts: Any = output.get("text", output.get("data", {}).get("text/plain", ""))
            said += "".join(parts) if isinstance(parts, list) else parts
            said += f"{output['ename']}: {output['evalue']}" if "ename" in output else ""
        return said

    async def said_by_all(self) -> list[str]:
        """`text` of each code cell."""
        kinds = await self.value("panel.content.widgets.map(cell => cell.model.type)")
        return [await self.text(n) for n, kind in enumerate(kinds) if kind == "code"]

    async def in_view(self, number: int, selector: str) -> Locator:
        """Something in the cell, brought into view."""
        await self.js(f"await panel.content.scrollToItem({number});")
        found = self.cell(number).locator(selector).first
        await found.scroll_into_view_if_needed()
        await expect(found).to_be_visible()
        return found

    async def picture(self, name: str, first: int | None = None) -> None:
        """Screenshots `<name>-light.png` and `<name>-dark.png`; the page is light afterwards.

        `first` is the cell that stands at the top; None leaves the page where it is.
        """
        if first is not None:
            await self.js(f"await panel.content.scrollToItem({first}, 'start');")
        await photograph(self.page, self.pictures, name)

    # -- the page's own program ------------------------------------------------------------------

    async def js(self, body: str) -> Any:
        """Run JavaScript with `panel` the notebook's widget."""
        return await self.page.evaluate(f"async () => {{{PANEL} {body} }}")

    async def value(self, expression: str) -> Any:
        return await self.js(f"return {expression};")

    async def until(self, condition: str) -> None:
        await self.page.wait_for_function(f"() => {{{PANEL} return panel && ({condition}); }}")


async def photograph(page: Page, folder: Path, name: str) -> None:
    """Screenshots of the whole window in each theme."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme in (LIGHT, DARK):
        await use_theme(page, theme)
        word = "dark" if theme == DARK else "light"
        await page.screenshot(path=folder / f"{name}-{word}.png")
    await use_theme(page, LIGHT)


async def use_theme(page: Page, theme: str, *, system: bool = True) -> None:
    """Change the theme, and that of the whole system unless `system` is False; wait for it."""
    light = "true" if theme == LIGHT else "false"
    if system:
        await page.emulate_media(color_scheme="light" if theme == LIGHT else "dark")
    if await page.evaluate("() => !!window.jupyterapp"):
        await page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
        )
        await page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
        await page.locator("#jupyterlab-splash").wait_for(state="detached")
