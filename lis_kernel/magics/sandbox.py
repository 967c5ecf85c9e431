"""The magics of a user's kernel: `%%sandbox`, `%sandbox`, `%%agent` and `%agent`.

Registered by `%load_ext lis_kernel`. A mistake of the user's, or a sandbox's failure, is one clear
line under the cell, and fails it.
"""

from __future__ import annotations

import atexit
import functools
import sys
from collections.abc import Callable
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    magics_class,
    no_var_expand,
    output_can_be_silenced,
)
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.config import SandboxConfig, checked
from lis_kernel.errors import ConfigError, LisKernelError
from lis_kernel.magics import variables
from lis_kernel.magics.agent import Agents, agent_magic
from lis_kernel.magics.manage import Manager, sandbox_line
from lis_kernel.magics.named import DEFAULT, Named
from lis_kernel.magics.streams import CellFailed, run_cell

__all__ = ["SandboxMagics", "sandbox_cell"]

FIELDS = {"backend": "-b", "network": "--network"}
"""Settings of a sandbox, as this magic calls them."""


@magic_arguments("%%sandbox")
@argument("language", nargs="?", choices=("python", "bash"), default="python", help="Of the cell.")
@argument("-n", "--name", default=DEFAULT, help="The sandbox; made if there is none.")
@argument("-b", "--backend", help="Of one that is made: zygote, bubblewrap, docker, podman.")
@argument("--network", help="Of one that is made: none, open or allow=HOST,…")
@argument("-i", "--input", action="append", metavar="VAR", help="Copy this variable in first.")
@argument("-o", "--output", action="append", metavar="VAR", help="Copy this variable out after.")
@argument("--timeout", type=float, help="Interrupt the cell after so many seconds.")
@argument("--trust", action="store_true", help="Show all that it shows, scripts too.")
@argument("--agent", action="store_true", help="The cell is a task for a model: see %%agent.")
def sandbox_cell(line: str, cell: str) -> None:
    """Run the cell in a sandbox: in its Python, or in its one bash.

    The sandbox has no network and none of your files. It is started on first use and lives, with
    variables and files, until `%sandbox stop` or the end of this kernel.

    -i and -o copy plain values, data frames and arrays, never by pickle. Scripts and the like are
    left out of what the cell shows.
    """


class _Explained(Exception):
    """What is wrong, in a line, without the traceback of the magic."""

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31m{type(self.__cause__).__name__}\x1b[0m: {self}"]


def _explains(magic: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(magic)
    def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            return magic(*args, **kwargs)
        except CellFailed:
            raise
        except (LisKernelError, OSError) as error:
            raise _Explained(str(error)) from error

    return explained


@magics_class
class SandboxMagics(Magics):
    """One for each shell; `close` ends its sandboxes."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell
        self.named = Named(lambda text: print(text, file=sys.stderr))
        self._manager = Manager(self.named, self._run)
        self._agents = Agents(shell, self.named)
        atexit.register(self.close)

    def close(self) -> None:
        """End all sandboxes, and the agents in them. May be called twice."""
        atexit.unregister(self.close)
        self.named.stop_all()

    def _run(self, shared: SharedSandbox, source: str) -> object:
        return run_cell(self._shell, shared, source)

    @output_can_be_silenced
    @no_var_expand
    @line_cell_magic
    @_explains
    def sandbox(self, line: str, cell: str | None = None) -> Any:
        """`%%sandbox` runs the cell in a sandbox, see %%sandbox?; `%sandbox` manages them."""
        if cell is None:
            return self._manager.line(line)
        words = line.split()
        if "--agent" in words:
            words.remove("--agent")
            return self._agents.begin(" ".join(words), cell)
        args = parse_argstring(sandbox_cell, line)
        asked = {n: getattr(args, n) for n in FIELDS if getattr(args, n) is not None}
        config = checked(SandboxConfig, asked, lambda name: FIELDS.get(name, name))
        for option, names in (("-i", args.input), ("-o", args.output)):
            for name in names or ():
                if not name.isidentifier():
                    raise ConfigError(option, f"{name!r} is no name of a variable.")
        shared = self.named.use(args.name, config if asked else None)
        variables.copy_in(shared, args.input or [], self._shell.user_ns)
        source = f"%%bash\n{cell}" if args.language == "bash" else cell
        run_cell(self._shell, shared, source, timeout=args.timeout, trust=args.trust)
        self._shell.push(variables.copy_out(shared, args.output or []))
        return None

    @output_can_be_silenced
    @no_var_expand
    @line_cell_magic
    @_explains
    def agent(self, line: str, cell: str | None = None) -> Any:
        """`%%agent` has a model solve the cell's text, see %%agent?; `%agent` goes on with it."""
        return self._agents.go_on(line) if cell is None else self._agents.begin(line, cell)


SandboxMagics.sandbox.__doc__ = f"{sandbox_line.__doc__}\n\n{sandbox_cell.__doc__}"
SandboxMagics.agent.__doc__ = (
    "`%agent resume`, `%agent stop` and `%agent say TEXT`, with `-n NAME`: go on with a run that a "
    f"pause has handed to you.\n\n{agent_magic.__doc__}"
)
