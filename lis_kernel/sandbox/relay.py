"""Bytes from one stream to another, in both directions at a time. Used by `proxy.py`.

A direction is a coroutine that is given `alive` and calls it whenever something moved: one clock
watches both, so that a long download is not cut because nothing goes up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["PIECE", "Alive", "both", "copy", "copy_exactly"]

PIECE = 65_536

Alive = Callable[[], None]
Direction = Callable[[Alive], Coroutine[Any, Any, None]]


async def both(idle: float, up: Direction, down: Direction) -> None:
    """Run both until `down` has ended or either fails.

    Raises:
        TimeoutError: nothing moved for `idle` seconds.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(idle) as clock:

        def alive() -> None:
            clock.reschedule(loop.time() + idle)

        going = asyncio.create_task(up(alive))
        coming = asyncio.create_task(down(alive))
        try:
            await asyncio.wait({going, coming}, return_when=asyncio.FIRST_COMPLETED)
            if going.done():
                going.result()
            await coming
        finally:
            for task in (going, coming):
                task.cancel()
            await asyncio.gather(going, coming, return_exceptions=True)


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, alive: Alive) -> None:
    """Everything until the source ends; then the target is told so."""
    while piece := await source.read(PIECE):
        alive()
        target.write(piece)
        await target.drain()
    if target.can_write_eof():
        target.write_eof()


async def copy_exactly(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, size: int, alive: Alive
) -> None:
    """`size` bytes. Raises: IncompleteReadError: the source ended before."""
    left = size
    while left:
        piece = await source.read(min(PIECE, left))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        alive()
        target.write(piece)
        await target.drain()
        left -= len(piece)
