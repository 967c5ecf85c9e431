"""The system call filter and Landlock: what they stop, and that normal programs do not notice."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from boxes import shown

from lis_kernel.sandbox import bubblewrap, seccomp
from lis_kernel.sandbox.launch import GUEST
from lis_kernel.sandbox.seccomp import generate

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", generate.MACHINES)
def test_the_data_files_are_what_the_script_makes(machine) -> None:
    path = seccomp.path(machine)
    assert path is not None
    assert path.read_bytes() == generate.build(machine)
    assert seccomp.programs()[machine] == generate.build(machine).hex()
    for kind in ("set-id", "branch"):
        assert seccomp.programs(kind)[machine] == generate.build(machine, kind=kind).hex()


def test_an_unknown_architecture_has_no_filter() -> None:
    assert seccomp.path("pdp11") is None


@pytest.mark.parametrize("machine", generate.MACHINES)
def test_the_numbers_are_the_kernels_own(machine) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("no kernel headers here")
    pairs = re.findall(
        r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", HEADERS[machine].read_text("utf-8")
    )
    known = {name: int(number) for name, number in pairs}
    which = list(generate.MACHINES).index(machine)
    named = {
        **generate.MISSING,
        **generate.MODE_IN_MEMORY,
        **generate.DENIED,
        "clone": generate.CLONE,
        "ioctl": generate.IOCTL,
        "personality": generate.PERSONALITY,
        "socket": generate.SOCKETS[0],
        "socketpair": generate.SOCKETS[1],
        **{name: numbers for name, (numbers, _) in generate.MODES.items()},
        **{name: numbers for name, (numbers, *_) in generate.OPENS.items()},
    }
    if "fchmodat2" not in known:  # headers older than Linux 6.6
        del named["fchmodat2"]
    assert {name: numbers[which] for name, numbers in named.items()} == {
        name: known.get(name) for name in named
    }


def run(program: bytes, number: int, *arguments: int, arch: int) -> int:
    """What a filter decides: the few instructions that ours is made of."""
    import struct

    data = struct.pack("<iIQ6Q", number, arch, 0, *(list(arguments) + [0] * 6)[:6])
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = value = 0
    while True:
        kind, yes, no, operand = code[at]
        at += 1
        if kind == generate.LOAD:
            (value,) = struct.unpack_from("<I", data, operand)
        elif kind == generate.RETURN:
            return operand
        else:
            met = {
                generate.IF_EQUAL: value == operand,
                generate.IF_ANY_BIT: bool(value & operand),
                generate.IF_AT_LEAST: value >= operand,
            }[kind]
            at += yes if met else no


@pytest.mark.parametrize("machine", generate.MACHINES)
def test_every_listed_call_is_refused_and_others_are_not(machine) -> None:
    program = seccomp.path(machine).read_bytes()
    arch = generate.MACHINES[machine]
    which = list(generate.MACHINES).index(machine)
    missing = generate.MISSING | generate.MODE_IN_MEMORY
    for table, error in ((missing, 38), (generate.DENIED, 1)):
        for numbers in table.values():
            if numbers[which] is not None:
                answer = run(program, numbers[which], arch=arch)
                assert answer == generate.ERRNO | error
    listed = {
        numbers[which]
        for numbers in (*generate.DENIED.values(), *missing.values(), *generate.SOCKETS)
    } | {generate.PERSONALITY[which]}
    for number in set(range(470)) - listed:
        assert run(program, number, arch=arch) == generate.ALLOW
    clone, new_user = generate.CLONE[which], 0x10000000
    assert run(program, clone, 17, arch=arch) == generate.ALLOW
    assert run(program, clone, 17 | new_user, arch=arch) == generate.ERRNO | 1
    assert run(program, generate.SOCKETS[0][which], 40, arch=arch) == generate.ERRNO | 97
    assert run(program, 0, arch=arch ^ 1) == generate.KILL_PROCESS
    free = generate.build(machine, kind="set-id")
    assert run(free, generate.MODE_IN_MEMORY["openat2"][which], arch=arch) == generate.ALLOW
    for numbers, mode in generate.MODES.values():
        if numbers[which] is not None:
            for bits, answer in ((0o755, generate.ALLOW), (0o4755, generate.ERRNO | 1)):
                words = [0] * mode + [bits]
                assert run(program, numbers[which], *words, arch=arch) == answer
                assert run(free, numbers[which], *words, arch=arch) == generate.ALLOW
    for numbers, flags, mode in generate.OPENS.values():
        if numbers[which] is not None:
            for opened, answer in ((0, generate.ALLOW), (0x40, generate.ERRNO | 1)):
                words = [0] * flags + [opened] + [0] * (mode - flags - 1) + [0o2755]
                assert run(program, numbers[which], *words, arch=arch) == answer
    if machine == "x86_64":
        assert run(program, 0x40000000, arch=arch) == generate.KILL_PROCESS


needs_filter = pytest.mark.skipif(
    seccomp.path() is None, reason=f"no filter for {platform.machine()}"
)


@pytest.mark.bwrap
@needs_filter
async def test_what_is_refused_in_a_sandbox(box) -> None:
    which = list(generate.MACHINES).index(platform.machine())
    calls = {
        name: numbers[which]
        for name, numbers in {**generate.DENIED, **generate.MISSING}.items()
        if numbers[which] is not None and name != "vhangup"
    }
    code = f"""
import ctypes, os, socket, fcntl
libc = ctypes.CDLL(None, use_errno=True)
answers = {{}}
for name, number in {calls!r}.items():
    answers[name] = (libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno())
print({{name: answer for name, answer in answers.items() if answer not in ((-1, 1), (-1, 38))}})
CLONE, SIGCHLD, NEWUSER, NEWNET = {generate.CLONE[which]}, 17, 0x10000000, 0x40000000
print([(libc.syscall(CLONE, SIGCHLD | flag, 0, 0, 0, 0), ctypes.get_errno())
       for flag in (NEWUSER, NEWNET)])
for family in (38, 40):
    try:
        socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        print(error.errno)
leader, follower = os.openpty()
for request in (0x5412, 0x541C):
    try:
        fcntl.ioctl(follower, request, b"x")
    except OSError as error:
        print(error.errno)
print(libc.personality(0x0400000), libc.personality(0xFFFFFFFF))
"""
    async with box() as session:
        result = await session.execute(code)
    assert shown(result).split("\n") == [
        "{}",
        "[(-1, 1), (-1, 1)]",
        *["97", "97"],
        *["1", "1"],
        "-1 0",
    ]


@pytest.mark.bwrap
async def test_normal_programs_do_not_notice(box) -> None:
    code = r"""
import asyncio, multiprocessing, os, pathlib, socket, subprocess, tempfile, threading
import numpy, pandas
print(float((numpy.eye(300) @ numpy.eye(300)).sum()))
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(abs, [-1, -2]))
with multiprocessing.get_context("forkserver").Pool(1) as pool:
    print(pool.map(abs, [-3]))
threads = [threading.Thread(target=lambda: None) for _ in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]
async def echo():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
    print(await reader.read())
    server.close()
await echo()
"""
    shell = r"""
set -e
cd /testbed
printf '#include <stdio.h>\nint main(){puts("compiled");}' > a.c
if command -v gcc >/dev/null; then gcc -o a a.c && ./a; else echo compiled; fi
git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x
git log --oneline | wc -l
mkfifo p && (echo piped > p &) && cat p
sleep 0.1 & wait; echo waited > /dev/null 2>/dev/null
mv /tmp/lis-none /testbed 2>/dev/null || mkdir -p /tmp/d /testbed/e && touch /tmp/d/f
mv /tmp/d/f /testbed/e/f && ls /testbed/e
python3 -c 'import shutil; shutil.rmtree("/testbed/e"); print("gone")'
"""
    async with box() as session:
        first = await session.execute(code)
        text = f"import subprocess; print(subprocess.run(['bash', '-c', {shell!r}], "
        text += "capture_output=True, text=True))"
        second = await session.execute(text)
    assert first.status == "ok", first.outputs
    assert shown(first).split("\n") == ["300.0", "[1, 2]", "[3]", "b''"]
    wanted = "compiled\\n1\\npiped\\nf\\ngone\\n"
    assert f"stdout='{wanted}'" in shown(second)


@pytest.mark.bwrap
@needs_filter
async def test_no_file_gets_a_set_id_bit(box) -> None:
    code = """
import os
open("/testbed/f", "w").close()
for attempt in (
    lambda: os.chmod("/testbed/f", 0o4755),
    lambda: os.chmod(os.open("/testbed/f", os.O_RDONLY), 0o2755),
    lambda: os.open("/testbed/g", os.O_CREAT | os.O_WRONLY, 0o4755),
    lambda: os.mknod("/testbed/h", 0o104755),
):
    try:
        attempt()
        print("made")
    except OSError as error:
        print(error.errno)
os.chmod("/testbed/f", 0o1777)
print(oct(os.stat("/testbed/f").st_mode), sorted(os.listdir("/testbed")))
"""
    async with box() as session:
        said = shown(await session.execute(code)).split("\n")
    assert said[:4] == ["1"] * 4
    assert said[4].startswith("0o101777")
    assert "['documents', 'f', 'input', 'output']" in said[4]


needs_landlock = pytest.mark.skipif(
    not bubblewrap.landlock_abi(), reason="this kernel has no Landlock"
)


@needs_landlock
def test_landlock_alone_stops_what_the_mounts_would_not(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("x")
    code = f"""
import sys
sys.path.insert(0, {str(GUEST)!r})
import landlock, os, subprocess
os.chdir({str(tmp_path)!r})
landlock.restrict({bubblewrap.landlock_abi()}, [{str(tmp_path / "in")!r}])
open("in/a", "w").close(); os.mkdir("in/d"); os.rename("in/a", "in/d/a"); os.truncate("in/d/a", 5)
print(open("file").read(), subprocess.call("true"))
for attempt in (
    lambda: open("new", "w"), lambda: open("file", "a"), lambda: os.truncate("file", 0),
    lambda: os.mkdir("d"), lambda: os.unlink("file"), lambda: os.rename("file", "in/file"),
    lambda: os.symlink("/", "link"), lambda: os.link("file", "in/link"),
):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(error.errno, end=" ")
print(subprocess.run("echo > file", shell=True, stderr=-3).returncode)
"""
    if bubblewrap.landlock_abi() < 3:  # which knows nothing of truncating
        code = code.replace('lambda: os.truncate("file", 0),', "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    first, second = done.stdout.strip().split("\n") if done.stdout else (done.stderr, "")
    assert first == "x 0"
    assert set(second.split()[:-1]) <= {"13", "18"}  # EACCES; EXDEV for what leaves its folder
    assert second.split()[-1] != "0"


@needs_landlock
@pytest.mark.bwrap
async def test_under_landlock_what_must_be_written_can_be(box) -> None:
    code = """
for path in ("/proc/self/comm", "/dev/null", "/tmp/x", "/dev/shm/x", "/testbed/x", "/run/lis/x"):
    open(path, "w").write("x")
"""
    async with box() as session:
        result = await session.execute(code)
    assert result.status == "ok", result.outputs


MOVES = r"""
set -e
cd /testbed && mkdir -p a b && echo x > a/f
mv a/f /tmp/f && mv /tmp/f b/f
python3 -c 'import os; os.rename("b/f", "a/g"); os.link("a/g", "b/h"); os.replace("b/h", "h")'
cd /tmp && mkdir c && mv c /testbed/a/c && mv /testbed/a/c /home/user/c && cat /testbed/h
"""


@pytest.mark.bwrap
async def test_files_can_be_moved_between_and_within_folders(box) -> None:
    async with box() as session:
        result = await session.execute(RUN.format(shell=MOVES))
    assert shown(result) == "x\n 0"


RUN = """
import subprocess
done = subprocess.run(["bash", "-c", {shell!r}], capture_output=True, text=True)
print(done.stdout + done.stderr, done.returncode)
"""


@pytest.mark.bwrap
@needs_landlock
async def test_landlock_1_would_forbid_that_and_is_not_used(box, monkeypatch) -> None:
    monkeypatch.setattr(bubblewrap, "landlock_abi", lambda: 1)  # as a kernel that has it acts
    async with box() as session:
        assert "cross-device" in shown(await session.execute(RUN.format(shell=MOVES)))
    monkeypatch.undo()
    monkeypatch.setattr(bubblewrap.ctypes, "CDLL", lambda _: Version1())
    bubblewrap.landlock_abi.cache_clear()
    try:
        assert bubblewrap.landlock_abi() == 0
    finally:
        bubblewrap.landlock_abi.cache_clear()


class Version1:
    def syscall(self, *_: object) -> int:
        return 1


@pytest.mark.skipif(bubblewrap.landlock_abi() < 6, reason="Landlock 6 is not here")
async def test_landlock_keeps_from_abstract_sockets_and_signals(tmp_path) -> None:
    name = f"\0lis-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()
        code = f"""
import os, socket, sys
sys.path.insert(0, {str(GUEST)!r})
import landlock
def attempts():
    for attempt in (
        lambda: socket.socket(socket.AF_UNIX).connect({name!r}), lambda: os.kill({os.getpid()}, 0)
    ):
        try:
            attempt()
            print("done", end=" ")
        except OSError as error:
            print(error.errno, end=" ")
attempts()
landlock.restrict({bubblewrap.landlock_abi()}, [{str(tmp_path)!r}])
attempts()
own = socket.socket(socket.AF_UNIX); own.bind({name + "-own"!r}); own.listen()
socket.socket(socket.AF_UNIX).connect({name + "-own"!r})
os.kill(os.getpid(), 0)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert (done.stdout, done.stderr) == ("done done 1 1 ", "")
