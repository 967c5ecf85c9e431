"""Every limit is reached in a real sandbox: a named verdict, a way on, and the host unharmed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from boxes import shown

from lis_kernel.config import Limits, SandboxConfig, amount
from lis_kernel.errors import SandboxLost
from lis_kernel.sandbox import cgroup
from lis_kernel.sandbox import limits as walls
from lis_kernel.sandbox.cgroup import Layout
from lis_kernel.tools.observation import observe

MB = 1 << 20
GROUPS = cgroup.layout().kind
needs_groups = pytest.mark.skipif(GROUPS == "none", reason="no control groups here")


@pytest.mark.bwrap
@needs_groups
async def test_memory_of_all_processes_together(box) -> None:
    async with box(memory_bytes=256 * MB) as session:
        result = await session.execute("x = bytearray(600 << 20)\nx[::4096] = x[::4096]")
        assert (result.status, result.verdict, result.restarted) == ("died", "oom", True)
        assert "memory limit of 256 MiB" in observe(result, "python").text
        after = await session.execute("print(6 * 7)")
        assert (shown(after), after.verdict) == ("42", None)
        # several small ones, none of them too big
        hog = "import subprocess, sys\nps = [subprocess.Popen([sys.executable, '-c', "
        hog += "'x = bytearray(80 << 20); import time; time.sleep(5)']) for _ in range(5)]\n"
        hog += "print(sorted(p.wait() for p in ps)[0])"
        result = await session.execute(hog)
        assert result.verdict == "oom"


@pytest.mark.bwrap
@needs_groups
async def test_a_fork_bomb_is_bounded(box) -> None:
    bomb = """
import os, time
made = []
try:
    while True:
        pid = os.fork()
        if not pid:
            time.sleep(30); os._exit(0)
        made.append(pid)
except OSError as error:
    print(len(made), error.errno)
for pid in made:
    os.kill(pid, 9); os.waitpid(pid, 0)
"""
    async with box(pids=64) as session:
        result = await session.execute(bomb)
        made, errno = (int(word) for word in shown(result).split())
        assert made < 64
        assert errno == 11
        assert result.verdict == "pids"
        assert "limit of 64 processes" in observe(result, "python").text
        again = await session.execute("import subprocess; subprocess.run('true').returncode")
        assert (again.status, again.verdict) == ("ok", None)


@pytest.mark.bwrap
@pytest.mark.parametrize("place", ["/testbed", "/tmp", "/home/user", "/run/lis", "/dev/shm"])
async def test_the_disk_is_one_for_all_places(box, place) -> None:
    fill = f"""
import os
with open({place + "/big"!r}, "wb", buffering=0) as file:
    try:
        for _ in range(200):
            file.write(bytes(1 << 20))
    except OSError as error:
        print(error.errno, os.path.getsize(file.name) >> 20)
"""
    async with box(disk_bytes=64 * MB) as session:
        if session.sandbox.keeper.disk == "none":
            pytest.skip("no disk of a bounded size here")
        result = await session.execute(fill)
        code, size = (int(word) for word in shown(result).split())
        assert code in (27, 28)  # EFBIG of the rlimit, ENOSPC of the disk
        assert size <= 64
        assert (await session.execute(f"open('{place}/more', 'wb').write(bytes(9 << 20))")).verdict
        result = await session.execute("pass")
        assert result.verdict == "disk_full"
        assert "delete files" in observe(result, "python").text
        result = await session.execute(f"import os; os.remove('{place}/big')")
        result = await session.execute(f"print(open('{place}/ok', 'w').write('x'))")
        assert (shown(result), result.verdict) == ("1", None)


@pytest.mark.bwrap
async def test_inodes_are_bounded_too(box) -> None:
    code = """
made = 0
try:
    for made in range(100_000):
        open(f"/tmp/{made}", "w").close()
except OSError as error:
    print(error.errno, made)
"""
    async with box(disk_bytes=64 * MB) as session:
        if session.sandbox.keeper.disk == "none":
            pytest.skip("no disk of a bounded size here")
        result = await session.execute(code)
        errno, made = (int(word) for word in shown(result).split())
        assert (errno, result.verdict) == (28, "disk_full")
        assert made < 10_000


@pytest.mark.bwrap
async def test_a_full_disk_leaves_children_heard(box) -> None:
    """ipykernel copies what they print to the log, and stops reading once that has no room."""
    command = "head -c {}000000 /dev/zero | tr '\\\\0' x"
    child = f'import subprocess; subprocess.run("{command}", shell=True)'
    async with box(disk_bytes=16 * MB, cell_seconds=15) as session:
        for megabytes in (40, 2):
            result = await session.execute(child.format(megabytes))
            assert result.status == "ok"
            assert len(shown(result)) > 400_000
        result = await session.execute("import subprocess; subprocess.run(['echo', 'é'])")
        assert "é" in shown(result)


@pytest.mark.bwrap
async def test_nothing_else_can_be_written(box) -> None:
    """A tmpfs of bwrap's own, as at /dev, would be a disk without a limit."""
    code = """
import os
found = set()
for line in open("/proc/self/mountinfo"):
    place = line.split()[4]
    try:
        os.mkdir(place + "/x"); os.rmdir(place + "/x"); found.add(place)
    except OSError:
        pass
print(*sorted(found))
"""
    async with box() as session:
        places = shown(await session.execute(code)).split()
        assert places == sorted(["/testbed", "/tmp", "/home/user", "/run/lis", "/dev/shm"])


@pytest.mark.bwrap
async def test_files_survive_a_restart(box) -> None:
    async with box() as session:
        await session.execute("open('/testbed/kept', 'w').write('x'); open('/tmp/t', 'w').close()")
        result = await session.execute("import os; os.kill(os.getpid(), 9)")
        assert (result.status, result.verdict) == ("died", "killed")
        result = await session.execute("import os; print(open('/testbed/kept').read())")
        assert shown(result) == "x"
        assert session.sandbox.read("/testbed/kept", 10) == b"x"


@pytest.mark.bwrap
@needs_groups
async def test_cpu_time(box) -> None:
    code = """
import os, time
for _ in range(3):
    if not os.fork():
        while True: pass
start, cpu = time.time(), sum(os.times()[:4])
while time.time() - start < 2: pass
used = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    used += (int(fields[11]) + int(fields[12])) / 100
os.system("kill -9 $(pgrep -P %d) 2>/dev/null" % os.getpid())
print(used)
"""
    async with box(cpus=0.5) as session:
        assert float(shown(await session.execute(code))) < 2.2  # 1 s, and the kernel's own start


@pytest.mark.bwrap
async def test_open_files_and_core_dumps(box) -> None:
    code = """
import os, resource
fds = []
try:
    while True: fds.append(os.open("/dev/null", 0))
except OSError as error:
    for fd in fds: os.close(fd)
    print(error.errno, len(fds) < 100, resource.getrlimit(resource.RLIMIT_CORE))
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
except ValueError as error:
    print("hard")
"""
    async with box(open_files=100) as session:
        assert shown(await session.execute(code)) == "24 True (1, 1)\nhard"


@pytest.mark.bwrap
async def test_a_cell_and_a_sandbox_have_their_time(box) -> None:
    async with box(cell_seconds=0.5, sandbox_seconds=4) as session:
        result = await session.execute("import time; time.sleep(60)")
        assert (result.status, result.verdict) == ("timeout", "timeout")
        with pytest.raises(SandboxLost, match="sandbox_seconds"):
            await session.execute("import time; time.sleep(60)", timeout=60)
        assert session.verdict == "timeout"


@pytest.mark.bwrap
async def test_the_record_says_what_holds(box) -> None:
    async with box() as session:
        limits = session.sandbox.describe()["limits"]
    assert limits["memory_bytes"]["held_by"] in (GROUPS, walls.OWN_MEMORY)
    assert set(limits) >= {"pids", "cpus", "disk_bytes", "open_files", "core_bytes"}


# -- without control groups --------------------------------------------------------------------


@pytest.mark.bwrap
async def test_rlimits_are_the_second_best(box, monkeypatch) -> None:
    monkeypatch.setattr(cgroup, "layout", lambda: Layout("none"))
    async with box(memory_bytes=512 * MB, pids=40) as session:
        held = session.sandbox.describe()["limits"]
        assert held["memory_bytes"]["held_by"] == walls.OWN_MEMORY
        assert held["cpus"]["held_by"] is None
        result = await session.execute("x = bytearray(600 << 20)")
        assert "MemoryError" in str(result.outputs)
        await session.execute("import numpy; numpy.ones((200, 200)) @ numpy.ones((200, 200))")
        forks = "import os\nn = 0\ntry:\n  while n < 99:\n    n += 1\n    os.fork() or os._exit("
        forks += "__import__('time').sleep(2) or 0)\nexcept OSError: print('bounded', n < 40)"
        assert shown(await session.execute(forks)) == "bounded True"


@pytest.mark.bwrap
async def test_without_a_disk_of_its_own_it_is_watched(box, monkeypatch) -> None:
    monkeypatch.setattr("lis_kernel.sandbox.keeper._possible", lambda loop: [("none", "none")])
    async with box(disk_bytes=20 * MB, cell_seconds=20) as session:
        held = session.sandbox.describe()["limits"]["disk_bytes"]["held_by"]
        assert held.startswith("measured")
        fill = "import time\nfor n in range(9): open(f'/tmp/{n}', 'wb').write(bytes(5 << 20))\n"
        result = await session.execute(fill + "time.sleep(10)")
        assert (result.status, result.verdict) == ("died", "disk_full")
        result = await session.execute("import os\nfor n in range(9): os.remove(f'/tmp/{n}')")
        assert result.status == "ok"


def test_usage_counts_blocks_and_follows_nothing(tmp_path) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    (tmp_path / "out").symlink_to("/usr")
    os.truncate(tmp_path / "a", 10**9)
    assert 100_000 <= walls.usage(tmp_path) < 200_000


# -- cgroup v2, on a tree of plain files ---------------------------------------------------------


def tree(root: Path, own: str, **files: str) -> Path:
    """A /proc/self and a cgroup2 hierarchy; `files` are below it, with `__` for `/`."""
    top = root / "cg"
    (top / own.lstrip("/")).mkdir(parents=True)
    for name, text in files.items():
        path = top / name.replace("__", "/").replace("cgroup_", "cgroup.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "mountinfo").write_text(f"30 1 0:2 / {top} rw - cgroup2 cgroup2 rw\n")
    (root / "cgroup").write_text(f"0::{own}\n")
    return top


def test_v2_takes_the_nearest_group_that_hands_controllers_down(tmp_path) -> None:
    files = {}
    for place, handed in (("user__app", "memory pids"), ("user__app__shell", "")):
        files[f"{place}__cgroup_procs"] = ""
        files[f"{place}__cgroup_controllers"] = "memory pids"
        files[f"{place}__cgroup_subtree_control"] = handed
    top = tree(tmp_path, "/user/app/shell", **files)
    control = top / "user/app/shell/cgroup.subtree_control"
    control.unlink()
    control.mkdir()  # cannot be written, as in a group that holds processes
    assert cgroup.layout(tmp_path, systemd=False).kind == "none"
    control.rmdir()
    control.write_text("")
    control.chmod(0o400)
    where = cgroup.layout(tmp_path, systemd=False)
    assert where.kind == "cgroup v2"
    group = cgroup.planned(where, "0badcafe")
    assert group is not None
    assert group.make(Limits(memory_bytes=128 * MB, pids=20, cpus=0.5))
    (path,) = group.paths
    assert path.name == "lis-0badcafe"
    assert (path / "memory.max").read_text() == str(128 * MB)
    assert (path / "pids.max").read_text() == "20"
    (path / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert group.breaches() == {"oom"}
    assert group.breaches() == set()
    (path / "pids.events").write_text("max 3\n")
    assert group.breaches() == {"pids"}


def test_no_hierarchy_is_no_wall(tmp_path) -> None:
    assert cgroup.layout(tmp_path, systemd=False) == Layout("none")


def test_amounts_in_words() -> None:
    assert [amount(n) for n in (5, 2048, 256 * MB, 3 << 29, 2 << 30)] == [
        "5 bytes",
        "2 KiB",
        "256 MiB",
        "1.5 GiB",
        "2 GiB",
    ]


async def test_local_has_the_limits_that_make_sense() -> None:
    from lis_kernel.sandbox.local import LocalSandbox

    sandbox = LocalSandbox(SandboxConfig(backend="local"), Limits())
    try:
        await sandbox.start()
        held = sandbox.describe()["limits"]
    finally:
        await sandbox.stop()
    assert held["disk_bytes"]["held_by"].startswith("measured")
    assert held["open_files"]["held_by"] == "rlimit, of each process"


# -- what it makes the host write ----------------------------------------------------------------

FLOOD = """
import os
log = next(int(fd) for fd in os.listdir("/proc/self/fd")
           if os.readlink(f"/proc/self/fd/{fd}").endswith("kernel.log"))
written = 0
try:
    for _ in range(200):
        written += os.write(log, bytes(1 << 20))
        %s
except OSError as error:
    print(error.errno, end=" ")
print(written >> 20)
"""


@pytest.mark.bwrap
async def test_the_kernels_own_log_counts_as_its_disk(box) -> None:
    """Standard output and error of the process itself go to a file of the host's side."""
    async with box(disk_bytes=64 * MB) as session:
        if session.sandbox.keeper.disk == "none":
            pytest.skip("no disk of a bounded size here")
        folder = session.sandbox.state.root
        result = await session.execute(FLOOD % "pass")
        code, size = (int(word) for word in shown(result).split())
        assert code in (27, 28)
        assert size <= 64
        assert result.verdict == "disk_full"
        assert walls.usage(folder) < MB  # the host's own folder: the record, the lock, /etc
        result = await session.execute("import os; os.truncate('/run/lis/kernel.log', 0)")
        assert (result.status, result.verdict) == ("ok", None)


SOCKETS = """
import time
for n in range(200):
    open(f"%s/{n}", "wb").write(bytes(1 << 20))
    time.sleep(0.02)
"""
UNLINKED = """
import os, time
kept = []
for n in range(200):
    kept.append(open("/tmp/x", "wb", buffering=0))
    os.remove("/tmp/x")
    kept[-1].write(bytes(1 << 20))
    time.sleep(0.02)
"""


@pytest.mark.bwrap
async def test_without_a_disk_the_log_and_the_sockets_folder_are_bounded(box, monkeypatch) -> None:
    monkeypatch.setattr("lis_kernel.sandbox.keeper._possible", lambda loop: [("none", "none")])
    async with box(disk_bytes=20 * MB, cell_seconds=20) as session:
        result = await session.execute(FLOOD % "pass")
        assert shown(result) == "27 20"  # RLIMIT_FSIZE
        result = await session.execute(SOCKETS % "/run/lis")
        assert (result.status, result.verdict) == ("died", "disk_full")
        assert walls.usage(session.sandbox.state.root) < 120 * MB
    async with box(disk_bytes=20 * MB, cell_seconds=20) as session:
        result = await session.execute(UNLINKED)
        assert (result.status, result.verdict) == ("died", "disk_full")


async def test_local_is_bounded_as_well() -> None:
    from lis_kernel.kernel.session import KernelSession
    from lis_kernel.sandbox.local import LocalSandbox

    limits = Limits(disk_bytes=20 * MB, cell_seconds=20)
    sandbox = LocalSandbox(SandboxConfig(backend="local"), limits)
    session = KernelSession(sandbox, limits, "pass")
    try:
        await sandbox.start()
        await session.start()
        assert shown(await session.execute(FLOOD % "pass")) == "27 20"
        result = await session.execute(SOCKETS % (sandbox.state.root / "run"))
        assert (result.status, result.verdict) == ("died", "disk_full")
        assert walls.usage(sandbox.state.root) < 120 * MB
    finally:
        await session.close()
        await sandbox.stop()


# -- a scope of systemd's, as far as it goes without one -----------------------------------------


def test_a_scope_is_held_by_a_process_that_keeps_no_pipe_open() -> None:
    """Its counters must outlive the kernel; the kernel's end must be seen all the same."""
    words = cgroup.scope_command("0badcafe-1", Limits(pids=20, cpus=0.5, memory_bytes=128 * MB))
    assert {"--property=TasksMax=21", "--property=CPUQuota=50%"} <= set(words)
    inner = words[words.index("--") + 1 :]
    read, write = os.pipe()
    process = subprocess.Popen(
        [*inner, "sh", "-c", "echo $$"], stdout=write, pass_fds=(write,), start_new_session=True
    )
    os.close(write)
    with os.fdopen(read) as file:
        assert file.read() == f"{process.pid}\n"  # to its end: nobody else holds it
    assert process.wait() == 0
    os.killpg(process.pid, signal.SIGKILL)  # the holder was there


def test_where_no_user_manager_hands_memory_down_there_is_no_scope(tmp_path, monkeypatch) -> None:
    top = tree(tmp_path, "/session")
    (tmp_path / "run" / "systemd").mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/systemd-run")
    manager = top / cgroup.USER_MANAGER.format(uid=os.getuid())
    manager.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "run" / "systemd" / "private"))
        for handed, kind in (("pids", "none"), ("memory pids", "systemd scope")):
            (manager / "cgroup.controllers").write_text(handed)
            where = cgroup.layout(tmp_path)
            assert (where.kind, set(where.folders)) == (
                kind,
                set(handed.split()) if kind != "none" else set(),
            )
    assert cgroup.layout(tmp_path, systemd=False) == Layout("none")
