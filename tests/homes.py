"""Places of a test's own: for its sandboxes, and for Jupyter. Nothing may be left in the first."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from leftovers import left_within

KEYS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
)


@contextmanager
def runtime_folder(*beside: str, seconds: float = 5) -> Iterator[Path]:
    """A runtime folder, short, for a socket's path has 107 bytes; and no provider's keys.

    At the end no process, sandbox or run's socket may be left within `seconds`. What is called as
    in `beside` is the test's own.
    """
    folder = Path(tempfile.mkdtemp(prefix="lis-t-", dir="/tmp"))
    live = folder.with_name(f"{folder.name}-runs")
    with pytest.MonkeyPatch.context() as patch:
        for name in KEYS:
            patch.delenv(name, raising=False)
        patch.setenv("LIS_RUNTIME_DIR", str(folder))
        yield folder
    left = left_within(seconds, folder)
    entries = [entry.name for entry in folder.iterdir() if entry.name not in beside]
    listening = [entry.name for entry in live.iterdir()] if live.exists() else []
    subprocess.run(["rm", "-rf", folder, live], check=True)  # deeper than Python's own can
    assert not left, f"processes were left: {left}"
    assert not entries, f"sandbox folders were left: {entries}"
    assert not listening, f"sockets of runs were left: {listening}"


@contextmanager
def jupyter_home(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Path]:
    """An empty Jupyter home in `folder`; the place of its kernelspecs.

    At the end no connection file may be left.
    """
    patch.setenv("JUPYTER_NO_CONFIG", "1")
    patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    patch.setenv("JUPYTER_DATA_DIR", str(folder / "data"))
    patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
    patch.setenv("IPYTHONDIR", str(folder / "ipython"))
    yield folder / "jupyter" / "kernels"
    connections = list((folder / "runtime").glob("kernel-*"))
    assert not connections, f"connection files were left: {connections}"
