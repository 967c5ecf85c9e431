"""The checkout as a user gets it: its wheel, and JupyterLab, in an environment of their own.

Under CI the environment is new each time. On a developer's machine it stays under `.venv/lab`, and
only our wheel is installed anew, as long as the wheel asks for the same packages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".venv" / "lab"
BESIDE = ("jupyterlab>=4.4", "notebook>=7.4", "jupyter_console>=6.6")
"""What a user has beside it. Not pandas and matplotlib: our sandboxes have their own."""


def installed(scratch: Path) -> Path:
    """Build the wheel and install it; the environment's folder."""
    wheel = _built(scratch)
    fresh = os.environ.get("CI") == "true"
    place = scratch / "venv" if fresh else KEPT
    stamp = place / "made-of"
    needs = _needs(wheel)
    if not stamp.exists() or stamp.read_text() != needs:
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place)
        # compiled by whoever imports it: half of the packages never are
        _pip("install", "--no-compile", str(wheel), *BESIDE, into=place)
        stamp.write_text(needs)
    else:
        _pip("install", "--no-compile", "--no-deps", "--force-reinstall", str(wheel), into=place)
    return place


def _built(scratch: Path) -> Path:
    _pip("wheel", "--no-deps", "--wheel-dir", str(scratch / "dist"), str(ROOT))
    (wheel,) = (scratch / "dist").glob("*.whl")
    return wheel


def _needs(wheel: Path) -> str:
    """Changes when the environment must be made anew."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    asked = [line for line in lines if line.startswith("Requires-Dist")]
    return hashlib.sha256("\n".join([sys.version, *BESIDE, *asked]).encode()).hexdigest()


def _pip(*words: str, into: Path | None = None) -> None:
    where = ("--python", str(into / "bin" / "python")) if into else ()
    command = [sys.executable, "-m", "pip", *where, "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
