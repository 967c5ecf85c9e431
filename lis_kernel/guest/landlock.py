"""Landlock, from inside: this process and all it starts write to a few folders and nowhere else.

The second layer behind the read-only mounts: it still stands where a mount turns out to be writable
after all. Where the kernel can (ABI 6), signals and abstract sockets end at the sandbox's edge too:
with the network policy `open` nothing else keeps it from the host's abstract sockets. `boot.py`
calls it before anything else when the host found it in its kernel.
"""

import ctypes
import os
import stat

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE = 1 << 13, 1 << 14
"""Of ABI 2 and 3. A kernel without REFER refuses every rename across folders, wherever that is."""
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1 << 0, 1 << 1
ALL = (1 << 13) - 1
"""Every right of ABI 1: the four above, and to remove or make a file of each kind."""
READ = EXECUTE | READ_FILE | READ_DIR


class RulesetAttr(ctypes.Structure):
    _fields_ = [
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def restrict(abi, writable):
    """Reading and executing everywhere; everything in `writable`; plain writing to devices.

    One rule for each of `writable`, and none below it, or files could not be moved within it.

    Raises OSError: nothing is restricted then, and the caller must not go on.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number, *arguments):
        result = libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, "Landlock: " + os.strerror(code))
        return result

    handled = ALL | (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0)
    wanted = RulesetAttr(handled, 0, SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS if abi >= 6 else 0)
    ruleset = call(CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(ctypes.sizeof(wanted)), 0)
    # in /proc a program writes to its own comm, oom_score_adj and the like; `>` truncates too
    write = handled & (READ | WRITE_FILE | TRUNCATE)
    places = [("/", READ), ("/dev", write), ("/proc", write)]
    places += [(path, handled) for path in writable]
    for path, rights in places:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = rights
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            allowed &= EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE
        rule = PathBeneathAttr(allowed, fd)
        call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        os.close(fd)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
