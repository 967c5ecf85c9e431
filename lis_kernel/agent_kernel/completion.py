"""Completion and help in a cell of the agent kernel: magics, model names, files.

Python after `%python` and `%%python` is completed by the sandbox's own kernel; see `kernel.py`.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from typing import NamedTuple

from lis_kernel.agent_kernel.cell import CELL_MAGICS, MAGICS
from lis_kernel.models import DEFAULT_ANTHROPIC, DEFAULT_LOCAL, DEFAULT_OPENAI

__all__ = ["Completion", "complete", "described", "models_like", "paths_like"]

MOST = 200


class Completion(NamedTuple):
    start: int
    end: int
    matches: list[str]


def complete(source: str, cursor: int) -> Completion:
    """What may stand at `cursor`; nothing where a task is written."""
    nothing = Completion(cursor, cursor, [])
    before = source[:cursor]
    if any(_is_text(line) for line in before.split("\n")[:-1]):
        return nothing
    line = before[before.rfind("\n") + 1 :]
    if re.fullmatch(r"%{1,2}\w*", line):
        known = [*(f"%{name}" for name in MAGICS), *(f"%%{name}" for name in CELL_MAGICS)]
        matches = [name for name in known if name.startswith(line)]
        return Completion(cursor - len(line), cursor, matches)
    found = re.match(r"%(\w+)[ \t]+", line)
    if found is None:
        return nothing
    word = re.split(r"(?<!\\)[ \t]", line[found.end() :])[-1]
    if found[1] == "model":
        matches = models_like(word)
    elif found[1] == "files":
        matches = paths_like(word)
    elif found[1] == "budget":
        known = ["turns=", "tokens=", "cost=", "seconds="]
        matches = [name for name in known if name.startswith(word)]
    else:
        matches = []
    return Completion(cursor - len(word), cursor, matches[:MOST])


def _is_text(line: str) -> bool:
    """Whether a line ends the magics, so that what follows is a task or code."""
    return bool(line.strip()) and (not line.startswith("%") or line.startswith("%%"))


def models_like(word: str) -> list[str]:
    if word.startswith("scripted:"):
        return [f"scripted:{path}" for path in paths_like(word.removeprefix("scripted:"))]
    from lis_kernel.models import weights

    known = [DEFAULT_ANTHROPIC, DEFAULT_OPENAI, DEFAULT_LOCAL]
    known += [f"local/{name}" for name in weights.CATALOGUE]
    provider, slash, _ = word.partition("/")
    if slash and provider in ("anthropic", "openai"):
        known += [f"{provider}/{name}" for name in _priced(provider)]
    return [name for name in dict.fromkeys([*known, "scripted:"]) if name.startswith(word)]


def _priced(provider: str) -> list[str]:
    """The provider's models that the price list names."""
    from genai_prices.data_snapshot import get_snapshot

    for one in get_snapshot().providers:
        if one.id == provider:
            names = (model.id for model in one.models if not model.deprecated)
            # the list's own words for families of fine-tuned models are no names
            return sorted(name for name in names if not re.search(r"\bft\b|-$", name))
    return []


def paths_like(word: str) -> list[str]:
    """Files and folders that begin so, as they must be written."""
    try:
        plain = "".join(shlex.split(word))
    except ValueError:
        plain = word.strip("'\"")
    found = sorted(glob.glob(f"{glob.escape(os.path.expanduser(plain))}*"))
    home = os.path.expanduser("~")
    if plain == "~" or plain.startswith("~/"):  # not ~somebody, who lives elsewhere
        found = [f"~{path.removeprefix(home)}" for path in found]
    named = [f"{path}/" if os.path.isdir(os.path.expanduser(path)) else path for path in found]
    # files come out of sandboxes as well: a line break would begin a line of the person's cell,
    # and a name that is no Unicode cannot be sent
    shown = (path for path in named if path.isprintable())
    return [re.sub(r"([^\w./~+:@%,=-])", r"\\\1", path) for path in shown]


def described(source: str, cursor: int) -> str:
    """What the magic at `cursor` does, or nothing."""
    line = source[source.rfind("\n", 0, cursor) + 1 :].partition("\n")[0]
    found = re.match(r"(%{1,2})(\w+)", line)
    if found is None:
        return ""
    if found[1] == "%%":
        return CELL_MAGICS.get(found[2], "")
    if (usage := MAGICS.get(found[2])) is None:
        return ""
    example = f"\n\nFor example:  %{found[2]} {usage.example}" if usage.example else ""
    return f"%{found[2]} {usage.arguments}".rstrip() + f"\n\n{usage.help}{example}"
