"""Rows of a sandbox's state: its files as they were at the start, and a second running copy.

`fs_reset` is timed after a cell has written 50 files, and each time they must be gone; it ends the
kernel as well, and how long the next one's first reply takes is told beside it, as is a branch of
the files. The rival removes its container and runs a new one from the image. `live_branch` ends
with the branch's first reply, in which the parent's variable must be known; its rival commits the
container's files and runs the image that comes of it, without any memory of processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from statistics import median
from time import perf_counter

import rivals
from harness import Contender, Row, interleave
from ours import Settings, end, ms, of_sandbox, ok, opened, text

NAMES = ("fs_reset", "live_branch")
APART = True
MESS = (
    "import pathlib\nfor n in range(50):\n"
    "    pathlib.Path(f'/testbed/mess{n}').write_text('x' * 1000)\n"
    "len(list(pathlib.Path('/testbed').glob('mess*')))"
)
LEFT = "import pathlib\nlen(list(pathlib.Path('/testbed').glob('mess*')))"
MESS_SHELL = "for n in $(seq 50); do head -c 1000 /dev/zero > mess$n; done"
IMAGE = "lis-bench-branch:1"


async def measure(names: Collection[str], settings: Settings) -> list[Row]:
    measures = {"fs_reset": reset, "live_branch": branch}
    rows = [Row(name, "ms", []) for name in names]
    for row in rows:
        await measures[row.name](row, settings)
    return rows


async def reset(row: Row, settings: Settings) -> None:
    async with opened(settings.backend) as session:
        again, twin = of_sandbox(session, "reset"), of_sandbox(session, "branch")

        async def ours() -> dict[str, float]:
            if text(await ok(session, MESS)) != "50":
                raise RuntimeError("the files to be reset were not written")
            began = perf_counter()
            other = await twin()
            branched = ms(began)
            copied = other.read("/testbed/mess49", 2000)
            await other.stop()
            if copied != b"x" * 1000:
                raise RuntimeError("the branch has not its parent's files")
            began = perf_counter()
            await again()
            took = ms(began)
            await session.start()
            replied = ms(began)
            if (left := text(await ok(session, LEFT))) != "0":
                raise RuntimeError(f"{left} files were left by the reset")
            return {"took": took, "replied": replied, "branched": branched}

        contenders: dict[str, Contender] = {"ours": ours}
        if settings.docker and (reason := rivals.no_docker()):
            row.notes.append(f"no rival in a container: {reason}")
        elif settings.docker:
            contenders["docker run anew"] = anew
        samples = await interleave(contenders, settings.rounds(50), at_most={"docker run anew": 10})
    row.values, row.rivals = samples.of("ours", "took"), samples.rivals("took")
    row.also["reset_to_first_reply_ms"] = median(samples.of("ours", "replied"))
    row.also["fs_branch_ms"] = median(samples.of("ours", "branched"))


async def anew() -> dict[str, float]:
    async with contextlib.AsyncExitStack() as stack:
        box = await stack.enter_async_context(rivals.Exec())
        await box.run(MESS_SHELL)
        began = perf_counter()
        await stack.aclose()
        async with rivals.Exec() as fresh:
            took = ms(began)
            if b"mess" in await fresh.run("ls"):
                raise RuntimeError("the rival's new container is not new")
    return {"took": took}


async def branch(row: Row, settings: Settings) -> None:
    async with opened(settings.backend, branch=True) as session:
        await ok(session, "kept = list(range(1000)); open('/testbed/kept', 'w').write('kept')")

        async def ours() -> dict[str, float]:
            began = perf_counter()
            other = await session.branch()
            try:
                said = text(await ok(other, "sum(kept), open('/testbed/kept').read()"))
                took = ms(began)
            finally:
                await end(other)
            if said != "(499500, 'kept')":
                raise RuntimeError(f"the branch does not know what its parent knew: {said}")
            return {"took": took}

        contenders: dict[str, Contender] = {"ours": ours}
        if settings.docker and (reason := rivals.no_docker()):
            row.notes.append(f"no rival in a container: {reason}")
        elif settings.docker:
            contenders["docker commit, run"] = commit
        samples = await interleave(
            contenders, settings.rounds(30), at_most={"docker commit, run": 10}
        )
    row.values, row.rivals = samples.of("ours", "took"), samples.rivals("took")


async def commit() -> dict[str, float]:
    async with rivals.Exec() as box:
        await box.run("echo kept > kept")
        began = perf_counter()
        await box.commit(IMAGE)
        try:
            async with rivals.Exec(IMAGE) as other:
                said = await other.run("cat kept")
                took = ms(began)
        finally:
            await box.forget(IMAGE)
    if said.strip() != b"kept":
        raise RuntimeError("the rival's branch has not its parent's files")
    return {"took": took}
