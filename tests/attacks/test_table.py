from __future__ import annotations

from pathlib import Path

from lis_kernel.attacks.suite import Finding
from lis_kernel.attacks.table import BEGIN, END, write


def test_the_table_is_put_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "SECURITY.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    shown = "breached: read it"
    first = Finding("read_it", "host files", "bubblewrap", "blocked", "a | wall (ENOENT)", shown)
    second = Finding("read_it", "host files", "docker", "breached", "", shown)
    other = Finding("only_here", "network", "docker", "skipped", "skipped: no SCTP", "skipped: x")
    write(page, [[first], [second, other]])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| host files | 1 | 1 blocked | 1 breached | 1 |" in text
    row = "| host files: read it | a / wall (ENOENT) | **BREACHED** | breached |"
    assert row in text.splitlines()
    assert "| network: only here | – | skipped: no SCTP | skipped |" in text.splitlines()
    write(page, [[first]])
    assert page.read_text().count(BEGIN) == 1
