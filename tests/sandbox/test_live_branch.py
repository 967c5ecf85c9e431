"""Live branches: a second sandbox whose kernel is a fork of a running one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest
from boxes import shown

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError, SandboxError, SandboxLost, SandboxUnavailable
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox import cgroup
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.sandbox.zygote import ZygoteSandbox

pytestmark = pytest.mark.bwrap
LIMITS = Limits(
    cell_seconds=20, grace_seconds=1, memory_bytes=256 << 20, disk_bytes=64 << 20, pids=64
)


class Tree:
    """A kernel, and the branches of it that a test makes."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()

    async def root(self, **config: object) -> KernelSession:
        sandbox = ZygoteSandbox(SandboxConfig(branch=True, **config), LIMITS, setup=True)
        self._stack.push_async_callback(sandbox.stop)
        await sandbox.start()
        session = KernelSession(sandbox, LIMITS, "pass")
        self._stack.push_async_callback(session.close)
        await session.start()
        return session

    async def branch(self, session: KernelSession) -> KernelSession:
        twin = await session.branch()
        self._stack.push_async_callback(twin.sandbox.stop)
        self._stack.push_async_callback(twin.close)
        return twin


@pytest.fixture(autouse=True)
def needs_groups() -> None:
    if cgroup.layout().kind not in ("cgroup v1", "cgroup v2"):
        pytest.skip("live branches need control groups of ours")


@pytest.fixture
async def tree() -> AsyncIterator[Tree]:
    made = Tree()
    async with made._stack:
        yield made


async def said(session: KernelSession, code: str) -> str:
    result = await session.execute(code)
    assert result.status == "ok", result.outputs
    return shown(result)


NAMES = """
import random, os
from pathlib import Path
squares = (n * n for n in range(1_000_000)); next(squares)
os.makedirs('a/b', exist_ok=True); os.chdir('a'); Path('b/mine').write_text('it')
random.seed(7)
kept = [object()]; same = kept[0]
"""


async def test_names_and_files_are_as_they_were_and_each_goes_its_own_way(tree) -> None:
    one = await tree.root()
    await said(one, NAMES)
    two = await tree.branch(one)
    look = (
        "print(next(squares), kept[0] is same, os.getcwd(), Path('b/mine').read_text(), "
        "random.random())"
    )
    first, second = await said(one, look), await said(two, look)
    assert first == second
    assert first.startswith("1 True /testbed/a it 0.")
    await said(two, "Path('b/mine').rename('mine'); Path('mine').write_text('two'); kept.clear()")
    three = await tree.branch(two)
    assert await said(three, "print(next(squares), len(kept), Path('mine').read_text())") == (
        "4 0 two"
    )
    assert await said(one, "print(next(squares), len(kept), Path('b/mine').read_text())") == (
        "4 1 it"
    )
    await one.execute("Path('b/mine').write_text('one')")
    assert await said(three, "print(Path('b').exists(), os.listdir('b'))") == "True []"


async def test_a_thread_that_prints_all_the_time_is_no_harm(tree) -> None:
    one = await tree.root(preload=("numpy",))
    await said(
        one,
        "import logging, numpy, sys, threading, time\n"
        "numbers = numpy.arange(1000); squares = (n * n for n in range(10**9)); next(squares)\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        "def talk():\n"
        "    while True:\n"
        "        print('talk'); logging.warning('talk'); time.sleep(0.0005)\n"
        "threading.Thread(target=talk, daemon=True).start()",
    )
    for _ in range(5):
        two = await tree.branch(one)
        code = "logging.warning('log'); print(int(numbers.sum()), next(squares), end='')"
        assert await said(two, code) == "WARNING:root:log\n499500 1"
        three = await tree.branch(two)
        code = "logging.warning('log'); print(next(squares), end='')"
        assert await said(three, code) == "WARNING:root:log\n4"
        assert (await one.execute("pass")).status == "ok"


async def test_bash_goes_on_where_it_was(tree) -> None:
    one = await tree.root()
    await said(one, "%%bash\nmkdir -p /tmp/x; cd /tmp/x; export WORD=kept; f() { echo $WORD; }")
    two = await tree.branch(one)
    assert await said(two, "%%bash\npwd; f; WORD=two; touch here") == "/tmp/x\nkept"
    assert await said(one, "%%bash\nls; f") == "kept"
    assert await said(two, "%%bash\nls; f") == "here\ntwo"


async def test_its_limits_are_its_own(tree) -> None:
    one = await tree.root()
    two = await tree.branch(one)
    assert two.sandbox._cgroup.paths != one.sandbox._cgroup.paths
    assert two.sandbox._cgroup.pids()
    full = "with open('/testbed/big', 'wb') as file:\n    file.write(bytes(100 << 20))"
    assert (await two.execute(full)).verdict == "disk_full"
    left = "import os; s = os.statvfs('/testbed'); print(s.f_bavail * s.f_bsize >> 20)"
    assert int(await said(one, left)) > 60
    await said(two, "import os; os.unlink('/testbed/big')")
    with pytest.raises(SandboxLost):
        await two.execute("x = bytearray(1 << 30)")
    assert two.verdict == "oom"
    assert await said(one, "print(1)") == "1"


async def test_it_ends_without_its_origin_and_leaves_nothing(tree) -> None:
    one = await tree.root()
    await said(one, "x = 1")
    names: list[str] = []
    for _ in range(20):  # more than there can be at a time
        two = await one.branch()
        group, pids = two.sandbox._cgroup, two.sandbox._cgroup.pids()
        names.append(two.sandbox.state.name)
        await said(two, "%%bash\nsleep 1234 >/dev/null 2>&1 &")
        await two.close()
        await two.sandbox.stop()
        assert not any(path.exists() for path in group.paths)
    assert not set(os.listdir(one.sandbox.folder.parent)) & set(names)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    look = "import os; print({name for n in range(16) for name in os.listdir(f'/branches/{n}')})"
    assert await said(one, look) == "set()"
    assert "1234" not in await said(one, "%%bash\nps ax")
    assert await said(one, "print(x)") == "1"


async def test_it_ends_with_its_origin_and_cannot_be_restarted(tree) -> None:
    one = await tree.root()
    two = await tree.branch(one)
    await one.start()
    with pytest.raises(SandboxLost, match="ends with its kernel"):
        await two.execute("import time; time.sleep(20)")
    with pytest.raises(SandboxError):
        await two.sandbox.reset()
    again = await tree.branch(one)
    assert await said(again, "print(1)") == "1"


async def test_files_go_in_and_out_of_it_and_it_can_be_branched_by_files(tree, tmp_path) -> None:
    one = await tree.root()
    two = await tree.branch(one)
    (tmp_path / "in").write_text("from the host")
    two.sandbox.put(tmp_path / "in", "/testbed/input/in")
    assert await said(two, "print(open('/testbed/input/in').read())") == "from the host"
    await said(two, "open('/testbed/output/made', 'w').write('made')")
    assert two.sandbox.read("/testbed/output/made", 100) == b"made"
    assert one.sandbox.read("/testbed/output/made", 100) is None
    files = await two.sandbox.branch()
    try:
        assert files.read("/testbed/output/made", 100) == b"made"
        assert files._cgroup.paths != two.sandbox._cgroup.paths
    finally:
        await files.stop()
    assert two.sandbox.describe()["started"] == "live branch"


async def test_it_can_do_no_more_than_its_origin_but_chroot(tree) -> None:
    one = await tree.root()
    two = await tree.branch(one)
    code = (
        "import subprocess\n"
        "print([line.split()[1] for line in open('/proc/self/status') if line[:3] == 'Cap'])\n"
        "ask = 'import os\\n' + '''\n"
        "for line in open('/proc/self/status'):\n"
        "    if line[:6] in ('CapEff', 'CapPrm'): print(line.split()[1])\n"
        "try: os.chroot('/tmp')\n"
        "except PermissionError: print('refused')\n'''\n"
        "print(subprocess.run(['python3', '-c', ask], capture_output=True, text=True).stdout)\n"
        "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.unshare(0x10000000), libc.mount(b'x', b'/tmp', b'tmpfs', 0, None),\n"
        "    libc.umount2(b'/testbed', 2), libc.syscall(428, -100, b'/', 1))\n"
        "for path in ('/x', '/branches/x', '/branches/0/x', '/usr/x', '/branches/15/x'):\n"
        "    try:\n        open(path, 'w'); print('wrote', path)\n"
        "    except OSError:\n        pass"
    )
    none, chroot = "0" * 16, "0000000000040000"
    want = f"{[none, chroot, chroot, none, none]}\n{none}\n{none}\nrefused\n\n-1 -1 -1 -1"
    for session in (one, two):
        assert await said(session, code) == want


async def test_what_lies_in_its_folders_does_not_move_its_mounts(tree) -> None:
    """Links in all places, and one who looks for a moment at which the disk could be reached."""
    one = await tree.root()
    await said(
        one,
        "import os, shutil, threading\n"
        "for place in ('/testbed', '/tmp', '/home/user', '/dev/shm'):\n"
        "    for name in ('testbed', 'tmp', 'home', 'run', 'shm', '0', 'input2'):\n"
        "        os.symlink('/etc', os.path.join(place, name))\n"
        "seen = set()\n"
        "def watch():\n"
        "    while True:\n"
        "        seen.add(frozenset(os.listdir('/mnt')))\n"
        "threading.Thread(target=watch, daemon=True).start()",
    )
    for _ in range(5):
        two = await tree.branch(one)
        look = "print(*(line.split()[3:6] for line in open('/proc/self/mountinfo')), sep='\\n')"
        for session in (one, two):
            assert "/etc" not in [eval(line)[0] for line in (await said(session, look)).split("\n")]
        places = "print([os.path.ismount(p) for p in ('/testbed', '/tmp', '/home/user')])"
        assert await said(two, places) == "[True, True, True]"
        assert await said(two, "print(os.readlink('/testbed/tmp'))") == "/etc"
    disk = "any(names and names <= {'testbed', 'tmp', 'home', 'run', 'shm'} for names in seen)"
    assert await said(one, f"print({disk})") == "False"


async def test_a_kernel_that_does_not_fork_is_said_and_goes_on(tree) -> None:
    one = await tree.root()
    await said(one, "import os; fork = os.fork; os.fork = lambda: 1 / 0")
    with pytest.raises(SandboxError, match="did not branch"):
        await asyncio.wait_for(one.branch(), 40)
    await said(one, "os.fork = fork")
    two = await tree.branch(one)
    assert await said(two, "print(2)") == "2"


async def test_it_must_be_asked_for(tmp_path) -> None:
    with pytest.raises(ConfigError, match="branch"):
        BubblewrapSandbox(SandboxConfig(backend="bubblewrap", branch=True), LIMITS)
    for config in ({}, {"branch": True, "mounts": (f"{tmp_path}:/shared",)}):
        tmp_path.chmod(0o755)
        sandbox = ZygoteSandbox(SandboxConfig(**config), LIMITS)
        session = KernelSession(sandbox, LIMITS, "pass")
        try:
            await sandbox.start()
            await session.start()
            with pytest.raises(SandboxUnavailable):
                await session.branch()
            assert await said(session, "print(1)") == "1"
        finally:
            await session.close()
            await sandbox.stop()
