"""PID 1 of a container: `python -IS pid1.py SOCKET SECONDS`.

The first code of ours that runs in the container, before any of the model's. It hands the host a
descriptor of each writable folder, starts kernels and kills everything else when the host asks,
reaps the dead, and ends when the host's end of the socket closes, or after SECONDS unless that is
empty; with it ends the container. As PID 1 it can be neither killed nor stopped from inside.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time

FOLDERS = ("/testbed", "/tmp", "/home/user", "/opt/lis-guest/run", "/dev/shm")
LIBC = ctypes.CDLL(None)
SET_DUMPABLE = 4
SKELETON = "/opt/lis/share/home"
"""What a home folder begins with: matplotlib's list of fonts costs 1-2 s to make anew."""


def main(path, seconds):
    ends = time.monotonic() + float(seconds) if seconds else None
    LIBC.prctl(SET_DUMPABLE, 0)  # no ptrace by code of the same user
    owner = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner.connect(path)
    for name in ("input", "documents", "output"):
        os.makedirs(f"/testbed/{name}", exist_ok=True)
    copy(SKELETON, "/home/user")
    folders = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in FOLDERS]
    socket.send_fds(owner, [json.dumps({"folders": FOLDERS}).encode()], folders)
    for folder in folders:
        os.close(folder)
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one other signal that Python handles
    kernel = None
    while True:
        left = None if ends is None else max(0, ends - time.monotonic())
        readable, _, _ = select.select([owner, wake], [], [], left)
        if ends is not None and time.monotonic() >= ends:
            os._exit(0)
        if wake in readable:
            os.read(wake, 4096)
        for pid, status in reap():
            if pid == kernel:
                kernel = None
                kill_all()  # what it left behind ends with it, as in every backend
                send(owner, {"exit": os.waitstatus_to_exitcode(status)})
        if owner in readable:
            message, descriptors, _, _ = socket.recv_fds(owner, 65536, 2)
            if not message:
                os._exit(0)
            request = json.loads(message)
            if request["do"] == "kill":
                kill_all()
            else:
                kernel = spawn(request, descriptors)


def kill_all():
    """SIGKILL to all but us, also to what is forked meanwhile."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass


def spawn(request, descriptors):
    """Start the kernel with the two descriptors that the host sent; its pid."""
    pid = os.fork()
    if pid:
        for fd in descriptors:
            os.close(fd)
        return pid
    try:
        log = os.open(request["log"], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        null = os.open("/dev/null", os.O_RDONLY)
        # first out of the way, then to their places 0-4; the host counts on 3 and 4
        moved = [os.dup2(fd, 100 + n) for n, fd in enumerate([null, log, log, *descriptors])]
        for number, fd in enumerate(moved):
            os.dup2(fd, number)
        os.closerange(5, 256)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        LIBC.prctl(SET_DUMPABLE, 1)  # or the next file would not be ours to write
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")  # rather the kernel than us
        os.execve(request["argv"][0], request["argv"], request["env"])
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(127)


def reap():
    """Every child that has ended: pid and status. Orphans become ours and are reaped too."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, status


def send(owner, message):
    try:
        owner.send(json.dumps(message).encode())
    except OSError:
        os._exit(0)


def copy(source, target):
    """Copy a small tree; without shutil, whose import takes longer than the rest of us."""
    for folder, _, names in os.walk(source):
        inside = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(inside, exist_ok=True)
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                data = file.read()
            with open(os.path.join(inside, name), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
