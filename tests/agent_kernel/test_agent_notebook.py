"""Whole notebooks on `lis-agent`: nbclient, `jupyter execute` and `jupyter console`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from story import python, reply, submit

from lis_kernel.kernel import kernelspec

pytestmark = pytest.mark.bwrap


def notebook(*sources: str) -> nbformat.NotebookNode:
    made = new_notebook()
    made.cells = [new_markdown_cell("# A day's work"), *map(new_code_cell, sources)]
    made.metadata.kernelspec = {"name": kernelspec.AGENT, "display_name": "Agent (sandbox)"}
    return made


def texts(made: nbformat.NotebookNode) -> list[str]:
    """What can be read of each code cell."""
    said = []
    for cell in made.cells[1:]:
        parts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
        parts += [f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
        said.append("".join(parts).strip())
    return said


async def test_nbclient_runs_it_and_stops_at_a_failed_cell(script, work: Path) -> None:
    name = script(
        reply(python("rows = [1, 2, 2]"), text="Looking."),
        reply(submit("one row is there twice")),
        reply(python("print(rows)")),
    )
    made = notebook(
        f"%model {name}", "Which rows are there twice?", "%%python\nlen(rows)", "Fix them.", "%help"
    )
    with pytest.raises(CellExecutionError, match="the script has 3 replies"):
        await NotebookClient(made, timeout=60).async_execute()
    nbformat.validate(made)
    model, answer, code, failed, after = texts(made)
    assert (model, code, after) == (f"model: {name}", "3", "")
    assert answer.startswith("one row is there twice\n") and "2 turns" in answer
    assert "model error" in failed and failed.endswith(
        "ModelError: the script has 3 replies and the run asked for more"
    )
    assert [cell.execution_count for cell in made.cells[1:]] == [1, 2, 3, 4, None]
    assert made.metadata.language_info.name == "markdown"
    displays = made.cells[2].outputs
    assert len(displays) == 1 and "Looking." in displays[0].data["text/html"]


def test_jupyter_execute(script, work: Path) -> None:
    name = script(reply(submit("42")))
    for task, code in (("%reset", 0), ("%rest", 1)):
        path = work / "day.ipynb"
        nbformat.write(notebook(f"%model {name}\nWhat is it?", task), path)
        done = subprocess.run(
            [sys.executable, "-m", "jupyter", "execute", "--inplace", str(path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
        if code:
            assert "Did you mean %reset?" in done.stderr
        else:
            first, second = texts(nbformat.read(path, as_version=4))
            assert "42\n" in first and second.startswith("a new conversation")
    assert len(list((work / "runs").iterdir())) == 2


def test_jupyter_console(script, work: Path) -> None:
    name = script(reply(python("x = 6 * 7\nprint('x =', x)"), text="I count."), reply(submit("42")))
    typed = [f"%model {name}", "What is six times seven?", "%python x + 1", "%nope", "exit"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jupyter", "console", f"--kernel={kernelspec.AGENT}"),
            *("--simple-prompt", "--ZMQTerminalInteractiveShell.confirm_exit=False"),
        ],
        input="\n".join(typed) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert f"model: {name}" in said, said
    assert "I count." in said and "x = 42" in said and "answer: 42" in said
    assert "43" in said and "there is no such magic" in said
    assert "%help lists the magics" in said, "the banner"


def test_a_module_beside_the_notebook_is_none_of_the_kernels(script, work: Path) -> None:
    """The kernel's own process runs no code of a person's or a model's."""
    for module in ("lis_kernel", "ipywidgets", "genai_prices", "random"):
        (work / f"{module}.py").write_text("open('ran', 'w').close()")
    (work / "ipython").mkdir()
    name = script(reply(submit("1")))
    path = work / "day.ipynb"
    nbformat.write(notebook(f"%model {name}\nDo it."), path)
    # nbclient's own process is not the kernel's
    client = NotebookClient(nbformat.read(path, as_version=4), timeout=60)
    client.execute()
    assert "1\n" in texts(client.nb)[0]
    assert not (work / "ran").exists()
    assert json.loads((work / "replies.json").read_text())
