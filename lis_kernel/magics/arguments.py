"""A magic's line as arguments: words as a shell reads them, so that paths may hold blanks."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from IPython.core.error import UsageError

__all__ = ["options_of", "parsed"]


def parsed(magic: Any, line: str) -> Any:
    """The arguments of `line` for a function with IPython's `magic_arguments`.

    Raises:
        UsageError: the line is wrong; IPython shows it in a line of its own.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{error}: {line}") from None
    return magic.parser.parse_args(words)


def options_of(magic: Any) -> dict[str, str]:
    """The options of such a function; for each the name of the value that it takes, or nothing."""
    parser: argparse.ArgumentParser = magic.parser
    return {
        option: action.dest if action.nargs != 0 else ""
        for action in parser._actions
        for option in action.option_strings
    }
