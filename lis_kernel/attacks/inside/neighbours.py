"""Attempts at another sandbox of the same owner: its files, its kernel, its objects in memory.

They know more than an attacker would: names, host paths, process ids, the kernel's key; not the
word, which lies in everything that is to be stolen. What ends processes or fills disks is in
`disturbing.py`. Not tried, and not prevented: covert channels, by which two sandboxes that both
want to could talk (locks on a read-only file that both see, load, timing).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct

from .driver import LIBC, Facts, Refused, Skip, attempt, syscall
from .paths import connect_to_any
from .plant import PAGE, USER_KEYRING, key_of, name_of
from .words import SECONDS, first, word

ALSO = ("disturbing", "forking")

MOUNTS = "mount namespace: its folders are its own"
MEMORY = "ipc namespace: its objects are its own"
ADDRESSES = "network namespace: its sockets are its own"


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 1000).decode("utf-8", "replace")
    finally:
        os.close(fd)


def in_folder(facts: Facts, folder: str, name: str) -> str:
    """The content of a file of the neighbour's, by its name inside and by the host's paths."""
    places = [f"{place}/{name}" for place in facts["folders"][folder]]
    return first([lambda p=p: read(p) for p in places], MOUNTS)  # type: ignore[misc]


# -- files -----------------------------------------------------------------------------------------


@attempt
def read_the_neighbours_testbed(facts: Facts) -> str:
    return in_folder(facts, "testbed", name_of(facts["tag"]))


@attempt
def read_the_neighbours_tmp(facts: Facts) -> str:
    return in_folder(facts, "tmp", name_of(facts["tag"]))


@attempt
def read_the_neighbours_home(facts: Facts) -> str:
    return in_folder(facts, "home", name_of(facts["tag"]))


@attempt
def read_the_neighbours_pipe(facts: Facts) -> str:
    return in_folder(facts, "tmp", name_of(facts["tag"]) + ".pipe")


@attempt
def list_the_neighbours_folder(facts: Facts) -> str:
    """By the path that the host has for it."""
    return f"{len(os.listdir(facts['root']))} entries"


@attempt
def search_for_the_neighbours_files(facts: Facts) -> str:
    looked = 0
    for root in facts["search"]:
        for folder, folders, names in os.walk(root):
            if folder in ("/proc", "/sys", "/usr"):
                folders.clear()
            looked += len(names)
            for name in names:
                if facts["tag"] in name:
                    with contextlib.suppress(OSError):
                        return read(os.path.join(folder, name))
    raise Refused(f"{looked} files, none of the neighbour's", MOUNTS)


# -- the kernel ------------------------------------------------------------------------------------


@attempt
def run_code_in_the_neighbours_kernel(facts: Facts) -> str:
    """Its sockets by the host's path, and its key as well: then it only has to be reached."""
    info = facts["kernel"]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS)
        sock.connect(f"{info['ip']}-{info['shell_port']}")
    from jupyter_client.blocking.client import BlockingKernelClient  # here the wall is behind us

    client = BlockingKernelClient()
    client.load_connection_info(info)
    client.start_channels()
    client.wait_for_ready(timeout=5)
    client.execute("import sys; sys.modules['inside.plant'].STATE['owned'] = True", reply=True)
    return "the kernel answered"


@attempt
def search_for_the_neighbours_kernel(facts: Facts) -> str:
    """Every socket in the file system that is not our own kernel's."""
    return connect_to_any(facts["socket_search"], facts["own_run"], MOUNTS)


# -- the network -----------------------------------------------------------------------------------


@attempt
def connect_to_the_neighbours_port(facts: Facts) -> str:
    with socket.socket() as sock:
        sock.settimeout(SECONDS)
        sock.connect(("127.0.0.1", facts["port"]))
        return sock.recv(1000).decode()


@attempt
def see_the_neighbours_port(facts: Facts) -> str:
    with open("/proc/net/tcp", encoding="ascii") as file:
        if f":{facts['port']:04X} " in file.read():
            return "/proc/net/tcp shows the neighbour's listener"
    raise Refused("not in /proc/net/tcp", ADDRESSES)


@attempt
def connect_to_the_neighbours_abstract_socket(facts: Facts) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS)
        try:
            sock.connect("\0" + name_of(facts["tag"]))
        except ConnectionRefusedError as error:
            raise Refused(str(error), ADDRESSES) from error
        return sock.recv(1000).decode()


@attempt
def see_the_neighbours_abstract_socket(facts: Facts) -> str:
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        if name_of(facts["tag"]) in file.read():
            return "/proc/net/unix shows the neighbour's socket"
    raise Refused("not in /proc/net/unix", ADDRESSES)


@attempt
def use_the_neighbours_way_out(facts: Facts) -> str:
    """Its allow-list has a host of which ours knows nothing; the host listens there."""
    if not facts["proxy"]:
        raise Skip("the neighbour could have no allow-list: " + facts["no_proxy"])
    host = f"127.0.0.1:{facts['places']['tcp_loopback'][1]}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS)
        sock.connect(facts["proxy"])
        request = f"GET http://{host}/{word(facts).decode()} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        sock.sendall(request.encode())
        return sock.recv(1000).decode("latin-1")


# -- objects in memory -----------------------------------------------------------------------------


def checked(result: int, wall: str = MEMORY) -> int:
    """Raises: Refused: with the errno and `wall`."""
    if result == -1:
        number = ctypes.get_errno()
        raise Refused(os.strerror(number), wall)
    return result


@attempt
def read_shared_memory_by_its_name(facts: Facts) -> str:
    path = f"/{name_of(facts['tag'])}".encode()
    fd = checked(LIBC.shm_open(path, os.O_RDWR, 0), "mount namespace: /dev/shm is its own")
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, 1000).decode()


@attempt
def list_shared_memory(facts: Facts) -> str:
    names = os.listdir("/dev/shm")
    if any(facts["tag"] in name for name in names):
        return "/dev/shm shows the neighbour's"
    raise Refused(f"{len(names)} names, none of them", "mount namespace: /dev/shm is its own")


@attempt
def post_a_named_semaphore(facts: Facts) -> str:
    LIBC.sem_open.restype = ctypes.c_void_p
    semaphore = LIBC.sem_open(f"/{name_of(facts['tag'])}".encode(), 0)
    if not semaphore:
        raise Refused(os.strerror(ctypes.get_errno()), "mount namespace: /dev/shm is its own")
    LIBC.sem_post(ctypes.c_void_p(semaphore))
    return "posted"


@attempt
def read_system_v_memory(facts: Facts) -> str:
    number = checked(LIBC.shmget(key_of(facts["tag"]), 0, 0))
    LIBC.shmat.restype = ctypes.c_void_p
    return ctypes.string_at(LIBC.shmat(number, None, 0), PAGE).split(b"\0")[0].decode()


@attempt
def raise_a_system_v_semaphore(facts: Facts) -> str:
    number = checked(LIBC.semget(key_of(facts["tag"]), 0, 0))
    up = struct.pack("Hhh", 0, 1, 0)
    checked(LIBC.semop(number, up, 1))
    return "raised"


@attempt
def take_a_system_v_message(facts: Facts) -> str:
    number = checked(LIBC.msgget(key_of(facts["tag"]), 0))
    buffer, no_wait = ctypes.create_string_buffer(1008), 0o4000
    size = checked(LIBC.msgrcv(number, buffer, 1000, ctypes.c_long(0), no_wait))
    return buffer.raw[8 : 8 + size].decode()


@attempt
def list_system_v_objects(facts: Facts) -> str:
    key = str(key_of(facts["tag"]))
    for kind in ("shm", "sem", "msg"):
        with open(f"/proc/sysvipc/{kind}", encoding="ascii") as file:
            if any(line.split()[0] == key for line in file):
                return f"/proc/sysvipc/{kind} shows the neighbour's"
    raise Refused("none is listed", MEMORY)


@attempt
def take_a_posix_message(facts: Facts) -> str:
    path = f"/{name_of(facts['tag'])}".encode()
    queue = checked(LIBC.mq_open(path, os.O_RDWR | os.O_NONBLOCK, 0, None))
    buffer = ctypes.create_string_buffer(8192)
    size = checked(LIBC.mq_receive(queue, buffer, 8192, None))
    return buffer.raw[:size].decode()


@attempt
def read_the_neighbours_key(facts: Facts) -> str:
    """In the keyring of the user, which no namespace of files or processes parts."""
    search, read_key, user = 10, 11, ctypes.c_long(USER_KEYRING)
    key = syscall((250, 219), search, user, b"user", name_of(facts["tag"]).encode(), 0)
    buffer = ctypes.create_string_buffer(1000)
    size = syscall((250, 219), read_key, key, buffer, 1000)
    return buffer.raw[:size].decode()


@attempt
def list_keys(facts: Facts) -> str:
    try:
        with open("/proc/keys", encoding="utf-8", errors="replace") as file:
            if name_of(facts["tag"]) in file.read():
                return "/proc/keys shows the neighbour's"
    except OSError as error:
        raise Refused(str(error), "/proc/keys is masked") from error
    raise Refused("not in /proc/keys", "/proc/keys is masked, or shows another uid's keys")
