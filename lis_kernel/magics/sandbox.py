"""`%%sandbox`: a cell of the user's notebook that runs in one of its sandboxes.

The source goes there as it is, the outputs come back through `streams.py`, variables cross by
`variables.py`. The sandbox lives on until `%sandbox stop`, `%unload_ext` or the kernel's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic_arguments import argument, magic_arguments

from lis_kernel import values
from lis_kernel._sync import run_sync
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.config import SandboxConfig, checked
from lis_kernel.errors import ConfigError
from lis_kernel.magics.arguments import parsed
from lis_kernel.magics.named import DEFAULT, Named, written
from lis_kernel.magics.streams import Screen
from lis_kernel.magics.variables import (
    Given,
    checked_names,
    copy_in,
    copy_out,
    exported,
    given,
)
from lis_kernel.types import CellResult
from lis_kernel.values import NotCopied

__all__ = ["Cells", "asked_config", "wants_agent"]

T = TypeVar("T")

NO_LIMIT = 30 * 86_400.0
"""Seconds of a person's cell, who has a stop button."""
PROBE_SECONDS = 2.0
END_SECONDS = 10.0


@magic_arguments("%sandbox")
@argument("language", nargs="?", choices=("python", "bash"), help="What the cell is; python.")
@argument("-n", "--name", default=DEFAULT, help="Which sandbox; made and started on first use.")
@argument("-b", "--backend", help="Of a new one: zygote, bubblewrap, docker, podman or local.")
@argument("--network", help="Of a new one: none, open, or allow=HOST,*.DOMAIN,index.")
@argument("--mount", action="append", metavar="HOST:INSIDE", help="Of a new one; read-only.")
@argument("--image", help="Of a new one with docker or podman.")
@argument("-i", "--input", action="append", metavar="VAR", help="A variable to copy in, before.")
@argument("-o", "--output", action="append", metavar="VAR", help="A variable to copy out, after.")
@argument("--timeout", type=float, metavar="SECONDS", help="Interrupt the cell after so long.")
@argument("--trust", action="store_true", help="Show its outputs as they are, scripts as well.")
@argument("--agent", action="store_true", help="The cell is a task for a model: see %%%%agent?")
def sandbox_cell(line: str, cell: str) -> None:
    """Run the cell in a sandbox, which stays, with its variables and files, for later cells.

    Variables cross as JSON or, for data frames, series and numpy arrays, as Arrow; with bash they
    are text and numbers, exported to the shell, and come out of it as text. HTML of the sandbox is
    cleaned and scripts are left out, for this page trusts what its kernel shows.
    The stop button interrupts the cell in the sandbox; pressed twice, it ends the kernel there.
    """


def wants_agent(line: str) -> str | None:
    """The line without `--agent`, if it was there."""
    rest = re.sub(r"(?:^|(?<=\s))--agent(?=\s|$)", "", line, count=1)
    return None if rest == line else rest.strip()


def asked_config(
    *, backend: str | None, network: str | None, mount: list[str] | None, image: str | None
) -> SandboxConfig | None:
    """What the options say of a new sandbox, or None if nothing.

    Raises:
        ConfigError: one is wrong.
    """
    words = {"backend": backend, "network": network, "image": image}
    asked: dict[str, Any] = {name: value for name, value in words.items() if value is not None}
    if mount:
        asked["mounts"] = tuple(mount)
    return checked(SandboxConfig, asked, written) if asked else None


class Cells:
    """Runs cells of one user's kernel in its sandboxes."""

    def __init__(self, shell: InteractiveShell, named: Named) -> None:
        self._shell = shell
        self._named = named

    def run(self, line: str, cell: str) -> None:
        """Carry out a `%%sandbox` cell.

        Raises:
            ConfigError, SandboxBusy: nothing was run.
            CellFailed, SandboxError, KernelError: the cell failed, or the sandbox.
            KeyboardInterrupt: it was given up.
        """
        args = parsed(sandbox_cell, line)
        if args.timeout is not None and args.timeout <= 0:
            raise ConfigError("--timeout", f"{args.timeout:g} is no time.", "Give seconds.")
        bash = args.language == "bash"
        names, wanted = checked_names("-i", args.input), checked_names("-o", args.output)
        variables = [] if bash else given(names, self._shell.user_ns)
        exports = exported(names, self._shell.user_ns) if bash else ""
        config = asked_config(
            backend=args.backend, network=args.network, mount=args.mount, image=args.image
        )
        shared = self._named.use(args.name, config)
        text = cell.removesuffix("\n")  # IPython adds one
        took = self.execute(
            shared,
            f"%%bash\n{text}" if bash else text,
            timeout=args.timeout,
            trust=args.trust,
            variables=variables,
            exports=exports,
            wanted=wanted,
            of_bash=bash,
        )
        read = {name: _value(one) for name, one in took.items()}
        self._shell.push(read)  # all of them or none

    def execute(
        self,
        shared: SharedSandbox,
        source: str,
        *,
        timeout: float | None = None,
        trust: bool = False,
        variables: Sequence[Given] = (),
        exports: str = "",
        wanted: Sequence[str] = (),
        of_bash: bool = False,
    ) -> dict[str, Given]:
        """Run `source` under the user's cell; the `wanted` variables, of the shell or of Python.

        `variables` go to Python before; `exports` are lines that the shell runs before. Raises as
        `run`.
        """
        screen = Screen(self._shell, shared.name, trust=trust)
        pressed = threading.Event()

        async def work() -> tuple[CellResult, dict[str, Given]]:
            if variables or exports:
                await shared.start()
                await unpressed(copy_in(shared, variables, exports))
            if pressed.is_set():
                raise asyncio.CancelledError
            seconds = NO_LIMIT if timeout is None else timeout
            result = await shared.execute(source, timeout=seconds, on_message=screen.message)
            if result.status != "ok" or not wanted:
                return result, {}
            return result, await unpressed(copy_out(shared, wanted, of_bash=of_bash))

        async def unpressed(copying: Coroutine[Any, Any, T]) -> T:
            """What it gives, unless it is interrupted: between two requests nobody hears that."""
            try:
                copied = await copying
            except ConfigError:
                if not pressed.is_set():
                    raise
            if pressed.is_set():
                raise asyncio.CancelledError
            return copied

        with self._named.telling(shared.name, screen.say):

            def interrupt() -> bool:
                pressed.set()
                shared.interrupt()
                return shared.alive

            try:
                result, took = screen.follow(work(), interrupt)
            except KeyboardInterrupt:
                self._revive(shared)
                raise
        screen.judge(result)
        return took

    def _revive(self, shared: SharedSandbox) -> None:
        """The cell was given up: see that the next one does not wait for it."""

        async def work() -> bool:
            with contextlib.suppress(TimeoutError):  # what was cancelled may still be ending
                async with asyncio.timeout(END_SECONDS):
                    while shared.busy == "cell":  # noqa: ASYNC110 - its end sends no event
                        await asyncio.sleep(0.02)
            if not shared.alive or shared.agent is not None:
                return False
            try:
                await shared.session.request("kernel_info_request", {}, PROBE_SECONDS)
                return False
            except TimeoutError:
                await shared.session.close()
                await shared.session.start()
                return True

        if run_sync(work()):
            print(
                "the cell ignored the interrupt, so its kernel was ended: "
                "its variables are gone, its files are there"
            )


def _value(one: Given) -> Any:
    try:
        return values.load(one.form, one.data, one.name)
    except NotCopied as error:
        raise ConfigError(f"-o {one.name}", f"{error}.") from error
