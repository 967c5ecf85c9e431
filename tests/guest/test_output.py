"""Output caps: head and tail in the cell, the whole in a file, the kernel small and alive."""

from __future__ import annotations

import json

import pytest
from test_shell import bash, failure, text

pytestmark = pytest.mark.bwrap


def size(result) -> int:
    return len(json.dumps(result.outputs))


async def test_a_flood_leaves_head_tail_and_a_file(session) -> None:
    before = int(text(await session.execute(RSS)))
    flood = "for i in range(100):\n    print(str(i % 10) * 1_000_000)"
    result = await session.execute(flood, timeout=60)
    assert result.status == "ok"
    shown = text(result)
    assert size(result) < 1_200_000
    assert shown.startswith("000")
    assert shown.endswith("999\n")
    path = f"/tmp/lis/{result.execution_count}.stdout"
    assert f"all of it: {path}" in shown
    assert text(await bash(session, f"wc -c < {path}")).strip() == "100000100"
    grown = int(text(await session.execute(RSS))) - before
    print(f"\n100 MB of prints raised the kernel's peak by {grown / 1024:.0f} MB")


RSS = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


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


async def test_exit_and_input_do_not_hang_or_end_the_kernel(session) -> None:
    assert "keeps running" in text(await session.execute("exit()"))
    result = await session.execute("input('?')")
    assert result.status == "error"
    assert (await session.execute("1+1")).status == "ok"
