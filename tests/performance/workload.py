"""The scripted work that every contender does: the same turns, for the same answer.

`script(6)` is five working turns and `submit`; longer scripts walk the five again on new files, so
that two lengths in one run give the cost of a turn without start and stop. Commands are as cheap
as they can be while they still prove that the tools worked: a lost edit gives a wrong answer.
"""

from __future__ import annotations

from typing import Any

ANSWER = "832040"
ANSWER_FILE = "/testbed/output/answer.txt"
PROGRAM = "a, b = 0, 1\nfor _ in range(30):\n    a, b = b, a + b\nprint(a)"
TASK = f"Compute the 30th Fibonacci number and write it to {ANSWER_FILE}."


def script(turns: int) -> list[dict[str, Any]]:
    """`turns` replies {"text", "tool_calls": [{"name", "arguments"}]}, `submit` last."""
    work = [_work(index) for index in range(turns - 1)]
    return [
        {"text": f"Turn {number}.", "tool_calls": [{"name": name, "arguments": arguments}]}
        for number, (name, arguments) in enumerate([*work, ("submit", {})], start=1)
    ]


def _work(index: int) -> tuple[str, dict[str, Any]]:
    lap, place = divmod(index, 5)
    program, draft = f"/testbed/fib{lap}.py", f"/testbed/draft{lap}.py"
    return [
        _bash(f"cat > {program} <<'END'\n{PROGRAM}\nEND"),
        _bash(f"python3 {program}"),
        _edit("create", draft, file_text="ANSWER\n# draft\n"),
        _edit("str_replace", draft, old_str="ANSWER", new_str=ANSWER),
        _bash(f"mkdir -p /testbed/output && head -n 1 {draft} > {ANSWER_FILE}"),
    ][place]


def _bash(command: str) -> tuple[str, dict[str, Any]]:
    return "execute_bash", {"command": command}


def _edit(command: str, path: str, **arguments: str) -> tuple[str, dict[str, Any]]:
    return "str_replace_editor", {"command": command, "path": path, **arguments}
