"""What every backend must show: named behaviours, each a function of a `Bench`.

`test_conformance.py` runs each on each backend. A backend that cannot show one is listed with its
reason in `KNOWN`, beside the others, so that the list of promises that do not hold is in one place.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lis_kernel import registry
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import SandboxError
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox.network import PACKAGES

KNOWN: dict[str, dict[str, str]] = {
    "local": dict.fromkeys(
        [
            "read_only_places_refuse",
            "two_sandboxes_do_not_see_each_other",
            "environment_is_clean",
            "user_is_not_root",
            "no_network",
            "hostname_says_nothing",
            "clock_locale_and_zone",
            "paths_are_those_of_every_backend",
            "processes_end_with_the_kernel",
            "stop_ends_every_process",
            "home_and_tmp_are_its_own",
            "no_capabilities",
            "a_full_disk_is_an_error_and_a_verdict",
            "too_many_processes_are_a_verdict",
            "out_of_memory_is_a_verdict",
            "restart_after_a_full_sockets_folder",
        ],
        "local has no walls; that is what it is for",
    ),
    "zygote": {},
    "bubblewrap": {},
    "docker": {},
    "podman": {},
}

BEHAVIOURS: dict[str, Callable[[Bench], Awaitable[None]]] = {}
LIMITS = Limits(
    cell_seconds=20, grace_seconds=2, memory_bytes=512 << 20, disk_bytes=128 << 20, pids=64
)


def behaviour(function: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
    BEHAVIOURS[function.__name__] = function
    return function


@dataclass
class Bench:
    """A backend under test; `sandbox()` gives a started one with a session, stopped at the end."""

    backend: str
    tmp: Path
    sessions: list[KernelSession] = field(default_factory=list)

    def make(self, limits: Limits = LIMITS) -> Any:
        made = registry.load(registry.SANDBOXES, self.backend, "--backend")
        return made(SandboxConfig(backend=self.backend), limits)

    async def session(self, limits: Limits = LIMITS) -> KernelSession:
        sandbox = self.make(limits)
        session = KernelSession(sandbox, limits, "pass")
        self.sessions.append(session)
        await sandbox.start()
        await session.start()
        return session

    async def close(self) -> None:
        for session in self.sessions:
            await session.close()
            await session.sandbox.stop()

    def inside(self, session: KernelSession, path: str) -> str:
        """`path` as code in the sandbox names it; local's testbed lies elsewhere."""
        if self.backend == "local":
            return path.replace("/testbed", session.sandbox.describe()["testbed"], 1)
        return path


async def ask(session: KernelSession, code: str, timeout: float | None = None) -> str:
    result = await session.execute(code, timeout)
    assert result.status == "ok", (result.status, result.outputs)
    return "".join(o.get("text", "") for o in result.outputs if o.get("name") == "stdout").strip()


# -- cells ---------------------------------------------------------------------------------------


@behaviour
async def a_cell_runs(bench: Bench) -> None:
    session = await bench.session()
    assert await ask(session, "print(1 + 1)") == "2"
    assert (await session.execute("1/0")).status == "error"


@behaviour
async def text_is_utf8(bench: Bench) -> None:
    session = await bench.session()
    text = "żółw 漢字 🐢 \u202e e\u0301"
    assert await ask(session, f"print({text!r})") == text
    code = f"import subprocess; print(subprocess.run(['printf', '%s', {text!r}], "
    assert await ask(session, code + "capture_output=True).stdout.decode())") == text


@behaviour
async def large_input_crosses(bench: Bench) -> None:
    session = await bench.session()
    source = f"text = {'x' * 20_000_000!r}\nprint(len(text))"
    assert await ask(session, source) == "20000000"


@behaviour
async def large_output_is_bounded(bench: Bench) -> None:
    session = await bench.session()
    shown = await ask(session, "print('y' * 20_000_000)")
    assert 0 < len(shown) < 2 * LIMITS.output_bytes
    assert await ask(session, "print('alive')") == "alive"


@behaviour
async def large_stdin_and_stdout_of_a_process(bench: Bench) -> None:
    session = await bench.session()
    code = """
import subprocess
got = subprocess.run(["cat"], input=bytes(range(256)) * 80_000, capture_output=True).stdout
print(len(got), got == bytes(range(256)) * 80_000)"""
    assert await ask(session, code) == "20480000 True"


@behaviour
async def a_slow_cell_is_interrupted(bench: Bench) -> None:
    session = await bench.session()
    await ask(session, "kept = 1")
    result = await session.execute("import time; time.sleep(60)", 0.5)
    assert (result.status, result.restarted) == ("timeout", False)
    assert await ask(session, "print(kept)") == "1"


@behaviour
async def a_stubborn_cell_costs_the_kernel(bench: Bench) -> None:
    session = await bench.session()
    source = """
import time
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""
    result = await session.execute(source, 0.5)
    assert (result.status, result.restarted) == ("timeout", True)
    assert await ask(session, "print('new')") == "new"


@behaviour
async def a_killed_kernel_is_replaced(bench: Bench) -> None:
    session = await bench.session()
    result = await session.execute("import os; os.kill(os.getpid(), 9)")
    assert (result.status, result.restarted) == ("died", True)
    assert await ask(session, "print('new')") == "new"


@behaviour
async def processes_end_with_the_kernel(bench: Bench) -> None:
    """Also those in a session of their own, and those whose parent has gone."""
    session = await bench.session()
    code = """
import os, subprocess
subprocess.Popen("setsid sleep 987 & setsid sh -c 'sleep 987 & sleep 987' &", shell=True).wait()
"""
    await ask(session, code)
    await session.execute("import os; os.kill(os.getpid(), 9)")
    assert "987" not in await ask(session, PROCESSES)


PROCESSES = """
import glob
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        print(open(path).read().replace(chr(0), " "))
    except OSError:
        pass
"""


@behaviour
async def restart_keeps_files_and_loses_variables(bench: Bench) -> None:
    session = await bench.session()
    await ask(session, "value = 1; open('kept.txt', 'w').write('kept')")
    await session.start()
    assert await ask(session, "print(open('kept.txt').read(), 'value' in globals())") == (
        "kept False"
    )


@behaviour
async def restart_follows_no_symlink(bench: Bench) -> None:
    """The host writes files for the new kernel where the old one could leave links."""
    session = await bench.session()
    victim = bench.tmp / "victim"
    victim.write_text("the host's")
    code = f"""
import os
from ipykernel import get_connection_file
run = os.path.dirname(get_connection_file())
for name in ("connection.json", "boot.json", "kernel.log"):
    path = os.path.join(run, name)
    try:
        os.unlink(path)
        os.symlink({str(victim)!r}, path)
    except OSError:
        pass
"""
    await session.execute(code)
    await session.start()
    assert await ask(session, "print('up')") == "up"
    assert victim.read_text() == "the host's"


@behaviour
async def restart_after_a_full_sockets_folder(bench: Bench) -> None:
    session = await bench.session()
    code = """
from ipykernel import get_connection_file
try:
    with open(get_connection_file() + "-fill", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
except OSError:
    pass
"""
    await session.execute(code)
    await session.start()
    assert await ask(session, "print('up')") == "up"


# -- files ---------------------------------------------------------------------------------------

NAMES = ["plain.bin", "with space", "quo'te\"d", "new\nline", "żółw", "-rf", "$HOME;ls", "a\\b"]


@behaviour
async def binary_files_go_in_and_out(bench: Bench) -> None:
    session = await bench.session()
    data = bytes(range(256)) * 4096
    (bench.tmp / "in.bin").write_bytes(data)
    session.sandbox.put(bench.tmp / "in.bin", "/testbed/input/in.bin")
    code = (
        "data = open('input/in.bin', 'rb').read(); open('output/out.bin', 'wb').write(data[::-1])"
    )
    await ask(session, code)
    assert session.sandbox.read("/testbed/output/out.bin", 1 << 30) == data[::-1]


@behaviour
async def names_of_any_kind(bench: Bench) -> None:
    session = await bench.session()
    for name in NAMES:
        (bench.tmp / name).write_text(name, "utf-8")
        session.sandbox.put(bench.tmp / name, f"/testbed/input/{name}")
    assert json.loads(await ask(session, "import json, os; print(json.dumps(os.listdir('input')))"))
    code = "import shutil; shutil.copytree('input', 'output', dirs_exist_ok=True)"
    await ask(session, code)
    taken, refused = session.sandbox.collect("/testbed/output", bench.tmp / "out", 1 << 20)
    assert (sorted(taken), refused) == (sorted(NAMES), [])
    assert all((bench.tmp / "out" / name).read_text("utf-8") == name for name in NAMES)


@behaviour
async def folders_go_in_and_out(bench: Bench) -> None:
    session = await bench.session()
    (bench.tmp / "tree" / "a" / "b").mkdir(parents=True)
    (bench.tmp / "tree" / "a" / "b" / "leaf").write_text("leaf")
    session.sandbox.put(bench.tmp / "tree", "/testbed/input/tree")
    code = "import os; os.rename('input/tree/a/b/leaf', 'input/tree/a/leaf2'); "
    await ask(session, code + "open('input/tree/new', 'w').write('n')")
    taken, _ = session.sandbox.collect("/testbed/input/tree", bench.tmp / "out", 1000)
    assert sorted(taken) == ["a/leaf2", "new"]


@behaviour
async def what_was_put_belongs_to_the_user(bench: Bench) -> None:
    session = await bench.session()
    (bench.tmp / "f").write_text("1")
    session.sandbox.put(bench.tmp / "f", "/testbed/input/deep/f")
    code = "import os; open('input/deep/f', 'a').write('2'); os.rename('input/deep', 'input/d'); "
    assert await ask(session, code + "print(open('input/d/f').read())") == "12"


@behaviour
async def the_executable_bit_is_kept(bench: Bench) -> None:
    session = await bench.session()
    script = bench.tmp / "run.sh"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    session.sandbox.put(script, "/testbed/input/run.sh")
    code = "import subprocess; print(subprocess.run('input/run.sh', capture_output=True).stdout)"
    assert await ask(session, code) == r"b'ran\n'"


@behaviour
async def put_outside_is_refused(bench: Bench) -> None:
    session = await bench.session()
    (bench.tmp / "f").write_text("1")
    for target in ("/etc/f", "/testbed/../etc/f", "f", "/"):
        with pytest.raises(SandboxError):
            session.sandbox.put(bench.tmp / "f", target)


@behaviour
async def read_is_limited(bench: Bench) -> None:
    session = await bench.session()
    await ask(session, "open('big', 'wb').write(b'x' * 100_000)")
    assert session.sandbox.read("/testbed/big", 10) == b"x" * 10
    assert session.sandbox.read("/testbed/none", 10) is None
    assert session.sandbox.read("/testbed", 10) is None


@behaviour
async def collect_refuses_what_is_no_file(bench: Bench) -> None:
    session = await bench.session()
    (bench.tmp / "secret").write_text("the host's")
    code = f"""
import os, socket
os.chdir("output")
os.symlink({str(bench.tmp / "secret")!r}, "link")
os.symlink("/", "folder")
os.mkfifo("fifo")
listening = socket.socket(socket.AF_UNIX); listening.bind("socket")
open("file", "w").write("x"); os.link("file", "hard")
open("good", "w").write("good")
with open("sparse", "wb") as file: file.truncate(1 << 26)
"""
    await ask(session, code)
    taken, refused = session.sandbox.collect("/testbed/output", bench.tmp / "out", 1000)
    assert taken == ["good"]
    assert len(refused) == 7
    assert os.listdir(bench.tmp / "out") == ["good"]


@behaviour
async def a_swapped_folder_is_not_followed(bench: Bench) -> None:
    session = await bench.session()
    (bench.tmp / "answer.txt").write_text("the host's")
    testbed = bench.inside(session, "/testbed")
    code = f"import os; os.rename('{testbed}/output', '{testbed}/o'); "
    await ask(session, code + f"os.symlink({str(bench.tmp)!r}, '{testbed}/output')")
    assert session.sandbox.read("/testbed/output/answer.txt", 100) is None
    assert session.sandbox.collect("/testbed/output", bench.tmp / "out", 100) == ([], [])


# -- walls ---------------------------------------------------------------------------------------


@behaviour
async def paths_are_those_of_every_backend(bench: Bench) -> None:
    session = await bench.session()
    code = """
import os, shutil, sys
print(os.getcwd(), os.path.expanduser("~"), sys.prefix, sorted(os.listdir()))
print(all(map(shutil.which, ("bash", "git", "sed", "awk", "python3"))))
import numpy, scipy, sympy, pandas, matplotlib.pyplot
"""
    assert await ask(session, code) == (
        "/testbed /home/user /opt/lis ['documents', 'input', 'output']\nTrue"
    )


@behaviour
async def home_and_tmp_are_its_own(bench: Bench) -> None:
    session = await bench.session()
    code = """
import os, tempfile
for place in ("/testbed", "/tmp", "/home/user"):
    with open(place + "/mine", "w") as file: file.write("mine")
    os.mkdir(place + "/folder"); os.unlink(place + "/mine")
print([n for n in os.listdir("/tmp") if n not in ("folder", "lis")])
"""
    assert await ask(session, code) == "[]"


@behaviour
async def read_only_places_refuse(bench: Bench) -> None:
    session = await bench.session()
    code = """
import os
for place in "/ /usr /usr/bin /etc /opt/lis /opt/lis-guest/guest /root /var /run".split():
    try:
        open(place + "/x", "w").close(); print("wrote", place)
    except OSError:
        pass
for path in ("/etc/passwd", "/opt/lis-guest/guest/boot.py", "/proc/sysrq-trigger"):
    try:
        open(path, "a").close(); print("opened", path)
    except OSError:
        pass
"""
    assert await ask(session, code) == ""


@behaviour
async def environment_is_clean(bench: Bench) -> None:
    os.environ["LIS_TEST_SECRET"] = "host"
    try:
        session = await bench.session()
        names = json.loads(
            await ask(session, "import json, os; print(json.dumps(dict(os.environ)))")
        )
    finally:
        del os.environ["LIS_TEST_SECRET"]
    assert "host" not in names.values()
    known = {"PATH", "HOME", "USER", "SHELL", "LANG", "TZ", "PYTHONHASHSEED", "PWD", "LIS_SANDBOX"}
    known |= {"PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OLDPWD"}
    known |= {"OPENBLAS_L2_SIZE", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "GIT_PAGER", "PAGER"}
    known |= {"MPLBACKEND", "PYDEVD_USE_FRAME_EVAL", "TERM", "LC_CTYPE", "SHLVL", "_"}
    known |= {"VIRTUAL_ENV", *PACKAGES, "PIP_NO_INDEX"}
    assert set(names) - known == set()


@behaviour
async def user_is_not_root(bench: Bench) -> None:
    session = await bench.session()
    code = "import os, getpass; print(os.getuid() > 0, os.getgid() > 0, getpass.getuser())"
    assert await ask(session, code) == "True True user"


@behaviour
async def no_capabilities(bench: Bench) -> None:
    session = await bench.session()
    code = """
status = open("/proc/self/status").read().splitlines()
print([line.split()[1] for line in status if line.startswith(("CapEff", "CapBnd", "NoNewPrivs"))])
"""
    assert await ask(session, code) == "['0000000000000000', '0000000000000000', '1']"


@behaviour
async def no_network(bench: Bench) -> None:
    session = await bench.session()
    code = """
import socket
for address in ("192.0.2.1", "169.254.169.254"):
    try:
        socket.create_connection((address, 80), 1); print("connected", address)
    except OSError as error:
        print(error.errno)
print(sorted(name for _, name in socket.if_nameindex()))
"""
    assert await ask(session, code) == "101\n101\n['lo']"


@behaviour
async def hostname_says_nothing(bench: Bench) -> None:
    session = await bench.session()
    assert await ask(session, "import socket; print(socket.gethostname())") == "sandbox"


@behaviour
async def clock_locale_and_zone(bench: Bench) -> None:
    session = await bench.session()
    code = """
import os, sys, time
print(abs(time.time() - %s) < 30, time.tzname[0], sys.getfilesystemencoding(), hash("a"))
"""
    first = await ask(session, code % time.time())
    assert first.startswith("True UTC utf-8 ")
    await session.start()
    assert (await ask(session, code % time.time())).split()[-1] == first.split()[-1]


@behaviour
async def two_sandboxes_do_not_see_each_other(bench: Bench) -> None:
    one, two = await bench.session(), await bench.session()
    code = """
import os, subprocess
for place in ("/testbed", "/tmp", "/home/user", "/dev/shm"):
    try: open(place + "/mine", "w").write("secret")
    except OSError: pass
subprocess.Popen(["sleep", "986"])
"""
    await ask(one, code)
    code = """
import os
print([p for p in ("/testbed", "/tmp", "/home/user", "/dev/shm") if os.path.exists(p + "/mine")])
"""
    assert await ask(two, code) == "[]"
    assert "986" not in await ask(two, PROCESSES)


# -- limits --------------------------------------------------------------------------------------


@behaviour
async def out_of_memory_is_a_verdict(bench: Bench) -> None:
    session = await bench.session()
    code = """
import subprocess, sys
hog = "x = bytearray(1 << 30); x[::4096] = b'1' * len(x[::4096])"
subprocess.run([sys.executable, "-c", hog], check=False)
"""
    result = await session.execute(code)
    assert result.verdict == "oom"
    assert await ask(session, "print('alive')") == "alive"


@behaviour
async def a_full_disk_is_an_error_and_a_verdict(bench: Bench) -> None:
    session = await bench.session()
    code = """
try:
    with open("big", "wb") as file:
        for _ in range(1000): file.write(bytes(1 << 20))
except OSError as error:
    print(error.errno)
"""
    assert await ask(session, code) == "28"
    assert session.verdict == "disk_full"
    await ask(session, "import os; os.unlink('big'); open('small', 'w').write('fits')")
    assert session.verdict is None


@behaviour
async def too_many_processes_are_a_verdict(bench: Bench) -> None:
    session = await bench.session()
    code = """
import subprocess
running = []
try:
    for _ in range(200): running.append(subprocess.Popen(["sleep", "60"]))
except OSError as error:
    print(error.errno)
for process in running: process.kill(); process.wait()
"""
    assert await ask(session, code) == "11"
    assert session.verdict == "pids"


# -- life ----------------------------------------------------------------------------------------


@behaviour
async def describe_says_what_it_is(bench: Bench) -> None:
    session = await bench.session()
    facts = dict(session.sandbox.describe())
    assert facts["backend"] == bench.backend
    assert facts["network"] in ("none", "open")
    if bench.backend != "local":
        assert facts["image"].startswith("sha256:")
        assert any(package.startswith("numpy==") for package in facts["packages"])
    json.dumps(facts)


@behaviour
async def stop_and_cleanup_are_idempotent(bench: Bench) -> None:
    sandbox = bench.make()
    await sandbox.stop()  # before it was started
    await sandbox.start()
    await sandbox.launch_kernel()
    await sandbox.stop()
    await sandbox.stop()
    sandbox.cleanup()
    sandbox.cleanup()
    with pytest.raises(SandboxError):
        sandbox.read("/testbed/x", 1)


@behaviour
async def stop_leaves_no_folder(bench: Bench) -> None:
    session = await bench.session()
    root = session.sandbox.state.root
    assert root.is_dir()
    await session.close()
    await session.sandbox.stop()
    assert not root.exists()


@behaviour
async def stop_ends_every_process(bench: Bench) -> None:
    session = await bench.session()
    mark = f"98{time.monotonic_ns() % 10**8}"
    code = (
        f"import subprocess; subprocess.Popen('setsid sleep {mark} & sleep {mark} &', shell=True)"
    )
    await ask(session, code)
    await session.close()
    await session.sandbox.stop()
    await asyncio.sleep(0.1)
    assert not _running_with(mark)


def _running_with(mark: str) -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return [line for line in found if mark.encode() in line and line.startswith(b"sleep")]


@behaviour
async def stop_during_start(bench: Bench) -> None:
    for delay in (0.0, 0.05, 0.3):
        sandbox = bench.make()
        starting = asyncio.create_task(sandbox.start())
        await asyncio.sleep(delay)
        await sandbox.stop()
        await asyncio.gather(starting, return_exceptions=True)
        await sandbox.stop()


@behaviour
async def a_cancelled_start_leaves_nothing(bench: Bench) -> None:
    sandbox = bench.make()
    starting = asyncio.create_task(sandbox.start())
    await asyncio.sleep(0.1)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await sandbox.stop()
    with pytest.raises(SandboxError):
        sandbox.read("/testbed/x", 1)
