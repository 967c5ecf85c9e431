"""The front end of the cell that runs now: what it can show, and how to send it something."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal

from lis_kernel.trajectory import Trajectory

__all__ = ["Mode", "Publish", "best_mode", "in_notebook", "once", "publish"]

Publish = Callable[[str, dict[str, Any]], None]
"""Sends one message of a cell: its kind and its content."""
Mode = Literal["widgets", "html", "lines"]


def in_notebook() -> bool:
    """Whether IPython runs here as the kernel of a Jupyter front end."""
    return _kernel() is not None


def _kernel() -> Any:
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)


def best_mode() -> Mode:
    """What the front end that asked for the running cell can most likely show."""
    kernel = _kernel()
    if kernel is None:
        return "html"
    parent = kernel.get_parent() or {}
    page = "cellId" in parent.get("metadata", {})
    named = parent.get("header", {}).get("username", "")  # pages leave it empty
    if not page and named and parent.get("content", {}).get("allow_stdin"):
        return "lines"
    subshells = getattr(kernel, "_supports_kernel_subshells", False)
    return "widgets" if page and subshells else "html"


def publish(kind: str, content: dict[str, Any]) -> None:
    """Send as IPython does, so that it goes where the cell's other output goes."""
    from IPython import get_ipython

    shell = get_ipython()
    if kind == "stream":
        sys.stdout.write(content["text"])
        sys.stdout.flush()
    elif shell is not None:
        shell.display_pub.publish(
            content["data"],
            content["metadata"],
            transient=content["transient"],
            update=kind == "update_display_data",
        )


def once(trajectory: Trajectory) -> None:
    """Until the running cell is over its value has been shown already."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    trajectory.shown = True

    def after(*_: Any) -> None:
        trajectory.shown = False
        shell.events.unregister("post_run_cell", after)

    shell.events.register("post_run_cell", after)
