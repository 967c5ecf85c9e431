"""Stock Jupyter clients on a sandboxed kernel: by the provisioner, and by argv alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.multikernelmanager import AsyncMultiKernelManager
from jupyter_client.provisioning import LocalProvisioner
from leftovers import left_within, processes_of
from nbclient import NotebookClient

from lis_kernel.errors import ConfigError
from lis_kernel.kernel.provisioner import LisProvisioner
from lis_kernel.kernel.settings import MAX_MESSAGE

pytestmark = pytest.mark.bwrap

DOORS = pytest.mark.parametrize("provisioner", [True, False], ids=["provisioner", "argv"])
BACKENDS = ["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)]
BOXES = pytest.mark.parametrize("backend", BACKENDS)
PODMAN = pytest.param("podman", marks=pytest.mark.podman)


class Console:
    """A client that says what a cell printed, or `name: value` of its error."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager, self.client = manager, client
        self.count = 0

    async def run(self, source: str, **kwargs: Any) -> str:
        said: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "error":
                said.append(f"{content['ename']}: {content['evalue']}")
            else:
                said.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

        text = textwrap.dedent(source)
        reply = await self.client.execute_interactive(text, timeout=30, output_hook=hook, **kwargs)
        self.count = reply["content"]["execution_count"]
        return "".join(said).strip()


@asynccontextmanager
async def started(name: str) -> AsyncIterator[Console]:
    manager = AsyncKernelManager(kernel_name=name)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        yield Console(manager, client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()


async def until(true: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@BOXES
@DOORS
async def test_a_kernel_lives_a_whole_life(jupyter, provisioner: bool, backend: str) -> None:
    async with started(jupyter(provisioner=provisioner, backend=backend)) as console:
        kind = LisProvisioner if provisioner else LocalProvisioner
        assert type(console.manager.provisioner) is kind
        assert await console.run("%who") == "Interactive namespace is empty."
        assert console.count == 1
        uid = await console.run("%%bash\ncd /tmp; export WORD=kept; id -u")
        assert uid == "1000" if backend == "bubblewrap" else uid != "0"
        assert await console.run("%%bash\npwd; echo $WORD") == "/tmp\nkept"
        call = "str_replace_editor('create', path='/testbed/note', file_text='hello')"
        assert await console.run(call) == "created /testbed/note (1 line)"

        await console.manager.restart_kernel()
        await console.client.wait_for_ready(timeout=30)
        # the provisioner keeps the box; a launcher is a new one each time
        there = await console.run("import os; print(os.path.exists('/testbed/note'), os.getcwd())")
        assert there == f"{provisioner} /testbed"

        async def interrupt(by_signal: bool) -> None:
            await asyncio.sleep(0.5)
            if by_signal:
                await console.manager.signal_kernel(signal.SIGINT)
            else:
                await console.manager.interrupt_kernel()

        for by_signal in (False, True):
            started_at = time.monotonic()
            asking = asyncio.create_task(interrupt(by_signal))
            assert await console.run("import time; time.sleep(25)") == "KeyboardInterrupt:"
            assert time.monotonic() - started_at < 10
            await asking


@DOORS
async def test_a_kernel_that_dies_is_seen_and_replaced(jupyter, caplog, provisioner: bool) -> None:
    async with started(jupyter(provisioner=provisioner)) as console:
        console.client.execute("open('/testbed/left', 'w'); import os; os._exit(3)")

        async def dead() -> bool:
            return not await console.manager.is_alive()

        await until(dead)
        if provisioner:
            assert "the sandboxed kernel ended: status 3" in caplog.text
        while await console.client.iopub_channel.msg_ready():  # else it takes these for new ones
            await console.client.get_iopub_msg(timeout=1)
        await console.manager.restart_kernel(now=True)
        await console.client.wait_for_ready(timeout=30)
        there = "import os; print(os.path.exists('/testbed/left'))"
        assert await console.run(there) == str(provisioner)


@DOORS
async def test_input_is_asked_of_the_client(jupyter, provisioner: bool) -> None:
    async with started(jupyter(provisioner=provisioner)) as console:
        asked: list[str] = []

        def answer(message: dict[str, Any]) -> None:
            asked.append(message["content"]["prompt"])
            console.client.input("seven")

        said = await console.run("print(input('how many?') * 2)", stdin_hook=answer)
        assert (asked, said) == (["how many?"], "sevenseven")


@DOORS
async def test_output_of_megabytes_arrives_whole(jupyter, provisioner: bool) -> None:
    async with started(jupyter(provisioner=provisioner)) as console:
        said = await console.run("print('a' * 4_000_000)\nfor i in range(2000): display(i)")
        assert said.startswith("a" * 4_000_000)
        assert said.endswith("1999")


async def test_the_restarter_of_a_server_brings_it_back(jupyter) -> None:
    """The same managers as jupyter_server's, whose kernels share one context."""
    kernels = AsyncMultiKernelManager(
        kernel_manager_class="jupyter_client.ioloop.AsyncIOLoopKernelManager"
    )
    kernel_id = await kernels.start_kernel(kernel_name=jupyter())
    manager = kernels.get_kernel(kernel_id)
    try:
        assert manager.context.sockopts[zmq.MAXMSGSIZE] == MAX_MESSAGE
        assert manager.context.underlying == kernels.context.underlying
        assert zmq.MAXMSGSIZE not in kernels.context.sockopts
        client = manager.client()
        client.start_channels()
        console = Console(manager, client)
        await client.wait_for_ready(timeout=30)
        await console.run("x = 1")
        before = manager.provisioner._process
        client.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

        async def replaced() -> bool:
            return manager.provisioner._process not in (None, before)

        await until(replaced, 20)
        await client.wait_for_ready(timeout=30)
        assert await console.run("print('x' in globals())") == "False"
        client.stop_channels()
    finally:
        await kernels.shutdown_all()


async def test_a_box_that_is_lost_is_replaced_at_restart(jupyter, runtime: Path) -> None:
    async with started(jupyter()) as console:
        (box,) = list(runtime.iterdir())
        subprocess.run(["rm", "-rf", box], check=True)
        await console.manager.restart_kernel(now=True)
        console.client.stop_channels()  # the new box has other sockets
        console.client = console.manager.client()
        console.client.start_channels()
        await console.client.wait_for_ready(timeout=30)
        assert await console.run("print(6 * 7)") == "42"
        console.client.stop_channels()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"netwrok": "none"}, "config.netwrok: unknown setting. Known: backend"),
        ({"limits": {"pids": 1}}, "config.limits.pids: 1: Input should be"),
        ({"limits": 7}, "config.limits: 7 is not an object"),
        ({"backend": "nowhere"}, "unknown 'nowhere'. Known: "),
        ({"mounts": ["/nowhere:/data"]}, "/nowhere does not exist on the host"),
    ],
)
async def test_a_wrong_setting_is_named_in_the_servers_log(jupyter, caplog, words, said) -> None:
    manager = AsyncKernelManager(kernel_name=jupyter(**words))
    with pytest.raises(ConfigError) as raised:
        await manager.start_kernel()
    assert said in str(raised.value)
    assert said in caplog.text


async def test_a_wrong_setting_ends_the_launcher_with_its_name(jupyter, capfd) -> None:
    manager = AsyncKernelManager(kernel_name=jupyter(provisioner=False, netwrok="none"))
    await manager.start_kernel()

    async def dead() -> bool:
        return not await manager.is_alive()

    await until(dead, 20)
    assert "error: --config.netwrok: unknown setting" in capfd.readouterr().err
    await manager.shutdown_kernel(now=True)


def test_a_blocking_manager_outlives_its_loops(jupyter) -> None:
    """Each call of a sync KernelManager may run on another loop; the kernel must not notice."""
    manager = KernelManager(kernel_name=jupyter())
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    assert manager.is_alive()
    assert asyncio.run(_alive_on_another_loop(manager))
    client.execute("import os; os._exit(1)")
    deadline = time.monotonic() + 10
    while manager.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.stop_channels()
    manager.shutdown_kernel()


async def _alive_on_another_loop(manager: KernelManager) -> bool:
    return bool(manager.is_alive())


SPY = """
import os, socket
for address in ("1.1.1.1", "127.0.0.1", "169.254.169.254"):
    try:
        socket.create_connection((address, PORT), 1)
        print("connected", address)
    except OSError as error:
        print(error.errno)
print([path for path in PATHS if os.path.exists(path)], "LIS_SPY" in os.environ)
"""


@pytest.mark.parametrize("backend", [*BACKENDS, PODMAN])
@DOORS
def test_jupyter_execute_keeps_a_notebook_in_the_box(
    jupyter, tmp_path: Path, provisioner: bool, backend: str
) -> None:
    """Issue «Walls», 2: neither the network nor the host's files, and the host has both."""
    name = jupyter(f"lis-{backend}", provisioner=provisioner, backend=backend)
    secret, own = tmp_path / "secret", Path(__file__)
    secret.write_text("of the host")
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        port = int(server.stdout.readline().split(" port ")[1].split()[0])
        paths = [str(secret), str(own), "/var/run/docker.sock", str(Path.home() / ".cache")]
        if backend == "bubblewrap":  # an image has one of its own, and nobody's passwords in it
            paths.append("/etc/shadow")
        source = SPY.replace("PORT", str(port)).replace("PATHS", repr(paths))
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        path = tmp_path / "stock.ipynb"
        nbformat.write(book, path)
        execute = [sys.executable, "-c", "from nbclient.cli import main; main()", "--inplace"]
        subprocess.run(
            [*execute, f"--kernel_name={name}", str(path)],
            env={**os.environ, "LIS_SPY": "1"}, check=True, timeout=90, capture_output=True,
        )  # fmt: skip
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    said = nbformat.read(path, 4).cells[0].outputs[0].text
    assert said == "101\n111\n101\n[] False\n"


async def test_jupyter_console_gets_in_and_out(jupyter, tmp_path: Path) -> None:
    """Skipped where jupyter_console is not installed."""
    pytest.importorskip("jupyter_console")
    typed = "print(6 * 7, open('/etc/hostname').read() if 0 else 'in')\nexit\n"
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "jupyter_console", "--simple-prompt", f"--kernel={jupyter()}"],
        input=typed, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "42 in" in done.stdout, done.stderr


def test_nbclient_reports_a_failing_cell_and_cleans_up(jupyter) -> None:
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("%%bash\nexit 3"), nbformat.v4.new_code_cell("1/0")]
    )
    client = NotebookClient(book, kernel_name=jupyter(), allow_errors=True, timeout=60)
    client.execute()
    assert [cell.outputs[0].ename for cell in book.cells] == ["CommandFailed", "ZeroDivisionError"]


SERVER = """
import asyncio, sys
from jupyter_client.manager import AsyncKernelManager

async def main():
    manager = AsyncKernelManager(kernel_name=sys.argv[1])
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=30)
    code = "import subprocess; p = subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    await client.execute_interactive(code, timeout=20)
    print("ready", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@BOXES
@DOORS
def test_a_server_killed_dead_leaves_nothing(
    jupyter, runtime: Path, tmp_path: Path, provisioner: bool, backend: str
) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, jupyter(provisioner=provisioner, backend=backend)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout.readline() == "ready\n"
        assert any("sleep" in command for command in processes_of(runtime).values())
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert left_within(5, runtime) == {}
    if provisioner:  # its folder waits for the next start; a launcher still cleans up itself
        start = "from lis_kernel.sandbox.state import StateDir; StateDir().remove()"
        subprocess.run([sys.executable, "-c", start], check=True)
    for path in (tmp_path / "runtime").glob("kernel-*"):  # the server's own, as of any kernel
        path.unlink()
    deadline = time.monotonic() + 5
    while list(runtime.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
