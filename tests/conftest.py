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


ENGINES = ("docker", "crun", "podman")
MACHINE = ("attacks", "performance", "sandbox")
"""Folders of tests that no others may run beside."""

NEEDS: dict[str, Callable[[], str]] = {
    "bwrap": no_bwrap,
    "localmodel": no_weights,
    "docker": engines.no_docker,
    "crun": engines.no_crun,
    "podman": engines.no_podman,
    "lab": engines.no_lab,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `pytest -n 2 --dist loadgroup`: a file's tests are one worker's.

    And so are all those that start engines or count what the whole machine has; they begin first.
    """
    for item in items:
        alone = item.path.parent.name in MACHINE or any(map(item.get_closest_marker, ENGINES))
        item.add_marker(pytest.mark.xdist_group("machine" if alone else item.path.name))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("machine",))


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
