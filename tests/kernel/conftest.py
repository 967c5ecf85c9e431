"""A Jupyter home of a test's own: kernelspecs, connection files and sandboxes, nothing else.

`jupyter` also sees to it that nothing is left behind: no process, socket, folder or file.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from leftovers import left_within

from lis_kernel.kernel import kernelspec

Install = Callable[..., str]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of this test's sandboxes. Short: a socket's path has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="lis-k-", dir="/tmp"))
    monkeypatch.setenv("LIS_RUNTIME_DIR", str(folder))
    yield folder
    left = left_within(5, folder)
    entries = [entry.name for entry in folder.iterdir()]
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"processes were left: {left}"
    assert not entries, f"sandbox folders were left: {entries}"


@pytest.fixture
def jupyter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Path) -> Iterator[Install]:
    """Installs a kernelspec in an empty Jupyter home; called with its name and settings."""
    if not entry_points(group="jupyter_client.kernel_provisioners", name=kernelspec.PROVISIONER):
        pytest.fail("lis-provisioner is not registered: run `pip install -e .` again")
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def install(name: str = "lis-python", provisioner: bool = True, **words: object) -> str:
        spec = kernelspec.describe(words, python=sys.executable, provisioner=provisioner)
        kernelspec.write(tmp_path / "jupyter" / "kernels" / name, spec)
        return name

    yield install
    connections = list((tmp_path / "runtime").glob("kernel-*"))
    assert not connections, f"connection files were left: {connections}"
