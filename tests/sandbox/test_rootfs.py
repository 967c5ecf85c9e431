"""A root of the user's own: a real Debian tree, its Python or ours; and trees that are refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import engines
import pytest
from boxes import shown
from typer.testing import CliRunner

from lis_kernel.cli import app
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox import image, rootfs, rootfs_python
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.sandbox.local import LocalSandbox

# -- a real tree -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The base of the container tests, unpacked where only we may look."""
    archive = engines.CACHE / f"{engines.BASE.replace(':', '-')}.tar"
    if not archive.exists():
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            pytest.skip("a tree takes root and debootstrap")
        archive = engines._base()
    root = tmp_path_factory.mktemp("root") / "debian"
    root.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", root, "--exclude=./dev/*"], check=True)
    (root / "home" / "theirs").mkdir()
    (root / "opt" / "tool").mkdir()
    (root / "opt" / "tool" / "file").write_text("tool")
    yield root
    store = rootfs.prepare(root).store
    shutil.rmtree(store)
    store.with_suffix(".lock").unlink()


async def run(root: Path, *cells: str) -> tuple[list[str], dict[str, object]]:
    """What the cells print in a sandbox on `root`, and what it says of itself."""
    limits = Limits(cell_seconds=60)
    sandbox = BubblewrapSandbox(SandboxConfig(rootfs=root), limits)
    session = KernelSession(sandbox, limits, "pass")
    try:
        await sandbox.start()
        await session.start()
        return [shown(await session.execute(cell)) for cell in cells], dict(sandbox.describe())
    finally:
        await session.close()
        await sandbox.stop()


LOOK = """
import os, subprocess
print(open("/etc/debian_version").read().strip(), os.path.exists("/home/theirs"),
      open("/opt/tool/file").read(), os.getuid(), subprocess.getoutput("whoami; git --version"))
for place in "/ /usr /etc /var /opt /opt/tool /opt/lis /srv /home /var/tmp /tmp /testbed".split():
    try:
        open(place + "/x", "w").close()
        print(place, end=" ")
    except OSError as error:
        assert error.errno in (13, 30), error
"""
LOOK_MORE = """
import os, sys, numpy, pandas, matplotlib.pyplot, ssl, ctypes
print(sys.prefix, open("/etc/hosts").read().split()[0])
print(os.path.exists("/root"), open("/etc/passwd").read().count("\\nuser:"))
import subprocess
print(subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode)
"""


@pytest.mark.bwrap
async def test_our_python_runs_on_it(debian: Path) -> None:
    before = rootfs._digest(debian)
    (first, second), facts = await run(debian, LOOK, LOOK_MORE)
    assert first.startswith("12.")
    assert "True tool 1000 user\ngit version 2." in first
    assert first.split()[-3:] == ["/var/tmp", "/tmp", "/testbed"]
    assert second.split("\n")[0].endswith("127.0.0.1")
    assert second.split("\n")[1:] == ["False 1", "0"]
    ours = image.find()
    assert ours is not None
    assert facts["image"] == ours.digest
    tree = facts["rootfs"]
    assert isinstance(tree, dict)
    assert tree["digest"] == before == rootfs._digest(debian)  # nothing was written to it
    assert tree["system"].startswith("Debian GNU/Linux 12")
    assert any(name.startswith("git=1:2.39") for name in tree["packages"])
    assert len(tree["packages"]) > 80


@pytest.mark.bwrap
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_where_ours_does_not_run_its_own_python_gets_the_packages(
    debian: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = image.find()
    assert ours is not None
    store = rootfs.prepare(debian).store
    for chosen in store.glob("image-*"):
        chosen.unlink()
    # an interpreter that is not there: the jail's start fails for real
    monkeypatch.setattr(image, "find", lambda: replace(ours, base=tmp_path))
    try:
        (first, second), facts = await run(debian, LOOK, LOOK_MORE)
        version = (debian / "usr/bin/python3").readlink().name.removeprefix("python")
        assert first.startswith("12.")
        assert second.split("\n")[1:] == ["False 1", "0"]
        assert str(facts["python"]).startswith(f"{version}.")
        assert facts["image"] != ours.digest
        assert len(facts["packages"]) == len(image.pins())  # type: ignore[arg-type]
        built = image.load(ours.root.parent / (next(store.glob("image-*")).read_text()), None)
        assert built is not None
        compiled = len(list(built.root.rglob("*.pyc")))
        assert compiled > 0.95 * len(list(built.root.rglob("site-packages/**/*.py")))
        words = ["image", "show", "--rootfs", str(debian), "--json"]
        said = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert built.digest in said.output
    finally:
        for chosen in store.glob("image-*"):
            chosen.unlink()


@pytest.mark.bwrap
async def test_without_any_python_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = image.find()
    assert ours is not None
    monkeypatch.setattr(image, "find", lambda: replace(ours, base=tmp_path))
    with pytest.raises(
        ConfigError, match=r"rootfs: the sandbox's Python does not run on .*Install"
    ):
        await run(small(tmp_path), "pass")


# -- trees that nothing is run in ----------------------------------------------------------------


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Small trees leave nothing in the user's data folder, but see the image there."""
    if "debian" not in request.fixturenames:
        built = image.place()
        images = tmp_path / "data" / "images"
        images.mkdir(parents=True)
        (images / built.name).symlink_to(built)
        monkeypatch.setenv("LIS_DATA_DIR", str(tmp_path / "data"))


def small(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("usr/bin", "usr/lib", "etc/sub", "etc/closed", "opt/lis", "opt/own", "home/user"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/bash").write_text("#!")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:5:5::/:\nwho:x:1000:9::/:\n")
    (root / "etc/sub/f").write_text("f")
    (root / "etc/shadow").write_text("secret")
    (root / "etc/shadow").chmod(0o640)
    (root / "etc/closed/f").write_text("f")
    (root / "etc/closed").chmod(0o700)
    (root / "usr/lib/os-release").write_text('NAME=x\nPRETTY_NAME="A Small One"\n')
    return root


def test_what_is_made_of_a_tree(tmp_path: Path) -> None:
    root = small(tmp_path)
    tree = rootfs.prepare(root)
    assert (tree.system, tree.packages) == ("A Small One", ())
    names = {str(path.relative_to(tree.etc)) for path in tree.etc.rglob("*")}
    assert names == {"passwd", "group", "sub", "sub/f", *rootfs.OF_OURS}
    assert (tree.etc / "passwd").read_text().splitlines() == [
        "root:x:0:0::/:/bin/sh",
        "user:x:1000:1000:user:/home/user:/bin/bash",
    ]
    argv = tree.binds(Path("/T"), Path("/E"))
    assert argv == [
        *("--symlink", "usr/bin", "/bin", "--ro-bind", "/T/opt/own", "/opt/own"),
        *("--ro-bind", "/T/usr", "/usr", "--ro-bind", "/E", "/etc"),
    ]
    assert rootfs.prepare(root) == tree
    (root / "etc/sub/f").write_text("deep in the tree")
    assert rootfs.prepare(root) == tree
    changed = rootfs.prepare(root, again=True)
    assert changed.digest != tree.digest
    assert (changed.etc / "sub/f").read_text() == "deep in the tree"
    assert (tree.etc / "sub/f").read_text() == "f"  # a sandbox may be using it
    (root / "usr/bin/new").write_text("x")
    assert rootfs.prepare(root).digest != changed.digest


def test_no_symlink_of_a_tree_leads_to_the_host(tmp_path: Path) -> None:
    root, secret = small(tmp_path), tmp_path / "secret"
    secret.write_text("PRETTY_NAME=host\n\nPackage: host\nVersion: 1\n")
    (root / "usr/lib/os-release").unlink()
    (root / "usr/lib/os-release").symlink_to(secret)
    (root / "var/lib").mkdir(parents=True)
    (root / "var/lib/dpkg").symlink_to(tmp_path)
    (tmp_path / "status").symlink_to(secret)
    for name in ("passwd", "hosts", "link"):
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).symlink_to(secret)
    os.mkfifo(root / "etc/fifo")
    tree = rootfs.prepare(root)
    assert (tree.system, tree.packages) == ("unknown", ())
    assert (tree.etc / "passwd").read_text().splitlines() == [
        "user:x:1000:1000:user:/home/user:/bin/bash"
    ]
    assert not (tree.etc / "hosts").is_symlink()
    assert (tree.etc / "link").readlink() == secret  # as it is; there it leads nowhere
    assert not (tree.etc / "fifo").exists()
    assert secret.read_text().startswith("PRETTY_NAME=host")
    assert rootfs.find_inside(root, "/etc/link") is None
    (root / "up").symlink_to("../../../../usr/bin/bash")
    assert rootfs.find_inside(root, "/up") == root / "usr/bin/bash"
    (root / "round").symlink_to("round")
    assert rootfs.find_inside(root, "/round") is None


def test_an_etc_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    root = small(tmp_path)
    shutil.rmtree(root / "etc")
    (root / "etc").symlink_to("/etc")
    tree = rootfs.prepare(root)
    assert {path.name for path in tree.etc.iterdir()} == {"passwd", "group", *rootfs.OF_OURS}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing", "is not a folder.*debootstrap"),
        ("file", "is not a folder"),
        ("empty", "has no /bin/bash"),
        ("/", "this host's own root"),
    ],
)
def test_refused(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"rootfs: .*{said}"):
        rootfs.prepare(tmp_path / place)


def test_a_backend_without_namespaces_refuses_it(tmp_path: Path) -> None:
    config = SandboxConfig(backend="local", rootfs=small(tmp_path))
    with pytest.raises(ConfigError, match="rootfs: the backend local does not have it"):
        LocalSandbox(config, Limits())


def test_which_wheels_a_tree_takes(tmp_path: Path) -> None:
    root = small(tmp_path)
    assert rootfs_python.find_python(root) is None
    interpreter = Path(os.path.realpath(shutil.which("bash") or "/bin/bash"))  # a native program
    for minor in (9, 12, 14):
        shutil.copy(interpreter, root / f"usr/bin/python3.{minor}")
    (root / "usr/bin/python3.15").write_text("no program")
    found = rootfs_python.find_python(root)
    assert found is not None
    assert (found.path, found.minor) == ("/usr/bin/python3.14", 14)
    assert found.platforms[0].startswith("musllinux_1_2_")
    (root / "lib64").mkdir()
    (root / "lib64/libc.so.6").write_bytes(b"\0GNU C Library stable release version 2.28.\0")
    found = rootfs_python.find_python(root)
    assert found is not None
    assert found.platforms[0].startswith("manylinux_2_28_")
    assert any(name.startswith("manylinux2014_") for name in found.platforms)
