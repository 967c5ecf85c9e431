"""Completion in cells and lines of the magics: options, sandboxes, backends, models, variables.

A matcher of IPython's completer, so that front ends and terminals have it alike. In the body of a
`%%sandbox` cell the sandbox's own kernel is asked, which knows the names there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)
from IPython.core.interactiveshell import InteractiveShell

from lis_kernel import registry
from lis_kernel._sync import run_sync
from lis_kernel.agent_kernel.completion import models_like, paths_like
from lis_kernel.magics.agent import VERBS as AGENT_VERBS
from lis_kernel.magics.agent import agent_magic
from lis_kernel.magics.arguments import options_of
from lis_kernel.magics.manage import VERBS, sandbox_line
from lis_kernel.magics.named import DEFAULT, Named
from lis_kernel.magics.sandbox import sandbox_cell, wants_agent

__all__ = ["matcher"]

_LINE = re.compile(r"\s*(%{1,2}(?:sandbox|agent))[ \t]")
_CELL = re.compile(r"\s*%%(sandbox|agent)\b")
SECONDS = 4.0
"""For the sandbox's kernel, which answers between cells only, at first after some imports."""
MOST = 500
KINDS = {"name": "sandbox", "input": "variable", "files": "path", "to": "path", "mount": "path"}
"""What an option's values are called beside them; others as the option is."""
TYPES = {"class", "function", "instance", "keyword", "module", "param", "path", "property"}
"""Words of the sandbox's kernel that are passed on."""


def matcher(shell: InteractiveShell, named: Named) -> Callable[[Any], SimpleMatcherResult]:
    """A matcher for `shell.Completer.custom_matchers`."""

    @context_matcher(identifier="lis_kernel")
    def lis_kernel_matcher(context: CompletionContext) -> SimpleMatcherResult:
        first, _, rest = context.full_text.partition("\n")
        found = _CELL.match(first)
        if found is not None and context.cursor_line > 0:
            if found[1] == "agent" or wants_agent(first) is not None:
                return _result([], "", only=True)  # plain language
            return _of_sandbox(named, first, rest, _offset(context) - len(first) - 1)
        line = context.line_with_cursor[: context.cursor_position]
        found = _LINE.match(line)
        if found is None:
            return _result([], "")
        word = re.split(r"(?<!\\)[ \t]", line[found.end() :])[-1]
        before = line[found.end() : len(line) - len(word)].split()
        return _words(shell, named, found[1], before, word)

    made: Callable[[Any], SimpleMatcherResult] = lis_kernel_matcher
    return made


def _offset(context: CompletionContext) -> int:
    lines = context.full_text.split("\n")[: context.cursor_line]
    return sum(len(line) + 1 for line in lines) + context.cursor_position


def _result(
    texts: Iterable[str],
    fragment: str,
    *,
    only: bool = False,
    kinds: str | Mapping[str, str] = "",
) -> SimpleMatcherResult:
    """What may stand in the place of `fragment`; with `only`, and nothing else.

    `kinds` is what they are, all or each by its text, for the list that a front end shows.
    """

    def kind(text: str) -> str:
        return kinds if isinstance(kinds, str) else kinds.get(text, "name")

    completions = [SimpleCompletion(text=text, type=kind(text)) for text in list(texts)[:MOST]]
    result: SimpleMatcherResult = {"completions": completions, "suppress": only}
    if completions:
        result["matched_fragment"] = fragment
    return result


def _words(
    shell: InteractiveShell, named: Named, magic: str, before: list[str], word: str
) -> SimpleMatcherResult:
    function = {"%%agent": agent_magic, "%sandbox": sandbox_line}.get(magic, sandbox_cell)
    if magic == "%%sandbox" and "--agent" in before:
        function = agent_magic
    options = options_of(function) if magic != "%agent" else {"-n": "name", "--name": "name"}
    last = options.get(before[-1]) if before else None
    if last:
        texts, kind = _values(shell, named, last, word), KINDS.get(last, last)
    elif word.startswith("-"):
        texts, kind = list(options), "option"
    else:
        given = _positional(before, options)
        texts = _free(named, magic, list(options), given, word)
        kind = "keyword" if not given else "path" if given[0] == "put" else "sandbox"
    fair = (text for text in texts if text.startswith(word))
    return _result(fair, word, only=True, kinds=kind)


def _positional(words: list[str], options: dict[str, str]) -> list[str]:
    """Those of `words` that are no option and no option's value."""
    takes = [False, *(bool(options.get(word)) for word in words)]
    return [word for word, value in zip(words, takes, strict=False) if word[0] != "-" and not value]


def _values(shell: InteractiveShell, named: Named, option: str, word: str) -> list[str]:
    if option == "name":
        return _names(named)
    if option == "backend":
        return registry.names(registry.SANDBOXES)
    if option == "model":
        return models_like(word)
    if option == "network":
        return ["none", "open", "allow=index", "allow="]
    if option == "protocol":
        return ["tools", "blocks"]
    if option == "tools":
        return ["notebook", "paper"]
    if option == "input":
        return _variables(shell)
    if option in ("files", "to", "mount"):
        return paths_like(word)
    return []


def _free(named: Named, magic: str, options: list[str], before: list[str], word: str) -> list[str]:
    """Words that are no option and no option's value."""
    if magic == "%agent":
        return [] if before else list(AGENT_VERBS)
    if magic == "%sandbox":
        if not before:
            return list(VERBS)
        if before[0] in ("stop", "restart", "limits"):
            return _names(named)
        return paths_like(word) if before[0] == "put" else []
    return [] if magic == "%%agent" or before else ["python", "bash", *options]


def _names(named: Named) -> list[str]:
    return [shared.name for shared in named.all] or [DEFAULT]


def _variables(shell: InteractiveShell) -> list[str]:
    hidden = shell.user_ns_hidden
    return [name for name in shell.user_ns if name[0] != "_" and name not in hidden]


def _of_sandbox(named: Named, first: str, body: str, cursor: int) -> SimpleMatcherResult:
    """Ask the sandbox's kernel; its answer is hostile, and becomes text in the user's cell."""
    words = first.split()
    name = next((b for a, b in itertools.pairwise(words) if a in ("-n", "--name")), DEFAULT)
    shared = next((one for one in named.all if one.name == name), None)
    if shared is None or not shared.alive or shared.busy or "bash" in words:
        return _result([], "", only=True)
    try:
        request = shared.session.request(
            "complete_request", {"code": body, "cursor_pos": cursor}, SECONDS
        )
        reply = run_sync(request)
        start, end = int(reply["cursor_start"]), int(reply["cursor_end"])
        texts = [text for text in reply["matches"] if isinstance(text, str)]
        said = reply.get("metadata", {}).get("_jupyter_types_experimental", [])
        kinds = {one["text"]: one["type"] for one in said if one["type"] in TYPES}
    except Exception:  # whatever a hostile kernel answers, or none
        return _result([], "", only=True)
    if not 0 <= start <= cursor <= end <= len(body):
        return _result([], "", only=True)
    fair = (text for text in texts if text.isprintable() and len(text) < 200)
    return _result(fair, body[start:cursor], only=True, kinds=kinds)
