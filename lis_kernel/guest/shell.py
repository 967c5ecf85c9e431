def _make_bash():
    """One persistent bash behind `%%bash`: cd, export, functions and background jobs survive.

    A command runs by `eval` in that bash with stdin closed; its exit status and the shell's state
    come back on a descriptor of their own, so nothing is read out of the text. A non-zero exit
    raises CommandFailed. An interrupt stops the command and keeps the shell; if bash itself ends
    (`exit`, `set -e`, a loop that had to be killed) a new one takes over directory, environment
    and functions.
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
    from collections import deque

    END = b"\0END\0"
    IDLE_BYTES, BUSY_BYTES = 64_000, 4_000_000
    # Dumps the state that a new bash needs to take over; also run by bash as it exits.
    DRIVER = r"""
__lis_done() {
  local s=$?
  { builtin printf '%d\0' "$s"; builtin pwd; builtin export -p; builtin declare -f
    builtin alias -p; builtin printf '\0END\0'; } >&8
  return $s
}
trap '{ __lis_done; } 2>/dev/null' EXIT
shopt -s expand_aliases
"""

    class CommandFailed(Exception):
        def __init__(self, code, note=""):
            self.code = code
            super().__init__(f"exit code {code}" + (f" ({note})" if note else ""))

        def _render_traceback_(self):
            return [str(self)]

    def children(root):
        """Pids below `root`, itself left out."""
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
                except (OSError, IndexError, ValueError):
                    continue
        found, new = set(), {root}
        while new:
            new = {pid for pid, parent in parents.items() if parent in new} - found
            found |= new
        return found

    def signal_all(pids, number):
        for pid in pids:
            try:
                os.kill(pid, number)
            except OSError:
                pass

    class Shell:
        def __init__(self):
            self.state = b""
            self.process = None

        def start(self):
            out, err, status = os.pipe(), os.pipe(), os.pipe()

            environment = dict(os.environ, TERM="dumb", PAGER="cat", GIT_PAGER="cat")
            self.process = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-s"],
                stdin=subprocess.PIPE,
                stdout=out[1],
                stderr=err[1],
                env=environment,
                pass_fds=(status[1],),
                start_new_session=True,
            )
            for fd in (out[1], err[1], status[1]):
                os.close(fd)
            self.ready = threading.Condition()
            self.pieces, self.size, self.busy, self.closed = deque(), 0, False, False
            self.reports = deque()
            for fd in (out[0], err[0], status[0]):
                os.set_blocking(fd, False)
            pump = threading.Thread(target=self.pump, args=(out[0], err[0], status[0]), daemon=True)
            pump.start()
            text = b"" if status[1] == 8 else b"exec 8>&%d %d>&-\n" % (status[1], status[1])
            text += DRIVER.encode()
            if self.state:
                text += b"eval " + shlex.quote(
                    self.state.decode("utf-8", "surrogateescape")
                ).encode("utf-8", "surrogateescape")
                text += b" >/dev/null 2>&1\n"
            self.send(text)

        def pump(self, out, err, status):
            """Reads the three pipes for as long as they are open; the only reader."""
            names = {out: "stdout", err: "stderr"}
            poller = select.poll()
            for fd in (out, err, status):
                poller.register(fd, select.POLLIN)
            open_fds, report = {out, err, status}, b""
            while open_fds:
                for fd, _ in poller.poll():
                    ended = not self.drain(fd, names) if fd in names else False
                    if fd == status:
                        try:
                            data = os.read(fd, 65536)
                        except BlockingIOError:
                            continue
                        report, ended = report + data, not data
                        if ended or report.endswith(END):
                            for other in names:
                                if other in open_fds:
                                    self.drain(other, names)  # printed before the report
                            if report.endswith(END):
                                with self.ready:
                                    self.reports.append(report)
                                    self.ready.notify_all()
                                report = b""
                    if ended:
                        poller.unregister(fd)
                        open_fds.discard(fd)
                        os.close(fd)
                        if fd == status:
                            with self.ready:
                                self.closed = True
                                self.ready.notify_all()

        def drain(self, fd, names):
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
                with self.ready:
                    while self.busy and self.size > BUSY_BYTES:
                        self.ready.wait(1)
                    self.pieces.append((names[fd], data))
                    self.size += len(data)
                    while not self.busy and self.size > IDLE_BYTES and len(self.pieces) > 1:
                        self.size -= len(self.pieces.popleft()[1])
                    self.ready.notify_all()
            return True

        def send(self, data):
            try:
                self.process.stdin.write(data)
                self.process.stdin.flush()
            except OSError:
                pass  # bash is gone: seen as `closed`

        def show(self, decoders):
            """Print what has come; with the lock held only to take it."""
            with self.ready:
                pieces, self.pieces, self.size = self.pieces, deque(), 0
                self.ready.notify_all()
            for name, data in pieces:
                getattr(sys, name).write(decoders[name].decode(data))

        def run(self, command):
            if self.process is None or self.process.poll() is not None:
                self.start()
            decoders = {
                name: codecs.getincrementaldecoder("utf-8")("replace")
                for name in ("stdout", "stderr")
            }
            before = children(self.process.pid)
            text = command.replace("\0", "")
            with self.ready:
                self.busy = True
                self.reports.clear()
            line = "eval " + shlex.quote(text) + " </dev/null 8>&-\n{ __lis_done; } 2>/dev/null\n"
            try:
                self.send(line.encode("utf-8", "surrogateescape"))
                while True:
                    with self.ready:
                        if not (self.pieces or self.reports or self.closed):
                            self.ready.wait(0.5)
                        done = bool(self.reports) or self.closed
                    self.show(decoders)
                    if done:
                        break
            except KeyboardInterrupt:
                self.interrupt(before, decoders)
                raise CommandFailed(130, "interrupted") from None
            finally:
                with self.ready:
                    self.busy = False
            return self.report()

        def report(self):
            """Exit status of the command that just ended; remembers the shell's state."""
            if not self.reports:
                code = self.process.wait()
                self.process = None
                return 128 - code if code < 0 else code
            status, _, rest = self.reports.popleft().partition(b"\0")
            directory, _, state = rest[: -len(END)].partition(b"\n")
            where = shlex.quote(directory.decode("utf-8", "surrogateescape"))
            self.state = b"cd " + where.encode("utf-8", "surrogateescape") + b"\n" + state
            if self.closed:
                self.process.wait()
                self.process = None
            return int(status)

        def interrupt(self, before, decoders):
            """Stop the command and all it started; keep bash where it lets us."""
            old = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                for number, patience in ((signal.SIGINT, 1.0), (signal.SIGKILL, 0.7)):
                    deadline = time.monotonic() + patience
                    while time.monotonic() < deadline and not (self.reports or self.closed):
                        signal_all(children(self.process.pid) - before, number)
                        with self.ready:
                            self.ready.wait(0.05)
                        self.show(decoders)
                    if self.reports or self.closed:
                        break
                else:
                    self.process.kill()  # a loop in bash itself
                    signal_all(children(self.process.pid) - before, signal.SIGKILL)
                    self.process.wait()
                with self.ready:
                    self.ready.wait_for(lambda: self.reports or self.closed, 0.5)
                self.show(decoders)
                if self.reports:
                    self.report()
                elif self.process and self.process.poll() is not None:
                    self.process = None
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
