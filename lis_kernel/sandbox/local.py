"""The `local` backend: no isolation at all. For tests of upper floors, and for who asks by name.

The kernel is an ordinary child process of this one, with this user's files and network. It says so
each time it starts. `/testbed` is the real one where it can be made, so cells stay the same.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from lis_kernel.errors import SandboxUnavailable
from lis_kernel.sandbox.launch import GUEST, Boot, GuestProcess, launch
from lis_kernel.sandbox.walled import WalledSandbox

__all__ = ["LocalSandbox"]

WARNING = (
    "backend `local`: NO ISOLATION. The model's code runs as you, with your files and your network."
)


class LocalSandbox(WalledSandbox):
    """A kernel in this interpreter's environment; its testbed lies in the state folder."""

    backend: ClassVar[str] = "local"
    isolated: ClassVar[bool] = False

    async def start(self) -> None:
        """Raises: SandboxUnavailable: an allow-list was asked for, which nothing here can hold."""
        if self.network.kind == "allow":
            raise SandboxUnavailable(
                "backend `local` cannot hold a network policy; use another --backend."
            )
        logging.getLogger(__name__).warning(WARNING)
        self.say(WARNING)
        await super().start()

    async def _launch(self) -> GuestProcess:
        root = self.state.root
        env = {k: v for k, v in os.environ.items() if k != "JPY_PARENT_PID"}
        env.update(self._environment(), LIS_TESTBED=str(root / "testbed"), PYTHONHASHSEED="0")
        return await launch(
            self._enter(),
            self.state,
            python=sys.executable,
            guest=str(GUEST),
            run_inside=str(root / "run"),
            boot=Boot(
                str(root / "testbed"),
                self.caps,
                self.key,
                self.setup,
                rlimits=self._rlimits(),
                held=self.held,
            ),
            env=env,
        )

    def describe(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {**super().describe(), "network": "open"}
        if self._state is not None:
            facts.update(python=sys.version.split()[0], testbed=str(self.state.root / "testbed"))
        return facts
