"""Attempts on the host's reader by code in the kernel, which has the key and forges what it likes.

A breach is a change of the host's state: its memory without a bound, a record that is cut short or
no valid notebook, another cell's record, an end that never comes. That a cell fools later cells of
its own kernel (it may rewrite `%%bash`, `submit` or the shell's exit codes) is none: the sandbox is
the model's own. The canary is a plain client that takes what comes; see `readers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat.sign import MemorySignatureStore, NotebookNotary

from lis_kernel.attacks import malformed
from lis_kernel.attacks.ground import TIGHT, Box, Ground, Outcome, judged
from lis_kernel.attacks.readers import ATTEMPTS, Naive, Ours, Reader, attempt, notebook_of
from lis_kernel.tools.execute_python import ExecutePython
from lis_kernel.tools.observation import observe
from lis_kernel.types import CellResult

__all__ = ["run"]

assert malformed  # its attempts are of this family

FORGE = Path(__file__).with_name("inside") / "forge.py"
MB = 1 << 20
LIMITS = TIGHT.model_copy(update={"grace_seconds": 0.2})
SILENT_SECONDS = 0.3
"""After this a cell that says nothing is over its time."""


async def run(ground: Ground) -> Mapping[str, Outcome]:
    """Every attempt, on one kernel; it is made anew where one broke it."""
    outcomes = {}
    async with ground.box(ground.limits if ground.canary else LIMITS) as box:
        forge = FORGE.read_text("utf-8")
        await box.text(forge)
        reader = await _reader(ground, box)
        try:
            for name, function in ATTEMPTS.items():
                outcome = await function(reader)
                if name in BREAKING:
                    if ground.canary:
                        await reader.close()  # or the next kernel would greet it alone
                        await box.session.start()
                        reader = await _reader(ground, box)
                    if (await box.cell(forge)).status != "ok":
                        await box.text(forge)  # it broke only now, and was replaced
                if (after := await box.text("print(6 * 7)")) != "42\n":
                    outcome = Outcome("broken", f"the cell after it said {after!r}")
                await reader.settle()
                who = "stock client: " if ground.canary else ""
                outcomes[name] = outcome._replace(evidence=f"{who}{outcome.evidence}")
        finally:
            await reader.close()
    return outcomes


async def _reader(ground: Ground, box: Box) -> Reader:
    if not ground.canary:
        return Ours(box)
    naive = Naive(box.session.connection)
    await naive.settle()
    return naive


# -- when a cell is over ---------------------------------------------------------------------------

REST = "time.sleep(0.15)\nprint('the rest')"
REPLY = "{'status': 'ok', 'execution_count': 1, 'user_expressions': {}, 'payload': []}"
BOTH = "it takes both, idle and reply, for an end"
BY_PARENT = "messages are matched to the running cell"


@attempt
async def reply_before_the_end(reader: Reader) -> Outcome:
    cell = await reader.cell(f"answer({REPLY})\n{REST}")
    cut = "the rest" not in cell.text
    return judged(cut, f"the record holds {cell.text!r}", BOTH)


@attempt
async def say_idle_before_the_end(reader: Reader) -> Outcome:
    cell = await reader.cell(f"idle()\n{REST}")
    cut = "the rest" not in cell.text
    return judged(cut, f"the record holds {cell.text!r}", BOTH)


@attempt
async def end_in_name_only(reader: Reader) -> Outcome:
    """Both are forged: the session goes on. What comes late must not stand under the next cell."""
    await reader.cell(f"answer({REPLY})\nidle()\n{REST}")
    cell = await reader.cell("print('mine')", 5)
    return judged("the rest" in cell.text, f"the next cell holds {cell.text!r}", BY_PARENT)


@attempt
async def say_something_late(reader: Reader) -> Outcome:
    """A thread goes on in the name of the cell that started it."""
    await reader.cell(
        "parent = asked_by()\n"
        "def go_on():\n"
        "    for _ in range(4): say('late', parent=parent), time.sleep(0.15)\n"
        "going = later(0.15, go_on)"
    )
    cell = await reader.cell("time.sleep(0.4)")
    await reader.cell("going.join()")
    return judged("late" in cell.text, f"the next cell holds {cell.text!r}", BY_PARENT)


@attempt
async def flood_the_next_cell(reader: Reader) -> Outcome:
    await reader.cell(
        "content = {'name': 'stdout', 'text': 'flood'}\n"
        "flood = [[b'', *sealed('stream', content)] for _ in range(300)]\n"
        "def go_on():\n"
        "    for n in range(0, 300, 100): raw(*flood[n : n + 100]), time.sleep(0.2)\n"
        "going = later(0.15, go_on)"
    )
    cell = await reader.cell("time.sleep(0.4)\nprint('mine')")
    await reader.cell("going.join()")
    return judged("flood" in cell.text, f"{len(cell.text)} characters in the next", BY_PARENT)


@attempt
async def speak_for_another_cell(reader: Reader) -> Outcome:
    cell = await reader.cell("say('foreign', parent={'msg_id': 'of-another', 'session': 'x'})")
    return judged("foreign" in cell.text, f"the record holds {cell.text!r}", BY_PARENT)


@attempt
async def speak_for_nobody(reader: Reader) -> Outcome:
    cell = await reader.cell("say('foreign', parent={})\nsay('foreign', parent=[1])")
    return judged("foreign" in cell.text or cell.broken, f"holds {cell.text!r}", BY_PARENT)


@attempt
async def change_a_finished_cell(reader: Reader) -> Outcome:
    show = (
        "{{'data': {{'text/plain': '{}'}}, 'metadata': {{}}, 'transient': {{'display_id': 'd'}}}}"
    )
    first = await reader.cell(f"publish('display_data', {show.format('before')})")
    await reader.settle()
    await reader.cell(f"publish('update_display_data', {show.format('after')})")
    seen = str([output.get("data") for output in first.outputs])
    return judged("after" in seen, seen, "a finished cell's record is closed")


@attempt
async def speak_without_the_key(reader: Reader) -> Outcome:
    cell = await reader.cell("say('unsigned', sign=False)")
    return judged("unsigned" in cell.text, f"the record holds {cell.text!r}", "signatures")


@attempt
async def say_it_again(reader: Reader) -> Outcome:
    """The same signed message many times over."""
    cell = await reader.cell(
        "raw(*[[b'', *sealed('stream', {'name': 'stdout', 'text': 'x'})]] * 5)"
    )
    return judged(cell.text.count("x") > 1, f"heard {cell.text!r}", "a signature counts once")


# -- what would act on the host --------------------------------------------------------------------


@attempt
async def ask_the_person(reader: Reader) -> Outcome:
    """A prompt on the host's terminal, e.g. for a password."""
    cell = await reader.cell(
        "answer({'prompt': 'Password: ', 'password': True}, 'stdin', 'input_request')", 5
    )
    done = "; ".join(reader.effects)
    return judged(done, f"the cell ended with {cell.ended}", "the channel for input is not opened")


@attempt
async def load_a_module_in_the_browser(reader: Reader) -> Outcome:
    content = {"comm_id": "c", "target_name": "t", "target_module": "evil.js", "data": {}}
    cell = await reader.cell(f"publish('comm_open', {content})")
    done = "; ".join(reader.effects)
    return judged(done, f"the record holds {cell.outputs}", "comms are not read")


@attempt
async def write_the_next_cell(reader: Reader) -> Outcome:
    """A reply may ask a front end to open a pager or to put text into the next cell."""
    payload = [{"source": "set_next_input", "text": "import evil", "replace": True}]
    reply = {"status": "ok", "execution_count": 1, "payload": payload}
    await reader.cell(f"answer({reply})")
    return judged("; ".join(reader.effects), "nothing was done", "a reply is read for its status")


@attempt
async def be_trusted(reader: Reader) -> Outcome:
    """HTML and scripts run when the notebook is opened, if they count as trusted."""
    data = {"text/html": "<script>evil()</script>", "application/javascript": "evil()"}
    content = {"data": data, "metadata": {"trusted": True, "isolated": False}}
    cell = await reader.cell(f"publish('display_data', {content})")
    if len(cell.outputs) != 1:
        return Outcome("broken", f"the record holds {cell.outputs}")
    notebook = nbformat.from_dict(notebook_of(cell))  # type: ignore[no-untyped-call]
    notary: Any = NotebookNotary(  # type: ignore[no-untyped-call]
        store_factory=MemorySignatureStore, secret=b"secret"
    )
    if isinstance(reader, Naive):  # as a front end does with what it ran itself
        notebook.cells[0].metadata["trusted"] = True
    trusted = notary.check_signature(notebook) or notary.check_cells(notebook)
    return judged(trusted, f"trusted: {trusted}", "kept as data, nothing marks it as trusted")


@attempt
async def write_to_the_terminal(reader: Reader) -> Outcome:
    """Escapes that retitle a window, fill the clipboard, or write over what was said."""
    codes = "\x1b]0;evil\x07\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b[31mred\x9b5n\x1bc\x08\x08\r"
    cell = await reader.cell(f"say({codes!r})\nsay('text')")
    if isinstance(reader, Naive):
        shown = cell.text
    else:
        shown = observe(CellResult(outputs=tuple(cell.outputs), status="ok"), "python").text
    escaped = any(
        (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 for char in shown
    )
    return judged(escaped, f"shown: {shown!r}", "escapes are taken out before it is shown")


@attempt
async def end_the_run_by_a_word(reader: Reader) -> Outcome:
    """The line that `submit` prints, from a cell of another tool."""
    cell = await reader.cell("print('submitted: the answer in /testbed/output/answer.txt')")
    if isinstance(reader, Naive):
        done = cell.text.startswith("submitted")
    else:
        seen = ExecutePython().to_observation(CellResult(outputs=tuple(cell.outputs), status="ok"))
        done = seen.done
    return judged(done, f"the run is over: {done}", "only the submit tool's own cell ends a run")


# -- no end, no kernel -----------------------------------------------------------------------------

TIME = "the host's clock, then a new kernel"


async def _silent(reader: Reader, source: str) -> Outcome:
    cell = await reader.cell(source, SILENT_SECONDS)
    evidence = f"the cell ended with {cell.ended} after {cell.seconds:.1f} s"
    return judged(cell.ended in ("no end", "broken"), evidence, TIME)


@attempt
async def never_answer(reader: Reader) -> Outcome:
    return await _silent(reader, "KERNEL.session.send = lambda *a, **k: None")


@attempt
async def close_the_sockets(reader: Reader) -> Outcome:
    return await _silent(reader, "import os; os.closerange(3, 256)")


@attempt
async def talk_without_end(reader: Reader) -> Outcome:
    """A message of which each part promises another, for as long as the cell may last."""
    source = (
        f"part = bytes({MB})\nsocket = KERNEL.iopub_thread.socket\n"
        "def endless():\n"
        "    while True: socket.send(part, zmq.SNDMORE, copy=False)\n"
        "KERNEL.iopub_thread.schedule(endless)\n"
        "print('waits', flush=True)"
    )
    return await _silent(reader, source)


BREAKING = {"never_answer", "close_the_sockets", "talk_without_end"}
"""After these a kernel is of no use."""
