"""A run under an allow-list: what works, what is refused, and that both stand in the notebook."""

from __future__ import annotations

from pathlib import Path

import pytest
from boxes import BACKENDS
from story import bash, cells, python, reply, shown, submit, tell

from lis_kernel.agent import events
from lis_kernel.agent.prompts import network_sentence, refused_hosts
from lis_kernel.config import SandboxConfig
from lis_kernel.trajectory.notebook import KEY
from lis_kernel.types import Attempt, StopReason

ASK = """
import urllib.request
try:
    urllib.request.urlopen("https://elsewhere.example/data.csv")
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_index_is_reached_and_another_host_is_refused(
    tmp_path: Path, backend: str
) -> None:
    told: list[events.Event] = []
    run, model = await tell(
        tmp_path,
        reply(bash("pip install roman")),
        reply(python("import roman\nprint(roman.toRoman(2026))"), python(ASK)),
        reply(submit("MMXXVI")),
        sandbox=SandboxConfig(backend=backend, network="allow=index"),
        on_event=told.append,
    )
    assert run.stop_reason is StopReason.SUBMITTED
    assert run.notebook["metadata"][KEY]["sandbox"]["network"] == "allow=index"
    installed, used, asked, _ = (cell["metadata"][KEY] for cell in cells(run))
    if any(attempt["reason"] for attempt in installed.get("network", [])):
        pytest.skip(f"the package index cannot be reached from here: {installed['network']}")
    assert installed["status"] == "ok"
    assert installed["network"] and all(attempt["allowed"] for attempt in installed["network"])
    assert "network" not in used
    assert asked["network"] == [
        {
            "host": "elsewhere.example",
            "port": 443,
            "allowed": False,
            "reason": "elsewhere.example is not on the sandbox's allow-list",
        }
    ]
    roman, refused = shown(model)
    assert "MMXXVI" in roman and "network policy" not in roman
    note = "refused by the network policy: elsewhere.example:443"
    assert f"\n[{note}]" in refused and "403" in refused
    assert events.Note(note) in told
    system = model.prompts[0][0]
    assert "`pip install` works" in getattr(system, "text", "")


def test_the_model_is_told_what_it_may_reach() -> None:
    assert network_sentence("none") == "There is no network."
    said = network_sentence("allow=!db.example:5432,*.example.org,index")
    assert "db.example:5432, *.example.org, the package index" in said and "!" not in said
    assert network_sentence("of some other backend") == "Network: of some other backend."


def test_refused_hosts_are_named_once_and_not_all() -> None:
    attempts = [Attempt(host=f"h{n % 7}.example", port=80, allowed=False) for n in range(50)]
    said = refused_hosts([*attempts, Attempt(host="good.example", port=80, allowed=True)])
    assert said.count("h0.example") == 1 and said.endswith("and 2 more") and "good" not in said
    assert refused_hosts([]) == ""
    assert refused_hosts([Attempt(host="?", port=0, allowed=False, reason="a bad request")]) == ""
