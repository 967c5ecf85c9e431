"""Kernels forked from one preloaded process on this host, and jupyter_client's client for them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient

import lis_kernel

PARENT = """
import json, os, signal, sys
sys.path[0] = sys.argv[1]
from guest import boot
boot.preload(tuple(json.loads(sys.argv[2])))
sys.modules["guest.output"].OUTPUT_DIR = sys.argv[3]
print("preloaded", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        boot.run({**json.loads(line), "ready_fd": os.open("/dev/null", os.O_WRONLY)})
        os._exit(0)
    print(pid, flush=True)
"""


class Fork:
    """A kernel and a started client of it."""

    def __init__(self, pid: int, facts: dict[str, Any]) -> None:
        self.pid = pid
        self.client = BlockingKernelClient()
        self.client.load_connection_info(facts)
        self.client.start_channels()
        self.client.wait_for_ready(timeout=20)

    def run(self, code: str, **options: Any) -> str:
        """What `code` prints and shows; the name of its error, if it fails."""
        shown: list[str] = []

        def show(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                shown.append(content["text"])
            elif "data" in content:
                shown.append(content["data"]["text/plain"] + "\n")
            elif message["msg_type"] == "error":
                shown.append(content["ename"] + "\n")

        self.client.execute_interactive(code, timeout=20, output_hook=show, **options)
        return "".join(shown)

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))


class Forks:
    """The preloaded process. Ends its kernels when it is closed, for their owner's pipe closes."""

    def __init__(self, folder: Path, packages: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.owner_read, self.owner_write = os.pipe()
        root = Path(lis_kernel.__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(root), json.dumps(packages), str(folder / "out")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            text=True,
            env={**os.environ, "HOME": str(folder), "IPYTHONDIR": str(folder / "ipython")},
            pass_fds=(self.owner_read,),
        )
        self.forks: list[Fork] = []
        if self._line() != "preloaded":
            self.close()
            raise RuntimeError((folder / "log").read_text())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, **more: Any) -> Fork:
        assert self.process.stdin is not None
        name = f"k{len(self.forks)}"
        ports = ("shell", "iopub", "stdin", "control", "hb")
        facts = {
            "transport": "ipc",
            "ip": str(self.folder / name),
            **{f"{port}_port": n for n, port in enumerate(ports, start=1)},
            "key": secrets.token_hex(16),
            "signature_scheme": "hmac-sha256",
        }
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(facts))
        boot = {
            "connection_file": str(file),
            "owner_fd": self.owner_read,
            "cwd": str(self.folder),
        }
        self.process.stdin.write(json.dumps({**boot, **more}) + "\n")
        self.process.stdin.flush()
        fork = Fork(int(self._line()), facts)
        self.forks.append(fork)
        return fork

    def close(self) -> None:
        for fork in self.forks:
            fork.client.stop_channels()
        self.process.kill()
        self.process.wait()
        os.close(self.owner_write)
        os.close(self.owner_read)
