"""A real `jupyter lab` or `jupyter notebook` out of an environment, with a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from lis_kernel.config import data_dir

START_SECONDS = 120


class Server:
    """Started by its constructor; `url` ends with a slash and serves the folder `root`.

    Args:
        place: the environment's folder.
        app: `lab` or `notebook`.
        folder: for everything that it writes.
        runtime: of its sandboxes, short.
    """

    def __init__(self, place: Path, app: str, folder: Path, runtime: Path) -> None:
        self.place = place
        self.app = app
        self.runtime = runtime
        self.token = uuid.uuid4().hex
        self.root = folder / "work"
        self.root.mkdir(parents=True)
        self.log = folder / "server.log"
        self.environment = _environment(place, folder, runtime)
        options = [
            "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
            f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.root}",
            "--expose-app-in-browser",
        ]  # fmt: skip
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [place / "bin" / "jupyter", app, *options],
                env=self.environment, stdout=out, stderr=out, cwd=self.root,
            )  # fmt: skip
        self.url = ""
        try:
            self._wait(Path(self.environment["JUPYTER_RUNTIME_DIR"]))
        except BaseException:
            self.stop()
            raise

    def _wait(self, runtime: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.url:
            ended = self.process.poll() is not None
            assert not ended and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
            for path in runtime.glob(f"jpserver-{self.process.pid}.json"):
                with contextlib.suppress(ValueError):  # it is being written
                    self.url = json.loads(path.read_text())["url"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the server's REST says, below its base URL."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read() or b"null")

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """A command of the environment, as in a terminal of this user."""
        command = [str(self.place / "bin" / words[0]), *words[1:]]
        return subprocess.run(
            command, env=self.environment, cwd=self.root, capture_output=True, text=True,
            check=False, timeout=120, **more,
        )  # fmt: skip

    def end_kernels(self) -> None:
        """Shut down whatever a test left running."""
        for session in self.ask("GET", "api/sessions"):
            with contextlib.suppress(OSError):
                self.ask("DELETE", f"api/sessions/{session['id']}")
        for kernel in self.ask("GET", "api/kernels"):
            with contextlib.suppress(OSError):
                self.ask("DELETE", f"api/kernels/{kernel['id']}")

    def stop(self) -> None:
        """End it, and its kernels with it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


def _environment(place: Path, folder: Path, runtime: Path) -> dict[str, str]:
    """Nothing of this user's Jupyter; images and zygotes are shared, as they take long to make."""
    dropped = ("JUPYTER", "PYTHON", "VIRTUAL_ENV", "ANTHROPIC_", "OPENAI_", "PYTEST")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
    home = folder / "home"
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    return {
        **kept,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "LIS_DATA_DIR": str(data_dir()),
        "LIS_RUNTIME_DIR": str(runtime),
    }
