"""The wire against a real libzmq peer, and against one that breaks the rules."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from lis_kernel.kernel.wire import GREETING, Channel, WireError

READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x04XPUB"
LIMIT = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ("long-" * 30) / "socket"


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    made = zmq.asyncio.Context()
    yield made
    made.destroy(linger=0)


async def router(context: zmq.asyncio.Context, path: Path) -> zmq.asyncio.Socket:
    socket = context.socket(zmq.ROUTER)
    socket.bind(f"ipc://{path}")
    return socket


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(st.binary(max_size=70_000) | st.just(b""), min_size=1, max_size=5),
        min_size=1,
        max_size=5,
    )
)
def test_every_message_arrives_as_it_was_sent(tmp_path_factory, messages) -> None:
    path = tmp_path_factory.mktemp("w") / "s"

    async def talk() -> None:
        context = zmq.asyncio.Context()
        try:
            peer = await router(context, path)
            channel = await Channel.open(path, "DEALER", LIMIT)
            for message in messages:
                channel.send(message)
                who, *heard = await peer.recv_multipart()
                assert heard == message
                await peer.send_multipart([who, *message])
                assert await channel.receive() == message
            channel.close()
        finally:
            context.destroy(linger=0)

    asyncio.run(talk())


async def test_a_subscriber_hears_everything(context, tmp_path: Path) -> None:
    peer = context.socket(zmq.XPUB)
    peer.bind(f"ipc://{tmp_path / 's'}")
    channel = await Channel.open(tmp_path / "s", "SUB", LIMIT)
    assert await peer.recv() == b"\x01"
    await peer.send_multipart([b"topic", b"text"])
    assert await channel.receive() == [b"topic", b"text"]
    channel.close()


@pytest.mark.parametrize(
    "big", [[bytes(LIMIT + 1)], [bytes(LIMIT // 4)] * 5, [b""] * 5_000], ids=["one", "sum", "many"]
)
async def test_a_message_that_is_too_big_is_read_past(context, tmp_path: Path, big) -> None:
    peer = await router(context, tmp_path / "s")
    channel = await Channel.open(tmp_path / "s", "DEALER", LIMIT)
    channel.send([b"hello"])
    who, _ = await peer.recv_multipart()
    await peer.send_multipart([who, *big])
    await peer.send_multipart([who, b"small"])
    assert await channel.receive() == [b"small"]
    assert channel.dropped == 1
    channel.close()


async def serve(path: Path, *pieces: bytes, endless: bytes = b"") -> asyncio.Server:
    """Says `pieces` to whoever connects, then `endless` for as long as it is taken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for piece in pieces:
                writer.write(piece)
            while endless:
                writer.write(endless)
                await writer.drain()
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, path)


async def test_an_endless_message_takes_no_memory(tmp_path: Path) -> None:
    frame = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)  # more will follow
    async with await serve(tmp_path / "s", GREETING, READY, endless=frame):
        channel = await Channel.open(tmp_path / "s", "DEALER", LIMIT)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.receive(), 0.7)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB
        channel.close()


async def test_a_frame_that_is_said_to_have_an_exabyte(tmp_path: Path) -> None:
    head = b"\x02" + (1 << 60).to_bytes(8, "big")
    async with await serve(tmp_path / "s", GREETING, READY, head, bytes(1000)):
        channel = await Channel.open(tmp_path / "s", "DEALER", LIMIT)
        with pytest.raises(WireError, match="closed"):
            await channel.receive()
        channel.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64),
        GREETING[:10] + b"\x02" + GREETING[11:] + READY,
        GREETING[:12] + b"CURVE" + GREETING[17:] + READY,
        GREETING + b"\x00\x05hello",
        GREETING + b"\x04\x06\x05ERROR",
    ],
)
async def test_what_is_no_peer_is_refused(tmp_path: Path, said: bytes) -> None:
    async with await serve(tmp_path / "s", said):
        with pytest.raises(WireError):
            await Channel.open(tmp_path / "s", "DEALER", LIMIT)


async def test_a_link_to_a_socket_is_not_followed(tmp_path: Path, context) -> None:
    await router(context, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file", "none"):
        with pytest.raises(WireError):
            await Channel.open(tmp_path / name, "DEALER", LIMIT)


async def test_a_long_path(context, path: Path) -> None:
    path.parent.mkdir()
    here = context.socket(zmq.ROUTER)
    short = Path("/proc/self/fd")  # zmq itself could not bind a long one
    fd = os.open(path.parent, os.O_RDONLY)
    here.bind(f"ipc://{short / str(fd)}/socket")
    os.close(fd)
    channel = await Channel.open(path, "DEALER", LIMIT)
    channel.close()
