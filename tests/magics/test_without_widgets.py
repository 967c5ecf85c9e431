"""The magics where there is no page: plain IPython in a terminal, `jupyter console`, nbclient."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from story import python, reply, submit

from lis_kernel.trajectory import load

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240), pytest.mark.usefixtures("runtime")]

STORY = (reply(python("x = 6 * 7\nprint('seen', x)"), text="I look."), reply(submit("42")))
CELLS = [
    "%load_ext lis_kernel",
    "%%sandbox\nimport pandas as pd\nprint('printed')\npd.DataFrame({'a': [41]})",
    "%%sandbox bash\necho from bash",
    "%%agent -m scripted:replies.json -o traj\nWhat is six times seven?",
    "print('answer', traj.answer)",
    "%%sandbox -o x\nx",
    "%sandbox ls",
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("replies.json").write_text(json.dumps(STORY))
    return tmp_path


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)


def told(text: str) -> None:
    """What must be readable wherever it is shown."""
    for part in ("printed", "41", "from bash", "seen 42", "answer 42", "default", "zygote"):
        assert part in text, (part, text)
    assert "<table" not in text and "<div" not in text


def test_plain_ipython(work: Path) -> None:
    cells = [*CELLS, "%%sandbox\n1/0", "%unload_ext lis_kernel"]
    script = "\n".join(
        [
            "from IPython.terminal.interactiveshell import TerminalInteractiveShell",
            "shell = TerminalInteractiveShell.instance(simple_prompt=True)",
            f"for source in {cells!r}:",
            "    shell.run_cell(source, store_history=True)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    text = plain(done.stdout)
    told(text)
    assert text.count("ZeroDivisionError: division by zero") == 1
    assert "Traceback (most recent call last):" not in done.stderr


def test_jupyter_console(work: Path) -> None:
    # in a simple prompt each line is a cell: so cells are given to run_cell_magic
    lines = [
        "%load_ext lis_kernel",
        "m = get_ipython().run_cell_magic",
        "m('sandbox', '', 'import pandas as pd; print(\"printed\"); pd.DataFrame({\"a\": [41]})')",
        "m('sandbox', 'bash', 'echo from bash')",
        "m('agent', '-m scripted:replies.json -o traj', 'What is six times seven?')",
        "print('answer', traj.answer)",
        "%sandbox ls",
        "exit",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "console", "--simple-prompt"],
        input="\n".join([*lines, "y", ""]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told(plain(done.stdout))


def execute(*sources: str, errors: bool = False) -> Any:
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python"}},
    )
    client = NotebookClient(book, timeout=120, kernel_name="python3", allow_errors=errors)
    client.execute()
    nbformat.validate(book)
    return book


def test_nbclient(work: Path) -> None:
    book = execute(*CELLS)
    text = str([cell["outputs"] for cell in book.cells])
    assert "answer 42" in text and "printed" in text
    frame = book.cells[1].outputs[-1]
    assert 'class="dataframe"' in frame["data"]["text/html"]
    (view,) = [out for out in book.cells[3].outputs if out["output_type"] == "display_data"]
    page = view["data"]["text/html"]
    assert "seen 42" in plain(page) and "submitted" in page and "<script" not in page
    (path,) = (work / "runs").glob("*/trajectory.ipynb")
    assert f'href="{path.relative_to(work)}"' in page
    assert load(path).answer == "42"


def test_a_failed_cell_stops_run_all(work: Path) -> None:
    with pytest.raises(CellExecutionError) as failed:
        execute("%load_ext lis_kernel", "%%sandbox\n1/0", "open('ran', 'w').close()")
    assert "ZeroDivisionError: division by zero" in plain(str(failed.value))
    assert not Path("ran").exists()
