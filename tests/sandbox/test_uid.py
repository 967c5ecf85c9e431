"""Who a sandbox is on the host: not root, even where root starts it; and all of it without root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from boxes import shown

import lis_kernel
from lis_kernel.config import data_dir
from lis_kernel.errors import SandboxError, SandboxUnavailable
from lis_kernel.sandbox import keeper
from lis_kernel.sandbox import limits as walls
from lis_kernel.sandbox.cgroup import layout
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
PROGRAM = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import lis_kernel
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox

async def main():
    limits = Limits(memory_bytes=512 << 20, disk_bytes=32 << 20, cell_seconds=20)
    sandbox = BubblewrapSandbox(SandboxConfig(), limits)
    session = KernelSession(sandbox, limits, "pass")
    answers = []
    try:
        await sandbox.start()
        await session.start()
        for code in (
            "import os; print(os.getuid())",
            "open('/tmp/x', 'wb').write(bytes(64 << 20))",
            "import os; os.remove('/tmp/x'); open('/testbed/kept', 'w').write('kept')",
            "x = bytearray(600 << 20)",
            "import os; os.kill(os.getpid(), 9)",
            "print(open('/testbed/kept').read())",
        ):
            result = await session.execute(code)
            answers.append([result.status, result.verdict, str(result.outputs)])
        facts = dict(sandbox.describe())
        kept = sandbox.read("/testbed/kept", 10).decode()
    finally:
        await session.close()
        await sandbox.stop()
    import os
    left = [name for name in os.listdir(os.environ["LIS_RUNTIME_DIR"]) if name[0] != "."]
    print(json.dumps({"answers": answers, "facts": facts, "kept": kept, "left": left}))

asyncio.run(main())
"""


OPEN_UP = """
set -e
keep=$1; shift
mount --rbind /root "$keep"
mount -t tmpfs -o mode=0755,size=1m open /root
for entry in "$keep"/* "$keep"/.[!.]*; do
    name=${entry##*/}
    if [ -d "$entry" ]; then mkdir "/root/$name"; mount --rbind "$entry" "/root/$name"; fi
done
exec "$@"
"""
"""Our interpreter may lie below /root: in a namespace of its own, everybody may enter that."""


@needs_root
def test_as_nobody_it_works_and_the_limits_are_listed_truthfully(tmp_path) -> None:
    """Files, limits, a restart and the clean-up, with nothing that only root may do."""
    runtime = Path("/tmp") / f"lis-test-{os.getpid()}"
    program = runtime / "program.py"
    runtime.mkdir(mode=0o755)
    try:
        program.write_text(PROGRAM)
        for name in ("run", "root"):
            (runtime / name).mkdir(mode=0o755)
        os.chown(runtime / "run", NOBODY, NOBODY)
        environment = {
            "PATH": os.environ["PATH"],
            "LIS_RUNTIME_DIR": str(runtime / "run"),
            "LIS_DATA_DIR": str(data_dir()),
            "HOME": "/nonexistent",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        source = Path(lis_kernel.__file__).parent.parent
        argv = [sys.executable, str(program), str(source)]
        inner = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *argv]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", OPEN_UP, "sh", str(runtime / "root"), *inner],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said = json.loads(done.stdout)
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
    first, full, _, hog, killed, last = said["answers"]
    assert "1000" in first[2]
    assert "No space left" in full[2] or "too large" in full[2]
    assert "MemoryError" in hog[2] or hog[1] == "oom"
    assert killed[:2] == ["died", "killed"]
    assert "kept" in last[2]
    assert (said["kept"], said["left"]) == ("kept", [])
    held = said["facts"]["limits"]
    assert said["facts"]["host_uid"] == NOBODY
    assert "tmpfs" in held["disk_bytes"]["held_by"]
    if layout().kind == "cgroup v1":  # root's; nobody may not write there
        assert held["memory_bytes"]["held_by"] == walls.OWN_MEMORY
        assert held["pids"]["held_by"] == walls.WHOLE
        assert held["cpus"]["held_by"] is None
