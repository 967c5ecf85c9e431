"""Attempts that race with the host's copying, and attempts on what the host puts into the sandbox.

The second half of the family "files out"; see `files_out.py`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from lis_kernel.attacks.ground import Outcome, judged
from lis_kernel.attacks.hands import ATTEMPTS, NO_LINKS, Hands, Plain, Waits, attempt

RACE_SECONDS, RACE_AT_MOST = 0.6, 6.0
PATIENCE = 3.0

# -- races -----------------------------------------------------------------------------------------

SWAP = """
import os, shutil, time
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    try:
        {swap}
    except OSError:  # what the host puts there is in the way now and then
        for folder in ('d', 'output/d'):
            shutil.rmtree(folder, ignore_errors=True)
        os.makedirs('output/d', exist_ok=True)
"""
SWAP_FILE = "os.symlink(SECRET, 't'); os.rename('t', 'output/a'); open('t', 'w').close(); "
SWAP_FILE += "os.rename('t', 'output/a')"
SWAP_FOLDER = "os.rename('output/d', 'd'); os.symlink(LINK, 'output/d'); os.unlink('output/d'); "
SWAP_FOLDER += "os.rename('d', 'output/d')"


async def _race(
    at: Hands, prepare: str, swap: str, strike: Callable[[], Awaitable[str]]
) -> Outcome:
    """Strike again and again while the guest swaps; `strike` says what it got, if anything."""
    await at.cell(prepare)
    source = SWAP.format(seconds=RACE_AT_MOST, swap=swap)
    await at.cell(
        "import subprocess, sys\n"
        f"words = f'SECRET, OUTSIDE, MARKS = {{SECRET!r}}, {{OUTSIDE!r}}, {{MARKS!r}}'\n"
        f"swap = subprocess.Popen([sys.executable, '-c', words + {source!r}])"
    )
    seen, rounds = "", 0
    started = time.monotonic()
    at_least = RACE_AT_MOST if isinstance(at, Plain) else RACE_SECONDS
    while not seen and time.monotonic() - started < at_least:
        seen = await strike()
        rounds += 1
    said = await at.cell("print(swap.poll()); swap.kill(); print(swap.wait())")
    if said.split()[0] != "None" and not seen:
        return Outcome("broken", f"the guest's side ended with {said.split()[0]}")
    return judged(seen, f"{rounds} rounds", NO_LINKS)


@attempt
async def swap_a_file_for_a_link(at: Hands) -> Outcome:
    async def strike() -> str:
        return (await at.collect(checked="output/a")).stolen

    return await _race(at, "pass", SWAP_FILE, strike)


@attempt
async def swap_a_folder_for_a_link(at: Hands) -> Outcome:
    async def strike() -> str:
        return (await at.collect(checked="output/d/secret")).stolen

    prepare = "os.mkdir('output/d'); open('output/d/secret', 'w').close()"
    return await _race(at, prepare, SWAP_FOLDER.replace("LINK", "OUTSIDE"), strike)


@attempt
async def swap_a_folder_that_files_go_into(at: Hands) -> Outcome:
    async def strike() -> str:
        await at.put(at.given, "output/d/raced", checked="output/d")
        return at.marked("raced")

    return await _race(at, "os.mkdir('output/d')", SWAP_FOLDER.replace("LINK", "MARKS"), strike)


# -- ways in ---------------------------------------------------------------------------------------


def _put(name: str, source: str, target: str, mark: str, *, folder: bool = False) -> None:
    async def function(at: Hands) -> Outcome:
        await at.cell(source)
        said = await at.put(at.given_folder if folder else at.given, target)
        return judged(at.marked(mark), said or "written in the sandbox", NO_LINKS)

    ATTEMPTS[name] = function


_put("put_into_a_linked_folder", "os.symlink(MARKS, 'output/in')", "output/in/one", "one")
_put(
    "put_over_a_linked_file",
    "os.symlink(MARKS + '/two', 'output/two')",
    "output/two",
    "two",
)
_put(
    "put_a_folder_over_links",
    "os.makedirs('output/tree'); os.symlink(MARKS, 'output/tree/sub')",
    "output/tree",
    "three",
    folder=True,
)


@attempt
async def hold_up_what_is_put_in(at: Hands) -> Outcome:
    await at.cell("os.mkfifo('output/a')")
    started = time.monotonic()
    try:
        await at.put(at.given, "output/a")
    except Waits as waits:
        return Outcome("breached", str(waits))
    seconds = time.monotonic() - started
    return judged(seconds > PATIENCE, f"{seconds:.2f} s", "what is in the way is replaced")


@attempt
async def link_the_files_of_the_next_kernel(at: Hands) -> Outcome:
    """What the host writes before it starts a kernel again, in a folder that is the guest's."""
    names = ("connection.json", "boot.json", "kernel.log")
    await at.restart_over(
        f"for name in {names}:\n"
        "    if os.path.lexists(f'{RUN}/{name}'): os.unlink(f'{RUN}/{name}')\n"
        "    os.symlink(f'{MARKS}/{name}', f'{RUN}/{name}')"
    )
    seen = next((seen for name in names if (seen := at.marked(name))), "")
    return judged(seen, "the next kernel started", "they are made anew, each under a free name")
