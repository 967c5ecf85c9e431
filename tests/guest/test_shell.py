"""The persistent bash: what survives, what is reported, and how a command is stopped."""

from __future__ import annotations

import pytest

from lis_kernel.types import CellResult

pytestmark = pytest.mark.bwrap


def text(result: CellResult, name: str = "stdout") -> str:
    return "".join(o["text"] for o in result.outputs if o.get("name") == name)


def failure(result: CellResult) -> str:
    return next((o["evalue"] for o in result.outputs if o["output_type"] == "error"), "")


async def bash(session, command: str) -> CellResult:
    return await session.execute(f"%%bash\n{command}")


async def test_state_survives_between_cells(session) -> None:
    await bash(session, "cd /tmp; export A='x y'; b=2; f() { echo f:$1; }; alias hi='echo hello'")
    result = await bash(session, 'pwd; echo "$A $b"; f 1; hi')
    assert text(result) == "/tmp\nx y 2\nf:1\nhello\n"


async def test_strict_options_do_not_end_it(session) -> None:
    assert (await bash(session, "set -euo pipefail -o noclobber; mine=1")).status == "ok"
    assert text(await bash(session, "echo $mine $-")).startswith("1 e")
    assert "exit code" in failure(await bash(session, "echo $nowhere"))
    await bash(session, "set +e; exit")


async def test_no_name_of_a_cell_breaks_it(session) -> None:
    names = "[n for n in builtins.dir(builtins) if n[0] != '_' and n != 'get_ipython']"
    taken = f"import builtins; globals().update(dict.fromkeys({names}, 3))"
    assert (await session.execute(taken)).status == "ok"
    assert (await session.execute("len + open + OSError")).outputs[0]["data"]["text/plain"] == "9"
    result = await bash(session, "echo hi; (exit 7)")
    assert (text(result), failure(result)) == ("hi\n", "exit code 7")
    await bash(session, "exit 4")
    assert text(await bash(session, "echo again")) == "again\n"
    given_back = f"for name in {names}: builtins.globals().pop(name, 0)"
    assert (await session.execute(given_back)).status == "ok"


async def test_streams_and_exit_code_are_apart(session) -> None:
    result = await bash(session, "echo out; echo err >&2; (exit 7)")
    assert (text(result), text(result, "stderr"), failure(result)) == (
        "out\n",
        "err\n",
        "exit code 7",
    )
    assert result.status == "error"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 3", "exit code 3"),
        ("set -e; cd /tmp; export C=1; false; echo no", "exit code 1"),
        ("if then", "exit code 2"),
        ("kill -9 $$", "exit code 137"),
        ("exec true", ""),
        ("no_such_program_here", "exit code 127"),
        ("break; continue; return 4 2>/dev/null", "exit code 2"),
    ],
)
async def test_whatever_ends_bash_the_next_cell_works(session, command, code) -> None:
    await bash(session, "cd /testbed/output; export KEPT=yes")
    result = await bash(session, command)
    assert code in failure(result)
    after = await bash(session, "pwd; echo $KEPT")
    assert after.status == "ok"
    assert text(after).endswith("yes\n")


async def test_set_e_keeps_what_was_done_before_it_ended(session) -> None:
    await bash(session, "set -e; cd /tmp; export C=1; false; echo no")
    assert text(await bash(session, "pwd; echo $C")) == "/tmp\n1\n"


async def test_stdin_is_closed(session) -> None:
    result = await bash(session, "cat; read x; echo read:$?")
    assert text(result) == "read:1\n"


async def test_background_jobs_live_on_and_do_not_block(session) -> None:
    await bash(session, "(while true; do echo tick; sleep 0.01; done) & echo started")
    await bash(session, "yes | head -c 3000000 > /dev/null & sleep 300 &")
    result = await bash(
        session, "sleep 0.2; jobs > /tmp/jobs; kill %1; grep -c 'sleep 300' /tmp/jobs; echo done"
    )
    assert text(result).endswith("1\ndone\n")
    assert "tick" in text(result)


async def test_a_command_is_shown_to_bash_byte_for_byte(session) -> None:
    result = await bash(
        session,
        """printf '%s|' 'it'"'"'s' "a\\tb" $'c\\td' '\\' "\u00e9 \u4e2d"; x='
  two  lines '; echo "$x\"""",
    )
    assert text(result) == "it's|a\\tb|c\td|\\|\u00e9 \u4e2d|\n  two  lines \n"


async def test_binary_output_is_shown_with_replacement(session) -> None:
    result = await bash(
        session, r"printf 'a\xff\xfeb\n'; printf '\xe4\xb8'; sleep 0.1; printf '\xad'"
    )
    assert text(result) == "a\ufffd\ufffdb\n\u4e2d"


@pytest.mark.parametrize(
    "command",
    [
        "sleep 60",
        "while true; do :; done",
        "while true; do sleep 0.3; done",
        "trap '' INT; sleep 60",
        "python3 -c 'import signal,time; signal.signal(2,signal.SIG_IGN); time.sleep(60)'",
        "yes",
        "sleep 60 | cat",
    ],
)
async def test_a_timeout_kills_the_command_and_keeps_the_shell(session, command) -> None:
    await bash(session, "cd /tmp; export KEPT=1; sleep 321 &")
    result = await bash(session, f"echo before; {command}; echo after")
    assert (result.status, result.restarted) == ("timeout", False)
    assert text(result).startswith("before\n")
    assert "after" not in text(result)
    after = await bash(
        session, "pwd; echo $KEPT; pgrep -fc '^sleep 60|SIG_IGN|^yes'; pgrep -fc '^sleep 321'"
    )
    assert text(after) == "/tmp\n1\n0\n1\n"


async def test_xtrace_shows_no_trace_of_the_driver(session) -> None:
    result = await bash(session, "set -x; echo hi")
    assert text(result, "stderr") == "++ echo hi\n"
    assert "__lis" not in text(await bash(session, "set +x; true"), "stderr")


async def test_user_names_cannot_break_the_shell(session) -> None:
    await session.execute("os = select = subprocess = time = codecs = print = None")
    await bash(session, "printf() { echo broken; }; pwd() { echo broken; }; export -f printf")
    assert text(await bash(session, "echo fine")) == "fine\n"
