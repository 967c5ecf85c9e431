"""Output caps, kept inside the kernel, where the flood starts.

Runs in the sandbox. `CappedStream` replaces ipykernel's OutStream: of what a cell prints, the head
and the tail go to the notebook and the whole goes to a file, `/tmp/lis/<execution count>.stdout`.
`CappedSession` bounds everything else that a cell can publish (images, HTML, tracebacks). So a
cell that prints 100 MB costs the kernel little memory and the host a message of about 1 MB.
"""

import codecs
import functools
import os
import sys
import threading
from collections import deque

from ipykernel.iostream import OutStream
from jupyter_client.session import Session

OUTPUT_DIR = "/tmp/lis"
GATHERED, PIECE_COST = 64_000, 16
"""Characters that a stream gathers before it looks at them, and those that a write counts more."""
SPILLED = 1_000_000


class Caps:
    """Sizes, set once by boot.py: see `config.Limits` and `tools.observation` on the host."""

    output_bytes = 1_000_000  # of one cell in the notebook, all outputs together
    spill_bytes = 256_000_000  # of one stream in its file
    spill_lines = 80  # a stream longer than this, or than spill_chars, gets a file
    spill_chars = 20_000
    messages = 500  # display messages of one cell
    one_cell = 1  # 0: what a task prints is the cell's that made it, else the running one's
    execution_count = 0  # of the cell that runs now; the only value here that changes


def last_count():
    """The highest execution count that has a file; files of a kernel before this one are kept."""
    try:
        counts = [name.partition(".")[0] for name in os.listdir(OUTPUT_DIR)]
    except OSError:
        return 0
    return max((int(count) for count in counts if count.isdecimal()), default=0)


class CappedStream(OutStream):
    """An OutStream that keeps head and tail of what one cell prints; the rest lies in a file.

    What is written is gathered, and looked at only when there is much of it or somebody asks: a
    cell may print a million lines. `_cap_lock` is held for all of it, and taken before ipykernel's
    own `_buffer_lock`.
    """

    def __init__(self, *args, **kwargs):
        self._cap_lock = threading.RLock()
        self._gathered, self._gathered_size, self._gathered_for = [], 0, None
        self._cell = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._forget()
        super().__init__(*args, **kwargs)
        self._forked = False
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def _leave_to_parent(self):
        """In a child by fork: what is unsent is its parent's to send, and locks may be held."""
        self._forked = True
        self._buffer_lock = threading.RLock()
        self._buffers.clear()

    def _forget(self):
        self._sent = 0  # characters that went to the notebook as head
        self._tail = deque()  # pieces held back as tail
        self._tail_size = 0
        self._lost = 0  # characters that will be only in the file
        self._early = []  # what was printed before a file was needed
        self._early_size = self._lines = self._written = 0
        self._file = self._path = None

    def set_parent(self, parent):
        """A request begins; called by the kernel for each one."""
        super().set_parent(parent)
        cell = parent.get("header", {}).get("msg_id") if isinstance(parent, dict) else None
        with self._cap_lock:
            if cell != self._cell:
                self.end_cell()
                self._cell = cell

    # -- what children print to the kernel's own descriptor ----------------------------------------

    def _setup_stream_redirects(self, name):
        """Read it in the thread that sends outputs; ipykernel has a thread for each stream.

        ipykernel's copies it to the kernel's log as well; when that has filled the disk it stops
        reading, and the next child that prints waits for ever.
        """
        self._fid, write = os.pipe()
        os.set_blocking(self._fid, False)
        self._original_stdstream_fd = getattr(sys, name).fileno()
        self._original_stdstream_copy = os.dup(self._original_stdstream_fd)
        os.dup2(write, self._original_stdstream_fd)
        os.close(write)
        loop = self.pub_thread.io_loop
        self.pub_thread.schedule(lambda: loop.add_handler(self._fid, self._drain, loop.READ))

    def _drain(self, *_):
        """Take what is there, at most 1 MB."""
        with self._cap_lock:
            for _ in range(16):
                if self._fid is None:
                    return
                try:
                    data = os.read(self._fid, 65_536)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                if not data:  # nobody can write to it any more
                    remove = functools.partial(self.pub_thread.io_loop.remove_handler, self._fid)
                    self.pub_thread.schedule(remove)
                    self._fid = None
                    return
                # not `parent_header`: that of a handler is the one from when it was added
                self._gather(self._decoder.decode(data), self._parent_header_global)

    def close(self):
        """Give the descriptor back."""
        if self._should_watch:
            self._should_watch = False
            os.dup2(self._original_stdstream_copy, self._original_stdstream_fd)
            os.close(self._original_stdstream_copy)
        self.pub_thread = None

    # -- from a write to the buffer of ipykernel ---------------------------------------------------

    def write(self, string):
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        if self._forked or self.pub_thread is None:
            return super().write(string)  # a forked child: its parent's bookkeeping is not its own
        one = self._parent_header_global if Caps.one_cell else self.parent_header
        self._gather(string, one)
        return len(string)

    def _gather(self, string, parent):
        with self._cap_lock:
            if parent is not self._gathered_for:
                self._take()
                self._gathered_for = parent
            self._gathered.append(string)
            self._gathered_size += len(string) + PIECE_COST
            if self._gathered_size > GATHERED:
                self._take()
        if not self._flush_pending:
            self._schedule_flush()

    def _take(self):
        """What was gathered goes to the file, and to the notebook as head or tail."""
        if not self._gathered:
            return
        string, self._gathered, self._gathered_size = "".join(self._gathered), [], 0
        self._spill(string)
        room = Caps.output_bytes // 2 - self._sent
        if room > 0:
            self._sent += min(room, len(string))
            self._show(string[:room], self._gathered_for)
        self._hold(string, max(room, 0))

    def _show(self, string, parent):
        with self._buffer_lock:
            self._buffers[frozenset(parent.items())].write(string)
        if not self._flush_pending:
            self._schedule_flush()

    def _flush(self):
        """Called in the thread that sends, when it is time or somebody waits for it."""
        if self._forked:
            return super()._flush()
        self._drain()
        with self._cap_lock:  # until it is queued: who meanwhile found nothing would say idle first
            self._take()
            super()._flush()

    def flush(self):
        """Have all sent; at once if there is nothing, which is most often so."""
        if not self._forked:
            self._drain()
            with self._cap_lock:
                self._take()
                if not self._buffers:
                    return
        super().flush()

    def _hold(self, string, start):
        """Keep the end of `string[start:]`; may be long, so it is not copied."""
        keep = Caps.output_bytes // 4
        size = len(string) - start
        if size <= 0:
            return
        if size > keep:
            self._lost += size - keep
            start, size = len(string) - keep, keep
        self._tail.append(string[start:])
        self._tail_size += size
        while self._tail_size - len(self._tail[0]) >= keep:
            gone = len(self._tail.popleft())
            self._tail_size -= gone
            self._lost += gone

    def _spill(self, string):
        if self._file is None:
            self._early.append(string)
            self._early_size += len(string)
            self._lines += string.count("\n")
            if self._early_size <= Caps.spill_chars and self._lines <= Caps.spill_lines:
                return
            self._open()
            string, self._early = "".join(self._early), []
        for start in range(0, len(string), SPILLED):  # a copy of it all may be too much
            if not self._file or self._written >= Caps.spill_bytes:
                return
            data = string[start : start + SPILLED].encode("utf-8", "surrogateescape")
            data = data[: Caps.spill_bytes - self._written]
            self._written += len(data)
            try:
                self._file.write(data)
            except OSError:
                self._file = False  # the disk is full: go on without the file

    def _open(self):
        self._path = f"{OUTPUT_DIR}/{Caps.execution_count}.{self.name}"
        try:
            os.makedirs(OUTPUT_DIR, exist_ok=True)
            self._file = open(self._path, "wb")
        except OSError:
            self._file = False

    def end_cell(self):
        """Give out the tail and finish the file; called after each cell."""
        self._drain()
        with self._cap_lock:
            self._take()
            if self._tail:
                parent = self.parent_header
                # to the character, or a replay's output would differ with the time of its pieces
                over = max(0, self._tail_size - Caps.output_bytes // 4)
                self._tail[0], self._lost = self._tail[0][over:], self._lost + over
                if self._lost:
                    where = f"; all of it: {self._path}" if self._file else ""
                    self._show(f"\n[... {self._lost} characters left out{where} ...]\n", parent)
                for piece in self._tail:
                    self._show(piece, parent)
            if self._file:
                try:
                    self._file.close()
                except OSError:
                    pass
            self._forget()


class CappedSession(Session):
    """A Session that bounds what a cell may show at a time beside its streams.

    A display that is updated takes the place of what it was, and `clear_output` makes room: a
    progress bar may move for as long as it likes.
    """

    _counted = ("display_data", "update_display_data", "execute_result", "error", "comm_open")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._request = None
        self._clear()

    def _clear(self):
        self._bytes = self._messages = 0
        self._displays = {}  # of each display id that is shown, its bytes
        self._clears = False

    def send(self, stream, msg_or_type, content=None, parent=None, *rest, **kwargs):
        if isinstance(msg_or_type, dict):
            kind, body, asked_by = (
                msg_or_type.get("msg_type"),
                msg_or_type.get("content"),
                msg_or_type.get("parent_header"),
            )
        else:
            kind, body, asked_by = msg_or_type, content, parent
        if kind in self._counted or kind in ("comm_msg", "clear_output"):
            header = asked_by.get("header", asked_by) if isinstance(asked_by, dict) else {}
            if header.get("msg_id") != self._request:
                self._request = header.get("msg_id")
                self._clear()
        if kind in self._counted:
            body = self._counting(kind, body)
            if body is None:
                return None
            if isinstance(msg_or_type, dict):
                msg_or_type = dict(msg_or_type, content=body)
            else:
                content = body
        elif kind == "comm_msg":  # a widget's state, which takes the place of what it was
            if len(self.pack(body)) > Caps.output_bytes:
                return None
        elif kind == "clear_output":
            self._clears = True
            if not body.get("wait"):
                self._clear()
        elif kind == "execute_input":
            Caps.execution_count = body.get("execution_count", 0)
        elif kind == "execute_reply" and isinstance(content, dict) and "traceback" in content:
            content = self._shortened("error", content, len(self.pack(content)))
        return super().send(stream, msg_or_type, content, parent, *rest, **kwargs)

    def _counting(self, kind, body):
        """The body as it may be sent, or None."""
        if self._clears:
            self._clear()
        update = kind == "update_display_data"
        name = (body.get("transient") or {}).get("display_id")
        size, old = len(self.pack(body)), self._displays.get(name, 0) if update else 0
        self._messages += not update
        full = not update and self._messages > Caps.messages
        if full or self._bytes + size - old > Caps.output_bytes:
            body = self._shortened(kind, body, size)
            if body is None:
                return None
            size = len(self.pack(body))
        if not update or name in self._displays:  # else nobody sees it, and nothing is kept
            self._bytes += size - old
            if name is not None:
                self._displays[name] = size
        return body

    def _shortened(self, kind, body, size):
        if kind == "error":
            lines = [str(line) for line in body.get("traceback", [])]
            if sum(map(len, lines)) > 100_000:
                lines = [line[:5_000] for line in lines[:10] + lines[-10:]]
            return dict(body, evalue=str(body.get("evalue", ""))[:10_000], traceback=lines)
        if "data" not in body:
            return None
        if self._messages <= Caps.messages or kind == "update_display_data":
            note = f"[output of {size} bytes left out: a cell may show {Caps.output_bytes} bytes]"
        elif self._messages == Caps.messages + 1:
            note = f"[further outputs left out: a cell may show {Caps.messages}]"
        else:
            return None
        return dict(body, data={"text/plain": note}, metadata={})
