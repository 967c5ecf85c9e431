"""The sandbox's end of the way out: 127.0.0.1:3128 to the proxy's unix socket on the host.

Run by `network.py` as a process of its own, so that a busy kernel does not stall it, with a
listening socket already open: `python forward.py FD SOCKET`. It decides nothing; the host does. The
sandbox's end is its end.
"""

import asyncio
import contextlib
import socket
import sys

PIECE = 65536


async def pump(reader, writer):
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()


async def forward(path, reader, writer):
    try:
        inner, outer = await asyncio.open_unix_connection(path)
    except OSError:
        writer.close()
        return
    up = asyncio.create_task(pump(reader, outer))
    try:
        await pump(inner, writer)  # the host says when it is over
    finally:
        up.cancel()
        for end in (outer, writer):
            end.close()


async def main(fd, path):
    listening = socket.socket(fileno=fd)
    server = await asyncio.start_server(lambda r, w: forward(path, r, w), sock=listening)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
