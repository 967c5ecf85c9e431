"""The sandboxed kernel behind jupyter_server's REST and websocket, as JupyterLab uses it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from leftovers import left_within

pytest.importorskip("jupyter_server", reason="jupyter_server is not installed")
pytestmark = pytest.mark.bwrap

TOKEN = uuid.uuid4().hex


class Server:
    """One jupyter_server process and its REST."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "server.log"
        options = {
            "ServerApp.token": TOKEN, "IdentityProvider.token": TOKEN, "ServerApp.port": 0,
            "ServerApp.open_browser": False, "ServerApp.allow_root": True,
            "ServerApp.root_dir": str(folder),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", *(f"--{k}={v}" for k, v in options.items())],
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        self.url = ""
        deadline = time.monotonic() + 30
        while not self.url:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
            for path in Path(os.environ["JUPYTER_RUNTIME_DIR"]).glob("jpserver-*.json"):
                self.url = json.loads(path.read_text())["url"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read() or b"null")

    async def run(self, kernel: str, source: str) -> str:
        """What a cell printed, over a websocket of its own, as one tab of a browser."""
        from tornado.websocket import websocket_connect

        socket = await websocket_connect(
            f"{self.url.replace('http', 'ws')}api/kernels/{kernel}/channels?token={TOKEN}"
        )
        header = {
            "msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "",
            "session": uuid.uuid4().hex, "version": "5.3", "date": "",
        }  # fmt: skip
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        said, idle, replied = "", False, False
        try:
            await socket.write_message(json.dumps({**message, "channel": "shell", "buffers": []}))
            while not (idle and replied):
                answer = json.loads(await asyncio.wait_for(socket.read_message(), 20))
                if answer["parent_header"].get("msg_id") != header["msg_id"]:
                    continue
                body = answer["content"]
                said += body.get("text", "") if answer["msg_type"] == "stream" else ""
                said += body["ename"] if answer["msg_type"] == "error" else ""
                idle |= body.get("execution_state") == "idle"
                replied |= answer["msg_type"] == "execute_reply"
        finally:
            socket.close()
        return said.strip()


@pytest.fixture
def server(jupyter, tmp_path: Path) -> Iterator[Server]:
    jupyter()
    jupyter("broken", netwrok="none")
    started = Server(tmp_path)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.send_signal(signal.SIGTERM)
            started.process.wait(30)


async def test_a_life_behind_rest_and_websocket(server: Server, runtime: Path) -> None:
    ask = server.ask
    specs = await asyncio.to_thread(ask, "GET", "kernelspecs")
    assert specs["kernelspecs"]["lis-python"]["spec"]["display_name"] == "Python 3 (sandbox)"
    assert set(specs["kernelspecs"]["lis-python"]["resources"]) == {
        "logo-svg", "logo-64x64", "logo-32x32",
    }  # fmt: skip
    kernel = (await asyncio.to_thread(ask, "POST", "kernels", {"name": "lis-python"}))["id"]
    assert await server.run(kernel, "x = 1; print(open('/testbed/f', 'w').write('kept'))") == "4"
    assert await server.run(kernel, "print(x)") == "1"

    running = asyncio.create_task(server.run(kernel, "import time; time.sleep(25)"))
    await asyncio.sleep(1)
    await asyncio.to_thread(ask, "POST", f"kernels/{kernel}/interrupt")
    assert await running == "KeyboardInterrupt"

    await asyncio.to_thread(ask, "POST", f"kernels/{kernel}/restart")
    said = await server.run(kernel, "print('x' in globals(), open('/testbed/f').read())")
    assert said == "False kept"

    await asyncio.to_thread(ask, "DELETE", f"kernels/{kernel}")
    assert await asyncio.to_thread(left_within, 5, runtime) == {}
    assert list(runtime.iterdir()) == []


async def test_a_wrong_kernelspec_is_explained_in_the_servers_log(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError):
        await asyncio.to_thread(server.ask, "POST", "kernels", {"name": "broken"})
    assert "config.netwrok: unknown setting" in server.log.read_text()


async def test_a_server_that_stops_takes_its_kernels_along(server: Server, runtime: Path) -> None:
    kernel = (await asyncio.to_thread(server.ask, "POST", "kernels", {"name": "lis-python"}))["id"]
    assert await server.run(kernel, "print(1)") == "1"
    server.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(server.process.wait, 30)
    assert await asyncio.to_thread(left_within, 5, runtime) == {}
    assert list(runtime.iterdir()) == []
