"""Attempts to break out of a sandbox, each with a canary that shows it to be live.

`lis doctor --attack` runs them; `suite.py` holds the families, `ground.py` what is there to steal,
`inside/` what runs in the sandbox. Nothing here harms the host: where the canary runs without
walls, an attempt shows the power and does not use it.
"""

from lis_kernel.attacks.suite import FAMILIES, Finding, attack

__all__ = ["FAMILIES", "Finding", "attack"]
