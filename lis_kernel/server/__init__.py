"""The extension of jupyter_server: runs over REST under `/lis/`, and the page `/lis/runs`.

Enabled by the wheel's `etc/jupyter/jupyter_server_config.d/lis_kernel.json`; jupyter_server calls
the two functions below. What it serves is what `lis runs` prints, see `listing.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "lis_kernel.server"}]


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    from lis_kernel.server.extension import load

    load(serverapp)
