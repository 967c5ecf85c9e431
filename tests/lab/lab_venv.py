"""The checkout as a user gets it: its wheel, and JupyterLab, in an environment of their own.

What the wheel asks for is kept installed under `.venv/lab`, as that takes long; each session has a
copy of it by hard links, with our wheel installed into it.
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

from filelock import FileLock

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".venv" / "lab"
BESIDE = ("jupyterlab>=4.4", "notebook>=7.4", "jupyter_console>=6.6")
"""What a user has beside it. Not pandas and matplotlib: our sandboxes have their own."""


def installed(scratch: Path) -> Path:
    """Build the wheel and install it below `scratch`; the environment's folder."""
    _pip("wheel", "--no-deps", "--wheel-dir", str(scratch / "dist"), str(ROOT))
    (wheel,) = (scratch / "dist").glob("*.whl")
    place = scratch / "venv"
    with FileLock(KEPT.with_suffix(".lock")):
        _keep(wheel)
        _copy(KEPT, place)
    _pip("install", "--no-compile", "--no-deps", str(wheel), into=place)
    return place


def _keep(wheel: Path) -> None:
    """See that KEPT has everything but the wheel itself."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    asked = [line for line in lines if line.startswith("Requires-Dist")]
    needs = hashlib.sha256("\n".join([sys.version, *BESIDE, *asked]).encode()).hexdigest()
    stamp = KEPT / "made-of"
    if stamp.exists() and stamp.read_text() == needs:
        return
    shutil.rmtree(KEPT, ignore_errors=True)
    venv.create(KEPT)
    _pip("install", str(wheel), *BESIDE, into=KEPT)
    _pip("uninstall", "--yes", "lis-kernel", into=KEPT)
    stamp.write_text(needs)


def _copy(kept: Path, place: Path) -> None:
    """An environment at another path; only its programs name the path that they are at."""
    bin_ = kept / "bin"
    shutil.copytree(kept, place, symlinks=True, copy_function=os.link)
    for program in (place / "bin").iterdir():
        if not program.is_symlink():
            text = (bin_ / program.name).read_bytes()
            program.unlink()  # or the kept one, to which it is a link, were written
            program.write_bytes(text.replace(os.fsencode(bin_), os.fsencode(place / "bin")))
            program.chmod(0o755)


def _pip(*words: str, into: Path | None = None) -> None:
    where = ("--python", str(into / "bin" / "python")) if into else ()
    command = [sys.executable, "-m", "pip", *where, "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
