"""What is particular to containers: the arguments of the engine's API, labels, wheels, limits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError, SandboxError, SandboxUnavailable
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox import container_image, container_spec
from lis_kernel.sandbox.container_labels import owner_labels, remove_orphans
from lis_kernel.sandbox.container_spec import Spec, arguments
from lis_kernel.sandbox.docker import DockerSandbox
from lis_kernel.sandbox.podman import PodmanSandbox
from lis_kernel.sandbox.state import runtime_dir


def spec(tmp_path, limits: Limits | None = None, **config) -> Spec:
    settings = SandboxConfig(backend="docker", **config)
    return Spec(settings, limits or Limits(), "lis-0", "image", "/opt/lis/bin/python", tmp_path)


def test_the_walls(tmp_path) -> None:
    made = arguments(spec(tmp_path))
    assert made["network_mode"] == "none"
    assert (made["cap_drop"], made["cap_add"]) == (["ALL"], [])
    assert made["security_opt"] == ["no-new-privileges"]
    assert made["read_only"] is True
    assert made["user"] != "0:0"
    assert made["memswap_limit"] == made["mem_limit"] == 2 << 30
    assert all(mount["ReadOnly"] for mount in made["mounts"])


def test_root_gets_what_apt_needs_and_says_what_is_lost(tmp_path) -> None:
    made = spec(tmp_path, root=True)
    assert arguments(made)["read_only"] is False
    assert "SYS_ADMIN" not in arguments(made)["cap_add"]
    assert made.facts()["limits"]["disk_bytes"] is None


@pytest.mark.parametrize("disk", [1 << 20, 100 << 20, 2 << 30])
@pytest.mark.parametrize("memory", [64 << 20, 2 << 30])
def test_the_writable_folders_fit_into_the_limits(tmp_path, disk, memory) -> None:
    made = spec(tmp_path, Limits(disk_bytes=disk, memory_bytes=memory))
    assert sum(made.space.values()) < memory
    if disk > 4 << 20:
        assert sum(made.space.values()) + container_spec.RUN_BYTES <= disk


def test_mounts_are_read_only_unless_asked(tmp_path) -> None:
    mounts = (f"{tmp_path}:/data", f"{tmp_path}:/scratch:rw")
    made = {m["Target"]: m["ReadOnly"] for m in arguments(spec(tmp_path, mounts=mounts))["mounts"]}
    assert (made["/data"], made["/scratch"]) == (True, False)
    for wrong in ("/nowhere:/x", "x", f"{tmp_path}:relative", f"{tmp_path}:/opt/lis:rw"):
        with pytest.raises(ConfigError):
            arguments(spec(tmp_path, mounts=(wrong,)))


def test_the_platforms_of_wheels() -> None:
    found = container_image.platforms("x86_64", "glibc", "2.36")
    assert found[0] == "manylinux_2_36_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64"} <= set(found)
    assert container_image.platforms("aarch64", "", "") == [
        "musllinux_1_2_aarch64",
        "musllinux_1_1_aarch64",
    ]


def test_a_daemon_elsewhere_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(SandboxUnavailable, match="Docker daemon"):
        DockerSandbox.connect(2)


@pytest.mark.docker
async def test_an_unknown_image_or_one_of_others_says_what_to_do() -> None:
    sandbox = DockerSandbox(SandboxConfig(image="lis-no-such:1"), Limits())
    with pytest.raises(SandboxUnavailable, match="lis image build --backend docker --base"):
        await sandbox.start()
    await sandbox.stop()


@pytest.mark.docker
async def test_a_sandbox_has_its_time() -> None:
    sandbox = DockerSandbox(SandboxConfig(), Limits(sandbox_seconds=1.5))
    await sandbox.start()
    kernel = await sandbox.launch_kernel()
    try:
        await asyncio.wait_for(kernel.wait(), 10)
        assert sandbox.verdict() == "timeout"
        with pytest.raises(SandboxError):
            await sandbox.launch_kernel()
    finally:
        await sandbox.stop()


@pytest.mark.docker
async def test_its_time_is_over_also_where_the_owner_stands_still() -> None:
    sandbox = DockerSandbox(SandboxConfig(), Limits(sandbox_seconds=1))
    await sandbox.start()
    try:
        client = DockerSandbox.connect()
        deadline = time.monotonic() + 6
        while client.api.containers(all=True, filters={"name": f"lis-{sandbox.state.name}"}):
            assert time.monotonic() < deadline
            time.sleep(0.1)  # blocks the loop
        await asyncio.sleep(0.1)
        assert sandbox.verdict() == "timeout"
    finally:
        await sandbox.stop()


@pytest.mark.docker
async def test_files_can_be_taken_out_of_a_dead_container(tmp_path) -> None:
    sandbox = DockerSandbox(SandboxConfig(), Limits())
    session = KernelSession(sandbox, sandbox.limits, "pass")
    await sandbox.start()
    try:
        await session.start()
        await session.execute("open('output/answer.txt', 'w').write('42')")
        DockerSandbox.connect().api.kill(f"lis-{sandbox.state.name}")
        await asyncio.sleep(1)
        assert sandbox.verdict() == "killed"
        assert sandbox.read("/testbed/output/answer.txt", 10) == b"42"
    finally:
        await session.close()
        await sandbox.stop()


@pytest.mark.docker
async def test_pid_1_cannot_be_killed_stopped_or_traced() -> None:
    sandbox = DockerSandbox(SandboxConfig(), Limits())
    session = KernelSession(sandbox, sandbox.limits, "pass")
    await sandbox.start()
    try:
        await session.start()
        code = """
import ctypes, os, signal
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT):
    os.kill(1, number)
print(ctypes.CDLL(None, use_errno=True).ptrace(16, 1, 0, 0))
try: os.listdir("/proc/1/fd")
except PermissionError: print("closed")
"""
        result = await session.execute(code)
        assert result.outputs[0]["text"] == "-1\nclosed\n"
        await session.start()
    finally:
        await session.close()
        await sandbox.stop()


OWNER = """
import asyncio, sys
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel import registry
async def main():
    made = registry.load(registry.SANDBOXES, sys.argv[1], "backend")
    sandbox = made(SandboxConfig(backend=sys.argv[1]), Limits())
    await sandbox.start()
    await sandbox.launch_kernel()
    print(sandbox.state.name, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(DockerSandbox, marks=pytest.mark.docker),
        pytest.param(PodmanSandbox, marks=pytest.mark.podman),
    ],
)
def test_a_killed_owner_leaves_no_container(engine: type[DockerSandbox]) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, engine.backend], stdout=subprocess.PIPE, text=True
    )
    name = owner.stdout.readline().strip()
    client = engine.connect()
    assert client.containers.list(filters={"name": f"lis-{name}"})
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 5
    while client.containers.list(all=True, filters={"name": f"lis-{name}"}, ignore_removed=True):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    while (runtime_dir() / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.docker
def test_orphans_are_removed_and_others_are_not() -> None:
    client = DockerSandbox.connect()
    labels = owner_labels("lis-0", None)
    image = container_image.default_tag()
    dead = client.containers.create(image, "true", labels={**labels, "lis.owner.start": "1"})
    alive = client.containers.create(image, "true", labels=labels)
    other = client.containers.create(image, "true", labels={**labels, "lis.owner.pidns": "x/1"})
    try:
        assert remove_orphans(client) == [dead.name]
    finally:
        alive.remove()
        other.remove()


@pytest.mark.docker
async def test_root_inside_can_install_and_keeps_it_over_a_restart() -> None:
    sandbox = DockerSandbox(SandboxConfig(root=True), Limits())
    session = KernelSession(sandbox, sandbox.limits, "pass")
    await sandbox.start()
    try:
        await session.start()
        code = "import os; path = '/usr/local/bin/x'; open(path, 'w').close(); os.chown(path, 1, 1)"
        assert (await session.execute(code)).status == "ok"
        await session.start()
        result = await session.execute(
            "import os; print(os.getuid(), os.stat('/usr/local/bin/x').st_uid)"
        )
        assert result.outputs[0]["text"] == "0 1\n"
    finally:
        await session.close()
        await sandbox.stop()


def test_the_sandbox_is_not_root_on_the_host(tmp_path) -> None:
    assert spec(tmp_path).uid == (os.getuid() or container_spec.SANDBOX_UID)
