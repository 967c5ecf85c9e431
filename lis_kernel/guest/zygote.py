"""Forks sandboxes: `python zygote.py DESCRIPTOR [PACKAGE...]`, inside a bubblewrap jail.

It imports what every kernel needs, and then forks for each request that the warden on the host
passes on (`sandbox/warden.py`). A request is a socket to the sandbox's owner. The fork is PID 1 of
namespaces of its own (`nest.py`), goes into the control group that the owner opened, and serves the
owner to the sandbox's end (`pid1.py`); its forks are the kernels (`boot.py`). One fork is always
there before it is asked for. Another kind makes the view of a live branch in namespaces that the
owner holds. A zygote has no thread, no secret and no socket but the warden's, which no fork keeps.
Once it is not busy, a second generation of it rehearses what kernels do first, while the first one
serves; then it takes over.
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
REST_SECONDS = 0.01
"""Without a request, after which a fork is laid up: it shall not be in the last one's way."""
VIEW = b'{"view"'
"""A request that begins so is not for a sandbox."""


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
    first = Nursery(warden, held)
    first.fork_until(lambda: not readable([warden], QUIET_SECONDS))
    heard, said = os.pipe()
    if not os.fork():
        first.let_spare_go()
        os.close(heard)
        rehearsed(boot)
        os.write(said, b"1")
        os.close(said)
        Nursery(warden, held).fork_until(lambda: not readable([warden]))
    os.close(said)
    first.held.append(heard)
    first.fork_until(lambda: heard in readable([warden, heard]))
    if os.read(heard, 1):
        os._exit(0)
    first.held.remove(heard)
    os.close(heard)  # the second generation failed, as the log says
    first.fork_until(lambda: not readable([warden]))


def rehearsed(boot):
    try:
        boot.rehearse()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def readable(descriptors, seconds=None):
    return select.select(descriptors, [], [], seconds)[0]


class Nursery:
    """Forks for the owners that the warden tells of. `held` is a descriptor that no fork keeps."""

    def __init__(self, warden, held):
        self.warden, self.held = warden, [held]
        self.spare = None

    def fork_until(self, over):
        """Fork for each request, until `over` says so. Exits if the warden is gone."""
        self.lay_up()
        while not over():
            try:
                message, owners, _, _ = socket.recv_fds(self.warden, 16, 1, socket.MSG_DONTWAIT)
            except BlockingIOError:  # the other generation was quicker
                continue
            if not message:
                os._exit(0)
            for fd in owners:
                with socket.socket(fileno=fd) as owner:
                    try:
                        self.fork(owner)
                    except OSError as error:
                        refuse(owner, error)
            if not readable([self.warden], REST_SECONDS):
                self.lay_up()

    def fork(self, owner):
        from guest import nest

        if owner.recv(len(VIEW), socket.MSG_PEEK | socket.MSG_DONTWAIT) == VIEW:
            if not os.fork():
                self.close()
                change_view(owner)
        elif not self.hand_to_spare(owner) and not nest.fork_apart():
            self.close()
            become_sandbox(lambda: owner)

    def lay_up(self):
        """Have a fork in reserve; without one, a request takes the time that it takes to fork."""
        from guest import nest

        if self.spare is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                if not nest.fork_apart():
                    ours.close()
                    self.close()
                    become_sandbox(lambda: hear_of_owner(theirs))
                self.spare = ours
            except OSError:
                ours.close()

    def hand_to_spare(self, owner):
        """Let the fork in reserve be the owner's; False if there is none."""
        spare, self.spare = self.spare, None
        if spare is None:
            return False
        with spare:
            try:
                socket.send_fds(spare, [b"owner"], [owner.fileno()])
            except OSError:  # it has ended
                return False
        return True

    def close(self):
        """What a fork does first."""
        self.warden.close()
        for fd in self.held:
            os.close(fd)
        self.let_spare_go()

    def let_spare_go(self):
        """Close our end: a fork in reserve ends with the last one that could hand it over."""
        if self.spare is not None:
            self.spare.close()
            self.spare = None


def hear_of_owner(reserve):
    with reserve:
        _, owners, _, _ = socket.recv_fds(reserve, 16, 1)
    if not owners:  # the zygote has ended
        os._exit(0)
    return socket.socket(fileno=owners[0])


def refuse(owner, error):
    kind = "refused" if isinstance(error, Refused) else "error"
    try:
        owner.send(json.dumps({kind: f"{type(error).__name__}: {error}"}).encode())
    except OSError:
        pass  # it is gone


def prove():
    """Make a sandbox and let it go. Raises RuntimeError: namespaces do not nest here."""
    from guest import nest

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if not nest.fork_apart():
            ours.close()
            become_sandbox(lambda: theirs)
    except OSError as error:
        raise RuntimeError(f"namespaces do not nest here: {error}") from error
    theirs.close()
    wanted = {"groups": 0, "disk_bytes": 1 << 20, "inodes": 64, "places": {"testbed": "/testbed"}}
    wanted |= {"files": [], "links": {}, "landlock": None, "seccomp": {}, "seconds": None}
    with ours:
        ours.send(json.dumps(wanted).encode())
        said = json.loads(ours.recv(REQUEST_BYTES) or b"{}")
    if said.get("did") != "build":
        raise RuntimeError(f"namespaces do not nest here: {said.get('error', 'it ended')}")


def become_sandbox(wait_for_owner):
    """In a fork apart: mounts, locks; then PID 1 until its end. Never returns.

    `wait_for_owner` gives the socket to the owner.
    """
    from guest import nest, pid1

    owner = None
    try:
        nest.settle()
        retitle("fork in reserve")
        owner = wait_for_owner()
        wanted, given = hear(owner)
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
        end(owner, error)
    retitle("init of a sandbox")
    seconds = wanted["seconds"]
    ends = None if seconds is None else time.monotonic() + seconds
    pid1.serve(owner, run_kernel, ends)


def hear(owner):
    """What the owner wants, once we are in the control groups that it opened; descriptors."""
    message, given, _, _ = socket.recv_fds(owner, REQUEST_BYTES, MAX_FILES)
    if not message:
        os._exit(0)
    wanted = json.loads(message)
    enter(given[: wanted["groups"]])
    return wanted, given[wanted["groups"] :]


def end(owner, error):
    """The end of a fork that cannot go on; it never goes on as a zygote."""
    try:
        if owner is None:
            traceback.print_exception(error)
        else:
            refuse(owner, error)
    finally:
        os._exit(1)


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


def change_view(owner):
    """In a fork: make a branch's view in a sandbox's namespaces, or end it. Never returns."""
    try:
        wanted, given = hear(owner)
        made = view(*given, **wanted["view"])
        socket.send_fds(owner, [b'{"did": "view"}'], made)
    except BaseException as error:
        end(owner, error)
    os._exit(0)


def view(user, mounts, source=None, *, number, make=None, copied=()):
    """The disk of the view, open; none if it is removed."""
    from guest import nest

    nest.enter(user, mounts)
    if make is None:
        nest.remove_view(number)
        return []
    disk = nest.make_view(mounts, number, **make)
    nest.drop({nest.CAP_DAC_OVERRIDE})
    copy(source, disk, copied)
    return [disk]


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
