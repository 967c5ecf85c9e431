"""Models: something that answers a conversation, behind `protocols.Model`.

`make_model` turns a `ModelConfig` into a client; `default_model` picks a name when the user gave
none. Each provider's SDK is imported in the file of that provider only, so that importing this
package, or running a scripted model, loads none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError
from lis_kernel.protocols import Model
from lis_kernel.registry import MODELS, load

__all__ = ["default_model", "load_provider", "make_model", "split_name"]

DEFAULT_ANTHROPIC = "anthropic/claude-sonnet-5-5"
DEFAULT_OPENAI = "openai/gpt-6.1-sol"
DEFAULT_LOCAL = "local/qwen2.5-coder-1.5b"


def make_model(config: ModelConfig) -> Model:
    """The client for `config`. Called by `agent.loop`, once a run.

    Raises:
        ConfigError: the name has no provider, or an unknown one, or the model's own settings
            are wrong.
        ModelAuth: the provider needs a key and there is none.
    """
    model: Model = load_provider(config)(config)
    return model


def load_provider(config: ModelConfig) -> Callable[[ModelConfig], Model]:
    """What makes the client; the first time this imports the provider's SDK, up to a second.

    Raises:
        ConfigError: the name has no provider, or an unknown one.
    """
    provider, _ = split_name(config.name)
    made: Callable[[ModelConfig], Model] = load(MODELS, provider, "--model")
    return made


def split_name(name: str) -> tuple[str, str]:
    """`provider/rest`, `scripted:path` or `module:Class/rest` → (provider, rest).

    Raises:
        ConfigError: the name has no provider.
    """
    if name.startswith("scripted:"):
        return "scripted", name.removeprefix("scripted:")
    provider, slash, rest = name.partition("/")
    if not provider or not (slash or ":" in provider):
        raise ConfigError(
            "--model",
            f"{name!r} names no provider.",
            f"Write anthropic/{name}, openai/{name} or local/{name}.",
        )
    return provider, rest


def default_model(environ: Mapping[str, str], base_url: str | None = None) -> str:
    """The model for a user who named none: whatever there is a key for, else a small local one.

    With `base_url` or OPENAI_BASE_URL it is `openai/`: the client asks that server what it serves,
    and no key for another provider goes there.
    """
    if base_url:
        return "openai/"
    if environ.get("ANTHROPIC_API_KEY"):
        return DEFAULT_ANTHROPIC
    if environ.get("OPENAI_BASE_URL"):
        return "openai/"
    if environ.get("OPENAI_API_KEY"):
        return DEFAULT_OPENAI
    return DEFAULT_LOCAL
