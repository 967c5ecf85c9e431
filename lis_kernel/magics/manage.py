"""`%sandbox`: the kernel's sandboxes, and everything about them but running cells."""

from __future__ import annotations

import html
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from lis_kernel._sync import run_sync
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.config import amount
from lis_kernel.errors import ConfigError
from lis_kernel.magics.named import DEFAULT, Named
from lis_kernel.tools.terminal import plain_text

__all__ = ["VERBS", "Manager", "Table", "sandbox_line"]

FILE_BYTES = 1 << 30
LISTED = 1_000


class Table:
    """Rows for a notebook and for a terminal."""

    def __init__(self, head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
        self.head = list(head)
        self.rows = [[plain_text(str(cell)) for cell in row] for row in rows]
        self._empty = empty

    def __repr__(self) -> str:
        if not self.rows:
            return self._empty
        lines = [self.head, *self.rows]
        widths = [max(len(line[n]) for line in lines) for n in range(len(self.head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        if not self.rows:
            return html.escape(self._empty)
        head = "".join(
            f"<th style='text-align:left'>{html.escape(name)}</th>" for name in self.head
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row)
            + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@magic_arguments("%sandbox")
@argument(
    "verb",
    nargs="?",
    default="ls",
    help="ls, stop [NAME…], restart, put PATH [TARGET], get PATH [TARGET], files [PATH], limits, "
    "install PACKAGE…",
)
@argument("words", nargs="*", help="What the verb takes.")
@argument("-n", "--name", default=DEFAULT, help="The sandbox, of all but ls and stop.")
@argument("--all", action="store_true", help="With stop: all of them.")
def sandbox_line(line: str) -> None:
    """See and change the sandboxes of this notebook; `%%sandbox` runs cells in them.

    ls lists them. stop ends one and removes its files; restart makes it as new. put copies a file
    or folder of yours to TARGET (else /testbed), get copies one out to TARGET (else here) and
    replaces nothing. files lists what lies at PATH (else /testbed). limits shows how much it may
    use and what holds that. install calls pip inside.
    """


class Manager:
    """Carries out `%sandbox` lines.

    Args:
        run: runs a cell in a sandbox and shows what it shows.
    """

    def __init__(self, named: Named, run: Callable[[SharedSandbox, str], object]) -> None:
        self._named = named
        self._run = run

    def line(self, line: str) -> Table | None:
        """One line.

        Raises:
            ConfigError: it is wrong, or there is no such sandbox.
            SandboxError: it could not be done.
        """
        args = parse_argstring(sandbox_line, line)
        verb = VERBS.get(args.verb)
        if verb is None:
            known = ", ".join(VERBS)
            raise ConfigError("%sandbox", f"there is no verb {args.verb!r}.", f"Known: {known}.")
        return verb(self, args)

    def _ls(self, args: Any) -> Table:
        _most(args, 0)
        rows = []
        for shared in self._named.all:
            state = shared.busy or ("ready" if shared.alive else "not started")
            age = f"{time.time() - shared.created:.0f} s" if shared.alive else ""
            network = str(shared.config.network)
            ran = str(len(shared.cells))
            rows.append([shared.name, state, shared.config.backend, network, ran, age])
        head = ["name", "state", "backend", "network", "cells", "age"]
        return Table(head, rows, "no sandboxes: the first %%sandbox cell starts one")

    def _stop(self, args: Any) -> None:
        if args.all:
            self._named.stop_all()
            return
        for name in args.words or [args.name]:
            self._named.stop(name)

    def _restart(self, args: Any) -> None:
        _most(args, 1)
        name = args.words[0] if args.words else args.name
        run_sync(self._named.get(name).restart())

    def _put(self, args: Any) -> None:
        source, target = _pair(args)
        path = Path(source).expanduser()
        if not path.exists():
            raise ConfigError("PATH", f"{path} does not exist.", "Give an existing path.")
        inside = PurePosixPath("/testbed", target or ".")
        if target is None or target.endswith("/"):
            inside /= path.resolve().name
        shared = self._named.use(args.name)
        run_sync(shared.start())
        shared.sandbox.put(path.resolve(), str(inside))
        print(f"{source} → {inside}")

    def _get(self, args: Any) -> None:
        source, target = _pair(args)
        shared = self._named.get(args.name)
        inside = str(PurePosixPath("/testbed", source))
        path = Path(target or PurePosixPath(inside).name).expanduser()
        if path.is_dir():
            path /= PurePosixPath(inside).name
        if path.exists():
            raise ConfigError("TARGET", f"{path} is there already.", "Name another target.")
        data = shared.sandbox.read(inside, FILE_BYTES + 1)
        if data is not None:
            if len(data) > FILE_BYTES:
                raise ConfigError("PATH", f"{inside} has more than {amount(FILE_BYTES)}.")
            path.write_bytes(data)
            print(f"{inside} → {path} ({amount(len(data))})")
            return
        taken, refused = shared.sandbox.collect(inside, path, FILE_BYTES)
        if not taken and not refused:
            raise ConfigError("PATH", f"there is no {inside} in the sandbox {args.name!r}.")
        for sentence in refused:
            print(f"not taken: {plain_text(sentence)}")
        print(f"{inside} → {path} ({len(taken)} files)")

    def _files(self, args: Any) -> Table:
        _most(args, 1)
        inside = str(PurePosixPath("/testbed", args.words[0] if args.words else "."))
        found = self._named.get(args.name).sandbox.listing(inside, LISTED + 1)
        rows = [[name, amount(size)] for name, size in found[:LISTED]]
        if len(found) > LISTED:
            rows.append([f"[more than {LISTED}]", ""])
        return Table(["file", "size"], rows, f"no files in {inside}")

    def _limits(self, args: Any) -> Table:
        _most(args, 0)
        shared = self._named.use(args.name)
        run_sync(shared.start())
        rows = []
        for name, held in dict(shared.sandbox.describe().get("limits", {})).items():
            much = held["limit"]
            bytes_ = name.endswith("_bytes") and much is not None
            rows.append([name, amount(much) if bytes_ else str(much), str(held["held_by"])])
        return Table(["limit", "value", "held by"], rows, "no limits are known")

    def _install(self, args: Any) -> None:
        if not args.words:
            raise ConfigError("PACKAGE", "none is named.", "Say %sandbox install PACKAGE….")
        shared = self._named.use(args.name)
        if str(shared.config.network) == "none":
            raise ConfigError(
                "%sandbox install",
                f"the sandbox {args.name!r} has no network, so no packages come in.",
                f"Stop it and begin it with a cell `%%sandbox -n {args.name} "
                "--network allow=index`, or put wheels in and `pip install` them in a "
                "`%%sandbox bash` cell.",
            )
        words = " ".join(shlex.quote(word) for word in args.words)
        self._run(shared, f"%%bash\npython3 -m pip install {words}")


VERBS: dict[str, Callable[[Manager, Any], Table | None]] = {
    "ls": Manager._ls,
    "stop": Manager._stop,
    "restart": Manager._restart,
    "put": Manager._put,
    "get": Manager._get,
    "files": Manager._files,
    "limits": Manager._limits,
    "install": Manager._install,
}
"""What `%sandbox` can be told."""


def _most(args: Any, words: int) -> None:
    if len(args.words) > words:
        extra = " ".join(args.words[words:])
        raise ConfigError("%sandbox", f"{args.verb} does not take {extra!r}.", "See %sandbox?")


def _pair(args: Any) -> tuple[str, str | None]:
    if not 1 <= len(args.words) <= 2:
        raise ConfigError("%sandbox", f"{args.verb} takes PATH and maybe TARGET.", "See %sandbox?")
    return args.words[0], args.words[1] if len(args.words) == 2 else None
