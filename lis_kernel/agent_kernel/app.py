"""The process of an agent kernel: sockets, threads and loop, as ipykernel's own app makes them.

Left out of it: the shell that runs people's code, profiles, configuration files, start-up scripts
and subshells. Started by `lis agent-kernel`, which a kernelspec names.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from traitlets import Instance

from lis_kernel.agent_kernel.kernel import AgentKernel
from lis_kernel.config import RunConfig, checked
from lis_kernel.errors import ConfigError
from lis_kernel.kernel.settings import parse
from lis_kernel.models import default_model

__all__ = ["config_of", "serve"]

RUN = ("model", "budget", "tools", "protocol")
"""What `--config` may say beside the settings of a sandbox."""


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

    def init_iopub(self, context: Any) -> None:
        """As ipykernel's; the kernel learns when somebody listens."""
        super().init_iopub(context)
        stream, handle = self.iopub_thread._xpub_stream, self.iopub_thread._handle_subscription
        heard = self.heard = threading.Event()

        def subscribed(frames: Any) -> None:
            heard.set()
            handle(frames)

        stream.on_recv(subscribed)

    def listened(self) -> bool:
        """Whether a client has subscribed to the outputs."""
        if not self.heard.is_set():
            # the socket tells of it by an edge, which sending a message swallows
            stream = self.iopub_thread._xpub_stream
            self.iopub_thread.schedule(lambda: stream.flush(zmq.POLLIN))
        return self.heard.is_set()

    def init_control(self, context: Any) -> None:
        super().init_control(context)
        self.shell_channel_thread = None  # its use is subshells


def config_of(words: Mapping[str, Any], model: str | None = None) -> RunConfig:
    """The settings of every run.

    Args:
        words: those of the sandbox and its `limits`, as in every kernelspec, and beside them
            `model`, `budget`, `tools` and `protocol` as in `RunConfig`.
        model: the model's name; without one here or in `words`, whatever there is a key for.

    Raises:
        ConfigError: one is wrong, and named below `--config`.
    """
    ours = {name: words[name] for name in RUN if name in words}
    sandbox, limits = parse({k: v for k, v in words.items() if k not in RUN}, "--config")
    asked = ours.get("model", {})
    if not isinstance(asked, Mapping):
        fix = 'Write e.g. {"name": "anthropic/claude-sonnet-5-5"}, or use --model.'
        raise ConfigError("--config.model", f"{asked!r} is not an object.", fix)
    name = model or asked.get("name") or default_model(os.environ)
    ours["model"] = {**asked, "name": name}
    ours.update(sandbox=sandbox, limits=limits)
    return checked(RunConfig, ours, lambda name: f"--config.{name}")


def serve(connection_file: Path, config: RunConfig) -> None:
    """Be the kernel of `connection_file` until it is told to end."""
    app = AgentApp.instance(
        run_config=config,
        kernel_class=AgentKernel,
        connection_file=str(connection_file),
        capture_fd_output=False,  # what a child process says is for the server's log
        log_level=logging.ERROR,
    )
    app.initialize()
    app.start()
