"""How a sandbox's container is made: settings and limits in, arguments of the Docker API out.

All that the container backends promise about walls and limits stands in `arguments`; it asks no
daemon, so it can be read and tested alone.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.sandbox.container_labels import owner_labels
from lis_kernel.sandbox.launch import GUEST, GUEST_INSIDE, environment
from lis_kernel.sandbox.mounts import parse

__all__ = [
    "FOLDERS",
    "HOST_INSIDE",
    "RUN_INSIDE",
    "SANDBOX_UID",
    "Spec",
    "arguments",
    "user_id",
]

SANDBOX_UID = 70_000
"""The sandbox's user where root runs us: an id that no system gives to a user of its own."""
RUN_INSIDE = "/opt/lis-guest/run"
"""Where the kernel's sockets and log lie; not below /run, which Podman mounts over."""
FOLDERS = {"/testbed": "testbed", "/tmp": "tmp", "/home/user": "home", RUN_INSIDE: "run"}
"""The container's writable folders and their names in the state folder."""
HOST_INSIDE = "/opt/lis-guest/host"
"""Where the container sees, read-only, the few files and sockets that the host made for it."""
SHARES = {"/testbed": 6, "/tmp": 4, "/home/user": 5, "/dev/shm": 1}
"""Sixteenths of the writable space; what pip installs lies in the home folder."""
RUN_BYTES = 1 << 20
"""Of `RUN_INSIDE`."""
OF_MEMORY = 0.75
"""Files are memory here: at most this share of it, so that a full disk is not yet out of memory."""
ROOT_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"]
"""What apt-get needs; nothing else is given back even to root."""
MANY_PROCESSES = 16_384
"""Of the user id, all its sandboxes together; each has its own, lower bound."""
PID1_MARGIN = 0.5
"""Seconds that PID 1 gives the owner to end the container in time."""


@dataclass(frozen=True)
class Spec:
    """What one container is made for.

    Args:
        python: path of the interpreter in the image.
        host_folder: holds the socket `s` for PID 1; this adds `passwd` and `group`.
        rootless: the daemon runs as this user, so that root inside is nobody else outside.
        plain_tmpfs: the engine knows only size and mode of a tmpfs (Podman).
        mounts: what a network policy adds, read-only: host paths by their path inside.
    """

    config: SandboxConfig
    limits: Limits
    name: str
    image: str
    python: str
    host_folder: Path
    rootless: bool = False
    plain_tmpfs: bool = False
    security: tuple[str, ...] = ("no-new-privileges",)
    mounts: Mapping[str, Path] = field(default_factory=dict)

    @property
    def uid(self) -> int:
        """Of everything in the container; as the host sees it, unless `rootless`."""
        return user_id(self.config, self.rootless)

    @property
    def cpus(self) -> float:
        """The API refuses more than there are."""
        return min(self.limits.cpus, float(os.cpu_count() or 1))

    @property
    def space(self) -> dict[str, int]:
        """Bytes of each writable folder; together at most the disk limit."""
        whole = min(self.limits.disk_bytes, int(self.limits.memory_bytes * OF_MEMORY)) - RUN_BYTES
        unit = max(whole // sum(SHARES.values()), 64 << 10)
        return {path: unit * share for path, share in SHARES.items()}

    def environment(self) -> dict[str, str]:
        """Of the kernel."""
        values = environment()
        if self.config.root:  # dpkg wants the system's programs, and nobody answers questions
            path = values["PATH"].replace("/usr/bin:/bin", "/usr/sbin:/usr/bin:/sbin:/bin")
            values |= {"USER": "root", "PATH": path, "DEBIAN_FRONTEND": "noninteractive"}
        return values

    def facts(self) -> dict[str, Any]:
        """The limits as they hold, which may be tighter than asked."""
        disk = None if self.config.root else sum(self.space.values()) + RUN_BYTES
        limits: dict[str, Any] = {
            "memory_bytes": self.limits.memory_bytes,
            "pids": self.limits.pids,
            "cpus": self.cpus,
            "open_files": self.limits.open_files,
            "disk_bytes": disk,
            "disk_bytes_by_folder": self.space,
            "held_by": "cgroup of the container, tmpfs sizes",
            "notes": ["files in the writable folders count as memory"],
        }
        if self.plain_tmpfs:
            limits["notes"].append("/var/tmp is bounded by the memory limit alone")
        if self.config.root:
            limits["notes"] = ["/ is writable, on the daemon's disk, without a bound"]
        return {
            "root": self.config.root,
            "host_uid": os.getuid() if self.rootless else self.uid,
            "limits": limits,
        }


def arguments(spec: Spec) -> dict[str, Any]:
    """The keyword arguments of the SDK's `containers.create`."""
    from docker.types import LogConfig, Ulimit

    limits, uid = spec.limits, spec.uid
    sizes = {path: size for path, size in spec.space.items() if path != "/dev/shm"}
    sizes[RUN_INSIDE] = RUN_BYTES
    ends = "" if limits.sandbox_seconds is None else f"{limits.sandbox_seconds + PID1_MARGIN:g}"
    processes = min(resource.getrlimit(resource.RLIMIT_NPROC)[1], MANY_PROCESSES)
    return {
        "image": spec.image,
        "name": spec.name,
        # -I, -S: nothing but our file and the standard library; this is PID 1, and reaps
        "entrypoint": [spec.python, "-IS", f"{GUEST_INSIDE}/pid1.py", f"{HOST_INSIDE}/s", ends],
        "command": [],
        "environment": {},
        "hostname": "sandbox",
        "user": f"{uid}:{uid}",
        "working_dir": "/testbed",
        "labels": owner_labels(spec.name, limits.sandbox_seconds),
        "detach": True,
        "auto_remove": True,
        "runtime": spec.config.runtime,
        "network_mode": "bridge" if spec.config.network == "open" else "none",
        "ipc_mode": "private",
        "cap_drop": ["ALL"],
        "cap_add": ROOT_CAPABILITIES if spec.config.root else [],
        "security_opt": list(spec.security),
        "read_only": not spec.config.root,
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,
        "nano_cpus": int(spec.cpus * 1e9),
        "pids_limit": limits.pids,
        # nproc, for Podman would raise it, which needs a capability that is not everywhere
        "ulimits": [
            Ulimit(name="nofile", soft=limits.open_files, hard=limits.open_files),
            # not 0: the host's crash handler is given a core even so, but not at 1
            Ulimit(name="core", soft=1, hard=1),
            Ulimit(name="nproc", soft=processes, hard=processes),
        ],
        "shm_size": spec.space["/dev/shm"],
        "tmpfs": {path: _tmpfs(spec, path, size) for path, size in sizes.items()},
        "mounts": _mounts(spec),
        # what PID 1 prints would lie on the host's disk, and it prints nothing
        "log_config": LogConfig(type=LogConfig.types.NONE),
    }


def user_id(config: SandboxConfig, rootless: bool) -> int:
    """See `Spec.uid`."""
    return 0 if config.root or rootless else os.getuid() or SANDBOX_UID


def _tmpfs(spec: Spec, path: str, size: int) -> str:
    options = f"rw,exec,nosuid,nodev,size={size}"
    if spec.plain_tmpfs:
        return f"{options},mode=1777"
    mode = "1777" if path == "/tmp" else "0755"  # apt works there as a user of its own
    inodes = max(size // 8192, 64)
    return f"{options},nr_inodes={inodes},uid={spec.uid},gid={spec.uid},mode={mode}"


def _mounts(spec: Spec) -> list[Any]:
    from docker.types import Mount

    (spec.host_folder / "passwd").write_text(
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        + (f"user:x:{spec.uid}:{spec.uid}:user:/home/user:/bin/bash\n" if spec.uid else "")
    )
    (spec.host_folder / "group").write_text(
        "root:x:0:\n" + (f"user:x:{spec.uid}:\n" if spec.uid else "")
    )
    read_only: dict[str, Path] = {GUEST_INSIDE: GUEST, HOST_INSIDE: spec.host_folder}
    if not spec.config.root:  # packages add users of their own
        for name in ("passwd", "group"):
            (spec.host_folder / name).chmod(0o644)
            read_only[f"/etc/{name}"] = spec.host_folder / name
    read_only |= spec.mounts
    mounts = [Mount(inside, str(p), type="bind", read_only=True) for inside, p in read_only.items()]
    for given in parse(spec.config.mounts):
        closed = not given.writable
        mounts.append(Mount(given.target, str(given.source), type="bind", read_only=closed))
    return mounts
