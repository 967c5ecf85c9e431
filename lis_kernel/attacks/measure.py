"""What the host can measure of itself while a sandbox attacks: its own memory."""

from __future__ import annotations

import ctypes
import gc
import resource
import threading
from pathlib import Path

__all__ = ["Peak"]

PAGE = resource.getpagesize()
SECONDS = 0.003


class Peak:
    """Context manager: how much this process grew at most inside it, in bytes."""

    def __init__(self) -> None:
        self.grown = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free now would hide what is taken
        self._before = resident()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _look(self) -> None:
        self.grown = max(self.grown, resident() - self._before)

    def _watch(self) -> None:
        while not self._over.wait(SECONDS):
            self._look()


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
