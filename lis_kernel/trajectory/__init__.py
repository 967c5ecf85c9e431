"""The record of one run: an executable notebook, and how to write and read it."""

from lis_kernel.trajectory.recorder import Recorder
from lis_kernel.trajectory.trajectory import Trajectory, Turn, load

__all__ = ["Recorder", "Trajectory", "Turn", "load"]
