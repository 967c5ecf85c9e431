"""`lis doctor` on the container engines: what is there, and the one thing to do where it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lis_kernel.cli import doctor_engines
from lis_kernel.sandbox import container_image


@pytest.mark.docker
def test_docker_is_described() -> None:
    ok, said = doctor_engines.docker()
    assert ok is True
    for word in ("cgroup v", "storage ", "runc (default)", container_image.default_tag()):
        assert word in said
    assert "io.containerd" not in said


@pytest.mark.docker
def test_an_image_that_is_not_built_is_the_one_thing_to_do(monkeypatch) -> None:
    monkeypatch.setattr(container_image, "default_tag", lambda: "lis-no-such:1")
    ok, said = doctor_engines.docker()
    assert ok is None
    assert said.endswith("no image yet: lis image build --backend docker")


def test_no_daemon_is_no_failure(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    ok, said = doctor_engines.docker()
    assert ok is None
    assert "no Docker daemon answers" in said and "start it" in said


def test_what_is_not_installed_says_what_to_install(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor_engines.podman() == (None, "not installed: apt-get install podman")
    if not Path("/var/run/docker.sock").exists() and "DOCKER_HOST" not in os.environ:
        assert "apt-get install docker.io" in doctor_engines.docker()[1]


@pytest.mark.podman
def test_podman_is_described() -> None:
    ok, said = doctor_engines.podman()
    assert ok is True
    assert "cgroup v" in said and "(default)" in said


@pytest.mark.podman
def test_a_podman_that_starts_nothing_says_why(monkeypatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'this runtime is broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    settings = tmp_path / "containers.conf"
    settings.write_text(f'[engine]\nruntime = "broken"\n[engine.runtimes]\nbroken = ["{broken}"]\n')
    monkeypatch.setenv("CONTAINERS_CONF", str(settings))
    ok, said = doctor_engines.podman()
    assert ok is None
    assert "starts no container, see containers.conf" in said and "broken" in said


def test_runtimes_that_are_listed_but_not_installed_are_not_told(tmp_path: Path) -> None:
    there = tmp_path / "runsc"
    there.touch()
    known = {
        "runsc": {"path": str(there)},
        "kata": {"path": "/nowhere/kata"},
        "runc": {"path": ""},
        "io.containerd.runc.v2": {"path": "runc"},
    }
    assert doctor_engines.runtimes(known) == ["runc", "runsc"]
