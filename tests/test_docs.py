"""What README says is there: its commands, options, exit codes, files and names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

import lis_kernel
from lis_kernel.cli import app
from lis_kernel.types import StopReason

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^lis (.*?)(?:\s{2,}#.*)?$", BASH, re.MULTILINE)


def options(words: list[str]) -> set[str]:
    """The options of the command that `words` begin with, sub-commands followed."""
    command = typer.main.get_command(app)
    for word in words:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
    return {name for parameter in command.params for name in (*parameter.opts, "--help")}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_exists(line: str) -> None:
    words = re.sub(r'"[^"]*"', "TEXT", line).split()
    commands = getattr(typer.main.get_command(app), "commands", {})
    assert words[0] in commands
    asked = {word.split("=")[0] for word in words if word.startswith("--")}
    assert asked <= options(words)


def test_what_jupyter_execute_is_told_it_understands() -> None:
    """An option that it does not know it ignores, and runs the notebook outside the sandbox."""
    from nbclient.cli import NbClientApp

    lines = re.findall(r"^ *jupyter execute (.*)$", README, re.MULTILINE)
    asked = {name for line in lines for name in re.findall(r"--([\w-]+)", line)}
    assert asked == {"kernel_name"} & set(NbClientApp.aliases)


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_stop_reason_is_explained() -> None:
    for reason in StopReason:
        assert f"`{reason.value}`" in README, reason


def test_files_and_pictures_that_the_readme_names_exist() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", README):
        assert (ROOT / path).is_file() or (ROOT / "lis_kernel" / path).is_file(), path


def test_the_notebook_example_uses_public_names() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    compile(code, "README", "exec")
    for name in re.findall(r"\blis\.(\w+)", code):
        assert name in lis_kernel.__all__
