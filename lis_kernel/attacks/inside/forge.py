"""Runs in the kernel itself: sends what a kernel never would, past every cap, with its key.

The host runs this text in a cell; the cells after it use the names.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import zmq

KERNEL: Any = get_ipython().kernel  # type: ignore[name-defined]  # noqa: F821


def asked_by() -> Any:
    """The header of the request that runs now."""
    return KERNEL.get_parent()["header"]


def sealed(kind: str, content: Any, parent: Any = None, sign: bool = True) -> list[bytes]:
    """A message's frames; `content` may be bytes, to be sent as they are."""
    header = KERNEL.session.msg_header(kind)
    parent = asked_by() if parent is None else parent
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    parts = [KERNEL.session.pack(header), json.dumps(parent, default=str).encode(), b"{}", body]
    return [b"<IDS|MSG>", KERNEL.session.sign(parts) if sign else b"0" * 64, *parts]


def raw(*messages: list[Any]) -> None:
    """Send messages on the output channel, from its own thread; returns once they are queued."""
    done = threading.Event()

    def send() -> None:
        for frames in messages:
            KERNEL.iopub_thread.socket.send_multipart(frames, copy=False)
        done.set()

    KERNEL.iopub_thread.schedule(send)
    done.wait()


def publish(kind: str, content: Any, **options: Any) -> None:
    raw([b"", *sealed(kind, content, **options)])


def say(text: str, **options: Any) -> None:
    publish("stream", {"name": "stdout", "text": text}, **options)


def idle(**options: Any) -> None:
    publish("status", {"execution_state": "idle"}, **options)


def answer(content: Any, channel: str = "shell", kind: str = "execute_reply") -> None:
    """Send a message to the client that asked, on `shell` or `stdin`."""
    who = list(KERNEL._parent_ident.get("shell") or KERNEL.get_parent_ident())
    frames = [*who, *sealed(kind, content)]
    thread = KERNEL.shell_channel_thread if channel == "shell" else None
    if not thread:  # ours has none
        # at once: a stream would send it when the cell is over
        sender = KERNEL.shell_stream.socket if channel == "shell" else KERNEL.stdin_socket
        sender.send_multipart(frames)
        return
    done = threading.Event()

    def send() -> None:
        thread.shell_stream.socket.send_multipart(frames, zmq.DONTWAIT)
        done.set()

    thread.io_loop.add_callback(send)
    done.wait()


def later(seconds: float, function: Any, *arguments: Any, **options: Any) -> threading.Thread:
    """Call `function` from a thread of its own, after the cell has ended."""

    def run() -> None:
        time.sleep(seconds)
        function(*arguments, **options)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
