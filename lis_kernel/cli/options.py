"""The options of `lis run`, by panel of its help, and the settings that they stand for.

The parameters of `cli/run.py` have these types. A setting that is wrong is an error that names the
option, wherever it was found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from lis_kernel.config import Limits, amount
from lis_kernel.errors import ConfigError

__all__ = ["FIELDS", "as_options", "json_object", "price"]

TASK, MODEL, SANDBOX, LIMITS, BUDGET = "Task", "Model", "Sandbox", "Limits", "Budget"
USUAL = Limits()
MEMORY, DISK = (amount(n).replace(" ", "") for n in (USUAL.memory_bytes, USUAL.disk_bytes))


def _option(panel: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)


Prompt = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="What is asked, in plain words; - reads it from stdin.",
        show_default=False,
    ),
]
MoreFiles = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE", help="More files, as after --files *.csv.", hidden=True),
]
Files = Annotated[
    list[Path] | None,
    _option(
        TASK, "File or folder for /testbed/input; repeatable.", "--files", "-f", metavar="PATH"
    ),
]
Out = Annotated[
    Path, _option(TASK, "Folder for the runs' own folders.", "--out", "-o", metavar="FOLDER")
]
AsJson = Annotated[bool, _option(TASK, "Print one JSON object and no view.", "--json", metavar="")]

Name = Annotated[
    str | None,
    _option(
        MODEL,
        "anthropic/MODEL, openai/MODEL, local/NAME or scripted:FILE.",
        "--model",
        "-m",
        metavar="NAME",
        show_default="Anthropic or OpenAI by key, else local",
    ),
]
BaseUrl = Annotated[
    str | None,
    _option(MODEL, "A compatible server: vLLM, SGLang, llama.cpp, a proxy.", metavar="URL"),
]
Tools = Annotated[
    str,
    _option(MODEL, "notebook: bash, python, editor, submit. paper: without python.", metavar="SET"),
]
Protocol = Annotated[
    str | None,
    _option(
        MODEL,
        "tools: native calls. blocks: code blocks.",
        metavar="KIND",
        show_default="by model",
    ),
]
Temperature = Annotated[
    float | None,
    _option(MODEL, "Sampling temperature.", metavar="NUMBER", show_default="the model's"),
]
ExtraBody = Annotated[
    str | None, _option(MODEL, "Sent with every request, e.g. top_p.", metavar="JSON")
]
Price = Annotated[
    str | None,
    _option(MODEL, "USD per million tokens, e.g. 3,15.", metavar="IN,OUT", show_default="as known"),
]

Backend = Annotated[
    str,
    _option(
        SANDBOX,
        "zygote, bubblewrap, docker, podman; local is no isolation at all.",
        "--backend",
        "-b",
        metavar="NAME",
    ),
]
Network = Annotated[
    str,
    _option(
        SANDBOX,
        "none, open, or allow= and a list of HOST[:PORT], *.DOMAIN, !PRIVATE_HOST and index "
        "(what pip installs from), e.g. allow=index,example.org.",
        metavar="POLICY",
    ),
]
Mount = Annotated[
    list[str] | None,
    _option(
        SANDBOX,
        "HOST_PATH:SANDBOX_PATH, read-only unless :rw follows; repeatable.",
        metavar="PATHS",
    ),
]
Image = Annotated[
    str | None,
    _option(SANDBOX, "docker, podman: an image of `lis image build`.", metavar="NAME"),
]
Runtime = Annotated[
    str | None,
    _option(SANDBOX, "docker, podman: an OCI runtime such as runsc.", metavar="NAME"),
]
Root = Annotated[
    bool, _option(SANDBOX, "docker, podman: be root inside, for apt-get.", "--root", metavar="")
]
Rootfs = Annotated[
    Path | None,
    _option(SANDBOX, "bubblewrap: an unpacked system instead of the host's.", metavar="FOLDER"),
]

Memory = Annotated[str, _option(LIMITS, "Of all processes together.", metavar="SIZE")]
Disk = Annotated[str, _option(LIMITS, "Of all that can be written together.", metavar="SIZE")]
Pids = Annotated[int, _option(LIMITS, "Processes and threads.", metavar="COUNT")]
Cpus = Annotated[float, _option(LIMITS, "Cores' worth of time.", metavar="NUMBER")]
CellTimeout = Annotated[
    float, _option(LIMITS, "Of one cell; after it the run goes on.", metavar="SECONDS")
]
SandboxTimeout = Annotated[
    float | None,
    _option(LIMITS, "Of the sandbox's whole life.", metavar="SECONDS", show_default="none"),
]

MaxTurns = Annotated[int, _option(BUDGET, "Most model calls.", metavar="COUNT")]
MaxTokens = Annotated[
    int | None, _option(BUDGET, "Most prompt and reply tokens in all.", metavar="COUNT")
]
MaxCost = Annotated[float | None, _option(BUDGET, "Most US dollars in all.", metavar="USD")]
Timeout = Annotated[float | None, _option(BUDGET, "Most seconds in all.", metavar="SECONDS")]

FIELDS = {
    "model.base_url": "--base-url",
    "model.temperature": "--temperature",
    "tools": "--tools",
    "protocol": "--protocol",
    "sandbox.mounts": "--mount",
    "limits.memory_bytes": "--memory",
    "limits.disk_bytes": "--disk",
    "limits.pids": "--pids",
    "limits.cpus": "--cpus",
    "limits.cell_seconds": "--cell-timeout",
    "limits.sandbox_seconds": "--sandbox-timeout",
    "budget.turns": "--max-turns",
    "budget.tokens": "--max-tokens",
    "budget.cost_usd": "--max-cost",
    "budget.seconds": "--timeout",
    # as a backend calls them
    "mounts": "--mount",
    **{name: f"--{name}" for name in ("image", "network", "root", "rootfs", "runtime")},
}
"""Setting → the option that makes it."""


@contextmanager
def as_options(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors about a setting name the option that made it."""
    try:
        yield
    except ConfigError as error:
        if error.field not in names:
            raise
        raise ConfigError(names[error.field], error.problem, error.fix) from error


def json_object(text: str | None, option: str, hint: str = "") -> dict[str, Any]:
    """What an option holds that takes a JSON object."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(option, f"is not JSON: {error}.", hint) from error
    if not isinstance(value, dict):
        raise ConfigError(option, "is not a JSON object.", hint)
    return value


def price(text: str | None) -> tuple[float, float] | None:
    """What `--price` holds."""
    if text is None:
        return None
    try:
        given, taken = (float(part) for part in text.split(","))
        return given, taken
    except ValueError as error:
        raise ConfigError(
            "--price", f"cannot read {text!r}.", "Write e.g. --price 3,15."
        ) from error
