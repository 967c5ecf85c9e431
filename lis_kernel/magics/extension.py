"""What `%load_ext lis_kernel` brings into a shell, and what `%unload_ext` takes away again."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import no_var_expand

from lis_kernel.magics.agent import Agents, agent_line, agent_magic
from lis_kernel.magics.completion import matcher
from lis_kernel.magics.failing import short
from lis_kernel.magics.manage import Manager, sandbox_line
from lis_kernel.magics.named import Named
from lis_kernel.magics.sandbox import Cells, sandbox_cell, wants_agent

__all__ = ["Extension", "load", "unload"]

_loaded: dict[int, Extension] = {}


def load(shell: InteractiveShell) -> None:
    """Bring the magics; does nothing if they are there."""
    if id(shell) not in _loaded:
        _loaded[id(shell)] = Extension(shell)


def unload(shell: InteractiveShell) -> None:
    """End the sandboxes and take the magics away."""
    if (loaded := _loaded.pop(id(shell), None)) is not None:
        loaded.take_back()


class Extension:
    """The magics of one shell, its sandboxes, and what stood in the magics' place before."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.named = Named()
        self.agents = Agents(shell, self.named)
        self.cells = Cells(shell, self.named)
        self.manager = Manager(self.named, self.cells)
        magics: list[tuple[str, str, Callable[..., Any], Any]] = [
            ("cell", "sandbox", self.on_sandbox_cell, sandbox_cell),
            ("line", "sandbox", self.manager.carry_out, sandbox_line),
            ("cell", "agent", self.agents.begin, agent_magic),
            ("line", "agent", self.agents.go_on, agent_line),
        ]
        tables = shell.magics_manager.magics
        self._before = {(kind, name): tables[kind].get(name) for kind, name, *_ in magics}
        for kind, name, magic, described in magics:
            # text of people's and models' holds `{}` and `$`
            called: Any = no_var_expand(short(magic, described.__doc__))
            manager: Any = shell  # its types want a method of its own
            manager.register_magic_function(called, kind, name)
        self.matcher = matcher(shell, self.named)
        shell.Completer.custom_matchers.append(self.matcher)
        atexit.register(self.named.stop_all)

    def on_sandbox_cell(self, line: str, cell: str) -> Any:
        if (rest := wants_agent(line)) is not None:
            return self.agents.begin(rest, cell)
        self.cells.run(line, cell)
        return None

    def take_back(self) -> None:
        """End the sandboxes, and the agents in them, and leave the shell as it was."""
        self.named.stop_all()
        atexit.unregister(self.named.stop_all)
        if self.matcher in self.shell.Completer.custom_matchers:
            self.shell.Completer.custom_matchers.remove(self.matcher)
        tables = self.shell.magics_manager.magics
        for (kind, name), magic in self._before.items():
            if magic is None:
                tables[kind].pop(name, None)
            else:
                tables[kind][name] = magic
