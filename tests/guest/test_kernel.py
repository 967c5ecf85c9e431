"""The kernel made before the fork: alone in its process, like any other to clients.

Most of it stands on names of ipykernel and IPython that are not public: a new release that breaks
one is found here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from forks import Forks  # type: ignore[import-not-found]

pytest.importorskip("numpy")
THREADS = 5
"""Cells, outputs, control, and libzmq's two."""


@pytest.fixture(scope="module")
def forks():
    folder = Path(tempfile.mkdtemp(prefix="lis-f-", dir="/tmp"))
    made = Forks(folder, ("numpy", "numpy.random"))
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_preloading_leaves_no_thread_and_no_descriptor(forks) -> None:
    assert os.listdir(f"/proc/{forks.process.pid}/task") == [str(forks.process.pid)]
    names = os.listdir(f"/proc/{forks.process.pid}/fd")
    assert sorted(map(int, names)) == [0, 1, 2, forks.owner_read]


def test_a_package_that_starts_a_thread_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "busy.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="threads and descriptors"):
        Forks(tmp_path, ("busy",))


def test_siblings_share_no_identity_and_no_chance(forks) -> None:
    code = """
import random, uuid, numpy, os, tempfile
app = get_ipython().kernel.parent
print(app.session.session, app.session.key, app.kernel.ident)
print(get_ipython().display_pub.session.session)
print(random.random(), numpy.random.rand(), uuid.uuid4(), tempfile.mkstemp()[1])
"""
    one, two = (forks.start().run(code).split() for _ in range(2))
    assert len(one) == len(two) == 8
    assert one[0] == one[3]
    assert not set(one) & set(two)


def test_nothing_is_seen_of_the_rehearsal(forks) -> None:
    fork = forks.start()
    assert fork.run("%who") == "Interactive namespace is empty.\n"
    assert fork.run("len(In), Out, _, __") == "(3, {}, '', '')\n"
    assert fork.run("import sys; hasattr(sys, 'last_value'), type(get_ipython()).__name__") == (
        "(False, 'ZMQInteractiveShell')\n"
    )
    assert fork.run("import os; os.path.basename(_dh[0]) == os.path.basename(os.getcwd())") == (
        "True\n"
    )


def test_a_stock_client_is_served(forks) -> None:
    fork = forks.start()
    assert fork.run("1 + 1") == "2\n"
    assert fork.run("import asyncio\nawait asyncio.sleep(0)\nprint('awaited')") == "awaited\n"
    assert fork.run("%%bash\necho hi") == "hi\n"
    assert fork.run("!echo hi").split() == ["hi"]
    reply = fork.client.complete("impor", reply=True, timeout=20)
    assert "import" in reply["content"]["matches"]
    info = fork.client.kernel_info(reply=True, timeout=20)["content"]
    assert "kernel subshells" not in info["supported_features"]
    replies = iter(["typed"])
    said = fork.run(
        "print(input())",
        allow_stdin=True,
        stdin_hook=lambda _: fork.client.input(next(replies)),
    )
    assert said == "typed\n"


def test_the_heartbeat_begins_with_its_first_client_and_needs_no_turn(forks) -> None:
    fork = forks.start()  # a client asks for the heart at once, and closes no connection
    fork.client.hb_channel.unpause()
    deadline = time.monotonic() + 10
    while fork.threads <= THREADS:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # a cell that keeps the interpreter to itself: int() of many digits never lets go
    fork.client.execute("import sys; sys.set_int_max_str_digits(0); len(str(7 ** 700_000))")
    for _ in range(3):
        time.sleep(0.4)
        assert fork.client.hb_channel.is_beating()
    assert fork.client.is_alive()


def test_output_flows_and_an_interrupt_comes_while_a_cell_runs(forks) -> None:
    fork = forks.start()
    client = fork.client
    seen = threading.Event()

    def stop() -> None:
        seen.wait(10)
        client.control_channel.send(client.session.msg("interrupt_request", {}))

    thread = threading.Thread(target=stop)
    thread.start()
    shown = []

    def show(message) -> None:
        shown.append((message["msg_type"], message["content"]))
        if message["msg_type"] == "stream":
            seen.set()

    reply = client.execute_interactive(
        "import time\nwhile True: print('x' * 1000); time.sleep(0.01)", output_hook=show, timeout=20
    )
    thread.join()
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert fork.run("'alive'") == "'alive'\n"


def test_a_forked_child_prints_its_own_only(forks) -> None:
    said = forks.start().run(
        "import multiprocessing\nprint('parent', end=' ')\n"
        "child = multiprocessing.get_context('fork').Process(target=print, args=('child',))\n"
        "child.start(); child.join()\nimport time; time.sleep(0.5)"
    )
    assert sorted(said.split()) == ["child", "parent"]


def test_threads_print_in_the_cell_that_runs(forks) -> None:
    said = forks.start().run(
        "from threading import Thread\n"
        # a print of two writes may be parted by another thread's
        "def say(i): print(f'{i}\\n', end='')\n"
        "all = [Thread(target=say, args=(i,)) for i in range(50)]\n"
        "for one in all: one.start()\nfor one in all: one.join()"
    )
    assert sorted(map(int, said.split())) == list(range(50))


def test_a_shutdown_request_and_a_lost_owner_end_it(forks) -> None:
    fork = forks.start()
    fork.client.shutdown()
    gone(fork.pid)


def test_a_lost_owner_ends_it() -> None:
    folder = Path(tempfile.mkdtemp(prefix="lis-f-", dir="/tmp"))
    made = Forks(folder)
    fork = made.start()
    fork.client.execute("while True: pass")
    made.close()
    gone(fork.pid)
    shutil.rmtree(folder)


def gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_what_a_pager_would_show_is_an_output(session) -> None:
    result = await session.execute("len?")
    assert result.status == "ok" and "number of items" in str(result.outputs)
