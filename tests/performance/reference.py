"""The rival: the paper's own package in its own venv, and an image of its Dockerfile's shape.

`ensure()` makes venv and image once; `Reference` keeps a warm worker, so that its rollouts can be
interleaved with ours; `run(n)` is the rival alone. The image is Debian with Python, git, curl, wget
and bash, without compiler and scientific packages: they weigh on the disk, not on a start or a
turn. Building it needs root and `debootstrap`, no image registry.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import workload

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
VENV = CACHE / "lis_kernel" / "rivals" / "llm-in-sandbox"
IMAGE = "lis-bench-reference:1"
VERSION = "0.2.0"
# mcp and tqdm are imported by it (and by its litellm) but not declared.
REQUIREMENTS = [f"llm-in-sandbox=={VERSION}", "mcp", "tqdm"]
PATH = (
    "/root/.local/bin:/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)


class Failed(RuntimeError):
    """A rollout of the rival did not go as scripted, through no fault of ours."""


class Missing(RuntimeError):
    """Something that the rival needs is not on this machine; the message says what to do."""


def ensure() -> None:
    """Makes venv and image where they are absent (about 2 minutes); raises `Missing`."""
    if shutil.which("docker") is None:
        raise Missing("no `docker` client: install Docker, or leave the rival out with --no-docker")
    if _docker("version", "--format", "{{.Server.Version}}").returncode:
        raise Missing(
            "no Docker daemon answers: as root `dockerd >/tmp/dockerd.log 2>&1 &`, "
            "or leave the rival out with --no-docker"
        )
    _ensure_venv()
    if _docker("image", "inspect", IMAGE).returncode:
        _build_image()


class Reference:
    """A warm worker of the rival, as a context manager; `versions` are its packages'."""

    def __enter__(self) -> Self:
        ensure()
        self._label = uuid.uuid4().hex[:12]
        self._log = tempfile.TemporaryFile("w+")
        self._worker = subprocess.Popen(
            [VENV / "bin/python", HERE / "_reference_worker.py", IMAGE, self._label],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stdin.close()
        try:
            self._worker.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._worker.stdout.close()
        self._log.close()
        left = _docker("ps", "-aq", "--filter", f"label=lis-bench={self._label}").stdout.split()
        if left:
            _docker("rm", "-f", *left)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Of its packages; waits until the worker has started."""
        return self._reply()

    def rollout(self, turns: int = 6) -> dict[str, Any]:
        """Seconds of one task; `model` is the part of each of the `turns` in its LLM client."""
        _ = self.versions  # is the worker's first line
        request = {
            "script": workload.script(turns),
            "task": workload.TASK,
            "answer": workload.ANSWER,
        }
        self._worker.stdin.write(json.dumps(request) + "\n")
        reply = self._reply()
        if "error" in reply:
            raise Failed(f"the rival's rollout failed\n{reply['error']}")
        return reply

    def _reply(self) -> dict[str, Any]:
        line = self._worker.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"the rival's worker died\n{self._log.read()[-4000:]}")
        return json.loads(line)


def run(n: int, turns: int = 6) -> list[dict[str, Any]]:
    """`n` rollouts of the rival alone, after one to warm up."""
    with Reference() as reference:
        reference.rollout(turns)
        return [reference.rollout(turns) for _ in range(n)]


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def _ensure_venv() -> None:
    python = VENV / "bin/python"
    probe = (
        "from importlib.metadata import version; version('mcp'); version('tqdm'); "
        f"assert version('llm-in-sandbox') == {VERSION!r}"
    )
    if (
        python.exists()
        and not subprocess.run(
            [python, "-c", probe], stderr=subprocess.DEVNULL, check=False
        ).returncode
    ):
        return
    print(f"installing {REQUIREMENTS[0]} into {VENV} …", file=sys.stderr)
    _step("making its venv", [sys.executable, "-m", "venv", "--clear", VENV])
    _step("installing the rival", [python, "-m", "pip", "install", "-q", *REQUIREMENTS])


def _build_image() -> None:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise Missing(
            f"no image {IMAGE}: building it needs root and `debootstrap`; "
            f"or build the package's own Dockerfile and `docker tag` it {IMAGE}"
        )
    print(f"building {IMAGE} …", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="lis-bench-") as folder:
        root = Path(folder, "root")
        packages = "--include=python3,git,curl,wget,ca-certificates"
        _step("debootstrap", ["debootstrap", "--variant=minbase", packages, "bookworm", root])
        (root / "testbed").mkdir()
        (root / "root/.local/bin").mkdir(parents=True)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        archive = Path(folder, "root.tar")
        left_out = ("var/cache/apt", "var/lib/apt/lists", "dev", "proc", "sys")
        skip = [f"--exclude=./{path}/*" for path in left_out]
        _step("tar", ["tar", "-C", root, *skip, "-cf", archive, "."])
        changes = [
            f"ENV PATH={PATH}",
            "ENV PIP_DISABLE_PIP_VERSION_CHECK=1",
            "ENV PIP_ROOT_USER_ACTION=ignore",
            "WORKDIR /testbed",
            'CMD ["/bin/bash"]',
        ]
        options = [f"--change={change}" for change in changes]
        _step("docker import", ["docker", "import", *options, archive, IMAGE])


def _step(what: str, command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"{what} failed\n{(done.stdout + done.stderr)[-2000:]}")


if __name__ == "__main__":
    for timing in run(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        print(json.dumps(timing))
