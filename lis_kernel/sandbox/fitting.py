"""Which settings fit which backend: one that would be ignored is refused instead.

Called where a sandbox is made, before anything starts, whoever makes it: `lis run`, `lis.run()`,
the kernel provisioner. A backend of another package decides for itself.
"""

from __future__ import annotations

from lis_kernel.config import SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.sandbox import mounts

__all__ = ["check"]

BACKENDS = ("zygote", "bubblewrap", "docker", "podman", "local")
FITS = {
    "image": ("docker", "podman"),
    "rootfs": ("zygote", "bubblewrap"),
    "runtime": ("docker", "podman"),
    "mounts": ("zygote", "bubblewrap", "docker", "podman"),
    "root": ("docker", "podman"),
    "preload": ("zygote",),
    "branch": ("zygote",),
}
"""Of the settings that not every backend has."""


def check(config: SandboxConfig, backend: str) -> None:
    """See that `backend` has a use for every setting that was made.

    Raises:
        ConfigError: naming the setting and the backends that have it, or a mount that is wrong.
    """
    if backend not in BACKENDS:
        return
    for name, fit in FITS.items():
        if getattr(config, name) and backend not in fit:
            raise ConfigError(
                name,
                f"the backend {backend} does not have it.",
                f"Leave it out, or take backend {' or '.join(fit)}.",
            )
    mounts.parse(config.mounts)
