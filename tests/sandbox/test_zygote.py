"""What is particular to the zygote: its start and end, what it cannot be, and its forks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from boxes import shown
from zygotes import end_wardens, jails, reserves, until, wardens

import lis_kernel
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError, SandboxError, SandboxLost
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox import berth, cgroup, zygote
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.sandbox.reaper import members
from lis_kernel.sandbox.zygote import ZygoteSandbox

pytestmark = pytest.mark.bwrap
LIMITS = Limits(cell_seconds=30, grace_seconds=1)


@pytest.fixture
def runtime(monkeypatch):
    """A short runtime folder of our own: a warden of our own, which ends after the test."""
    path = Path("/tmp") / f"lis-z-{os.getpid()}"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("LIS_RUNTIME_DIR", str(path))
    monkeypatch.setenv("LIS_ZYGOTE_DIR", str(path / "zygotes"))
    yield path
    end_wardens(path)
    shutil.rmtree(path, ignore_errors=True)


@contextlib.asynccontextmanager
async def fork(limits: Limits = LIMITS, **config: object) -> AsyncIterator[KernelSession]:
    said: list[str] = []
    sandbox = ZygoteSandbox(SandboxConfig(**config), limits, say=said.append)
    session = KernelSession(sandbox, limits, "pass")
    session.said = said  # type: ignore[attr-defined]
    try:
        await sandbox.start()
        await session.start()
        yield session
    finally:
        await session.close()
        await sandbox.stop()


def started(session: KernelSession) -> str:
    return str(session.sandbox.describe()["started"])


# -- the warden ------------------------------------------------------------------------------------


async def test_many_at_once_have_one_warden_and_nothing_is_left(runtime) -> None:
    async with contextlib.AsyncExitStack() as stack:
        sessions = await asyncio.gather(*(stack.enter_async_context(fork()) for _ in range(5)))
        assert [started(session) for session in sessions] == ["zygote"] * 5
        assert len(wardens(runtime)) == 1
        pids = {pid for session in sessions for pid in session.sandbox._cgroup.pids()}
        names = {session.sandbox.state.name for session in sessions}
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)
    assert [path.name for path in runtime.iterdir()] == ["zygotes"]
    for folder in cgroup.layout().folders.values():
        assert not [name for name in names if list(folder.glob(f"*{name}*"))]


def test_it_ends_when_it_was_not_wanted_for_a_while(runtime, monkeypatch) -> None:
    monkeypatch.setenv("LIS_ZYGOTE_SECONDS", "0.5")

    async def use() -> None:
        async with fork() as session:
            await asyncio.sleep(1)
            assert len(wardens(runtime)) == 1
            assert shown(await session.execute("print(1)")) == "1"
            found.extend(jails(runtime / "zygotes"))

    found: list[Path] = []
    asyncio.run(use())
    (jail,) = found
    assert until(lambda: not wardens(runtime))
    assert until(lambda: not members(jail.name, []))
    assert [path.name for path in runtime.iterdir()] == ["zygotes"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_its_end_is_its_sandboxes_end_and_the_next_has_another(runtime, number) -> None:
    async with fork() as session:
        (warden,), (jail,) = wardens(runtime), jails(runtime / "zygotes")
        os.kill(warden, number)
        with pytest.raises(SandboxLost):
            await session.execute("import time; time.sleep(20)")
        assert session.verdict == "killed"
        async with fork() as other:
            assert started(other) == "zygote"
            assert wardens(runtime) != [warden]
    assert await asyncio.to_thread(until, lambda: not members(jail.name, []))
    assert await asyncio.to_thread(until, lambda: not jail.exists())


def test_the_first_ones_of_many_processes_start_one(runtime) -> None:
    code = "import lis_kernel.sandbox.image as i; from lis_kernel.sandbox.berth import reach\n"
    code += "reach(i.find(), ()).send(b'/tmp/0000cafe'); print('ok')"
    env = {**os.environ, "PYTHONPATH": str(Path(lis_kernel.__file__).parent.parent)}
    users = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [user.communicate()[0] for user in users] == [b"ok\n"] * 4
    assert len(wardens(runtime)) == 1


async def test_its_socket_is_this_users_alone(runtime) -> None:
    async with fork():
        (folder,) = (runtime / "zygotes").iterdir()
        assert [path.stat().st_mode & 0o077 for path in (runtime, folder, folder / "s")] == [0] * 3


async def test_what_it_cannot_read_ends_the_connection_and_nothing_else(runtime) -> None:
    async with fork() as session:
        (folder,) = (runtime / "zygotes").iterdir()
        for word in (b"../../etc", b"x" * 60, b"", b"\xff" * 8):
            connection = berth._connect(folder)
            assert connection is not None
            with connection:
                connection.settimeout(5)
                connection.send(word)
                if word:
                    assert connection.recv(10) == b""
        assert shown(await session.execute("print(1)")) == "1"


# -- what is no fork -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"mounts": ("/usr/share:/shared",)}, "mounts"),
        ({"network": "open"}, "network open"),
    ],
)
async def test_what_a_fork_cannot_have_starts_cold(config, why) -> None:
    async with fork(**config) as session:
        assert started(session) == f"cold: {why}"
        assert not any("zygote" in line for line in session.said)
        assert shown(await session.execute("import os; print(os.getuid())")) == "1000"


async def test_a_disk_that_memory_cannot_hold_is_a_file(runtime) -> None:
    if not (zygote.real_root() and zygote.disk.tools()):
        pytest.skip("only root has such disks")
    limits = LIMITS.model_copy(update={"disk_bytes": 2 << 30})
    async with fork(limits) as session:
        assert started(session).startswith("cold: a disk")
        assert session.sandbox.describe()["limits"]["disk_bytes"]["limit"] == 2 << 30


async def test_where_namespaces_do_not_nest_it_starts_cold_and_says_so_once(
    runtime, monkeypatch
) -> None:
    """As on a system that refuses them: the zygote's own trial finds it out."""
    package = runtime / "package"
    broken(
        package,
        "nest.py",
        "def fork_apart():",
        "def fork_apart():\n    raise OSError(1, 'no nesting')",
    )
    monkeypatch.setattr(berth.lis_kernel, "__file__", str(package / "lis_kernel" / "__init__.py"))
    monkeypatch.setattr(zygote, "_told", set())
    async with fork() as first, fork() as second:
        for session in (first, second):
            assert started(session).startswith("cold: namespaces do not nest here")
            assert shown(await session.execute("print(1)")) == "1"
        assert [len(session.said) for session in (first, second)] == [1, 0]
        assert "no nesting" in first.said[0]
    assert wardens(runtime) == []


async def test_a_control_group_that_may_not_be_entered_is_no_fork(runtime, monkeypatch) -> None:
    if cgroup.layout().kind not in ("cgroup v1", "cgroup v2"):
        pytest.skip("no control groups of ours here")
    monkeypatch.setattr(zygote, "_told", set())
    closed = property(lambda self: [Path("/proc/self/oom_score")])
    monkeypatch.setattr(cgroup.Cgroup, "doors", closed)
    async with fork() as session:
        assert "cannot be entered" in started(session)
        assert "cannot be entered" in session.said[0]


def broken(package: Path, name: str, old: str, new: str) -> None:
    """A copy of lis_kernel in which one file of the guest is another."""
    shutil.copytree(Path(lis_kernel.__file__).parent, package / "lis_kernel")
    path = package / "lis_kernel" / "guest" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def test_the_wall_of_the_network_is_the_jails_too(runtime, monkeypatch) -> None:
    """The inner wall gone, the outer one stands: there is nothing but a loopback in the jail."""
    package = runtime / "package"
    broken(package, "nest.py", " | CLONE_NEWNET\n", "\n")
    nest = package / "lis_kernel" / "guest" / "nest.py"
    nest.write_text(nest.read_text().replace("    loopback()\n", ""))
    where = str(package / "lis_kernel" / "__init__.py")
    monkeypatch.setattr(berth.lis_kernel, "__file__", where)
    async with fork() as session:
        assert started(session) == "zygote"
        code = "import socket; print(sorted(name for _, name in socket.if_nameindex()))"
        assert shown(await session.execute(code)) == "['lo']"


async def test_without_any_wall_of_the_network_it_does_not_start(runtime, monkeypatch) -> None:
    package = runtime / "package"
    broken(package, "nest.py", " | CLONE_NEWNET\n", "\n")
    for path, old in (
        ("guest/nest.py", "    loopback()\n"),
        ("sandbox/jail.py", '["--unshare-net"]'),
    ):
        text = (package / "lis_kernel" / path).read_text()
        assert old in text
        kept = "[]" if old.startswith("[") else ""
        (package / "lis_kernel" / path).write_text(text.replace(old, kept))
    where = str(package / "lis_kernel" / "__init__.py")
    monkeypatch.setattr(berth.lis_kernel, "__file__", where)
    with pytest.raises(SandboxError, match="network wall is missing"):
        async with fork():
            pass


# -- its forks -------------------------------------------------------------------------------------


async def test_forks_share_no_random_numbers_and_no_identity() -> None:
    code = (
        "import random, uuid, tempfile, json; import numpy\n"
        "print(json.dumps([random.random(), str(uuid.uuid4()), tempfile.mkdtemp(),\n"
        "    get_ipython().kernel.ident, numpy.random.random()]))"
    )
    async with fork(preload=("numpy",)) as first, fork(preload=("numpy",)) as second:
        said = [json.loads(shown(await session.execute(code))) for session in (first, second)]
        assert all(one != other for one, other in zip(*said, strict=True))


async def test_preloaded_packages_are_there(runtime) -> None:
    async with fork(preload=("decimal",)) as session:
        assert shown(await session.execute("import sys; print('decimal' in sys.modules)")) == "True"
        assert started(session) == "zygote"


async def test_a_package_that_is_not_there_is_named(runtime) -> None:
    async with fork(preload=("no_such_package",)) as session:
        assert "no_such_package" in started(session)


def test_other_backends_have_no_preload() -> None:
    with pytest.raises(ConfigError, match="preload"):
        BubblewrapSandbox(SandboxConfig(backend="bubblewrap", preload=("numpy",)), LIMITS)


async def test_a_restart_keeps_the_files_and_forgets_the_names() -> None:
    async with fork() as session:
        await session.execute("x = 1; open('kept', 'w').write('a')")
        await session.start()
        code = "import os; print(os.path.exists('kept'), 'x' in globals())"
        assert shown(await session.execute(code)) == "True False"


async def test_one_takes_no_more_watches_than_its_share() -> None:
    """The kernel counts them by uid, which the siblings share."""
    take = (
        "import ctypes; libc = ctypes.CDLL(None); fds = []\n"
        "while (fd := libc.inotify_init()) >= 0: fds.append(fd)\n"
        "print(len(fds))"
    )
    async with fork() as greedy, fork() as other:
        assert 8 <= int(shown(await greedy.execute(take))) <= 32
        code = "import ctypes; print(ctypes.CDLL(None).inotify_init() > 0)"
        assert shown(await other.execute(code)) == "True"


async def test_a_fork_is_in_reserve_and_is_not_missed_when_it_has_ended(runtime) -> None:
    async with fork() as session:
        for _ in range(10):  # the zygote may change generations just then
            assert await asyncio.to_thread(until, reserves)
            there = set(reserves())
            async with fork() as other:
                if there & set(other.sandbox._cgroup.pids()):
                    break
        else:
            pytest.fail("no sandbox is the fork that was in reserve")
        assert await asyncio.to_thread(until, reserves)
        for pid in reserves():
            os.kill(pid, signal.SIGKILL)
        async with fork() as another:
            assert shown(await another.execute("print(1)")) == "1"
        assert shown(await session.execute("print(2)")) == "2"
    assert await asyncio.to_thread(until, lambda: len(reserves()) == 1)


async def test_processes_are_listed_by_what_they_are() -> None:
    async with fork() as session:
        code = "print([open(f'/proc/{p}/cmdline').read().strip(chr(0)) for p in (1, 'self')])"
        assert shown(await session.execute(code)) == "['lis: init of a sandbox', 'lis: kernel']"


async def test_init_is_out_of_reach() -> None:
    async with fork() as session:
        code = (
            "import ctypes, os, signal\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "for call in (lambda: open('/proc/1/mem', 'rb'), lambda: os.listdir('/proc/1/fd'),\n"
            "             lambda: open('/proc/1/environ', 'rb').read(1)):\n"
            "    try:\n        print('got', call())\n"
            "    except PermissionError:\n        print('refused')\n"
            "print(libc.ptrace(16, 1, 0, 0))\n"
            "for number in range(1, 65):\n"
            "    if number not in (32, 33):\n        os.kill(1, number)\n"
            "print('alive')"
        )
        said = shown(await session.execute(code)).split("\n")
        assert said == ["refused"] * 3 + ["-1", "alive"]
        assert shown(await session.execute("print(2)")) == "2"


async def test_nothing_of_the_jails_or_the_wardens_is_inherited() -> None:
    code = (
        "import os\n"
        "for pid in sorted(p for p in os.listdir('/proc') if p.isdigit() and p != '1'):\n"
        "    for fd in sorted(os.listdir(f'/proc/{pid}/fd'), key=int):\n"
        "        try:\n            print(os.readlink(f'/proc/{pid}/fd/{fd}'))\n"
        "        except OSError:\n            pass"
    )
    async with fork() as session:
        names = shown(await session.execute(code)).split("\n")
        sockets = [name for name in names if name.startswith("socket:")]
        others = {name.partition(":")[0] for name in names} - {"socket", "pipe", "anon_inode"}
        assert others <= {"/dev/null", "/run/lis/kernel.log", "/testbed"} | {
            name for name in others if name.startswith("/proc/")
        }
        listening = shown(await session.execute("print(open('/proc/net/unix').read())"))
        inodes = {line.split()[6] for line in listening.split("\n")[1:]}
        tcp = shown(await session.execute("print(open('/proc/net/tcp').read())"))
        inodes |= {line.split()[9] for line in tcp.split("\n")[1:]}
        # those that were not made in this sandbox's network namespace: we are their other end
        strangers = {name for name in sockets if name[8:-1] not in inodes}
        assert len(strangers) == len(session._channels)
