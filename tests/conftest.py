"""What a test needs of the machine, said by its markers.

Tests marked `bwrap`, `localmodel`, `docker`, `crun`, `podman` or `lab` look for their need first.
Where it is missing they are skipped with the reason on a user's machine, and fail under `CI=true`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
"""Folders of tests that do not run beside each other."""

MODULES = ("jupyter_console", "jupyter_server", "jupyterlab", "numpy", "playwright", "xllamacpp")
"""Without them tests are skipped, but not where `CI=true`."""

NEEDS: dict[str, Callable[[], str]] = {
    "bwrap": no_bwrap,
    "localmodel": no_weights,
    "docker": engines.no_docker,
    "crun": engines.no_crun,
    "podman": engines.no_podman,
    "lab": engines.no_lab,
}


def pytest_configure() -> None:
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing and os.environ.get("CI") == "true":
        raise pytest.UsageError(f"CI must have what tests need: {', '.join(missing)}")


def part_of(nodeid: str) -> str:
    """Which tests one worker has to itself: those that start engines or count what the machine has,
    those of JupyterLab, which share an environment, else a file's."""
    path = nodeid.partition("::")[0]
    folder = Path(path).parent.name
    if folder in MACHINE or any(engine in nodeid for engine in ENGINES):
        return "machine"
    return folder if folder == "lab" else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `pytest -n 2`; not by `xdist_group`, which does nothing under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPart(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return part_of(nodeid)

    return ByPart(config, log)


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
