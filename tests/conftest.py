"""What a test needs of the machine, said by its markers.

Tests marked `bwrap`, `localmodel`, `docker`, `crun`, `podman` or `lab` look for their need first.
Where it is missing they are skipped with the reason on a user's machine, and fail under `CI=true`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import engines
import pytest
from zygotes import end_wardens

from lis_kernel.errors import SandboxUnavailable
from lis_kernel.models import weights
from lis_kernel.sandbox import bubblewrap, image, image_build

# one zygote for all tests, however many runtime folders they have
ZYGOTES = Path("/tmp") / f"lis-zygotes-{os.getpid()}"
os.environ["LIS_ZYGOTE_DIR"] = str(ZYGOTES)
os.environ.setdefault("LIS_ZYGOTE_SECONDS", "30")
WEIGHTS = weights.local_path(weights.find(weights.DEFAULT))  # before a test moves HOME


@cache
def no_bwrap() -> str:
    """Why there is no bubblewrap sandbox here, or nothing. Builds the image the first time."""
    try:
        bubblewrap.check()
        image_build.build()
    except SandboxUnavailable as error:
        return str(error)
    return ""


@cache
def no_weights() -> str:
    """Why the local model cannot run here, or nothing. Does not fetch its 1 GB."""
    return "" if WEIGHTS else f"the weights are missing: run `lis model pull {weights.DEFAULT}`"


NEEDS: dict[str, Callable[[], str]] = {
    "bwrap": no_bwrap,
    "localmodel": no_weights,
    "docker": engines.no_docker,
    "crun": engines.no_crun,
    "podman": engines.no_podman,
    "lab": engines.no_lab,
}


def pytest_sessionfinish() -> None:
    end_wardens(ZYGOTES)
    shutil.rmtree(ZYGOTES, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in NEEDS.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must have what {marker} tests need: {reason}", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session")
def sandbox_image() -> image.Image:
    """The built image of the bubblewrap sandbox; for tests with the marker `bwrap`."""
    return image_build.build()
