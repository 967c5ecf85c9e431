"""A recorded run's notebook, executed again by a stock Jupyter, gives the same outputs.

Nothing of ours is needed for that: the setup cell brings the tools. The stock kernel is this
machine's own, with a /testbed that bubblewrap puts beside this machine's folders.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from story import bash, call, cells, python, reply, submit, tell

from lis_kernel.sandbox.bubblewrap import find_bwrap
from lis_kernel.types import StopReason

pytestmark = pytest.mark.bwrap

STORY = [
    reply(bash("cd /tmp && export WORD=kept && echo $WORD; pwd; echo to stderr >&2")),
    reply(bash("pwd; echo $WORD; f() { echo function $1; }; cd /testbed")),
    reply(bash("f one; false | true; echo ${PIPESTATUS[0]}")),
    reply(python("import math\nx = 6\nprint('print')\nx * 7")),
    reply(python("x, 'ä \U0001f600'")),
    reply(
        call(
            "str_replace_editor",
            command="create",
            path="/testbed/a b's.py",
            file_text="print('old')\n\tend = '''x'''\r\n",
        )
    ),
    reply(
        call(
            "str_replace_editor",
            command="str_replace",
            path="/testbed/a b's.py",
            old_str="print('old')\n\tend = '''x'''\r\n",
            new_str='print("new \\\\ line")\n',
        )
    ),
    reply(call("str_replace_editor", command="view", path="/testbed/a b's.py")),
    reply(call("str_replace_editor", command="view", path="/testbed/none")),
    reply(bash("python3 /testbed/a*; exit 3")),
    reply(bash("ls /testbed/output; echo $WORD; false")),
    reply(python("1 / 0")),
    reply(python("from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))")),
    reply(python("%%bash\necho from a magic of the model")),
    reply(submit()),
    reply(bash("cp /testbed/a* /testbed/output/"), submit("42")),
]


def jupyter_execute(notebook: Path, testbed: Path) -> dict[str, dict[str, Any]]:
    """What `jupyter execute` makes of the notebook in this machine's own kernel: cells by id."""
    testbed.mkdir()
    places = [str(p) for p in Path("/").iterdir() if p.is_dir() and p.name not in ("proc", "dev")]
    jail = [find_bwrap(), "--proc", "/proc", "--dev", "/dev"]
    for place in places:
        jail += ["--bind", place, place]
    jail += ["--bind", str(testbed), "/testbed", "--die-with-parent"]
    command = [sys.executable, "-m", "jupyter", "execute", "--kernel_name=python3"]
    command += [str(notebook), "--output", "again"]
    done = subprocess.run(
        [*jail, *command], capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    again = nbformat.read(notebook.with_name("again.ipynb"), as_version=4)
    return {cell["id"]: cell for cell in again.cells if cell["cell_type"] == "code"}


def plain(cell: dict[str, Any]) -> list[Any]:
    """A cell's outputs without what may differ: counts, splits of streams, tracebacks' paths."""
    streams = {"stdout": "", "stderr": ""}
    others = []
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            streams[output["name"]] += output["text"]
        elif output["output_type"] == "error":
            others.append((output["ename"], output["evalue"]))
        else:
            others.append(dict(output["data"]))
    return [streams, *others]


async def test_a_stock_kernel_gives_the_same_outputs(tmp_path: Path) -> None:
    run, _ = await tell(tmp_path / "runs", *STORY)
    assert (run.stop_reason, run.answer) == (StopReason.SUBMITTED, "42")
    testbed = tmp_path / "testbed"
    again = jupyter_execute(run.path, testbed)
    assert len(again) == 18
    for cell in cells(run):
        assert plain(again[cell["id"]]) == plain(cell), cell["source"]
    assert (testbed / "output" / "answer.txt").read_text() == "42"


async def test_cells_that_killed_or_hung_are_left_out(tmp_path: Path) -> None:
    run, _ = await tell(
        tmp_path / "runs",
        reply(bash("echo hello")),
        reply(python("import os; os.kill(os.getpid(), 9)")),
        reply(bash("echo first; sleep 60")),
        reply(python("print('after')")),
        reply(submit("42")),
        limits={"cell_seconds": 1},
    )
    testbed = tmp_path / "testbed"
    again = jupyter_execute(run.path, testbed)
    skipped = [c["id"] for c in cells(run) if "skip-execution" in c["metadata"]["tags"]]
    assert skipped == ["call_1_0", "call_2_0"]
    for cell in cells(run):
        if cell["id"] not in skipped:
            assert plain(again[cell["id"]]) == plain(cell)
    assert (testbed / "output" / "answer.txt").read_text() == "42"
