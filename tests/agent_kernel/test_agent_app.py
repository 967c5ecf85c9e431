"""The sockets of an agent kernel's process, and when it knows of a client that listens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import zmq
from ipykernel.iostream import IOPubThread

from lis_kernel.agent_kernel import app
from lis_kernel.agent_kernel.app import AgentApp
from lis_kernel.config import ModelConfig, RunConfig

Context = zmq.Context[zmq.Socket[bytes]]
NEVER = 3600.0


@pytest.fixture
def context() -> Iterator[Context]:
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def kernel(context: Context) -> Iterator[AgentApp]:
    """An app without the thread of its outputs, which a test starts by `init_iopub`."""
    made = AgentApp(run_config=RunConfig(model=ModelConfig(name="scripted:none")))
    yield made
    thread, over = made.iopub_thread, threading.Event()

    def end() -> None:  # what ipykernel leaves to the end of its process
        thread._event_pipe_gc_task.cancel()
        thread._xpub_stream.close()
        thread.io_loop.add_callback(over.set)

    thread.schedule(end)
    assert over.wait(10)
    thread.stop()


def listen(context: Context, port: int) -> zmq.Socket[bytes]:
    """A client that has subscribed, and was told so."""
    client = context.socket(zmq.SUB)
    client.subscribe(b"")
    client.connect(f"tcp://127.0.0.1:{port}")
    assert client.poll(10_000), "ipykernel welcomes it"
    assert b"iopub_welcome" in b"".join(client.recv_multipart())
    return client


async def heard(kernel: AgentApp) -> None:
    async with asyncio.timeout(10):
        await kernel.listened()


async def test_a_client_that_connects_at_once_is_heard(
    kernel: AgentApp, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before ipykernel's `init_iopub` is over."""
    clients = []  # kept: one that goes away is heard as well
    start = IOPubThread.start

    def start_and_meet(thread: IOPubThread) -> None:
        start(thread)
        clients.append(listen(context, kernel.iopub_port))

    monkeypatch.setattr(IOPubThread, "start", start_and_meet)
    monkeypatch.setattr(app, "LISTEN_SECONDS", NEVER)
    kernel.init_iopub(context)
    await heard(kernel)


async def test_a_client_that_connects_later_is_waited_for(
    kernel: AgentApp, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LISTEN_SECONDS", NEVER)
    kernel.init_iopub(context)
    waiting = asyncio.create_task(heard(kernel))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    client = await asyncio.to_thread(listen, context, kernel.iopub_port)
    await waiting
    assert not client.closed


async def test_nobody_is_waited_for_once(
    kernel: AgentApp, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.init_iopub(context)
    monkeypatch.setattr(app, "LISTEN_SECONDS", 0.05)
    await heard(kernel)
    monkeypatch.setattr(app, "LISTEN_SECONDS", NEVER)
    await heard(kernel)
