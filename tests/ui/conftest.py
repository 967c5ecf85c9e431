"""One real run whose events are kept, for all tests of views; and a runtime folder of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from homes import runtime_folder
from story import bash, python, reply, submit, tell

from lis_kernel.agent.events import Event
from lis_kernel.trajectory import Trajectory

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b]0;t\x07\u202e"
FRAME = """import pandas as pd
print('\\x1b[31mred\\x1b[0m & <b>bold</b>\\r\\n10%\\r99%', flush=True)
pd.DataFrame({'city': ['Oslo', '<i>Bergen</i>'], 'sold': [3, 4]})"""
PLOT = """import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
plt.savefig('/testbed/output/plot.png', dpi=40)
plt.show()"""
FILES = f"""cd /testbed/output
printf 'city,sold\\nOslo,3\\n' > table.csv
printf '%s' {"'<b>report</b>'"} > report.txt
exit 3"""


@dataclass(frozen=True)
class Story:
    """A run as it was told, and what became of it."""

    events: list[Event]
    trajectory: Trajectory


@pytest.fixture(autouse=True, scope="session")
def runtime() -> Iterator[Path]:
    with runtime_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def story(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A run in a real sandbox whose model says, runs and leaves behind all that a view may show."""
    events: list[Any] = []
    work = tell(
        tmp_path_factory.mktemp("story"),
        reply(python(FRAME), text="**Look** first.\n\n- a\n- b", reasoning=HOSTILE),
        reply(python(PLOT), text=HOSTILE),
        reply(python("1 / 0"), bash(FILES), text="<b>tags</b>"),
        reply(text="nothing to do"),
        reply(submit(f"42 {HOSTILE}"), text="Done."),
        prompt=f"What is it? {HOSTILE}",
        on_event=events.append,
        budget={"turns": 20, "tokens": 100_000, "seconds": 600},
    )
    trajectory, _ = asyncio.run(work)
    return Story(events, trajectory)
