"""A call is understood, or the model is told what to mend; nothing else ever happens."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lis_kernel.errors import ToolError
from lis_kernel.tools.calls import understand
from lis_kernel.tools.toolset import ALIASES, toolset
from lis_kernel.types import RawCall, ToolCall

TOOLS = toolset("notebook")
PAPER = toolset("paper")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "arguments", "command", "path", "x"]), inner)
    ),
    max_leaves=12,
)
names = st.sampled_from([*TOOLS, *ALIASES, "", "Submit", "functions.submit"]) | st.text(max_size=20)


def raw(name, arguments=None, **extra):
    return RawCall(id="c1", name=name, arguments=arguments, extra=extra)


@given(
    names, json_values, st.dictionaries(st.text(max_size=8), json_values, max_size=3), st.booleans()
)
def test_any_json_is_understood_or_refused(name, arguments, extra, as_text):
    call = raw(name, json.dumps(arguments) if as_text else arguments, **extra)
    try:
        understood = understand(call, TOOLS)
    except ToolError as error:
        assert str(error)
        return
    assert isinstance(understood, ToolCall) and understood.name in TOOLS
    TOOLS[understood.name].to_cell(understood.arguments)
    if understood.name == "submit":
        assert arguments is None or isinstance(arguments, dict | str)


@given(names, st.text())
def test_any_text_is_understood_or_refused(name, arguments):
    try:
        understand(raw(name, arguments), TOOLS)
    except ToolError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("call", "name", "arguments"),
    [
        (raw("execute_bash", '{"command": "ls"}'), "execute_bash", {"command": "ls"}),
        (raw("execute_bash", {"command": "ls"}), "execute_bash", {"command": "ls"}),
        (raw("bash", '{"command": "ls"}'), "execute_bash", {"command": "ls"}),
        (raw("python", '{"code": "1"}'), "execute_python", {"code": "1"}),
        (raw(" finish ", ""), "submit", {}),
        (raw("submit", None), "submit", {}),
        (raw("submit", "null"), "submit", {}),
        (raw("submit", '{"answer": "7", "confidence": 1}'), "submit", {"answer": "7"}),
        (raw("execute_bash", '{"command": "a\nb"}'), "execute_bash", {"command": "a\nb"}),
        (raw("execute_bash", '```json\n{"command": "ls"}\n```'), "execute_bash", {"command": "ls"}),
        (raw("execute_bash", None, command="ls", index=0), "execute_bash", {"command": "ls"}),
        (raw("execute_bash", "{}", command="ls"), "execute_bash", {"command": "ls"}),
        (
            raw("execute_bash", {"name": "bash", "arguments": '{"command": "ls"}'}),
            "execute_bash",
            {"command": "ls"},
        ),
        (
            raw(
                "file_editor",
                '{"command": "view", "path": "/a", "view_range": "[1, 9]", "new_str": null}',
            ),
            "str_replace_editor",
            {"command": "view", "path": "/a", "view_range": [1, 9]},
        ),
    ],
)
def test_understood(call, name, arguments):
    assert understand(call, TOOLS) == ToolCall(id="c1", name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (raw("execute_bash", '{"command": "ls"'), "not valid JSON .* line 1, column 17"),
        (raw("execute_bash", '["ls"]'), "must be a JSON object, not a list"),
        (raw("execute_bash", '"ls"'), "must be a JSON object, not a string"),
        (raw("submit", "5"), "must be a JSON object, not an integer"),
        (raw("submit", "I am done"), "not valid JSON"),
        (raw("submit", []), "not a list"),
        (raw("submit", False), "not true or false"),
        (raw("execute_bash", None), "'command' is missing"),
        (raw("execute_bash", {"command": "  "}), "'command' is empty"),
        (raw("execute_bash", {"cmd": "ls"}), "no argument 'cmd'. Its arguments: command"),
        (raw("execute_bash", {"command": ["ls"]}), "'command' must be a string, not a list"),
        (raw("execute_bash", {"name": "submit", "arguments": {}}), "no argument 'name'"),
        (raw("execute_bsh", {}), "Did you mean execute_bash?"),
        (raw("Submit", {}), "Did you mean submit?"),
        (raw("web_search", {}), "The tools are: execute_bash, execute_python"),
        (raw("execute_bash", "[" * 100_000), "cannot be read|not valid JSON"),
        (raw("execute_bash", "9" * 5_000), "cannot be read"),
    ],
)
def test_refused(call, says):
    with pytest.raises(ToolError, match=says):
        understand(call, TOOLS)


def test_the_paper_set_has_no_python_and_no_answer():
    with pytest.raises(ToolError, match="There is no tool 'python'"):
        understand(raw("python", {"code": "1"}), PAPER)
    assert understand(raw("finish", {"answer": "7"}), PAPER).arguments == {}
