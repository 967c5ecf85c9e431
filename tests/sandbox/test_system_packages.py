"""`apt-get` in a sandbox: it works for root with a network, and says why not everywhere else."""

from __future__ import annotations

import socket
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_network import box, on_podman_too

from lis_kernel.sandbox import container_image
from lis_kernel.sandbox.docker import DockerSandbox


@cache
def mirror() -> tuple[str, int]:
    """Host and port that apt-get of the image asks first."""
    look = "grep -rhoE 'https?://[^ ]+' /etc/apt/sources.list /etc/apt/sources.list.d | head -n 1"
    said = DockerSandbox.connect().containers.run(
        container_image.default_tag(),
        entrypoint=["/bin/sh", "-c", look],
        command=[],
        network_mode="none",
        remove=True,
    )
    parts = urlsplit(said.decode().strip())
    assert parts.hostname
    return parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


@on_podman_too
@pytest.mark.parametrize("network", ["none", "allow=some.example"])
async def test_who_is_not_root_is_told_what_to_do(backend: str, network: str) -> None:
    wheels = "takes wheels from /testbed/input" if network == "none" else "pip install NAME"
    async with box(backend, network) as made:
        for command in ("apt-get update", "apt-get -y install sl", "apt install sl"):
            said = await made.ask(f"sh({command!r})")
            name = command.split()[0]
            assert said.startswith(f"100 {name}: no system packages can be installed here: ")
            assert "you are not root" in said and wheels in said
        said = await made.ask("sh('sudo -E DEBIAN_FRONTEND=x apt-get install -y sl; sudo id -u')")
        assert "nobody can be root here" in said and "no system packages" in said
        assert "apt " in await made.ask("sh('apt --version')")  # what only looks still works


@pytest.mark.docker
async def test_root_without_a_network_is_told_so_and_installs_a_file(tmp_path: Path) -> None:
    package = deb(tmp_path)
    async with box("docker", "none", package, root=True) as made:
        said = await made.ask("sh('apt-get update && apt-get install -y sl')")
        assert said.startswith("100 ") and "there is no network" in said
        said = await made.ask(f"sh('sudo apt-get install -y /testbed/input/{package.name}')")
        assert said.startswith("0 "), said
        assert await made.ask("sh('lis-hello')") == "0 hello"


@pytest.mark.docker
@pytest.mark.parametrize("network", ["open", "allow"])
async def test_root_with_a_network_installs(network: str) -> None:
    host, port = mirror()
    try:
        socket.create_connection((host, port), 5).close()
    except OSError as error:
        pytest.skip(f"the mirror of the test's base image cannot be reached from here: {error}")
    policy = f"allow=!{host}:{port}" if network == "allow" else network
    async with box("docker", policy, root=True) as made:
        said = await made.ask("sh('apt-get update -q && apt-get install -qy sl')")
        assert said.startswith("0 "), said
        assert await made.ask("sh('ls /usr/games/sl')") == "0 /usr/games/sl"
        attempts = made.attempts()
        assert (network == "open") == (attempts == [])
        assert all(attempt == (host, port, True) for attempt in attempts)


@pytest.mark.docker
async def test_root_with_a_list_that_has_no_mirror_is_told_which_host_was_refused() -> None:
    async with box("docker", "allow=some.example", root=True) as made:
        said = await made.ask("sh('apt-get update')")
        assert "403" in said
        assert (*mirror(), False) in made.attempts()


def deb(folder: Path) -> Path:
    """The smallest package with a command."""
    root = folder / "lis-hello"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: lis-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <n@o.example>\n"
        "Description: says hello\n"
    )
    command = root / "usr/bin/lis-hello"
    command.write_text("#!/bin/sh\necho hello\n")
    command.chmod(0o755)
    made = folder / "lis-hello_1.0_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", str(root), str(made)]
    subprocess.run(build, check=True, capture_output=True)
    return made
