"""The kernel itself takes too much: memory, output without a bound, a cell that never ends.

The second half of the family "exhaustion". The host watches its own memory and its clock; the
canary is a plain Jupyter kernel with a plain client, which waits and keeps what it is given.
"""

from __future__ import annotations

import time

from lis_kernel.attacks.ground import TIGHT, Ground, Outcome
from lis_kernel.attacks.measure import Peak
from lis_kernel.attacks.stock import Stock, stock_kernel

__all__ = ["run"]

MB = 1 << 20
HURRY = TIGHT.model_copy(update={"grace_seconds": 0.3})
CELL_SECONDS = 0.4
PATIENCE = 8.0
"""Seconds until the sandbox must go on."""
ROOM = 48 * MB

ENDLESS = {
    "ignore_the_interrupt": (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "block_outside_of_python": "import ctypes; ctypes.PyDLL(None).sleep(100)",
    "stop_itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "run_without_end": "while True: pass",
}
FLOODS = {
    "print_without_end": "for _ in range({mb}): print('x' * 1_000_000)",
    "print_from_a_child": (
        "import subprocess\n"
        "subprocess.run(\"head -c {mb}000000 /dev/zero | tr '\\\\0' x\", shell=True)"
    ),
    "display_without_end": (
        "from IPython.display import display\n"
        "for _ in range({mb}): display({{'text/plain': 'x' * 1_000_000}}, raw=True)"
    ),
}
STOCK = {"print_without_end": 12, "print_from_a_child": 3, "display_without_end": 12}
"""Megabytes for the canary: ipykernel reads what a child prints 2 MB in a second."""
HOG = "hog = b'x' * (700 << 20)"


async def run(ground: Ground) -> dict[str, Outcome]:
    if ground.canary:
        async with stock_kernel(ground.folder, polite=False) as kernel:
            return await _stock(kernel)
    return await _ours(ground)


async def _ours(ground: Ground) -> dict[str, Outcome]:
    outcomes = {}
    async with ground.box(HURRY) as box:
        for name, source in FLOODS.items():
            with Peak() as peak:
                result = await box.cell(source.format(mb=60), 25)
            size = sum(len(str(output)) for output in result.outputs)
            evidence = f"{size} bytes in the notebook, the host grew by {peak.grown // MB} MB"
            if size > 2 * box.session.limits.output_bytes or peak.grown > ROOM:
                outcomes[name] = Outcome("breached", evidence)
            elif size < 100:  # else it would not have been tried
                outcomes[name] = Outcome("broken", f"{evidence}: {result.status}")
            else:
                outcomes[name] = Outcome("blocked", evidence, "caps on a cell's output")
            await box.text("import shutil; shutil.rmtree('/tmp/lis', ignore_errors=True)")
        for name, source in {**ENDLESS, "fill_the_kernels_memory": HOG}.items():
            started = time.monotonic()
            timeout = CELL_SECONDS if name in ENDLESS else 20
            result = await box.cell(source, timeout)
            after = await box.text("print(6 * 7)")
            seconds = time.monotonic() - started
            evidence = f"{result.status} ({result.verdict}); it went on after {seconds:.1f} s"
            expected = ("timeout",) if name in ENDLESS else ("oom", "killed", None)
            stopped = result.status != "ok" and result.verdict in expected
            if after != "42\n" or not stopped:
                outcomes[name] = Outcome("breached", evidence)
            elif seconds > PATIENCE and name in ENDLESS:
                outcomes[name] = Outcome("breached", f"the host waited for {seconds:.1f} s")
            else:
                wall = "the host's clock" if name in ENDLESS else "limit on memory"
                outcomes[name] = Outcome("blocked", evidence, f"{wall}, verdict {result.verdict}")
    return outcomes


async def _stock(kernel: Stock) -> dict[str, Outcome]:
    outcomes = {}
    for name, source in FLOODS.items():
        heard = await kernel.outputs(source.format(mb=STOCK[name]))
        size = sum(len(str(content)) for content in heard)
        result = "breached" if size > 2 * TIGHT.output_bytes else "blocked"
        outcomes[name] = Outcome(result, f"stock client: {size} bytes")  # type: ignore[arg-type]
    await kernel.outputs(f"{HOG}\ndel hog")
    outcomes["fill_the_kernels_memory"] = Outcome("breached", "stock kernel: it had 700 MB")
    for name, source in ENDLESS.items():
        try:
            await kernel.outputs(source, CELL_SECONDS)
            outcomes[name] = Outcome("blocked", "the cell ended")
        except TimeoutError:
            outcomes[name] = Outcome("breached", f"stock client: no end after {CELL_SECONDS} s")
        if name != list(ENDLESS)[-1]:
            await kernel.again()
    return outcomes
