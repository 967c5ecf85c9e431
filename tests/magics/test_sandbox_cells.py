"""`%%sandbox` in a real kernel, with real sandboxes: outputs, interrupts, failures, names."""

from __future__ import annotations

import re
import time

import pytest
from leftovers import left_within, processes_of
from user_notebook import Notebook

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]


def test_it_runs_and_lives_on(notebook: Notebook) -> None:
    assert notebook.run("%%sandbox\nx = 41\nprint('hello')").stream() == "hello\n"
    assert notebook.run("%%sandbox\nx + 1").displays == [{"text/plain": "42"}]
    assert notebook.run("%%sandbox -n other\n'x' in globals()").displays == [
        {"text/plain": "False"}
    ]
    cell = notebook.run("%%sandbox bash\ncd /tmp; W=kept; echo out; echo err >&2")
    assert (cell.stream(), cell.stream("stderr")) == ("out\n", "err\n")
    assert notebook.run("%%sandbox bash\necho $W $PWD").stream() == "kept /tmp\n"
    assert notebook.value("'x' in globals()") == "False"


def test_text_is_not_expanded(notebook: Notebook) -> None:
    notebook.run("x = 'mine'")
    cell = notebook.run("%%sandbox\nprint('{x} $x', f'{1 + 1}')")
    assert cell.stream() == "{x} $x 2\n"
    assert notebook.run("%%sandbox bash\nX=1; echo {x} $X").stream() == "{x} 1\n"


def test_outputs_come_as_they_come(notebook: Notebook) -> None:
    notebook.run("%%sandbox\nimport time")
    cell = notebook.run(
        "%%sandbox\nfor n in range(4):\n    print(n, flush=True)\n    time.sleep(0.5)"
    )
    assert cell.stream() == "0\n1\n2\n3\n"
    gaps = [b - a for a, b in zip(cell.times, cell.times[1:], strict=False)]
    assert len(gaps) == 3 and all(0.3 < gap < 1.2 for gap in gaps), gaps


def test_a_progress_bar_and_updates(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%sandbox\n"
        "from IPython.display import HTML, clear_output, display\n"
        "handle = display(HTML('<b>0</b>'), display_id=True)\n"
        "for n in (1, 2):\n"
        "    handle.update(HTML(f'<b>{n}</b>'))\n"
        "    print(f'\\r{n * 50} %', end='', flush=True)\n"
    )
    assert cell.stream() == "\r50 %\r100 %"
    (shown,) = cell.displays
    assert "<b>2</b>" in shown["text/html"]
    assert [kind for kind, _ in cell.messages].count("update_display_data") == 2
    notebook.run("%%sandbox\nlater = display('first', display_id='mine')")
    cell = notebook.run("%%sandbox\nlater.update('second')")
    names = [content["transient"]["display_id"] for _, content in cell.messages]
    assert names == ["sandbox-default-mine"], "no display of the user's can be meant"
    cell = notebook.run("%%sandbox\ndisplay('a')\nclear_output(wait=True)\ndisplay('b')")
    assert [shown["text/plain"] for shown in cell.displays] == ["'b'"]


def test_rich_outputs(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%sandbox\n"
        "import pandas as pd, matplotlib.pyplot as plt\n"
        "plt.plot([1, 2]); plt.show()\n"
        "from IPython.display import SVG, Latex, Markdown, JSON, display\n"
        "display(Markdown('**b** $x_1$'), Latex('$x$'), JSON({'a': 1}),\n"
        "        SVG('<svg><circle r=\"1\"/></svg>'))\n"
        "pd.DataFrame({'a': [1, 2]})"
    )
    assert cell.ok, cell.error
    image, markdown, latex, data, svg, frame = cell.displays
    assert image["image/png"].startswith("iVBOR")
    assert "<strong>b</strong> $x_1$" in markdown["text/html"]
    assert latex["text/latex"] == "$x$" and data["application/json"] == {"a": 1}
    assert '<img src="data:image/svg+xml;base64,' in svg["text/html"]
    assert 'class="dataframe"' in frame["text/html"] and "<style>" in frame["text/html"]


HOSTILE = """%%sandbox {how}
from IPython.display import HTML, Javascript, display
display(Javascript('alert(1)'))
display(HTML('<script>alert(1)</script><IFRAME srcdoc=x></IFRAME><img src=x onerror=alert(1)>'
             '<img src="https://evil.example/?d"><b>kept</b>'))
display({{'application/vnd.jupyter.widget-view+json': {{'model_id': 'x'}}, 'text/plain': 'w'}},
        raw=True)
display({{'application/vnd.jupyter.widget-view+json': {{'model_id': 'x'}}}}, raw=True)
print('\\x1b]52;c;ZXZpbA==\\x07\\x1b[31mred\\x1b[0m\\x1b[2J')
"""


def test_hostile_outputs_are_cleaned(notebook: Notebook) -> None:
    cell = notebook.run(HOSTILE.format(how=""))
    text = str(cell.displays)
    assert "script" not in text.replace("Javascript object", "") and "onerror" not in text
    assert "evil" not in text and "<b>kept</b>" in text and "widget" not in text
    assert cell.stream() == "\x1b[31mred\x1b[0m\n"
    told = cell.stream("stderr")
    assert told.count("not shown: application/javascript (") == 1
    assert told.count("not shown: application/vnd.jupyter.widget-view+json (") == 1
    # a plot of scripts is an empty place else
    assert told.count("not shown: scripts (") == told.count("not shown: frames (") == 1
    trusted = notebook.run(HOSTILE.format(how="--trust"))
    assert "<script>alert(1)</script>" in str(trusted.displays)
    assert trusted.displays[0]["application/javascript"] == "alert(1)"
    assert trusted.stream("stderr") == ""


def test_an_error_is_the_sandboxs_own_and_fails_the_cell(notebook: Notebook) -> None:
    cell = notebook.run("%%sandbox\ndef f():\n    return 1 / 0\nf()")
    assert not cell.ok and cell.ename == "ZeroDivisionError"
    assert "return" in cell.error and "division by zero" in cell.error
    assert "lis_kernel" not in cell.error and cell.error.count("Traceback") == 1
    cell = notebook.run("%%sandbox bash\necho a; exit 3")
    assert not cell.ok and "exit code 3" in cell.error and cell.stream() == "a\n"
    cell = notebook.run(
        "%%sandbox\nclass E(Exception): pass\n"
        "E.__name__ = 'X\\x1b]0;t\\x07<b>'\nraise E('\\x1b]52;c;eA==\\x07boo')"
    )
    assert not cell.ok and cell.ename == "X0tb" and "\x1b]" not in cell.error + str(cell.reply)
    assert notebook.run("%%sandbox\n1").ok


def test_a_failed_cell_stops_those_that_wait(notebook: Notebook) -> None:
    first = notebook.start("%%sandbox\n1/0")
    second = notebook.start("ran = True")
    notebook.finish(second)
    assert not first.ok and second.reply["status"] == "aborted"


def test_an_interrupt_interrupts_the_sandboxs_cell(notebook: Notebook) -> None:
    notebook.run("%%sandbox\nimport time; kept = 1")
    cell = notebook.start(
        "%%sandbox\ntry:\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "finally:\n    print('last words', flush=True)"
    )
    notebook.until(cell.stream)
    notebook.interrupt()
    notebook.finish(cell, 20)
    assert not cell.ok and cell.ename == "KeyboardInterrupt"
    assert cell.stream() == "begun\nlast words\n"
    assert notebook.run("%%sandbox\nkept").displays == [{"text/plain": "1"}]
    cell = notebook.start("%%sandbox bash\necho begun; sleep 60")
    notebook.until(cell.stream)
    notebook.interrupt()
    assert not notebook.finish(cell, 20).ok


def test_a_second_interrupt_gives_a_deaf_cell_up(notebook: Notebook) -> None:
    notebook.run("%%sandbox\nopen('/testbed/kept', 'w').close(); x = 1")
    cell = notebook.start(
        "%%sandbox\nimport time\nword = 'begun'\nwhile True:\n"
        "    try:\n        print(word, flush=True); word = ''\n        time.sleep(0.1)\n"
        "    except KeyboardInterrupt:\n        print('no', flush=True)"
    )
    notebook.until(cell.stream)
    notebook.interrupt()
    notebook.until(lambda: "no" in cell.stream())
    notebook.interrupt()
    notebook.finish(cell, 40)
    assert not cell.ok and cell.ename == "KeyboardInterrupt"
    assert "its kernel was ended" in cell.stream()
    again = notebook.run("%%sandbox\nimport os\n'x' in globals(), os.path.exists('/testbed/kept')")
    assert again.displays == [{"text/plain": "(False, True)"}], again


def test_an_interrupt_while_variables_are_copied(notebook: Notebook) -> None:
    notebook.run("%%sandbox\nimport numpy as np\nout = np.zeros(20_000_000)")
    for delay in (0.0, 0.1):  # copying takes longer
        cell = notebook.start("%%sandbox -o out\nprint('begun', flush=True)")
        notebook.until(cell.stream)
        time.sleep(delay)
        notebook.interrupt()
        notebook.finish(cell, 30)
        assert not cell.ok and cell.ename == "KeyboardInterrupt", (delay, cell.error)
        assert "Traceback" not in cell.error and cell.error.count("\n") == 0
        assert notebook.run("%%sandbox\n1").displays == [{"text/plain": "1"}]


def test_an_interrupt_before_the_sandbox_is_there(notebook: Notebook) -> None:
    """Whenever it comes, the cell ends soon, and the next one works.

    The print says that the user's cell runs: ipykernel itself loses an interrupt before that.
    """
    source = (
        "print('begun', flush=True)\n"
        "get_ipython().run_cell_magic('sandbox', '', 'import time; time.sleep(60)')"
    )
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1, 0.3):
        notebook.run("%sandbox stop --all")
        cell = notebook.start(source)
        notebook.until(lambda cell=cell: cell.stream())
        time.sleep(delay)
        notebook.interrupt()
        notebook.finish(cell, 20)
        assert not cell.ok and cell.ename == "KeyboardInterrupt", (delay, cell.error)
        assert "_sync.py" not in cell.error, "the insides of this package are nobody's to read"
        cell = notebook.run("%%sandbox\n1")
        assert cell.displays == [{"text/plain": "1"}], (delay, cell.error)


def test_a_time_limit(notebook: Notebook) -> None:
    cell = notebook.run("%%sandbox --timeout 3\nimport time\nx = 1\ntime.sleep(60)")
    assert not cell.ok and "the time limit of 3 s was reached" in cell.error
    assert notebook.run("%%sandbox\nx").displays == [{"text/plain": "1"}]
    assert "is no time" in notebook.run("%%sandbox --timeout -1\n1").error


def test_a_kernel_that_dies_is_said_and_replaced(notebook: Notebook) -> None:
    cell = notebook.run("%%sandbox\nimport os\nos._exit(1)")
    assert not cell.ok and "the kernel died" in cell.error and "variables are gone" in cell.error
    assert "Traceback" not in cell.error
    assert notebook.run("%%sandbox\n2").displays == [{"text/plain": "2"}]


def test_what_is_wrong_is_one_line(notebook: Notebook) -> None:
    wrong = {
        "%%sandbox -b nonsense\n1": "-b: unknown 'nonsense'",
        "%%sandbox --network nonsense\n1": "network",
        "%%sandbox -o a-b\n1": "'a-b' is no name of a variable",
        "%%sandbox ruby\n1": "invalid choice",
        "%%sandbox --nonsense\n1": "unrecognized arguments",
    }
    for source, said in wrong.items():
        cell = notebook.run(source)
        shown = re.sub(r"\x1b\[[\d;]*m", "", cell.error or cell.stream("stderr"))
        assert not cell.ok and said in shown, (source, shown)
        assert "Traceback" not in shown
    notebook.run("%%sandbox\n1")
    cell = notebook.run("%%sandbox -b bubblewrap\n1")
    assert "is there already, with another backend" in cell.error
    assert notebook.run("%%sandbox -b zygote\n1").ok
    assert notebook.run("%%sandbox -b bubblewrap -n other\n1").ok


def test_help(notebook: Notebook) -> None:
    for name, word in {
        "%sandbox": "install PACKAGE",
        "%%sandbox": "-o VAR",
        "%%agent": "--max-turns",
        "%agent": "hand back",
    }.items():
        cell = notebook.run(f"{name}?")
        (page,) = cell.reply["payload"]
        assert word in page["data"]["text/plain"], name


def test_two_notebooks_have_two_sandboxes(notebook: Notebook, other: Notebook) -> None:
    notebook.run("%%sandbox\nx = 1\nopen('/testbed/one', 'w').close()")
    cell = other.run("%%sandbox\nimport os\n'x' in globals(), os.path.exists('/testbed/one')")
    assert cell.displays == [{"text/plain": "(False, False)"}]
    other.run("%sandbox stop --all")
    assert notebook.run("%%sandbox\nx").displays == [{"text/plain": "1"}]


def test_nothing_is_left_when_the_kernel_ends(other: Notebook, runtime) -> None:
    before = processes_of(runtime)
    other.run("%%sandbox\nimport subprocess\nsubprocess.Popen(['sleep', '1000'])")
    other.run("%%sandbox -n two -b bubblewrap\n1")
    assert processes_of(runtime).keys() - before.keys()
    other.manager.restart_kernel(now=False)
    other.client.wait_for_ready(timeout=60)
    ours = lambda: left_within(0, runtime).keys() - before.keys()  # noqa: E731
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ours()
    assert other.run("%load_ext lis_kernel").ok
    other.run("%%sandbox\n1")
    other.manager.shutdown_kernel(now=True)  # killed: nobody could say goodbye
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ours()


def test_unload_takes_everything_back(other: Notebook, runtime) -> None:
    before = processes_of(runtime)
    other.run("%%sandbox\n1")
    other.run("%load_ext lis_kernel")
    assert other.complete("%sandbox ls --for|") == ["--force"]
    assert other.run("%unload_ext lis_kernel").ok
    assert not left_within(5, runtime).keys() - before.keys()
    cell = other.run("%%sandbox\n1")
    assert not cell.ok or "not found" in cell.stream("stderr")
    assert "--force" not in other.complete("%sandbox ls --for|", whole=False)
    assert other.run("%load_ext lis_kernel").ok
    assert other.run("%%sandbox\n3").displays == [{"text/plain": "3"}]
