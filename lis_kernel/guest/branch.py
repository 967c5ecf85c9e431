"""Forks the running kernel: the fork is a kernel of its own, with the same names in another place.

`kernel.py` calls `fork` for a message on the shell channel, so no cell runs. The fork goes into the
view of the files that the host has prepared, asks the host there for its control group, and makes
anew whatever a kernel has but the user's names: sockets, threads, streams, event loop. Nothing of
the old kernel's is closed or collected in it, for much of that is shared (an epoll above all).
"""

import asyncio
import atexit
import gc
import json
import os
import random
import signal
import socket
import sys
import traceback

import zmq

DOOR = "/run/lis/branch"
"""The host listens there, in the branch's own files."""
MESSAGE_BYTES = 1 << 16
FORWARDED = ("write", "writelines", "flush", "fileno", "set_parent", "end_cell")
_kept = []
_streams = [], []
"""Earlier standard outputs and errors: the user's code may hold one, in a logger for instance."""


def fork(app, root, view):
    """Make the branch that sees the folder `view`, below the folder `root`, as its root."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    cwd = os.getcwd()
    numbers = random.getstate()  # the fork would begin with others
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        if os.fork():  # so PID 1 is who waits for it, not the user's code
            os._exit(0)
        random.setstate(numbers)
        become(app, root, view, cwd)
    except BaseException:
        with open("/run/lis/kernel.log", "a") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(1)


def become(app, root, view, cwd):
    """In the fork, which has one thread: be the kernel of the branch, to its end."""
    collecting = gc.isenabled()
    gc.disable()  # it writes to every object, and so copies every page
    os.fchdir(root)  # it may itself be in the root folder of a branch
    os.chroot(".")
    os.chroot(view)
    os.chdir("/")
    try:
        os.chdir(cwd)
    except OSError:  # it was in none of the folders that are copied
        os.chdir("/testbed")
    host = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host.connect(DOOR)
    message, groups, _, _ = socket.recv_fds(host, MESSAGE_BYTES, 4)
    boot = json.loads(message)
    for fd in groups:
        os.write(fd, b"0")
        os.close(fd)
    forget(app)
    log = os.open(boot["log"], os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    streams = sys.stdout, sys.stderr
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    for stream, olds in zip(streams, _streams, strict=True):
        olds.append(stream)
        for name in ("_fid", "_original_stdstream_copy"):
            fd = getattr(stream, name, None)
            if fd is not None:
                os.close(fd)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    app.connect(boot["connection_file"])
    for new, olds in zip((sys.stdout, sys.stderr), _streams, strict=True):
        for old in olds:
            for name in FORWARDED:
                setattr(old, name, getattr(new, name))
    renew_bash(app.shell)
    if collecting:
        gc.enable()
    host.send(b"ready")
    host.close()
    app.start()


def forget(app):
    """Leave the old kernel's loop, threads and sockets as they are."""
    kernel = app.kernel
    _kept.append(asyncio.get_event_loop())
    _kept.extend((zmq.Context._instance, app.context, app.iopub_thread, app.control_thread))
    _kept.extend((kernel.shell_stream, kernel.control_stream, kernel.stdin_socket))
    _kept.extend((app.shell_socket, app.control_socket, getattr(app, "heartbeat", None)))
    atexit._clear()
    signal.set_wakeup_fd(-1)
    zmq.Context._instance = None
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(asyncio.new_event_loop())


def renew_bash(shell):
    """`%%bash` begins a new one, in the folder and with the variables and functions of the old.

    The old one is the origin's, and so are the locks and the thread that read what it prints.
    """
    magic = shell.magics_manager.magics["cell"].get("bash")
    for cell in getattr(magic, "__closure__", None) or ():
        runner = cell.cell_contents
        if type(runner).__name__ == "Shell":
            _kept.append((runner.bash, runner.printed))
            runner.bash, runner.printed = None, type(runner.printed)()
