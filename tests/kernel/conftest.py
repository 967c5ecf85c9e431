"""A Jupyter home of a test's own: kernelspecs, connection files and sandboxes, nothing else.

`jupyter` also sees to it that nothing is left behind: no process, socket, folder or file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from homes import jupyter_home, runtime_folder

from lis_kernel.kernel import kernelspec

Install = Callable[..., str]


@pytest.fixture
def runtime() -> Iterator[Path]:
    with runtime_folder() as folder:
        yield folder


@pytest.fixture
def jupyter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Path) -> Iterator[Install]:
    """Installs a kernelspec in an empty Jupyter home; called with its name and settings."""
    if not entry_points(group="jupyter_client.kernel_provisioners", name=kernelspec.PROVISIONER):
        pytest.fail("lis-provisioner is not registered: run `pip install -e .` again")
    with jupyter_home(monkeypatch, tmp_path) as kernels:

        def install(name: str = "lis-python", provisioner: bool = True, **words: object) -> str:
            spec = kernelspec.describe(words, python=sys.executable, provisioner=provisioner)
            kernelspec.write(kernels / name, spec)
            return name

        yield install
