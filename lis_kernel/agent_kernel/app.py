"""The process of an agent kernel: sockets, threads and loop, as ipykernel's own app makes them.

Left out of it: the shell that runs people's code, profiles, configuration files, start-up scripts
and subshells. Started by `lis agent-kernel`, which a kernelspec names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from traitlets import Instance, observe

from lis_kernel.agent_kernel.conversation import settings_of
from lis_kernel.agent_kernel.kernel import AgentKernel
from lis_kernel.config import RunConfig, checked
from lis_kernel.errors import ConfigError
from lis_kernel.kernel.settings import parse
from lis_kernel.models import default_model

__all__ = ["config_of", "serve"]

RUN = ("model", "budget", "tools", "protocol")
"""What `--config` may say beside the settings of a sandbox."""
LISTEN_SECONDS = 2.0
"""A client that has not subscribed to the outputs by then is taken for one that never will."""


class AgentApp(IPKernelApp):
    run_config = Instance(RunConfig)

    def __init__(self, **settings: Any) -> None:
        self.heard = threading.Event()
        """Set when there is nobody to wait for any more, see `listened`."""
        super().__init__(**settings)

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

    @observe("iopub_thread")
    def _hear_subscriptions(self, change: Any) -> None:
        """Learn when somebody listens.

        ipykernel's `init_iopub` sets the attribute between making the thread and starting it: a
        client that connects at once is not missed, as it would be after `init_iopub`.
        """
        thread = change.new

        def subscribed(frames: Any) -> None:
            self.heard.set()
            thread._handle_subscription(frames)

        thread._xpub_stream.on_recv(subscribed)

    async def listened(self) -> None:
        """Wait for a client that asks before it listens: it would wait for ever for the end.

        `jupyter console` does so with its first cell. Clients that never listen wait once.
        """
        thread = self.iopub_thread
        deadline = time.monotonic() + LISTEN_SECONDS
        while not self.heard.is_set() and time.monotonic() < deadline:
            # the socket tells of it by an edge, which sending a message swallows
            thread.schedule(lambda: thread._xpub_stream.flush(zmq.POLLIN))
            await asyncio.sleep(0.01)
        self.heard.set()

    def init_control(self, context: Any) -> None:
        super().init_control(context)
        self.shell_channel_thread = None  # its use is subshells


def config_of(words: Mapping[str, Any], model: str | None = None) -> RunConfig:
    """The settings of every run.

    Args:
        words: those of the sandbox and its `limits`, as in every kernelspec, and beside them
            `model`, `budget`, `tools` and `protocol` as in `RunConfig`.
        model: the model's name; without one here or in `words`, whatever there is a key for.

    Where `words` name another model than `model`, it gets of that one's what `%model` would leave.

    Raises:
        ConfigError: one is wrong, and named below `--config`.
    """
    ours = {name: words[name] for name in RUN if name in words}
    sandbox, limits = parse({k: v for k, v in words.items() if k not in RUN}, "--config")
    asked = ours.get("model", {})
    if not isinstance(asked, Mapping):
        fix = 'Write e.g. {"name": "anthropic/claude-sonnet-5-5"}, or use --model.'
        raise ConfigError("--config.model", f"{asked!r} is not an object.", fix)
    name = asked.get("name") or model or default_model(os.environ, asked.get("base_url"))
    ours["model"] = {**asked, "name": name}
    ours.update(sandbox=sandbox, limits=limits)
    config = checked(RunConfig, ours, lambda name: f"--config.{name}")
    chosen = settings_of(model or config.model.name, config.model)
    return config.model_copy(update={"model": chosen})


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
