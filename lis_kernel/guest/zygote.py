"""Forks sandboxes: `python zygote.py DESCRIPTOR [PACKAGE...]`, inside a bubblewrap jail.

It imports what every kernel needs, and then forks for each request that the warden on the host
passes on (`sandbox/warden.py`). A request is a socket to the sandbox's owner. The fork goes into
the control group that the owner opened, leaves for namespaces of its own (`nest.py`), and becomes
their PID 1 (`pid1.py`), whose forks are the kernels (`boot.py`); or it makes the view of a live
branch in namespaces that the owner holds. A zygote has no thread, no secret and no socket but the
warden's, which no fork keeps. Once it is not busy, a second generation of it rehearses what kernels
do first, while the first one serves; then it takes over.
"""

import atexit
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback

REQUEST_BYTES = 1 << 17
MAX_FILES = 8
QUIET_SECONDS = 0.3


class Refused(Exception):
    """There can be no sandbox for this owner here."""


def main(warden, packages):
    """The jail's own process: as long as there is a zygote, whichever generation."""
    alive, held = os.pipe()
    if not os.fork():
        os.close(alive)
        serve(warden, packages, held)
    warden.close()
    os.close(held)
    os.read(alive, 1)


def serve(warden, packages, held):
    """The first generation; never returns. `held` is kept open by all of them."""
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from guest import boot

    boot.preload(packages)
    for name in ("duplicate", "filter", "landlock", "nest", "network", "pid1"):
        importlib.import_module(f"guest.{name}")  # the forks shall find it there
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        prove()
    except Exception as error:
        warden.send(str(error).encode())
        os._exit(1)
    warden.send(b"ready")
    fork_until(lambda: not readable([warden], QUIET_SECONDS), warden, [held])
    heard, said = os.pipe()
    if not os.fork():
        os.close(heard)
        rehearsed(boot)
        os.write(said, b"1")
        os.close(said)
        fork_until(lambda: not readable([warden]), warden, [held])
    os.close(said)
    fork_until(lambda: heard in readable([warden, heard]), warden, [held, heard])
    if os.read(heard, 1):
        os._exit(0)
    os.close(heard)  # the second generation failed, as the log says
    fork_until(lambda: not readable([warden]), warden, [held])


def rehearsed(boot):
    try:
        boot.rehearse()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def readable(descriptors, seconds=None):
    return select.select(descriptors, [], [], seconds)[0]


def fork_until(over, warden, held):
    """Fork a sandbox for each request, until `over` says so. Exits if the warden is gone.

    `held` are descriptors that no fork keeps.
    """
    while not over():
        try:
            message, descriptors, _, _ = socket.recv_fds(warden, 16, 1, socket.MSG_DONTWAIT)
        except BlockingIOError:  # the other generation was quicker
            continue
        if not message:
            os._exit(0)
        for owner in descriptors:
            try:
                if not os.fork():
                    warden.close()
                    for fd in held:
                        os.close(fd)
                    become_sandbox(socket.socket(fileno=owner))
            except OSError:
                pass  # the owner sees the socket's end
            finally:
                os.close(owner)


def prove():
    """Make a sandbox and let it go. Raises OSError, RuntimeError: namespaces do not nest here."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        become_sandbox(theirs)
    theirs.close()
    wanted = {"groups": 0, "disk_bytes": 1 << 20, "inodes": 64, "places": {"testbed": "/testbed"}}
    wanted |= {"files": [], "links": {}, "landlock": None, "seccomp": {}, "seconds": None}
    with ours:
        ours.send(json.dumps(wanted).encode())
        said = json.loads(ours.recv(REQUEST_BYTES) or b"{}")
    if said.get("did") != "build":
        raise RuntimeError(f"namespaces do not nest here: {said.get('error', 'it ended')}")


def become_sandbox(owner):
    """In a fork: namespaces, mounts, locks; then PID 1 until its end. Never returns."""
    from guest import nest, pid1

    try:
        message, given, _, _ = socket.recv_fds(owner, REQUEST_BYTES, MAX_FILES)
        if not message:
            os._exit(0)
        wanted = json.loads(message)
        doors, given = given[: wanted["groups"]], given[wanted["groups"] :]
        if "view" in wanted:
            change_view(owner, doors, given, **wanted["view"])
        enter(doors)
        nest.unshare()
        if os.fork():
            os._exit(0)
        source = given.pop() if wanted.get("copied") else None
        branches = wanted.get("branches", False)
        files = dict(zip(wanted["files"], given, strict=True))
        disk = nest.build(wanted["disk_bytes"], wanted["inodes"], wanted["places"], files, branches)
        keep = {nest.CAP_SYS_CHROOT} if branches else set()
        if source is not None:
            nest.drop({nest.CAP_DAC_OVERRIDE, *keep})
            copy(source, disk, wanted["copied"])
            os.close(source)
        told = [disk]
        if branches:  # for whoever makes the views: none but the owner can ask for one
            told += [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("user", "mnt")]
        nest.lock(wanted["landlock"], wanted["seccomp"], keep)
        if source is None:
            furnish(wanted["links"])
        socket.send_fds(owner, [b'{"did": "build"}'], told)
        for fd in told:
            os.close(fd)
    except BaseException as error:
        kind = "refused" if isinstance(error, Refused) else "error"
        try:
            owner.send(json.dumps({kind: f"{type(error).__name__}: {error}"}).encode())
        finally:  # the owner may be gone; a fork never goes on as a zygote
            os._exit(1)
    retitle("init of a sandbox")
    seconds = wanted["seconds"]
    ends = None if seconds is None else time.monotonic() + seconds
    pid1.serve(owner, run_kernel, ends)


def copy(source, target, names):
    """Fill folders of the disk `target` from another's; as its owner, to whom a file may be closed.

    It needs CAP_DAC_OVERRIDE for that, and nothing more.
    """
    from guest import duplicate

    for name in names:
        flags = duplicate.FLAGS | os.O_DIRECTORY
        with (
            duplicate.opened(name, flags, source) as old,
            duplicate.opened(name, flags, target) as new,
        ):
            duplicate.folder(old, new)


def change_view(owner, doors, given, number, make=None, copied=()):
    """In a fork: make a branch's view in the namespaces `given`, or end it. Never returns."""
    from guest import nest

    user, mounts, *source = given
    nest.enter(user, mounts)
    if make is None:
        nest.remove_view(number)
        owner.send(b'{"did": "view"}')
    else:
        enter(doors)
        disk = nest.make_view(mounts, number, **make)
        nest.drop({nest.CAP_DAC_OVERRIDE})
        copy(source[0], disk, copied)
        socket.send_fds(owner, [b'{"did": "build"}'], [disk])
    os._exit(0)


def furnish(links):
    """The folders and links that a sandbox begins with."""
    for name in ("input", "documents", "output"):
        os.mkdir(f"/testbed/{name}", 0o700)
    for name, target in links.items():
        os.makedirs(os.path.dirname(name), 0o700, exist_ok=True)
        os.symlink(target, name)


def enter(doors):
    """Go into the control groups whose files the owner has opened for us."""
    try:
        for fd in doors:
            os.write(fd, b"0")
            os.close(fd)
    except OSError as error:
        # we were started from a session that the owner's may not touch
        raise Refused(f"its control group cannot be entered: {error}") from error


def run_kernel(request):
    """In a fork of PID 1: the kernel, and what its program asked to be called at its end."""
    from guest import boot

    retitle("kernel")
    boot.run(request["boot"])
    atexit._run_exitfuncs()


def retitle(text):
    """What `ps` shows of this process, instead of the zygote's command line."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, 48 and 49 in proc(5)
    if 0 < end - start < 4096:
        title = f"lis: {text}".encode()[: end - start - 1]
        ctypes.memmove(start, title.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
