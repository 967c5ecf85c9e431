"""PID 1 of a sandbox: starts kernels and kills everything else when the host asks.

It reaps the dead, and ends when the host's end of the socket closes or its time is over; with it
ends the sandbox. As PID 1 it can be neither killed nor stopped from inside. A container starts it
as a program, `python -IS pid1.py SOCKET SECONDS` (SECONDS may be empty): then it is the first code
of ours in there, and first hands the host a descriptor of each writable folder. A fork of the
zygote calls `serve`.
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
REQUEST_BYTES = 1 << 17
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
    serve(owner, execute, ends)


def serve(owner, start, ends=None):
    """Do what the host asks for over `owner`, to the end; `start` is what a kernel's fork calls.

    `ends` is when the sandbox's time is over, on the monotonic clock.
    """
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
            message, descriptors, _, _ = socket.recv_fds(owner, REQUEST_BYTES, 2)
            if not message:
                os._exit(0)
            request = json.loads(message)
            if request["do"] == "kill":
                kill_all()
            else:
                kernel = spawn(request, descriptors, start)


def kill_all():
    """SIGKILL to all but us, also to what is forked meanwhile."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass


def spawn(request, descriptors, start):
    """Fork a kernel with the descriptors that the host sent, from 3 on; its pid."""
    pid = os.fork()
    if pid:
        for fd in descriptors:
            os.close(fd)
        return pid
    try:
        log = os.open(request["log"], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        null = os.open("/dev/null", os.O_RDONLY)
        # first out of the way, then to their places from 0 on; the host counts on 3 and 4
        moved = [os.dup2(fd, 100 + n) for n, fd in enumerate([null, log, log, *descriptors])]
        for number, fd in enumerate(moved):
            os.dup2(fd, number)
        os.closerange(len(moved), 256)
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        LIBC.prctl(SET_DUMPABLE, 1)  # or the next file would not be ours to write
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")  # rather the kernel than us
        start(request)
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(127)


def execute(request):
    """In a container: become another program."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execve(request["argv"][0], request["argv"], request["env"])


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
