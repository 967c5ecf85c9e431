"""The fixture `box`: opens a real sandbox with the limits that a test wants."""

from __future__ import annotations

import pytest
from boxes import Box, open_box


@pytest.fixture
def box() -> Box:
    return open_box
