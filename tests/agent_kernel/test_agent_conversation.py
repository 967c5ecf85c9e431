"""One conversation over many tasks, in a real sandbox, with a model that keeps what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from leftovers import processes_of
from story import CheckedModel, bash, cells, check_notebook, python, reply, submit
from wire import Say, WireServer

from lis_kernel.agent import events
from lis_kernel.agent_kernel import conversation
from lis_kernel.agent_kernel.app import config_of
from lis_kernel.agent_kernel.conversation import Conversation
from lis_kernel.errors import ConfigError, ModelUnavailable
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import AssistantMessage, StopReason, ToolMessage, UserMessage

pytestmark = pytest.mark.bwrap


class Notebook:
    """A conversation, and what was said in it."""

    def __init__(self, folder: Path, **words: Any) -> None:
        self.said: list[str] = []
        words = {"model": {"name": "scripted:one"}, **words}
        config = config_of({"limits": {"grace_seconds": 3}, **words})
        self.talk = Conversation(config, folder / "runs", say=self.said.append)
        self.seen: list[events.Event] = []
        self.on_event: Callable[[events.Event], None] = lambda _: None

    async def task(self, prompt: str) -> Trajectory:
        def hear(event: events.Event) -> None:
            self.seen.append(event)
            self.on_event(event)

        trajectory = await self.talk.run_task(prompt, hear, lambda _: None)
        return check_notebook(trajectory.path, trajectory)

    async def code(self, source: str) -> str:
        result = await self.talk.run_code(source, lambda *_: None)
        return "".join(output.get("text", "") for output in result.outputs)


@pytest.fixture
async def notebook(work: Path) -> AsyncIterator[Notebook]:
    made = Notebook(work)
    yield made
    await made.talk.close()


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, CheckedModel]:
    """Models by name, in place of those that the kernel would make."""
    known: dict[str, CheckedModel] = {}
    monkeypatch.setattr(conversation, "make_model", lambda config: known[config.name])
    return known


def users(model: CheckedModel, prompt: int) -> list[str]:
    return [m.text for m in model.prompts[prompt] if isinstance(m, UserMessage)]


async def test_the_conversation_goes_on_and_hears_of_people(notebook, models) -> None:
    model = models["scripted:one"] = CheckedModel.from_replies(
        [
            reply(python("x = 20")),
            reply(submit("twenty")),
            reply(python("print(x + y)"), bash("echo $WORD")),
            reply(submit("21")),
        ]
    )
    first = await notebook.task("What is x?")
    assert first.answer == "twenty"
    assert await notebook.code("y = 1; print(x)") == "20\n"
    assert await notebook.code("%%bash\nWORD=kept; cat output/answer.txt") == "twenty"
    second = await notebook.task("And x + y?")
    assert second.answer == "21"
    told = users(model, 2)
    assert told[0] == "What is x?" and told[1].startswith("And x + y?")
    assert "~~~~python\ny = 1; print(x)\n~~~~" in told[1] and "20" in told[1]
    assert "~~~~bash\nWORD=kept; cat output/answer.txt\n~~~~" in told[1]
    assert isinstance(model.prompts[2][-1], UserMessage)
    results = model.prompts[3][-1]
    assert isinstance(results, ToolMessage)
    assert "21" in results.results[0].text and "kept" in results.results[1].text
    assert second.metadata["continues"] == first.path.parent.name
    assert len(cells(second, "earlier")) == 3 and len(cells(second, "message")) == 1
    assert [e for e in notebook.seen if isinstance(e, events.Said)]
    assert not notebook.talk._news


async def test_files_are_there_at_once_and_the_next_task_is_told(notebook, models, work) -> None:
    model = models["scripted:one"] = CheckedModel.from_replies(
        [reply(submit("1")), reply(submit("2"))]
    )
    (work / "a.csv").write_text("one\n")
    (work / "more").mkdir()
    (work / "more" / "b.csv").write_text("two\n")
    notebook.talk.give([work / "a.csv", work / "more"])
    assert await notebook.code("%%bash\ncat input/a.csv input/more/b.csv") == "one\ntwo\n"
    await notebook.task("Count.")
    assert "- a.csv (4 bytes)\n- more/b.csv (4 bytes)" in users(model, 0)[0]
    assert notebook.talk.files == []
    await notebook.task("Again.")
    assert users(model, 1)[-1] == "Again."
    with pytest.raises(ConfigError, match="the same name"):
        notebook.talk.give([work / "a.csv", work / "more" / ".." / "a.csv"])
    with pytest.raises(ConfigError, match="does not exist"):
        notebook.talk.give([work / "none"])


async def test_what_a_person_made_of_a_file_is_what_the_model_finds(notebook, models, work) -> None:
    models["scripted:one"] = CheckedModel.from_replies(
        [reply(bash("cat input/a.csv")), reply(submit("1"))]
    )
    (work / "a.csv").write_text("one\n")
    notebook.talk.give([work / "a.csv"])
    await notebook.code("%%bash\necho mine > input/a.csv")
    trajectory = await notebook.task("Look.")
    assert trajectory.turns[0].calls[0].outputs[0]["text"] == "mine\n"
    (put,) = trajectory.metadata["task"]["inputs"]
    assert put["name"] == "a.csv"


async def test_a_stopped_run_is_no_end_of_the_conversation(notebook, models) -> None:
    """Also in the middle of a reply's calls: each of them has an answer when it goes on."""
    model = models["scripted:one"] = CheckedModel.from_replies(
        [
            reply(python("z = 3"), python("import time; time.sleep(60)"), python("never = 1")),
            reply(python("print(z)")),
            reply(submit("3")),
        ]
    )

    def stop(event: events.Event) -> None:
        if isinstance(event, events.CallStarted) and "sleep" in event.source:
            loop = asyncio.get_running_loop()
            loop.call_later(0.3, lambda: notebook.talk.stop() or pytest.fail("not stopped"))

    notebook.on_event = stop
    first = await notebook.task("Wait.")
    assert first.stop_reason is StopReason.INTERRUPTED
    notebook.on_event = lambda _: None
    second = await notebook.task("What is z?")
    assert second.answer == "3"
    calls = next(m for m in model.prompts[1] if isinstance(m, AssistantMessage)).calls
    answers = next(m for m in model.prompts[1] if isinstance(m, ToolMessage)).results
    assert [call.id for call in calls] == [answer.call_id for answer in answers]
    assert [answer.text for answer in answers[1:]] == ["Broken off."] * 2


async def test_a_model_that_never_answered_leaves_no_trace(notebook, models) -> None:
    models["scripted:one"] = CheckedModel.from_replies([])
    models["scripted:two"] = CheckedModel.from_replies([reply(submit("1"))])
    first = await notebook.task("Do it.")
    assert first.stop_reason is StopReason.MODEL_ERROR and notebook.talk.messages == []
    await notebook.talk.use_model("scripted:two")
    assert (await notebook.task("Do it.")).answer == "1"
    assert users(models["scripted:two"], 0) == ["Do it."]


async def test_what_a_model_was_not_told_the_next_one_is(notebook, models, work) -> None:
    """What people ran, and the files, when a model fails before its first word."""

    class Down(CheckedModel):
        async def prepare(self, progress: Any = None) -> None:
            raise ModelUnavailable("no answer")

    models["scripted:one"] = Down.from_replies([])
    model = models["scripted:two"] = CheckedModel.from_replies([reply(submit("1"))])
    (work / "a.csv").write_text("one\n")
    await notebook.code("y = 1; print(y)")
    notebook.talk.give([work / "a.csv"])
    assert (await notebook.task("Do it.")).stop_reason is StopReason.MODEL_ERROR
    assert await notebook.code("%%bash\ncat input/a.csv") == "one\n"
    await notebook.talk.use_model("scripted:two")
    assert (await notebook.task("Do it.")).answer == "1"
    assert "y = 1; print(y)" in users(model, 0)[0] and "a.csv" in users(model, 0)[0]
    assert notebook.talk._news == []


async def test_files_of_a_run_that_never_began_are_put_in_later(notebook, models, work) -> None:
    models["scripted:one"] = CheckedModel.from_replies([])
    (work / "a.csv").write_text("one\n")
    notebook.talk.give([work / "a.csv"])
    notebook.on_event = lambda e: notebook.talk.stop() if type(e) is events.RunStarted else None
    assert (await notebook.task("Do it.")).stop_reason is StopReason.INTERRUPTED
    assert await notebook.code("%%bash\ncat input/a.csv") == "one\n"


async def test_a_client_that_cannot_be_closed_keeps_no_sandbox(notebook, models, runtime) -> None:
    class Broken(CheckedModel):
        async def aclose(self) -> None:
            raise RuntimeError("the event loop is closed")

    models["scripted:one"] = Broken.from_replies([reply(submit("1"))])
    await notebook.task("Do it.")
    assert processes_of(runtime)
    await notebook.talk.close()
    assert not any(runtime.iterdir())


PROVIDERS = ("anthropic", "openai")
KEYS = {name: f"sk-of-{name}" for name in PROVIDERS}


@pytest.mark.parametrize("configured", PROVIDERS)
async def test_a_key_goes_to_no_server_of_another_provider(
    work: Path, monkeypatch: pytest.MonkeyPatch, configured: str
) -> None:
    (other,) = set(PROVIDERS) - {configured}
    v1 = {"anthropic": "", "openai": "/v1"}
    for name, key in KEYS.items():
        monkeypatch.setenv(f"{name.upper()}_API_KEY", key)
    done = Say(calls=[("submit", {"answer": "42"})], tokens=(1_000_000, 0, 1_000_000))
    with WireServer([done] * 3) as mine, WireServer([done]) as theirs:
        monkeypatch.setenv(f"{other.upper()}_BASE_URL", theirs.url + v1[other])
        settings = {
            "name": f"{configured}/mine",
            "base_url": mine.url + v1[configured],
            "temperature": 0.5,
            "prices": [1, 2],
            "context_window": 50_000,
            "max_output_tokens": 99,
            "extra_body": {"top_k": 3},
        }
        notebook = Notebook(work, model=settings)
        try:
            first = await notebook.task("One.")
            await notebook.talk.use_model(f"{other}/unheard-of")
            second = await notebook.task("Two.")
            await notebook.talk.use_model(f"{configured}/unheard-of")
            third = await notebook.task("Three.")
            await notebook.talk.use_model(f"{configured}/mine")
            fourth = await notebook.task("Four.")
        finally:
            await notebook.talk.close()
    assert KEYS[other] not in str(mine.headers) and KEYS[configured] not in str(theirs.headers)
    assert KEYS[configured] in str(mine.headers) and KEYS[other] in str(theirs.headers)
    assert {str(t.stop_reason) for t in (first, second, third, fourth)} == {"submitted"}
    assert mine.refused == theirs.refused == []
    assert [one["model"] for one in mine.requests] == ["mine", "unheard-of", "mine"]
    # its price, its bound and its own settings are the configured model's alone
    assert [t.usage.cost_usd for t in (first, second, third, fourth)] == [3.0, None, None, 3.0]
    assert ["top_k" in one for one in mine.requests] == [True, False, True]
    assert [99 in one.values() for one in mine.requests] == [True, False, True]
    assert [one.get("temperature") for one in mine.requests] == [0.5] * 3
    (request,) = theirs.requests
    assert not {"temperature", "top_k"} & set(request) and 99 not in request.values()
    assert fourth.metadata["config"]["model"] == first.metadata["config"]["model"]


async def test_another_model_goes_on_unless_it_is_asked_in_another_way(notebook, models) -> None:
    models["scripted:one"] = CheckedModel.from_replies([reply(python("x = 7")), reply(submit("1"))])
    models["scripted:two"] = CheckedModel.from_replies([reply(submit("2"))])
    blocks = models["scripted:blocks"] = CheckedModel.from_replies(
        [reply(text="```python\nprint(x)\n```"), reply(text="```submit\n7\n```")]
    )
    blocks.default_protocol = "blocks"
    await notebook.task("One.")
    await notebook.talk.use_model("scripted:two")
    await notebook.task("Two.")
    assert users(models["scripted:two"], 0) == ["One.", "Two."]
    assert notebook.said == []
    await notebook.talk.use_model("scripted:blocks")
    third = await notebook.task("Three.")
    assert third.answer == "7", "the sandbox is the same"
    assert "Three." in users(blocks, 0)[-1] and not any("Two." in text for text in users(blocks, 0))
    assert "continues" not in third.metadata
    assert "not know of the conversation so far" in notebook.said[0]


async def test_reset(notebook, models) -> None:
    model = models["scripted:one"] = CheckedModel.from_replies(
        [reply(python("x = 1")), reply(submit("1")), reply(submit("2"))]
    )
    await notebook.task("One.")
    await notebook.code("open('kept', 'w').close()")
    await notebook.talk.reset()
    assert notebook.talk.idle is None
    there = await notebook.code("import os; print(os.path.exists('kept'), 'x' in globals())")
    assert there == "False False\n"
    second = await notebook.task("Two.")
    assert "One." not in "".join(users(model, 2)) and "continues" not in second.metadata
    assert "kept" in users(model, 2)[0], "what ran after the reset is told"


async def test_close_ends_a_run_that_goes_on(notebook, models) -> None:
    models["scripted:one"] = CheckedModel.from_replies([reply(bash("sleep 60"))])
    begun = asyncio.Event()
    notebook.on_event = lambda e: begun.set() if isinstance(e, events.CallStarted) else None
    run = asyncio.create_task(notebook.task("Wait."))
    await begun.wait()
    await notebook.talk.close()
    assert (await run).stop_reason is StopReason.INTERRUPTED
