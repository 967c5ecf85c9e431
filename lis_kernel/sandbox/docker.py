"""The `docker` backend: one container a sandbox, through the Docker SDK.

No network, no capability, a read-only root, and nothing of the host writable inside: the writable
folders are tmpfs mounts of the container that add up to the disk limit, and the host reaches them
through descriptors (see `container.py`). The container ends with this process, whatever ends it,
and its daemon then removes it. The daemon must run on this machine, for sockets do not travel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lis_kernel.errors import ConfigError, SandboxError, SandboxLost, SandboxUnavailable
from lis_kernel.protocols import KernelProcess
from lis_kernel.sandbox import container_image, seccomp
from lis_kernel.sandbox.base import ProcessSandbox
from lis_kernel.sandbox.breaches import Breaches
from lis_kernel.sandbox.container import OWNER_FD, READY_FD, ContainerKernel, PidOne, clear
from lis_kernel.sandbox.container_spec import (
    FOLDERS,
    LABEL,
    RUN_INSIDE,
    Spec,
    arguments,
    pid_namespace,
    process_start,
)
from lis_kernel.sandbox.launch import GUEST_INSIDE, Boot, prepare, wait_ready
from lis_kernel.types import Verdict

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["DockerSandbox", "load_sdk", "remove_orphans"]

log = logging.getLogger(__name__)

API_SECONDS, LAST_SECONDS = 60, 5
START_SECONDS = 60.0
NETWORKS = "Write `none`, `open` or `allow=HOST,…`."


class DockerSandbox(ProcessSandbox):
    """A container that lives as long as the sandbox; kernels come and go in it."""

    backend: ClassVar[str] = "docker"
    plain_tmpfs: ClassVar[bool] = False
    security: ClassVar[tuple[str, ...]] = ("no-new-privileges",)
    _spec: Spec | None = None
    _pid1: PidOne | None = None
    _breaches: Breaches | None = None
    _image: Mapping[str, Any] | None = None
    _expired = False
    _told_end = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cleaning = threading.Lock()

    @classmethod
    def connect(cls, seconds: int = API_SECONDS) -> DockerClient:
        """A client of the daemon.

        Raises:
            SandboxUnavailable: no SDK, no daemon, or one on another machine.
        """
        sdk = load_sdk()
        try:
            client: DockerClient = sdk.from_env(timeout=seconds)
        except sdk.errors.DockerException as error:
            raise SandboxUnavailable(
                f"no Docker daemon answers ({error}): start it, be in its group, or set DOCKER_HOST"
            ) from error
        if client.api.base_url != "http+docker://localhost":  # how the SDK writes a unix socket
            raise SandboxUnavailable(
                f"the daemon at {client.api.base_url} is on another machine; the sandbox's unix "
                "sockets do not reach it. Use a daemon on this one."
            )
        return client

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make and start the container. Raises: SandboxUnavailable, SandboxError, ConfigError."""
        mounts: Mapping[str, Path] = {}
        env: Mapping[str, str] = {}
        if self.config.network.startswith("allow="):
            mounts, env = self.network_extras()
        elif self.config.network not in ("none", "open"):
            raise ConfigError("network", f"{self.config.network!r} is no policy.", NETWORKS)
        if self.config.network == "open":
            self.say(f"{self.backend}: NETWORK OPEN. The model's code can reach what you can reach")
        if self.config.root:
            self.say(f"{self.backend}: ROOT inside; / is writable, without a bound")
        client = await asyncio.to_thread(self.connect)
        name = self.config.image or container_image.default_tag()
        self._image = await asyncio.to_thread(container_image.facts, client, name, self.backend)
        daemon = await asyncio.to_thread(client.info)
        rootless = any("rootless" in option for option in daemon.get("SecurityOptions") or [])
        await super().start()
        host = self.state.root / "host"
        host.mkdir(mode=0o755)
        self._spec = Spec(
            self.config,
            self.limits,
            f"lis-{self.state.name}",
            name,
            container_image.PYTHON,
            host,
            rootless,
            self.plain_tmpfs,
            self.security,
            mounts,
            env,
        )
        self._pid1 = PidOne(host / "s")
        starting = asyncio.create_task(asyncio.to_thread(self._run, client, arguments(self._spec)))
        try:
            await asyncio.shield(starting)
            async with asyncio.timeout(START_SECONDS):
                await self._pid1.connect(lambda: asyncio.to_thread(self._exists, client))
        except BaseException as error:
            # a thread cannot be cancelled: what it still makes must be removed
            await asyncio.gather(asyncio.shield(starting), return_exceptions=True)
            await self.stop()
            if isinstance(error, TimeoutError | OSError | ValueError):
                raise SandboxError(f"the container did not report: {error}") from error
            raise
        client.close()
        self._link_folders(self._pid1)
        self._breaches = Breaches(self._pid1.pid, self._pid1.folders.values())
        if self.limits.sandbox_seconds is not None:
            asyncio.get_running_loop().call_later(self.limits.sandbox_seconds, self._expire)

    def _run(self, client: DockerClient, options: dict[str, Any]) -> None:
        """Create and start the container; in a thread."""
        sdk = load_sdk()
        remove_orphans(client)
        try:
            made = client.containers.create(**options)
            if self._state is None:  # stopped meanwhile
                made.remove(force=True, v=True)
            else:
                made.start()
        except sdk.errors.APIError as error:
            said = str(error.explanation or error)
            if "no such file or directory" in said and "exec" in said:
                said = (
                    f"image {options['image']} was not made for the sandbox: run `lis image build "
                    f"--backend {self.backend} --base {options['image']} --tag NAME`"
                )
            raise SandboxUnavailable(f"{self.backend}: {said}") from error
        except sdk.errors.DockerException as error:
            raise SandboxError(f"{self.backend}: {error}") from error
        except OSError as error:  # of requests: time-outs, a daemon that went away
            raise SandboxError(f"{self.backend}: the daemon does not answer: {error}") from error

    def _exists(self, client: DockerClient) -> bool:
        try:
            assert self._spec is not None  # start came first
            client.containers.get(self._spec.name)
        except load_sdk().errors.NotFound:
            return False
        return True

    def _link_folders(self, pid1: PidOne) -> None:
        """Let the state folder's `testbed`, `tmp` … be the container's."""
        for inside, name in FOLDERS.items():
            path = self.state.root / name
            shutil.rmtree(path)
            path.symlink_to(f"/proc/{os.getpid()}/fd/{pid1.folders[inside]}")

    async def _launch(self) -> KernelProcess:
        pid1, spec = self._pid1, self._spec
        if pid1 is None or spec is None or pid1.lost.is_set():
            raise SandboxLost("the container has ended")
        pid1.clear_out()
        run = self.state.root / "run"
        clear(run)
        programs = seccomp.programs(set_id=self.config.root)
        boot = Boot("/testbed", self.caps, self.key, self.setup, seccomp=programs)
        info = prepare(run, RUN_INSIDE, boot, ready_fd=READY_FD, owner_fd=OWNER_FD)
        ready_read, ready_write = os.pipe()
        owner_read, owner_write = os.pipe()
        try:
            exit_ = pid1.spawn(
                [container_image.PYTHON, f"{GUEST_INSIDE}/boot.py", f"{RUN_INSIDE}/boot.json"],
                spec.environment(),
                f"{RUN_INSIDE}/kernel.log",
                (ready_write, owner_read),
            )
        except SandboxLost:
            os.close(ready_read)
            os.close(owner_write)
            raise
        finally:
            os.close(ready_write)
            os.close(owner_read)
        info["ip"] = str(run / "k")
        kernel = ContainerKernel(pid1, exit_, info, owner_write, run / "kernel.log")
        await wait_ready(kernel, ready_read)
        return kernel

    def _expire(self) -> None:
        if self._pid1 is not None and not self._pid1.lost.is_set():
            self._expired = True
            self._pid1.close()

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
        if self._pid1 is not None:
            self._pid1.lost.set()  # also for a `start` that waits
        # shielded: a second Ctrl-C must not leave a container behind
        await asyncio.shield(asyncio.to_thread(self.cleanup))

    def cleanup(self) -> None:
        with self._cleaning:  # a `start` that fails and a `stop` may come here at once
            if self._pid1 is not None:
                self._pid1.close()
            if self._spec is not None:
                with contextlib.suppress(Exception):  # the daemon may be gone, and it with it
                    self._remove(self._spec.name)
            self._process = None
            super().cleanup()
            if self._pid1 is not None:
                self._pid1.forget_folders()

    def _remove(self, name: str) -> None:
        """Remove the container and see it gone, within the time that a last resort may take."""
        errors = load_sdk().errors
        client = self.connect(LAST_SECONDS)
        deadline = time.monotonic() + 2 * LAST_SECONDS
        try:
            while time.monotonic() < deadline:
                try:
                    client.api.remove_container(name, force=True, v=True)
                except errors.NotFound:
                    return
                except errors.APIError:  # the daemon is removing it already
                    time.sleep(0.02)
        finally:
            client.close()
        log.warning("container %s could not be removed", name)

    # -- files -----------------------------------------------------------------------------------

    def put(self, source: Path, target: str) -> None:
        try:
            super().put(source, target)
        except OSError as error:
            raise SandboxError(f"{source} does not fit into the sandbox: {error}") from error
        uid = self._spec.uid if self._spec is not None else 0
        if uid == os.getuid():
            return
        root, steps = self.state.host_path(target)
        for depth in range(1, len(steps) + 1):
            os.lchown(root.joinpath(*steps[:depth]), uid, uid)
        for folder, folders, names in os.walk(root.joinpath(*steps)):
            for name in (*folders, *names):
                os.lchown(Path(folder, name), uid, uid)

    # -- what is told ----------------------------------------------------------------------------

    def verdict(self) -> Verdict | None:
        found = self._breaches.new() if self._breaches is not None else None
        if self._pid1 is None or not self._pid1.lost.is_set() or self._told_end:
            return found
        self._told_end = True
        if self._expired:
            return "timeout"
        return "oom" if found == "oom" or self._was_out_of_memory() else "killed"

    def _was_out_of_memory(self) -> bool:
        """Ask the daemon, for a container that has ended and has no counters any more."""
        with contextlib.suppress(Exception):
            name = self._spec.name if self._spec is not None else ""
            client = self.connect(LAST_SECONDS)
            events = client.events(
                since=f"{time.time() - 600:.6f}",
                until=f"{time.time():.6f}",
                filters={"container": name, "event": "oom"},
                decode=True,
            )
            return any(events)
        return False

    def describe(self) -> Mapping[str, Any]:
        """Image and packages, and the limits as they hold here, which may be tighter than asked."""
        limits = self._spec.facts() if self._spec is not None else {"network": self.config.network}
        walls = {"seccomp": seccomp.digest()}  # on top of the engine's own
        return {"backend": self.backend, **limits, **walls, **(self._image or {})}

    def network_extras(self) -> tuple[Mapping[str, Path], Mapping[str, str]]:
        """What an allow-list needs: read-only mounts (path inside -> host's) and variables.

        Called by `start` for `network="allow=…"`, before there is a container; the container has
        no network of its own then either.
        """
        raise SandboxUnavailable(f"network allow-lists are not available with {self.backend} yet")


def remove_orphans(client: DockerClient) -> list[str]:
    """Remove containers of ours whose owner is dead, should one have outlived it; their names."""
    gone = []
    here = pid_namespace()
    try:
        for found in client.containers.list(
            all=True, ignore_removed=True, filters={"label": LABEL}
        ):
            labels = found.labels
            if labels.get("lis.owner.pidns") != here:
                continue
            if process_start(int(labels["lis.owner.pid"])) != labels["lis.owner.start"]:
                found.remove(force=True, v=True)
                gone.append(str(found.name))
    except (load_sdk().errors.DockerException, OSError, KeyError, ValueError) as error:
        log.debug("orphans were not looked for: %s", error)
    return gone


def load_sdk() -> Any:
    """The Docker SDK. Raises: SandboxUnavailable."""
    try:
        import docker
    except ImportError as error:
        raise SandboxUnavailable(
            "the Docker SDK is not installed: run `pip install 'lis-kernel[docker]'`"
        ) from error
    return docker
