"""Every test of the loop has a runtime folder of its own, and leaves nothing in it or behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import runtime_folder

from lis_kernel.models import base


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(base, "RETRY_SECONDS", 0.01)
    with runtime_folder() as folder:
        yield folder
