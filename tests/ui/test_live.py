"""A live view, fed with a real run's events: what it shows, how often, and what stays of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strict import read

from lis_kernel.agent import events
from lis_kernel.config import Budget
from lis_kernel.tools.clean import safe_html
from lis_kernel.types import CellResult, StopReason, ToolCall
from lis_kernel.ui import LiveView, html
from lis_kernel.ui.record import Record

pytestmark = pytest.mark.bwrap
WIDGET = "application/vnd.jupyter.widget-view+json"


class Front:
    """What a front end would have received."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, content: dict[str, Any]) -> None:
        self.sent.append((kind, content))

    def displays(self) -> dict[str, dict[str, Any]]:
        """What each display shows now."""
        return {c["transient"]["display_id"]: c["data"] for _, c in self.sent}

    @property
    def last(self) -> dict[str, Any]:
        data: dict[str, Any] = self.sent[-1][1]["data"]
        return data


class Driver:
    """An agent as far as a view knows it."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.state = "running"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words: self.asked.append((name, *words))


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_ends_as_plain_html(story: Any) -> None:
    front = Front()
    view = LiveView(publish=front)
    for event in story.events:
        view(event)
    view.close(story.trajectory)
    kind, content = front.sent[-1]
    assert kind == "update_display_data"
    assert content["transient"] == front.sent[0][1]["transient"]
    assert set(content["data"]) == {"text/plain", "text/html"}
    page = read(content["data"]["text/html"])
    assert "submitted" in page.text and "42 <script>" in page.text
    assert "details" in page.tags and page.pictures >= 2
    count = len(front.sent)
    view.close()
    assert len(front.sent) == count, "closed once"


def test_without_the_trajectory_the_notebook_is_read(story: Any) -> None:
    front = Front()
    with LiveView(publish=front) as view:
        for event in story.events:
            view(event)
    assert "submitted" in read(front.last["text/html"]).text


def test_a_run_that_never_began_leaves_nothing() -> None:
    front = Front()
    LiveView(publish=front).close()
    assert front.last == {"text/plain": "", "text/html": ""}


def test_a_run_that_was_cut_off_is_shown_as_far_as_it_came(story: Any) -> None:
    front = Front()
    view = LiveView(publish=front)
    for event in story.events[: len(story.events) // 2]:
        view(event)
    view.close()
    page = read(front.last["text/html"])
    assert "broken off" in page.text and "What is it?" in page.text and "Oslo" in page.text


def test_each_event_leaves_a_page_that_does_no_harm(story: Any) -> None:
    record = Record()
    seen = set()
    for event in story.events:
        seen.add(type(event).__name__)
        changed = record.feed(event)
        assert changed or isinstance(event, events.Note | events.OutputFiles), event
        page = read(html.live_page(record.snapshot(), [], safe_html))
        assert "alert(1)" not in "".join(page.tags)
    assert {"RunStarted", "TextStreamed", "CallOutput", "CallFinished", "RunEnded"} <= seen


def test_it_draws_some_ten_times_a_second_at_most(story: Any) -> None:
    front = Front()
    view = LiveView(publish=front)
    began = next(event for event in story.events if isinstance(event, events.RunStarted))
    view(began)
    view(events.TurnStarted(1))
    started = time.monotonic()
    slowest = 0.0
    while time.monotonic() < started + 2:
        before = time.perf_counter()
        view(events.TextStreamed("text", "word "))
        slowest = max(slowest, time.perf_counter() - before)
        time.sleep(0.001)
    assert view.draws <= 2 / 0.4 + 2
    assert len(front.sent) == view.draws + 1
    assert slowest < 0.25, "the run does not wait for the view"
    view.close()


def test_its_clock_goes_on_while_nothing_else_does(
    story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lis_kernel.ui.live.RECORD_SECONDS", 0.5)
    front = Front()
    view = LiveView(publish=front)
    view(story.events[0])
    until(lambda: "2 s" in read(front.last["text/html"]).text)
    view.close()


def test_many_threads_and_broken_events_do_not_stop_it(story: Any) -> None:
    front = Front()
    view = LiveView(publish=front)
    view(story.events[0])

    def feed() -> None:
        for n in range(300):
            view(events.TextStreamed("text", "x"))
            view(events.CallOutput("stream", {"text": n}))
            view(events.CallOutput("display_data", {}))
            view(None)  # type: ignore[arg-type]

    threads = [threading.Thread(target=feed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    view.close()
    assert "x" * 50 in read(front.last["text/html"]).text


def test_a_front_end_that_fails_is_no_matter_of_the_run(story: Any) -> None:
    def broken(kind: str, content: dict[str, Any]) -> None:
        if kind != "display_data":
            raise OSError("gone")

    view = LiveView(publish=broken)
    for event in story.events:
        view(event)
    view.close()


def test_lines_where_there_is_no_page(story: Any) -> None:
    front = Front()
    view = LiveView(publish=front, mode="lines")
    for event in story.events:
        view(event)
    view.close()
    text = "".join(content["text"] for _, content in front.sent)
    assert {kind for kind, _ in front.sent} == {"stream"}
    assert ">>> execute_python" in text and "stopped: submitted" in text and "\x1b]0;" not in text


def test_without_ipywidgets_it_is_html(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "lis_kernel.ui.widgets", raising=False)
    front = Front()
    view = LiveView(publish=front, mode="widgets")
    assert view.mode == "html"
    for event in story.events:
        view(event)
    until(lambda: "What is it?" in front.last["text/html"])
    assert WIDGET not in front.last
    view.close()


def test_nobody_answers_and_it_is_html(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lis_kernel.ui.live.PROBE_SECONDS", 0.5)
    front = Front()
    view = LiveView(publish=front, mode="widgets")
    view.controls = Driver()
    assert WIDGET in front.last
    view(story.events[0])
    until(lambda: view.mode == "html")
    until(lambda: WIDGET not in str(front.displays()))
    until(lambda: "stop button" in read(front.last["text/html"]).text)
    view.close()


def test_the_widgets_show_and_ask(story: Any) -> None:
    front, driver = Front(), Driver()
    view = LiveView(publish=front, mode="widgets")
    view.controls = driver
    panel = view._panel
    assert panel is not None
    view._answered()
    for event in story.events[:-1]:
        view(event)
    until(
        lambda: "What is it?" in panel.head.value and len(panel._past) == view._record.run.turns - 1
    )
    shown = [panel.head, *panel._past, panel.present, panel.files, panel.foot]
    for part in shown:
        read(part.value)
    assert "Oslo" in panel._past[0].value and "Notebook" in panel.foot.value
    first = panel._past[0]
    panel._words.value = " use euros "
    panel._send.click()
    assert panel._words.value == ""
    panel._pause.click()
    driver.state = "pausing"
    until(lambda: panel._pause.description == "Pausing…")
    view(events.Paused())
    until(lambda: panel._pause.description == "Hand back")
    until(lambda: "lis-empty" not in panel.cell._dom_classes)
    panel._pause.click()
    view(events.Resumed())
    driver.state = "running"
    until(lambda: panel._pause.description.startswith("Pause"))
    panel._stop.click()
    until(lambda: len(driver.asked) == 4)
    assert driver.asked == [("say", "use euros"), ("pause",), ("resume",), ("stop",)]
    assert panel._past[0] is first, "what is over keeps its widget, and stays unfolded"
    view(story.events[-1])
    view.close(story.trajectory)
    shown = front.displays()
    final, gone = shown.values()
    assert gone == {"text/plain": "", "text/html": ""}
    assert set(final) == {"text/plain", "text/html"}
    (record,) = panel.root.children
    (name,) = (name for name in shown if not name.endswith("-live"))
    inner = final["text/html"].removeprefix(f'<div class="{name}">').removesuffix("</div>")
    assert record.value.endswith(inner), "for a page that was opened meanwhile"


# -- the record ------------------------------------------------------------------------------


def test_a_pause_that_was_taken_back_is_no_pause(story: Any) -> None:
    record = Record()
    record.feed(story.events[0])
    record.feed(events.TurnStarted(1))
    record.shows("pausing")
    assert record.run.state.startswith("pausing")
    record.shows("running")
    assert record.run.state == "running"
    record.feed(events.Paused())
    record.shows("running")
    assert record.run.state.startswith("paused"), "the event is newer"


def test_pauses_take_no_time_and_a_persons_cell_is_theirs(story: Any) -> None:
    now = [0.0]
    record = Record(Budget(turns=5, seconds=60), clock=lambda: now[0])
    record.feed(story.events[0])
    record.feed(events.TurnStarted(1))
    now[0] = 10.0
    record.feed(events.Paused())
    assert "paused" in record.run.state
    record.feed(events.HumanStarted("%%bash\nls"))
    record.feed(events.CallOutput("stream", {"name": "stdout", "text": "a\n"}))
    record.feed(events.CallOutput("stream", {"name": "stdout", "text": "b\n"}))
    assert record.run.steps[-1].calls[0].outputs == [
        {"output_type": "stream", "name": "stdout", "text": "a\nb\n"}
    ]
    now[0], record.streaming = 17.4, ""
    record.tick()
    assert "running 7 s" in read(html.live_page(record.snapshot(), [], None)).text
    record.feed(events.HumanFinished(CellResult(seconds=1.0)))
    now[0] = 30.0
    record.feed(events.Resumed())
    record.feed(events.Said("The user says: be quick"))
    now[0] = 35.0
    record.tick()
    assert record.run.seconds == 15.0
    assert [step.kind for step in record.run.steps] == ["turn", "human", "message"]
    page = read(html.live_page(record.snapshot(), [], None))
    assert "be quick" in page.text and "5" in page.text


def test_what_a_cell_redraws_is_redrawn() -> None:
    def show(kind: str, text: str, name: str) -> None:
        transient = {"display_id": name} if name else {}
        content = {"data": {"text/plain": text}, "metadata": {}, "transient": transient}
        record.feed(events.CallOutput(kind, content))

    def shown() -> str:
        return read(html.live_page(record.snapshot(), [], safe_html)).text

    record = Record()
    record.feed(events.TurnStarted(1))
    record.feed(events.CallStarted(ToolCall(id="a", name="execute_python", arguments={}), "x"))
    record.streaming = ""
    show("display_data", "10 %", "bar")
    show("display_data", "beside", "")
    earlier = record.snapshot()
    show("update_display_data", "20 %", "bar")
    assert "20 %" in shown() and "10 %" not in shown() and "beside" in shown()
    page = read(html.live_page(earlier, [], safe_html)).text
    assert "10 %" in page, "a drawing that has begun is not disturbed"
    record.feed(events.CallOutput("clear_output", {"wait": True}))
    assert "beside" in shown()
    show("display_data", "30 %", "bar")
    assert "30 %" in shown() and "beside" not in shown()
    record.feed(events.CallOutput("clear_output", {"wait": False}))
    assert "%" not in shown()


def test_limits_and_the_network_are_counted() -> None:
    from lis_kernel.types import Attempt, Observation

    record = Record()
    record.feed(events.TurnStarted(1))
    for _ in range(2):
        record.feed(events.CallStarted(ToolCall(id="a", name="execute_bash", arguments={}), "x"))
        tried = (Attempt(host="<b>", port=443, allowed=False, reason="not allowed"),)
        result = CellResult(status="timeout", verdict="timeout", limit="3 s")
        record.feed(events.CallFinished(result, Observation(text=""), tried))
    assert record.run.limits == {"timeout": 2}
    page = read(html.foot_of(record))
    assert "<b>:443 refused 2×" in page.text
    record.feed(events.RunEnded(StopReason.TIMEOUT, "late", None, Path("x.ipynb")))
    assert record.run.state == "timeout" and record.run.tone == "warn"


def test_it_keeps_no_more_than_it_shows() -> None:
    record = Record()
    record.feed(events.TurnStarted(1))
    record.feed(events.CallStarted(ToolCall(id="a", name="execute_python", arguments={}), "x"))
    for _ in range(2000):
        piece = {"name": "stdout", "text": "y" * 1000}
        record.feed(events.CallOutput("stream", piece))
        record.feed(events.CallOutput("display_data", {"data": {}, "metadata": {}}))
    outputs = record.run.steps[0].calls[0].outputs
    assert len(outputs) <= 500
    record.feed(events.TextStreamed("text", "z" * 10_000_000))
    assert len(record.run.steps[0].text) <= 200_000
