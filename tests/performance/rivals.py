"""The rivals that hold a kernel or a container: what one would build without lis_kernel.

`Plain` is ipykernel through jupyter_client, as it comes: tcp, `wait_for_ready`. `Container` is the
same kernel in `docker run --network none`, its ipc sockets in a bind mount. `Exec` runs commands in
a container by `docker exec` over the Docker SDK, word for word as the paper's package does. The
paper's whole rollout is in `reference.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import tempfile
import uuid
from functools import cache
from pathlib import Path
from subprocess import DEVNULL
from time import perf_counter
from typing import Any, Self

import reference
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from ours import ms

LABEL = f"lis-bench={uuid.uuid4().hex[:12]}"
"""Of every container started here."""
PYTHON = "/opt/lis/bin/python"
PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}
COMMAND_SECONDS = 120
WAIT = 60


@cache
def no_docker() -> str:
    """Why there are no rivals in containers, or nothing; makes their images the first time."""
    try:
        reference.ensure()
        _kernel_image()
    except reference.Missing as missing:
        return str(missing)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@cache
def _client() -> Any:
    from docker import from_env

    return from_env(timeout=600)


@cache
def _kernel_image() -> str:
    from lis_kernel.sandbox import container_image

    name = container_image.default_tag()
    if not _client().images.list(name):
        container_image.build(_client(), base=reference.IMAGE)
    return name


def clean_up() -> None:
    """Remove every container started here."""
    if not _client.cache_info().currsize:
        return
    for container in _client().containers.list(all=True, filters={"label": LABEL}):
        with contextlib.suppress(Exception):
            container.remove(force=True, v=True)
    _client().close()
    _client.cache_clear()


class _Kernel:
    """A kernel and the client that talks to it."""

    client: AsyncKernelClient

    async def execute(self, source: str) -> str:
        """Run a cell to its reply and to idle; what it printed and gave."""
        request = self.client.execute(source, allow_stdin=False)
        said = []
        while True:
            message = await self.client.get_iopub_msg(timeout=WAIT)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind == "stream":
                said.append(content["text"])
            elif kind == "execute_result":
                said.append(content["data"]["text/plain"])
        while True:
            reply = await self.client.get_shell_msg(timeout=WAIT)
            if reply["parent_header"].get("msg_id") == request:
                break
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"the rival's cell failed: {reply['content']}")
        return "".join(said)


class Plain(_Kernel):
    """ipykernel on this host, through jupyter_client; an async context manager."""

    async def __aenter__(self) -> Self:
        self.manager = AsyncKernelManager(kernel_name="python3")
        began = perf_counter()
        await self.manager.start_kernel(stdout=DEVNULL, stderr=DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=WAIT)
        await self.execute("1+1")
        self.start_ms = ms(began)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.stop_channels()
        await self.manager.shutdown_kernel(now=True)

    @property
    def pid(self) -> int:
        return int(self.manager.provisioner.pid)  # type: ignore[union-attr]


class Container(_Kernel):
    """ipykernel in a container without a network; an async context manager."""

    async def __aenter__(self) -> Self:
        self.name = f"lis-bench-{uuid.uuid4().hex[:12]}"
        self.folder = Path(tempfile.mkdtemp(prefix="lb-"))
        self.folder.chmod(0o777)
        facts = {
            "transport": "ipc",
            "key": uuid.uuid4().hex,
            "signature_scheme": "hmac-sha256",
            **PORTS,
        }
        (self.folder / "c.json").write_text(json.dumps({**facts, "ip": "/run/lb/k"}))
        try:
            began = perf_counter()
            await _docker(
                *("run", "-d", "--network", "none", "--label", LABEL, "--name", self.name),
                *("--user", f"{os.getuid()}:{os.getgid()}", "-e", "HOME=/tmp"),
                *("-v", f"{self.folder}:/run/lb", _kernel_image()),
                *(PYTHON, "-m", "ipykernel_launcher", "-f", "/run/lb/c.json"),
            )
            self.client = AsyncKernelClient()
            self.client.load_connection_info({**facts, "ip": f"{self.folder}/k"})
            self.client.start_channels()
            await self.client.wait_for_ready(timeout=WAIT)
            await self.execute("1+1")
            self.start_ms = ms(began)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(AttributeError):
            self.client.stop_channels()
        await _docker("rm", "-f", "-v", self.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def pids(self) -> list[int]:
        """Its kernel, and the shim that holds it."""
        pid = int(await _docker("inspect", "-f", "{{.State.Pid}}", self.name))
        shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return [pid, shim]


class Exec:
    """A container for commands, each by `docker exec`; an async context manager."""

    def __init__(self, image: str = reference.IMAGE) -> None:
        self.image = image

    async def __aenter__(self) -> Self:
        self.box = await asyncio.to_thread(
            _client().containers.run,
            self.image,
            ["/bin/bash"],
            detach=True,
            stdin_open=True,
            tty=True,
            network_mode="none",
            labels=dict([LABEL.split("=")]),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.box.remove, force=True, v=True)

    async def run(self, command: str) -> bytes:
        """What `command` printed."""
        words = ["bash", "-c", f"timeout {COMMAND_SECONDS} bash -c {shlex.quote(command)}"]
        done = await asyncio.to_thread(
            self.box.exec_run,
            words,
            workdir="/testbed",
            environment={"PATH": reference.PATH},
        )
        if done.exit_code:
            raise RuntimeError(f"the rival's {command!r} failed: {done.output[-2000:]!r}")
        return bytes(done.output)

    async def commit(self, name: str) -> None:
        """Freeze its files as the image `name`, e.g. `mine:1`."""
        await asyncio.to_thread(self.box.commit, *name.split(":"))

    @staticmethod
    async def forget(name: str) -> None:
        await asyncio.to_thread(_client().images.remove, name, force=True)


async def _docker(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "docker",
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"docker {words[0]} failed: {err.decode()[-2000:]}")
    return out.decode().strip()
