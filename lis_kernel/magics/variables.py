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
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
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


async def copy_in(shared: SharedSandbox, variables: Sequence[Given]) -> None:
    """Give the running sandbox `variables`.

    Raises:
        ConfigError: one cannot be read there.
        SandboxError: there is no room, or somebody else is at work.
    """
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


async def copy_out(shared: SharedSandbox, names: Sequence[str]) -> dict[str, Given]:
    """What the variables `names` of the sandbox hold, as bytes that are yet to be read.

    Raises:
        ConfigError: one is not there, cannot be copied, or is too large.
    """
    if not names:
        return {}
    with tempfile.TemporaryDirectory(prefix="lis-") as folder:
        await _give(shared, Path(folder))
    out = f"{_seen(shared)}/out"
    await _ask(shared, f'["lay"]("{out}", {list(names)!r}, globals(), {MOST_BYTES})', names)
    try:
        return {name: await asyncio.to_thread(_read, shared, name) for name in names}
    finally:
        with contextlib.suppress(Exception):
            await _ask(shared, f'["clear"]("{out}")', names)


def _seen(shared: SharedSandbox) -> str:
    """PLACE as cells see it; without isolation the sandbox's folders are the host's."""
    testbed = str(shared.sandbox.describe().get("testbed", "/testbed"))
    return PLACE if testbed == "/testbed" else f"{Path(testbed).parent}{PLACE}"


def _door(place: str) -> str:
    return f'__import__("runpy").run_path("{place}/{PACKAGE}/inside.py")'


async def _ask(shared: SharedSandbox, call: str, names: Sequence[str]) -> None:
    """Have the door in the sandbox do something, beside its cells."""
    words = {
        "code": _door(_seen(shared)) + call,
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


def _why(outputs: Sequence[Mapping[str, Any]]) -> str:
    """What the error of a cell says."""
    return next((_said(out) for out in outputs if out.get("output_type") == "error"), "")


def _said(error: Mapping[str, Any]) -> str:
    text = plain_text(str(error.get("evalue", "")))[:2_000].strip()
    return text if text.endswith(".") or not text else f"{text}."
