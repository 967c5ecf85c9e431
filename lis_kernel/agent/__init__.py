"""One run: the loop and what it needs to decide."""

from lis_kernel.agent.agent import Agent

__all__ = ["Agent"]
