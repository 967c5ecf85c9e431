"""The `docker` backend: one container a sandbox, through the Docker SDK.

No network, no capability, a read-only root, and nothing of the host writable inside: the writable
folders are tmpfs mounts of the container that add up to the disk limit, and the host reaches them
through descriptors (see `container.py`). An allow-list's proxy is reached through a socket in a
read-only folder. The container ends with this process, whatever ends it; its daemon removes it,
and a keeper what is left. The daemon must run on this machine, for sockets do not travel.
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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lis_kernel.errors import SandboxError, SandboxLost, SandboxUnavailable
from lis_kernel.protocols import KernelProcess
from lis_kernel.sandbox import container_image, mounts, seccomp
from lis_kernel.sandbox.base import ProcessSandbox
from lis_kernel.sandbox.breaches import Breaches
from lis_kernel.sandbox.container import PidOne, clear
from lis_kernel.sandbox.container_engine import LAST_SECONDS, DockerEngine, load_sdk
from lis_kernel.sandbox.container_labels import remove_orphans
from lis_kernel.sandbox.container_spec import (
    FOLDERS,
    HOST_INSIDE,
    RUN_INSIDE,
    Spec,
    arguments,
    user_id,
)
from lis_kernel.sandbox.init import OWNER_FD, READY_FD, InitKernel
from lis_kernel.sandbox.keeper import Keeper
from lis_kernel.sandbox.launch import GUEST_INSIDE, prepare, wait_ready
from lis_kernel.sandbox.network import CA_INSIDE
from lis_kernel.sandbox.state import StateDir, new_folder
from lis_kernel.types import Verdict

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["DockerSandbox"]

log = logging.getLogger(__name__)

START_SECONDS = 60.0


class DockerSandbox(DockerEngine, ProcessSandbox):
    """A container that lives as long as the sandbox; kernels come and go in it."""

    backend: ClassVar[str] = "docker"
    plain_tmpfs: ClassVar[bool] = False
    security: ClassVar[tuple[str, ...]] = ("no-new-privileges",)
    _spec: Spec | None = None
    _pid1: PidOne | None = None
    _breaches: Breaches | None = None
    _keeper: Keeper | None = None
    _rootless = False
    _runtime = ""
    _asked = _made = False
    _image: Mapping[str, Any] | None = None
    _ends: float | None = None
    """When its time is over; PID 1 keeps it too, should this process stand still."""
    _told_end = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cleaning = threading.Lock()

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make and start the container.

        Raises:
            SandboxUnavailable: no SDK, daemon or image.
            ConfigError: the daemon has no such runtime, or a mount is wrong.
            SandboxError: the engine failed.
        """
        mounts.parse(self.config.mounts)
        client = await asyncio.to_thread(self.connect)
        name = self.config.image or container_image.default_tag()
        self._image = await asyncio.to_thread(container_image.facts, client, name, self.backend)
        daemon = await asyncio.to_thread(client.info)
        client.close()
        self._runtime = self.runtime_of(self.config.runtime, daemon)
        self._rootless = any("rootless" in word for word in daemon.get("SecurityOptions") or [])
        if self.config.root:
            self.say(f"{self.backend}: ROOT inside; / is writable, without a bound")
        await super().start()
        host = self._door
        ca = self.network.ca
        self._spec = Spec(
            self.config,
            self.limits,
            f"lis-{self.state.name}",
            name,
            container_image.PYTHON,
            host,
            self._rootless,
            self.plain_tmpfs,
            self.security,
            {CA_INSIDE: ca} if ca is not None else {},
        )
        self._pid1 = PidOne(host / "s")
        # anew: the network may have taken its time, and Podman's service ends itself
        client = await asyncio.to_thread(self.connect)
        if self.limits.sandbox_seconds is not None:
            self._ends = time.monotonic() + self.limits.sandbox_seconds
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
        self._record()
        if self._ends is not None:
            left = self._ends - time.monotonic()
            asyncio.get_running_loop().call_later(left, self._pid1.close)

    async def _settle(self) -> None:
        folder = new_folder()
        self._keeper = keeper = Keeper(folder, 0, 0, {}, namespace=False)
        self._state = StateDir(folder)
        self._record()  # before there is anything to clean up
        await keeper.start()
        self.state.furnish()
        self._door.mkdir(mode=0o755)
        self._door.chmod(0o755)  # whatever our umask

    @property
    def _door(self) -> Path:
        return self.state.root / "host"

    @property
    def _public(self) -> Path:
        return self._door

    @property
    def _host_uid(self) -> int | None:
        uid = user_id(self.config, self._rootless)
        return uid if os.getuid() == 0 and uid else None

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = super()._facts()
        if self._asked:
            facts["container"] = {**self.engine(), "made": self._made}
        if self._spec is not None:
            facts["host_uid"] = self._spec.facts()["host_uid"]
        if self._breaches is not None:
            facts["cgroups"] = [str(group) for group in self._breaches.groups]
        return facts

    def _run(self, client: DockerClient, options: dict[str, Any]) -> None:
        """Create and start the container; in a thread."""
        sdk = load_sdk()
        remove_orphans(client)
        self._asked = True
        self._record()
        try:
            made = client.containers.create(**options)
            self._made = True
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
        programs = seccomp.programs("set-id" if self.config.root else "")
        boot = replace(self.boot("/testbed", HOST_INSIDE), seccomp=programs)
        info = prepare(run, RUN_INSIDE, boot, ready_fd=READY_FD, owner_fd=OWNER_FD)
        ready_read, ready_write = os.pipe()
        owner_read, owner_write = os.pipe()
        try:
            program = [container_image.PYTHON, f"{GUEST_INSIDE}/boot.py", f"{RUN_INSIDE}/boot.json"]
            environment, own_log = dict(spec.environment()), f"{RUN_INSIDE}/kernel.log"
            request = {"argv": program, "env": environment, "log": own_log}
            exit_ = pid1.spawn(request, (ready_write, owner_read))
        except SandboxLost:
            os.close(ready_read)
            os.close(owner_write)
            raise
        finally:
            os.close(ready_write)
            os.close(owner_read)
        info["ip"] = str(run / "k")
        kernel = InitKernel(pid1, exit_, info, owner_write, run / "kernel.log")
        await wait_ready(kernel, ready_read)
        return kernel

    def _no_system_packages(self) -> str | None:
        if not self.config.root:
            return super()._no_system_packages()
        if self.network.kind == "none":
            return "there is no network. A package's file can be given by its path."
        return None

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
        if self._pid1 is not None:
            self._pid1.lost.set()  # also for a `start` that waits
        # shielded: a second Ctrl-C must not leave a container behind
        await asyncio.shield(self._end())

    async def _end(self) -> None:
        await self.network.stop()
        await asyncio.to_thread(self.cleanup)

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
            if self._keeper is not None:
                self._keeper.close()
                self._keeper = None

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

    async def _copy_from(self, origin: StateDir) -> None:
        await origin.copy_to(self.state, self._giving)

    @property
    def _giving(self) -> int:
        """Whose files are those that we make; -1 for our own."""
        # only root can give files away; others' are the container's user's already
        return self._spec.uid if self._spec is not None and os.getuid() == 0 else -1

    def put(self, source: Path, target: str) -> None:
        try:
            self.state.put(source, target, self._giving)
        except OSError as error:
            raise SandboxError(f"{source} does not fit into the sandbox: {error}") from error

    # -- what is told ----------------------------------------------------------------------------

    def verdict(self) -> Verdict | None:
        found = self._breaches.new() if self._breaches is not None else None
        if self._pid1 is None or not self._pid1.lost.is_set() or self._told_end:
            return found
        self._told_end = True
        if self._ends is not None and time.monotonic() >= self._ends:
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
        held = self._spec.facts() if self._spec is not None else {}
        walls = {"runtime": self._runtime, "seccomp": seccomp.digest()}  # on top of the engine's
        return {**super().describe(), **walls, **held, **(self._image or {})}
