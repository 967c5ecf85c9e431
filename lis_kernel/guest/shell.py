# ruff: noqa: I001, UP029
def _make_bash():
    """One persistent bash behind `%%bash`: cd, export, functions and background jobs survive.

    A command runs by `eval` in that bash with stdin closed; its exit status and the shell's state
    come back on a descriptor of their own, so nothing is read out of the text. A non-zero exit
    raises CommandFailed. Where bash itself ends (`exit`, `set -e`, a command that had to be
    stopped), the next one takes over its directory, environment, functions and aliases. Builtins
    are bound inside as well: no later cell (`len = 3`) can break it.
    """
    import codecs
    import os
    import select
    import shlex
    import signal
    import subprocess
    import sys
    import threading
    import time
    from builtins import (
        BlockingIOError, Exception, IndexError, KeyboardInterrupt, OSError, ValueError, dict,
        getattr, int, len, open, set, str, super,
    )  # fmt: skip
    from collections import deque

    END = b"\0END\0"
    IDLE_BYTES, BUSY_BYTES = 64_000, 4_000_000
    # Reports a command's status and the state that a new bash needs; bash runs it at its exit too.
    DRIVER = rb"""
__lis_done() {
  local s=$?
  { builtin printf '%d\0' "$s"; builtin pwd; builtin export -p; builtin declare -f
    builtin alias -p; builtin printf '%s\0END\0' "${1-}"; } >&8
  return $s
}
trap '{ __lis_done last; } 2>/dev/null' EXIT
shopt -s expand_aliases
"""

    class CommandFailed(Exception):
        def __init__(self, code, note=""):
            super().__init__(f"exit code {code}" + (f" ({note})" if note else ""))

        def _render_traceback_(self):
            return [str(self)]

    def quoted(data):
        return shlex.quote(data.decode("utf-8", "surrogateescape")).encode(
            "utf-8", "surrogateescape"
        )

    def below(roots):
        """The pids of `roots` that are alive, and of all processes below them."""
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
                except (OSError, IndexError, ValueError):
                    continue
        found, new = set(), roots & set(parents)
        while new:
            found |= new
            new = {pid for pid, parent in parents.items() if parent in new} - found
        return found

    def signal_all(pids, number):
        for pid in pids:
            try:
                os.kill(pid, number)
            except OSError:
                pass

    class Printed:
        """What every bash and its background jobs wrote and nobody has shown yet."""

        def __init__(self):
            self.changed = threading.Condition()
            self.pieces, self.size, self.busy = deque(), 0, False
            self.begin()

        def begin(self):
            self.decoders = {
                name: codecs.getincrementaldecoder("utf-8")("replace")
                for name in ("stdout", "stderr")
            }

        def put(self, name, data):
            with self.changed:
                while self.busy and self.size > BUSY_BYTES:
                    self.changed.wait(1)  # the writer must wait until it has been shown
                self.pieces.append((name, data))
                self.size += len(data)
                while not self.busy and self.size > IDLE_BYTES and len(self.pieces) > 1:
                    self.size -= len(self.pieces.popleft()[1])  # no cell runs: keep the newest
                self.changed.notify_all()

        def show(self):
            """Print it; the lock is held only to take it."""
            with self.changed:
                pieces, self.pieces, self.size = self.pieces, deque(), 0
                self.changed.notify_all()
            for name, data in pieces:
                getattr(sys, name).write(self.decoders[name].decode(data))

    class Bash:
        """One bash process, with a thread that alone reads its pipes."""

        def __init__(self, printed, state):
            self.printed, self.reports, self.closed = printed, deque(), False
            out, err, status = os.pipe(), os.pipe(), os.pipe()
            self.process = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-s"],
                stdin=subprocess.PIPE,
                stdout=out[1],
                stderr=err[1],
                env=dict(os.environ, TERM="dumb", PAGER="cat", GIT_PAGER="cat"),
                pass_fds=(status[1],),
                start_new_session=True,
            )
            for fd in (out[1], err[1], status[1]):
                os.close(fd)
            for fd in (out[0], err[0], status[0]):
                os.set_blocking(fd, False)
            fds = (out[0], err[0], status[0])
            threading.Thread(target=self.pump, args=fds, daemon=True).start()
            text = b"" if status[1] == 8 else b"exec 8>&%d %d>&-\n" % (status[1], status[1])
            self.send(text + DRIVER + b"eval " + quoted(state) + b" >/dev/null 2>&1\n")

        def send(self, data):
            try:
                self.process.stdin.write(data)
                self.process.stdin.flush()
            except OSError:
                pass  # bash is gone: seen as `closed`

        def pump(self, out, err, status):
            names = {out: "stdout", err: "stderr"}
            poller = select.poll()
            opened, report = {out, err, status}, b""
            for fd in opened:
                poller.register(fd, select.POLLIN)
            while opened:
                for fd, _ in poller.poll():
                    if fd == status:
                        data = os.read(fd, 65536)
                        ended = not data
                        report += data
                        if ended or report.endswith(END):
                            for other in opened & set(names):
                                self.drain(other, names[other])  # printed before the report
                            with self.printed.changed:
                                if report.endswith(END):
                                    self.reports.append(report[: -len(END)])
                                    report = b""
                                self.closed = ended
                                self.printed.changed.notify_all()
                    else:
                        ended = not self.drain(fd, names[fd])
                    if ended:
                        poller.unregister(fd)
                        opened.discard(fd)
                        os.close(fd)

        def drain(self, fd, name):
            """Take what is there, at most 1 MB; False at the end of the stream."""
            taken = 0
            while taken < 1_000_000:
                try:
                    data = os.read(fd, 65536)
                except BlockingIOError:
                    return True
                if not data:
                    return False
                taken += len(data)
                self.printed.put(name, data)
            return True

    class Shell:
        """Runs commands in the bash that lives now."""

        def __init__(self):
            self.printed, self.bash, self.state = Printed(), None, b""

        def run(self, command):
            """The exit status of `command`; what it printed has been shown."""
            if self.bash is None or self.bash.process.poll() is not None:
                self.bash = Bash(self.printed, self.state)
            bash, printed = self.bash, self.printed
            before = below({bash.process.pid})
            printed.begin()
            with printed.changed:
                printed.busy = True
                bash.reports.clear()
            text = quoted(command.replace("\0", "").encode("utf-8", "surrogateescape"))
            try:
                bash.send(b"eval " + text + b" </dev/null 8>&-\n{ __lis_done; } 2>/dev/null\n")
                while not (bash.reports or bash.closed):
                    with printed.changed:
                        if not (printed.pieces or bash.reports or bash.closed):
                            printed.changed.wait(0.5)
                    printed.show()
                printed.show()
                return self.ended()
            except KeyboardInterrupt:
                self.interrupt(before)
                raise CommandFailed(130, "interrupted") from None
            finally:
                with printed.changed:
                    printed.busy = False

        def ended(self):
            """The status that bash reported, or died with; remembers the state it left."""
            bash = self.bash
            if not bash.reports:
                self.bash = None
                code = bash.process.wait()
                return 128 - code if code < 0 else code
            status, _, rest = bash.reports.popleft().partition(b"\0")
            rest, _, last = rest.rpartition(b"\n")
            directory, _, state = rest.partition(b"\n")
            self.state = b"cd " + quoted(directory) + b"\n" + state
            if last:
                self.bash = None
                bash.process.wait()
            return int(status)

        def interrupt(self, before):
            """Stop the command and all that it started; older background jobs live on."""
            bash, printed = self.bash, self.printed
            old = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                started = below({bash.process.pid}) - before
                # bash ends as soon as the command lets it, so what follows in the cell never runs
                signal_all([bash.process.pid], signal.SIGTERM)
                for number, patience in ((signal.SIGINT, 1.0), (signal.SIGKILL, 1.0)):
                    deadline = time.monotonic() + patience
                    while time.monotonic() < deadline and (started or not bash.closed):
                        signal_all(started, number)
                        with printed.changed:
                            printed.changed.wait(0.05)
                        printed.show()
                        started = below(started | {bash.process.pid}) - before
                bash.process.kill()
                with printed.changed:
                    printed.changed.wait_for(lambda: bash.closed, 0.5)
                printed.show()
                self.ended()
                self.bash = None
            finally:
                signal.signal(signal.SIGINT, old)

    shell = Shell()

    def bash(line, cell):
        """Run the cell in this notebook's one bash."""
        code = shell.run(cell)
        if code:
            raise CommandFailed(code)

    get_ipython().register_magic_function(bash, "cell", "bash")  # noqa: F821


_make_bash()
del _make_bash
