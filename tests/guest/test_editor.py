"""The editor as it runs in the sandbox: its text pasted into a namespace of its own."""

import dis
import os
import stat
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import lis_kernel
from lis_kernel.tools.toolset import toolset

GUEST = Path(lis_kernel.__file__).parent / "guest"
SOURCE = (GUEST / "editor.py").read_text()
TOOL = toolset("notebook")["str_replace_editor"]

in_place = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(
    st.characters(codec="utf-8") | st.sampled_from("\n\r\t ab\udc80\udcff\ufeff\x00"), max_size=40
)


@pytest.fixture
def edit(capsys):
    namespace = {}
    exec(SOURCE, namespace)

    def call(*arguments, **named):
        namespace["str_replace_editor"](*arguments, **named)
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(edit):
    def call(*arguments, **named):
        with pytest.raises(Exception) as caught:
            edit(*arguments, **named)
        assert type(caught.value).__name__ == "EditorError"
        assert caught.value._render_traceback_() == [f"EditorError: {caught.value}"]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return call


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'a file\'s "name".txt'


# -- the pasted text


@pytest.mark.parametrize("name", ["editor", "submit", "shell"])
def test_nothing_depends_on_the_users_namespace(name):
    def code_objects(code):
        yield code
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                yield from code_objects(const)

    (factory,) = (c for c in compile((GUEST / f"{name}.py").read_text(), name, "exec").co_consts
                  if isinstance(c, types.CodeType))  # fmt: skip
    for code in code_objects(factory):
        loads = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        if code is factory:  # runs in the setup cell itself
            loads.discard("get_ipython")
        assert not loads, f"{code.co_name} looks up {loads}"


def test_in_a_notebook(tmp_path, capsys):
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell(config=config)
    before = set(shell.user_ns)
    assert shell.run_cell(SOURCE, store_history=True).success
    new = set(shell.user_ns) - before
    assert {name for name in new if not name.startswith("_")} == {"str_replace_editor"}
    assert "_make_editor" not in new
    shell.run_cell("os = stat = open = print = len = 5", store_history=True)
    capsys.readouterr()

    path = tmp_path / "x.py"
    text = '"""Doc."""\n>>> prompt\n    \n%cd /\n!ls\nx?\n'
    cell = TOOL.to_cell({"command": "create", "path": str(path), "file_text": text})
    assert shell.run_cell(cell, store_history=True).success
    assert capsys.readouterr().out == f"created {path} (6 lines)\n"
    assert path.read_text() == text

    cell = TOOL.to_cell({"command": "view", "path": str(tmp_path / "no.py")})
    assert not shell.run_cell(cell, store_history=True).success
    shown = capsys.readouterr()
    assert shown.out + shown.err == f"EditorError: there is no file {tmp_path}/no.py\n"


# -- create


@in_place
@given(texts)
def test_a_created_file_holds_exactly_the_text(edit, file, text):
    edit("create", str(file), file_text=text)
    assert file.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_create(edit, refused, tmp_path, monkeypatch):
    path = tmp_path / "new dir" / "x\ny"
    assert edit("create", str(path), file_text="a\nb") == f"created {str(path)!r} (2 lines)\n"
    assert "replaced the existing file" in edit("create", str(path), file_text="c")
    assert path.read_text() == "c"
    monkeypatch.chdir(tmp_path)
    assert edit("create", "rel.txt", file_text="") == f"created {tmp_path}/rel.txt (0 lines)\n"
    assert "is a folder" in refused("create", str(tmp_path), file_text="")
    assert "needs file_text" in refused("create", str(path))
    assert "U+D800 at character 1" in refused("create", str(path), file_text="a\ud800")
    says = refused("create", f"{tmp_path}/rel.txt/x", file_text="")
    assert says == f"cannot create {tmp_path}/rel.txt/x: File exists ({tmp_path}/rel.txt)"
    assert "null" in refused("create", "a\0b", file_text="")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused("create", str(tmp_path / "pipe"), file_text="")
    assert path.read_text() == "c"


def test_mode_links_and_temporary_files(edit, tmp_path):
    target, link, hard = tmp_path / "t.sh", tmp_path / "link", tmp_path / "hard"
    target.write_text("a\n")
    target.chmod(0o750)
    link.symlink_to(target)
    edit("str_replace", str(link), old_str="a", new_str="b")
    assert link.is_symlink() and target.read_text() == "b\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    hard.hardlink_to(target)
    edit("str_replace", str(target), old_str="b", new_str="c")
    assert hard.read_text() == "c\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hard", "link", "t.sh"]


# -- str_replace


@in_place
@given(texts, texts, texts, texts)
@example("a\r\n", "b", "c\n", "\td")
def test_a_replacement_changes_nothing_else(edit, file, before, old, new, after):
    text = before + old + after
    starts = [n for n in range(len(text)) if text.startswith(old, n)]
    if not old or len(starts) != 1 or old == new:
        return
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    edit("str_replace", str(file), old_str=old, new_str=new)
    assert file.read_bytes() == (before + new + after).encode("utf-8", "surrogateescape")


def test_str_replace(edit, refused, file):
    file.write_text("".join(f"line {n}\n" for n in range(1, 21)))
    assert edit("str_replace", str(file), old_str="line 10\n", new_str="ten\n") == (
        f"edited {file}\n"
        "     6\tline 6\n     7\tline 7\n     8\tline 8\n     9\tline 9\n    10\tten\n"
        "    11\tline 11\n    12\tline 12\n    13\tline 13\n    14\tline 14\n"
    )
    edit("str_replace", str(file), old_str="ten\n")
    assert file.read_text().count("\n") == 19
    assert "once in" in refused("str_replace", str(file), old_str="line 1", new_str="")
    assert "at lines 1, 10, 11" in refused("str_replace", str(file), old_str="line 1", new_str="")
    assert "9, 10, ...; add" in refused("str_replace", str(file), old_str="line", new_str="")
    assert "needs old_str" in refused("str_replace", str(file), old_str="", new_str="x")
    assert "the same" in refused("str_replace", str(file), old_str="line 2\n", new_str="line 2\n")
    assert "no file" in refused("str_replace", f"{file}.no", old_str="a", new_str="x")
    file.write_text("aaa")
    assert "at lines 1, 1;" in refused("str_replace", str(file), old_str="aa", new_str="b")


def test_the_nearest_place_is_named(refused, file):
    file.write_text("x\nif a:\n\treturn 1\n")
    says = refused("str_replace", str(file), old_str="if  a:\n    return 1", new_str="")
    assert "Its first line is at line 2 with other whitespace" in says
    says = refused("str_replace", str(file), old_str="if a:\n    return 1", new_str="")
    assert "Its first line is at line 2;" in says
    assert "Not even" in refused("str_replace", str(file), old_str="while", new_str="")


def test_crlf(edit, file):
    file.write_bytes(b"a\r\nb\r\nc\r\n")
    said = edit("str_replace", str(file), old_str="a\nb\n", new_str="a\nB\nB2\n")
    assert "the new text was written so too" in said
    assert file.read_bytes() == b"a\r\nB\r\nB2\r\nc\r\n"
    assert "those of the new text in LF" in edit("insert", str(file), insert_line=0, new_str="x\n")
    assert file.read_bytes() == b"x\na\r\nB\r\nB2\r\nc\r\n"
    file.write_bytes(b"a\r\nb\r\n")
    edit("insert", str(file), insert_line=2, new_str="c")
    assert file.read_bytes() == b"a\r\nb\r\nc\r\n"
    assert edit("view", str(file)).startswith(f"{file} (3 lines, ended by CRLF)\n     1\ta\n")


# -- insert


@pytest.mark.parametrize(
    ("text", "line", "new", "gives"),
    [
        ("a\nb\n", 0, "x\n", "x\na\nb\n"),
        ("a\nb\n", 1, "x", "a\nx\nb\n"),
        ("a\nb\n", 2, "x", "a\nb\nx\n"),
        ("a\nb", 2, "x", "a\nb\nx"),
        ("a\nb", 2, "x\n", "a\nb\nx\n"),
        ("a\nb", 1, "x", "a\nx\nb"),
        ("a\nb\n", 1, "", "a\n\nb\n"),
        ("", 0, "x", "x"),
        ("\n", 1, "x\ny\n", "\nx\ny\n"),
    ],
)
def test_insert(edit, file, text, line, new, gives):
    file.write_text(text)
    edit("insert", str(file), insert_line=line, new_str=new)
    assert file.read_text() == gives


def test_wrong_inserts(refused, file):
    file.write_text("a\nb\n")
    assert "from 0 to 2" in refused("insert", str(file), insert_line=3, new_str="x")
    assert "from 0 to 2" in refused("insert", str(file), insert_line=-1, new_str="x")
    assert "needs insert_line" in refused("insert", str(file), new_str="x")
    assert "no file" in refused("insert", f"{file}.no", insert_line=0, new_str="x")
    assert "command must be" in refused("undo_edit", str(file))


# -- view


def test_view(edit, refused, file):
    file.write_bytes(b"one\n\ttwo\n\xff three")
    assert edit("view", str(file)) == (
        f"{file} (3 lines, no newline at the end)\n"
        "     1\tone\n     2\t\ttwo\n     3\t\ufffd three\n"
    )
    assert edit("view", str(file), view_range=[2, 2]) == f"{file} (3 lines)\n     2\t\ttwo\n"
    assert edit("view", str(file), view_range=[2, -1]).count("\n") == 3
    assert edit("view", str(file), view_range=[1, 99]).count("\n") == 4
    for wrong in ([0, 1], [3, 2], [2, -2]):
        assert "is wrong" in refused("view", str(file), view_range=wrong)
    for wrong in ([1], "12", [1, "2"], [True, 2]):
        assert "two integers" in refused("view", str(file), view_range=wrong)
    assert "past the end, after 3 lines" in refused("view", str(file), view_range=[4, 5])
    file.write_bytes(b"")
    assert edit("view", str(file)) == f"{file} is empty\n"
    file.write_bytes(b"PK\0\1")
    assert "is binary" in refused("view", str(file))


@in_place
@given(st.lists(st.integers(0, 300), max_size=120), st.integers(1, 130))
def test_a_view_says_what_it_leaves_out(edit, file, widths, start):
    lines = [f"{n}{'é' * width}" for n, width in enumerate(widths, 1)]
    file.write_text("\n".join(lines))
    if start > len(lines):
        return
    shown = edit("view", str(file), view_range=[start, -1])
    _, *body = shown.splitlines()
    clipped = body[-1].startswith("[clipped")
    body = [line.partition("\t")[2] for line in body[: len(body) - clipped]]
    assert lines[start - 1 :][: len(body)] == body
    assert clipped == (len(body) < len(lines) - start + 1)
    assert not clipped or f"view_range=[{start + len(body)}, -1]" in shown
    assert len(shown) < 10_000 + len(str(file)) + 250


def test_view_of_long_lines_and_large_files(edit, file):
    file.write_text("x" * 50_000 + "\nsecond\n")
    shown = edit("view", str(file))
    assert len(shown) < 10_400 and "clipped after line 1" in shown and "view_range=[2, -1]" in shown
    assert edit("view", str(file), view_range=[2, 2]).endswith("     2\tsecond\n")
    with open(file, "wb") as out:
        out.write(b"first\n")
        out.truncate(11_000_000)
        out.seek(0, 2)
        out.write(b"\nlast\n")
    assert (
        edit("view", str(file), view_range=[1, 1]) == f"{file} (11,000,006 bytes)\n     1\tfirst\n"
    )
    assert edit("view", str(file), view_range=[3, 3]).endswith("     3\tlast\n")


def test_view_of_a_folder(edit, refused, tmp_path):
    for name in ("b/c/deep.txt", "b/x.txt", "a.txt", ".hidden/x", "b/.git/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert edit("view", str(tmp_path)) == (
        f"{tmp_path} (two levels, hidden entries left out)\na.txt\nb/\nb/c/\nb/x.txt\nloop/\n"
    )
    assert edit("view", str(tmp_path / "b/c")).endswith("\ndeep.txt\n")
    for n in range(210):
        (tmp_path / f"z{n}").write_text("")
    assert edit("view", str(tmp_path)).endswith("[... 15 more]\n")
