"""`%%agent` in a real kernel with the scripted model: one sandbox for people and model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from story import bash, cells, python, reply, submit
from user_notebook import Notebook

from lis_kernel.agent import remote
from lis_kernel.magics.agent import _parsed
from lis_kernel.trajectory import load
from lis_kernel.trajectory.notebook import KEY

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]

Script = Callable[..., str]
SLOW = python("import time\nprint('slow', flush=True)\ntime.sleep(60)")


@pytest.fixture(autouse=True)
def work_folder(started: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(started.folder)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def ask(notebook: Notebook, do: str, **words: Any) -> None:
    """As another process of the user's does."""

    async def asked() -> None:
        (run,) = [run for run in remote.live_runs() if run.pid == notebook.manager.provisioner.pid]
        await remote.ask(run, do, **words)

    asyncio.run(asked())


def live(notebook: Notebook) -> bool:
    return any(run.pid == notebook.manager.provisioner.pid for run in remote.live_runs())


def test_the_model_and_the_user_share_a_sandbox(notebook: Notebook, script: Script) -> None:
    (notebook.folder / "data.csv").write_text("n\n20\n22\n")
    model = script(
        reply(
            python(
                "found = mine + sum(int(l) for l in open('/testbed/input/data.csv') if l != 'n\\n')"
            ),
            bash("W=left; echo file > /testbed/output/made.txt"),
        ),
        reply(submit("$42 {x}")),
    )
    notebook.run("%%sandbox\nmine = 1")
    text = "What is {mine} and $mine?\nUse `%%bash`."
    cell = notebook.run(f"%%agent -m {model} -f data.csv -o traj\n{text}")
    assert cell.ok, cell.error
    assert any("submitted" in str(shown) for shown in cell.displays)
    assert notebook.value("traj.answer") == "'$42 {x}'"
    path = Path(notebook.value("str(traj.path.resolve())").strip("'"))
    assert path.parent.parent == notebook.folder / "runs"
    record = load(path)
    record.verify()
    assert record.task == text
    humans = [c["source"] for c in record.notebook["cells"] if "lis-human" in c["metadata"]["tags"]]
    assert humans == ["mine = 1"]
    cell = notebook.run("%%sandbox\nprint(found)")
    assert cell.stream() == "43\n"
    assert notebook.run("%%sandbox bash\necho $W; cat /testbed/output/made.txt").stream() == (
        "left\nfile\n"
    )
    assert (path.parent / "files" / "made.txt").read_text() == "file\n"


def test_sandbox_with_the_option_agent(notebook: Notebook, script: Script) -> None:
    model = script(reply(submit("1")))
    cell = notebook.run(f"%%sandbox --agent -n box -m {model} -o t\nSay one.")
    assert cell.ok, cell.error
    assert notebook.value("(t.answer, t.task)") == "('1', 'Say one.')"
    assert "box" in notebook.run("%sandbox ls").displays[0]["text/plain"]


def test_budgets_and_wrong_options(notebook: Notebook, script: Script) -> None:
    model = script(*[reply(python("1"))] * 5)
    notebook.run(f"%%agent -m {model} -o t --max-turns 2\nGo on.")
    assert notebook.value("str(t.stop_reason)") == "'max_turns'"
    with (notebook.folder / "large").open("wb") as file:
        file.truncate(2 << 30)
    for source, said in {
        "%%agent -m nonsense\nx": "names no provider",
        f"%%agent -m {model} --max-turns 0\nx": "--max-turns",
        f"%%agent -m {model} -f nope.csv\nx": "nope.csv does not exist",
        f"%%agent -m {model} -f large -n new\nx": "%sandbox limits new --disk SIZE",
        f"%%agent -m {model} -o a-b\nx": "no name of a variable",
        f"%%agent -m {model}\n  ": "the cell is empty",
        "%%agent --nonsense\nx": "unrecognized arguments",
        "%agent resume": "no run is live",
        "%agent dance": "is no order",
        "%agent say": "is no order",
        "%agent stop now": "is no order",
    }.items():
        cell = notebook.run(source)
        shown = plain(cell.error or cell.stream("stderr"))
        assert said in shown and not cell.ok and "Traceback" not in shown, (source, shown)
    assert not live(notebook)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("say Don't forget the header", ("default", "Don't forget the header")),
        ("say use -n 5 as n", ("default", "use -n 5 as n")),
        ('say hello "world" -n is it', ("default", 'hello "world" -n is it')),
        ('say "What is it?"', ("default", "What is it?")),
        ("say -n box hurry", ("box", "hurry")),
        ("say --name='my box'  a {x} $y ", ("my box", "a {x} $y")),
        ("say hurry -n box", ("box", "hurry")),
        ("say hurry -n nobody", ("default", "hurry -n nobody")),
    ],
)
def test_words_for_the_model_are_no_shells_line(line: str, meant: tuple[str, str]) -> None:
    assert _parsed(line, {"box"}) == ("say", *meant)


def test_an_interrupt_stops_the_run(notebook: Notebook, script: Script) -> None:
    model = script(reply(SLOW), reply(submit("1")))
    cell = notebook.start(f"%%agent -m {model} -o t\nGo on.")
    notebook.until(lambda: "slow" in str(cell.messages))
    notebook.interrupt()
    notebook.finish(cell, 20)
    assert notebook.value("str(t.stop_reason)") == "'interrupted'"
    assert notebook.run("%%sandbox\n'time' in globals()").displays == [{"text/plain": "True"}]
    assert not live(notebook)


def test_paused_worked_in_and_handed_back(notebook: Notebook, script: Script) -> None:
    model = script(
        reply(python("import time\nprint('slow', flush=True)\ntime.sleep(2)\nx = 1")),
        reply(python("print('theirs', y)")),
        reply(submit("3")),
    )
    cell = notebook.start(f"%%agent -m {model} -o t\nGo on.")
    notebook.until(lambda: "slow" in str(cell.messages))
    ask(notebook, "pause")
    notebook.finish(cell, 20)
    assert cell.ok and "`%agent resume` hands back" in cell.stream()
    assert "agent paused" in notebook.run("%sandbox ls").displays[0]["text/plain"]
    notebook.run("given = 40")
    cell = notebook.run("%%sandbox -i given -o took\ny = x + 1\ntook = given + y\nprint('in')")
    assert cell.stream() == "in\n" and notebook.value("took") == "42"
    assert "an agent is at work" in notebook.run("%sandbox stop default").error
    assert "told before its next turn" in notebook.run("%agent say Don't stop.").stream()
    assert "that has a run, with -n: 'default'" in notebook.run("%agent stop -n other").error
    cell = notebook.run("%agent resume")
    assert cell.ok, cell.error
    assert "submitted" in str(cell.messages), "the record is this cell's to send"
    assert notebook.value("t.answer") == "'3'"
    record = load(Path(notebook.value("str(t.path.resolve())").strip("'")))
    record.verify()
    people = [
        c["source"] for c in cells(record, "human") if c["metadata"][KEY]["author"] == "human"
    ]
    assert people == ["given = 40", "y = x + 1\ntook = given + y\nprint('in')"]
    told = str([c["source"] for c in cells(record, "message")])
    assert "Don't stop." in told and "took = given + y" in told
    assert "theirs 2" in str(record.notebook["cells"])


def test_a_paused_run_can_be_stopped(notebook: Notebook, script: Script) -> None:
    model = script(reply(python("import time\nprint('slow', flush=True)\ntime.sleep(1)")))
    cell = notebook.start(f"%%agent -m {model} -o t -n 'my box'\nGo on.")
    notebook.until(lambda: "slow" in str(cell.messages))
    ask(notebook, "pause")
    notebook.finish(cell, 20)
    advice = "%agent stop -n 'my box'"
    assert advice in cell.stream()
    error = plain(notebook.run(f"%%agent -m {model} -n 'my box'\nAnother.").error)
    assert "at work" in error and advice in error
    assert notebook.run(advice).ok
    assert notebook.value("str(t.stop_reason)") == "'interrupted'"
    assert notebook.run("%%sandbox -n 'my box'\n1").ok


def test_a_cell_of_a_persons_waits_for_no_agent(notebook: Notebook, script: Script) -> None:
    """While the model works in it from elsewhere, e.g. handed back by the view, it is said."""
    model = script(
        reply(python("import time\nprint('slow', flush=True)\ntime.sleep(1)")), reply(SLOW)
    )
    cell = notebook.start(f"%%agent -m {model} -o t\nGo on.")
    notebook.until(lambda: "slow" in str(cell.messages))
    ask(notebook, "pause")
    notebook.finish(cell, 20)
    ask(notebook, "resume")
    said = plain(notebook.run("%%sandbox\n1").error)
    assert "SandboxBusy" in said and "pause it" in said
    assert notebook.run("%%sandbox -n another\n1").ok
    assert notebook.run("%agent stop").ok


def test_unload_stops_a_run_that_waits(other: Notebook) -> None:
    (other.folder / "r.json").write_text(
        '[{"tool_calls": [{"name": "execute_python", "arguments": {"code": '
        "\"import time; print('slow', flush=True); time.sleep(1)\"}}]}]"
    )
    cell = other.start("%%agent -m scripted:r.json\nGo on.")
    other.until(lambda: "slow" in str(cell.messages))
    ask(other, "pause")
    other.finish(cell, 20)
    assert other.run("%unload_ext lis_kernel").ok
    assert not live(other)
    (path,) = (other.folder / "runs").glob("*/trajectory.ipynb")
    assert str(load(path).stop_reason) == "interrupted"


def test_the_kernels_end_stops_a_run(other: Notebook) -> None:
    (other.folder / "r.json").write_text(
        '[{"tool_calls": [{"name": "execute_python", "arguments": {"code": '
        "\"import time; print('slow', flush=True); time.sleep(60)\"}}]}]"
    )
    cell = other.start("%%agent -m scripted:r.json\nGo on.")
    other.until(lambda: "slow" in str(cell.messages))
    other.manager.shutdown_kernel(now=False)
    (path,) = (other.folder / "runs").glob("*/trajectory.ipynb")
    assert str(load(path).stop_reason) == "interrupted"
