"""The code-block protocol: which block is a call, and what is cut."""

from hypothesis import given
from hypothesis import strategies as st

from lis_kernel.tools.blocks import blocks_observation, parse_blocks
from lis_kernel.tools.calls import understand
from lis_kernel.tools.toolset import toolset
from lis_kernel.types import ToolResult

TOOLS = toolset("notebook")
PAPER = toolset("paper")


def calls(text, tools=TOOLS, **options):
    return [(call.name, call.arguments) for call in parse_blocks(text, 3, tools, **options).calls]


def test_only_the_first_block_counts_and_the_rest_is_cut():
    said = "I look.\n```bash\nls\n```\n"
    blocks = parse_blocks(f"{said}```output\na.txt\n```\n```python\n1\n```\n", 3, TOOLS)
    assert blocks.text == said
    (call,) = blocks.calls
    assert (call.id, call.name, call.arguments) == ("block_3_0", "execute_bash", {"command": "ls"})


def test_all_blocks():
    text = "```sh\nls\n```\n```text\nno\n```\n~~~py\n1\n~~~\n```submit\n 42 \n```\nbye"
    blocks = parse_blocks(text, 1, TOOLS, all_blocks=True)
    assert [call.id for call in blocks.calls] == ["block_1_0", "block_1_1", "block_1_2"]
    assert [call.name for call in blocks.calls] == ["execute_bash", "execute_python", "submit"]
    assert blocks.calls[2].arguments == {"answer": "42"} and blocks.text == text.removesuffix("bye")


def test_fences():
    assert calls("````python title=x\ns = '''\n```bash\nls\n```\n'''\n````") == [
        ("execute_python", {"code": "s = '''\n```bash\nls\n```\n'''"})
    ]
    assert calls("1. go:\n   ```bash\n   if a; then\n     b\n   fi\n   ```\n") == [
        ("execute_bash", {"command": "if a; then\n  b\nfi"})
    ]
    assert calls("```text\n~~~bash\nls\n~~~\n```\n") == []
    assert calls("```{.python}\n1\n```") == [("execute_python", {"code": "1"})]
    assert calls("use ```bash ls``` or\n```\nls\n```\n") == []
    assert calls("```bash\n\n```\n```bash\nls\n```") == [("execute_bash", {"command": "ls"})]


def test_an_unclosed_block_counts_only_if_asked():
    assert calls("```bash\nrm -rf /testbed/t") == []
    assert calls("```bash\nls\n", allow_unclosed=True) == [("execute_bash", {"command": "ls"})]


def test_submit():
    assert calls("```submit\n```") == [("submit", {})]
    assert calls("```submit\n12\n34\n```") == [("submit", {"answer": "12\n34"})]


def test_python_goes_through_bash_in_the_paper_set():
    assert calls("```python\nprint('EOF')\n```", PAPER) == [
        ("execute_bash", {"command": "python3 - <<'EOF'\nprint('EOF')\nEOF"})
    ]
    assert calls("```py\nx = '''\nEOF\n'''\n```", PAPER) == [
        ("execute_bash", {"command": "python3 - <<'EOF2'\nx = '''\nEOF\n'''\nEOF2"})
    ]


@given(
    st.lists(st.sampled_from(["```", "````", "~~~", "bash", "py", "submit", "\n", "  ", "ls", "é"]))
)
def test_any_text_gives_calls_that_are_understood(pieces):
    text = "".join(pieces)
    for tools in (TOOLS, PAPER):
        blocks = parse_blocks(text, 0, tools, all_blocks=True, allow_unclosed=True)
        assert text.startswith(blocks.text)
        for call in blocks.calls:
            understand(call, tools)


def test_the_answer_to_blocks():
    one = ToolResult(call_id="a", name="execute_bash", text="[exit code 0]\n(no output)")
    assert blocks_observation([one]) == one.text
    assert (
        blocks_observation([one, one]) == f"Block 1 of 2:\n{one.text}\n\nBlock 2 of 2:\n{one.text}"
    )
