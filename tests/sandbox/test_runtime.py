"""`runtime=`: a second OCI runtime runs the same sandbox, and one that is not there is named."""

from __future__ import annotations

import pytest
from test_network import DIRECT, box

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.sandbox.docker import DockerSandbox
from lis_kernel.sandbox.podman import PodmanSandbox

WALLS = """
import os
print(os.getuid(), open("/proc/self/status").read().split("CapEff:\\t")[1][:16])
try:
    open("/usr/x", "w")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.crun
async def test_another_runtime_holds_the_same_walls() -> None:
    async with box("docker", "none", runtime="crun") as made:
        name = f"lis-{made.sandbox.state.name}"
        facts = DockerSandbox.connect().api.inspect_container(name)
        assert facts["HostConfig"]["Runtime"] == "crun"
        assert made.sandbox.describe()["runtime"] == "crun"
        uid = made.sandbox.describe()["host_uid"]
        assert await made.ask(WALLS) == f"{uid} {'0' * 16}\nRead-only file system"
        assert await made.ask(DIRECT.format(port=9)) == "101\n111\n101\nno names"
        first = made.sandbox.verdict()
        result = await made.session.execute("x = bytearray(3 << 30)")
        assert (first, result.verdict) == (None, "oom")


@pytest.mark.podman
async def test_podman_does_not_run_another_runtime_than_it_says() -> None:
    """Its service takes the name and uses its own: that would be a weaker wall than asked for."""
    own = str(PodmanSandbox.connect().info()["DefaultRuntime"])
    async with box("podman", "none", runtime=own) as made:
        assert made.sandbox.describe()["runtime"] == own
    other = PodmanSandbox(SandboxConfig(backend="podman", runtime="runsc"), Limits())
    with pytest.raises(ConfigError, match=f"runs every container with '{own}', not 'runsc'"):
        await other.start()
    await other.stop()


@pytest.mark.docker
async def test_a_runtime_that_the_daemon_does_not_have_is_named() -> None:
    sandbox = DockerSandbox(SandboxConfig(backend="docker", runtime="runsk"), Limits())
    with pytest.raises(
        ConfigError, match=r"runtime: the daemon has no runtime 'runsk'. It has .*runc"
    ):
        await sandbox.start()
    await sandbox.stop()
