"""Starts the kernel inside the sandbox: `python boot.py BOOT.json`.

The first code of ours that runs in the box. It starts ipykernel on the ipc sockets that the host
named, with output caps, without history and debugger (40-80 ms and 10 MB), writes one byte to the
`ready` descriptor when the sockets answer, and ends when the host's end of the `owner` pipe closes.
Before it looks at anything that a cell could have written, it puts up the walls that a process puts
up around itself: rlimits, Landlock, the system call filter. Then it tests the network's wall, and
ends with a sentence if there is none.
`zygote.py` calls `preload` once and `run` in each of its forks.
"""

import functools
import gc
import importlib
import json
import os
import resource
import sys
import types

BLAS_ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Without these numpy starts threads when it is imported."""


def _stub_debugger():
    """ipykernel imports debugpy in every kernel; a sandbox has no use for it."""
    if "ipykernel.debugger" in sys.modules:
        return
    module = types.ModuleType("ipykernel.debugger")
    module._is_debugpy_available = False
    module.Debugger = type("Debugger", (), {})
    module._DummyPyDB = type("_DummyPyDB", (), {})
    sys.modules["ipykernel.debugger"] = module


def _put_up_walls(boot):
    """Hard limits for this process and all that follow; Landlock before there is a thread."""
    for name, value in (boot.get("rlimits") or {}).items():
        number = getattr(resource, "RLIMIT_" + name)
        _, hard = resource.getrlimit(number)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (most, most))
    if boot.get("landlock"):
        from guest import landlock

        landlock.restrict(**boot["landlock"])
    if boot.get("seccomp"):
        from guest import filter

        filter.install(boot["seccomp"])


def _set_up(shell):
    """What an agent's notebook brings in its setup cell, for a notebook that has none."""
    for code in _setup_code():
        shell.ex(code)
    shell.user_ns_hidden["str_replace_editor"] = shell.user_ns["str_replace_editor"]  # of %who


@functools.cache
def _setup_code():
    from guest import first_cell

    return [
        compile(first_cell.part(name), "<string>", "exec") for name in ("shell.py", "editor.py")
    ]


def _set_up_network(walled, proxy, no_proxy, environment):
    from guest import network

    if walled:
        network.check_wall()
    os.environ.update(environment)
    if proxy is not None:
        network.start_forwarder(proxy, no_proxy)


def preload(packages=()):
    """All that a kernel needs and every sandbox shares.

    `packages` are imported too, for cells that use them. Raises RuntimeError if a thread or a
    descriptor is left of it, which no fork could do with.
    """
    gc.disable()
    before = _threads_and_descriptors()
    _stub_debugger()

    from guest import lazy

    lazy.package("jupyter_client", "connect")

    from guest import kernel

    environment = dict(os.environ)
    os.environ.update(BLAS_ALONE)
    for name in packages:
        importlib.import_module(name)
    os.environ.clear()
    os.environ.update(environment)
    kernel.KernelApp.instance().prepare()
    _see_nothing_left(before)
    gc.freeze()


def rehearse():
    """After `preload`: what takes its time and pays only where many kernels follow.

    Raises RuntimeError as `preload` does.
    """
    before = _threads_and_descriptors()

    from guest import cells, first_cell, kernel, warm

    gc.unfreeze()
    kernel.KernelApp.instance().forget()
    warm.rehearse()
    _setup_code()
    app = kernel.KernelApp.instance()
    app.prepare()
    cells.remember(app.shell, first_cell.source())
    gc.collect()
    _see_nothing_left(before)
    gc.freeze()


def _see_nothing_left(before):
    if (left := _threads_and_descriptors()) != before:
        raise RuntimeError(f"threads and descriptors before and after preloading: {before}, {left}")


def _threads_and_descriptors():
    return [len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd")]


def _renew():
    """What siblings by fork must not have in common; `random` and `uuid` see to themselves."""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "tempfile" in sys.modules:
        sys.modules["tempfile"].tempdir = None  # found where the fork can write


def run(boot):
    """Be the kernel that `boot` describes, until its end; see `sandbox/launch.py`."""
    _put_up_walls(boot)
    _renew()
    if boot.get("network") is not None:
        _set_up_network(**boot["network"])

    from guest import kernel, output, packages
    from IPython.core import page

    for name, value in boot.get("caps", {}).items():
        setattr(output.Caps, name, value)
    os.environ.pop("JPY_PARENT_PID", None)
    os.chdir(boot.get("cwd", "/"))
    app = kernel.KernelApp.instance()
    app.begin(boot["connection_file"], boot.get("owner_fd"))
    shell = app.shell
    shell.execution_count = 1 + output.last_count()  # a restart goes on counting
    # exit() and quit() in a cell would end the kernel and with it the run
    shell.ask_exit = lambda: print("exit() is ignored here: the kernel keeps running")

    def end_cell(*_):
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, output.CappedStream):
                stream.end_cell()

    shell.events.register("post_run_cell", end_cell)
    if boot.get("branches"):
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        app.kernel.allow_branches(root)
    if boot.get("packages"):
        packages.stack(os.path.expanduser("~"), boot.get("no_system"))
    if boot.get("setup"):
        _set_up(shell)
    else:  # nobody but a person's front end has a pager: what `name?` says is an output
        shell.set_hook("show_in_pager", page.as_hook(page.display_page), 0)
    if boot.get("held"):
        from guest import held

        held.hold(app.kernel, boot["held"])
    gc.enable()
    ready = boot["ready_fd"]
    os.write(ready, b"R")
    os.close(ready)
    app.start()


def main(path):
    with open(path) as file:
        boot = json.load(file)
    # `guest` can be imported, but not our modules by their bare names
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    preload()
    run(boot)


if __name__ == "__main__":
    main(sys.argv[1])
