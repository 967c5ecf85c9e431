"""`lis show`: a trajectory notebook in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from lis_kernel.cli.view import (
    clipped,
    highlighted,
    money,
    persons_code,
    printed,
    reached,
)
from lis_kernel.errors import ConfigError, Tampered
from lis_kernel.tools.blocks import prose
from lis_kernel.tools.observation import befell
from lis_kernel.tools.terminal import plain_text
from lis_kernel.trajectory import Trajectory, load

__all__ = ["show"]


def show(
    notebook: Annotated[Path, typer.Argument(help="A trajectory notebook, or a run's folder.")],
    full: Annotated[bool, typer.Option("--full", help="All lines of every output.")] = False,
) -> None:
    """Show what a run did: its task, turns, cells, outputs and outcome."""
    path = notebook / "trajectory.ipynb" if notebook.is_dir() else notebook
    if not path.is_file():
        runs = sorted(notebook.glob("*/trajectory.ipynb"))
        newest = f", such as {runs[-1].parent}" if runs else ""
        fix = f"Give a trajectory notebook or the folder of one run{newest}."
        raise ConfigError("NOTEBOOK", f"{path} does not exist.", fix)
    trajectory = load(path)
    console = Console(highlight=False)
    console.print(Panel(Text(plain_text(trajectory.task)), title="task", title_align="left"))
    limit = 1_000_000 if full else 20
    blocks = trajectory.metadata.get("protocol") == "blocks"
    for turn in trajectory.turns:
        console.print(Rule(Text(f"turn {turn.number}", style="dim"), align="left", style="dim"))
        said = prose(turn.reply.text) if blocks else turn.reply.text
        if text := plain_text(said).strip():
            console.print(Padding(Markdown(text), (0, 0, 0, 2)))
        for call in turn.calls:
            code = highlighted(call.call, call.source, limit)
            console.print(Panel(code, title=Text(call.call.name), title_align="left"))
            if (text := printed(call.outputs)).strip():
                console.print(Padding(Text(clipped(text, limit)), (0, 0, 0, 2)))
            style = "green" if call.status == "ok" else "red"
            done = Text(f"{call.status} {call.seconds:.2f} s", style=style)
            if note := befell(call.status, call.verdict, call.limit, call.restarted):
                done.append(f"  {plain_text(note)}", style="yellow")
            console.print(Padding(done, (0, 0, 0, 2)))
        for cell in trajectory.persons_cells:
            if cell.turn == turn.number:
                console.print(Panel(persons_code(cell.source, limit), title="a person"))
                text = clipped(printed(cell.outputs), limit)
                console.print(Padding(Text(text), (0, 0, 0, 2)))
    _outcome(console, trajectory)


def _outcome(console: Console, trajectory: Trajectory) -> None:
    reason = trajectory.stop_reason
    lines = [
        f"stopped   {reason.value if reason else 'unfinished: the run was killed'}"
        + (f", {plain_text(trajectory.detail)}" if trajectory.detail else ""),
        f"answer    {plain_text(trajectory.answer) if trajectory.answer is not None else '(none)'}",
        f"model     {trajectory.model}",
        f"used      {len(trajectory.turns)} turns, {money(trajectory.usage)}, "
        f"{trajectory.seconds:.1f} s",
    ]
    if trajectory.verdicts:
        lines.append(f"limits    {reached(trajectory.verdicts)}")
    if trajectory.files:
        lines.append(f"files     {', '.join(plain_text(str(path)) for path in trajectory.files)}")
    try:
        lines.append(f"record    unchanged, {trajectory.verify()} cells checked")
    except Tampered as error:
        lines.append(f"record    CHANGED: {plain_text(str(error))}")
    console.print(Panel(Text("\n".join(lines)), title="outcome", title_align="left"))
