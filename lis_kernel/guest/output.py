"""Output caps, kept inside the kernel, where the flood starts.

Runs in the sandbox. `CappedStream` replaces ipykernel's OutStream: of what a cell prints, the head
and the tail go to the notebook and the whole goes to a file, `/tmp/lis/<execution count>.stdout`.
`CappedSession` bounds everything else that a cell can publish (images, HTML, tracebacks). So a
cell that prints 100 MB costs the kernel little memory and the host a message of about 1 MB.
"""

import codecs
import os
import threading
from collections import deque

from ipykernel.iostream import OutStream
from jupyter_client.session import Session

OUTPUT_DIR = "/tmp/lis"


class Caps:
    """Sizes, set once by boot.py: see `config.Limits` and `tools.observation` on the host."""

    output_bytes = 1_000_000  # of one cell in the notebook, all outputs together
    spill_bytes = 256_000_000  # of one stream in its file
    spill_lines = 80  # a stream longer than this, or than spill_chars, gets a file
    spill_chars = 20_000
    messages = 500  # display messages of one cell
    execution_count = 0  # of the cell that runs now; the only value here that changes


def last_count():
    """The highest execution count that has a file; files of a kernel before this one are kept."""
    try:
        counts = [name.partition(".")[0] for name in os.listdir(OUTPUT_DIR)]
    except OSError:
        return 0
    return max((int(count) for count in counts if count.isdecimal()), default=0)


class CappedStream(OutStream):
    """An OutStream that keeps head and tail of what one cell prints; the rest lies in a file."""

    def __init__(self, *args, **kwargs):
        self._cap_lock = threading.RLock()
        self._cell = None
        self._forget()
        super().__init__(*args, **kwargs)

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

    def _watch_pipe_fd(self):
        """What children print to the kernel's own descriptor, in a thread of its own.

        ipykernel's copies it to the kernel's log as well; when that has filled the disk it stops
        reading, and the next child that prints waits for ever.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while self._fid is not None and self._should_watch:
            try:
                data = os.read(self._fid, 65_536)
            except OSError:
                return
            if not data:
                return
            try:
                self.write(decoder.decode(data))
            except Exception:
                continue  # e.g. a stream that a cell has broken: the child must not wait

    def write(self, string):
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        if not self._is_master_process():
            return super().write(string)  # a forked child: its parent's bookkeeping is not its own
        with self._cap_lock:
            self._spill(string)
            room = Caps.output_bytes // 2 - self._sent
            if room >= len(string):
                self._sent += len(string)
                return super().write(string)
            if room > 0:
                self._sent += room
                super().write(string[:room])
            self._hold(string[max(room, 0) :])
        return len(string)

    def _hold(self, string):
        keep = Caps.output_bytes // 4
        if len(string) > keep:
            self._lost += len(string) - keep
            string = string[-keep:]
        self._tail.append(string)
        self._tail_size += len(string)
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
        if self._file and self._written < Caps.spill_bytes:
            data = string.encode("utf-8", "surrogateescape")[: Caps.spill_bytes - self._written]
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
        with self._cap_lock:
            if self._tail:
                if self._lost:
                    where = f"; all of it: {self._path}" if self._file else ""
                    super().write(f"\n[... {self._lost} characters left out{where} ...]\n")
                for piece in self._tail:
                    super().write(piece)
            if self._file:
                try:
                    self._file.close()
                except OSError:
                    pass
            self._forget()


class CappedSession(Session):
    """A Session that bounds what one request may publish beside its streams."""

    _counted = (
        "display_data",
        "update_display_data",
        "execute_result",
        "error",
        "comm_msg",
        "comm_open",
    )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._request = None
        self._bytes = self._messages = 0

    def send(self, stream, msg_or_type, content=None, parent=None, *rest, **kwargs):
        if isinstance(msg_or_type, dict):
            kind, body, asked_by = (
                msg_or_type.get("msg_type"),
                msg_or_type.get("content"),
                msg_or_type.get("parent_header"),
            )
        else:
            kind, body, asked_by = msg_or_type, content, parent
        if kind in self._counted:
            header = asked_by.get("header", asked_by) if isinstance(asked_by, dict) else {}
            if header.get("msg_id") != self._request:
                self._request = header.get("msg_id")
                self._bytes = self._messages = 0
            size = len(self.pack(body))
            self._messages += 1
            if self._bytes + size > Caps.output_bytes or self._messages > Caps.messages:
                body = self._shortened(kind, body, size)
                if body is None:
                    return None
                if isinstance(msg_or_type, dict):
                    msg_or_type = dict(msg_or_type, content=body)
                else:
                    content = body
                size = len(self.pack(body))
            self._bytes += size
        elif kind == "execute_input":
            Caps.execution_count = body.get("execution_count", 0)
        elif kind == "execute_reply" and isinstance(content, dict) and "traceback" in content:
            content = self._shortened("error", content, len(self.pack(content)))
        return super().send(stream, msg_or_type, content, parent, *rest, **kwargs)

    def _shortened(self, kind, body, size):
        if kind == "error":
            lines = [str(line) for line in body.get("traceback", [])]
            if sum(map(len, lines)) > 100_000:
                lines = [line[:5_000] for line in lines[:10] + lines[-10:]]
            return dict(body, evalue=str(body.get("evalue", ""))[:10_000], traceback=lines)
        if "data" not in body or self._messages > Caps.messages + 1:
            return None
        note = f"[output of {size} bytes left out: a cell may show {Caps.output_bytes} bytes]"
        if self._messages > Caps.messages:
            note = f"[further outputs left out: a cell may show {Caps.messages}]"
        return dict(body, data={"text/plain": note}, metadata={})
