"""Carries messages between a client's sockets and those of a sandboxed kernel, unread.

For tools that know no provisioner: their connection file names tcp ports of the host, which a
kernel without network can never listen on. The bridge listens there and passes every message on to
the kernel's unix sockets; the key is the same on both sides, so the signatures stay valid.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import zmq
from jupyter_client.session import Session

from lis_kernel.kernel.settings import MAX_MESSAGE

__all__ = ["bridge", "interrupt"]

CHANNELS = {
    "shell": (zmq.ROUTER, zmq.DEALER),
    "control": (zmq.ROUTER, zmq.DEALER),
    "stdin": (zmq.ROUTER, zmq.DEALER),
    "hb": (zmq.ROUTER, zmq.DEALER),
    "iopub": (zmq.XPUB, zmq.XSUB),
}
"""Each channel's socket towards the client and towards the kernel."""

SUBSCRIBE_MS = 2000


@contextlib.contextmanager
def bridge(client: Mapping[str, Any], kernel: Mapping[str, Any]) -> Iterator[None]:
    """Listen where the connection info `client` says, and serve what `kernel` answers.

    Raises:
        zmq.ZMQError: a port of `client` is taken.
    """
    context = zmq.Context()
    # the kernel answers a question on stdin to the identity that asked on shell
    identity = secrets.token_bytes(16)
    pairs: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = []
    try:
        for name, (front_type, back_type) in CHANNELS.items():
            front, back = context.socket(front_type), context.socket(back_type)
            pairs.append((front, back))
            front.linger = 500  # ms: the reply to a shutdown request may still be on its way
            back.linger = 0
            if front_type == zmq.ROUTER:
                back.setsockopt(zmq.IDENTITY, identity)
                front.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that comes back
            back.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
            back.connect(address(kernel, name))
            if back_type == zmq.XSUB:
                back.send(b"\1")  # all topics, before any client can ask for output; the kernel
                back.poll(SUBSCRIBE_MS)  # welcomes us once it knows
        for name, (front, _) in zip(CHANNELS, pairs, strict=True):
            front.bind(address(client, name))
    except BaseException:
        context.destroy(linger=0)
        raise
    threads = [threading.Thread(target=_carry, args=pair, daemon=True) for pair in pairs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        context.term()  # ends the proxies, which close their sockets; waits for what they sent
        for thread in threads:
            thread.join()


def _carry(front: zmq.Socket[bytes], back: zmq.Socket[bytes]) -> None:
    with front, back, contextlib.suppress(zmq.ZMQError):
        zmq.proxy(front, back)


def address(info: Mapping[str, Any], channel: str) -> str:
    """The zmq address of one channel of a connection file."""
    between = ":" if info["transport"] == "tcp" else "-"
    return f"{info['transport']}://{info['ip']}{between}{info[f'{channel}_port']}"


def interrupt(info: Mapping[str, Any]) -> None:
    """Ask the kernel at `info` to interrupt its cell, for those who only know SIGINT."""
    session = Session(key=info["key"].encode(), signature_scheme=info["signature_scheme"])
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 1000
        socket.connect(address(info, "control"))
        session.send(socket, session.msg("interrupt_request", {}))
