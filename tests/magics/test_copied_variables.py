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


BASH_IN = """%%sandbox bash -i word,n,path -o word,made,PWD
printf '[%s]' "$word" "$n" "$path"; python3 -c 'import os; print(os.environ["word"])'
made=$(printf 'a  b\\nc\\n\\n'; echo x); set -eu -o noclobber"""


def test_bash_has_text_and_numbers_and_gives_text(notebook: Notebook) -> None:
    notebook.run("from pathlib import Path\nword, n, path = \"it's $x `y`\", 2.5, Path('a b')")
    for _ in range(2):
        cell = notebook.run(BASH_IN)
        assert cell.ok, cell.error
        assert cell.stream() == "[it's $x `y`][2.5][a b]it's $x `y`\n"
        assert notebook.value("(made, PWD)") == repr(("a  b\nc\n\nx", "/testbed"))
    assert notebook.run("%%sandbox\n'word' in globals()").displays == [{"text/plain": "False"}]
    listed = notebook.run("%%sandbox bash\nls -A /tmp/.lis-values 2>&1 || true")
    assert "out" not in listed.stream().split()
    notebook.run("few, long = [1], 'x' * 100_001")
    for option, said in {
        "-i few": "is text or a number, and this is a list",
        "-i long": "at most 100,000 characters",
        "-i nope": "no such variable in this notebook",
        "-o nope": "shell has no such variable",
    }.items():
        assert said in notebook.run(f"%%sandbox bash {option}\ntrue").error, option


def test_what_to_do_instead_is_said_of_the_part(notebook: Notebook) -> None:
    notebook.run("from collections import Counter, namedtuple; import datetime")
    for value, said in {
        "{'a': frame}": "copy it by itself",
        "[frame['n']]": "copy it by itself",
        "{'mean': np.float64(1.5)}": "make it Python's own (.item())",
        "[array]": "make it a list (.tolist()), or copy it by itself",
        "[pd.Timestamp('2026-01-01')]": ".isoformat()",
        "[datetime.timedelta(1)]": ".total_seconds()",
        "Counter('abc')": "make it a plain dict",
        "[namedtuple('P', 'x')(1)]": "make it a list",
        "range(3)": "make it a list",
    }.items():
        notebook.run(f"odd_one = {value}")
        cell = notebook.run("%%sandbox -i odd_one\n1")
        assert said in cell.error and not cell.ok, (value, cell.error)


def test_an_index_of_business_days_with_holidays_comes_without_its_frequency(
    notebook: Notebook,
) -> None:
    notebook.run(
        "days = pd.bdate_range('2024-01-01', periods=5, freq='C', holidays=['2024-01-03'])"
    )
    notebook.run("days = pd.Series(1, index=days)")
    cell = notebook.run("%%sandbox -i days -o back\nback = days")
    assert cell.ok, cell.error
    assert notebook.value("back.equals(days) and back.index.freq is None") == "True"


def test_names_that_the_sandbox_has_taken_are_in_nobodys_way(notebook: Notebook) -> None:
    cell = notebook.run("%%sandbox -i plain -o back\nglobals = len = open = 3\nback = plain")
    assert cell.ok and notebook.value("back == plain") == "True"
    assert notebook.run("%%sandbox bash\necho hi").stream() == "hi\n"


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
