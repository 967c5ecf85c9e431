"""Rows of the magics: from running a `%%sandbox` cell to its first output under the user's cell.

A user's kernel is ipykernel with the extension loaded, asked as a front end asks it. The rival
`plain` is the same cell without the magic in that same kernel; `plain start` is what a second
kernel takes to be there and show its first output. `magic_first` has the sandbox's start in it,
`magic_output` runs in a sandbox that is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from time import perf_counter

import rivals
from harness import Contender, Row, interleave
from ours import Settings, ms, opened

NAMES = ("magic_first", "magic_output")
SOURCE = "print('out')"
START_ROUNDS = 20


class User(rivals.Plain):
    """A notebook's kernel, and what is under its cells."""

    async def first_output(self, source: str) -> float:
        """Milliseconds until the cell shows something; returns when it is over."""
        began = perf_counter()
        request = self.client.execute(source, allow_stdin=False)
        took = None
        while True:
            message = await self.client.get_iopub_msg(timeout=rivals.WAIT)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "error":
                raise RuntimeError(f"the cell failed: {content['evalue']}")
            if kind == "stream" and took is None:
                took = ms(began)
            if kind == "status" and content["execution_state"] == "idle":
                break
        await self.client.get_shell_msg(timeout=rivals.WAIT)
        if took is None:
            raise RuntimeError("the cell showed nothing")
        return took


async def measure(names: Collection[str], settings: Settings) -> list[Row]:
    magic = f"%%sandbox -b {settings.backend}\n{SOURCE}"
    rows = []
    async with contextlib.AsyncExitStack() as stack:
        # the zygote, where there is one, is this process's own
        await stack.enter_async_context(opened(settings.backend))
        user = await stack.enter_async_context(User())
        await user.execute("%load_ext lis_kernel")
        stack.push_async_callback(user.execute, "%unload_ext lis_kernel")

        async def first() -> dict[str, float]:
            await user.execute("%sandbox stop --all")
            return {"ms": await user.first_output(magic)}

        async def later() -> dict[str, float]:
            return {"ms": await user.first_output(magic)}

        async def plain() -> dict[str, float]:
            return {"ms": await user.first_output(SOURCE)}

        async def plain_start() -> dict[str, float]:
            began = perf_counter()
            async with User() as other:
                await other.first_output(SOURCE)
                return {"ms": ms(began)}

        for name in names:
            contenders: dict[str, Contender] = {"plain": plain}
            if name == "magic_first":
                contenders = {"ours": first, "plain start": plain_start, **contenders}
            else:
                contenders = {"ours": later, **contenders}
            samples = await interleave(
                contenders,
                settings.rounds(50 if name == "magic_first" else 200),
                at_most={"plain start": START_ROUNDS},
            )
            values = samples.of("ours", "ms")
            rows.append(
                Row(
                    name,
                    "ms",
                    values,
                    samples.rivals("ms"),
                    first=samples.first["ours"]["ms"],
                )
            )
    return rows
