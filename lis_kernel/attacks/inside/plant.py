"""The neighbour: runs in the second sandbox's kernel, plants things to steal, and tells what became
of them.

Everything carries the tag in its name and the word in its content. `plant` at the beginning,
`report` after the attempts, `uproot` at the end: without walls (the canary) some of it would stay
in the host's own tables, where `remove` finds it also without this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

from .driver import LIBC, syscall

BAITS = 4
CREATE, ALL, REMOVE = 0o1000, 0o666, 0
PAGE = 4096
USER_KEYRING = -4
TRIED = 1 << 20
"""Bytes that the neighbour writes to see whether its disk has room."""

STATE: dict[str, Any] = {"owned": False}
"""What the neighbour holds; `owned` is set by whoever runs code in its kernel."""

LIBC.shmat.restype = ctypes.c_void_p
LIBC.sem_open.restype = ctypes.c_void_p


def name_of(tag: str) -> str:
    return f"lis-neighbour-{tag}"


def key_of(tag: str) -> int:
    """Of the System V objects."""
    return int(tag[:7], 16)


def plant(facts: dict[str, Any]) -> dict[str, Any]:
    """Put everything in place.

    Returns what the attacker may know of it, and which parts could not be planted, with the reason.
    """
    tag, word = facts["tag"], facts["word"]
    STATE.update(facts, missing={}, name=name_of(tag))
    STATE["home"] = facts["home"] or os.path.expanduser("~")
    sys.path += facts["shared"]
    for folder in (".", "/tmp", STATE["home"]):
        with open(os.path.join(folder, STATE["name"]), "w", encoding="utf-8") as file:
            file.write(word)
    for part in (_baits, _listen, _pipe, _memory, _semaphore, _system_v, _queue, _key):
        try:
            part(tag, word)
        except OSError as error:
            STATE["missing"][part.__name__.strip("_")] = str(error)
    STATE["free"] = _free()
    return {"port": STATE.get("port"), "missing": STATE["missing"]}


def _baits(tag: str, word: str) -> None:
    """Processes to be read and to be signalled, each the leader of its group."""
    code = "import time; time.sleep(120)"
    STATE["baits"] = [
        subprocess.Popen(
            [sys.executable, "-ISc", code, STATE["name"], f"bait{n}", word],
            env={"LIS_NEIGHBOUR": word},
            start_new_session=True,
        )
        for n in range(BAITS)
    ]


def _listen(tag: str, word: str) -> None:
    """TCP on the loopback, and a unix socket without a file: both say the word."""
    inet, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    inet.bind(("127.0.0.1", 0))
    unix.bind("\0" + STATE["name"])
    STATE["port"] = inet.getsockname()[1]
    STATE["listening"] = (inet, unix)
    for sock in (inet, unix):
        sock.listen(8)
        threading.Thread(target=_say, args=(sock, word.encode()), daemon=True).start()


def _say(sock: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            with sock.accept()[0] as made:
                made.sendall(word)


def _pipe(tag: str, word: str) -> None:
    path = f"/tmp/{STATE['name']}.pipe"
    os.mkfifo(path)
    STATE["pipe"] = os.open(path, os.O_RDWR)
    os.write(STATE["pipe"], word.encode())


def _memory(tag: str, word: str) -> None:
    fd = LIBC.shm_open(f"/{STATE['name']}".encode(), os.O_CREAT | os.O_RDWR, ALL)
    _check(fd)
    os.write(fd, word.encode())
    os.close(fd)


def _semaphore(tag: str, word: str) -> None:
    STATE["semaphore"] = LIBC.sem_open(f"/{STATE['name']}".encode(), os.O_CREAT, ALL, 0)


def _system_v(tag: str, word: str) -> None:
    key = key_of(tag)
    STATE["system_v"] = (
        _check(LIBC.shmget(key, PAGE, CREATE | ALL)),
        _check(LIBC.semget(key, 1, CREATE | ALL)),
        _check(LIBC.msgget(key, CREATE | ALL)),
    )
    address = LIBC.shmat(STATE["system_v"][0], None, 0)
    ctypes.memmove(address, word.encode(), len(word))
    LIBC.shmdt(ctypes.c_void_p(address))
    message = struct.pack("l", 1) + word.encode()
    _check(LIBC.msgsnd(STATE["system_v"][2], message, len(word), 0))


def _queue(tag: str, word: str) -> None:
    queue = _check(LIBC.mq_open(f"/{STATE['name']}".encode(), os.O_CREAT | os.O_RDWR, ALL, None))
    STATE["queue"] = queue
    _check(LIBC.mq_send(queue, word.encode(), len(word), 1))


def _key(tag: str, word: str) -> None:
    STATE["key"] = keep_key(tag, word)


def keep_key(tag: str, word: str) -> int:
    """A key in the keyring of the user, which all processes of one uid share; its number.

    Raises: OSError: the sandbox, or the machine, lets nobody have one.
    """
    text, ring = word.encode(), ctypes.c_long(USER_KEYRING)
    key = syscall((248, 217), b"user", name_of(tag).encode(), text, len(text), ring)
    set_permissions, set_timeout, possessor_and_user = 5, 15, 0x3F3F0000
    syscall((250, 219), set_permissions, key, possessor_and_user)
    syscall((250, 219), set_timeout, key, 120)
    return key


def drop_key(key: int) -> None:
    unlink = 9
    with contextlib.suppress(OSError):
        syscall((250, 219), unlink, key, ctypes.c_long(USER_KEYRING))


def _check(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _free() -> int:
    info = os.statvfs(".")
    return info.f_bavail * info.f_frsize


# -- afterwards ------------------------------------------------------------------------------------


def report() -> dict[str, Any]:
    """What became of it: name of the attempt → what it did, for those that only we can see."""
    found: dict[str, str] = {}
    if STATE["owned"]:
        found["run_code_in_the_neighbours_kernel"] = "it set a variable in the neighbour's kernel"
    if STATE["name"] + ".mark" in os.listdir("."):
        found["write_into_the_neighbours_testbed"] = "the neighbour has a new file"
    if STATE["name"] + ".filling" in os.listdir("."):
        found["fill_the_neighbours_disk"] = "bytes that it wrote lie on the neighbour's disk"
    elif not _has_room():
        found["fill_the_neighbours_disk"] = "the neighbour's disk has no room any more"
    if STATE.get("semaphore"):
        value = ctypes.c_int()
        LIBC.sem_getvalue(ctypes.c_void_p(STATE["semaphore"]), ctypes.byref(value))
        if value.value:
            found["post_a_named_semaphore"] = "the neighbour's semaphore was posted"
    get_value = 12
    if "system_v" in STATE and LIBC.semctl(STATE["system_v"][1], 0, get_value) > 0:
        found["raise_a_system_v_semaphore"] = "the neighbour's semaphore was raised"
    names = ("signal_the_neighbour", "signal_by_descriptor", "signal_the_neighbours_group")
    for bait, name in zip(STATE["baits"][1:], names, strict=True):
        if bait.poll() is not None:
            found[name] = "a process of the neighbour ended"
    first = STATE["baits"][0].pid
    if os.getpriority(os.PRIO_PROCESS, first) == 19:
        found["slow_the_neighbour"] = "a process of the neighbour has the lowest priority"
    if resource.prlimit(first, resource.RLIMIT_NOFILE)[1] == 8:
        found["limit_the_neighbour"] = "a process of the neighbour may open 8 files"
    importlib.invalidate_caches()
    for place in ("site_packages", "the_users_site", "the_standard_library"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"lis_attack_{STATE['tag']}_{place}")
            found[f"leave_a_module_in_{place}"] = "the neighbour imported it"
    if os.path.exists(f"/tmp/{STATE['name']}.drop"):
        found["leave_a_file_in_tmp"] = "the neighbour finds it"
    return found


def _has_room() -> bool:
    path = STATE["name"] + ".room"
    try:
        with open(path, "wb") as file:
            file.write(bytes(TRIED))
        return int(STATE["free"]) - _free() < 8 * TRIED
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def uproot() -> None:
    """Take everything away again."""
    for bait in STATE.get("baits", ()):
        bait.kill()
        bait.wait()
    for sock in STATE.get("listening", ()):
        sock.close()
    if "key" in STATE:
        drop_key(STATE["key"])
    for folder in (".", STATE["home"]):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, STATE["name"]))
    remove(STATE["tag"])


def remove(tag: str) -> None:
    """What outlives a process, in the namespaces of the caller."""
    name = name_of(tag)
    for path in (f"/tmp/{name}", f"/tmp/{name}.pipe", f"/tmp/{name}.drop"):
        with contextlib.suppress(OSError):
            os.unlink(path)
    LIBC.shm_unlink(f"/{name}".encode())
    LIBC.sem_unlink(f"/{name}".encode())
    LIBC.mq_unlink(f"/{name}".encode())
    key = key_of(tag)
    LIBC.shmctl(LIBC.shmget(key, 0, 0), REMOVE, None)
    LIBC.semctl(LIBC.semget(key, 0, 0), 0, REMOVE)
    LIBC.msgctl(LIBC.msgget(key, 0), REMOVE, None)
