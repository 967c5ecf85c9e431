"""Container engines for the tests: a daemon, a base image and the sandbox's image, made if absent.

No registry is needed: the base is a Debian from `debootstrap`, kept under the user's cache folder.
Only root can start a daemon or bootstrap a base; everyone else uses what is there. Podman is given
settings of the tests' own where the system's do not start a container.
"""

from __future__ import annotations

import atexit
import os
import resource
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from lis_kernel.errors import LisKernelError
from lis_kernel.sandbox import container_image
from lis_kernel.sandbox.docker import DockerSandbox
from lis_kernel.sandbox.podman import PodmanSandbox

BASE = "lis-test-base:bookworm"
PACKAGES = "python3,python3-venv,git,ca-certificates"
EMPTY = "lis-test-empty:1"
NOT_FOUND = 127
"""What `podman run` returns where the container began and holds no such program."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lis_kernel"


@cache
def no_docker() -> str:
    """Why there is no Docker here, or nothing. Starts a daemon and builds the image if it can."""
    try:
        try:
            client = DockerSandbox.connect()
        except LisKernelError as error:
            if os.getuid() != 0 or shutil.which("dockerd") is None:
                return str(error)
            _start_daemon()
            client = DockerSandbox.connect(600)
        if not client.images.list(container_image.default_tag()):
            client = DockerSandbox.connect(1800)
            if not client.images.list(BASE):
                client.api.import_image_from_file(str(_base()), *BASE.split(":"))
            container_image.build(client, base=BASE)
    except (LisKernelError, OSError, subprocess.CalledProcessError) as error:
        return str(error)
    return ""


@cache
def no_crun() -> str:
    """Why the Docker daemon here has no second runtime, or nothing."""
    if reason := no_docker():
        return reason
    known = DockerSandbox.connect().info()["Runtimes"]
    return "" if "crun" in known else f"the daemon knows {', '.join(known)}, but not crun"


@cache
def no_podman() -> str:
    """Why there is no Podman here, or nothing. Takes the image from Docker."""
    if shutil.which("podman") is None:
        return "podman is not installed"
    try:
        if "CONTAINERS_CONF" not in os.environ and not _podman_starts():
            os.environ["CONTAINERS_CONF"] = str(_podman_settings())
        client = PodmanSandbox.connect(600)
        tag = container_image.default_tag()
        if not client.images.list(tag):
            if reason := no_docker():
                return f"no image: {reason}"
            saved = b"".join(DockerSandbox.connect(600).images.get(tag).save(named=True))
            # anew: the service has ended if the daemon took its time
            PodmanSandbox.connect(600).images.load(saved)
        made = _podman_run(tag)
        return made.stderr.strip() if made.returncode else ""
    except (LisKernelError, OSError, subprocess.SubprocessError) as error:
        return str(error)


def _podman_run(image: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", "run", "--rm", "--network=none", image, "true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _podman_starts() -> bool:
    """Whether it starts containers as the system has it; an empty image is enough to see."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        archive.write(bytes(10240))  # an archive's end and nothing before it
        archive.flush()
        load = ["podman", "import", "--quiet", archive.name, EMPTY]
        if subprocess.run(load, capture_output=True, timeout=60, check=False).returncode:
            return False
    return _podman_run(EMPTY).returncode == NOT_FOUND


def _podman_settings() -> Path:
    """A containers.conf for systems that Podman's own defaults do not fit.

    crun refuses control groups of versions 1 and 2 side by side, and Podman raises open files to a
    number that root without CAP_SYS_RESOURCE may not give.
    """
    files, processes = (
        most
        if (hard := resource.getrlimit(number)[1]) == resource.RLIM_INFINITY
        else min(hard, most)
        for number, most in ((resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_NPROC, 4096))
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "test-containers.conf"
    runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""
    path.write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", '
        f'"nproc={processes}:{processes}"]\n[engine]\n{runtime}'
    )
    return path


def _start_daemon() -> None:
    log = Path(tempfile.gettempdir()) / "lis-test-dockerd.log"
    with log.open("wb") as out:
        command = ["dockerd", *_second_runtime()]
        daemon = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    atexit.register(daemon.terminate)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if daemon.poll() is not None:
            raise OSError(f"dockerd ended at once, see {log}")
        try:
            DockerSandbox.connect(5).close()
            return
        except LisKernelError:
            time.sleep(0.2)
    raise OSError(f"dockerd does not answer, see {log}")


def _second_runtime() -> list[str]:
    """dockerd's arguments for crun beside its own runc, where there is one."""
    if shutil.which("crun") is None:
        return []
    CACHE.mkdir(parents=True, exist_ok=True)
    # crun refuses control groups of versions 1 and 2 side by side: let it see version 1 alone
    hide = "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun"
    path = CACHE / "test-crun"
    path.write_text(
        '#!/bin/sh\n[ -e /sys/fs/cgroup/cgroup.controllers ] && exec crun "$@"\n'
        f'exec unshare --mount --propagation slave sh -c \'{hide} "$@"\' crun "$@"\n'
    )
    path.chmod(0o755)
    return ["--add-runtime", f"crun={path}"]


def _base() -> Path:
    """A tar of a small Debian with Python; about a minute the first time."""
    archive = CACHE / f"{BASE.replace(':', '-')}.tar"
    if archive.exists():
        return archive
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm"]
        subprocess.run([*command, str(root)], check=True, capture_output=True)
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        partial = archive.with_suffix(".partial")
        subprocess.run(["tar", "-C", str(root), "-cf", str(partial), "."], check=True)
        partial.replace(archive)
    return archive
