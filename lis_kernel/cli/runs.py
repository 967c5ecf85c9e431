"""`lis runs`, and what can be done with one that lives: attach, pause, resume, say, stop.

The rows come from `server/listing.py`, which the page `/lis/runs` shows as well. Text of models and
sandboxes is stripped of control characters before it is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lis_kernel.agent.remote import LiveRun, ask, find
from lis_kernel.errors import ConfigError
from lis_kernel.server.attaching import attach_notebook, notebook_name
from lis_kernel.server.listing import Run, listed
from lis_kernel.tools.strict_json import json_text
from lis_kernel.tools.terminal import one_line

__all__ = ["attach", "pause", "resume", "runs", "say", "stop"]

OTHERS = "--ZMQTerminalInteractiveShell.include_other_output=True"
"""So that the console shows what the model runs."""
SHOWN = 20
"""Finished runs that are shown without --all."""
GOOD, MOVING, WAITING = "green", "cyan", "yellow"
STYLES = {
    "submitted": GOOD,
    "starting": MOVING,
    "running": MOVING,
    "pausing": WAITING,
    "paused": WAITING,
    "interrupted": "dim",
    "unfinished": "dim",
}
"""Of states; the budgets' reasons are yellow too, and the rest red."""

Which = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="Its id, the beginning of it, its folder or notebook; the only live one if left out.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def runs(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the runs' own folders.", metavar="FOLDER")
    ] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="A list of objects, all of them.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help=f"More than the last {SHOWN} that have ended.")
    ] = False,
) -> None:
    """List runs: those that live, wherever they are, and those below --out.

    With --json: id, state, live, task, model, turns, max_turns, tokens, cost_usd, seconds, created,
    answer, detail, path, files, pid.
    """
    found = asyncio.run(listed(out))
    if as_json:
        print(json_text([run.model_dump(mode="json") for run in found], indent=2))
        return
    if not found:
        print(f"no runs in {one_line(str(out))}")
        return
    ended = [run for run in found if not run.live]
    shown = [run for run in found if run.live] + (ended if every else ended[:SHOWN])
    console = Console(highlight=False)
    if not sys.stdout.isatty():
        console.width = 1000  # a line a run, for grep
    console.print(_table(shown, console.width) or _blocks(shown))
    if left := len(found) - len(shown):
        console.print(Text(f"and {left} older: --all", style="dim"))


TITLES = ("RUN", "STATE", "MODEL", "TURNS", "TOKENS", "COST", "TIME")


def _table(shown: list[Run], width: int) -> Table | None:
    """A line a run, if there is room for some of the answer in it."""
    rows = [[where(run.path), run.state.replace("_", " "), *_figures(run)] for run in shown]
    widths = [max(map(cell_len, column)) for column in zip(TITLES, *rows, strict=True)]
    room = width - sum(widths) - 2 * len(widths)
    if room < 20:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for n, (title, least) in enumerate(zip(TITLES, widths, strict=True)):
        table.add_column(title, justify="left" if n < 3 else "right", min_width=least)
    table.add_column("ANSWER", no_wrap=True, overflow="ellipsis", max_width=room)
    for run, (place, state, *figures) in zip(shown, rows, strict=True):
        state_text = Text(state, style=_style(run.state))
        table.add_row(Text(place), state_text, *map(Text, figures), _said(run))
    return table


def _blocks(shown: list[Run]) -> Text:
    """For narrow terminals: three lines a run."""
    text = Text()
    for run in shown:
        model, turns, tokens, cost, time = _figures(run)
        counts = [f"{turns} turn{'' if turns == '1' else 's'}", f"{tokens} tokens"] if turns else []
        facts = [fact for fact in (*counts, cost, time, model) if fact]
        text.append(f"{where(run.path)}  ", style="bold")
        text.append(f"{run.state.replace('_', ' ')}\n", style=_style(run.state))
        text.append(f"  {' · '.join(facts)}\n" if facts else "")
        text.append("  ").append_text(_said(run)).append("\n") if _said(run) else None
    text.rstrip()
    return text


def _figures(run: Run) -> list[str]:
    """Model, turns, tokens, cost and time."""
    kind, _, file = run.model.partition(":")
    model = f"scripted:{Path(file).name}" if kind == "scripted" else run.model
    if run.state == "damaged":
        return [""] * 5
    turns = f"{run.turns}/{run.max_turns}" if run.max_turns else str(run.turns)
    cost = f"${run.cost_usd:.4f}" if run.cost_usd else ""
    return [one_line(model, 32), turns, f"{run.tokens:,}", cost, duration(run.seconds)]


def _said(run: Run) -> Text:
    return Text(one_line(run.answer)) if run.answer else Text(one_line(run.detail), style="dim")


def _style(state: str) -> str:
    budget = state.startswith("max_") or state in ("timeout", "context_window", "silent")
    return STYLES.get(state, WAITING if budget else "red")


def where(path: Path) -> str:
    """A run's folder, as short as it can be written here."""
    folder = path.parent
    with contextlib.suppress(ValueError, OSError):
        # a loop of links, too, has a real path, but cannot be resolved
        folder = Path(os.path.realpath(folder)).relative_to(Path.cwd())
    return one_line(str(folder), 60)


def duration(seconds: float) -> str:
    """`4.2 s`, `3:07 min`, `2:15 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


def attach(
    run: Which = None,
    console: Annotated[
        bool, typer.Option("--console", help="Open it here, in jupyter console.")
    ] = False,
    notebook: Annotated[
        bool, typer.Option("--notebook", help="Write a notebook here that is connected to it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Join a live run: its kernel, with all variables, files and the shell, for your own cells.

    They run while the agent is paused: `lis pause`, and `lis resume` to hand back.
    With --json: run, connection_file, console (a command), notebook.
    """
    if console and find_spec("jupyter_console") is None:
        fix = "Run `pip install jupyter_console`."
        raise ConfigError("--console", "jupyter_console is not installed.", fix)
    live = find(run)
    path = _ask(live, "attach")["connection_file"]
    command = ["jupyter", "console", "--existing", path, OTHERS]
    if console:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "jupyter_console", *command[2:]])
    written = _write(live) if notebook else None
    if as_json:
        facts = {"run": live.id, "connection_file": path, "console": command, "notebook": written}
        print(json.dumps(facts, indent=2))
        return
    print(f"run         {one_line(live.id)}")
    print(f"terminal    {shlex.join(command)}")
    if written:
        print(f"JupyterLab  open {written}")
    else:
        print("JupyterLab  open the notebook that --notebook writes, or the page /lis/runs")
    print(f"your turn   lis pause {shlex.quote(live.id)}")


def _write(live: LiveRun) -> str:
    path = Path(notebook_name(live.id))
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(attach_notebook(live.id), file, indent=1)
    except FileExistsError:  # of an earlier time, with the person's cells
        pass
    except OSError as error:
        raise ConfigError("--notebook", f"{path} cannot be written: {error.strerror}.") from error
    return str(path)


def pause(run: Which = None, as_json: Json = False) -> None:
    """Have the model wait, once its present answer or call is over, and take over its sandbox."""
    _do(run, "pause", as_json)


def resume(run: Which = None, as_json: Json = False) -> None:
    """Hand back: the model goes on, told of what you ran."""
    _do(run, "resume", as_json)


def stop(run: Which = None, as_json: Json = False) -> None:
    """End a run soon; its notebook is closed, and its files are kept."""
    _do(run, "stop", as_json)


def say(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[RUN] TEXT", help="TEXT in plain words; RUN as for `lis attach`."),
    ],
    as_json: Json = False,
) -> None:
    """Have the model told TEXT before its next turn."""
    if len(words) > 2:
        raise ConfigError("TEXT", "it is several words.", 'Put it in quotes: lis say "…".')
    run, text = (words[0] if len(words) == 2 else None), words[-1]
    if not text.strip():
        raise ConfigError("TEXT", "it is empty.", "Write what the model should be told.")
    _do(run, "say", as_json, text=text)


def _do(run: str | None, what: str, as_json: bool, **words: Any) -> None:
    live = find(run)
    state = _ask(live, what, **words)["state"]
    if as_json:
        print(json.dumps({"run": live.id, "state": state}, indent=2))
    else:
        said = {"stop": "stopping", "say": f"told, {state}"}.get(what, state)
        print(f"{one_line(live.id)}: {said}")


def _ask(live: LiveRun, do: str, **words: Any) -> dict[str, Any]:
    try:
        return asyncio.run(ask(live, do, **words))
    except TimeoutError as error:
        problem = f"{live.id} (process {live.pid}) does not answer."
        raise ConfigError("RUN", problem, "Perhaps it is suspended.") from error
