"""Mounts: what is refused, and what a bubblewrap sandbox makes of the rest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.sandbox.idmap import swapped
from lis_kernel.sandbox.launch import GUEST
from lis_kernel.sandbox.mounts import Mount, parse

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


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


def test_a_wrong_mount_starts_nothing() -> None:
    with pytest.raises(ConfigError, match="mounts: /nowhere"):
        BubblewrapSandbox(SandboxConfig(mounts=("/nowhere:/data",)), Limits())


async def test_a_mount_that_vanished_starts_nothing(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    sandbox = BubblewrapSandbox(SandboxConfig(mounts=(f"{given}:/data",)), Limits())
    given.rmdir()
    with pytest.raises(ConfigError, match=f"mounts: {given} does not exist"):
        await sandbox.start()


async def run(config: SandboxConfig, code: str) -> tuple[str, int]:
    """What a cell prints, and the host's uid of the sandbox."""
    sandbox = BubblewrapSandbox(config, Limits(cell_seconds=20))
    session = KernelSession(sandbox, sandbox.limits, "pass")
    try:
        await sandbox.start()
        await session.start()
        result = await session.execute(code)
        said = "".join(o.get("text", str(o.get("evalue", ""))) for o in result.outputs)
        return said.strip(), sandbox.describe()["host_uid"]
    finally:
        await session.close()
        await sandbox.stop()


@pytest.mark.bwrap
@pytest.mark.parametrize("owner", [os.getuid(), 1234])
async def test_a_mount_that_only_its_owner_may_use_is_used_as_its_owner(tmp_path, owner) -> None:
    """Also run by root, whose sandboxes are somebody else."""
    folder, inner, other = (tmp_path / name for name in ("closed", "closed/f", "closed/other"))
    folder.mkdir(mode=0o700)
    for file in (inner, other):
        file.write_text("closed")
        file.chmod(0o600)
    if os.getuid() == 0:
        for path in (folder, inner):
            os.chown(path, owner, owner)
        os.chown(other, 4321, 4321)
    elif owner != os.getuid():
        pytest.skip("only root can give files away")
    code = """
import os
print(open("/data/f").read(), open("/one").read(), os.stat("/data/f").st_uid)
for attempt in (lambda: open("/ro/f", "a"), lambda: open("/one", "a"), lambda: open("/data/other")):
    try:
        attempt()
        print("done", end=" ")
    except OSError as error:
        print(error.errno, end=" ")
open("/data/new", "w").write("new")
"""
    config = SandboxConfig(mounts=(f"{folder}:/data:rw", f"{inner}:/one", f"{folder}:/ro"))
    said, uid = await run(config, code)
    foreign = "13" if os.getuid() == 0 else "done"
    assert said == f"closed closed 1000\n30 30 {foreign}"
    assert (folder / "new").stat().st_uid == (owner if os.getuid() == 0 else os.getuid())
    assert uid != 0


@needs_root
@pytest.mark.bwrap
async def test_what_cannot_be_shown_as_its_owners_is_refused_and_named() -> None:
    """sysfs knows no idmapped mounts; to read it, none is needed."""
    said, uid = await run(SandboxConfig(mounts=("/sys/kernel/mm:/data",)), "print(open('/data'))")
    assert "Is a directory" in said
    assert uid != 0
    with pytest.raises(ConfigError, match=r"mounts: /sys/kernel/mm is closed.*chmod -R o\+rwX"):
        await run(SandboxConfig(mounts=("/sys/kernel/mm:/data:rw",)), "pass")


@needs_root
@pytest.mark.bwrap
async def test_a_strict_installation_is_read_all_the_same(monkeypatch, tmp_path) -> None:
    """Root with umask 077: what is ours is shown to the sandbox's uid as its own."""
    strict = tmp_path / "guest"
    shutil.copytree(GUEST, strict)
    for path in (strict, *strict.iterdir()):
        path.chmod(0o700 if path.is_dir() else 0o600)
    monkeypatch.setattr("lis_kernel.sandbox.jail.GUEST", strict)
    said, uid = await run(SandboxConfig(), "print(6 * 7)")
    assert said == "42"
    assert uid != 0


@pytest.mark.parametrize("pair", [(0, 1_900_000_000), (1_900_000_005, 7), (5, 5), (0, 1), (3, 2)])
def test_an_id_map_swaps_two_and_keeps_all_others(pair: tuple[int, int]) -> None:
    lines = [[int(word) for word in line.split()] for line in swapped(*pair).splitlines()]
    assert sum(count for _, _, count in lines) == (1 << 32) - 1

    def mapped(number: int) -> int:
        (found,) = [o + number - i for i, o, count in lines if i <= number < i + count]
        return found

    assert [mapped(number) for number in pair] == [*reversed(pair)]
    for number in {0, 1, 2, 6, 8, 1_899_999_999, 1_900_000_001, (1 << 32) - 2} - set(pair):
        assert mapped(number) == number
