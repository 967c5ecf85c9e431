"""`-i` and `-o`: variables of a real kernel and a real sandbox, and what is refused."""

from __future__ import annotations

import pytest
from user_notebook import Notebook

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]

FRAME = """import pandas as pd, numpy as np
dates = pd.to_datetime(['2026-01-01'] * 3)
frame = pd.DataFrame({'n': [1, 2, 3], 't': ['a', None, 'ü'], 'd': dates,
                      'c': pd.Categorical(['x', 'y', 'x'])}, index=pd.Index([3, 4, 5], name='i'))
array = np.arange(12, dtype='f4').reshape(3, 4)
series = frame['n'].astype('Int64')
plain = {'a': [1, 2.5, None, True], 'text': "it's\\n{x} $y\\t\\\\ 'q' ü \\U0001f600"}
big = list(range(20_000))
odd = [float('inf'), -0.0]"""
NAMES = ["frame", "array", "series", "plain", "big", "odd"]


@pytest.fixture(scope="module", autouse=True)
def values(started: Notebook) -> None:
    assert started.run(FRAME).ok


def test_there_and_back(notebook: Notebook) -> None:
    given = " ".join(f"-i {name}" for name in NAMES)
    back = " ".join(f"-o b_{name}" for name in NAMES)
    made = "\n".join(f"b_{name} = {name}" for name in NAMES)
    cell = notebook.run(f"%%sandbox {given} {back}\n{made}\ntype(frame).__name__, array.dtype.str")
    assert cell.ok, cell.error
    assert cell.displays == [{"text/plain": "('DataFrame', '<f4')"}]
    check = (
        "from pandas.testing import assert_frame_equal, assert_series_equal\n"
        "assert_frame_equal(frame, b_frame)\nassert_series_equal(series, b_series)\n"
        "assert (b_array == array).all() and b_array.dtype == array.dtype\n"
        "assert repr((plain, big, odd)) == repr((b_plain, b_big, b_odd))\n"
        "assert b_plain is not plain"
    )
    assert notebook.run(check).error == ""
    listed = notebook.run("%%sandbox bash\nls -A /tmp/.lis-values")
    assert listed.stream() == "lis_values\n", "nothing is left but what reads and writes"


def test_names_may_stand_together(notebook: Notebook) -> None:
    cell = notebook.run("%%sandbox -i plain,odd -o one,two\none, two = len(plain), odd[1]")
    assert cell.ok and notebook.value("(one, two)") == "(2, -0.0)"


def test_the_sandbox_needs_pandas_for_frames_only_then(notebook: Notebook) -> None:
    cell = notebook.run("%%sandbox -i plain -i array\nimport sys\n'pandas' in sys.modules")
    assert cell.displays == [{"text/plain": "False"}]


def test_what_is_refused_on_the_way_in(notebook: Notebook) -> None:
    notebook.run("s = {1}; import threading; lock = [threading.Lock()]")
    cell = notebook.run("%%sandbox -i s\nprint('ran')")
    assert "-i s" in cell.error and "make it a sorted list" in cell.error
    assert not cell.stream() and "Traceback" not in cell.error
    assert "lock[0] is a _thread.lock" in notebook.run("%%sandbox -i lock\n1").error
    assert "no such variable" in notebook.run("%%sandbox -i nope\n1").error
    assert notebook.run("%sandbox ls").displays[0]["text/plain"].startswith("no sandboxes")


def test_what_is_refused_on_the_way_out(notebook: Notebook) -> None:
    notebook.run("kept = 'mine'")
    cell = notebook.run("%%sandbox -o fine -o kept\nfine = 1\nkept = {1, 2}\nprint('ran')")
    assert not cell.ok and "kept is a builtins.set" in cell.error and cell.stream() == "ran\n"
    assert notebook.value("(kept, 'fine' in globals())") == "('mine', False)"
    cell = notebook.run("%%sandbox -o nope\n1")
    assert "there is no variable 'nope' in the sandbox" in cell.error
    cell = notebook.run("%%sandbox -o kept\nkept = 1\n1/0")
    assert cell.ename == "ZeroDivisionError" and notebook.value("kept") == "'mine'"


LIARS = {
    "a pickle": "open(f'{folder}/{names[0]}.arrow', 'wb').write(__import__('pickle').dumps([1]))",
    "no json": "open(f'{folder}/{names[0]}.json', 'w').write('[' * 100_000)",
    "a link": "import os; os.symlink('/etc/passwd', f'{folder}/{names[0]}.json')",
    "a pipe": "import os; os.mkfifo(f'{folder}/{names[0]}.json')",
    "nothing": "pass",
    "an escape": "raise ValueError('\\x1b]52;c;eA==\\x07boo')",
}


@pytest.mark.parametrize("what", LIARS)
def test_a_sandbox_that_lies_gives_a_clear_error(notebook: Notebook, what: str) -> None:
    notebook.run("kept = 'mine'")
    cell = notebook.run(
        "%%sandbox -o kept\nimport runpy\ndef lie(folder, names, known, limit):\n"
        "    import shutil\n    shutil.rmtree(folder, ignore_errors=True)\n"
        f"    __import__('os').mkdir(folder)\n    {LIARS[what]}\n"
        "runpy.run_path = lambda path: {'lay': lie, 'clear': lambda folder: None}"
    )
    assert not cell.ok and "-o kept" in cell.error, cell
    assert "\x1b]" not in cell.error and "Traceback" not in cell.error
    assert notebook.value("kept") == "'mine'"


def test_what_came_in_stands_in_the_record_as_it_can_run_again(notebook: Notebook) -> None:
    notebook.run("few = {'a': [1, None]}")
    notebook.run("%%sandbox -i few\nfew")
    kernel = "from lis_kernel.magics.extension import _loaded\n(ours,) = _loaded.values()"
    notebook.run(kernel)
    sources = notebook.value("[cell['source'] for cell in ours.named.get('default').cells]")
    assert sources == repr(["few = {'a': [1, None]}", "few"])


@pytest.mark.parametrize(
    "backend",
    ["bubblewrap", "local", pytest.param("docker", marks=pytest.mark.docker)],
)
def test_with_the_other_backends(notebook: Notebook, backend: str) -> None:
    cell = notebook.run(
        f"%%sandbox -n {backend} -b {backend} -i frame -i big -o back\nback = frame.head(len(big))"
    )
    assert cell.ok, cell.error
    assert notebook.value("back.equals(frame)") == "True"
