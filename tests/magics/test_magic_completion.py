"""Tab completion, through a real kernel's complete_request."""

from __future__ import annotations

import pytest
from user_notebook import Notebook

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("%%sandbox --ti|\nx", ["--timeout"]),
        ("%%sandbox -n box -b z|", ["zygote"]),
        ("%%sandbox -b |", ["bubblewrap", "docker", "local", "podman", "zygote"]),
        ("%%sandbox -n f|", ["first"]),
        ("%%sandbox -n first b|", ["bash"]),
        ("%%sandbox --network allow=i|", ["allow=index"]),
        ("%%sandbox -i my_v|", ["my_variable"]),
        ("%%sandbox --agent --max-c|", ["--max-cost"]),
        ("%%agent -n |", ["first"]),
        ("%%agent -m local/qwen2.5-coder-1.5|", ["local/qwen2.5-coder-1.5b"]),
        ("%%agent --protocol |", ["blocks", "tools"]),
        ("%%agent -f da|\nDo it", ["data.csv"]),
        ("%sandbox re|", ["restart"]),
        ("%sandbox stop |", ["first"]),
        ("%sandbox put da|", ["data.csv"]),
        ("%sandbox ls\n%sandbox st|", ["stop"]),
        ("%agent res|", ["resume"]),
        ("%agent say -n |", ["first"]),
    ],
)
def test_options_names_and_values(started: Notebook, text: str, offered: list[str]) -> None:
    if not (started.folder / "data.csv").exists():
        (started.folder / "data.csv").write_text("")
        started.run("my_variable = 1")
        started.run("%%sandbox -n first\ninside_only = 1")
    assert started.complete(text) == offered


def test_the_sandboxs_own_names(started: Notebook) -> None:
    started.run("%%sandbox -n second\ninside_too = 'x'\nimport json")
    assert started.complete("%%sandbox -n second\ny = 1\ninside_t|") == ["inside_too"]
    assert "json.dumps" in started.complete("%%sandbox -n second\njson.dum|", whole=False) or (
        "dumps" in started.complete("%%sandbox -n second\njson.dum|", whole=False)
    )
    assert started.complete("%%sandbox -n not_there\ninside_t|") == []


def test_what_a_hostile_kernel_offers(started: Notebook) -> None:
    started.run(
        "%%sandbox -n hostile\n"
        "ip = get_ipython()\n"
        "bad = ['ab\\x1b]0;t\\x07', 'a\\nb', 'ab', 'a' * 9999, 7]\n"
        "ends = {'cursor_start': 0, 'cursor_end': 1, 'metadata': {}, 'status': 'ok'}\n"
        "ip.kernel.do_complete = lambda code, cursor: {'matches': bad, **ends}"
    )
    assert started.complete("%%sandbox -n hostile\na|") == ["ab"]


def test_usual_completion_is_untouched(started: Notebook) -> None:
    assert "print" in started.complete("pri|")
    assert "%sandbox" in started.complete("%sandb|", whole=False)
    assert "%%sandbox" in started.complete("%%sandb|", whole=False)
    assert "started" not in started.complete("import os\nos.pa|", whole=False)
