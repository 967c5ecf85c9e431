"""Many trajectories at a time."""

from lis_kernel.rollout.batch import Batch, Rollout

__all__ = ["Batch", "Rollout"]
