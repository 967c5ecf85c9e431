"""Puts off what a package imports in its `__init__` until somebody asks the package for it.

`jupyter_client` imports its clients and managers, which a kernel never uses: 15 ms of 200 of a
start. `boot.py` calls this before ipykernel; a program that wants the rest gets it as always.
"""

import importlib
import importlib.util
import sys

LATE = ("__version__", "__all__")
"""Names of the language's own form that only `__init__` sets; Python asks for others in passing."""


def package(name, *used):
    """Let `name` be imported without its `__init__`.

    What is asked for is looked up first in `used`, the modules of it that a kernel needs anyhow.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None or name in sys.modules:
        return
    module = importlib.util.module_from_spec(spec)

    def find(attribute):
        if attribute.startswith("__") and attribute not in LATE:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        if attribute not in LATE:
            for part in used:
                there = vars(importlib.import_module(f"{name}.{part}"))
                if attribute in there:
                    return there[attribute]
        module.__dict__.pop("__getattr__", None)  # the whole of it now
        spec.loader.exec_module(module)
        return getattr(module, attribute)

    module.__getattr__ = find
    sys.modules[name] = module
