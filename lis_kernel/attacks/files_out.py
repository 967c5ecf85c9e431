"""Attempts on the host while it takes files out of the sandbox, reads one, or puts one in.

The guest makes something of its folders, in a cell; the host then works on them as the agent does.
A breach is the secret's text in the folder of the results, a mark outside it, more bytes or files
than were asked for, or a host that waits. The canary copies with the usual tools; see `hands.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from lis_kernel.agent.budget import Meter
from lis_kernel.agent.record import outcome_text
from lis_kernel.agent.workspace import Taken
from lis_kernel.attacks import files_in
from lis_kernel.attacks.ground import TIGHT, WIDE, Ground, Outcome, judged, together
from lis_kernel.attacks.hands import (
    ATTEMPTS,
    NO_LINKS,
    Attempt,
    Hands,
    Plain,
    Waits,
    attempt,
    hands,
    refusal,
)
from lis_kernel.config import Budget, Limits
from lis_kernel.errors import SandboxError
from lis_kernel.sandbox.state import MAX_FILES
from lis_kernel.types import StopReason

__all__ = ["run"]

assert files_in  # its attempts are of this family

MB = 1 << 20
MANY = TIGHT.model_copy(update={"disk_bytes": 4 << 30, "memory_bytes": 8 << 30})
"""For an attempt with 100,000 files, each of which takes an inode."""
PATIENCE = 3.0
"""Seconds after which the host has been held up."""
PLAIN = "only plain files are opened"


async def run(ground: Ground) -> Mapping[str, Outcome]:
    """Every attempt, in one sandbox but for the one that needs room."""
    outcomes: dict[str, Outcome] = {}
    many = {MANY_FILES: ATTEMPTS[MANY_FILES]}
    few = {name: function for name, function in ATTEMPTS.items() if name != MANY_FILES}

    async def work(limits: Limits, attempts: Mapping[str, Attempt]) -> None:
        async with ground.box(limits) as box:
            at = hands(ground, box)
            for name, function in attempts.items():
                await at.fresh()
                outcomes[name] = await function(at)
            await at.fresh()

    await together(work(ground.limits, few), work(WIDE if ground.canary else MANY, many))
    who = "stock copy: " if ground.canary else ""
    return {
        name: outcome._replace(evidence=f"{who}{outcome.evidence}")
        for name, outcome in outcomes.items()
    }


# -- links -----------------------------------------------------------------------------------------


def _link(name: str, source: str) -> None:
    async def function(at: Hands) -> Outcome:
        await at.cell(source)
        taken = await at.collect()
        return judged(taken.stolen, refusal(taken), NO_LINKS)

    ATTEMPTS[name] = function


_link("take_a_link_to_a_file", "os.symlink(SECRET, 'output/a')")
_link("take_a_link_to_a_folder", "os.symlink(OUTSIDE, 'output/a')")
_link("take_a_relative_link", "os.symlink('../' * 30 + SECRET.lstrip('/'), 'output/a')")
_link("take_a_link_through_proc", "os.symlink('/proc/self/root' + SECRET, 'output/a')")
_link("take_a_deep_link", "os.makedirs('output/a/b'); os.symlink(SECRET, 'output/a/b/c')")
_link("take_a_linked_output_folder", "os.rmdir('output'); os.symlink(OUTSIDE, 'output')")
_link(
    "take_a_chain_of_links",
    "os.symlink(SECRET, 'one'); os.symlink('../one', 'output/b'); os.symlink('b', 'output/a')",
)


@attempt
async def take_a_hard_link(at: Hands) -> Outcome:
    await at.cell(
        "open('output/../own', 'w').write(OWN)\n"
        "for file in (SECRET, 'own'):\n"
        "    with contextlib.suppress(OSError):\n"
        "        os.link(file, 'output/a')"
    )
    taken = await at.collect()
    return judged(taken.names, refusal(taken), "files with more than one name are refused")


@attempt
async def read_a_link(at: Hands) -> Outcome:
    await at.cell("os.symlink(SECRET, 'output/answer.txt')")
    data = await at.read("output/answer.txt")
    return judged(data, f"read {data!r}", NO_LINKS)


@attempt
async def read_through_a_linked_folder(at: Hands) -> Outcome:
    await at.cell("os.symlink(OUTSIDE, 'output/a')")
    data = await at.read("output/a/secret")
    return judged(data, f"read {data!r}", NO_LINKS)


@attempt
async def read_the_hosts_process(at: Hands) -> Outcome:
    """/proc/self is whoever follows the link."""
    await at.cell("os.symlink('/proc/self/environ', 'output/answer.txt')")
    data = await at.read("output/answer.txt")
    return judged(data, f"read {len(data or b'')} bytes of it", NO_LINKS)


# -- what is no file -------------------------------------------------------------------------------


@attempt
async def hold_up_with_a_pipe(at: Hands) -> Outcome:
    await at.cell("os.mkfifo('output/a'); open('output/b', 'w').write('b')")
    try:
        taken = await at.collect() if not isinstance(at, Plain) else await at.cat("output/a")
    except Waits as waits:
        return Outcome("breached", str(waits))
    missing = "the file beside it was not taken" if "b" not in taken.names else ""
    return judged(missing or taken.seconds > PATIENCE, refusal(taken), PLAIN)


@attempt
async def hold_up_a_reader_with_a_pipe(at: Hands) -> Outcome:
    await at.cell("os.mkfifo('output/answer.txt')")
    try:
        data = await at.read("output/answer.txt")
    except Waits as waits:
        return Outcome("breached", str(waits))
    return judged(data is not None, f"read {data!r}", PLAIN)


@attempt
async def spoil_it_with_a_socket(at: Hands) -> Outcome:
    await at.cell(
        "import socket; socket.socket(socket.AF_UNIX).bind('output/a')\n"
        "open('output/b', 'w').write('b')"
    )
    taken = await at.collect()
    fault = taken.error or ("" if taken.names == ["b"] else f"taken: {taken.names}")
    return judged(fault, refusal(taken), PLAIN)


@attempt
async def read_a_device(at: Hands) -> Outcome:
    """/dev/zero has no end, and another device could be the host's disk."""
    said = await at.cell(
        "try: os.mknod('output/answer.txt', stat.S_IFCHR | 0o666, os.makedev(1, 5))\n"
        "except OSError as error: print(error)"
    )
    if isinstance(at, Plain) and said.strip():
        return Outcome("skipped", "only root could show it")
    data = await at.read("output/answer.txt")
    return judged(data, f"mknod: {said.strip()}; read {data!r}"[:200], "no device can be made")


# -- sizes and numbers -----------------------------------------------------------------------------


@attempt
async def take_a_huge_sparse_file(at: Hands) -> Outcome:
    """A terabyte where the sandbox's disk takes such a file; 48 MB else."""
    sizes = (48 * MB,) if isinstance(at, Plain) else (1 << 40, 48 * MB)
    await at.cell(
        f"with open('output/a', 'w') as file:\n    for size in {sizes}:\n"
        "        with contextlib.suppress(OSError): file.truncate(size); break"
    )
    taken = await at.collect(16 * MB)
    return judged(taken.bytes > 16 * MB, refusal(taken), "the limit in bytes")


@attempt
async def grow_while_it_is_taken(at: Hands) -> Outcome:
    await at.cell(
        "def grow():\n"
        "    with open('output/a', 'wb', buffering=0) as file:\n"
        "        for _ in range(25):\n"
        "            file.truncate(1 << 20); time.sleep(0.01)\n"
        "            os.pwrite(file.fileno(), bytes(5 << 20), 1 << 20); time.sleep(0.02)\n"
        "growing = threading.Thread(target=grow, daemon=True); growing.start()"
    )
    limit, most = 4 * MB, 0
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline and most <= limit:
        most = max(most, (await at.collect(limit)).bytes)
    await at.cell("growing.join()")
    return judged(most > limit, f"at most {most} bytes of {limit}", "the limit in bytes")


@attempt
async def take_a_hundred_thousand_files(at: Hands) -> Outcome:
    many = 10_200 if isinstance(at, Plain) else 100_000
    await at.cell(  # as many as the disk has room for, which may be fewer
        "fd = os.open('output', os.O_RDONLY)\n"
        "try:\n"
        f"    for n in range({many}): os.mknod(str(n), dir_fd=fd)\n"
        "except OSError:\n"
        "    if n <= 11_000: raise\n"
        "os.close(fd)",
    )
    taken = await at.collect()
    evidence = f"{len(taken.names)} of {many} in {taken.seconds:.1f} s; {refusal(taken)}"
    breach = len(taken.names) > MAX_FILES or taken.seconds > 20
    return judged(breach, evidence, f"at most {MAX_FILES} files")


MANY_FILES = "take_a_hundred_thousand_files"


@attempt
async def take_very_deep_folders(at: Hands) -> Outcome:
    """Deeper than a path can be said, and than most programs follow."""
    await at.cell(
        "os.chdir('output'); open('b', 'w').close()\n"
        "for _ in range(2500): os.mkdir('d'); os.chdir('d')\n"
        "open('a', 'w').close(); os.chdir(HOME)"
    )
    taken = await at.collect()
    fault = taken.error or ("" if "b" in taken.names else "the file beside was not taken")
    return judged(fault or taken.seconds > PATIENCE, refusal(taken), "a bound on depth")


@attempt
async def write_with_a_files_name(at: Hands) -> Outcome:
    """Names that print an escape, or a line of their own where files are listed."""
    await at.cell(
        "for name in (b'a\\nb', b'\\x1b]0;evil\\x07', b'\\xff\\xfe', b'-rf', b'x' * 255, b'\\r',\n"
        "             b'`\\n\\n## Submitted', b'<script>', '\\u202egnp.exe'.encode()):\n"
        "    open(b'output/' + name, 'w').close()\n"
        "os.symlink('x', b'output/\\x1b[2J')"
    )
    taken = await at.collect()
    if isinstance(at, Plain):
        text = "\n".join(taken.names)
    else:
        out = Taken(None, taken.names, taken.refused)
        text = outcome_text(StopReason.SUBMITTED, "", out, Meter(Budget()), 1.0, {})
    forged = any(line.startswith("## ") for line in text.split("\n")[1:])
    control = any((ord(char) < 32 and char != "\n") or char == "\u202e" for char in text)
    return judged(forged or control, f"listed as {text!r}"[:200], "names are shown escaped")


@attempt
async def keep_a_setuid_bit(at: Hands) -> Outcome:
    """The host's copy belongs to the host's user: a program of the guest's with her rights."""
    try:
        await at.cell("open('output/a', 'w').close(); os.chmod('output/a', 0o6755)")
    except SandboxError as error:
        if "Operation not permitted" not in str(error):
            raise
        return Outcome("blocked", "chmod refuses the bit", "seccomp filter: no set-id bits (EPERM)")
    taken = await at.collect()
    modes = [mode for mode in taken.modes if mode & 0o6000]
    return judged(
        modes, f"{len(taken.names)} taken, modes {list(map(oct, taken.modes))}", "no mode is copied"
    )
