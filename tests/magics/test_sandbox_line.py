"""`%sandbox`: list, stop, restart, files in and out, limits, install."""

from __future__ import annotations

import os
import re
import zipfile

import pytest
from user_notebook import Notebook

from lis_kernel.magics.named import Named

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]


def text(notebook: Notebook, line: str) -> str:
    cell = notebook.run(line)
    assert cell.ok, cell.error
    return str(cell.displays[0]["text/plain"]) if cell.displays else cell.stream()


def error(notebook: Notebook, line: str) -> str:
    cell = notebook.run(line)
    assert not cell.ok and "Traceback" not in cell.error
    return re.sub(r"\x1b\[[\d;]*m", "", cell.error)


def test_ls_stop_and_restart(notebook: Notebook) -> None:
    (shown,) = notebook.run("%sandbox").displays
    assert "no sandboxes" in shown["text/plain"] and "warn" not in shown["text/html"]
    notebook.run("%%sandbox\nx = 1")
    notebook.run("%%sandbox -n b<b> -b bubblewrap\n1")
    cell = notebook.run("%sandbox ls")
    (shown,) = cell.displays
    lines = shown["text/plain"].splitlines()
    assert [line.split()[:5] for line in lines] == [
        ["name", "state", "backend", "network", "memory"],
        ["default", "ready", "zygote", "none", "2"],
        ["b<b>", "ready", "bubblewrap", "none", "2"],
    ]
    assert "b&lt;b&gt;" in shown["text/html"] and "<table" in shown["text/html"]
    assert text(notebook, "%sandbox restart") == "restarted default: a new kernel, and no files\n"
    assert notebook.run("%%sandbox\n'x' in globals()").displays == [{"text/plain": "False"}]
    assert text(notebook, "%sandbox stop default") == "stopped default\n"
    assert "there is no sandbox 'default'" in error(notebook, "%sandbox stop default")
    assert "which one?" in error(notebook, "%sandbox stop")
    assert text(notebook, "%sandbox stop --all") == "stopped b<b>\n"
    assert "is no order" in error(notebook, "%sandbox dance")


def test_notices_go_to_the_cell_of_their_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where cells of several threads begin and end across each other."""
    named, a, b = Named(), [], []
    of_a, of_b = named.telling("a", a.append), named.telling("b", b.append)
    of_a.__enter__()
    of_b.__enter__()
    named._say("a", "one")
    of_a.__exit__(None, None, None)
    named._say("b", "two")
    named._say("a", "to nobody's cell")
    of_b.__exit__(None, None, None)
    assert (a, b) == (["one"], ["two"]) and capsys.readouterr().out == "to nobody's cell\n"


def test_files_in_and_out(notebook: Notebook) -> None:
    folder = notebook.folder
    (folder / "in").mkdir()
    (folder / "in" / "a b.txt").write_text("inside")
    (folder / "data.csv").write_text("x\n1\n")
    assert text(notebook, "%sandbox put data.csv in") == (
        "data.csv → /testbed/data.csv\nin → /testbed/in\n"
    )
    text(notebook, "%sandbox put 'in/a b.txt' --to deep/er/c.txt")
    listed = text(notebook, "%sandbox files")
    assert {line.split("  ")[0] for line in listed.splitlines()[1:]} >= {
        *("data.csv", "in/a b.txt", "deep/er/c.txt")
    }
    notebook.run(
        "%%sandbox bash\ncat data.csv deep/er/c.txt; mkdir out; echo made > out/m; "
        "ln -s /etc/passwd out/link; echo one > one.txt"
    )
    assert text(notebook, "%sandbox get one.txt") == "/testbed/one.txt → one.txt (4 bytes)\n"
    assert (folder / "one.txt").read_text() == "one\n"
    assert "is there already" in error(notebook, "%sandbox get one.txt")
    notebook.run("%%sandbox bash\necho two > one.txt")
    text(notebook, "%sandbox get one.txt --force")
    assert (folder / "one.txt").read_text() == "two\n"
    took = text(notebook, "%sandbox get out --to taken")
    assert "(1 file)" in took and "not taken: link: a symbolic link" in took, took
    assert [path.name for path in (folder / "taken").iterdir()] == ["m"]
    text(notebook, "%sandbox get one.txt out/m --to taken2/")
    assert {path.name for path in (folder / "taken2").iterdir()} == {"one.txt", "m"}
    assert "no file, and no folder" in error(notebook, "%sandbox get nope")
    assert "does not exist" in error(notebook, "%sandbox put nope")
    assert "is not in a writable folder" in error(notebook, "%sandbox get /etc/passwd")
    assert "is not in a writable folder" in error(notebook, "%sandbox get ../../etc/passwd")
    assert "no sandbox 'nope'" in error(notebook, "%sandbox files -n nope")


def test_a_file_goes_by_the_name_it_was_given(notebook: Notebook) -> None:
    folder = notebook.folder
    (folder / "two.csv").write_text("2")
    (folder / "mine.csv").symlink_to("two.csv")
    text(notebook, "%sandbox put two.csv")
    notebook.run("%%sandbox bash\necho edited > two.csv; mkdir data")
    assert text(notebook, "%sandbox put mine.csv") == "mine.csv → /testbed/mine.csv\n"
    assert notebook.run("%%sandbox bash\ncat two.csv mine.csv").stream() == "edited\n2"
    said = error(notebook, "%sandbox put two.csv --to data")
    assert "/testbed/data is a folder" in said and "/testbed/data/" in said
    text(notebook, "%sandbox get two.csv --to new/")
    assert (folder / "new" / "two.csv").read_text() == "edited\n"
    assert text(notebook, "%sandbox files two.csv") == "/testbed/two.csv is a file"


def test_a_folder_that_is_here_is_replaced_file_by_file(notebook: Notebook) -> None:
    out = notebook.folder / "out"
    notebook.run("%%sandbox bash\nmkdir -p out/deep; echo 1 > out/deep/r; echo 1 > out/q")
    text(notebook, "%sandbox get out")
    (out / "mine").write_text("mine")
    (out / "q").unlink()
    (out / "q").mkdir()
    notebook.run("%%sandbox bash\necho 2 > out/deep/r")
    assert "is there already" in error(notebook, "%sandbox get out")
    took = text(notebook, "%sandbox get out --force")
    assert took == "/testbed/out → out (1 file)\nnot taken: 'q': Is a directory\n"
    assert (out / "deep" / "r").read_text() == "2\n"
    assert sorted(path.name for path in out.iterdir()) == ["deep", "mine", "q"]


def test_what_does_not_fit_leaves_nothing(notebook: Notebook) -> None:
    folder = notebook.folder
    text(notebook, "%sandbox limits --disk 64M")
    (folder / "large").write_bytes(bytes(65 << 20))
    (folder / "fits").write_bytes(bytes(40 << 20))
    said = error(notebook, "%sandbox put large")
    assert "takes 65 MiB" in said and "has 64 MiB" in said and "--disk 130M" in said
    assert text(notebook, "%sandbox put fits")
    assert "No space left" in error(notebook, "%sandbox put fits --to again")
    (folder / "odd").mkdir()
    (folder / "odd" / "a").write_text("a")
    os.mkfifo(folder / "odd" / "b")
    assert "odd/b is neither a file nor a folder" in error(notebook, "%sandbox put odd")
    assert (
        notebook.run("%%sandbox bash\nls; echo > more").stream()
        == "documents\nfits\ninput\noutput\n"
    )


def test_limits_are_set_one_after_the_other(notebook: Notebook) -> None:
    text(notebook, "%sandbox limits m --memory 256M --network allow=files.example")
    shown = text(notebook, "%sandbox limits m --pids 64 -b bubblewrap")
    assert re.search(r"memory_bytes +256 MiB", shown) and re.search(r"pids +64", shown)
    assert notebook.run("%%sandbox -n m\n1").ok
    assert re.search(
        r"m +ready +bubblewrap +allow=files.example +256 MiB", text(notebook, "%sandbox ls")
    )
    assert "one at a time" in error(notebook, "%sandbox limits a -n b --pids 3")


def test_limits(notebook: Notebook) -> None:
    assert "1 GiB" in text(notebook, "%sandbox limits small --memory 1G --cpus 0.5")
    assert "not started" in text(notebook, "%sandbox ls")
    cell = notebook.run("%%sandbox -n small\nprint(open('/proc/meminfo').read()[:8])")
    assert cell.ok
    cell = notebook.run("%sandbox limits small")
    assert re.search(r"memory_bytes +1 GiB", cell.displays[0]["text/plain"])
    assert "small · zygote" in cell.displays[0]["text/html"]
    assert "keeps the limits" in error(notebook, "%sandbox limits small --memory 2G")
    assert "--memory" in error(notebook, "%sandbox limits other --memory many")
    assert "there is no sandbox 'default'" in error(notebook, "%sandbox limits")


def test_install_needs_a_network(notebook: Notebook) -> None:
    said = error(notebook, "%sandbox install six")
    assert "has no network" in said and "--network allow=index" in said


def test_install(notebook: Notebook) -> None:
    name, facts = "small-1.0-py3-none-any.whl", "small-1.0.dist-info"
    with zipfile.ZipFile(notebook.folder / name, "w") as wheel:
        wheel.writestr("small.py", "VERSION = 1")
        wheel.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{facts}/RECORD", "")
    assert notebook.run("%%sandbox --network allow=files.example\n1").ok
    text(notebook, f"%sandbox put {name}")
    cell = notebook.run(f"%sandbox install ./{name}")
    assert cell.ok, cell.error + cell.stream("stderr")
    assert "Successfully installed small" in cell.stream()
    assert notebook.run("%%sandbox\nimport small; small.VERSION").displays == [{"text/plain": "1"}]
    cell = notebook.run("%sandbox install './no-such-file; touch /testbed/hm'")
    assert not cell.ok and "Invalid requirement" in cell.stream("stderr")
    assert "hm" not in text(notebook, "%sandbox files")
