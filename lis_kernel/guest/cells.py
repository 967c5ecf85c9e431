"""A long cell of plain Python begins sooner, and the setup cell of a trajectory at once.

ipykernel and IPython each transform a cell and each compile it to see whether it awaits, the search
for IPython's own syntax tokenizes it in Python, and the name of its code is a hash that is computed
in Python. What comes of it is the same here: an answer is remembered for the next question, and in
what Python can parse there is no syntax but Python's. The setup cell's code is compiled before the
forks.
"""

import ast
import functools
import warnings

from IPython.core.compilerop import CachingCompiler

LONG = 1_000
"""Characters from which on parsing is worth it."""


class Compiler(CachingCompiler):
    """IPython's, whose names of cells ipykernel replaces for its debugger alone.

    In a tree that was remembered the nodes are empty: what they compile to is known.
    """

    log = None  # ipykernel sets it

    def __init__(self):
        super().__init__()
        self.shell, self.trees, self.codes = None, {}, {}

    def ast_parse(self, source, filename="<unknown>", symbol="exec"):
        tree = self.trees.get((source, filename, self.flags))
        if tree is None or self.shell.ast_transformers or self._shows_more():
            return super().ast_parse(source, filename, symbol)
        return tree

    def _shows_more(self):
        """Than the last expression of a cell: the others are compiled in another way then."""
        return self.shell.ast_node_interactivity != "last_expr"

    def __call__(self, source, filename, symbol, **options):
        known = self.codes.get(id(source.body[0])) if isinstance(source, ast.Module) else None
        return super().__call__(source, filename, symbol, **options) if known is None else known

    def remember(self, text, number, shell):
        """What comes of the cell `text` without an expression at its end, as cell `number`."""
        self.shell = shell
        name = self.get_code_name(text, text, number)
        tree = self.ast_parse(text, name)
        short = ast.Module([type(node)() for node in tree.body], [])
        with self.extra_flags(ast.PyCF_ALLOW_TOP_LEVEL_AWAIT):
            for node, empty in zip(tree.body, short.body, strict=True):
                self.codes[id(empty)] = self(ast.Module([node], []), name, "exec")
        self.trees[text, name, self.flags] = short


def remember(shell, text):
    """Have what comes of the first cell of `shell`, should it be `text`, at once."""
    cell = shell.transform_cell(text)
    shell.should_run_async(text, transformed_cell=cell)
    shell.compile.remember(cell, 1, shell)


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
