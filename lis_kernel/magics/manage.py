"""`%sandbox`: what can be done with sandboxes beside running cells in them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import Any

from IPython.core.magic_arguments import argument, magic_arguments
from pydantic import BaseModel

from lis_kernel import cards
from lis_kernel._sync import run_sync
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.config import Limits, SandboxConfig, amount, checked
from lis_kernel.errors import ConfigError, SandboxBusy
from lis_kernel.magics import transfer
from lis_kernel.magics.arguments import parsed
from lis_kernel.magics.named import DEFAULT, Named, written
from lis_kernel.magics.sandbox import Cells, asked_config
from lis_kernel.sandbox.card import card
from lis_kernel.tools.terminal import plain_text

__all__ = ["VERBS", "Manager", "Shown"]

MOST_FILES = 500
LIMITS = {
    "memory": "memory_bytes",
    "disk": "disk_bytes",
    "pids": "pids",
    "cpus": "cpus",
}


@magic_arguments("sandbox")
@argument("verb", nargs="?", default="ls", metavar="ls|stop|restart|put|get|files|limits|install")
@argument("words", nargs="*", metavar="NAME|PATH|PACKAGE")
@argument("-n", "--name", help="Which sandbox, for put, get, files and install.")
@argument("--to", metavar="PATH", help="put, get: where to; the same name in /testbed, or here.")
@argument("--force", action="store_true", help="get: replace what is there.")
@argument("--all", action="store_true", help="stop: every sandbox.")
@argument("--memory", metavar="SIZE", help="limits of a new sandbox: e.g. 4G.")
@argument("--disk", metavar="SIZE", help="limits of a new sandbox: e.g. 2G.")
@argument("--pids", type=int, metavar="COUNT", help="limits of a new sandbox: processes, threads.")
@argument("--cpus", type=float, metavar="NUMBER", help="limits of a new sandbox.")
@argument("-b", "--backend", help="With limits: of a new sandbox.")
@argument("--network", help="With limits: of a new sandbox.")
def sandbox_line(line: str) -> None:
    """See and handle the sandboxes of this notebook. A cell for one begins with %%sandbox.

    ls                     those that there are
    stop NAME... | --all   end them; their files are removed
    restart NAME           as new: another kernel, no files
    put PATH... [--to P]   copy files and folders in
    get PATH... [--to P]   copy files and folders out
    files [PATH]           what lies in the sandbox
    limits [NAME]          what bounds it; with options, of one that is yet to start
    install PACKAGE...     pip, in a sandbox with a network (--network allow=index)
    """


class Shown:
    """HTML for pages, text for terminals."""

    def __init__(self, text: str, page: str) -> None:
        self._text, self._page = text, page

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._page


class Manager:
    """The verbs of `%sandbox`, each a method; what one returns is shown."""

    def __init__(self, named: Named, cells: Cells) -> None:
        self._named = named
        self._cells = cells

    def carry_out(self, line: str) -> Any:
        """Carry out a `%sandbox` line.

        Raises:
            ConfigError: the line is wrong.
            SandboxBusy, SandboxError, KernelError, CellFailed: it could not be done.
        """
        args = parsed(sandbox_line, line)
        if args.verb not in VERBS:
            raise ConfigError("%sandbox", f"{args.verb!r} is no order.", f"Say {', '.join(VERBS)}.")
        return VERBS[args.verb](self, args)

    # -- sandboxes -------------------------------------------------------------------------------

    def ls(self, args: Any) -> Any:
        head = ["name", "state", "backend", "network", "memory", "cells", "age"]
        rows = [_row(shared) for shared in self._named.all]
        if not rows:
            text = "no sandboxes; a cell that begins with %%sandbox starts one"
            return Shown(text, cards.page(cards.note(text, "plain")))
        return Shown(_table([head, *rows]), cards.page(cards.table(rows, head)))

    def stop(self, args: Any) -> None:
        names = [shared.name for shared in self._named.all] if args.all else _names(args)
        if not names and not args.all:
            raise ConfigError("%sandbox stop", "which one?", "Give its name, or --all.")
        for name in names:
            self._named.stop(name)
            print(f"stopped {name}")

    def restart(self, args: Any) -> None:
        for name in _names(args) or [DEFAULT]:
            run_sync(self._named.get(name).restart())
            print(f"restarted {name}: a new kernel, and no files")

    def limits(self, args: Any) -> Any:
        names = _names(args) or [DEFAULT]
        if len(names) > 1:
            raise ConfigError("%sandbox limits", f"{' and '.join(names)}: one at a time.")
        (name,) = names
        words = {field: getattr(args, word) for word, field in LIMITS.items()}
        asked = {field: value for field, value in words.items() if value is not None}
        config = asked_config(backend=args.backend, network=args.network, mount=None, image=None)
        if asked or config:
            known = next((shared for shared in self._named.all if shared.name == name), None)
            before = _set(known.limits) if known else {"output_bytes": 10_000_000}
            made = checked(Limits, before | asked, lambda field: f"--{field.partition('_')[0]}")
            if known and config:
                config = checked(SandboxConfig, _set(known.config) | _set(config), written)
            self._named.make(name, config, made)
        return _card(self._named.get(name))

    # -- files -----------------------------------------------------------------------------------

    def put(self, args: Any) -> None:
        transfer.put(self._started(args), args.words, args.to)

    def get(self, args: Any) -> None:
        transfer.get(self._named.get(args.name or DEFAULT), args.words, args.to, force=args.force)

    def files(self, args: Any) -> Any:
        shared = self._named.get(args.name or DEFAULT)
        path = transfer.inside(args.words[0] if args.words else ".")
        found = shared.sandbox.listing(str(path), MOST_FILES)
        rows = [[plain_text(name)[:200], amount(size)] for name, size in sorted(found)]
        if not rows:
            is_file = shared.sandbox.read(str(path), 1) is not None
            text = f"{path} is a file" if is_file else f"no files in {path}"
            return Shown(text, cards.page(cards.note(text, "plain")))
        more = [["… and more", ""]] if len(found) == MOST_FILES else []
        head = [str(path), "size"]
        return Shown(_table([head, *rows, *more]), cards.page(cards.table([*rows, *more], head)))

    def install(self, args: Any) -> None:
        shared = self._named.use(args.name or DEFAULT)
        if not args.words:
            raise ConfigError("%sandbox install", "no package was named.")
        if shared.config.network == "none":
            raise ConfigError(
                "%sandbox install",
                f"the sandbox {shared.name!r} has no network, and pip needs its index.",
                f"Begin one that may reach it: %sandbox stop {shared.name}, then "
                f"%%sandbox -n {shared.name} --network allow=index",
            )
        words = " ".join(shlex.quote(word) for word in args.words)
        self._cells.execute(shared, f"%%bash\npip install --no-input --progress-bar off {words}")

    def _started(self, args: Any) -> SharedSandbox:
        shared = self._named.use(args.name or DEFAULT)
        if shared.busy == "cell":
            raise SandboxBusy(f"a cell is running in the sandbox {shared.name!r}")
        run_sync(shared.start())
        return shared


VERBS: dict[str, Callable[[Manager, Any], Any]] = {
    "ls": Manager.ls,
    "stop": Manager.stop,
    "restart": Manager.restart,
    "put": Manager.put,
    "get": Manager.get,
    "files": Manager.files,
    "limits": Manager.limits,
    "install": Manager.install,
}


def _names(args: Any) -> list[str]:
    return [*args.words, *([args.name] if args.name else [])]


def _set(values: BaseModel) -> dict[str, Any]:
    """Those of its fields that somebody has set."""
    return values.model_dump(exclude_unset=True)


def _state(shared: SharedSandbox) -> str:
    if shared.agent is not None:
        return f"agent {shared.agent.state}"
    if shared.busy:
        return "cell running"
    return "ready" if shared.alive else "not started"


def _row(shared: SharedSandbox) -> list[str]:
    return [
        shared.name,
        _state(shared),
        shared.config.backend,
        shared.config.network,
        amount(shared.limits.memory_bytes),
        str(len(shared.cells)),
        cards.duration(time.time() - shared.created) if shared.alive else "",
    ]


def _table(rows: list[list[str]]) -> str:
    """Columns of one width, for terminals."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _card(shared: SharedSandbox) -> Shown:
    described = dict(shared.sandbox.describe()) if shared.alive else {"limits": {}}
    if not shared.alive:
        described.update(backend=shared.config.backend, network=shared.config.network)
        described["limits"] = {field: getattr(shared.limits, field) for field in LIMITS.values()}
    limits = described.get("limits", {})
    rows = [["limit", "most"]]
    for field, held in limits.items():
        most = held.get("limit") if isinstance(held, dict) else held
        shown = amount(int(most)) if field.endswith("_bytes") and most is not None else f"{most}"
        rows.append([field, shown])
    page = card(
        described,
        state=_state(shared),
        alive=shared.alive,
        name=shared.name,
        created=shared.created if shared.alive else None,
    )
    return Shown(_table(rows), page)
