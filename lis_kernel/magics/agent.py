"""`%%agent` and `%agent`: a task in plain words for a model, in one of the kernel's sandboxes.

A cell waits until its run has ended, or was paused. A paused run lives on: `%%sandbox` cells are
then part of it, and `%agent resume` (or the view's button) hands back to the model.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import threading
from collections.abc import Container, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic_arguments import argument, magic_arguments

from lis_kernel._sync import soon, submit
from lis_kernel.agent import Agent, events
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.agent.workspace import check_files
from lis_kernel.config import RunConfig, SandboxConfig, checked
from lis_kernel.errors import ConfigError, SandboxBusy
from lis_kernel.magics.arguments import parsed
from lis_kernel.magics.named import DEFAULT, Named
from lis_kernel.models import default_model
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import Task
from lis_kernel.ui import LiveView

__all__ = ["VERBS", "Agents", "agent_line", "agent_magic", "runs_folder"]

VERBS = ("resume", "stop", "say")
_NAME = r"(?:-n|--name)(?:[ \t]+|=)(\"[^\"]*\"|'[^']*'|\S+)"
_BEFORE = re.compile(rf"{_NAME}[ \t]+(.+)", re.DOTALL)
_BEHIND = re.compile(rf"[ \t]{_NAME}$")
_ONLY = re.compile(rf"[ \t]*(?:{_NAME}[ \t]*)?")
FIELDS = {
    "model.name": "-m",
    "budget.turns": "--max-turns",
    "budget.tokens": "--max-tokens",
    "budget.cost_usd": "--max-cost",
    "budget.seconds": "--timeout",
    "sandbox.backend": "-b",
    "sandbox.network": "--network",
}
"""Settings, as this magic calls them."""


@magic_arguments("%agent")
@argument("-m", "--model", help="anthropic/…, openai/…, local/… or scripted:FILE.")
@argument("-n", "--name", default=DEFAULT, help="The sandbox to work in; made if there is none.")
@argument("-b", "--backend", help="Of a sandbox that is made for it.")
@argument("--network", help="Of a sandbox that is made for it: none, open or allow=HOST,…")
@argument("-f", "--files", action="append", metavar="PATH", help="Appears in /testbed/input.")
@argument("-o", "--output", metavar="VAR", help="Variable for the Trajectory.")
@argument("--max-turns", type=int, help="End after so many turns.")
@argument("--max-tokens", type=int, help="End after so many tokens, prompts included.")
@argument("--max-cost", type=float, help="End once the cost reaches so many USD.")
@argument("--timeout", type=float, help="End after so many seconds; pauses do not count.")
@argument("--protocol", choices=("tools", "blocks"), help="Tool calls, or code blocks in text.")
@argument("--tools", choices=("notebook", "paper"), default="notebook", help="Which tools.")
@argument("--base-url", help="Of an OpenAI-compatible server.")
def agent_magic(line: str, cell: str) -> None:
    """Let a model solve the cell's text, in plain words, in a sandbox.

    The sandbox stays, with the variables and files that the model left; `%%sandbox` cells of the
    same name see them. What it did is kept as a notebook in runs/ beside yours.

    When the run is paused the cell ends. `%%sandbox` cells are then part of the run, and
    `%agent resume`, `%agent stop` and `%agent say TEXT` go on with it.
    """


def agent_line(line: str) -> None:
    """Go on with a run that a pause has handed to you, or speak to one that works.

    resume [-n NAME]       hand back to the model; the cell waits as %%agent does
    stop [-n NAME]         end the run
    say [-n NAME] TEXT     a word to the model, which it is told at its next turn

    IPython takes a line that ends in ? for a question of its own: put quotes around such a TEXT.
    """


class Work:
    """A run that was begun by a cell, until it has ended."""

    def __init__(self, agent: Agent, view: LiveView, output: str | None) -> None:
        self.agent = agent
        self.view = view
        self.output = output
        self.changed = threading.Event()
        self.paused = False
        self.waited_for = True
        """Whether a cell waits; else it ends by itself."""
        self.future: Future[Trajectory] | None = None

    def hear(self, event: events.Event) -> None:
        """Called on the background loop."""
        self.view(event)
        if isinstance(event, events.Paused | events.Resumed):
            self.paused = isinstance(event, events.Paused)
            self.changed.set()


class Agents:
    """The runs of one kernel; `%%agent` and `%agent` go here."""

    def __init__(self, shell: InteractiveShell, named: Named) -> None:
        self._shell = shell
        self._named = named
        self._works: dict[str, Work] = {}
        self._ending = threading.Lock()

    def begin(self, line: str, cell: str) -> Trajectory | None:
        """Carry out a `%%agent` cell; its trajectory, or None if it was paused or went to `-o`.

        Raises:
            ConfigError, SandboxBusy: nothing was started.
        """
        args = parsed(agent_magic, line)
        if not cell.strip():
            raise ConfigError("%%agent", "the cell is empty.", "Say what is to be done.")
        if args.output is not None and not args.output.isidentifier():
            raise ConfigError("-o", f"{args.output!r} is no name of a variable.")
        sandbox = {"backend": args.backend, "network": args.network}
        asked = {name: value for name, value in sandbox.items() if value is not None}
        made = checked(SandboxConfig, asked, lambda name: FIELDS.get(f"sandbox.{name}", name))
        words: dict[str, Any] = {
            "model": {
                "name": args.model or default_model(os.environ, args.base_url),
                "base_url": args.base_url,
            },
            "budget": _given(
                turns=args.max_turns,
                tokens=args.max_tokens,
                cost_usd=args.max_cost,
                seconds=args.timeout,
            ),
            "tools": args.tools,
            "protocol": args.protocol,
        }
        config = checked(RunConfig, words, lambda name: FIELDS.get(name, name))
        paths = tuple(Path(path).expanduser().absolute() for path in args.files or ())
        shared = self._named.use(args.name, made if asked else None)
        with _as_asked():
            more = (
                f"Begin a sandbox with a larger one: %sandbox limits {shared.name} --disk SIZE, or "
                f"with the folder: %%sandbox -n {shared.name} --mount HOST:INSIDE."
            )
            check_files(paths, shared.limits.disk_bytes, more)
        if args.name in self._works or shared.busy is not None:
            which = _option(args.name)
            raise SandboxBusy(
                f"somebody is at work in the sandbox {args.name!r}: a paused agent goes on with "
                f"%agent resume{which} and ends with %agent stop{which}; or name another sandbox"
            )
        return self._run(config, Task(prompt=cell.strip(), files=paths), shared, args.output)

    def _run(
        self, config: RunConfig, task: Task, shared: SharedSandbox, output: str | None
    ) -> Trajectory | None:
        def hear(event: events.Event) -> None:
            work.hear(event)

        agent = Agent(config, out=runs_folder(), on_event=hear, shared=shared, listen=True)
        here = hasattr(self._shell, "kernel")  # else a terminal's own IPython
        view = LiveView(budget=config.budget, mode=None if here else "lines")
        view.follows(agent)
        work = Work(agent, view, output)
        self._works[shared.name] = work
        work.future = submit(agent.arun(task))
        work.future.add_done_callback(lambda _: self._ended(shared.name, work))
        return self._wait(shared.name, work)

    def go_on(self, line: str) -> Trajectory | None:
        """Carry out an `%agent` line: `resume`, `stop` or `say TEXT`, with `-n NAME`.

        Raises:
            ConfigError: the line is wrong, or there is no such run.
        """
        verb, name, text = _parsed(line, self._works)
        work = self._works.get(name)
        if work is None:
            others = ", ".join(map(repr, self._works))
            raise ConfigError(
                "%agent",
                f"no run is live in the sandbox {name!r}.",
                f"Name one that has a run, with -n: {others}." if others else "%%agent begins one.",
            )
        if verb == "say":
            work.view.say(text)
            print("The model is told before its next turn.")
            return None
        with self._ending:
            work.waited_for = True
        work.paused = False
        soon(work.agent.resume if verb == "resume" else work.agent.stop)
        return self._wait(name, work)

    def _wait(self, name: str, work: Work) -> Trajectory | None:
        """Until the run has ended or is paused; an interrupt stops it, a second one at once."""
        assert work.future is not None
        presses = 0
        while not work.future.done():
            try:
                work.changed.wait()
                work.changed.clear()
                if work.paused and not presses:
                    with self._ending:
                        work.waited_for = work.future.done()
                    if not work.waited_for:
                        which = _option(name)
                        print(
                            f"Paused. %%sandbox{which} cells are yours and part of the run; "
                            f"`%agent resume{which}` hands back to the model, "
                            f"`%agent stop{which}` ends it."
                        )
                        return None
            except KeyboardInterrupt:
                presses += 1
                soon(work.agent.stop if presses == 1 else work.agent.abandon)
        return self._finish(name, work)

    def _ended(self, name: str, work: Work) -> None:
        """Called on the background loop at the run's end."""
        with self._ending:
            alone = not work.waited_for
        work.changed.set()
        if alone:  # handed back by the view's button, or from elsewhere, and no cell waits
            threading.Thread(target=self._finish_alone, args=(name, work), daemon=True).start()

    def _finish_alone(self, name: str, work: Work) -> None:
        try:
            self._finish(name, work)
        except Exception as error:
            print(f"the run in the sandbox {name!r} failed: {error}")

    def _finish(self, name: str, work: Work) -> Trajectory | None:
        assert work.future is not None
        self._works.pop(name, None)
        trajectory = None
        try:
            with _as_asked():
                trajectory = work.future.result()
        finally:
            work.view.close(trajectory)
        if work.output is None:
            return trajectory
        self._shell.user_ns[work.output] = trajectory
        return None


def runs_folder() -> Path:
    """`runs` beside the user's notebook, or in the current folder where that is not known."""
    notebook = Path(os.environ.get("JPY_SESSION_NAME", ""))
    there = notebook.suffix == ".ipynb" and notebook.parent.is_dir()
    return (notebook.parent if there else Path.cwd()) / "runs"


@contextlib.contextmanager
def _as_asked() -> Iterator[None]:
    """Errors of settings under the names that this magic has for them."""
    try:
        yield
    except ConfigError as error:
        field = {"--files": "-f", "--out": "runs/"}.get(error.field, error.field)
        raise ConfigError(field, error.problem, error.fix) from error


def _given(**words: Any) -> dict[str, Any]:
    return {name: value for name, value in words.items() if value is not None}


def _option(name: str) -> str:
    """How a line says that it means the sandbox `name`."""
    return "" if name == DEFAULT else f" -n {shlex.quote(name)}"


def _parsed(line: str, live: Container[str]) -> tuple[str, str, str]:
    """An `%agent` line's verb, sandbox and text; what is said to a model is no shell's line."""
    verb, _, rest = line.strip().partition(" ")
    name, text = DEFAULT, ""
    if verb == "say":
        text = rest.strip()
        if (found := _BEFORE.match(text)) is not None:
            name, text = _bare(found[1]), found[2]
        elif (found := _BEHIND.search(text)) is not None and _bare(found[1]) in live:
            name, text = _bare(found[1]), text[: found.start()]
        text = _bare(text.strip())
    elif (found := _ONLY.fullmatch(rest)) is not None:
        name = _bare(found[1]) if found[1] else DEFAULT
    else:
        verb = ""
    if verb not in VERBS or (verb == "say") != bool(text):
        raise ConfigError(
            "%agent", f"{line.strip()!r} is no order.", "Say resume, stop or say TEXT."
        )
    return verb, name, text


def _bare(text: str) -> str:
    """Without the quotes that are around all of it."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted and text[0] not in text[1:-1] else text
