"""Who a sandbox is on the host: not root, even where root starts it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from boxes import shown

from lis_kernel.errors import SandboxError, SandboxUnavailable
from lis_kernel.sandbox import keeper
from lis_kernel.sandbox.keeper import UIDS
from lis_kernel.sandbox.reaper import members

pytestmark = pytest.mark.bwrap

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def host_uids(sandbox) -> set[int]:
    """Real uids on the host of every process of the sandbox, but for its keeper."""
    groups = sandbox._cgroup.paths if sandbox._cgroup else []
    found = set()
    for pid in members(sandbox.state.name, groups) - {sandbox.keeper.pid}:
        status = Path(f"/proc/{pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("Uid:"))
        found |= {int(word) for word in line.split()[1:]}
    return found


@needs_root
async def test_root_starts_it_and_it_is_not_root(box, tmp_path) -> None:
    given = tmp_path / "given.txt"
    given.write_text("x")
    given.chmod(0o600)
    async with box() as first, box() as second:
        uids = [host_uids(session.sandbox) for session in (first, second)]
        assert uids == [{session.sandbox.keeper.uid} for session in (first, second)]
        assert uids[0] != uids[1]
        assert all(uid >= UIDS for uid in uids[0] | uids[1])
        first.sandbox.put(given, "/testbed/input/given.txt")
        code = "import os; f = '/testbed/input/given.txt'\n"
        code += "print(os.getuid(), open(f).read(), open(f, 'a').write('y'), os.stat(f).st_uid)"
        assert shown(await first.execute(code)) == "1000 x 1 1000"
        assert first.sandbox.read("/testbed/input/given.txt", 10) == b"xy"
        await first.execute("import os; os.mkdir('/testbed/output/d', 0)")
        assert first.sandbox.describe()["host_uid"] == first.sandbox.keeper.uid


@needs_root
async def test_where_it_cannot_be_somebody_else_it_is_not_started(box, monkeypatch) -> None:
    """A system that lets only root have user namespaces: here a setpriv that fails."""
    monkeypatch.setattr(
        "lis_kernel.sandbox.keeper.Keeper.prefix",
        property(lambda self: ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--", "false"]),
    )
    with pytest.raises(SandboxError, match="ended with status 1"):
        async with box():
            pass


@needs_root
async def test_root_without_a_namespace_is_refused(box, monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == "setpriv" else "/bin/true")
    with pytest.raises(SandboxUnavailable, match=r"never root on this host.*as another user"):
        async with box():
            pass


@needs_root
@pytest.mark.parametrize("how", ["--user --map-root-user", "--user"])
def test_root_of_a_user_namespace_is_not_the_hosts(how, tmp_path) -> None:
    """Podman without root, for one: there the sandbox's uid of its own may not even exist."""
    assert keeper.real_root()
    nobody = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "unshare", *how.split()]
    inside = subprocess.run([*nobody, "cat", "/proc/self/uid_map"], capture_output=True, check=True)
    (tmp_path / "uid_map").write_bytes(inside.stdout)
    assert not keeper.real_root(tmp_path / "uid_map")


NOBODY = 65534
