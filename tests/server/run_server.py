"""A real jupyter_server with the extension, enabled by the file that the wheel installs."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import lis_kernel

CONFIG = Path(lis_kernel.__file__).parent / "server" / "jupyter_server_config.json"
BASE = "/of/someone/"
START_SECONDS = 60


def strict(text: str | bytes) -> Any:
    """JSON as a browser reads it: Python's own reader takes `NaN` and `Infinity` as well."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        return strict(self.text)

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Server:
    """Started by its constructor. `root` is the folder that it serves, under the base URL BASE.

    Args:
        folder: for everything that it writes.
        options: of the command line, beside the usual ones.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.token = uuid.uuid4().hex
        self.root = folder / "work"
        self.runs = self.root / "runs"
        home = folder / "jupyter"
        enabled = home / "config" / "jupyter_server_config.d"
        for place in (self.root, enabled):
            place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CONFIG, enabled / "lis_kernel.json")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
        places = {f"JUPYTER_{n}_DIR": str(home / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")}
        path = os.pathsep.join([str(Path(__file__).parent), kept.get("PYTHONPATH", "")])
        self.log = folder / f"server-{self.token[:4]}.log"
        words = [
            f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.root}",
            f"--ServerApp.base_url={BASE}", "--ServerApp.port=0", "--ServerApp.open_browser=False",
            "--ServerApp.allow_root=True", *options,
        ]  # fmt: skip
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", *words],
                env={**kept, **places, "PYTHONPATH": path}, stdout=out, stderr=out,
            )  # fmt: skip
        self._record = home / "runtime" / f"jpserver-{self.process.pid}.json"
        self.port = self._wait()
        self.comments = 0
        """That kept streams of events alive."""

    def _wait(self) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                port = int(json.loads(self._record.read_text())["port"])
                socket.create_connection(("127.0.0.1", port)).close()
                return port
            except (OSError, ValueError):  # not yet, or being written
                time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{BASE}{path}"

    def ask(self, path: str, words: Any = None, method: str = "", **headers: str | None) -> Answer:
        """One request with the token, unless `Authorization=None`; POST if there are `words`."""
        body = words if isinstance(words, bytes | None) else json.dumps(words).encode()
        sent = {"Authorization": f"token {self.token}", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            connection.request(
                method or ("GET" if body is None else "POST"),
                urlsplit(self.url(path))._replace(scheme="", netloc="").geturl(),
                body,
                {k.replace("_", "-"): v for k, v in sent.items() if v is not None},
            )
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()

    def start(self, **words: Any) -> str:
        """Start a run; its id."""
        answer = self.ask("lis/api/runs", words)
        assert answer.status == 201, answer.text
        return str(answer.json["id"])

    def run(self, name: str) -> dict[str, Any]:
        answer = self.ask(f"lis/api/runs/{name}")
        assert answer.status == 200, answer.text
        found: dict[str, Any] = answer.json
        return found

    def becomes(self, name: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        """The run once it is in one of the states."""
        deadline = time.monotonic() + seconds
        while (run := self.run(name))["state"] not in states:
            assert time.monotonic() < deadline, run
            time.sleep(0.1)
        return run

    def events(self, name: str) -> Iterator[dict[str, Any]]:
        """What the server tells of a run, comments left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            headers = {"Authorization": f"token {self.token}"}
            connection.request("GET", f"{BASE}lis/api/runs/{name}/events", headers=headers)
            response = connection.getresponse()
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/event-stream")
            while line := response.readline():
                if line.startswith(b"data: "):
                    yield strict(line.removeprefix(b"data: "))
                self.comments += line.startswith(b":")
        finally:
            connection.close()

    def end(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def stop(self) -> None:
        """End it and the runs that still live."""
        if self.process.poll() is None:
            for run in self.ask("lis/api/runs").json["runs"]:
                if run["live"]:
                    self.ask(f"lis/api/runs/{run['id']}/stop", {})
                    self.becomes(run["id"], "interrupted")
            self.end()
