"""`lis.run` in the cell of a real kernel, with front ends that can do much, little and nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from front import WIDGET, FrontEnd
from nbclient import NotebookClient
from story import bash, python, reply, submit
from strict import read

from lis_kernel.trajectory import load

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]

Page = Callable[..., FrontEnd]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """Makes front ends; their kernels work in the test's folder."""
    monkeypatch.chdir(tmp_path)
    made: list[FrontEnd] = []

    def make(**words: Any) -> FrontEnd:
        made.append(FrontEnd(**words))
        return made[-1]

    yield make
    for front in made:
        front.close()


def script(*replies: dict[str, Any]) -> None:
    Path("script.json").write_text(json.dumps(replies))


RUN = "import lis_kernel as lis\ntraj = lis.run('Do it.', model='scripted:script.json')"
QUICK = (reply(python("x = 6 * 7\nprint(x)")), reply(submit("42")))


def shown(front: FrontEnd) -> dict[str, Any]:
    """The record, as it is shown now."""
    return front.displays[front.order[0]]


def widgets(front: FrontEnd) -> bool:
    """Whether widgets are shown beside it."""
    return WIDGET in front.displays.get(f"{front.order[0]}-live", {}) if front.order else False


def test_buttons_work_while_the_cell_runs(page: Page) -> None:
    script(
        reply(python("x = 6 * 7"), text="First."),
        reply(python("import time; time.sleep(3)"), text="Second."),
        reply(bash("echo $y"), text="Third."),
        reply(submit("42")),
    )
    front = page()
    front.start(RUN)
    front.until(lambda: widgets(front))
    front.until(lambda: front.has(description="Pause / take over"))
    front.until(lambda: any("Second." in str(s.get("value")) for s in front.models.values()))
    front.click(description="Pause / take over")
    front.until(lambda: front.has(description="Hand back"))
    assert front.running, "the cell that runs has been spoken to"
    front.type("%%bash\ny=$((40 + 2))\necho y is $y", _model_name="TextareaModel")
    front.click(description="Run")
    front.until(lambda: any("y is 42" in str(s.get("value")) for s in front.models.values()))
    front.type("Use the shell's y.", _model_name="TextModel")
    front.click(description="Send")
    front.until(lambda: any("will be told" in str(s.get("value")) for s in front.models.values()))
    front.click(description="Hand back")
    front.finish()
    assert not front.errors
    data = shown(front)
    assert all(WIDGET not in display for display in front.displays.values())
    assert front.displays[front.order[1]]["text/html"] == ""
    text = read(data["text/html"]).text
    assert "submitted" in text and "y is 42" in text and "Use the shell's y." in text
    (path,) = Path("runs").glob("*/trajectory.ipynb")
    kinds = [cell["metadata"]["lis_kernel"]["kind"] for cell in load(path).notebook["cells"]]
    assert "human" in kinds and "message" in kinds


def test_the_stop_button_ends_the_run(page: Page) -> None:
    script(reply(python("import time; time.sleep(600)")))
    front = page()
    front.start(f"{RUN}\ntraj.stop_reason")
    front.until(lambda: any("sleep" in str(s.get("value")) for s in front.models.values()))
    front.click(description="Stop")
    front.finish()
    assert "INTERRUPTED" in front.displays["result"]["text/plain"]
    assert "interrupted" in read(shown(front)["text/html"]).text
    assert not widgets(front)


def test_the_notebooks_own_interrupt_ends_the_run(page: Page) -> None:
    script(reply(python("import time; time.sleep(600)")))
    front = page(widgets=False)
    front.start(f"{RUN}\ntraj.stop_reason")
    front.until(
        lambda: "sleep" in front.displays.get((front.order or ["#"])[0], {}).get("text/html", ""),
        90,
    )
    front.manager.interrupt_kernel()
    front.finish()
    assert "INTERRUPTED" in front.displays["result"]["text/plain"]


@pytest.mark.parametrize("words", [{"widgets": False}, {"subshells": False}])
def test_where_nobody_answers_it_is_html_that_changes(page: Page, words: dict[str, Any]) -> None:
    script(reply(python("print('one')")), reply(python("import time; time.sleep(2)")), *QUICK)
    front = page(**words)
    front.run("import lis_kernel.ui.live as live; live.PROBE_SECONDS = 0.2")
    front.start(RUN)
    front.until(lambda: front.order and "buttons" in shown(front)["text/html"])
    assert not widgets(front)
    front.finish()
    front.run("import time; time.sleep(0.5)")
    assert not front.errors and not front.printed
    assert "submitted" in read(shown(front)["text/html"]).text


def test_a_console_gets_lines(page: Page) -> None:
    script(*QUICK)
    front = page(widgets=False)
    front.run(RUN, username="somebody", cellId=None)
    assert not front.errors and not front.order
    assert ">>> execute_python" in front.printed and "stopped: submitted" in front.printed


def test_the_cells_value_is_not_shown_twice(page: Page) -> None:
    script(*QUICK)
    front = page()
    front.run("import lis_kernel as lis\nlis.run('Do it.', model='scripted:script.json')")
    assert "text/html" not in front.displays["result"], "it stands above already"
    assert "submitted" in front.displays["result"]["text/plain"]
    front.run("_")
    assert "submitted" in front.displays["result"]["text/html"]


def test_no_view_if_events_are_asked_for_or_it_is_refused(page: Page) -> None:
    script(*QUICK)
    front = page()
    front.run(f"{RUN[:-1]}, view=False)")
    front.run(f"events = []\n{RUN[:-1]}, on_event=events.append)")
    front.run("print(len(events) > 5)")
    assert not front.order and not front.errors and "True" in front.printed


def test_nbclient_keeps_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script(*QUICK)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(RUN)])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    (output,) = book.cells[0].outputs
    assert set(output.data) == {"text/plain", "text/html"}
    assert "submitted" in read(output.data["text/html"]).text
    assert os.listdir("runs")
