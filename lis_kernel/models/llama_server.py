"""The process that holds a local model: llama.cpp's own server, OpenAI-compatible, on loopback.

A process of its own because llama.cpp loads weights with Python's GIL held (an event loop in the
same process would stand still for seconds), writes to the terminal as it likes, and takes the
whole process along when it aborts. `LlamaServer` is the handle, used by `models/local.py` and
`lis model serve`; the child is `models/llama_child.py`.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import secrets
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

from lis_kernel.errors import ConfigError, ModelUnavailable

__all__ = ["CONTEXT", "LlamaServer", "require_llama_cpp"]

CONTEXT = 16_384
"""Default tokens of prompt and reply. Qwen2.5 takes twice that, for twice the memory: its KV cache
has 28 kB a token (0.5 GB here) for each of the conversations answered at once."""


def require_llama_cpp() -> None:
    """Called before anything is downloaded for it.

    Raises:
        ConfigError: xllamacpp is not installed.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(
            "--model", "local models need llama.cpp.", "Run: pip install 'lis-kernel[local]'"
        )


class LlamaServer:
    """One child process with one model file, started by the first `url()`.

    Args:
        weights: the .gguf file.
        name: what the server calls the model.
        context: tokens of prompt and reply, for each of the conversations answered at once.
        port: None takes a free port and hides the server behind a random path, so that nobody
            else on this machine can use it; a number serves everyone on 127.0.0.1.
    """

    def __init__(self, weights: Path, name: str, context: int, *, port: int | None = None) -> None:
        self.weights, self.name, self.context = weights, name, context
        self._port = port
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""
        _running.add(self)

    def url(self) -> str:
        """Base URL (`…/v1`) of the running server. Blocks while it loads; starts a dead one again.

        Raises:
            ModelUnavailable: it ended while loading; the message has llama.cpp's reason.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._url = self._start()
            return self._url

    def stop(self) -> None:
        """End the process now, also while it loads. May be called twice, from any thread."""
        if (process := self._process) is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def wait(self) -> int:
        """Block until the process that `url` started ends; its exit status."""
        assert self._process is not None
        return self._process.wait()

    def _start(self) -> str:
        prefix = "" if self._port is not None else f"/{secrets.token_urlsafe(24)}"
        settings = {
            "weights": str(self.weights),
            "name": self.name,
            "context": self.context,
            "port": self._port or 0,
            "prefix": prefix,
        }
        with tempfile.TemporaryFile() as log:
            # A session of its own: Ctrl-C in the terminal is for us, who may want it to live on.
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("llama_child.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            assert process.stdin is not None and process.stdout is not None
            try:
                # Its input stays open: the end of it tells the child that we are gone.
                process.stdin.write(json.dumps(settings).encode() + b"\n")
                process.stdin.flush()
                address = process.stdout.readline().decode().strip()
            except BrokenPipeError:
                address = ""
            except BaseException:
                process.kill()
                raise
            if address:
                return f"{address}{prefix}/v1"
            code = process.wait()
            log.seek(0)
            reason = log.read().decode(errors="replace").strip()[-1500:]
        raise ModelUnavailable(
            f"llama.cpp could not serve {self.weights} (exit status {code}). {reason}"
        )


_running: weakref.WeakSet[LlamaServer] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop()
