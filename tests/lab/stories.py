"""Tasks that the scripted model works at in these tests, as files for `--model scripted:FILE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from story import bash, call, python, reply, submit

__all__ = ["ENDLESS", "HUNG", "SALES", "SLOW", "TASK", "script"]

TASK = "Which city sold the most? Plot the sales by month and hand over the picture."
DATA = "city,month,sold\nOslo,1,30\nOslo,2,45\nBergen,1,80\nBergen,2,65\nOslo,3,52\nBergen,3,71\n"
FRAME = """import pandas as pd
sales = pd.read_csv("sales.csv")
sales.groupby("city")["sold"].agg(["sum", "mean"]).round(1)"""
PLOT = """import matplotlib.pyplot as plt
sales.pivot(index="month", columns="city", values="sold").plot.bar(figsize=(6, 3), rot=0)
plt.savefig("output/sales.png")"""
HOSTILE = """from IPython.display import HTML, display
display(HTML("<b>a report</b><script>window.owned = 1</script>"
             "<img src=x style='display:none' onerror='window.owned = 2'>"))"""

SALES = [
    reply(
        bash(f"cat > sales.csv <<'END'\n{DATA}END\nwc -l sales.csv"),
        text="I write the table down first and look at its size.",
    ),
    reply(python(FRAME), text="Now the sums by city."),
    reply(python(PLOT), text="Bergen is ahead. The **plot**, month by month:"),
    reply(python("sales['revenue']"), text="Is there a column of revenues?"),
    reply(python("for n in range(200): print('row', n)"), text="There is none. All rows:"),
    reply(python(HOSTILE), call("fetch", url="http://example.com"), text="A report:"),
    reply(submit("Bergen"), text="Bergen sold 216, Oslo 127."),
]


SLOW = [
    *SALES[:3],
    reply(
        bash("for n in $(seq 10); do echo step $n; sleep 1; done"),
        text="This takes a while.",
    ),
    reply(python("print('found', 'left' in globals())"), text="Did anybody leave something?"),
    SALES[-1],
]
"""Long enough for a person to step in."""
HUNG = [
    reply(bash("cat input/cities.csv")),
    reply(bash("echo begun; sleep 3; echo done"), text="This takes too long."),
    reply(python("print(open('/testbed/input/cities.csv').read().split(','))")),
    reply(submit("Oslo")),
]
"""With a file of the person's, and with a cell that is stopped after a second."""
ENDLESS = [reply(bash("echo begun; sleep 600"), text="This takes for ever.")]


def script(path: Path, replies: list[dict[str, Any]]) -> str:
    """The model's name in the folder of `path`, to which its replies are written."""
    path.write_text(json.dumps(replies))
    return f"scripted:{path.name}"
