"""The process of an agent kernel: sockets, threads and loop, as ipykernel's own app makes them.

Left out of it: the shell that runs people's code, profiles, configuration files, start-up scripts
and subshells. Started by `lis agent-kernel`, which a kernelspec names.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from traitlets import Instance

from lis_kernel.agent_kernel.kernel import AgentKernel
from lis_kernel.config import RunConfig, checked
from lis_kernel.errors import ConfigError
from lis_kernel.models import default_model

__all__ = ["config_of", "serve"]

OUTPUT_BYTES = 10_000_000
"""Of one cell's outputs, unless `limits` says otherwise: people's plots are larger than models'."""


class AgentApp(IPKernelApp):
    run_config = Instance(RunConfig)

    def initialize(self, argv: Any = None) -> None:
        """As ipykernel's, without what is there for people's code."""
        self.init_crash_handler()
        self.init_blackhole()
        self.init_connection_file()
        self.init_poller()
        self.init_sockets()
        self.init_heartbeat()
        self.write_connection_file()
        self.log_connection_info()
        self.init_io()
        self.init_signal()
        self.init_kernel()

    def init_control(self, context: Any) -> None:
        super().init_control(context)
        self.shell_channel_thread = None  # its use is subshells


def config_of(words: Mapping[str, Any], model: str | None = None) -> RunConfig:
    """The settings of every run: `words` are those of `RunConfig`, `model` names the model.

    Raises:
        ConfigError: one is wrong, and named below `--config`.
    """
    rest: dict[str, Any] = dict(words)
    parts = {name: rest.get(name, {}) for name in ("model", "limits")}
    for name, part in parts.items():
        if not isinstance(part, Mapping):
            raise ConfigError(f"--config.{name}", f"{part!r} is not an object.")
    named = model or parts["model"].get("name") or default_model(os.environ)
    rest["model"] = {**parts["model"], "name": named}
    rest["limits"] = {"output_bytes": OUTPUT_BYTES, **parts["limits"]}
    return checked(RunConfig, rest, lambda name: f"--config.{name}")


def serve(connection_file: Path, config: RunConfig) -> None:
    """Be the kernel of `connection_file` until it is told to end."""
    app = AgentApp.instance(
        run_config=config,
        kernel_class=AgentKernel,
        connection_file=str(connection_file),
        capture_fd_output=False,  # what a child process says is for the server's log
        log_level=logging.ERROR,
    )
    # nothing beside the notebook may pass for a module of ours
    sys.path[:] = [place for place in sys.path if place]
    app.initialize()
    app.start()
