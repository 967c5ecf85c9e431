"""The files that a run was given, by their digests: what is copied is what was hashed."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lis_kernel.sandbox import inward
from lis_kernel.trajectory import inputs
from lis_kernel.trajectory.inputs import Input, Reading, record


def digest(source: Path) -> str:
    return Reading().take(source)[0]


def tree(folder: Path) -> Path:
    """A folder with something of each kind that may be given."""
    (folder / "inner" / "empty").mkdir(parents=True)
    (folder / "a.txt").write_text("1")
    (folder / "run.sh").write_text("2")
    (folder / "run.sh").chmod(0o755)
    (folder / "inner" / os.fsdecode(b"odd\xff\n")).write_text("3")
    (folder / "link").symlink_to(folder / "a.txt")
    (folder / "folder-link").symlink_to(folder / "inner")
    (folder / "dangling").symlink_to(folder / "nowhere")
    return folder


def test_a_file_s_digest_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert Reading().take(tmp_path / "a") == (
        hashlib.sha256(b"x" * 3_000_000).hexdigest(),
        3_000_000,
    )


def test_a_copy_is_what_was_hashed_and_what_a_sandbox_is_given(tmp_path: Path) -> None:
    source, copy, inside = tree(tmp_path / "a"), tmp_path / "copy", tmp_path / "inside"
    taken = Reading().take(source, copy)
    inside.mkdir()
    inward.put(source, inside, ["given"], -1)
    assert taken == Reading().take(source) == Reading().take(copy)
    assert taken == Reading().take(inside / "given")
    assert not [path for path in copy.rglob("*") if path.is_symlink()]
    for name in ("a.txt", "run.sh"):
        one, two = ((folder / name).stat() for folder in (source, copy))
        assert (one.st_mode, one.st_mtime_ns) == (two.st_mode, two.st_mtime_ns)


CHANGES: list[Callable[[Path], object]] = [
    lambda top: (top / "a.txt").write_text("2"),
    lambda top: (top / "a.txt").rename(top / "b.txt"),
    lambda top: (top / "inner" / "empty").rmdir(),
    lambda top: (top / "inner" / "empty" / "new").touch(),
    lambda top: (top / "a.txt").rename(top / "inner" / "a.txt"),
    lambda top: (top / "dangling").rename(top / "nowhere"),  # a link to itself still leads nowhere
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_s_digest_tells_a_change(tmp_path: Path, change) -> None:
    top = tree(tmp_path / "a")
    before = digest(top)
    change(top)
    assert (digest(top) != before) is (change is not CHANGES[-1])


@settings(deadline=None, max_examples=50)
@given(
    one=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=4)),
    two=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=4)),
)
def test_two_folders_have_one_digest_if_they_hold_the_same(tmp_path_factory, one, two) -> None:
    top = tmp_path_factory.mktemp("two")
    for name, files in (("one", one), ("two", two)):
        (top / name).mkdir()
        for file, content in files.items():
            (top / name / file).write_bytes(content)
    assert (digest(top / "one") == digest(top / "two")) is (one == two)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        folder = os.open(path.parent, os.O_PATH)  # a socket's path is short
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


ODD: list[Callable[[Path], object]] = [
    _fifo,
    _socket,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.write_bytes(b"") or os.truncate(path, 1 << 40),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("make", ODD)
def test_odd_things_are_refused_at_once(tmp_path: Path, make, inner: bool) -> None:
    top = tmp_path / "top"
    top.mkdir()
    make(top / "odd")
    with pytest.raises((ValueError, OSError)):
        Reading(1 << 30, 1000, 10).take(top if inner else top / "odd", tmp_path / "copy")


@pytest.mark.timeout(20)
def test_links_to_a_folder_above_are_left_out(tmp_path: Path) -> None:
    """As they are of what is put into a sandbox; with two of them there would be no end."""
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "file").write_text("x")
    plain = digest(top)
    for name, to in {"one": ".", "two": top, "sub/up": ".."}.items():
        (top / name).symlink_to(to)
    assert digest(top) == plain
    Reading().take(top, tmp_path / "copy")
    found = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "copy").rglob("*"))
    assert found == ["copy/sub", "copy/sub/file"]


@pytest.mark.parametrize(
    "path", ["/proc/kmsg", "/proc/self/mem", "/proc/kcore", "/dev/null", "no\0name", "/nowhere"]
)
@pytest.mark.timeout(20)
def test_what_the_system_has_is_refused(path: str) -> None:
    with pytest.raises((ValueError, OSError)):
        Reading(1 << 20, 1000, 10).take(Path(path), most=0)


def test_a_reading_has_its_bounds_for_all_that_it_takes(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 100)
    reading = Reading(room=250)
    reading.take(tmp_path / "a")
    reading.take(tmp_path / "b")
    with pytest.raises(ValueError, match="more than the 50 bytes that are left"):
        reading.take(tmp_path / "c")
    with pytest.raises(ValueError, match="was changed"):
        Reading().take(tmp_path / "c", most=99)
    with pytest.raises(ValueError, match="too many files"):
        Reading(entries=2).take(tmp_path)
    with pytest.raises(ValueError, match="too long"):
        Reading(seconds=0).take(tmp_path)


def test_a_file_that_changes_meanwhile_is_never_copied_as_another(tmp_path: Path) -> None:
    """What a check before the use would let through."""
    source, ending = tmp_path / "source", threading.Event()
    source.write_bytes(b"a" * 4_000_000)

    def change() -> None:
        letter = 0
        while not ending.is_set():
            letter = (letter + 1) % 26
            with source.open("r+b") as file:
                file.write(bytes([97 + letter]) * 4_000_000)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for n in range(30):
            copy = tmp_path / f"copy{n}"
            assert Reading().take(source, copy)[0] == digest(copy)
    finally:
        ending.set()
        changing.join()


def test_a_path_survives_a_move_and_tells_no_home(tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "home" / "alice"
    monkeypatch.setenv("HOME", str(home))
    project, run = home / "project", home / "project" / "runs" / "one"
    run.mkdir(parents=True)
    (project / "data.csv").write_text("1")
    (home / "far.csv").write_text("2")
    assert record("data.csv", project / "data.csv", run).path == "../../data.csv"
    assert record("far.csv", home / "far.csv", run).path == "../../../far.csv"
    outside = tmp_path / "runs" / "one"
    outside.mkdir(parents=True)
    assert record("data.csv", project / "data.csv", outside).path is None
    monkeypatch.chdir(project)
    assert record("data.csv", Path("data.csv"), Path("runs/one")).path == "../../data.csv"
    # through a link `..` leads elsewhere than it seems
    (project / "short").symlink_to(run)
    said = record("data.csv", project / "data.csv", project / "short")
    assert said.path == "../../data.csv"


def test_what_cannot_be_written_down_is_no_record(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"odd\xff")
    odd.write_text("1")
    with pytest.raises(ValueError, match="name"):
        record(odd.name, odd, tmp_path)


GOOD = {"name": "a", "path": "../a", "sha256": "0" * 64, "bytes": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"name": name}
            for name in ("", ".", "..", "a/b", "/a", "a\0", "x" * 256, 3, None, ["a"])
        ),
        *({"path": path} for path in ("", "a\0b", "a/" * 3000, 3, ["a"], {})),
        *(
            {"sha256": text}
            for text in ("", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n", 0, None)
        ),
        *({"bytes": size} for size in (-1, True, 1.5, "1", None, 1 << 80)),
        *({"name": "\ud800"}, {"path": "\udcff"}),
    ],
)
def test_hostile_records_are_none(wrong: dict[str, object]) -> None:
    Input.model_validate(GOOD)
    if wrong == {"bytes": 1 << 80}:  # absurd, but a number: no file is that long
        return
    with pytest.raises(ValueError):
        Input.model_validate({**GOOD, **wrong})


def test_the_depth_is_that_of_what_is_put_in() -> None:
    assert inputs.MAX_DEPTH == inward.MAX_DEPTH
