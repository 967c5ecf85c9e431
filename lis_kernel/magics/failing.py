"""A cell of the user's that fails, as the page shows it: by the sandbox's own traceback, or a line.

IPython asks an exception for `_render_traceback_`; without it people would see the insides of this
package. The cell fails all the same, so that "Run All" stops there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from lis_kernel.errors import LisKernelError
from lis_kernel.tools.clean import safe_stream
from lis_kernel.tools.terminal import plain_text

__all__ = ["CellFailed", "in_sandbox", "short"]

CHARS = 20_000
"""Of one line of a traceback, and of an error's text."""
LINES = 500


class CellFailed(Exception):
    """Shown as its lines and nothing else."""

    def __init__(self, text: str, lines: Sequence[str] = ()) -> None:
        super().__init__(text)
        name = type(self).__name__
        self._lines = list(lines) or [f"\x1b[31m{name}\x1b[39m: {text}"]

    def _render_traceback_(self) -> list[str]:
        return self._lines


def _named(name: str, text: str, lines: Sequence[str] = ()) -> CellFailed:
    """An error that is called `name` wherever its class is looked at."""
    made: CellFailed = type(name, (CellFailed,), {"__module__": "sandbox"})(text, lines)
    return made


def in_sandbox(ename: str, evalue: str, traceback: Sequence[str]) -> CellFailed:
    """An error that the sandbox's kernel reported; all of it is hostile."""
    name = re.sub(r"\W", "", ename)[:100]
    text = plain_text(evalue)[:CHARS]
    lines = [safe_stream(line)[:CHARS] for line in traceback[:LINES]]
    return _named(name if name.isidentifier() else "SandboxCellError", text, lines)


class _Interrupted(KeyboardInterrupt):
    """A magic was interrupted: nothing of it is worth a look."""

    def _render_traceback_(self) -> list[str]:
        return ["\x1b[31mKeyboardInterrupt\x1b[39m"]


_Interrupted.__name__ = "KeyboardInterrupt"


def short(magic: Callable[..., Any], description: str | None) -> Callable[..., Any]:
    """`magic` with an error of ours as one line under the cell; `description` is its help."""

    def called(*words: Any, **more: Any) -> Any:
        try:
            return magic(*words, **more)
        except (LisKernelError, OSError) as error:
            raise _named(type(error).__name__, plain_text(str(error))) from error
        except KeyboardInterrupt as error:
            raise _Interrupted from error

    called.__doc__ = description
    return called
