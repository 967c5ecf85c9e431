"""The code-block protocol, for models without tool calls: a fenced block is a call.

The agent loop calls `parse_blocks` on the reply's text and answers with `blocks_observation` in a
user message. Only the first block that can be run counts, because small models go on to invent its
output and the blocks after that; the loop keeps the reply only up to that block.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from lis_kernel.types import RawCall, ToolResult

__all__ = ["Blocks", "blocks_observation", "parse_blocks", "prose"]

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_OPEN = re.compile(r"[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n]*)")
_LANGUAGE = re.compile(r"\{?\.?(\w+)")
_SHELL = {"bash", "sh", "shell"}
_PYTHON = {"python", "py"}


class Blocks(NamedTuple):
    """The calls of a reply, and its text without what follows the last of them."""

    calls: list[RawCall]
    text: str


def parse_blocks(
    text: str,
    turn: int,
    tools: Collection[str],
    *,
    all_blocks: bool = False,
    allow_unclosed: bool = False,
) -> Blocks:
    """The fenced blocks of `text` as calls with the ids `block_<turn>_<k>`, k from 0.

    bash, sh and shell blocks run a command; python and py blocks run code, through bash where
    `tools` has no execute_python; a submit block submits, with what stands in it as the answer.
    Blocks of other languages, and empty ones, are text.

    Args:
        all_blocks: every block counts, not only the first.
        allow_unclosed: a last block without its closing fence counts too. For replies whose end
            was eaten by a stop sequence; not for those cut at a token limit, which end anywhere.
    """
    calls: list[RawCall] = []
    kept = len(text)
    for block in _fenced(text):
        call = _call(block, tools)
        if call is None or not (block.closed or allow_unclosed):
            continue
        name, arguments = call
        calls.append(RawCall(id=f"block_{turn}_{len(calls)}", name=name, arguments=arguments))
        kept = block.end
        if not all_blocks:
            break
    return Blocks(calls, text[:kept])


def blocks_observation(results: Sequence[ToolResult]) -> str:
    """The user message that answers a reply's blocks."""
    if len(results) == 1:
        return results[0].text
    return "\n\n".join(
        f"Block {n} of {len(results)}:\n{result.text}" for n, result in enumerate(results, 1)
    )


def prose(text: str) -> str:
    """A reply's text without its fenced blocks: what it says beside what it does."""
    kept, after = [], 0
    for block in _fenced(text):
        kept.append(text[after : block.start].strip())
        after = block.end
    return "\n\n".join(part for part in [*kept, text[after:].strip()] if part)


class _Block(NamedTuple):
    language: str
    content: str
    start: int
    """Offset in the text of the opening fence's line."""
    end: int
    """Offset in the text after the closing fence, or its end."""
    closed: bool


def _fenced(text: str) -> Iterator[_Block]:
    """The fenced blocks in order. A fence closes with as many of its signs, or more, alone."""
    language, fence, indent = "", "", ""
    content: list[str] = []
    start = offset = 0
    for line in _LINE.findall(text):
        offset += len(line)
        if not fence:
            opened = _OPEN.fullmatch(line.rstrip())
            if opened and not (opened["fence"][0] == "`" and "`" in opened["info"]):
                found = _LANGUAGE.match(opened["info"])
                language, fence = (found[1].lower() if found else ""), opened["fence"]
                indent, content = line[: opened.start("fence")], []
                start = offset - len(line)
        elif len(line.strip()) >= len(fence) and not line.strip().strip(fence[0]):
            yield _Block(language, "".join(content), start, offset, closed=True)
            fence = ""
        else:
            content.append(line.removeprefix(indent))
    if fence:
        yield _Block(language, "".join(content), start, len(text), closed=False)


def _call(block: _Block, tools: Collection[str]) -> tuple[str, dict[str, Any]] | None:
    content = block.content.removesuffix("\n")
    if block.language == "submit":
        answer = content.strip()
        return "submit", {"answer": answer} if answer else {}
    if not content.strip():
        return None
    if block.language in _SHELL:
        return "execute_bash", {"command": content}
    if block.language in _PYTHON:
        if "execute_python" in tools:
            return "execute_python", {"code": content}
        return "execute_bash", {"command": _python_command(content)}
    return None


def _python_command(code: str) -> str:
    """A shell command that runs `code`; the here-document's end is a line that `code` lacks."""
    lines, end, n = set(code.split("\n")), "EOF", 1
    while end in lines:
        n += 1
        end = f"EOF{n}"
    return f"python3 - <<'{end}'\n{code}\n{end}"
