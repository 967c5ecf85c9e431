"""`lis show`: a trajectory notebook in the terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lis_kernel.cli.view import (
    clipped,
    highlighted,
    markdown,
    money,
    persons_code,
    printed,
    reached,
)
from lis_kernel.errors import ConfigError, Tampered
from lis_kernel.tools.blocks import prose
from lis_kernel.tools.observation import befell
from lis_kernel.tools.terminal import for_people, one_line
from lis_kernel.trajectory import Trajectory, load

__all__ = ["show"]

DETAIL = 2000
"""Characters of a value that may be long and is one line all the same."""


def show(
    notebook: Annotated[Path, typer.Argument(help="A trajectory notebook, or a run's folder.")],
    full: Annotated[bool, typer.Option("--full", help="All lines of every output.")] = False,
) -> None:
    """Show what a run did: its task, turns, cells, outputs and outcome."""
    folder = os.path.isdir(notebook)  # `Path.is_dir` raises for a name that is too long
    path = notebook / "trajectory.ipynb" if folder else notebook
    if not os.path.isfile(path):
        runs = sorted(notebook.glob("*/trajectory.ipynb")) if folder else []
        newest = f", such as {runs[-1].parent}" if runs else ""
        fix = f"Give a trajectory notebook or the folder of one run{newest}."
        raise ConfigError("NOTEBOOK", f"{path} does not exist.", fix)
    trajectory = load(path)
    console = Console(highlight=False)
    console.print(Panel(Text(for_people(trajectory.task)), title="task", title_align="left"))
    limit = 1_000_000 if full else 20
    blocks = trajectory.metadata.get("protocol") == "blocks"
    for turn in trajectory.turns:
        console.print(Rule(Text(f"turn {turn.number}", style="dim"), align="left", style="dim"))
        said = prose(turn.reply.text) if blocks else turn.reply.text
        if text := for_people(said).strip():
            console.print(Padding(markdown(text), (0, 0, 0, 2)))
        for call in turn.calls:
            code = highlighted(call.call, call.source, limit)
            title = Text(one_line(call.call.name))
            console.print(Panel(code, title=title, title_align="left"))
            if (text := printed(call.outputs)).strip():
                console.print(Padding(Text(clipped(text, limit)), (0, 0, 0, 2)))
            style = "green" if call.status == "ok" else "red"
            done = Text(f"{one_line(call.status)} {call.seconds:.2f} s", style=style)
            if note := befell(call.status, call.verdict, call.limit, call.restarted):
                done.append(f"  {one_line(note)}", style="yellow")
            console.print(Padding(done, (0, 0, 0, 2)))
        for cell in trajectory.persons_cells:
            if cell.turn == turn.number:
                console.print(Panel(persons_code(cell.source, limit), title="a person"))
                text = clipped(printed(cell.outputs), limit)
                console.print(Padding(Text(text), (0, 0, 0, 2)))
    _outcome(console, trajectory)


def _outcome(console: Console, trajectory: Trajectory) -> None:
    """Every value is a notebook's, and stays in its own column: none can pose as another row."""
    reason = trajectory.stop_reason
    stopped = reason.value if reason else "unfinished: the run was killed"
    if trajectory.detail:
        stopped += f", {one_line(trajectory.detail, DETAIL)}"
    rows = {
        "stopped": stopped,
        "answer": "(none)" if trajectory.answer is None else for_people(str(trajectory.answer)),
        "model": one_line(trajectory.model),
        "used": f"{len(trajectory.turns)} turns, {money(trajectory.usage)}, "
        f"{trajectory.seconds:.1f} s",
    }
    if trajectory.verdicts:
        rows["limits"] = reached(trajectory.verdicts)
    if trajectory.files:
        rows["files"] = ", ".join(one_line(str(path), DETAIL) for path in trajectory.files)
    try:
        rows["record"] = f"unchanged, {trajectory.verify()} cells checked"
    except Tampered as error:
        rows["record"] = f"CHANGED: {one_line(str(error), DETAIL)}"
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console.print(Panel(table, title="outcome", title_align="left"))
