"""The sandboxes of a user's kernel, by name: made on first use, ended with the kernel at last.

Shared by all magics of one kernel. A sandbox lives on the background loop (`_sync.py`), so it does
not matter in which thread a magic runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from lis_kernel._sync import run_sync
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError

__all__ = ["DEFAULT", "Named", "written"]

DEFAULT = "default"
"""The sandbox of a cell that names none."""


FIELDS = {
    **{"backend": "-b", "--backend": "-b", "mounts": "--mount"},
    **{name: f"--{name}" for name in ("image", "network")},
}


def written(field: str) -> str:
    """The option of a magic that makes this setting of a sandbox."""
    return FIELDS.get(field, field)


class Named:
    """Sandboxes by name."""

    def __init__(self) -> None:
        self._known: dict[str, SharedSandbox] = {}
        self._hears: dict[str, list[Callable[[str], None]]] = {}

    def _say(self, name: str, line: str) -> None:
        """Called with anything slow or noteworthy of the sandbox `name`."""
        hears = self._hears.get(name) or [print]
        hears[-1](line)

    @contextlib.contextmanager
    def telling(self, name: str, hears: Callable[[str], None]) -> Iterator[None]:
        """Meanwhile `hears` is told in one line of anything slow; from any thread."""
        self._hears.setdefault(name, []).append(hears)
        try:
            yield
        finally:
            self._hears[name].remove(hears)

    @property
    def all(self) -> list[SharedSandbox]:
        """Those that there are, in the order of their making."""
        return list(self._known.values())

    def get(self, name: str) -> SharedSandbox:
        """The sandbox `name`.

        Raises:
            ConfigError: there is none.
        """
        if name not in self._known:
            known = ", ".join(self._known) or "none"
            raise ConfigError("NAME", f"there is no sandbox {name!r}.", f"There are: {known}.")
        return self._known[name]

    def use(
        self, name: str, config: SandboxConfig | None = None, limits: Limits | None = None
    ) -> SharedSandbox:
        """The sandbox `name`, made if there is none; started when something runs in it.

        Raises:
            ConfigError: there is one, and of another kind than `config` asks for.
        """
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._made(name, config, limits)
        elif config is not None and config != known.config:
            asked = config.model_dump(exclude_unset=True)
            differs = [k for k, v in asked.items() if v != getattr(known.config, k)]
            raise ConfigError(
                "-n",
                f"the sandbox {name!r} is there already, with another {', '.join(differs)}.",
                f"Stop it first (%sandbox stop {name}), or name another.",
            )
        return known

    def make(self, name: str, config: SandboxConfig | None, limits: Limits | None) -> SharedSandbox:
        """The sandbox `name` with other settings, not started yet.

        Raises:
            ConfigError: it runs with those that it has.
        """
        known = self._known.get(name)
        if known is not None and known.alive:
            raise ConfigError(
                "limits",
                f"the sandbox {name!r} runs, and keeps the limits that it began with.",
                f"Stop it first: %sandbox stop {name}",
            )
        config = config or (known.config if known is not None else None)
        made = self._known[name] = self._made(name, config, limits)
        return made

    def _made(
        self, name: str, config: SandboxConfig | None, limits: Limits | None
    ) -> SharedSandbox:
        try:
            return SharedSandbox(name, config, limits, say=partial(self._say, name))
        except ConfigError as error:
            raise ConfigError(written(error.field), error.problem, error.fix) from error

    def stop(self, name: str) -> None:
        """End the sandbox `name` and remove its files. Raises as `get`, and SandboxBusy."""
        run_sync(self.get(name).stop())
        del self._known[name]

    def stop_all(self) -> None:
        """End all; an agent that is at work is stopped first."""

        async def stop(shared: SharedSandbox) -> None:
            if (agent := shared.agent) is not None:
                agent.abandon()
                while shared.agent is not None:  # noqa: ASYNC110 - its run's end sets it
                    await asyncio.sleep(0.02)
            await shared.stop()

        async def every() -> None:
            stops = [stop(shared) for shared in self._known.values()]
            await asyncio.gather(*stops, return_exceptions=True)

        run_sync(every())
        self._known.clear()
