"""A long cell of plain Python begins sooner: the setup cell of a trajectory takes half its time.

ipykernel and IPython each transform a cell and each compile it to see whether it awaits, and the
search for IPython's own syntax tokenizes it in Python. What comes of it is the same here: an answer
is remembered for the next question, and in what Python can parse there is no syntax but Python's.
"""

import ast
import functools
import warnings

LONG = 1_000
"""Characters from which on parsing is worth it."""


def quicken(shell):
    """Change `shell` so; called once it is made."""
    manager = shell.input_transformer_manager
    transform, known = manager.do_token_transforms, list(manager.token_transformers)

    def do_token_transforms(lines):
        if manager.token_transformers == known and is_plain("".join(lines)):
            return lines
        return transform(lines)

    manager.do_token_transforms = do_token_transforms
    asks, last = shell.should_run_async, (None, False)

    def should_run_async(raw_cell, *, transformed_cell=None, preprocessing_exc_tuple=None):
        nonlocal last
        if preprocessing_exc_tuple is not None or last[0] != (transformed_cell, shell.autoawait):
            answer = asks(
                raw_cell,
                transformed_cell=transformed_cell,
                preprocessing_exc_tuple=preprocessing_exc_tuple,
            )
            if preprocessing_exc_tuple is not None:
                return answer
            last = (transformed_cell, shell.autoawait), answer
        return last[1]

    shell.should_run_async = should_run_async


@functools.lru_cache(maxsize=1)
def is_plain(text):
    """Whether it is long, and Python as it stands."""
    if len(text) < LONG:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when it is compiled
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False
    return True
