"""Cells of plain Python on their short way: what comes of them is what IPython makes of them."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import re
import textwrap
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core import interactiveshell
from IPython.core.compilerop import CachingCompiler
from IPython.core.inputtransformer2 import TokenTransformBase, TransformerManager
from traitlets.config import Config

from lis_kernel.kernel.setup import setup_source
from lis_kernel.sandbox.launch import GUEST

spec = importlib.util.spec_from_file_location("cells", GUEST / "cells.py")
assert spec is not None and spec.loader is not None
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)


class Shell:
    """As much of a shell as `quicken` changes."""

    autoawait = True

    def __init__(self) -> None:
        self.input_transformer_manager = TransformerManager()
        self.asked: list[str] = []

    def should_run_async(self, raw, *, transformed_cell=None, preprocessing_exc_tuple=None):
        self.asked.append(transformed_cell)
        return "await" in transformed_cell


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(cells, "LONG", 0)
    cells.is_plain.cache_clear()
    made = Shell()
    cells.quicken(made)
    return made


def test_python_is_transformed_as_always(shell) -> None:
    for module in (argparse, textwrap, interactiveshell):
        source = Path(module.__file__).read_text()
        ours = shell.input_transformer_manager.transform_cell(source)
        assert ours == TransformerManager().transform_cell(source)
        assert cells.is_plain(source)
    assert cells.is_plain(setup_source())


LINES = st.sampled_from(
    [
        *(
            "x = 1",
            "%time x",
            "!ls",
            "y = !ls",
            "z = %pwd",
            "x?",
            "?x",
            "x = '''",
            "'''",
            "f(",
            ")",
        ),
        *("if x:", "    y = 2", "    %pwd", "    ", ">>> a", "... b", "In [1]: c", "# what?", "\\"),
        *("'%s' % x", "/f 1", ",f a", "await x", "f'{x!r}'", "%%bash", "echo", "a = b \\"),
    ]
)


@given(st.lists(LINES, max_size=8))
def test_any_cell_is_transformed_as_always(lines) -> None:
    cell = "\n".join(lines)
    shell = Shell()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(cells, "LONG", 0)
        cells.is_plain.cache_clear()
        cells.quicken(shell)
        results = []
        for manager in (shell.input_transformer_manager, TransformerManager()):
            try:
                results.append(manager.transform_cell(cell))
            except SyntaxError as error:
                results.append(str(error))
    assert results[0] == results[1]


def test_a_transformer_of_the_users_is_asked(shell) -> None:
    class Shout(TokenTransformBase):
        @classmethod
        def find(cls, tokens):
            return None if tokens[0][0].string.isupper() else cls((1, 0))

        def transform(self, lines):
            return [line.upper() for line in lines]

    manager = shell.input_transformer_manager
    assert manager.transform_cell("x = 1") == "x = 1\n"
    manager.token_transformers.insert(0, Shout)
    assert manager.transform_cell("x = 1") == "X = 1\n"


def test_whether_a_cell_awaits_is_asked_once(shell) -> None:
    asked = [
        shell.should_run_async(cell, transformed_cell=cell)
        for cell in ("a", "a", "await b", "await b", "a")
    ]
    assert asked == [False, False, True, True, False]
    assert shell.asked == ["a", "await b", "a"]


# -- the setup cell --------------------------------------------------------------------------------

CELL = "def f(x):\n    return x + 1\n\ny = f(1)\nz = -y\nassert z"


@pytest.fixture
def whole(tmp_path: Path):
    """A shell of IPython's that remembers CELL."""
    config = Config({"HistoryManager": {"enabled": False}})
    shell = interactiveshell.InteractiveShell(
        config=config, ipython_dir=str(tmp_path), compiler_class=cells.Compiler
    )
    cells.quicken(shell)
    cells.remember(shell, CELL)
    return shell


def test_a_remembered_cell_is_not_parsed_and_does_the_same(whole, monkeypatch) -> None:
    def parse(*_: object) -> None:
        raise AssertionError("it is parsed")

    with monkeypatch.context() as patch:
        patch.setattr(CachingCompiler, "ast_parse", parse)
        assert whole.run_cell(CELL, store_history=True).success
    assert (whole.user_ns["y"], whole.user_ns["z"]) == (2, -2)
    assert inspect.getsource(whole.user_ns["f"]) == "def f(x):\n    return x + 1\n"
    assert whole.user_ns["f"].__code__.co_filename.startswith("<ipython-input-1-")
    failed = whole.run_cell("f('a')", store_history=True)
    text = "".join(whole.InteractiveTB.text(*_about(failed.error_in_exec)))
    assert ":2, in f(x)" in _plain(text)
    assert whole.run_cell(CELL, store_history=True).success  # as another one, it is parsed


def test_who_changes_trees_sees_a_remembered_cell_s(whole) -> None:
    class Seven(ast.NodeTransformer):
        def visit_Constant(self, node):
            return ast.copy_location(ast.Constant(7), node)

    whole.ast_transformers.append(Seven())
    assert whole.run_cell(CELL, store_history=True).success
    assert whole.user_ns["y"] == 14


def test_a_remembered_cell_shows_every_expression_where_all_are_shown(whole) -> None:
    whole.ast_node_interactivity = "all"
    assert whole.run_cell(CELL, store_history=True).success
    assert whole.user_ns["z"] == -2


def test_what_the_future_changes_is_compiled_anew(whole) -> None:
    whole.run_cell("from __future__ import annotations")
    assert whole.run_cell("def g(x: nothing): ...").success
    assert whole.run_cell(CELL, store_history=True).success


def _about(error):
    return type(error), error, error.__traceback__


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
