"""What becomes of a sandbox's files: its reset, and its branches."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from boxes import BACKENDS, shown

from lis_kernel import registry
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import SandboxError, SandboxLost
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox.zygote import ZygoteSandbox

LIMITS = Limits(
    cell_seconds=30, grace_seconds=1, memory_bytes=512 << 20, disk_bytes=64 << 20, pids=64
)


class Opened:
    """Sessions in sandboxes of one backend, all ended at the end."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._stack = contextlib.AsyncExitStack()

    async def session(self, limits: Limits = LIMITS, **config: object) -> KernelSession:
        made = registry.load(registry.SANDBOXES, self.backend, "--backend")
        sandbox = made(SandboxConfig(backend=self.backend, **config), limits)
        self._stack.push_async_callback(sandbox.stop)
        await sandbox.start()
        return await self.into(sandbox)

    async def into(self, sandbox) -> KernelSession:
        session = KernelSession(sandbox, sandbox.limits, "pass")
        self._stack.push_async_callback(session.close)
        await session.start()
        return session

    async def branch(self, session: KernelSession) -> KernelSession:
        twin = await session.sandbox.branch()
        self._stack.push_async_callback(twin.stop)
        return await self.into(twin)


@pytest.fixture
async def opened(request) -> AsyncIterator[Opened]:
    made = Opened(getattr(request, "param", "zygote"))
    async with made._stack:
        yield made


everywhere = pytest.mark.parametrize("opened", BACKENDS, indirect=True)
zygote = pytest.mark.bwrap

FILL = "from pathlib import Path\n"
FILL += "for place in ('/testbed', '/tmp', str(Path.home())):\n"
FILL += "    Path(place, 'mine').write_text('it')\n"
LIST = (
    "import os\nfor place in ('/testbed', '/tmp', os.path.expanduser('~'), '/dev/shm'):\n"
    "    names = sorted(os.listdir(place))\n"
    "    print(place, [name for name in names if not name.startswith(('.', 'tmp'))])"
)
FULL = "with open('/testbed/big', 'wb') as file:\n"
FULL += "    for _ in range(200):\n        file.write(bytes(1 << 20))"
LEFT = "import os; s = os.statvfs('/testbed'); print(s.f_bavail * s.f_bsize >> 20)"


# -- reset -----------------------------------------------------------------------------------------


@everywhere
async def test_a_reset_sandbox_is_as_a_new_one(opened) -> None:
    session = await opened.session()
    new = shown(await session.execute(LIST))
    await session.execute(
        FILL + "import subprocess; x = 1; open('/dev/shm/mine', 'w')\n"
        "subprocess.Popen(['sleep', '1234'], start_new_session=True)"
    )
    assert shown(await session.execute(LIST)) != new
    await session.sandbox.reset()
    await session.start()
    assert shown(await session.execute(LIST)) == new
    assert shown(await session.execute("print('x' in globals())")) == "False"
    code = "import subprocess; print(subprocess.run(['ps', 'ax'], capture_output=True).stdout)"
    assert "1234" not in shown(await session.execute(code))


@zygote
async def test_its_disk_is_empty_and_as_large_as_before(opened) -> None:
    session = await opened.session()
    empty = shown(await session.execute(LEFT))
    for _ in range(3):
        full = await session.execute(FULL)
        assert full.verdict == "disk_full"
        await session.sandbox.reset()
        await session.start()
        assert shown(await session.execute(LEFT)) == empty


@zygote
async def test_what_was_written_is_given_back(opened) -> None:
    session = await opened.session()
    (memory,) = {session.sandbox._cgroup.folders["memory"]}
    used = memory / "memory.usage_in_bytes"
    if not used.exists():
        used = memory / "memory.current"
    await session.execute("open('a', 'wb').write(bytes(50 << 20))")
    assert int(used.read_text()) > 50 << 20
    await session.sandbox.reset()
    async with asyncio.timeout(10):  # the kernel counts behind
        while int(used.read_text()) > 30 << 20:
            await asyncio.sleep(0.02)


@zygote
async def test_shared_memory_does_not_outlive_it(opened) -> None:
    session = await opened.session()
    make = "import ctypes; print(ctypes.CDLL(None).shmget(77, 4096, 0o{}600))"
    assert shown(await session.execute(make.format(1))) != "-1"
    assert shown(await session.execute(make.format(0))) != "-1"
    await session.sandbox.reset()
    await session.start()
    assert shown(await session.execute(make.format(0))) == "-1"


@zygote
async def test_the_host_sees_the_new_files(opened, tmp_path) -> None:
    session = await opened.session()
    sandbox = session.sandbox
    await session.execute("open('/testbed/output/old', 'w').write('old')")
    await sandbox.reset()
    assert sandbox.collect("/testbed/output", tmp_path, 1000) == ([], [])
    (tmp_path / "in").write_text("new")
    sandbox.put(tmp_path / "in", "/testbed/input/in")
    await session.start()
    assert shown(await session.execute("print(open('/testbed/input/in').read())")) == "new"
    await session.execute("open('/testbed/output/made', 'w').write('made')")
    assert sandbox.read("/testbed/output/made", 100) == b"made"


@zygote
async def test_the_way_out_is_there_again(opened) -> None:
    session = await opened.session(network="allow=one.example")
    ask = (
        "import urllib.request, urllib.error\n"
        "try:\n    urllib.request.urlopen('http://other.example/')\n"
        "except urllib.error.HTTPError as error:\n    print(error.code)"
    )
    for _ in range(2):
        assert shown(await session.execute(ask)) == "403"
        assert [attempt.host for attempt in session.sandbox.attempts()] == ["other.example"]
        await session.sandbox.reset()
        await session.start()


@zygote
async def test_one_that_is_full_of_processes_can_be_reset(opened) -> None:
    session = await opened.session()
    bomb = "import os, time\nfor _ in range(100):\n    if not os.fork():\n        time.sleep(99)"
    await session.execute(bomb)
    for _ in range(3):
        await session.sandbox.reset()
        await session.start()
        assert shown(await session.execute("print(1)")) == "1"
        await session.execute(bomb)


@zygote
async def test_one_that_has_ended_can_be_reset(opened) -> None:
    session = await opened.session()
    os.kill(session.sandbox._berth.pid, signal.SIGKILL)
    with pytest.raises(SandboxLost):
        await session.execute("import time; time.sleep(20)")
    await session.sandbox.reset()
    await session.start()
    assert shown(await session.execute("print(1)")) == "1"


@zygote
async def test_its_time_begins_anew(opened) -> None:
    session = await opened.session(LIMITS.model_copy(update={"sandbox_seconds": 3.0}))
    for _ in range(3):
        await asyncio.sleep(1.5)
        await session.sandbox.reset()
        await session.start()
    assert shown(await session.execute("print(1)")) == "1"
    with pytest.raises(SandboxLost):
        await session.execute("import time; time.sleep(20)")
    assert session.verdict == "timeout"


# -- branch ----------------------------------------------------------------------------------------

TREE = """
import os
os.chdir('/testbed')
os.makedirs('a/b'); open('a/b/c', 'w').write('c'); os.chmod('a/b', 0o500)
open('run', 'w').write('#!/bin/sh'); os.chmod('run', 0o755); os.utime('run', (1, 2))
os.link('run', 'again'); os.symlink('nowhere', 'link'); os.mkfifo('fifo')
open('closed', 'w').write('secret'); os.chmod('closed', 0)
with open('sparse', 'wb') as file:
    file.truncate(40 << 20); file.seek(30 << 20); file.write(b'end')
"""
SHOW = """
import os, stat
for folder, folders, files in sorted(os.walk('/testbed')):
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        info = os.lstat(path)
        what = os.readlink(path) if os.path.islink(path) else info.st_size
        if os.path.isdir(path): what = ''
        print(path, oct(info.st_mode), info.st_nlink, info.st_mtime_ns, what)
os.chmod('/testbed/closed', 0o600)
print(open('/testbed/closed').read(), open('/testbed/sparse', 'rb').read()[30 << 20:][:5])
"""


@everywhere
async def test_a_branch_begins_with_a_copy_and_goes_its_own_way(opened) -> None:
    session = await opened.session()
    await session.execute(FILL)
    twin = await opened.branch(session)
    assert shown(await twin.execute(LIST)) == shown(await session.execute(LIST))
    read = "from pathlib import Path; print(Path('/testbed/mine').read_text())"
    await session.execute("open('/testbed/mine', 'w').write('one')")
    await twin.execute("open('/testbed/mine', 'w').write('two')")
    assert shown(await session.execute(read)) == "one"
    assert shown(await twin.execute(read)) == "two"
    await session.sandbox.stop()
    assert shown(await twin.execute(read)) == "two"


@everywhere
async def test_files_are_copied_as_they_are(opened) -> None:
    session = await opened.session()
    result = await session.execute(TREE)
    assert result.status == "ok", result.outputs
    twin = await opened.branch(session)
    assert shown(await twin.execute(SHOW)) == shown(await session.execute(SHOW))


@zygote
async def test_its_disk_is_as_large_and_its_own(opened) -> None:
    session = await opened.session()
    await session.execute("open('/testbed/half', 'wb').write(bytes(30 << 20))")
    left = shown(await session.execute(LEFT))
    twin = await opened.branch(session)
    assert shown(await twin.execute(LEFT)) == left
    assert (await twin.execute(FULL)).verdict == "disk_full"
    assert shown(await session.execute(LEFT)) == left
    groups = [session.sandbox._cgroup, twin.sandbox._cgroup]
    assert not groups[0].pids() & groups[1].pids()


@zygote
async def test_links_in_the_place_of_folders_lead_nowhere(opened) -> None:
    session = await opened.session()
    code = (
        "import os, shutil\nos.chdir('/')\n"
        "for place in ('/testbed', '/tmp', '/home/user'):\n"
        "    for name in os.listdir(place):\n"
        "        path = os.path.join(place, name)\n"
        "        (os.unlink if not os.path.isdir(path) or os.path.islink(path)\n"
        "         else shutil.rmtree)(path)\n"
        "    for name, to in (('input', '/'), ('output', '/run/lis'), ('up', '../..')):\n"
        "        os.symlink(to, os.path.join(place, name))"
    )
    result = await session.execute(code)
    assert result.status == "ok", result.outputs
    again = await opened.branch(await opened.branch(session))
    look = "import os\nfor place in ('/testbed', '/tmp', '/home/user'):\n"
    look += "    print(*(os.readlink(os.path.join(place, n)) for n in ('input', 'output', 'up')))"
    assert shown(await again.execute(look)) == "\n".join(["/ /run/lis ../.."] * 3)


@zygote
async def test_what_changes_while_it_is_copied_does_no_harm(opened) -> None:
    """A folder that is now a link and now a folder, as fast as can be."""
    session = await opened.session()
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', '''\n"
        "import os\nos.mkdir('/testbed/d'); os.symlink('/', '/testbed/l')\n"
        "for n in range(300): open(f'/testbed/d/{n}', 'w')\n"
        "while True:\n    os.rename('/testbed/d', '/testbed/x'); os.rename('/testbed/l', "
        "'/testbed/d')\n"
        "    os.rename('/testbed/d', '/testbed/l'); os.rename('/testbed/x', '/testbed/d')\n"
        "'''])"
    )
    await session.execute(code)
    for _ in range(10):
        try:
            twin = await session.sandbox.branch()
        except SandboxError:
            continue
        try:
            found = os.listdir(twin.state.files / "testbed")
            assert set(found) <= {"d", "l", "x", "input", "output", "documents"}
            real = [n for n in found if not (twin.state.files / "testbed" / n).is_symlink()]
            assert not [n for n in real if "usr" in os.listdir(twin.state.files / "testbed" / n)]
        finally:
            await twin.stop()


@zygote
async def test_folders_that_are_too_deep_are_said_and_leave_nothing(opened) -> None:
    session = await opened.session()
    deep = "import os\nos.chdir('/tmp')\nfor _ in range(400):\n    os.mkdir('d'); os.chdir('d')"
    await session.execute(deep)
    names = set(os.listdir(session.sandbox.folder.parent))
    with pytest.raises(SandboxError, match="deep"):
        await session.sandbox.branch()
    assert set(os.listdir(session.sandbox.folder.parent)) == names


@zygote
async def test_a_cold_zygote_has_them_too(opened, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    session = await opened.session(mounts=(f"{tmp_path}:/shared",))
    assert isinstance(session.sandbox, ZygoteSandbox)
    await session.execute(FILL)
    twin = await opened.branch(session)
    assert str(twin.sandbox.describe()["started"]).startswith("cold")
    assert shown(await twin.execute(LIST)) == shown(await session.execute(LIST))
    await session.sandbox.reset()
    await session.start()
    assert "mine" not in shown(await session.execute(LIST))
