"""The kernel `lis-agent` as Jupyter's clients see it: a real kernel process, a real sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agent_console import Console
from jupyter_client.manager import AsyncKernelManager
from leftovers import left_within, processes_of
from story import bash, check_notebook, python, reply, submit

from lis_kernel.agent import remote
from lis_kernel.kernel import kernelspec
from lis_kernel.trajectory import load

pytestmark = pytest.mark.bwrap

SLEEP = "import time\ntime.sleep(60)"
WIDGET = "application/vnd.jupyter.widget-view+json"
DEAF = """import time
while True:
    try:
        time.sleep(1)
    except KeyboardInterrupt:
        print("no")
"""


def runs(work: Path) -> list[Path]:
    found = (work / "runs").glob("*/trajectory.ipynb")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


async def until(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_tasks_and_code_take_turns(start, script, work: Path) -> None:
    name = script(
        reply(python("x = 41\nprint('looking')"), text="I look."),
        reply(submit("It is **41**.")),
        reply(bash("echo $WORD; ls input"), python("print(x + y); open('output/p.txt', 'w')")),
        reply(submit("42")),
    )
    (work / "a file.csv").write_text("a,b\n")
    async with start() as console:
        assert (await console.run(f"%model {name}")).text == f"model: {name}"
        first = await console.run("What is x?")
        assert first.ok, first.text
        (output,) = first.outputs
        assert output["kind"] == "display_data"
        answer, _, facts = first.text.partition("\n\n")
        assert answer == "It is **41**."
        assert "submitted · 2 turns" in facts and "runs/" in facts
        assert "<strong>41</strong>" in first.html or "**41**" in first.html
        assert "looking" in first.html and str(runs(work)[0].relative_to(work)) in first.html

        shown = await console.run("%%python\nprint(x); y = 1\nx + y")
        assert [o["kind"] for o in shown.outputs] == ["stream", "execute_result"]
        assert shown.text == "41\n\n42"
        assert shown.outputs[1]["execution_count"] == shown.reply["execution_count"] == 3
        assert (await console.run("%%bash\nWORD=kept\npwd")).text == "/testbed"
        assert (await console.run("%bash echo $WORD")).text == "kept"

        second = await console.run("%files 'a file.csv'\n%turns 9\nAnd with y?")
        assert second.ok, second.text
        assert "files for the next task" in second.text and "turns=9" in second.text
        assert "[files: runs/" in second.text and "p.txt]" in second.text
        assert "kept" in second.html and "a file.csv" in second.html
        third = await console.run("%python print(open('output/p.txt').read() == '', x)")
        assert third.text == "True 41"
    one, two = (check_notebook(path) for path in runs(work))
    assert two.metadata["continues"] == one.path.parent.name
    assert two.metadata["config"]["budget"]["turns"] == 9
    assert two.metadata["task"]["files"] == ["a file.csv"]
    assert (one.answer, two.answer) == ("It is **41**.", "42")


async def test_what_kind_of_kernel_it_is(start) -> None:
    async with start() as console:
        info = await console.ask("kernel_info")
        assert info["language_info"]["name"] == "markdown"
        assert info["language_info"]["mimetype"] == "text/markdown"
        assert info["supported_features"] == [] and info["implementation"] == "lis-agent"
        assert "%help" in info["banner"]
        helped = await console.run("%help")
        assert "%files PATH..." in helped.text
        empty = await console.run("\n  \n")
        assert empty.ok and not empty.outputs
        silent = await console.ask("execute", code="Buy a house.", silent=True)
        assert silent["status"] == "ok"
        assert not Path("runs").exists()
        for code, status in (
            ("A task", "complete"),
            ("%model x", "complete"),
            ("%%python", "incomplete"),
            ("%%bash\nls", "incomplete"),
            ("%%bash\nls\n", "complete"),
            ("%nope", "complete"),
        ):
            assert (await console.ask("is_complete", code=code))["status"] == status, code


async def test_errors_name_the_fix_and_fail_the_cell(start, script, work: Path) -> None:
    name = script(reply(python("1")), reply(python("2")))
    wrong = {
        "%fles a.csv": "Did you mean %files?",
        "%model": "",
        "%model nope": "%model: 'nope' names no provider. Write anthropic/nope",
        "%model a b": "takes one name",
        "%model scripted:none.json": "%model: cannot read none.json",
        "%model anthropic/claude-sonnet-5-5": "ANTHROPIC_API_KEY",
        "%files none.csv": "does not exist",
        "%files ~no-such-user/a.csv": "does not exist",
        "%files *.none": "%files: nothing fits '*.none'",
        "%files 'a": "No closing quotation",
        "%turns": "Write e.g. %turns 20",
        "%turns some": "%turns",
        "%budget money=3": "Write e.g. %budget cost=0.50 seconds=600",
        "%budget cost=-1": "%budget cost",
        "%python": "there is no code on its line",
        "%reset all": "Write %reset",
        "%%bash -x\nls": "takes no arguments",
    }
    async with start() as console:
        for source, said in wrong.items():
            shown = await console.run(source)
            assert shown.ok == (not said), source
            if said:
                (output,) = shown.outputs
                assert said in output["evalue"] and output["ename"] in ("ConfigError", "ModelAuth")
                assert said in "".join(output["traceback"])
                assert shown.reply["evalue"] == output["evalue"]
        assert "local/" in (await console.run("%model")).text, "a wrong name changes nothing"
        assert not Path("runs").exists()

        failed = await console.run("%%python\nprint('before')\n1/0")
        assert failed.text == "before\n\nZeroDivisionError: division by zero"
        assert failed.reply["ename"] == "ZeroDivisionError"
        assert (await console.run("%bash exit 3")).reply["evalue"] == "exit code 3"
        died = await console.run("%python import os; os.kill(os.getpid(), 9)")
        assert "restarted" in died.reply["evalue"] and not died.ok
        assert (await console.run("%python print(1)")).text == "1"

        spent = await console.run(f"%model {name}\n%turns 1\nDo it.")
        assert spent.reply["ename"] == "BudgetSpent" and "%budget turns=N" in spent.text
        assert "max turns" in spent.html.lower(), "the record is kept all the same"
        lost = await console.run("Go on.")
        assert not lost.ok and lost.reply["ename"] == "BudgetSpent"
        short = await console.run("%budget turns=none tokens=none\nGo on.")
        assert short.reply["ename"] == "ModelError" and "asked for more" in short.text
        said = await console.run("%budget")
        assert said.text == "of one task: turns=100, tokens=none, cost=none, seconds=none"


async def test_an_interrupt_stops_the_run_and_the_kernel_lives(start, script) -> None:
    name = script(
        reply(python("x = 5"), python(SLEEP)),
        reply(python("print(x)")),
        reply(bash("sleep 60")),
        reply(submit("5")),
    )
    async with start() as console:
        manager = console.manager

        async def interrupted(source: str, how: Any, at: str, times: int = 1) -> Any:
            asked: list[asyncio.Task[None]] = []

            async def ask() -> None:
                for _ in range(times):
                    await how()
                    await asyncio.sleep(1)

            def hear(message: dict[str, Any]) -> None:
                if at in json.dumps(message["content"]) and not asked:
                    asked.append(asyncio.create_task(ask()))

            shown = await console.run(source, on_message=hear, seconds=30)
            assert asked and not shown.ok
            await asked[0]
            return shown

        by_message = manager.interrupt_kernel
        by_signal = partial(manager.signal_kernel, signal.SIGINT)
        first = await interrupted(f"%model {name}\nWait.", by_message, "time.sleep")
        assert first.reply["ename"] == "KeyboardInterrupt" and "interrupted" in first.html
        second = await interrupted("Again.", by_signal, "sleep")
        assert second.reply["ename"] == "KeyboardInterrupt" and "print(x)" in second.html
        third = await interrupted(f"%%python\nprint('here')\n{SLEEP}", by_message, "here\\n")
        assert third.reply["ename"] == "KeyboardInterrupt" and third.text.startswith("here")
        fourth = await interrupted("%bash echo here; sleep 60", by_message, "here\\n")
        assert fourth.reply["evalue"] == "exit code 130 (interrupted)"
        assert (await console.run("%python print(x)")).text == "5"
        await manager.interrupt_kernel()  # nothing runs: nothing happens
        await asyncio.sleep(0.5)  # it comes by another channel than the next cell
        assert (await console.run("And now?")).text.startswith("5\n")
        deaf = await interrupted(f"%%python\nprint('here')\n{DEAF}", by_message, "here\\n", 2)
        assert deaf.reply["ename"] == "KeyboardInterrupt" and "%reset" in deaf.text
        assert (await console.run("%reset\n%python print(2)")).text.endswith("2")


async def test_an_interrupt_while_it_waits_for_a_listener(work: Path) -> None:
    """A client that only asks: the kernel waits for it to listen, and can be stopped meanwhile."""
    manager = AsyncKernelManager(kernel_name=kernelspec.AGENT)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels(iopub=False, stdin=False, hb=False)
    console = Console(manager, client)
    try:
        await console.ask("kernel_info")
        cell = {"code": "%help", "silent": False, "stop_on_error": False}
        asked = asyncio.create_task(console.ask("execute", **cell))
        while not asked.done():  # it comes by another channel than the cell, and may be too early
            await manager.interrupt_kernel()
            await asyncio.wait({asked}, timeout=0.1)
        assert (await asked)["ename"] == "KeyboardInterrupt"
        assert (await console.ask("execute", **cell))["status"] == "ok"
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()


async def test_a_line_of_python_may_hold_a_line_separator(start) -> None:
    async with start() as console:
        assert (await console.run("%python print('a\u2028b' == 'a\\u2028b')")).text[:4] == "True"


async def test_a_restart_is_a_new_sandbox(start, script, runtime: Path) -> None:
    name = script(reply(bash("sleep 60")))
    async with start() as console:
        assert (await console.run("%python x = 1")).ok
        before = processes_of(runtime)
        assert before
        asking = asyncio.create_task(console.run(f"%model {name}\nWait."))
        await until(lambda: len(runs(Path())) and "sleep" in runs(Path())[0].read_text())
        asking.cancel()
        await console.manager.restart_kernel()
        assert set(before).isdisjoint(processes_of(runtime))
        await console.client.wait_for_ready(timeout=60)
        assert (await console.run("%python print('x' in globals())")).text == "False"
    assert str(load(runs(Path())[0]).stop_reason) == "interrupted", "its notebook was closed"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_orphan_is_left(start, runtime: Path, number: int) -> None:
    async with start() as console:
        assert (await console.run("%python import time; print(1)")).ok
        assert processes_of(runtime)
        os.kill(console.manager.provisioner.pid, number)
        assert left_within(10, runtime) == {}
        await until(lambda: not any(runtime.iterdir()))


async def test_a_sandbox_that_is_gone_is_said_and_replaced(start, script, runtime: Path) -> None:
    name = script(reply(submit("1")))
    async with start() as console:
        assert (await console.run(f"%model {name}\n%python x = 1")).ok
        for pid, command in processes_of(runtime).items():
            if "agent-kernel" not in command:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for source in ("%python 1", "%bash ls", "Do it."):
            lost = await console.run(source)
            assert not lost.ok and "%reset" in lost.text, (source, lost.text)
        assert (await console.run("%reset\n%python print(2)")).text.endswith("2")
        assert (await console.run("Do it.")).text.startswith("1\n")


async def test_what_comes_out_of_the_sandbox_is_cleaned(start) -> None:
    source = """%%python
from IPython.display import display, HTML, Javascript, Image, update_display
display(HTML('<b onclick="evil()">bold</b><script>evil()</script>'))
display(Javascript('evil()'))
display({'application/vnd.jupyter.widget-view+json': {'model_id': 'x'}}, raw=True)
handle = display('first', display_id='mine')
handle.update('second')
print('\\x1b]0;title\\x07\\x1b[31mred\\x1b[0m')
display({'image/png': 'iVBORw0KGgo='}, raw=True)
raise ValueError('\\x1b]0;title\\x07wrong')
"""
    async with start() as console:
        shown = await console.run(source)
    whole = json.dumps([message["content"] for message in shown.messages if "data" in message])
    bundles = [output["data"] for output in shown.outputs if "data" in output]
    assert "evil" not in json.dumps(bundles) and "evil" not in whole.partition("display(")[0]
    assert "<b>bold</b>" in bundles[0]["text/html"]
    assert "not shown" in bundles[1]["text/plain"] or "Javascript" in bundles[1]["text/plain"]
    assert "widget-view" not in "".join(bundles[2])
    assert shown.outputs[3]["display_id"] == "sandbox-mine"
    assert bundles[3]["text/plain"] == "'second'"
    assert shown.outputs[4]["text"] == "\x1b[31mred\x1b[0m\n"
    assert bundles[4] == {"image/png": "iVBORw0KGgo="}
    assert "\x1b]" not in json.dumps(shown.reply) and "\\u001b]" not in json.dumps(shown.reply)
    assert shown.reply["evalue"] == "wrong"


async def test_completion_and_help_from_both_sides(start) -> None:
    async with start() as console:
        found = await console.ask("complete", code="%mod", cursor_pos=4)
        assert found["matches"] == ["%model"] and found["cursor_start"] == 0
        nothing = await console.ask("complete", code="%python pri", cursor_pos=11)
        assert nothing["matches"] == [], "no sandbox is started for it"
        assert (await console.run("%python import json; a_name = 1")).ok
        code = "%turns 3\n%%python\njson.dum"
        found = await console.ask("complete", code=code, cursor_pos=len(code))
        assert code[found["cursor_start"] : found["cursor_end"]] == "dum"
        assert found["matches"] == ["dump", "dumps"]
        code = "%python a_na"
        found = await console.ask("complete", code=code, cursor_pos=len(code))
        assert found["matches"] == ["a_name"] and found["cursor_start"] == 8
        code = "%%python\njson.dumps"
        found = await console.ask("inspect", code=code, cursor_pos=len(code), detail_level=0)
        assert found["found"] and "Serialize" in found["data"]["text/plain"]
        found = await console.ask("inspect", code="%turns", cursor_pos=3, detail_level=0)
        assert "Most turns" in found["data"]["text/plain"]


async def test_other_processes_reach_the_run(start, script) -> None:
    name = script(
        reply(bash("sleep 1")), reply(bash("echo two")), reply(bash("sleep 60")), reply(bash("x"))
    )
    async with start() as console:
        asking = asyncio.create_task(console.run(f"%model {name}\nWatch me."))
        await until(remote.live_runs)
        (live,) = remote.live_runs()
        assert (live.task, live.model) == ("Watch me.", name)
        await remote.ask(live, "pause")
        while (await remote.ask(live, "status"))["state"] != "paused":
            await asyncio.sleep(0.05)
        await remote.ask(live, "say", text="Be quick.")
        await remote.ask(live, "resume")
        while (await remote.ask(live, "status"))["turns"] < 3:
            await asyncio.sleep(0.05)
        await remote.ask(live, "stop")
        shown = await asking
        assert shown.reply["ename"] == "KeyboardInterrupt" and "Be quick." in shown.html


async def test_a_page_has_buttons_that_work_while_the_cell_runs(start, script) -> None:
    """Widgets without an IPython shell: their messages are heard beside a cell that awaits."""
    name = script(reply(bash("echo begun; sleep 60")), reply(submit("1")))
    models: dict[str, dict[str, Any]] = {}
    pressed: list[str] = []
    async with start() as console:

        def page(message: dict[str, Any]) -> None:
            kind, content = message["msg_type"], message["content"]
            if kind == "comm_open":
                state = models[content["comm_id"]] = content["data"]["state"]
                if (
                    "source" in state
                ):  # a page copies one to the other, and so shows that it is there
                    far, name = state["target"][0].removeprefix("IPY_MODEL_"), state["target"][1]
                    near = state["source"][0].removeprefix("IPY_MODEL_")
                    copied = {name: models[near][state["source"][1]]}
                    console.comm(far, {"method": "update", "state": copied, "buffer_paths": []})
            if "begun" in json.dumps(content) and not pressed:
                stop = [name for name, state in models.items() if state.get("icon") == "stop"]
                pressed.extend(stop)
                console.comm(stop[0], {"method": "custom", "content": {"event": "click"}})

        shown = await console.run(f"%model {name}\nWait.", page=True, on_message=page, seconds=30)
        assert len(pressed) == 1
        assert shown.reply["ename"] == "KeyboardInterrupt"
        displays = [m["content"]["data"] for m in shown.messages if "data" in m["content"]]
        views = [data[WIDGET] for data in displays if WIDGET in data]
        assert {view["model_id"] for view in views} <= set(models) and views
        assert "interrupted" in shown.html, "at the end it is plain HTML"
        left = [output["data"] for output in shown.outputs if output["kind"] == "display_data"]
        assert not any(WIDGET in data for data in left)
        assert [data["text/plain"][:13] for data in left if data["text/plain"]] == ["[interrupted "]
        open_ones = await console.ask("comm_info", target_name="jupyter.widget")
        assert len(open_ones["comms"]) < len(models)


async def test_one_cell_after_another(start, script) -> None:
    """Clients queue their cells; after one that failed the rest are not run."""
    async with start() as console:
        first = asyncio.create_task(console.run("%python import time; time.sleep(1); 1/0"))
        await asyncio.sleep(0.3)
        message = console.client.execute("%python print('no')", stop_on_error=True)
        assert (await first).reply["ename"] == "ZeroDivisionError"
        reply_ = await console.client.get_shell_msg(timeout=20)
        assert reply_["parent_header"]["msg_id"] == message
        assert reply_["content"]["status"] == "aborted"
        assert (await console.run("%python print('yes')")).text == "yes"
