"""The kernel: ipykernel's, made in two steps, so that many processes can share the first.

`KernelApp.prepare` makes whatever is the same in every sandbox (the shell and the kernel object
among it), and neither a descriptor nor a thread; `begin` makes the rest in the process that becomes
the kernel: sockets, streams and two threads, one for outputs and one for control. What a sandbox
has no use for is left out: debugger, history, subshells, command line, configuration files.
"""

import asyncio
import atexit
import contextlib
import json
import logging
import os
import socket
import sys
import threading
import uuid
from pathlib import Path

import zmq
from guest import cells, output
from ipykernel.control import ControlThread
from ipykernel.heartbeat import Heartbeat
from ipykernel.iostream import IOPubThread
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.profiledir import ProfileDir
from IPython.paths import get_ipython_dir
from traitlets import Any, Type, default
from zmq.eventloop.zmqstream import ZMQStream

LINGER = 1000  # milliseconds, as ipykernel's


class _NoShellThread:
    """In place of ipykernel's thread for the shell channel, whose only use is subshells.

    Without it a request takes two hops less. It is false, but the kernel asks it in a cell that
    awaits which thread runs the cells.
    """

    def __init__(self):
        self.parent_thread = threading.current_thread()

    def __bool__(self):
        return False


class Kernel(IPythonKernel):
    """An IPythonKernel that can be made before its sockets."""

    _supports_kernel_subshells = False
    _execute_sleep = 0  # of every cell, in case that its outputs were late: a flush waits for them

    def allow_branches(self, root):
        """Take `lis_branch_request`; `root` is a descriptor of the sandbox's root folder."""
        from guest import branch

        def fork(stream, ident, message):
            branch.fork(self.parent, root, message["content"]["view"])

        self.shell_handlers["lis_branch_request"] = fork

    def connect(self, app):
        """Take over what `app` has made, and an identity of its own."""
        self.ident = str(uuid.uuid4())
        self.session = app.session
        self.shell_stream, self.control_stream = app.shell_stream, app.control_stream
        self.control_thread, self.shell_channel_thread = app.control_thread, _NoShellThread()
        self.iopub_thread, self.iopub_socket = app.iopub_thread, app.iopub_socket
        self.stdin_socket = app.stdin_socket
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._main_asyncio_lock = asyncio.Lock()
        for publisher, topic in (
            (self.shell.displayhook, self._topic("execute_result")),
            (self.shell.display_pub, b"display_data"),
        ):
            publisher.session, publisher.pub_socket = app.session, app.iopub_socket
            publisher.topic = topic


class OutputThread(IOPubThread):
    """Sees every subscription."""

    def _really_send(self, *args, **kwargs):
        super()._really_send(*args, **kwargs)
        if not self.closed and self._is_master_process():
            # the socket tells of a subscription by an edge, which sending a message swallows
            self._xpub_stream.flush(zmq.POLLIN)


class Forgetful(dict):
    """A dict of lists that stays empty."""

    def __missing__(self, key):
        return []

    def __setitem__(self, key, value):
        pass


def keep_no_outputs(shell):
    """IPython keeps for ever all that cells print, for %notebook alone: 100 MB of prints, 100 MB.

    And it renders each traceback a second time for it. The trajectory is the record here.
    """
    shell._tee = lambda channel: contextlib.nullcontext()
    shell._format_exception_for_storage = lambda *_, **__: {}
    shell.history_manager.outputs = Forgetful()
    shell.history_manager.exceptions = Forgetful()


class KernelApp(IPKernelApp):
    blocking_class = Any()  # by its name, jupyter_client's client would be imported for it
    kernel_class = Type(Kernel)

    @default("session")
    def _session(self):
        return output.CappedSession(parent=self)

    def prepare(self):
        """Make what every sandbox shares. Nothing of it depends on files or the environment."""
        self.outstream_class = "guest.output.CappedStream"
        self.log_level = logging.CRITICAL
        self.config.HistoryManager.enabled = False
        self.init_crash_handler()
        self.init_pdb()
        self.profile_dir = ProfileDir(parent=self)
        # first the shell, for the kernel would give it places that are not there yet
        self.shell = ZMQInteractiveShell.instance(
            config=self.config,
            ipython_dir="/",
            profile_dir=self.profile_dir,
            compiler_class=cells.Compiler,
        )
        self.kernel = Kernel.instance(parent=self, log=self.log, profile_dir=self.profile_dir)
        self.shell.parent = self.shell.kernel = self.kernel
        self.init_shell()
        self.init_extensions()
        self.shell._sys_modules_keys = set(sys.modules)
        keep_no_outputs(self.shell)
        cells.quicken(self.shell)
        assert self.session  # made here; `begin` gives it a key and an identity

    def forget(self):
        """Undo `prepare`: the next instance begins anew."""
        atexit.unregister(self.shell.atexit_operations)
        for made in (self, self.kernel, self.shell):
            made.clear_instance()

    def begin(self, connection_file, owner_fd=None):
        """Make what is this process's own; from here on the sockets take messages.

        The process ends when the other end of `owner_fd` closes: the owner is gone, whatever
        killed it.
        """
        self.connect(connection_file, owner_fd)
        self.init_code()

    def connect(self, connection_file, owner_fd=None):
        """Sockets, streams and threads: what a live branch makes anew."""
        self.connection_file = connection_file
        self.session.session, self.session.pid = uuid.uuid4().hex, os.getpid()
        self.load_connection_info(json.loads(Path(connection_file).read_text()))
        self.init_places()
        self.init_sockets()
        self.init_io()
        self.init_signal()
        self.init_kernel()
        if owner_fd is not None:
            loop = self.control_thread.io_loop
            loop.add_handler(owner_fd, lambda *_: os._exit(1), loop.READ)
        self.init_path()
        self.init_gui_pylab()
        self.iopub_thread.start()
        self.control_thread.start()

    def init_code(self):
        """The user's own start-up files. What a kernel begins with is not of %who."""
        self._run_startup_files()
        self.shell.user_ns_hidden.update(self.shell.user_ns)

    def init_places(self):
        shell, home = self.shell, get_ipython_dir()
        self.ipython_dir = shell.ipython_dir = home
        self.profile_dir.location = os.path.join(home, "profile_default")
        shell.starting_dir = os.getcwd()
        shell.history_manager.dir_hist[:] = [Path.cwd()]
        shell.init_environment()

    def init_sockets(self):
        self.context = context = zmq.Context()
        for name in ("shell", "stdin", "control"):
            made = context.socket(zmq.ROUTER)
            made.linger = LINGER
            made.router_handover = 1  # ipython/ipykernel#270
            self._bind_socket(made, getattr(self, f"{name}_port"))
            setattr(self, f"{name}_socket", made)
        iopub = context.socket(zmq.XPUB)
        iopub.linger = LINGER
        iopub.xpub_nodrop = 1  # a dropped message is lost output: wait for the host instead
        self._bind_socket(iopub, self.iopub_port)
        self.configure_tornado_logger()
        self.iopub_thread = OutputThread(iopub, pipe=True, session=self.session)
        self.iopub_socket = self.iopub_thread.background_socket
        self.control_thread = ControlThread(daemon=True)
        self.init_heartbeat()

    def init_heartbeat(self):
        """ipykernel's heartbeat, two contexts and four threads, begins with its first client.

        A client whose first connection is closed connects again.
        """
        path, loop = f"{self.ip}-{self.hb_port}", self.control_thread.io_loop
        waiting = socket.socket(socket.AF_UNIX)
        waiting.bind(path)
        waiting.listen()

        def begin(*_):
            loop.remove_handler(waiting)
            waiting.close()
            os.unlink(path)
            self.heartbeat = Heartbeat(zmq.Context(), (self.transport, self.ip, self.hb_port))
            self.heartbeat.start()

        loop.add_handler(waiting, begin, loop.READ)

    def init_kernel(self):
        self.shell_stream = ZMQStream(self.shell_socket)
        self.control_stream = ZMQStream(self.control_socket, self.control_thread.io_loop)
        self.kernel.connect(self)
        names = ("shell", "iopub", "stdin", "control", "hb")
        self._ports = {name: getattr(self, f"{name}_port") for name in names}
        self.kernel.record_ports({f"{name}_port": port for name, port in self._ports.items()})
        self.displayhook.get_execution_count = lambda: self.kernel.execution_count
