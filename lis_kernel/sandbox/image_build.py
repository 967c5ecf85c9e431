"""Building the sandbox's Python environment with pip, once for all sandboxes.

The first run does it while its event loop goes on, so that it can show how far it is and Ctrl-C
ends it. Half an image is never found: it is built beside its place and moved there at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

from filelock import FileLock, Timeout

from lis_kernel.errors import SandboxUnavailable
from lis_kernel.protocols import Progress
from lis_kernel.sandbox.image import (
    PREFIX,
    Image,
    digest,
    find,
    inside,
    open_to_all,
    pins,
    place,
    requirements,
)

__all__ = ["build", "pip", "prepare", "stoppable"]

T = TypeVar("T")

Say = Callable[[str], None]
Watch = Callable[[str], None]
PARTIAL = ".partial"
STOPPED = "the sandbox's Python environment was not built: it was stopped"


async def prepare(say: Say = lambda _: None, progress: Progress = lambda *_: None) -> Image:
    """As `build`, beside a running event loop: cancelled, it ends at once and leaves nothing.

    `say` and `progress` are called on this loop.
    """
    loop = asyncio.get_running_loop()
    return await stoppable(
        lambda stop: build(
            lambda text: _soon(loop, say, text), lambda *step: _soon(loop, progress, *step), stop
        )
    )


async def stoppable(work: Callable[[threading.Event], T]) -> T:
    """Do `work` in a thread; cancelled, it is told by its event and waited for."""
    stop = threading.Event()
    working = asyncio.create_task(asyncio.to_thread(work, stop))
    working.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({working})
        raise


def _soon(loop: asyncio.AbstractEventLoop, tell: Callable[..., None], *words: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(tell, *words)


def build(
    say: Say = lambda _: None,
    progress: Progress = lambda *_: None,
    stop: threading.Event | None = None,
) -> Image:
    """Build the image unless it is there; about 40 seconds with pip's downloads.

    Safe to call from several processes at once, and to interrupt: it is built beside its place and
    moved there at the end. `stop` ends it from another thread; `progress` counts packages.

    Raises:
        SandboxUnavailable: pip is missing or could not install the packages, or was stopped; or
            the folder cannot be written.
    """
    if (image := find()) is not None:  # perhaps where we may not write
        return image
    root, stop = place(), stop or threading.Event()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with _locked(root.with_name(f"{root.name}.lock"), say, stop):
            image = find()
            if image is not None:
                return image
            _build(root, say, progress, stop)
    except OSError as error:
        raise SandboxUnavailable(
            f"the sandbox's Python environment cannot be written to {root.parent}: {error}. "
            "Make room or give rights there, or set LIS_DATA_DIR to another folder."
        ) from error
    image = find()
    if image is None:
        raise SandboxUnavailable(f"the sandbox image in {root} vanished while it was built")
    return image


@contextlib.contextmanager
def _locked(path: Path, say: Say, stop: threading.Event) -> Iterator[None]:
    lock, told = FileLock(path), False
    while True:
        try:
            lock.acquire(timeout=0.2)
            break
        except Timeout:
            if stop.is_set():
                raise SandboxUnavailable(STOPPED) from None
            if not told:
                say("another process builds the sandbox's Python environment: waiting …")
                told = True
    try:
        yield
    finally:
        lock.release()


def _build(root: Path, say: Say, progress: Progress, stop: threading.Event) -> None:
    """Make it in a folder of its own and move it to `root`. Called with the lock held."""
    for left in (root, *root.parent.glob(f"{root.name}.*{PARTIAL}")):
        shutil.rmtree(left, ignore_errors=True)  # of a builder that was killed
    say("building the sandbox's Python environment (once, about a minute) …")
    partial = Path(tempfile.mkdtemp(prefix=f"{root.name}.", suffix=PARTIAL, dir=root.parent))
    try:
        _install(partial, progress, stop)
        python = ["--python", str(partial / "bin" / "python")]
        listed = pip(stop, *python, "list", "--format=freeze", "--disable-pip-version-check")
        packages = tuple(listed.split())
        _relocate(partial)
        open_to_all(partial)
        manifest = {
            "digest": digest(*packages, sys.version),
            "python": platform.python_version(),
            "packages": packages,
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
        (partial / "manifest.json").chmod(0o644)
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    say(f"sandbox environment ready: {len(packages)} packages")


def pip(stop: threading.Event, *arguments: str, watch: Watch = lambda _: None) -> str:
    """Run this interpreter's pip; what it said.

    Raises:
        SandboxUnavailable: there is none, it failed, or `stop` was set.
    """
    command = [sys.executable, "-m", "pip", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    status, printed, errors = _run(command, environment, stop, watch)
    if status:
        tail = "\n".join((errors or printed).strip().splitlines()[-5:])
        hint = (
            "this Python has no pip: run `python -m ensurepip`"
            if "No module named pip" in tail
            else "pip could not install the sandbox's packages"
        )
        raise SandboxUnavailable(f"{hint}:\n{tail}")
    return printed


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    stop: threading.Event,
    watch: Watch = lambda _: None,
) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command, which ends with its children when `stop` is set.

    `watch` is called a few times a second with what it has printed. It has a session of its own:
    a terminal's Ctrl-C is for us alone, and pip works in a child that must be found again.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                if stop.wait(0.1):
                    raise SandboxUnavailable(STOPPED)
                watch(_text(out))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, _text(out), _text(err)


def _text(file: IO[bytes]) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", "replace")


def _install(root: Path, progress: Progress, stop: threading.Event) -> None:
    import venv

    venv.EnvBuilder(symlinks=True, with_pip=False).create(root)
    wanted = root / "requirements.txt"
    wanted.write_text(requirements(), "utf-8")
    total = len(pins())

    def watch(printed: str) -> None:
        found = len(re.findall(r"^(?:Collecting|Processing) ", printed, re.MULTILINE))
        progress(min(total, found), total, "packages found")
        if installed := len(list(root.glob("lib/*/site-packages/*.dist-info"))):
            progress(min(total, installed), total, "packages installed")

    python = ["--python", str(root / "bin" / "python")]
    options = ["--no-input", "--compile", "--progress-bar", "off", "--requirement", str(wanted)]
    pip(stop, *python, "install", *options, watch=watch)
    # what pip leaves uncompiled costs every cold start: 3.5 times slower without .pyc
    compiler = [sys.executable, "-m", "compileall", "-q", "-j", "0", str(root / "lib")]
    _run(compiler, os.environ, stop)
    # matplotlib scans every font at its first import, 1-2 s, unless it finds this cache
    fonts = {**os.environ, "MPLCONFIGDIR": str(root / "share" / "matplotlib")}
    _run([str(root / "bin" / "python"), "-c", "import matplotlib.font_manager"], fonts, stop)


def _relocate(root: Path) -> None:
    """Let the environment name the paths that it has inside the sandbox."""
    home = inside(Path(sys.base_prefix)) + "/bin"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (root / "pyvenv.cfg").write_text(
        f"home = {home}\ninclude-system-site-packages = false\n"
        f"version = {platform.python_version()}\n",
        "utf-8",
    )
    scripts = root / "bin"
    for link in ("python", "python3", f"python{version}"):
        (scripts / link).unlink(missing_ok=True)
        (scripts / link).symlink_to(f"{home}/python{version}" if link == "python" else "python")
    for script in scripts.iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        data = script.read_bytes()
        if data.startswith(b"#!"):  # a long path stands in the second line, after `#!/bin/sh`
            head, rest = data[:4096], data[4096:]
            script.write_bytes(head.replace(os.fsencode(root), PREFIX.encode()) + rest)
