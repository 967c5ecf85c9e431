"""All of bubblewrap as `nobody`: cells, limits as they are listed, the clean-up, `lis`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from zygotes import end_wardens

import lis_kernel
from lis_kernel.sandbox import image_build
from lis_kernel.sandbox import limits as walls
from lis_kernel.sandbox.reaper import members

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody"),
]

NOBODY = 65534
SOURCE = Path(lis_kernel.__file__).parent.parent

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


class Nobody:
    """Runs programs as nobody, with a home, a data folder and a runtime folder of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("root", "home", "data/images", "run"):
            (place / name).mkdir(mode=0o755, parents=True)
            os.chown(place / name, NOBODY, NOBODY)
        os.chown(place / "data", NOBODY, NOBODY)
        built = image_build.build()
        (place / "data" / "images" / built.root.name).symlink_to(built.root)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(place / "home"),
            "LIS_DATA_DIR": str(place / "data"),
            "LIS_RUNTIME_DIR": str(place / "run"),
        }  # and no XDG_RUNTIME_DIR, as after `su`

    def start(self, *argv: str, by: str = "setpriv") -> subprocess.Popen[str]:
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *argv]
        if by == "su":
            become = ["su", "nobody", "-s", "/bin/bash", "-c", shlex.join(argv)]
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", OPEN_UP, "sh", str(self.place / "root"), *become],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.place / "home",
        )

    def run(self, *argv: str, by: str = "setpriv") -> str:
        process = self.start(sys.executable, *argv, by=by)
        out, err = process.communicate(timeout=150)
        assert process.returncode == 0, f"{out[-2000:]}\n{err[-3000:]}"
        return out

    def left(self) -> list[str]:
        found = [path.name for path in (self.place / "run").iterdir()]
        end_wardens(self.place / "run")
        return [name for name in found if name[0] != "." and name != "zygotes"]


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    place = Path("/tmp") / f"lis-n-{os.getpid()}"  # short, and everybody may enter
    place.mkdir(mode=0o755)
    try:
        yield Nobody(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


PROGRAM = """
import asyncio, json
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox

CELLS = %r

async def main():
    limits = Limits(memory_bytes=512 << 20, disk_bytes=32 << 20, pids=40, cpus=0.5, cell_seconds=30)
    sandbox = BubblewrapSandbox(SandboxConfig(), limits)
    session = KernelSession(sandbox, limits, "pass")
    answers = {}
    try:
        await sandbox.start()
        await session.start()
        for name, code in CELLS.items():
            result = await session.execute(code)
            text = "".join(str(o.get("text", o.get("evalue", ""))) for o in result.outputs)
            answers[name] = [result.status, result.verdict, text.strip()]
        facts = dict(sandbox.describe())
        kept = sandbox.read("/testbed/kept", 10).decode()
    finally:
        await session.close()
        await sandbox.stop()
    print(json.dumps({"answers": answers, "facts": facts, "kept": kept}))

asyncio.run(main())
"""
CELLS = {
    "who": "import os; print(os.getuid())",
    "disk": "open('/tmp/x', 'wb').write(bytes(64 << 20))",
    "log": (
        "import os\nlog = next(int(fd) for fd in os.listdir('/proc/self/fd')\n"
        "  if os.readlink(f'/proc/self/fd/{fd}').endswith('kernel.log'))\n"
        "try:\n    for _ in range(64): os.write(log, bytes(1 << 20))\n"
        "except OSError as error: print(error.errno)"
    ),
    "room": "import os; os.truncate('/run/lis/kernel.log', 0); os.remove('/tmp/x')\n"
    "open('/testbed/kept', 'w').write('kept')",
    "memory": "x = bytearray(600 << 20)",
    "shared": "import mmap; m = mmap.mmap(-1, 700 << 20)\n"
    "for at in range(0, len(m), 4096): m[at] = 1\nprint('had it')",
    "free": "m = None",
    "pids": (
        "import os, time\nmade = []\ntry:\n    while len(made) < 99:\n"
        "        pid = os.fork()\n        if not pid:\n            time.sleep(20); os._exit(0)\n"
        "        made.append(pid)\nexcept OSError as error: print(error.errno)\n"
        "print(len(made))\nfor pid in made: os.kill(pid, 9); os.waitpid(pid, 0)"
    ),
    "cpu": (
        "import os, time\nfor _ in range(2):\n    if not os.fork():\n"
        "        end = time.time() + 2\n        while time.time() < end: pass\n"
        "        os._exit(0)\n"
        "for _ in range(2): os.wait()\n"
        "t = os.times(); print(t.children_user + t.children_system)"
    ),
    "files": (
        "import os\nfds = []\ntry:\n    while True: fds.append(os.open('/', os.O_RDONLY))\n"
        "except OSError as error: print(error.errno, len(fds) < 1024)\n"
        "for fd in fds: os.close(fd)"
    ),
    "killed": "import os; os.kill(os.getpid(), 9)",
    "kept": "print(open('/testbed/kept').read())",
}


@pytest.mark.timeout(200)
def test_every_limit_holds_or_is_listed_as_not_held(nobody: Nobody) -> None:
    said: dict[str, Any] = json.loads(nobody.run("-c", PROGRAM % CELLS))
    answers, facts = said["answers"], said["facts"]
    held = {name: row["held_by"] for name, row in facts["limits"].items()}
    assert facts["host_uid"] == NOBODY
    assert answers["who"] == ["ok", None, "1000"]
    # disk: everything writable together, what the kernel's process itself says too
    assert "tmpfs of this size" in held["disk_bytes"]
    assert "No space left" in answers["disk"][2] or "too large" in answers["disk"][2]
    assert answers["disk"][1] == "disk_full"
    assert answers["log"][2] in ("27", "28")
    # memory
    groups = held["memory_bytes"] in ("cgroup v2", "cgroup v1", "systemd scope")
    if groups:
        assert (answers["memory"][1], answers["shared"][1]) == ("oom", "oom")
    else:
        assert held["memory_bytes"] == walls.OWN_MEMORY
        assert "MemoryError" in answers["memory"][2] or answers["memory"][0] == "error"
        assert answers["shared"][2] == "had it"  # so the words above are needed
    # processes
    made = int(answers["pids"][2].split()[-1])
    assert held["pids"] is not None
    assert 0 < made < 40
    assert answers["pids"][2].split()[0] == "11"
    # cpu: 2 busy processes for 2 s
    used = float(answers["cpu"][2])
    assert used < 1.6 if held["cpus"] is not None else used > 0.2
    assert answers["files"][2] == "24 True"
    # life after all that
    assert answers["killed"][:2] == ["died", "killed"]
    assert answers["kept"][2] == "kept"
    assert said["kept"] == "kept"
    assert nobody.left() == []


OWNER = """
import asyncio
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox

async def main():
    sandbox = BubblewrapSandbox(SandboxConfig(), Limits(disk_bytes=64 << 20))
    await sandbox.start()
    await sandbox.launch_kernel()
    print(sandbox.state.name, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_after_kill_9_of_the_owner_nothing_is_left(nobody: Nobody) -> None:
    process = nobody.start(sys.executable, "-c", OWNER)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert len(members(name, [])) >= 3
    assert nobody.left() == [name]
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 5
    while (members(name, []) or nobody.left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(name, []) == set()
    assert nobody.left() == []
    assert name not in Path("/proc/mounts").read_text()


def test_lis_run_gives_a_notebook_and_doctor_says_what_holds(nobody: Nobody) -> None:
    script = nobody.place / "script.json"
    calls = [
        {"name": "execute_bash", "arguments": {"command": "id -u; echo made > output/made.txt"}},
        {"name": "submit", "arguments": {"answer": "42"}},
    ]
    script.write_text(json.dumps([{"text": "", "tool_calls": [call]} for call in calls]))
    runs = nobody.place / "home" / "runs"
    words = ["run", "who am I?", "--model", f"scripted:{script}", "--out", str(runs), "--json"]
    said = json.loads(nobody.run("-m", "lis_kernel", *words, by="su"))
    assert (said["answer"], said["stop_reason"]) == ("42", "submitted")
    notebook = nbformat.read(said["trajectory"], as_version=4)
    assert any("1000" in str(cell.get("outputs")) for cell in notebook.cells)
    assert notebook.metadata["lis_kernel"]["sandbox"]["host_uid"] == NOBODY
    assert (Path(said["trajectory"]).parent / "files" / "made.txt").read_text() == "made\n"
    process = nobody.start(sys.executable, "-m", "lis_kernel", "doctor", "--json", by="su")
    rows = {row["name"]: row for row in json.loads(process.communicate(timeout=60)[0])}
    assert rows["sandbox"]["ok"] is True
    assert "tmpfs of this size" in rows["limits"]["detail"]
    assert (rows["limits"]["ok"] is True) == ("NOTHING" not in rows["limits"]["detail"])
    for word in ("memory 2 GiB", "pids 256", "cpus 1", "open files 1024", "Landlock", "seccomp"):
        assert word in rows["limits"]["detail"]
    assert nobody.left() == []
