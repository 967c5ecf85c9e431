"""Notebook magics: `%%sandbox`, `%sandbox`, `%%agent`, `%agent`.

`%load_ext lis_kernel` calls `load`, `%unload_ext lis_kernel` calls `unload`.
"""

from lis_kernel.magics.extension import Extension, load, unload

__all__ = ["Extension", "load", "unload"]
