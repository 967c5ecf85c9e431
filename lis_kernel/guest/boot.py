"""Starts the kernel inside the sandbox: `python boot.py BOOT.json`.

The first code of ours that runs in the box. It starts ipykernel on the ipc sockets that the host
named, with output caps, without history and debugger (40-80 ms and 10 MB), writes one byte to the
`ready` descriptor when the sockets answer, and ends when the host's end of the `owner` pipe closes.
First of all it puts up the walls that a process puts up around itself: rlimits and Landlock.
"""

import json
import logging
import os
import resource
import sys
import threading
import types


def _stub_debugger():
    """ipykernel imports debugpy in every kernel; a sandbox has no use for it."""
    module = types.ModuleType("ipykernel.debugger")
    module._is_debugpy_available = False
    module.Debugger = type("Debugger", (), {})
    module._DummyPyDB = type("_DummyPyDB", (), {})
    sys.modules["ipykernel.debugger"] = module


def _end_with(owner_fd):
    """Leave when the owner is gone: its end of the pipe closes, whatever killed it."""
    try:
        os.read(owner_fd, 1)
    finally:
        os._exit(1)


def _put_up_walls(boot):
    """Hard limits for this process and all that follow; Landlock before there is a thread."""
    for name, value in boot.get("rlimits", {}).items():
        number = getattr(resource, "RLIMIT_" + name)
        _, hard = resource.getrlimit(number)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (most, most))
    if "landlock" in boot:
        from guest import landlock

        landlock.restrict(**boot["landlock"])


def main(path):
    with open(path) as file:
        boot = json.load(file)
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    _put_up_walls(boot)
    if boot.get("owner_fd") is not None:
        threading.Thread(target=_end_with, args=(boot["owner_fd"],), daemon=True).start()
    _stub_debugger()

    from guest import output
    from ipykernel.kernelapp import IPKernelApp
    from traitlets import default

    for name, value in boot.get("caps", {}).items():
        setattr(output.Caps, name, value)

    class KernelApp(IPKernelApp):
        @default("session")
        def _session(self):
            return output.CappedSession(parent=self)

    app = KernelApp.instance(
        connection_file=boot["connection_file"],
        outstream_class="guest.output.CappedStream",
        log_level=logging.CRITICAL,
    )
    app.config.HistoryManager.enabled = False
    app.initialize([])
    os.environ.pop("JPY_PARENT_PID", None)
    shell = app.shell
    # exit() and quit() in a cell would end the kernel and with it the run
    shell.ask_exit = lambda: print("exit() is ignored here: the kernel keeps running")

    def end_cell(*_):
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, output.CappedStream):
                stream.end_cell()

    shell.events.register("post_run_cell", end_cell)
    os.chdir(boot.get("cwd", "/"))
    ready = boot["ready_fd"]
    os.write(ready, b"R")
    os.close(ready)
    app.start()


if __name__ == "__main__":
    main(sys.argv[1])
