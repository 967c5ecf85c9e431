"""Tools: pure functions from a call to a cell, and from a cell's outputs to an observation."""

from lis_kernel.tools.calls import understand
from lis_kernel.tools.toolset import ALIASES, toolset

__all__ = ["ALIASES", "toolset", "understand"]
