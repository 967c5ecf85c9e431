"""Every test of the loop has a runtime folder of its own, and leaves nothing in it or behind it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from story import gone_within

from lis_kernel.models import base

KEYS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
)


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of this test's sandboxes. Short: a socket's path has 107 bytes."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(base, "RETRY_SECONDS", 0.01)
    folder = Path(tempfile.mkdtemp(prefix="lis-t-", dir="/tmp"))
    monkeypatch.setenv("LIS_RUNTIME_DIR", str(folder))
    yield folder
    left = gone_within(5, folder.name)
    entries = [entry.name for entry in folder.iterdir()]
    subprocess.run(["rm", "-rf", folder], check=True)  # deeper than Python's own can
    assert not left, f"processes were left: {left}"
    assert not entries, f"sandbox folders were left: {entries}"
