"""From a kernelspec's words to a sandbox: what both doors for stock Jupyter tools have in common.

The provisioner finds the words in `metadata.kernel_provisioner.config`, the launcher in its argv.
They are the keys of `SandboxConfig`, and `limits` with those of `Limits`; a wrong one is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lis_kernel import registry
from lis_kernel.config import Limits, SandboxConfig, checked
from lis_kernel.errors import ConfigError
from lis_kernel.protocols import Sandbox

__all__ = ["MAX_MESSAGE", "make_sandbox", "parse"]

OUTPUT_BYTES = 10_000_000
"""Of one cell's outputs, unless `limits` says otherwise: people's plots are larger than models'."""
MAX_MESSAGE = 100_000_000
"""Bytes; a larger frame out of the sandbox makes zmq drop the connection, not fill our memory.

That channel stays closed until the client connects anew. The guest's own caps keep honest cells
far below it.
"""


def parse(words: Mapping[str, Any], field: str) -> tuple[SandboxConfig, Limits]:
    """The sandbox's config and limits.

    Raises:
        ConfigError: names the key below `field` that is wrong.
    """
    rest = dict(words)
    limits = rest.pop("limits", {})
    if not isinstance(limits, Mapping):
        raise ConfigError(f"{field}.limits", f"{limits!r} is not an object.")
    return (
        checked(SandboxConfig, rest, lambda name: f"{field}.{name}"),
        checked(
            Limits,
            {"output_bytes": OUTPUT_BYTES, **limits},
            lambda name: f"{field}.limits.{name}",
        ),
    )


def make_sandbox(
    config: SandboxConfig, limits: Limits, key: str, say: Callable[[str], None]
) -> Sandbox:
    """A sandbox, not yet started, for a notebook of a person's: its kernels speak with `key`."""
    backend = registry.load(registry.SANDBOXES, config.backend, "backend")
    # `Caps` of guest/output.py: a file beside the output only where the output is cut, and how
    # many displays a cell shows is its person's affair; a page shows outputs of earlier cells too
    caps = {
        "spill_lines": limits.output_bytes,
        "spill_chars": limits.output_bytes // 2,
        "messages": 1_000_000,
        "one_cell": 0,
    }
    sandbox: Sandbox = backend(config, limits, caps=caps, say=say, key=key, setup=True)
    return sandbox
