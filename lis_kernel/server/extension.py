"""What the handlers share: the server's folders and addresses, and the runs that it started.

One `LisServer` a server, made when the extension is loaded; `c.LisServer` configures it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jupyter_server.utils import url_path_join
from traitlets import Float, Unicode
from traitlets.config import LoggingConfigurable

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

__all__ = ["LOGOS", "STATIC", "LisServer", "load"]

STATIC = Path(__file__).parent / "static"
LOGOS = Path(__file__).parent.parent / "kernel" / "logos"


class LisServer(LoggingConfigurable):
    """Where runs are kept, and how a browser opens what is in them."""

    runs_dir = Unicode(
        "runs",
        help="Folder with a folder for each run; a relative path is below the server's root_dir.",
    ).tag(config=True)
    keep_alive = Float(
        15.0,
        help="Seconds of silence in a stream of events until a comment is sent, for proxies.",
    ).tag(config=True)

    def __init__(self, serverapp: ServerApp) -> None:
        super().__init__(parent=serverapp)
        self.serverapp = serverapp
        self.root = Path(serverapp.root_dir).resolve()
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def runs(self) -> Path:
        """The folder of the runs that are started here, and of those that are listed."""
        return self.root / Path(self.runs_dir).expanduser()

    @property
    def base_url(self) -> str:
        return self.serverapp.base_url

    def reap(self) -> None:
        """Take note of started runs that have ended, so that no zombie is left of them."""
        self.started = [process for process in self.started if process.poll() is None]

    def lab_url(self, path: Path) -> str | None:
        """Where a browser opens a file in JupyterLab, or Notebook; None if it lies elsewhere."""
        try:
            # one bad link is no reason to fail: `Path.resolve` raises RuntimeError for a loop
            steps = Path(os.path.realpath(path)).relative_to(self.root).parts
            name = quote("/".join(steps))
        except (ValueError, OSError):  # not below the root, or no Unicode
            return None
        front = self._front()
        return None if front is None else url_path_join(self.base_url, front, name)

    def _front(self) -> str | None:
        enabled = self.serverapp.extension_manager.extensions
        fronts = {"jupyterlab": "lab/tree", "notebook": "notebooks"}
        return next((url for name, url in fronts.items() if name in enabled), None)


def load(serverapp: ServerApp) -> None:
    """Add the handlers to a server."""
    from lis_kernel.server.handlers import routes

    lis = LisServer(serverapp)
    application: Any = serverapp.web_app
    application.add_handlers(".*$", routes(lis))
    lis.log.info("lis_kernel: runs at %s", url_path_join(lis.base_url, "lis/runs"))
