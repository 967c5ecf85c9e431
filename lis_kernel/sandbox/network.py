"""A sandbox's network, whatever its backend: the policy, its proxy, and what the guest must know.

`ProcessSandbox` makes one, starts it before the kernel and stops it with the sandbox. `guest`
goes into boot.json: the guest tests the wall, starts the forwarder to the proxy's socket, and
sets the variables. Backends bind `ca` read-only at CA_INSIDE and leave the rest to this.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lis_kernel.errors import ConfigError, SandboxUnavailable
from lis_kernel.sandbox import index
from lis_kernel.sandbox.policy import Policy, Rule, forbidden, normal_host, parse
from lis_kernel.sandbox.proxy import Proxy, resolve
from lis_kernel.types import Attempt

__all__ = ["CA", "CA_INSIDE", "OPEN_WARNING", "Network"]

CA = "lis-ca.pem"
CA_INSIDE = f"/etc/{CA}"
SOCKET = "proxy.sock"
"""In the run folder; only the sandbox's processes, and we, may connect."""
CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
MAX_CA = 8_000_000
CERTIFICATE = re.compile(
    rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]+-----END (?:TRUSTED )?CERTIFICATE-----"
)
OPEN_WARNING = (
    "NETWORK OPEN: the model's code can reach whatever this machine can, the services on its "
    "loopback and in its local network included. Nothing is recorded."
)
OWN = ("localhost", "127.0.0.1", "::1")
"""The sandbox's own loopback, reached without the proxy unless the policy means the host's."""
PACKAGES = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_NO_COLOR": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_RETRIES": "1",
    "PIP_FIND_LINKS": "/testbed/input",
}
"""pip's settings in every sandbox: wheels among the input files are always found."""


class Network:
    """One sandbox's network. The policy is fixed when it is made.

    Args:
        text: `SandboxConfig.network`.
        say: told once about what a person should know.

    Raises:
        ConfigError: the policy makes no sense.
    """

    def __init__(self, text: str, say: Callable[[str], None] = lambda _: None) -> None:
        self.policy: Policy = parse(text)
        self.ca: Path | None = None
        self._say = say
        self._environment = dict(PACKAGES)
        self._proxy: Proxy | None = None

    @property
    def kind(self) -> str:
        """`none`, `allow` or `open`."""
        return self.policy.kind

    def __str__(self) -> str:
        return str(self.policy)

    async def certify(self, public: Path) -> None:
        """Put the certificates that programs in there need into the folder `public`, once."""
        if self.policy.kind != "none" and (self.ca is None or not self.ca.exists()):
            await asyncio.to_thread(self._carry_ca, public / CA)

    async def start(self, public: Path, run: Path, uid: int | None = None) -> None:
        """Read pip's index if asked for; certificates go to `public`, the proxy's socket to `run`.

        `uid` is the host's uid of the sandbox's processes, if that is not ours.

        Raises:
            SandboxUnavailable: `index` was asked for and pip cannot say what that is.
        """
        policy = self.policy
        if policy.kind == "none":
            self._environment["PIP_NO_INDEX"] = "1"  # else pip tries for half a minute
            return
        await self.certify(public)
        if policy.kind == "open":
            self._say(OPEN_WARNING)
            return
        if policy.index:
            policy = policy.with_found(await self._index_rules())
        if name := next((n for n in ("https_proxy", "HTTPS_PROXY") if os.environ.get(n)), None):
            self._say(f"the sandbox's requests go out directly: {name} of this host is not used")
        self._proxy = Proxy(policy)
        await self._proxy.start(run / SOCKET, -1 if uid is None else uid)

    async def again(self, run: Path, uid: int | None = None) -> None:
        """After `start`, once the run folder is another one: what was connected is cut off."""
        if self._proxy:
            await self._proxy.stop()
            await self._proxy.start(run / SOCKET, -1 if uid is None else uid)

    def guest(self, run_inside: str) -> dict[str, Any]:
        """What boot.py is told: to test the wall, where the proxy is, the environment."""
        policy = self._proxy.policy if self._proxy else self.policy
        meant = {rule.host for rule in policy.rules + policy.found}
        return {
            "walled": self.policy.kind != "open",
            "proxy": f"{run_inside}/{SOCKET}" if self._proxy else None,
            "no_proxy": [name for name in OWN if name not in meant],
            "environment": dict(self._environment),
        }

    def attempts(self) -> tuple[Attempt, ...]:
        """See `protocols.Sandbox.attempts`."""
        return self._proxy.drain() if self._proxy else ()

    async def stop(self) -> None:
        """End every connection."""
        if self._proxy:
            await self._proxy.stop()

    def close(self) -> None:
        """As `stop`, without waiting; also after the event loop is gone."""
        if self._proxy:
            self._proxy.close()

    async def _index_rules(self) -> tuple[Rule, ...]:
        """pip's hosts as rules; those that are not public on this machine carry the mark."""
        found = await asyncio.to_thread(index.read)
        for note in found.notes:
            self._say(f"network `index`: {note}")
        links = found.environment.get("PIP_FIND_LINKS", "")
        self._environment.update(found.environment)
        self._environment["PIP_FIND_LINKS"] = f"{PACKAGES['PIP_FIND_LINKS']} {links}".rstrip()
        rules = []
        for host, port in found.hosts:
            try:
                name = normal_host(host)
                addresses = await resolve(name, port)
            except ValueError as error:
                raise ConfigError("pip's index", f"{host!r}: {error}.") from error
            except OSError:
                addresses = []  # said when it is asked for
            private = any(forbidden(address) for address in addresses)
            rules.append(Rule(name, (port,), private=private))
        return tuple(rules)

    def _carry_ca(self, target: Path) -> None:
        """Put together the certificates that pip and this Python trust, and nothing else."""
        options = index.settings()
        defaults = ssl.get_default_verify_paths()
        names = [options.get("cert"), *(os.environ.get(name) for name in CA_VARIABLES)]
        found: dict[bytes, None] = {}
        for name in dict.fromkeys([*names, defaults.cafile]):
            if not name or not Path(name).is_file():
                continue
            with Path(name).open("rb") as file:
                data = file.read(MAX_CA + 1)
            if len(data) > MAX_CA:
                raise SandboxUnavailable(f"{name} is too long for a file of certificates")
            found.update(dict.fromkeys(CERTIFICATE.findall(data)))
        if found:
            target.write_bytes(b"\n".join(found) + b"\n")
            target.chmod(0o444)
            self.ca = target
            self._environment.update(dict.fromkeys(CA_VARIABLES, CA_INSIDE))
