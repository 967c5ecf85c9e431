"""Files put into a folder of hostile code: nothing is written anywhere else, and nothing waits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lis_kernel.errors import SandboxError
from lis_kernel.sandbox.inward import put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    return tmp_path / "root"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "given"
    path.write_text("given")
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_a_file_and_the_folders_above_it(root: Path, given: Path) -> None:
    put(given, root, ["a", "b", "c"], -1)
    made = root / "a" / "b" / "c"
    assert made.read_text() == "given"
    assert made.stat().st_mode & 0o7777 == 0o644
    assert made.stat().st_mtime_ns == 10**18
    given.chmod(0o700)
    put(given, root, ["a", "b", "c"], -1)
    assert made.stat().st_mode & 0o7777 == 0o755


def test_a_folder_keeps_its_modes_but_no_setuid_bit(root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "script").write_text("x")
    (tree / "sub" / "script").chmod(0o6711)
    (tree / "to").symlink_to("sub/script")
    (tree / "nowhere").symlink_to("none")
    (root / "in").mkdir()
    (root / "in" / "mine").touch()
    put(tree, root, ["in"], -1)
    assert (root / "in/sub/script").stat().st_mode & 0o7777 == 0o711
    assert not (root / "in/to").is_symlink()
    assert sorted(os.listdir(root / "in")) == ["mine", "sub", "to"]
    put(tree, root, [], -1)
    assert (root / "to").read_text() == "x"


def test_no_link_is_followed(root: Path, given: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (root / "link").symlink_to(outside)
    with pytest.raises(SandboxError, match="links are not"):
        put(given, root, ["link", "a"], -1)
    with pytest.raises(SandboxError, match="links are not"):
        put(given, root, ["link", "deep", "a"], -1)
    (root / "over").symlink_to(outside / "over")
    put(given, root, ["over"], -1)
    assert (root / "over").read_text() == "given"
    assert not (root / "over").is_symlink()
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "a").touch()
    (root / "tree").mkdir()
    (root / "tree" / "sub").symlink_to(outside)
    with pytest.raises(SandboxError, match="links are not"):
        put(tmp_path / "tree", root, ["tree"], -1)
    assert os.listdir(outside) == []


def test_links_to_a_folder_above_are_left_out(root: Path, tmp_path: Path) -> None:
    """With two of them what is to be copied doubles at each level."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_text("x")
    for name, to in {"current": ".", "sub/up": "..", "sub/latest": ".", "other": "sub"}.items():
        (tree / name).symlink_to(to)
    put(tree, root, ["in"], -1)
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert found == ["in", "in/other", "in/other/file", "in/sub", "in/sub/file"]


def test_what_cannot_be_copied_leaves_nothing(root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").touch()
    os.mkfifo(tree / "b")
    with pytest.raises(SandboxError, match="b is neither a file nor a folder"):
        put(tree, root, ["in"], -1)
    assert os.listdir(root) == []


def test_what_is_in_the_way_is_replaced(root: Path, given: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "pipe")
    put(given, root, ["pipe"], -1)
    assert (root / "pipe").read_text() == "given"
    (root / "one").write_text("mine")
    os.link(root / "one", root / "two")
    put(given, root, ["one"], -1)
    assert (root / "two").read_text() == "mine"
    (root / "file").touch()
    with pytest.raises(SandboxError, match="no folder"):
        put(given, root, ["file", "a"], -1)
    os.mkfifo(tmp_path / "source")
    with pytest.raises(SandboxError, match="neither"):
        put(tmp_path / "source", root, ["a"], -1)


SWAP = """
import os, shutil, sys
os.chdir(sys.argv[1])
while True:
    try:
        os.rename("d", "e")
        os.symlink("../outside", "d")
        os.unlink("d")
        os.rename("e", "d")
    except OSError:  # the host made the folder in between
        shutil.rmtree("e", ignore_errors=True)
        os.makedirs("d", exist_ok=True)
"""


def test_a_race_writes_nothing_outside(root: Path, given: Path, tmp_path: Path) -> None:
    (root / "d").mkdir()
    put_in = refused = 0
    deadline = time.monotonic() + 20
    swap = subprocess.Popen([sys.executable, "-IS", "-c", SWAP, str(root)])
    try:
        while min(put_in, refused) < 50 and time.monotonic() < deadline:
            try:
                put(given, root, ["d", "a"], -1)
                put_in += 1
            except (SandboxError, OSError):
                refused += 1
    finally:
        swap.kill()
        swap.wait()
    assert os.listdir(tmp_path / "outside") == []
    assert min(put_in, refused) >= 50, "both sides were met"
