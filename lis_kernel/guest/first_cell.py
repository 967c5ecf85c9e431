"""The text of a trajectory's setup cell: the helpers of the cells after it, whole.

The host runs this file for the text that it sends (`kernel/setup.py`); the zygote remembers what
comes of that text before there is a kernel (`cells.py`).
"""

import os

TITLE = "# Set-up: helpers for the cells below, which then run in any Jupyter kernel.\n"
PARTS = ("workspace.py", "shell.py", "editor.py", "submit.py")


def source():
    """After this cell every other one runs in a stock kernel too."""
    return TITLE + "\n\n".join(part(name).rstrip() for name in PARTS) + "\n"


def part(name):
    folder = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read()
