"""Mounts: what is refused, and what a bubblewrap sandbox makes of the rest."""

from __future__ import annotations

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
