"""A run's notebook that a Jupyter server opens again: its files are there, what hung waits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jupyter_client.manager import AsyncKernelManager
from story import bash, cells, python, reply, submit, tell

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.kernel import reopened
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.trajectory import inputs
from lis_kernel.trajectory.notebook import code_cell, new_notebook
from lis_kernel.trajectory.opened import MOST_HELD, Opened

pytestmark = pytest.mark.bwrap

BACKENDS = pytest.mark.parametrize(
    "backend", ["zygote", "bubblewrap", pytest.param("docker", marks=pytest.mark.docker)]
)
LIST = "%%bash\ncd /testbed/input && find . -type f | sort && cat $(find . -type f | sort)"


class Front:
    """Asks for cells as JupyterLab does: with their ids."""

    def __init__(self, manager: AsyncKernelManager) -> None:
        self.manager = manager
        self.client = manager.client()

    async def ready(self) -> None:
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=60)

    async def run(self, source: str, cell_id: str = "new") -> str:
        """What it printed; the reply must say that all went well."""
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
        session = self.client.session
        asked = session.msg("execute_request", content, metadata={"cellId": cell_id})
        self.client.shell_channel.send(asked)
        said = ""
        while True:
            message = await self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == asked["header"]["msg_id"]:
                said += message["content"].get("text", "")
                if message["content"].get("execution_state") == "idle":
                    break
        answer: dict[str, Any] = {"parent_header": {}}
        while answer["parent_header"].get("msg_id") != asked["header"]["msg_id"]:
            answer = await self.client.get_shell_msg(timeout=60)
        assert answer["content"]["status"] == "ok", answer["content"]
        self.count = answer["content"]["execution_count"]
        return said


@asynccontextmanager
async def front(name: str, notebook: Path) -> AsyncIterator[Front]:
    manager = AsyncKernelManager(kernel_name=name)
    await manager.start_kernel(env={**os.environ, "JPY_SESSION_NAME": str(notebook)})
    made = Front(manager)
    try:
        await made.ready()
        yield made
    finally:
        made.client.stop_channels()
        await manager.shutdown_kernel(now=True)


@BACKENDS
async def test_a_run_is_executed_again_with_its_files_and_without_what_hung(
    jupyter, tmp_path: Path, caplog, backend: str
) -> None:
    (tmp_path / "sales.csv").write_text("Oslo,3\n")
    (tmp_path / "more" / "inner").mkdir(parents=True)
    (tmp_path / "more" / "inner" / "b.csv").write_text("Bergen,4\n")
    story = (
        reply(bash("cat input/sales.csv input/more/inner/b.csv")),
        reply(bash("echo first; sleep 2; echo then")),
        reply(python("import os; os.kill(os.getpid(), 9)")),
        reply(python("print(open('/testbed/input/sales.csv').read())")),
        reply(submit("7")),
    )
    run, _ = await tell(
        tmp_path / "runs",
        *story,
        files=[tmp_path / "sales.csv", tmp_path / "more"],
        limits={"cell_seconds": 1},
    )
    async with front(jupyter(backend=backend), run.path) as jupyterlab:
        said = [
            await jupyterlab.run(cell["source"], cell["id"])
            for cell in run.notebook["cells"]
            if cell["cell_type"] == "code"
        ]
        assert said[1:5] == [
            "Oslo,3\nBergen,4\n",
            "Not run: when this was recorded, it ran out of time (tag skip-execution). "
            "Run the cell once more to run it.\n",
            "Not run: when this was recorded, the kernel ended in it (tag skip-execution). "
            "Run the cell once more to run it.\n",
            "Oslo,3\n\n",
        ]
        assert jupyterlab.count == 6  # those that were not run have their numbers
        assert await jupyterlab.run("print(In[3].splitlines()[0])") == "%%bash\n"

        slow = cells(run)[1]
        assert await jupyterlab.run(slow["source"], slow["id"]) == "first\nthen\n"
        await jupyterlab.manager.restart_kernel()
        await jupyterlab.client.wait_for_ready(timeout=60)
        assert "Not run" in await jupyterlab.run(slow["source"], slow["id"])
        assert await jupyterlab.run("print(len(open('/testbed/input/sales.csv').read()))") == "7\n"
    assert caplog.text == ""


async def test_a_kernel_by_argv_alone_does_the_same(jupyter, tmp_path: Path) -> None:
    notebook = stored(tmp_path / "run.ipynb", file(tmp_path / "a.txt", "1"))
    async with front(jupyter(provisioner=False), notebook) as jupyterlab:
        assert await jupyterlab.run(LIST) == "./a.txt\n1"
        assert "Not run" in await jupyterlab.run("1", "slow")
        assert await jupyterlab.run("print(2)", "slow") == "2\n"


async def test_what_is_saved_meanwhile_holds_after_a_restart(jupyter, tmp_path: Path) -> None:
    notebook = stored(tmp_path / "run.ipynb")
    async with front(jupyter(), notebook) as jupyterlab:
        assert "Not run" in await jupyterlab.run("1", "slow")
        notebook.write_text(notebook.read_text().replace("skip-execution", "raises-exception"))
        await jupyterlab.manager.restart_kernel()
        await jupyterlab.client.wait_for_ready(timeout=60)
        assert await jupyterlab.run("print(2)", "slow") == "2\n"


@pytest.mark.parametrize("backend", ["zygote", "bubblewrap"])
async def test_a_thousand_held_cells_are_no_burden(jupyter, tmp_path: Path, backend) -> None:
    notebook = tmp_path / "run.ipynb"
    tags, names = ["skip-execution"], [f"{n:064}" for n in range(2 * MOST_HELD)]
    book = {**new_notebook({}), "cells": [code_cell(name, "", tags) for name in names]}
    notebook.write_text(json.dumps(book))
    async with front(jupyter(backend=backend), notebook) as jupyterlab:
        assert "Not run" in await jupyterlab.run("1", names[MOST_HELD - 1])
        assert await jupyterlab.run("print(2)", names[MOST_HELD]) == "2\n"


async def test_a_moved_project_still_has_its_files(jupyter, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "a.txt").write_text("1")
    run, _ = await tell(project / "runs", reply(submit("7")), files=[project / "a.txt"])
    assert str(tmp_path) not in json.dumps(run.metadata["task"])
    project.rename(tmp_path / "moved")
    notebook = tmp_path / "moved" / run.path.relative_to(project)
    async with front(jupyter(), notebook) as jupyterlab:
        assert await jupyterlab.run(LIST) == "./a.txt\n1"
    # who is sent both puts them beside each other
    (tmp_path / "sent").mkdir()
    for path in (notebook, tmp_path / "moved" / "a.txt"):
        path.rename(tmp_path / "sent" / path.name)
    async with front(jupyter(), tmp_path / "sent" / notebook.name) as jupyterlab:
        assert await jupyterlab.run(LIST) == "./a.txt\n1"


async def test_jupyter_execute_has_the_files_if_it_is_told_the_notebook(
    jupyter, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("1")
    told = reply(bash("cat input/a.txt; sleep $(cat input/a.txt)0")), reply(submit("7"))
    given = {"files": [tmp_path / "a.txt"], "limits": {"cell_seconds": 1}}
    run, _ = await tell(tmp_path / "runs", reply(bash("cat input/a.txt")), *told, **given)
    jupyter()
    words = ("from nbclient.cli import main; main()", "--output", "again", run.path.name)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", *words], capture_output=True, text=True, timeout=90, check=False,
        cwd=run.path.parent, env={**os.environ, "JPY_SESSION_NAME": run.path.name},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    again = json.loads(run.path.with_name("again.ipynb").read_text())["cells"]
    said = {cell["id"]: cell.get("outputs") for cell in again}
    assert said[cells(run)[0]["id"]][0]["text"] == ["1"]


async def test_a_run_without_files_records_none(tmp_path: Path, runtime: Path) -> None:
    run, _ = await tell(tmp_path / "runs", reply(submit("7")))
    assert run.metadata["task"] == {"prompt": "Do it.", "files": []}


# -- strangers' notebooks ----------------------------------------------------------------------


def file(path: Path, text: str) -> dict[str, Any]:
    """A file of the host's, and the record by which a notebook beside it may have it."""
    path.write_text(text)
    return dict(inputs.record(path.name, path, path.parent))


def stored(notebook: Path, *given: Any) -> Path:
    book = new_notebook({"task": {"prompt": "x", "inputs": list(given)}})
    book["cells"] = [code_cell("slow", "1", ["skip-execution"], status="timeout")]
    notebook.write_text(json.dumps(book))
    return notebook


def hostile(folder: Path) -> tuple[list[Any], list[str]]:
    """Records that give nothing, and of each what the log says."""
    secret = folder / "secret"
    secret.write_text("the host's")
    known = dict(inputs.record("secret", secret, folder))
    changed = file(folder / "changed", "1234")
    (folder / "changed").write_text("1235")
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to(folder / "loop")
    other = {"sha256": hashlib.sha256(b"a guess").hexdigest(), "bytes": len("the host's")}
    cases: list[tuple[Any, str]] = [
        ({**known, **other}, "'secret' is left out: it was changed"),
        ({**known, "bytes": 7}, "'secret' is left out: it was changed"),
        (changed, "'changed' is left out: it was changed"),
        ({**known, "name": "gone", "path": "gone"}, "'gone' is left out: No such file"),
        ({**known, "name": "fifo", "path": None}, "'fifo' is left out: it is, or holds, something"),
        ({**known, "name": "loop", "path": None}, "'loop' is left out: Too many levels of"),
        ({**known, "name": "kmsg", "path": "/proc/kmsg"}, "'kmsg' is left out: "),
        ({**known, "name": "zero", "path": "/dev/zero"}, "'zero' is left out: it is, or holds"),
        ({**known, "name": "root", "path": "/"}, "'root' is left out: it was changed"),
        ({**known, "name": "../up"}, "'../up' is left out: its record is none"),
        (
            {**known, "name": "a\nb\x1b[2J", "path": None},
            r"'a\nb\x1b[2J' is left out: No such file",
        ),
        ({**known, "path": "\0"}, "'secret' is left out: its record is none"),
        ({**known, "name": 7}, "without a name is left out: its record is none"),
        (None, "without a name is left out: its record is none"),
        ({}, "without a name is left out: its record is none"),
    ]
    return [given for given, _ in cases], [said for _, said in cases]


async def test_a_stranger_s_notebook_gets_nothing_that_it_does_not_know(
    jupyter, tmp_path: Path, caplog
) -> None:
    given, said = hostile(tmp_path)
    good = file(tmp_path / "good", "known")
    notebook = stored(tmp_path / "run.ipynb", *given, good)
    async with front(jupyter(), notebook) as jupyterlab:
        assert await jupyterlab.run(LIST) == "./good\nknown"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert words in line and "\n" not in line


@pytest.mark.timeout(120)
async def test_files_that_fill_the_disk_cost_no_kernel(jupyter, tmp_path: Path, caplog) -> None:
    """They are within its bytes, but there are more than such a disk has room for."""
    many = tmp_path / "many"
    many.mkdir()
    for n in range(2000):
        (many / str(n)).write_text("x")
    notebook = stored(tmp_path / "run.ipynb", dict(inputs.record("many", many, tmp_path)))
    name = jupyter(limits={"disk_bytes": 1 << 20})
    async with front(name, notebook) as jupyterlab:
        assert await jupyterlab.run("print(6 * 7); open('/testbed/new', 'w').write('x')") == "42\n"
    assert "'many' is left out: No space left" in caplog.text


@pytest_asyncio.fixture
async def box(runtime: Path) -> AsyncIterator[BubblewrapSandbox]:
    sandbox = BubblewrapSandbox(SandboxConfig(backend="bubblewrap"), Limits())
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.stop()


def put(box: BubblewrapSandbox, folder: Path, given: Any, room: int = 1 << 20) -> list[str]:
    """What the log says."""
    said: list[str] = []
    ours = {"schema": 1, "task": {"inputs": given}}
    reopened.put_inputs(box, Opened(folder / "run.ipynb", ours, {}), room, said.append)
    return said


async def test_work_is_bounded_for_all_files_together(box, tmp_path: Path) -> None:
    first = file(tmp_path / "first", "x" * 600)
    big = file(tmp_path / "big", "x" * 600)
    wrong = {**first, "name": "wrong", "sha256": "0" * 64}
    said = put(box, tmp_path, [wrong, first, big], 1000)  # of a wrong guess the work counts too
    assert [line.rpartition(": ")[2] for line in said] == [
        "it was changed",
        *["it takes more than the 400 bytes that are left"] * 2,
    ]
    assert box.listing("/testbed/input", 10) == []


async def test_thousands_of_records_are_thousands_of_nothing(box, tmp_path: Path) -> None:
    one = file(tmp_path / "one", "x")
    said = put(box, tmp_path, [one] * 100_000)
    assert box.listing("/testbed/input", 10) == [("one", 1)]
    assert "'one' is left out: another one has its name" in said[0]
    assert len(said) == reopened.WARNINGS + 1


async def test_a_file_that_changes_while_it_is_put_in_is_not_put_in(
    box, tmp_path: Path, monkeypatch
) -> None:
    known = file(tmp_path / "file", "known ")
    real_put = box.put

    def late(source: Path, target: str) -> None:
        (tmp_path / "file").write_text("secret")
        real_put(source, target)

    monkeypatch.setattr(box, "put", late)
    assert put(box, tmp_path, [known]) == []
    assert box.read("/testbed/input/file", 10) == b"known "
    left = list(Path(os.environ.get("TMPDIR", "/tmp")).glob("lis-inputs-*"))
    assert left == [], "private copies were left"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
records = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["secret", "..", "a/b", ".", "x" * 300]) | json_values,
        "path": st.sampled_from(["secret", "..", "/", "/proc/self", "\0"]) | json_values,
        "sha256": st.sampled_from(["0" * 64, "0"]) | json_values,
        "bytes": st.sampled_from([0, 10, -1, True]) | json_values,
    },
)


async def test_no_metadata_makes_it_fail_or_gets_a_secret(box, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the host's")

    @settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.lists(records | json_values, max_size=5) | json_values)
    def check(given: Any) -> None:
        said = put(box, tmp_path, given)
        assert all("\n" not in line and len(line) < 500 for line in said)
        assert box.listing("/testbed/input", 10) == []

    await asyncio.to_thread(check)
