"""What a model of the code-block protocol is told beside its outputs, so that it looks twice.

Used by `agent/turn.py`. Small models submit guesses, give up on an empty output and repeat what
failed. `hint` adds a sentence to an observation; `objection` sends a doubtful answer back, at most
once a run: whoever submits again is believed, so no answer can be kept from being handed over.
"""

from __future__ import annotations

import re

from lis_kernel.types import Observation

__all__ = ["Nudges"]

SHORT = 200
"""Characters up to which an answer is expected to stand in an output as it is."""
EMPTY = "(no output)"

_NUMBER = re.compile(
    r"(?<![\w.])-?\d[\d,]{0,40}(?:\.\d{1,40})?(?:e[+-]?\d+)?(?![\w.]*\w)", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"<[^<>\n]*>|\[[^\[\]\n]*answer[^\[\]\n]*\]|\.{3}|(?:the |your )?(?:final )?(?:answer|result)",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"^\s*(?:print\(|import \w|from \w+ import |def \w+\(|grep |cat /|python3? )|```", re.MULTILINE
)
_NO_ANSWER = re.compile(
    r"\b(?:sorry|(?:can ?not|could ?n.t|could not|can.t|unable to) (?:be )?"
    r"(?:find|found|answer|determine|determined|provide)|not found|no output|error:)|\w+Error\b",
    re.IGNORECASE,
)

_GREP = re.compile(r"""\bgrep\b[^\n|;"']*(["'])(.+?)\1""")
_WORD = re.compile(r"\w{2,}")


class Nudges:
    """One run's memory of what was run and shown."""

    def __init__(self) -> None:
        self._outputs: list[str] = []
        self._fruitless: set[str] = set()
        self._last_failed = False
        self._objected = False

    def hint(self, source: str, seen: Observation) -> str:
        """A sentence to add to the observation of a cell that was run, or nothing."""
        empty = seen.text.endswith(EMPTY)
        self._outputs.append(seen.text)
        self._last_failed = seen.is_error or empty
        if not self._last_failed:
            return ""
        if source in self._fruitless:
            return "[This very block was run before, with the same result. Write another one.]"
        self._fruitless.add(source)
        if seen.text.startswith("[timed out"):
            return "[This took too long. Use a faster method: a loop or a library, no recursion.]"
        if empty and (words := _phrase(source)):
            return (
                "[Nothing was found: a phrase may be broken across lines. Search for a single "
                f"word: {' or '.join(words)}.]"
            )
        if empty and "grep" in source:
            return "[Nothing was found. Search for another word.]"
        if empty and not seen.is_error:
            return "[Nothing was printed. Print what you want to see.]"
        return ""

    def objection(self, answer: object) -> str:
        """Why this answer is to be thought over, or nothing. `answer` is None if none was given."""
        if self._objected or not isinstance(answer, str):
            return ""
        if why := self._doubt(answer.strip()):
            self._objected = True
        return why

    def _doubt(self, answer: str) -> str:
        if _PLACEHOLDER.fullmatch(answer) or _CODE.search(answer):
            return (
                "Not submitted: this is not an answer. A ```submit block is not run; write the "
                "bare answer into it, or a ```python or ```bash block that finds it."
            )
        if not self._outputs:
            return (
                "Not submitted: nothing has been run yet, so this is a guess. Write a ```bash or "
                "```python block that finds the answer."
            )
        if self._last_failed:
            return (
                "Not submitted: the last block gave no result. Write another ```bash or ```python "
                "block that finds the answer. If you are sure of it, submit it again."
            )
        if len(answer) > SHORT or "\n" in answer:
            return ""
        if _NO_ANSWER.search(answer):
            return (
                "Not submitted: this does not look like an answer. Try another way to find it. "
                "If it is the answer, submit it again."
            )
        if not self._was_shown(answer):
            return (
                "Not submitted: this stands in no output above. Read the outputs again and submit "
                "only the answer, as it stands there, or write another ```bash or ```python block "
                "that prints it. If you are sure of it, submit it again."
            )
        return ""

    def _was_shown(self, answer: str) -> bool:
        shown = "\n".join(self._outputs)
        if _NUMBER.fullmatch(answer):
            wanted, places = _value(answer), len(answer.partition(".")[2])
            return any(
                _value(found) == wanted or round(_value(found), places) == wanted
                for found in _NUMBER.findall(shown)
            )
        return _letters(answer) in _letters(shown)


def _phrase(source: str) -> list[str]:
    """The longest words of what a `grep` in `source` searched for, if it is several words."""
    found = _GREP.search(source)
    words = _WORD.findall(found[2]) if found else []
    longest = sorted(words, key=len, reverse=True)[:2]
    return [f'"{word}"' for word in longest] if len(words) > 1 else []


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _letters(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()
