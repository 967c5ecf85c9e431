"""Mounts: what is refused, and what a bubblewrap sandbox makes of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.sandbox.mounts import Mount, parse


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/tmp:/data", ("/data", False)),
        ("/tmp:/data:ro", ("/data", False)),
        ("/tmp:/data/:rw", ("/data", True)),
        ("/tmp:/testbed/data:rw", ("/testbed/data", True)),
        ("/tmp://data", ("/data", False)),
    ],
)
def test_forms(text: str, mount: tuple[str, bool]) -> None:
    assert parse([text]) == (Mount(Path("/tmp").resolve(), *mount),)


def test_home_is_understood(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "with:colon").mkdir()
    assert parse(["~/with:colon:/data"]) == (Mount(tmp_path / "with:colon", "/data"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/tmp", "no place in the sandbox"),
        ("tmp:/data", "not an absolute path of the host"),
        ("/nowhere:/data", "does not exist"),
        ("/tmp:data", "not an absolute path of the sandbox"),
        ("/tmp:/data/../proc", "not an absolute path of the sandbox"),
        *(
            (f"/tmp:{place}", "belongs to the sandbox itself")
            for place in (
                *("/", "//", "/proc", "/proc/1", "/dev", "/dev/shm", "/sys", "/etc", "/etc/passwd"),
                *("/usr", "/usr/bin", "/lib", "/opt", "/opt/lis", "/opt/lis/bin", "/opt/python"),
                *("/opt/lis-guest/guest", "/run", "/run/lis", "/bin", "/./proc", "//proc//"),
            )
        ),
        *((f"/tmp:{own}:rw", "would hide") for own in ("/testbed", "/tmp", "/home", "/home/user")),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse([text])


def test_two_in_one_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="two mounts at /data"):
        parse(["/tmp:/data", "/usr:/data/"])


@pytest.mark.bwrap
async def test_a_sandbox_reads_them_and_writes_only_where_it_may(tmp_path: Path) -> None:
    for name in ("given", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    mounts = (
        f"{tmp_path}/given:/data",
        f"{tmp_path}/open:/testbed/work:rw",
        f"{tmp_path}/given/f:/one",
    )
    sandbox = BubblewrapSandbox(SandboxConfig(mounts=mounts), Limits(cell_seconds=20))
    await sandbox.start()
    session = KernelSession(sandbox, sandbox.limits, "pass")
    code = """
for path in ("/data/f", "/testbed/work/f", "/one"):
    print(open(path).read())
    try:
        open(path, "a").write("!")
    except OSError as error:
        print(error.errno)
"""
    try:
        await session.start()
        result = await session.execute(code)
        assert "".join(o.get("text", "") for o in result.outputs).split() == [
            "given", "30", "open", "given", "30",
        ]  # fmt: skip
        assert sandbox.describe()["mounts"] == list(mounts)
    finally:
        await session.close()
        await sandbox.stop()
    assert (tmp_path / "open" / "f").read_text() == "open!"
    assert (tmp_path / "given" / "f").read_text() == "given"


async def test_a_wrong_mount_starts_nothing() -> None:
    sandbox = BubblewrapSandbox(SandboxConfig(mounts=("/nowhere:/data",)), Limits())
    with pytest.raises(ConfigError, match="mounts: /nowhere"):
        await sandbox.start()


@pytest.mark.bwrap
async def test_a_mount_that_only_its_owner_may_use_is_reached(tmp_path: Path) -> None:
    """Also run by root, whose sandboxes are somebody else where no mount forbids it."""
    said: list[str] = []
    (tmp_path / "closed").write_text("closed")
    (tmp_path / "closed").chmod(0o600)
    for name, host_is_us in (("closed", True), ("open", False)):
        (tmp_path / "open").write_text("open")
        config = SandboxConfig(mounts=(f"{tmp_path}/{name}:/one",))
        sandbox = BubblewrapSandbox(config, Limits(cell_seconds=20), say=said.append)
        session = KernelSession(sandbox, sandbox.limits, "pass")
        try:
            await sandbox.start()
            await session.start()
            result = await session.execute("print(open('/one').read())")
            assert "".join(o.get("text", "") for o in result.outputs).strip() == name
            us = sandbox.describe()["host_uid"] == os.getuid()
            assert us == (host_is_us or os.getuid() != 0)
        finally:
            await session.close()
            await sandbox.stop()
    assert any("as root" in line for line in said) == (os.getuid() == 0)
