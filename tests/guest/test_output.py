"""Output caps: head and tail in the cell, the whole in a file, the kernel small and alive."""

from __future__ import annotations

import json

import pytest
from test_shell import bash, failure, text

pytestmark = pytest.mark.bwrap


def size(result) -> int:
    return len(json.dumps(result.outputs))


FLOODS = {
    "prints": "for i in range(100):\n    print(str(i % 10) * 1_000_000)",
    "lines": "for i in range(1_000_000):\n    print(f'{i:099}')",
    "a child": "import subprocess; subprocess.run(['sh', '-c', \"yes | head -c 100000000\"]); None",
    "the shell": "%%bash\nyes | head -c 100000000",
}
"""Each prints 100 MB."""
FROM_NOW = "open('/proc/self/clear_refs', 'w').write('5'); None"
PEAK = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"


@pytest.mark.parametrize("source", FLOODS.values(), ids=list(FLOODS))
async def test_a_flood_leaves_head_tail_and_a_file_and_little_in_memory(session, source) -> None:
    await session.execute(FROM_NOW)
    before = int(text(await session.execute(PEAK)))
    result = await session.execute(source, timeout=60)
    assert result.status == "ok"
    grown = int(text(await session.execute(PEAK))) - before
    assert grown < 50_000  # kB
    shown = text(result)
    path = f"/tmp/lis/{result.execution_count}.stdout"
    assert f"characters left out; all of it: {path}" in shown
    head, tail = shown.partition("\n[... ")[0], shown.partition("...]\n")[2]
    assert (len(head), len(tail)) == (500_000, 250_000)
    whole = int(text(await bash(session, f"wc -c < {path}")))
    assert 100_000_000 <= whole <= 100_000_200
    ends = text(await bash(session, f"head -c 100 {path}; echo; tail -c 100 {path}"))
    assert ends == f"{head[:100]}\n{tail[-100:]}"


async def test_many_short_lines_and_a_shell_flood(session) -> None:
    result = await session.execute("for i in range(200_000): print(i)", timeout=60)
    assert text(result).endswith("199999\n")
    assert size(result) < 2_000_000
    result = await bash(session, "seq 1 3000000 >&2")
    assert text(result, "stderr").endswith("3000000\n")
    assert (
        text(await bash(session, f"tail -1 /tmp/lis/{result.execution_count}.stderr"))
        == "3000000\n"
    )


async def test_81_lines_get_a_file_and_80_do_not(session) -> None:
    for lines, there in ((80, False), (81, True)):
        result = await session.execute(f"print('x\\n' * {lines}, end='')")
        found = await bash(session, f"wc -l < /tmp/lis/{result.execution_count}.stdout")
        assert (found.status == "ok") is there
        if there:
            assert text(found).strip() == "81"


@pytest.mark.parametrize(
    ("source", "note"),
    [
        ("from IPython.display import HTML; HTML('y' * 30_000_000)", "bytes left out"),
        ("for i in range(3000): display(i)", "further outputs left out"),
    ],
)
async def test_displays_are_bounded(session, source, note) -> None:
    result = await session.execute(source, timeout=60)
    assert result.status == "ok"
    assert size(result) < 1_200_000
    assert note in json.dumps(result.outputs)


MOVING = {
    "updates": "bar = display('0', display_id=True)\nfor n in range(1200):\n    bar.update(n)",
    "clears": "from IPython.display import clear_output\nfor n in range(1200):\n"
    "    clear_output(wait=True)\n    display(n)",
}


@pytest.mark.parametrize("source", MOVING.values(), ids=list(MOVING))
async def test_a_display_may_move_for_as_long_as_it_likes(session, source) -> None:
    result = await session.execute(source, timeout=60)
    assert [output["data"]["text/plain"] for output in result.outputs] == ["1199"]


async def test_a_display_does_not_grow_beyond_its_cap(session) -> None:
    source = (
        "bars = [display(n, display_id=True) for n in range(400)]\n"
        "for bar in bars: bar.update('y' * 100_000)\n"
        "for bar in bars: bar.update('z')"
    )
    result = await session.execute(source, timeout=60)
    texts = [output["data"]["text/plain"] for output in result.outputs]
    assert texts == ["'z'"] * 400
    result = await session.execute(source.rpartition("\n")[0], timeout=60)
    assert size(result) < 1_200_000 and "bytes left out" in json.dumps(result.outputs)


async def test_a_giant_error_is_bounded(session) -> None:
    result = await session.execute("raise ValueError('x' * 30_000_000)", timeout=60)
    assert result.status == "error"
    assert size(result) < 1_200_000
    assert failure(result).startswith("xxx")


async def test_output_of_child_processes_and_the_descriptor_is_seen(session) -> None:
    result = await session.execute(
        "import os; os.system('echo child'); os.write(1, b'fd\\n'); None"
    )
    assert "child" in text(result) and "fd" in text(result)


async def test_a_full_disk_for_the_file_does_not_stop_the_cell(session) -> None:
    await bash(session, "rm -rf /tmp/lis; touch /tmp/lis")
    result = await session.execute("print('x\\n' * 500)")
    assert result.status == "ok"
    assert text(result).count("x") == 500


TASK = """import asyncio
async def count():
    for n in range(4): await asyncio.sleep(0.2); print('task', n)
task = asyncio.create_task(count())"""


async def test_a_task_of_an_earlier_cell_prints_in_the_one_that_runs(session) -> None:
    assert (await session.execute(TASK)).status == "ok"
    shown = await session.execute("await task; print('done')")
    assert text(shown).endswith("task 2\ntask 3\ndone\n")


async def test_exit_and_input_do_not_hang_or_end_the_kernel(session) -> None:
    assert "keeps running" in text(await session.execute("exit()"))
    result = await session.execute("input('?')")
    assert result.status == "error"
    assert (await session.execute("1+1")).status == "ok"


async def test_a_cell_that_ends_while_its_output_is_being_sent_loses_none(session) -> None:
    """The thread that sends has taken what was printed, and not yet queued it, as the cell ends."""
    slow = """
import sys, time
stream = type(sys.stdout)
rotate = stream._rotate_buffers
def slowly(self):
    taken = rotate(self)
    time.sleep(0.8)
    return taken
stream._rotate_buffers = slowly
thread = sys.stdout.pub_thread
send = thread._really_send
thread._really_send = lambda *message, **how: (time.sleep(0.1), send(*message, **how))
"""
    await session.execute(slow)
    interval = "sys.stdout.flush_interval"
    result = await session.execute(f"print('kept'); time.sleep({interval} + 0.5)")
    assert text(result) == "kept\n"
