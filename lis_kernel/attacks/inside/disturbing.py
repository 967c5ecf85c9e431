"""Attempts at a neighbour's processes, and at what it will read or needs: its modules, its disk.

The host asks the neighbour afterwards what happened. Registered by `neighbours.py`.
"""

from __future__ import annotations

import contextlib
import glob
import os
import resource
import signal
import site
import sysconfig

from .driver import Facts, Refused, Skip, attempt, syscall
from .plant import name_of
from .words import first

PROCESSES = "pid namespace: its processes are its own"
PIECE = 1 << 20
FILLING = 256
"""At most so many MiB are written; the limit of the attacked sandbox is below."""


def bait(facts: Facts, number: int) -> int:
    """The host's process id of a bait. Raises: Refused: here it is nobody's, or another's."""
    pid = int(facts["baits"][number])
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        if facts["tag"].encode() in file.read():
            return pid
    raise Refused(f"process {pid} is not the neighbour's here", PROCESSES)


# -- processes -------------------------------------------------------------------------------------


@attempt
def read_the_neighbours_environment(facts: Facts) -> str:
    with open(f"/proc/{bait(facts, 0)}/environ", encoding="utf-8") as file:
        return file.read()


@attempt
def search_for_the_neighbours_processes(facts: Facts) -> str:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if name_of(facts["tag"]).encode() in (said := file.read()):
                return said.replace(b"\0", b" ").decode()
    raise Refused(f"{len(pids)} processes, none of the neighbour's", PROCESSES)


@attempt
def read_through_the_neighbours_root(facts: Facts) -> str:
    pid, name = bait(facts, 0), name_of(facts["tag"])
    places = [f"/proc/{pid}/root/tmp/{name}", f"/proc/{pid}/cwd/{name}"]

    def read(path: str) -> str:
        with open(path, encoding="utf-8") as file:
            return file.read()

    return first([lambda p=p: read(p) for p in places], PROCESSES)  # type: ignore[misc]


@attempt
def read_the_neighbours_memory(facts: Facts) -> str:
    with open(f"/proc/{bait(facts, 0)}/mem", "rb"):
        return "opened /proc/PID/mem"


@attempt
def trace_the_neighbour(facts: Facts) -> str:
    seize = 0x4206
    syscall((101, 117), seize, bait(facts, 0), 0, 0)
    return "ptrace attached"


@attempt
def enter_the_neighbours_namespaces(facts: Facts) -> str:
    pid = bait(facts, 0)
    for name in ("mnt", "net", "ipc"):
        fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
        syscall((308, 268), fd, 0)
    return "setns"


@attempt
def slow_the_neighbour(facts: Facts) -> str:
    os.setpriority(os.PRIO_PROCESS, facts["baits"][0], 19)
    return "setpriority"


@attempt
def limit_the_neighbour(facts: Facts) -> str:
    resource.prlimit(facts["baits"][0], resource.RLIMIT_NOFILE, (8, 8))
    return "prlimit"


@attempt
def signal_the_neighbour(facts: Facts) -> str:
    os.kill(facts["baits"][1], signal.SIGTERM)
    return "kill"


@attempt
def signal_by_descriptor(facts: Facts) -> str:
    fd = syscall((434, 434), facts["baits"][2], 0)
    syscall((424, 424), fd, int(signal.SIGTERM), None, 0)
    return "pidfd_send_signal"


@attempt
def signal_the_neighbours_group(facts: Facts) -> str:
    os.killpg(facts["baits"][3], signal.SIGTERM)
    return "killpg"


@attempt
def open_the_neighbours_control_group(facts: Facts) -> str:
    """Who may write there can stop it or take its memory; it is opened, and nothing is written."""
    places = [f"{folder}/cgroup.procs" for folder in facts["cgroups"]]

    def try_to(path: str) -> str:
        os.close(os.open(path, os.O_WRONLY))
        return f"{path} opens for writing"

    if facts["canary"] and (os.getuid() != 0 or not any(map(os.path.isfile, places))):
        raise Skip("only root could show it, with control groups mounted")
    wall = "no control groups are mounted, or read-only"
    return first([lambda p=p: try_to(p) for p in places], wall)  # type: ignore[misc]


# -- what the neighbour will read ------------------------------------------------------------------


@attempt
def write_into_the_neighbours_testbed(facts: Facts) -> str:
    name = name_of(facts["tag"]) + ".mark"
    return _leave(facts["folders"]["testbed"][1:], name, "mount namespace: its folders are its own")


@attempt
def leave_a_module_in_site_packages(facts: Facts) -> str:
    """The packages of the image, which all sandboxes share."""
    return _module(facts, "site_packages", [sysconfig.get_path("purelib"), *site.getsitepackages()])


@attempt
def leave_a_module_in_the_users_site(facts: Facts) -> str:
    """Where `pip install --user` puts it, and where pip puts it in a sandbox."""
    folders = [
        site.getusersitepackages(),
        *glob.glob(os.path.expanduser("~/.*/lib/python3*/site*")),
    ]
    return _module(facts, "the_users_site", folders)


@attempt
def leave_a_module_in_the_standard_library(facts: Facts) -> str:
    return _module(facts, "the_standard_library", [sysconfig.get_path("stdlib")])


@attempt
def leave_a_file_in_tmp(facts: Facts) -> str:
    return _leave(["/tmp", "/var/tmp"], name_of(facts["tag"]) + ".drop", "a /tmp of its own")


def _module(facts: Facts, place: str, folders: list[str]) -> str:
    name = f"lis_attack_{facts['tag']}_{place}.py"
    wall = "read-only image; a home of its own"
    if facts["canary"]:  # nothing is put among the user's own modules
        return _leave([facts["shared"]], name, wall)
    for folder in folders:
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
    return _leave(folders, name, wall)


def _leave(folders: list[str], name: str, wall: str) -> str:
    """Write a file; whether the neighbour comes upon it, only the neighbour knows."""
    left, last = 0, ""
    for folder in folders:
        try:
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write("FOUND = True\n")
            left += 1
        except OSError as error:
            last = str(error)
    raise Refused(f"left in {left} places; {last}" if last else f"left in {left} places", wall)


@attempt
def fill_the_neighbours_disk(facts: Facts) -> str:
    """By its own path, else by filling ours, should there be one disk for both."""
    for folder in facts["folders"]["testbed"][1:]:
        with contextlib.suppress(OSError):
            with open(os.path.join(folder, name_of(facts["tag"]) + ".filling"), "wb") as file:
                file.write(bytes(8 * PIECE))
            return "8 MiB were written"
    written = 0
    if not facts["canary"]:
        for folder in ("/tmp", "/testbed", os.path.expanduser("~"), "/dev/shm"):
            with contextlib.suppress(OSError), open(f"{folder}/filling", "wb") as file:
                while written < FILLING:
                    file.write(bytes(PIECE))
                    written += 1
    raise Refused(f"our own disk is full with {written} MiB", "a disk of its own, of a fixed size")
