"""Copies of variables between the user's kernel and a sandbox: the `-i` and `-o` of `%%sandbox`.

A value travels as a file, in a form of `lis_kernel/values`, which both sides have: JSON, or Arrow
for data frames and arrays. What comes out is read as hostile; nothing is ever unpickled.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from lis_kernel import values
from lis_kernel._sync import run_sync
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.config import amount
from lis_kernel.errors import ConfigError
from lis_kernel.types import CellResult

__all__ = ["copy_in", "copy_out"]

LIMIT = 1 << 30
"""Bytes of one variable."""
HERE = Path(values.__file__).parent
PLACE = ".lis-values"


def copy_in(shared: SharedSandbox, names: Sequence[str], known: Mapping[str, Any]) -> None:
    """Give the sandbox's kernel copies of the variables `names` of `known`.

    Raises:
        ConfigError: naming the one that is not there, or cannot be copied, and what to do.
    """
    if not names:
        return
    folder = _ready(shared)
    takes = [_load(folder, "take")]
    with tempfile.TemporaryDirectory() as made:
        for name in names:
            if name not in known:
                raise ConfigError("-i", f"there is no variable {name!r}.", "Define it first.")
            try:
                form, data = values.dump(known[name], name)
            except values.NotCopied as error:
                raise ConfigError("-i", f"{error}.") from None
            if len(data) > LIMIT:
                raise ConfigError("-i", f"{name} has {amount(len(data))}, more than {LIMIT}.")
            source = Path(made, f"{name}.{form}")
            source.write_bytes(data)
            shared.sandbox.put(source, f"/tmp/{PLACE}/{source.name}")
            takes.append(f"{name} = take({f'{folder}/{source.name}'!r})")
    result = _run(shared, "\n".join([*takes, "del take"]))
    if result.status != "ok":
        raise ConfigError("-i", f"the sandbox did not take them: {_why(result)}")


def copy_out(shared: SharedSandbox, names: Sequence[str]) -> dict[str, Any]:
    """Copies of the variables `names` of the sandbox's kernel.

    Raises:
        ConfigError: naming the one that is not there, or cannot be copied, and what to do.
    """
    if not names:
        return {}
    folder, part = _ready(shared), secrets.token_hex(4)
    call = f"lay({f'{folder}/{part}'!r}, {list(names)!r}, globals(), {LIMIT})"
    result = _run(shared, f"{_load(folder, 'lay')}\ntry:\n    {call}\nfinally:\n    del lay")
    if result.status != "ok":
        raise ConfigError("-o", f"{_why(result)}.")
    return {name: _read(shared, f"/tmp/{PLACE}/{part}", name) for name in names}


def _read(shared: SharedSandbox, folder: str, name: str) -> Any:
    for form in get_args(values.Form):
        data = shared.sandbox.read(f"{folder}/{name}.{form}", LIMIT + 1)
        if data is not None:
            if len(data) > LIMIT:
                raise ConfigError("-o", f"{name} has more than {amount(LIMIT)}.")
            try:
                return values.load(form, data, name)
            except values.NotCopied as error:
                raise ConfigError("-o", f"{error}.") from None
    raise ConfigError("-o", f"the sandbox did not lay out {name!r}.")


def _ready(shared: SharedSandbox) -> str:
    """Start the sandbox and see that our code lies in it; its folder there."""
    run_sync(shared.start())
    shared.sandbox.put(HERE, f"/tmp/{PLACE}/{HERE.name}")
    testbed = str(shared.sandbox.describe().get("testbed", "/testbed"))
    tmp = "/tmp" if testbed == "/testbed" else str(Path(testbed).parent / "tmp")
    return f"{tmp}/{PLACE}"


def _load(folder: str, name: str) -> str:
    path = f"{folder}/{HERE.name}/inside.py"
    return f"{name} = __import__('runpy').run_path({path!r})[{name!r}]"


def _run(shared: SharedSandbox, source: str) -> CellResult:
    return run_sync(shared.execute(source))


def _why(result: CellResult) -> str:
    """The last error that the cell showed, else what ended it."""
    errors = [o["evalue"] for o in result.outputs if o["output_type"] == "error"]
    return str(errors[-1])[:2_000] if errors else f"the cell was ended ({result.status})"
