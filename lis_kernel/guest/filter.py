"""The system call filter, from inside: for backends whose own filter is not ours.

A container's engine has a filter, which lets through more than a sandbox needs (the i386 calls,
io_uring under some engines, typing into terminals). This one comes on top: the stricter answer
of the two holds. `boot.py` calls it last of the walls, for it forbids to put up others.
"""

import ctypes
import os
import platform

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
MODE_FILTER = 2


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def install(programs):
    """Put the filter of this machine's architecture in force, here and in all that follow.

    `programs` maps `platform.machine()` to `struct sock_filter[]` in hexadecimal; nothing happens
    where there is none. Raises OSError: no filter is in force, and the caller must not go on.
    """
    text = programs.get(platform.machine())
    if text is None:
        return
    code = bytes.fromhex(text)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = Program(len(code) // 8, code)
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, "seccomp: " + os.strerror(number))
