"""How a cell of the agent kernel is read, completed and explained: pure functions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lis_kernel.agent_kernel.app import config_of
from lis_kernel.agent_kernel.cell import MAGICS, Cell, Line, code_at, read
from lis_kernel.agent_kernel.completion import complete, described
from lis_kernel.agent_kernel.conversation import settings_of
from lis_kernel.agent_kernel.display import front_end
from lis_kernel.agent_kernel.magics import help_text
from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError


def test_magics_come_first_and_the_rest_is_the_task() -> None:
    cell = read(
        "\n%model local/x\n\n%files a.csv 'b c.csv'  \nWhich rows?\n%turns is no magic here\n"
    )
    assert cell.lines == (Line("model", "local/x"), Line("files", "a.csv 'b c.csv'"))
    assert (cell.kind, cell.body) == ("task", "Which rows?\n%turns is no magic here")
    assert read("%reset").kind == "nothing" and read(" \n\n").kind == "nothing"
    assert read("  %model is indented, and a task").kind == "task"


def test_code_keeps_its_lines() -> None:
    cell = read("%reset\n%%python\n\nif x:\n    print('%%bash')\n")
    assert cell.lines == (Line("reset", ""),)
    assert (cell.kind, cell.body) == ("python", "\nif x:\n    print('%%bash')\n")
    assert read("%%bash\nls | wc -l").kind == "bash"
    assert read("%python print(1)  # %%bash").lines == (Line("python", "print(1)  # %%bash"),)


ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


@pytest.mark.parametrize("odd", ODD)
def test_only_a_line_feed_ends_a_line(odd: str) -> None:
    """What `str.splitlines` takes for an end as well may stand in a string."""
    assert read(f"%python print('a{odd}b')") == Cell((Line("python", f"print('a{odd}b')"),))
    assert read(f"%bash echo a{odd}b\nDo it.").body == "Do it."
    assert read(f"%%python\n'{odd}%model x'").body == f"'{odd}%model x'"
    assert read(f"Say{odd}%model x").body == f"Say{odd}%model x"
    source = f"%python x = 'a{odd}b'; x."
    assert code_at(source, len(source)) == (source[8:], 8)
    assert complete(f"%files 'a{odd}b'\n%mo", 15).matches == ["%model"]


def test_lines_of_windows() -> None:
    cell = read("%model local/x\r\n\r\n%%python\r\nif x:\r\n    y\r\n")
    assert cell == Cell((Line("model", "local/x"),), "python", "if x:\r\n    y\r\n")
    assert read("%python x\r\nDo\r\nit.\r\n") == Cell((Line("python", "x"),), "task", "Do\r\nit.")
    assert code_at("%turns 3\r\n%python x.\r\nA task", 20) == ("x.", 18)
    assert complete("%turns 3\r\n%mo", 13).matches == ["%model"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("%fles a", "Did you mean %files?"),
        ("%%pyton\n1", "Did you mean %%python?"),
        ("%%model x", "Did you mean %model?"),
        ("%", "%help lists them"),
        ("%d of them are what?", "a task that begins with % needs a word before it"),
        ("%%bash ls", "Write the code on the lines below it, or %bash ls"),
        ("%%python\n  \n", "there is no code below it"),
        ("%Model x", "Did you mean %model?"),
    ],
)
def test_a_wrong_magic_names_the_fix(source: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(source)
    assert said in str(caught.value)


@given(st.text())
def test_any_text_is_a_cell_or_a_clear_error(text: str) -> None:
    try:
        cell = read(text)
    except ConfigError as error:
        assert error.fix
    else:
        assert cell.kind != "task" or cell.body
    for cursor in {0, len(text) // 2, len(text)}:
        start, end, _ = complete(text, cursor)
        assert 0 <= start <= end == cursor
        described(text, cursor)
        if (place := code_at(text, cursor)) is not None:
            source, offset = place
            assert text[offset : offset + len(source)] == source


def test_python_is_found_where_the_cursor_is() -> None:
    assert code_at("%python x.y", 11) == ("x.y", 8)
    assert code_at("%python x.y", 3) is None
    assert code_at("%python f(a, ", 13) == ("f(a, ", 8)
    assert code_at("%turns 3\n%python x.\nA task", 19) == ("x.", 17)
    assert code_at("%python x.\nA task", 17) is None
    assert code_at("%%python\nx = 1\nx.", 17) == ("x = 1\nx.", 9)
    assert code_at("%%bash\nls", 9) is None
    assert code_at("A task\n%%python\nx", 17) is None


def test_completion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data one.csv").touch()
    (tmp_path / "data").mkdir()

    def at_end(source: str) -> tuple[str, list[str]]:
        start, _, matches = complete(source, len(source))
        return source[start:], matches

    assert at_end("%") == ("%", [*(f"%{name}" for name in MAGICS), "%%python", "%%bash"])
    assert at_end("%mo") == ("%mo", ["%model"])
    assert at_end("%turns 2\n%%b") == ("%%b", ["%%bash"])
    assert at_end("%files da") == ("da", ["data/", r"data\ one.csv"])
    assert at_end(r"%files data/ data\ o") == (r"data\ o", [r"data\ one.csv"])
    assert at_end("%model local/") == ("local/", at_end("%model local/")[1])
    assert "local/qwen2.5-coder-0.5b" in at_end("%model local/")[1]
    assert "anthropic/claude-sonnet-5-5" in at_end("%model anth")[1]
    assert "openai/gpt-5" in at_end("%model openai/gpt-")[1]
    assert at_end("%model scripted:da")[1] == ["scripted:data/", r"scripted:data\ one.csv"]
    assert at_end("%budget c") == ("c", ["cost="])
    assert at_end("A task about %mo")[1] == at_end("A task\n%mo")[1] == []
    assert at_end("%%python\n%mo")[1] == []


def test_completion_of_files_that_are_no_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (b"good", b"a line\n%files secret", b"no unicode \xff", b"\x1b[2J"):
        (tmp_path / os.fsdecode(name)).touch()
    for word in ("", "~/"):
        source = f"%files {word}"
        assert complete(source, len(source)).matches == [f"{word}good"]
    assert complete("%files ~root", 12).matches in ([], ["/root/"]), "not below one's own home"


def test_help() -> None:
    text = help_text()
    assert all(f"%{name}" in text for name in MAGICS) and "%%bash" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "Which model answers" in described("%model x", 3)
    assert described("What is %model?", 10) == ""


def test_settings_of_a_kernelspec(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert config_of({}).model.name == "local/qwen2.5-coder-1.5b"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    assert config_of({}).model.name.startswith("anthropic/")
    words = {
        "backend": "docker",
        "network": "open",
        "limits": {"pids": 9},
        "budget": {"turns": 7},
        "model": {"name": "openai/x", "temperature": 0.5},
    }
    config = config_of(words)
    assert (config.sandbox.backend, config.limits.pids, config.budget.turns) == ("docker", 9, 7)
    assert config.limits.output_bytes == 10_000_000
    assert (config.model.name, config.model.temperature) == ("openai/x", 0.5)
    assert config_of(words, "local/y").model.name == "local/y"
    for wrong, said in (
        ({"model": "x"}, "--config.model"),
        ({"budgt": {}}, "--config.budgt"),
        ({"budget": {"turns": 0}}, "--config.budget.turns"),
        ({"limits": {"pids": "many"}}, "--config.limits.pids"),
    ):
        with pytest.raises(ConfigError, match=said):
            config_of(wrong)


def test_a_model_has_the_settings_of_its_own_provider() -> None:
    server = {"base_url": "http://here/v1", "api_key_env": "MINE", "temperature": 0.5}
    person = {"timeout": 9.0, "retries": 1}
    own = {"prices": (1, 2), "context_window": 9, "max_output_tokens": 3, "extra_body": {"a": 1}}
    given = ModelConfig.model_validate({"name": "openai/a", **server, **person, **own})
    assert set(ModelConfig.model_fields) == {"name", *server, *person, *own}, "decide of a new one"
    assert settings_of("openai/a", given) == given
    expected = ModelConfig.model_validate({"name": "openai/b", **server, **person})
    assert settings_of("openai/b", given) == expected
    for name in ("anthropic/a", "local/a", "scripted:a", "a.module:Class/a"):
        assert settings_of(name, given) == ModelConfig(name=name)
        assert settings_of("local/x", ModelConfig(name="wrong")) == ModelConfig(name="local/x")
    with pytest.raises(ConfigError, match="'b' names no provider"):
        settings_of("b", given)
    # and so it is for the option of the command line
    words = {"model": given.model_dump()}
    assert config_of(words).model == config_of(words, "openai/a").model == given
    assert config_of(words, "openai/b").model == expected
    assert config_of(words, "anthropic/b").model == ModelConfig(name="anthropic/b")
    assert config_of({"model": server}, "openai/c").model.base_url == "http://here/v1"


def test_a_view_fits_who_asked() -> None:
    assert front_end({"metadata": {"cellId": "x"}, "content": {"allow_stdin": True}}) == "widgets"
    console = {"metadata": {}, "header": {"username": "me"}, "content": {"allow_stdin": True}}
    assert front_end(console) == "lines"
    assert front_end({**console, "content": {"allow_stdin": False}}) == "html"
