"""Observations: exact for known outputs, never an error for forged ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lis_kernel.tools.observation import STREAM_CHARS, befell, full_output_path, observe
from lis_kernel.tools.terminal import plain_text
from lis_kernel.tools.toolset import toolset
from lis_kernel.types import CellResult

TOOLS = toolset("notebook")


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def error(ename, evalue, traceback=()):
    return {"output_type": "error", "ename": ename, "evalue": evalue, "traceback": list(traceback)}


def result(*outputs, status="ok", count=7, **more):
    return CellResult(outputs=outputs, status=status, execution_count=count, **more)


def test_shell():
    seen = observe(
        result(stream("a\n"), stream("warn\n", "stderr"), stream(["b\n", "c\n"])), "shell"
    )
    assert seen.text == "[exit code 0]\nSTDOUT:\na\nb\nc\nSTDERR:\nwarn"
    assert (seen.exit_code, seen.is_error, seen.truncated) == (0, False, False)
    assert observe(result(), "shell").text == "[exit code 0]\n(no output)"


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (error("CommandFailed", "exit code 2"), 2),
        (error("CommandFailed", "exit code 130 (interrupted)"), 130),
        (
            error(
                "CalledProcessError",
                "Command 'b'echo exit code 9''' returned non-zero exit status 1.",
            ),
            1,
        ),
        (error("CalledProcessError", "Command 'b'x''' died with <Signals.SIGKILL: 9>."), 137),
    ],
)
def test_exit_codes(failure, code):
    seen = observe(result(stream("x"), failure, status="error"), "shell")
    assert seen.text == f"[exit code {code}]\nSTDOUT:\nx"
    assert (seen.exit_code, seen.is_error) == (code, True)


def test_a_shell_cell_that_failed_otherwise():
    seen = observe(
        result(
            error("UsageError", "no bash", ["\x1b[31mUsageError\x1b[0m: no bash"]), status="error"
        ),
        "shell",
    )
    assert seen.text == "[error]\nERROR:\nUsageError: no bash"
    assert (seen.exit_code, seen.is_error) == (None, True)


def test_python():
    image = {
        "output_type": "display_data",
        "data": {"text/plain": "<Figure>", "image/png": "AAAA\nAAA=\n"},
    }
    page = {"output_type": "display_data", "data": {"text/html": "<b>é</b>"}}
    value = {
        "output_type": "execute_result",
        "data": {"text/plain": ["4", "2"], "text/html": "<i>"},
    }
    seen = observe(result(value, image, stream("hi\n"), page), "python")
    assert seen.text == (
        "[ok]\nSTDOUT:\nhi\nDISPLAY:\n<Figure>\n[image/png, 5 bytes, not shown]\n"
        "[text/html, 9 bytes, not shown]\nRESULT:\n42"
    )
    failed = observe(
        result(error("E", "x", ["Traceback", "\x1b[0;31mE\x1b[0m: x"]), status="error"), "python"
    )
    assert failed.text == "[error]\nERROR:\nTraceback\nE: x" and failed.is_error


@pytest.mark.parametrize(
    ("status", "restarted", "says"),
    [
        (
            "timeout",
            False,
            "[timed out: the cell was stopped; output until then:]\nThe kernel goes on",
        ),
        (
            "timeout",
            True,
            "[timed out: the cell was stopped; output until then:]\nThe kernel was restarted",
        ),
        (
            "died",
            True,
            "[the kernel died while the cell ran; output until then:]\nThe kernel was restarted",
        ),
        (
            "interrupted",
            False,
            "[interrupted: the cell was stopped; output until then:]\nThe kernel goes on",
        ),
    ],
)
def test_stopped_cells(status, restarted, says):
    for kind in ("shell", "python", "plain"):
        cell = result(stream("part\n"), status=status, restarted=restarted, count=None)
        seen = observe(cell, kind)
        assert seen.text.startswith(says) and "part" in seen.text
        assert seen.is_error and seen.exit_code is None and not seen.done


def test_long_output_is_cut_by_lines():
    lines = "".join(f"{n}\n" for n in range(1, 82))
    seen = observe(result(stream(lines)), "shell")
    assert seen.truncated
    assert (
        "40\n[... 1 lines, 2 characters left out; all of it: /tmp/lis/7.stdout ...]\n42\n"
        in seen.text
    )
    assert not observe(result(stream(lines.removeprefix("1\n"))), "shell").truncated
    assert not observe(result(stream(lines)), "plain").truncated


def test_long_output_is_cut_by_characters():
    seen = observe(result(stream("a" * 300_000 + "z", "stderr")), "shell")
    assert seen.truncated and len(seen.text) < STREAM_CHARS + 200
    assert f"left out; all of it: {full_output_path(7, 'stderr')} ...]" in seen.text
    assert seen.text.endswith("az")


@given(st.integers(0, 400), st.integers(0, 400), st.booleans())
def test_the_cut_keeps_head_and_tail(lines, width, newline):
    text = "\n".join(f"{n:06d}" + "x" * width for n in range(lines)) + "\n" * newline
    seen = observe(result(stream(text)), "shell").text.removeprefix("[exit code 0]\nSTDOUT:\n")
    if lines:
        assert seen.startswith("000000") and seen[-width - 6 :].startswith(f"{lines - 1:06d}")
        assert len(seen) <= STREAM_CHARS + 120 and seen.count("\n") <= 81


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "red link"),
        ("10%\r50%\r100%\r\ndone\r\n", "100%\ndone\n"),
        ("working\r", "working"),
        ("ab\b\bcd\b\b\b\be", "e"),
        ("N\bNA\bA", "NA"),
        ("a\x00b\x07c\x0cd\x85e\tf", "abcde\tf"),
        ("\x1b]0;never closed\nnext line", "\nnext line"),
        ("\ud800", "\ufffd"),
    ],
)
def test_text_is_shown_as_a_terminal_would(text, shown):
    assert plain_text(text) == shown


def test_submit_is_done_only_by_our_line_from_a_good_cell():
    done = TOOLS["submit"].to_observation
    assert done(result(stream("submitted: the answer in /x\n42\n"))).done
    assert done(result(stream("noise of a thread\nsubmitted (nothing in /x)\n"))).done
    assert not done(result(stream("submitted\n"), status="error")).done
    assert not done(result(stream("not submitted\n"))).done
    assert not done(result(stream("submitted\n", "stderr"))).done
    assert not done(result()).done


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text/plain", "image/png", "text/html", ""]), inner)
    ),
    max_leaves=8,
)
forged = st.fixed_dictionaries(
    {
        "output_type": st.sampled_from(["stream", "display_data", "execute_result", "error"])
        | json_values
    },
    optional={
        "name": st.sampled_from(["stdout", "stderr"]) | json_values,
        "text": json_values,
        "data": json_values,
        "traceback": json_values,
        "ename": json_values,
        "evalue": st.sampled_from(["exit code 1", "exit code 99999999999"]) | json_values,
    },
)


@given(
    st.lists(forged, max_size=4),
    st.sampled_from(["ok", "error", "timeout", "died", "interrupted"]),
    st.booleans(),
)
def test_forged_outputs_give_some_text(outputs, status, restarted):
    cell = result(*outputs, status=status, restarted=restarted)
    for tool in TOOLS.values():
        seen = tool.to_observation(cell)
        assert seen.text.startswith("[")
        seen.text.encode()


def test_a_time_out_says_after_how_long():
    seen = observe(CellResult(status="timeout", verdict="timeout", limit="2 s"), "python")
    assert seen.text.startswith("[timed out after 2 s: the cell was stopped; output until then:]")


@pytest.mark.parametrize(
    ("status", "verdict", "limit", "restarted", "said"),
    [
        ("ok", None, "", False, ""),
        ("error", None, "", False, ""),
        ("ok", "oom", "1 GiB", False, "the memory limit of 1 GiB was reached and a process was "
         "killed"),
        ("died", "oom", "", True, "the memory limit was reached and a process was killed; the "
         "kernel was restarted"),
        ("error", "disk_full", "9 MiB", False, "the disk limit of 9 MiB is reached"),
        ("error", "pids", "8 processes", False, "the limit of 8 processes was reached"),
        ("timeout", "timeout", "2 s", True, "the time limit of 2 s was reached; the kernel was "
         "restarted"),
        ("timeout", None, "", False, "the time limit was reached"),
        ("died", "killed", "", True, "the kernel was killed by a signal; the kernel was restarted"),
        ("died", None, "", False, "the kernel died"),
        ("interrupted", None, "", False, "the cell was interrupted"),
        ("new", "new", "", True, ""),
    ],
)  # fmt: skip
def test_what_befell_a_cell_in_words(status, verdict, limit, restarted, said):
    assert befell(status, verdict, limit, restarted) == said
