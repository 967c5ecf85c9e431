"""What a run is asked to be: one resolved `RunConfig`, saved in the trajectory as it is.

Built by `cli.py` or `lis.run()`; read by `agent/loop.py`. Secrets are never values here: a model
config holds the *name* of the environment variable that holds its key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from platformdirs import user_data_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lis_kernel.errors import ConfigError

__all__ = [
    "DEFAULT_BACKEND",
    "Budget",
    "Limits",
    "ModelConfig",
    "RunConfig",
    "SandboxConfig",
    "amount",
    "checked",
    "data_dir",
    "size",
]

C = TypeVar("C", bound=BaseModel)
DEFAULT_BACKEND = "zygote"
"""The sandbox's; where a system does not let it be, it starts as `bubblewrap` does, and says so."""


def data_dir() -> Path:
    """Where weights and sandbox images are kept; `LIS_DATA_DIR` moves it."""
    return Path(os.environ.get("LIS_DATA_DIR") or user_data_path("lis_kernel"))


def amount(size: int) -> str:
    """`2 GiB`, `256 MiB`: bytes in words."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{size} bytes"


_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)


def size(given: Any) -> Any:
    """Bytes from `512M`, `1.5G`, `2 GiB` or `4096`; what is no text stays as it is.

    Raises:
        ValueError: the text is no size.
    """
    if not isinstance(given, str):
        return given
    if (found := _SIZE.fullmatch(given.strip())) is None:
        raise ValueError(f"{given!r} is no size: write e.g. 512M or 2G")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))


Bytes = Annotated[int, BeforeValidator(size)]


class Config(BaseModel):
    """Base of the settings: unknown names are refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def checked(
    kind: type[C], words: Mapping[str, Any], written: Callable[[str], str] = lambda name: name
) -> C:
    """`kind` with the settings `words`.

    `written` tells how the user wrote a field: its option, or its place in a file.

    Raises:
        ConfigError: names the first setting that is wrong, and what it may be.
    """
    try:
        return kind.model_validate(words)
    except ValidationError as error:
        first = error.errors()[0]
        name = written(".".join(map(str, first["loc"])))
        if first["type"] == "extra_forbidden":
            known = f"Known: {', '.join(kind.model_fields)}."
            raise ConfigError(name, "unknown setting.", known) from error
        if first["type"] == "value_error":  # of ours, which names what was given
            raise ConfigError(name, f"{first['ctx']['error']}.") from error
        if first["type"] == "greater_than_equal" and str(first["loc"][-1]).endswith("_bytes"):
            least = f"At least {amount(first['ctx']['ge'])}."
            raise ConfigError(name, f"{amount(first['input'])} is too little.", least) from error
        raise ConfigError(name, f"{first['input']!r}: {first['msg']}.") from error


class ModelConfig(Config):
    """Which model answers, and how it is asked."""

    name: str
    """`anthropic/<model>`, `openai/<model>`, `local/<name>` or `scripted:<file>`."""
    base_url: str | None = None
    """An OpenAI- or Anthropic-compatible server; None is the provider's own."""
    api_key_env: str | None = None
    """Name of the environment variable with the key; None takes the provider's usual one."""
    temperature: float | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Sent as it is with every request (top_p, top_k, chat_template_kwargs, thinking …)."""
    max_output_tokens: int | None = Field(default=None, gt=0)
    """Bound of one reply, in tokens; None takes the client's default for the model."""
    context_window: int | None = Field(default=None, gt=0)
    """Tokens of prompt and reply; None takes what is known of the model."""
    prices: tuple[float, float] | None = None
    """USD per million input and output tokens; None looks the model up."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds until a request that says nothing is given up."""
    retries: int = Field(default=4, ge=0)
    """Retries of the SDK for 429, 5xx, time-outs and broken connections."""


class Limits(Config):
    """Bounds of the sandbox and of one cell."""

    cell_seconds: float = Field(default=120.0, gt=0)
    """A cell that runs longer is interrupted; then its command, at last its kernel, is killed."""
    grace_seconds: float = Field(default=5.0, gt=0)
    """From the interrupt to the kernel's restart."""
    output_bytes: Bytes = Field(default=1_000_000, ge=10_000)
    """Most that a cell's outputs may take in the notebook; the rest lies in a sandbox file."""
    spill_bytes: Bytes = Field(default=256_000_000, ge=0)
    """Most of one stream that is kept in the sandbox file."""
    memory_bytes: Bytes = Field(default=2 << 30, ge=64 << 20)
    """Of all processes of the sandbox together."""
    pids: int = Field(default=256, ge=8)
    cpus: float = Field(default=1.0, gt=0)
    """Cores' worth of time."""
    disk_bytes: Bytes = Field(default=1 << 30, ge=1 << 20)
    """Of everything writable together."""
    open_files: int = Field(default=1024, ge=64)
    """Of one process."""
    sandbox_seconds: float | None = Field(default=None, gt=0)
    """Longest life of the sandbox, wall clock."""
    collect_bytes: Bytes = Field(default=1_000_000_000, ge=0)
    """Most that is copied out of /testbed/output."""


class Budget(Config):
    """Bounds of the run; each has a stop reason of its own."""

    turns: int = Field(default=100, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    """Prompt and reply tokens, summed over all turns."""
    cost_usd: float | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)
    """Wall clock of the whole run."""


class SandboxConfig(Config):
    """Which box. The policy cannot change while the sandbox lives."""

    backend: str = DEFAULT_BACKEND
    image: str | None = None
    """docker, podman: the image's name; None is the one that `lis image build` makes."""
    rootfs: Path | None = None
    """zygote, bubblewrap: an unpacked image to use as the root instead of the host's /usr."""
    runtime: str | None = None
    """docker, podman: the OCI runtime (`runsc`, `kata`); None is the daemon's default."""
    network: str = "none"
    """`none`, `open`, or `allow=host[:port],*.domain,index`; a leading `!` on a host is the
    explicit mark that it may resolve to a private address."""
    mounts: tuple[str, ...] = ()
    """Read-only mounts `HOST_PATH:SANDBOX_PATH`; `:rw` at the end makes one writable."""
    root: bool = False
    """docker, podman: be root inside, so that `apt-get` works."""
    preload: tuple[str, ...] = ()
    """zygote: modules that every sandbox has imported when it starts (`numpy`)."""
    branch: bool = False
    """zygote, experimental: the running kernel can be branched, see `KernelSession.branch`."""


class RunConfig(Config):
    """Everything that decides how a run goes; rides in the notebook's metadata."""

    model: ModelConfig
    sandbox: SandboxConfig = SandboxConfig()
    limits: Limits = Limits()
    budget: Budget = Budget()
    tools: Literal["paper", "notebook"] = "notebook"
    """`paper`: execute_bash, str_replace_editor, submit. `notebook`: execute_python as well."""
    more_tools: tuple[str, ...] = ()
    """Tools beside these: names of the entry-point group `lis_kernel.tools`, or `module:Class`."""
    protocol: Literal["tools", "blocks"] | None = None
    """Native tool calls or code blocks; None takes the model's default."""
