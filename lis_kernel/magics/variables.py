"""`-i` and `-o`: variables of the user's kernel and of a sandbox's, copied in safe forms only.

A value is dumped on one side and read on the other by `values/`, which is put into the sandbox as
files. Short plain values go as a readable cell, so that a trajectory that begins with it can be
executed again. Nothing that comes out of the sandbox is unpickled or evaluated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import keyword
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from lis_kernel import values
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.config import amount
from lis_kernel.errors import ConfigError, SandboxError
from lis_kernel.tools.terminal import plain_text
from lis_kernel.values import Form, NotCopied

__all__ = ["Given", "checked_names", "copy_in", "copy_out", "given"]

PLACE = "/tmp/.lis-values"
"""Of files on their way, and of the package that reads them there."""
PACKAGE = "lis_values"
MOST_BYTES = 256 << 20
"""Of one variable, in either direction."""
READABLE = 2_000
"""Characters of a plain value that is given as a cell."""
READABLE_BY_BASH = 100_000
"""Characters of a variable that is exported: every program that the shell starts is given it."""
LAID = """command rm -rf {out}; command mkdir -p {out}
for __lis_name in {names}; do
  [ -z "${{!__lis_name+set}}" ] || builtin printf %s "${{!__lis_name}}" >| {out}/"$__lis_name"
done; unset __lis_name"""
"""Has bash write its variables to files of their names."""
_BASH = 'get_ipython().run_cell_magic("bash", "", {!r})'
SECONDS = 120.0


class Given(NamedTuple):
    """A variable on its way into a sandbox."""

    name: str
    form: Form
    data: bytes


def checked_names(option: str, words: Sequence[str] | None) -> list[str]:
    """The names that an option was given: `-i a -i b`, or `-i a,b`.

    Raises:
        ConfigError: one is no name.
    """
    names = [name for word in words or () for name in word.split(",") if name]
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ConfigError(option, f"{name!r} is no name of a variable.")
    return list(dict.fromkeys(names))


def given(names: Sequence[str], known: Mapping[str, Any]) -> list[Given]:
    """The user's variables as bytes.

    Raises:
        ConfigError: one is not there, cannot be copied, or is too large.
    """
    made = []
    for name in names:
        if name not in known:
            raise ConfigError(f"-i {name}", "there is no such variable in this notebook.")
        try:
            form, data = values.dump(known[name], name)
        except NotCopied as error:
            raise ConfigError(f"-i {name}", f"{error}.") from error
        _bounded("-i", name, len(data))
        made.append(Given(name, form, data))
    return made


def _bounded(option: str, name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise ConfigError(
            f"{option} {name}",
            f"it takes {amount(size)}, and {amount(MOST_BYTES)} are copied.",
            "Give it as a file (%sandbox put and get), or mount a folder.",
        )


def exported(names: Sequence[str], known: Mapping[str, Any]) -> str:
    """The user's variables as lines of bash that export them.

    Raises:
        ConfigError: one is not there, or is nothing that a shell's variable can be.
    """
    lines = []
    for name in names:
        if name not in known:
            raise ConfigError(f"-i {name}", "there is no such variable in this notebook.")
        value = known[name]
        if not isinstance(value, str | int | float | PurePath):
            raise ConfigError(
                f"-i {name}",
                f"a shell's variable is text or a number, and this is a {type(value).__name__}.",
                "Give it to a Python cell.",
            )
        text = str(value)
        if not name.isascii() or "\0" in text or len(text) > READABLE_BY_BASH:
            most = f"of at most {READABLE_BY_BASH:,} characters, without NUL"
            raise ConfigError(f"-i {name}", f"bash takes ASCII names, and text {most}.")
        lines.append(f"export {name}={shlex.quote(text)}\n")
    return "".join(lines)


async def copy_in(shared: SharedSandbox, variables: Sequence[Given], exports: str = "") -> None:
    """Give the running sandbox's Python `variables`, and its shell `exports`.

    Raises:
        ConfigError: one cannot be read there.
        SandboxError: there is no room, or somebody else is at work.
    """
    if exports:
        result = await shared.execute(f"%%bash\n{exports.rstrip()}", timeout=SECONDS)
        if result.status != "ok":
            why = _why(result.outputs) or f"it ended with {result.status}"
            raise ConfigError("-i", f"the shell did not take it: {why}")
    if not variables:
        return
    lines = [_readable(one) for one in variables]
    if files := [one for one, line in zip(variables, lines, strict=True) if not line]:
        await _put(shared, files)
    place = _seen(shared)
    source = "\n".join(
        line or f'{one.name} = {_door(place)}["take"]("{place}/{one.name}.{one.form}")'
        for one, line in zip(variables, lines, strict=True)
    )
    result = await shared.execute(source, timeout=SECONDS)
    if result.status != "ok":
        names = ", ".join(one.name for one in variables)
        raise ConfigError(f"-i {names}", _why(result.outputs) or f"it ended with {result.status}")


def _readable(one: Given) -> str:
    """A short plain value as an assignment, or nothing."""
    text = one.data.decode("ascii") if one.form == "json" and len(one.data) < READABLE else "NaN"
    if "NaN" in text or "Infinity" in text:
        return ""
    return f"{one.name} = {json.loads(text)!r}"


async def _put(shared: SharedSandbox, files: Sequence[Given]) -> None:
    with tempfile.TemporaryDirectory(prefix="lis-") as folder:
        for one in files:
            Path(folder, f"{one.name}.{one.form}").write_bytes(one.data)
        await _give(shared, Path(folder))


async def _give(shared: SharedSandbox, folder: Path) -> None:
    """Put the package that reads and writes values into the sandbox, with what is in `folder`."""
    source = Path(values.__file__).parent
    shutil.copytree(source, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        await asyncio.to_thread(shared.sandbox.put, folder, PLACE)
    except OSError as error:
        raise SandboxError(f"the variables do not fit into the sandbox: {error}") from error


async def copy_out(
    shared: SharedSandbox, names: Sequence[str], *, of_bash: bool = False
) -> dict[str, Given]:
    """What the variables `names` of the sandbox hold, as bytes that are yet to be read.

    Raises:
        ConfigError: one is not there, cannot be copied, or is too large.
    """
    out = f"{_seen(shared)}/out"
    if of_bash:
        script = LAID.format(out=shlex.quote(out), names=" ".join(names))
        try:
            await _ask(shared, _BASH.format(script), names)
            return {name: await asyncio.to_thread(_text, shared, name) for name in names}
        finally:
            with contextlib.suppress(Exception):
                await _ask(shared, _BASH.format(f"command rm -rf {shlex.quote(out)}"), names)
    with tempfile.TemporaryDirectory(prefix="lis-") as folder:
        await _give(shared, Path(folder))
    door = _door(_seen(shared))
    known = '__import__("builtins").globals()'  # the sandbox's own `globals` may be something else
    await _ask(shared, f'{door}["lay"]("{out}", {list(names)!r}, {known}, {MOST_BYTES})', names)
    try:
        return {name: await asyncio.to_thread(_read, shared, name) for name in names}
    finally:
        with contextlib.suppress(Exception):
            await _ask(shared, f'{door}["clear"]("{out}")', names)


def _seen(shared: SharedSandbox) -> str:
    """PLACE as cells see it; without isolation the sandbox's folders are the host's."""
    testbed = str(shared.sandbox.describe().get("testbed", "/testbed"))
    return PLACE if testbed == "/testbed" else f"{Path(testbed).parent}{PLACE}"


def _door(place: str) -> str:
    return f'__import__("runpy").run_path("{place}/{PACKAGE}/inside.py")'


async def _ask(shared: SharedSandbox, code: str, names: Sequence[str]) -> None:
    """Have the sandbox's kernel do something beside its cells."""
    words = {
        "code": code,
        "silent": True,
        "store_history": False,
        "allow_stdin": False,
    }
    option = f"-o {', '.join(names)}"
    try:
        reply = await shared.session.request("execute_request", words, SECONDS)
    except TimeoutError:
        shared.interrupt()
        raise ConfigError(option, f"it took more than {SECONDS:g} s.") from None
    if reply.get("status") != "ok":
        problem = _said(reply) or "the sandbox could not lay it out."
        raise ConfigError(option, problem)


def _read(shared: SharedSandbox, name: str) -> Given:
    forms: tuple[Form, ...] = ("json", "arrow")
    for form in forms:
        data = shared.sandbox.read(f"{PLACE}/out/{name}.{form}", MOST_BYTES + 1)
        if data is not None:
            _bounded("-o", name, len(data))
            return Given(name, form, data)
    raise ConfigError(f"-o {name}", "the sandbox did not give it.")


def _text(shared: SharedSandbox, name: str) -> Given:
    """What a shell's variable holds."""
    data = shared.sandbox.read(f"{PLACE}/out/{name}", MOST_BYTES + 1)
    if data is None:
        raise ConfigError(f"-o {name}", "the sandbox's shell has no such variable.")
    if len(data) > values.JSON_BYTES // 6:  # of which JSON may make six times as much
        raise ConfigError(
            f"-o {name}",
            f"it takes {amount(len(data))}.",
            "Write it to a file in the sandbox, and get that (%sandbox get).",
        )
    return Given(name, "json", json.dumps(data.decode("utf-8", "replace")).encode())


def _why(outputs: Sequence[Mapping[str, Any]]) -> str:
    """What the error of a cell says."""
    return next((_said(out) for out in outputs if out.get("output_type") == "error"), "")


def _said(error: Mapping[str, Any]) -> str:
    text = plain_text(str(error.get("evalue", "")))[:2_000].strip()
    return text if text.endswith(".") or not text else f"{text}."
