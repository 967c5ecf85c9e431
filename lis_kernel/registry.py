"""Short name → class, without importing anything until it is asked for.

Built-ins and third parties come in by the same door: a table of `module:Class` strings, then the
entry-point group of that table, then any dotted path that the user writes out.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from lis_kernel.errors import ConfigError

__all__ = ["MODELS", "SANDBOXES", "TOOLS", "load", "names"]

SANDBOXES = "lis_kernel.sandboxes"
MODELS = "lis_kernel.models"
TOOLS = "lis_kernel.tools"


def names(group: str) -> list[str]:
    """The short names known in `group`, sorted."""
    return sorted({ep.name for ep in entry_points(group=group)} | set(_BUILT_IN[group]))


def load(group: str, name: str, field: str) -> Any:
    """The object called `name` in `group`, or at the dotted path `module:Class`.

    Raises:
        ConfigError: on `field`, if nothing is known by that name or it cannot be imported.
    """
    path = _BUILT_IN[group].get(name)
    if path is None:
        for ep in entry_points(group=group):
            if ep.name == name:
                return ep.load()
        if ":" not in name:
            raise ConfigError(field, f"unknown {name!r}.", f"Known: {', '.join(names(group))}.")
        path = name
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(field, f"cannot load {path!r}: {error}.") from error


_BUILT_IN = {
    SANDBOXES: {
        "bubblewrap": "lis_kernel.sandbox.bubblewrap:BubblewrapSandbox",
        "docker": "lis_kernel.sandbox.docker:DockerSandbox",
        "local": "lis_kernel.sandbox.local:LocalSandbox",
        "podman": "lis_kernel.sandbox.podman:PodmanSandbox",
        "zygote": "lis_kernel.sandbox.zygote:ZygoteSandbox",
    },
    MODELS: {
        "anthropic": "lis_kernel.models.anthropic:AnthropicModel",
        "openai": "lis_kernel.models.openai:OpenAIModel",
        "local": "lis_kernel.models.local:LocalModel",
        "scripted": "lis_kernel.models.scripted:ScriptedModel",
    },
    TOOLS: {},  # ours are made by tools/toolset.py
}
