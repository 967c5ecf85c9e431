"""A rehearsal, before the forks, of what every kernel does first.

What a first cell, a first traceback and a first display need is imported and run here, so that
forks find it done in the memory that they share: their first cells are quicker and they own less.
The kernel of the rehearsal is thrown away; `boot.preload` makes another one for the forks.
"""

import asyncio
import fnmatch
import gc
import importlib
import io
import sys

from guest import kernel, output

MODULES = (
    "guest.filter",
    "guest.landlock",
    "guest.network",
    "guest.packages",
    "csv",
    "faulthandler",
    "fractions",
    "multiprocessing.popen_fork",
    "pexpect",
    "pygments.formatters.html",
    "pygments.formatters.terminal256",
    "pygments.lexers.python",
    "pygments.styles.default",
    "stack_data",
    "timeit",
    "tornado.platform.asyncio",
    "IPython.core.magic_arguments",
    "IPython.core.magics.basic",
    "IPython.core.magics.execution",
    "IPython.core.magics.namespace",
    "IPython.core.magics.osm",
    "IPython.core.magics.script",
)
CELLS = (
    "1 + 1",
    "print('a')",
    "def f(x):\n    return 1 / x\n\nfor i in range(3):\n    i, [f(1)], {'a': f'{i}'}",
    "f(0)",
    "a b",
    "import os\nos.getcwd()",
    "from IPython.display import HTML, display\ndisplay(HTML('a'))",
)
ROUNDS = 10
"""A function is fitted to its arguments when it has been called eight times (CPython 3.11)."""


class Nowhere:
    """A socket that takes messages."""

    def send_multipart(self, *_, **__):
        pass


def rehearse():
    """Run CELLS in a kernel without sockets. No descriptor and no thread is left of it."""
    for name in MODULES:
        importlib.import_module(name)
    for pattern in ("*.py", "*.ipy"):  # of start-up files; glob keeps the compiled pattern
        fnmatch.filter([], pattern)
    app = kernel.KernelApp.instance()
    app.prepare()
    session = output.CappedSession(key=b"rehearsal")
    app.kernel.session = app.shell.displayhook.session = app.shell.display_pub.session = session
    nowhere = Nowhere()
    app.kernel.iopub_socket = app.shell.displayhook.pub_socket = nowhere
    app.shell.display_pub.pub_socket = nowhere
    policy, streams = asyncio.get_event_loop_policy(), (sys.stdout, sys.stderr)
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    sys.stdout = sys.stderr = io.StringIO()
    try:
        asyncio.run(_run(app.kernel, session, nowhere))
    finally:
        sys.stdout, sys.stderr = streams
        asyncio.set_event_loop_policy(policy)
        app.forget()
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)
        output.Caps.execution_count = 0
        gc.collect()


async def _run(made, session, nowhere):
    for _ in range(ROUNDS):
        for code in CELLS:
            content = {"code": code, "stop_on_error": False}
            sent = session.serialize(session.msg("execute_request", content))
            request = session.deserialize(session.feed_identities(sent)[1])
            made.set_parent([b"rehearsal"], request)
            await made.execute_request(nowhere, [b"rehearsal"], request)
