"""One background event loop for the few verbs that also have a sync face.

`run_sync(coro)` works in a script, in a thread and under Jupyter's running loop, because the
coroutine runs on a loop of ours; sockets and HTTP clients stay on the loop that made them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_loop.run_forever, name="lis-loop", daemon=True)
            thread.start()
        return _loop


async def on_own_loop(coro: Coroutine[Any, Any, T]) -> T:
    """Run `coro` on the background loop and await its result from any other.

    For callers whose own loop comes and goes: what `coro` makes (a child process above all) lives
    on a loop and a thread that last as long as the process.
    """
    loop = _background_loop()
    if asyncio.get_running_loop() is loop:
        return await coro
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, loop))


def submit(coro: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Run `coro` on the background loop; the caller goes on."""
    return asyncio.run_coroutine_threadsafe(coro, _background_loop())


def soon(call: Callable[[], object]) -> None:
    """Have `call` called on the background loop, for what belongs to it."""
    _background_loop().call_soon_threadsafe(call)


def run_sync(coro: Coroutine[Any, Any, T], on_interrupt: Callable[[], None] | None = None) -> T:
    """Run `coro` on the background loop and wait for its result.

    A KeyboardInterrupt calls `on_interrupt` on that loop, which should let the coroutine end by
    itself, and waits on; without it, or the second time, the coroutine is cancelled and the
    interrupt goes on up once it has cleaned up.

    Raises:
        RuntimeError: called from the background loop itself, which would wait for itself.
    """
    loop = _background_loop()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        coro.close()
        raise RuntimeError("run_sync was called from lis_kernel's own loop; await the coroutine")
    future = asyncio.run_coroutine_threadsafe(coro, loop)
    try:
        try:
            return future.result()
        except KeyboardInterrupt:
            if on_interrupt is None:
                raise
            loop.call_soon_threadsafe(on_interrupt)
            return future.result()
    except KeyboardInterrupt:
        future.cancel()
        concurrent.futures.wait([future], timeout=15)
        raise
