"""What the model is shown of a cell: a pure function of its outputs, and versioned.

Last step of a tool call on the main path. The notebook keeps the outputs; this text is made from
them again at any time, so nothing here may depend on the clock, the machine or earlier cells.
Outputs come from a sandbox and may be forged: any JSON anywhere gives some text, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from lis_kernel.tools.terminal import plain_text
from lis_kernel.types import CellResult, Observation

__all__ = [
    "HEAD_LINES",
    "OBSERVATION_VERSION",
    "STREAM_CHARS",
    "TAIL_LINES",
    "befell",
    "full_output_path",
    "observe",
    "stream_text",
]

OBSERVATION_VERSION = 2
"""Goes up with every change that gives another text for the same outputs."""

HEAD_LINES = 40
TAIL_LINES = 40
STREAM_CHARS = 20_000
"""Of a longer stream HEAD_LINES and TAIL_LINES lines stay, each of at most half of this."""

Kind = Literal["shell", "python", "plain"]


def full_output_path(count: int | None, stream: str) -> str:
    """Where the sandbox's kernel keeps all of a stream that is too long to be shown.

    `count` is the cell's execution count, None if it never replied; `stream` is `stdout` or
    `stderr`. Only streams over the limits above have a file.
    """
    return f"/tmp/lis/{'<newest>' if count is None else count}.{stream}"


def observe(result: CellResult, kind: Kind) -> Observation:
    """The observation of `result`: a status line, then what the cell gave.

    `shell`: the exit code, then stdout and stderr. `python`: streams, displayed values, the last
    expression's value, the traceback. `plain`, for tools that print one text of a bounded size:
    that text without a label and without a limit on its lines.
    """
    code = _exit_code(result) if kind == "shell" else None
    show = _Text()
    for stream in ("stdout", "stderr"):
        label = "" if kind == "plain" and stream == "stdout" else f"{stream.upper()}:"
        path = full_output_path(result.execution_count, stream)
        show.block(label, stream_text(result, stream), path, by_lines=kind != "plain")
    show.block("DISPLAY:", "\n".join(_values(result, "display_data")))
    show.block("RESULT:", "\n".join(_values(result, "execute_result")))
    if code is None:
        show.block("ERROR:", "\n".join(_errors(result)))
    return Observation(
        text="\n".join([*_status(result, code), *(show.blocks or ["(no output)"])]),
        is_error=result.status != "ok" or bool(code),
        exit_code=code,
        truncated=show.truncated,
    )


def stream_text(result: CellResult, stream: str) -> str:
    """All that the cell wrote to `stdout` or `stderr`, as a terminal would show it."""
    parts = (
        _text(output.get("text"))
        for output in result.outputs
        if output.get("output_type") == "stream" and output.get("name") == stream
    )
    return plain_text("".join(parts))


class _Text:
    """The blocks of an observation, each within its limits."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.truncated = False

    def block(self, label: str, text: str, path: str = "", *, by_lines: bool = True) -> None:
        if not text.strip("\n"):
            return
        text, cut = _cut(text, path, by_lines)
        self.truncated |= cut
        self.blocks.append(f"{label}\n{text}" if label else text)


def _cut(text: str, path: str, by_lines: bool) -> tuple[str, bool]:
    """Head and tail of a text that is over the limits, and whether it was."""
    # Counted as guest/output.py counts, which then has written the file that is named here.
    too_many = by_lines and text.count("\n") > HEAD_LINES + TAIL_LINES
    text = text.removesuffix("\n")
    if not too_many and len(text) <= STREAM_CHARS:
        return text, False
    head, tail = STREAM_CHARS // 2, max(len(text) - STREAM_CHARS // 2, 0)
    if too_many:
        lines = text.split("\n")
        head = min(head, len("\n".join(lines[:HEAD_LINES])))
        tail = max(tail, len(text) - len("\n".join(lines[-TAIL_LINES:])))
    left_out = text[head:tail].strip("\n")
    size = f"{left_out.count(chr(10)) + 1} lines, {len(left_out)} characters"
    where = f"; all of it: {path}" if path else ""
    return f"{text[:head]}\n[... {size} left out{where} ...]\n{text[tail:]}", True


def _status(result: CellResult, code: int | None) -> Iterator[str]:
    if result.status == "timeout":
        after = f" after {result.limit}" if result.verdict == "timeout" and result.limit else ""
        yield f"[timed out{after}: the cell was stopped; output until then:]"
    elif result.status == "died":
        yield "[the kernel died while the cell ran; output until then:]"
    elif result.status == "interrupted":
        yield "[interrupted: the cell was stopped; output until then:]"
    else:
        yield f"[{result.status}]" if code is None else f"[exit code {code}]"
        yield from _limit(result)
        return
    yield from _limit(result)
    if result.restarted:
        yield "The kernel was restarted: files are kept, variables and the shell's state are gone."
    elif result.status != "died":
        yield "The kernel goes on: files and variables are kept."


def _limit(result: CellResult) -> Iterator[str]:
    """Which of the sandbox's limits the cell ran into; a `timeout` stands in the status."""
    limit = f" of {result.limit}" if result.limit else ""
    if result.verdict == "oom":
        yield f"The sandbox's memory limit{limit} was reached and a process was killed: use less."
    elif result.verdict == "disk_full":
        yield f"The sandbox's disk limit{limit} is reached: delete files before writing more."
    elif result.verdict == "pids":
        yield f"The sandbox's limit{limit} was reached: no more could be started."
    elif result.verdict == "killed":
        yield "The kernel was killed by a signal (SIGKILL)."


def befell(status: str, verdict: str | None, limit: str, restarted: bool) -> str:
    """What happened to a cell beside what it printed, for people; empty if nothing did.

    The arguments are those of a `CellResult`, or what a notebook says that they were.
    """
    of = f" of {limit}" if limit else ""
    said = {
        "oom": f"the memory limit{of} was reached and a process was killed",
        "disk_full": f"the disk limit{of} is reached",
        "pids": f"the limit{of} was reached",
        "timeout": f"the time limit{of} was reached",
        "killed": "the kernel was killed by a signal",
    }.get(verdict or "", "")
    if not said and status in ("died", "interrupted", "timeout"):
        said = {
            "died": "the kernel died",
            "interrupted": "the cell was interrupted",
            "timeout": "the time limit was reached",
        }[status]
    return f"{said}; the kernel was restarted" if said and restarted else said


_FAILED = re.compile(r"^exit (?:code|status) (\d{1,9})\b|\bexit status (\d{1,9})\.?$")
_SIGNAL = re.compile(r"\bdied with (?:<Signals\.\w+: |unknown signal )(\d{1,3})>?\.?$")


def _exit_code(result: CellResult) -> int | None:
    """The command's exit code; None if the cell ended before the command did.

    Our `%%bash` raises CommandFailed("exit code N"), a stock kernel's a CalledProcessError whose
    text quotes the command first.
    """
    if result.status == "ok":
        return 0
    if result.status != "error":
        return None
    for output in reversed(result.outputs):
        if output.get("output_type") == "error":
            value = _text(output.get("evalue")).strip()
            if match := _FAILED.search(value):
                return int(match[1] or match[2])
            if match := _SIGNAL.search(value):
                return 128 + int(match[1])  # as a shell reports it
    return None


def _values(result: CellResult, output_type: str) -> Iterator[str]:
    """Text of each displayed value; of other forms only their name and size."""
    for output in result.outputs:
        data = output.get("data")
        if output.get("output_type") != output_type or not isinstance(data, Mapping):
            continue
        plain = _text(data.get("text/plain"))
        if plain:
            yield plain_text(plain)
        for mime, content in data.items():
            if not _text(content):
                continue  # application/json and the like: for front ends, not for reading
            name = plain_text(_text(mime)).replace("\n", " ")[:80]
            if name.startswith("image/") or (not plain and name != "text/plain"):
                yield f"[{name}, {_size(name, _text(content))} bytes, not shown]"


def _size(mime: str, content: str) -> int:
    """Bytes of a MIME bundle's entry; those of binary types are written in base64."""
    if mime.startswith("text/") or mime.endswith(("xml", "javascript")):
        return len(content.encode("utf-8", "replace"))
    return len("".join(content.split()).rstrip("=")) * 3 // 4


def _errors(result: CellResult) -> Iterator[str]:
    for output in result.outputs:
        if output.get("output_type") == "error":
            traceback = output.get("traceback")
            text = "\n".join(_strings(traceback)) if isinstance(traceback, list | tuple) else ""
            name, value = _text(output.get("ename")), _text(output.get("evalue"))
            yield plain_text(text or f"{name}: {value}")


def _text(value: Any) -> str:
    """A string of the notebook format, which may be written as a list of its lines."""
    if isinstance(value, str):
        return value
    return "".join(_strings(value)) if isinstance(value, list | tuple) else ""


def _strings(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]
