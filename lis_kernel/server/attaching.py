"""The notebook with which a person joins a run: its kernel is the run's own.

The kernelspec `lis-attach` finds the run by the notebook that it is started for: its metadata
names it. Written by `lis attach --notebook` and by the server's `attach`.
"""

from __future__ import annotations

from typing import Any

from lis_kernel.trajectory.notebook import KEY

__all__ = ["KERNELSPEC", "attach_notebook", "notebook_name"]

KERNELSPEC = "lis-attach"

TEXT = """\
This notebook is connected to the run `{run}`: its cells run where the agent's do, with the same
variables, files and shell (`%%bash`).

Pause the run first (`lis pause {run}`, or the page `/lis/runs`): while the agent works its cells
are shown here and yours are refused. Hand back with `lis resume {run}`; the model is then told what
you ran, and the run's own notebook records it as yours."""


def notebook_name(run: str) -> str:
    """The file's name; the same run has the same notebook."""
    return f"attach-{run}.ipynb"


def attach_notebook(run: str) -> dict[str, Any]:
    """A notebook, as nbformat JSON, that opens connected to the run with this id."""
    return {
        "cells": [
            {
                "cell_type": "markdown",
                "id": "about",
                "metadata": {},
                "source": TEXT.format(run=run),
            },
            {
                "cell_type": "code",
                "execution_count": None,
                "id": "first",
                "metadata": {},
                "outputs": [],
                "source": "",
            },
        ],
        "metadata": {
            "kernelspec": {
                "display_name": "Join a running agent",
                "language": "python",
                "name": KERNELSPEC,
            },
            "language_info": {"name": "python"},
            KEY: {"attach": run},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
