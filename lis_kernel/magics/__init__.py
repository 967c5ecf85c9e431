"""Notebook magics: `%%sandbox`, `%sandbox`, `%%agent`, `%agent`.

`%load_ext lis_kernel` calls `load`, `%unload_ext lis_kernel` calls `unload`.
"""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell

from lis_kernel.magics.sandbox import SandboxMagics

__all__ = ["SandboxMagics", "load", "unload"]

NAME = "SandboxMagics"
MAGICS = ("sandbox", "agent")


def load(shell: InteractiveShell) -> None:
    """Give `shell` the magics."""
    shell.register_magics(SandboxMagics(shell))


def unload(shell: InteractiveShell) -> None:
    """Take the magics from `shell`, and end their sandboxes."""
    manager = shell.magics_manager
    known = manager.registry.pop(NAME, None)
    for kind in ("line", "cell"):
        for name in MAGICS:
            manager.magics[kind].pop(name, None)
    if isinstance(known, SandboxMagics):
        known.close()
