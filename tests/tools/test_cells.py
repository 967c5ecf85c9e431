"""Whatever a model writes, the cell says exactly that to a kernel of today's IPython."""

import ast
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from lis_kernel.errors import ConfigError, ToolError
from lis_kernel.protocols import Tool
from lis_kernel.tools.literal import is_verbatim, literal
from lis_kernel.tools.observation import observe
from lis_kernel.tools.toolset import toolset
from lis_kernel.types import ToolSpec

TOOLS = toolset("notebook")

NASTY = [
    ">>> ", ">>>", "... ", "...:", "In [3]: ", "%%bash", "%cd /", "!ls", "a?", "x??", "?x", "#",
    "a = !ls", '"""', "'''", '"', "'", "\\", "\\n", "\n", "\r\n", "\r", "\t", "    ", " ", "{",
    "\0", "\x0c", "\x1c", "\x85", "\u2028", "\ufeff", "\u202e", "\ud800", "\udc80", "é", "𝄞", "f(",
]  # fmt: skip
texts = st.one_of(
    st.text(st.characters(), max_size=60),
    st.lists(st.sampled_from(NASTY), max_size=14).map("".join),
)


def transformed_call(cell: str) -> tuple[str, list[object], dict[str, object]]:
    """Name, positional and keyword arguments of the one call that the kernel will run."""
    call = ast.parse(TransformerManager().transform_cell(cell)).body
    assert len(call) == 1 and isinstance(call[0], ast.Expr) and isinstance(call[0].value, ast.Call)
    call = call[0].value
    keywords = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    return ast.unparse(call.func), [ast.literal_eval(a) for a in call.args], keywords


@given(texts)
@example('\\"""')
@example('""""\n""""')
@example('\'\'\'\n""""')
@example("x\n \n\t\n")
def test_a_literal_is_exact(text):
    assert ast.literal_eval(literal(text)) == text
    literal(text).encode()  # fits in any message and file


@given(texts)
def test_a_literal_has_no_separator_but_newline(text):
    assert literal(text).split("\n") == literal(text).splitlines()


def test_literals_are_readable():
    assert literal("/testbed/a b.txt") == '"/testbed/a b.txt"'
    assert literal('say "no"') == "'say \"no\"'"
    assert literal("one\n") == '"one\\n"'
    assert literal("def f():\n\treturn 1\n") == '"""\\\ndef f():\n\treturn 1\n"""'
    assert literal('"""Doc."""\nx = 1') == "'''\\\n\"\"\"Doc.\"\"\"\nx = 1'''"
    assert literal("a \n  \n>>> b") == '"""\\\na\\x20\n \\x20\n\\x3e>> b"""'


editor_calls = st.fixed_dictionaries(
    {"command": st.sampled_from(["view", "create", "str_replace", "insert"]), "path": texts},
    optional={
        "file_text": texts,
        "old_str": texts,
        "new_str": texts,
        "insert_line": st.integers(),
        "view_range": st.lists(st.integers(), max_size=3),
    },
)


@settings(max_examples=300)
@given(editor_calls)
@example({"command": "create", "path": ">>> a\n>>> b", "file_text": "\n>>> x\n... y\n"})
@example({"command": "create", "path": "a", "file_text": "x\n    \ny"})
def test_an_editor_call_arrives_unchanged(arguments):
    name, positional, keywords = transformed_call(TOOLS["str_replace_editor"].to_cell(arguments))
    assert (name, positional) == ("str_replace_editor", [arguments["command"]])
    assert keywords == {k: v for k, v in arguments.items() if k != "command"}


@settings(max_examples=300)
@given(texts.filter(lambda t: t.strip()))
@example(">>> x")
@example("...: x")
@example("x\n    \ny")
@example("cat <<E\n<<<<<<< ours\n=======\n>>>>>>> theirs\nE")
@example("\n\n   ls\n")
def test_a_command_arrives_unchanged(command):
    try:
        cell = TOOLS["execute_bash"].to_cell({"command": command})
    except ToolError:
        assert any(char == "\0" or "\ud800" <= char <= "\udfff" for char in command)
        return
    name, positional, keywords = transformed_call(cell)
    assert name == "get_ipython().run_cell_magic" and not keywords
    assert positional[:2] == ["bash", ""]
    assert positional[2].removesuffix("\n") == command.removesuffix("\n")
    assert cell.startswith("%%bash\n") == is_verbatim(command)


@given(texts)
def test_an_answer_arrives_unchanged(answer):
    name, positional, keywords = transformed_call(TOOLS["submit"].to_cell({"answer": answer}))
    assert name == "submit"
    assert [*positional, *keywords.values()] == [answer]


def test_cells_look_as_a_person_would_write_them():
    assert TOOLS["execute_bash"].to_cell({"command": "ls\nwc -l *"}) == "%%bash\nls\nwc -l *"
    assert TOOLS["execute_python"].to_cell({"code": "x = 1\nx?"}) == "x = 1\nx?"
    assert TOOLS["submit"].to_cell({}) == "submit()"
    assert TOOLS["submit"].to_cell({"answer": "42"}) == 'submit("42")'
    assert TOOLS["str_replace_editor"].to_cell(
        {"path": "/testbed/a.py", "command": "create", "file_text": "x = 1\ny = 2\n"}
    ) == (
        'str_replace_editor(\n    "create",\n    path="/testbed/a.py",\n'
        '    file_text="""\\\nx = 1\ny = 2\n""",\n)'
    )


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("execute_bash", {"command": " \n"}, "'command' is empty"),
        ("execute_bash", {}, "'command' is missing"),
        ("execute_bash", {"command": 5}, "must be a string, not an integer"),
        ("execute_bash", {"command": "a\0"}, "NUL"),
        ("execute_python", {"code": ""}, "'code' is empty"),
        ("execute_python", {"code": "'\ud83d'"}, "surrogate"),
        ("str_replace_editor", {"command": "view"}, "'path' is missing"),
        ("str_replace_editor", {"command": "undo", "path": "/"}, "must be one of: view, create"),
        (
            "str_replace_editor",
            {"command": "view", "path": "/", "view_range": "x"},
            "must be a list",
        ),
        ("str_replace_editor", {"command": "view", "path": "/", "view_range": [1, "x"]}, "item 1"),
        (
            "str_replace_editor",
            {"command": "insert", "path": "/", "insert_line": True},
            "an integer",
        ),
        ("str_replace_editor", {"command": "view", "path": "/", "lines": 1}, "no argument 'lines'"),
    ],
)
def test_wrong_arguments_are_named(tool, arguments, says):
    with pytest.raises(ToolError, match=says):
        TOOLS[tool].to_cell(arguments)


def test_slips_with_one_meaning_are_mended():
    cell = TOOLS["str_replace_editor"].to_cell(
        {
            "command": "view",
            "path": "/a",
            "view_range": "[1, -1]",
            "insert_line": "5",
            "old_str": None,
        }
    )
    assert "view_range=[1, -1]" in cell and "insert_line=5" in cell and "old_str" not in cell


def test_the_two_sets():
    paper, notebook = toolset("paper"), toolset("notebook")
    assert list(paper) == ["execute_bash", "str_replace_editor", "submit"]
    assert list(notebook) == ["execute_bash", "execute_python", "str_replace_editor", "submit"]
    assert paper["submit"].spec.parameters["properties"] == {}
    assert "answer" in notebook["submit"].spec.parameters["properties"]
    for name, tool in itertools.chain(paper.items(), notebook.items()):
        assert isinstance(tool, Tool) and tool.spec.name == name
    with pytest.raises(ConfigError, match="Known: paper, notebook"):
        toolset("all")


class Shout:
    """A tool of another package."""

    spec = ToolSpec(name="shout", description="Says it loudly.", parameters={"type": "object"})

    def to_cell(self, arguments):
        return "print('HELLO')"

    def to_observation(self, result):
        return observe(result, "plain")


class Impostor(Shout):
    spec = Shout.spec.model_copy(update={"name": "bash"})


def test_tools_of_others_stand_beside_ours():
    offered = toolset("paper", more=("test_cells:Shout",))
    assert list(offered) == ["execute_bash", "str_replace_editor", "submit", "shout"]
    with pytest.raises(ConfigError, match="there is a tool 'bash'"):
        toolset("paper", more=("test_cells:Impostor",))
    with pytest.raises(ConfigError, match="unknown 'shout'"):
        toolset("paper", more=("shout",))
