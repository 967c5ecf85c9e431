"""The network of a real sandbox under every policy, and pip inside it, on each backend with walls.

Everything is served on this machine's loopback by the tests themselves; only the last test asks the
package index that pip is configured with.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from boxes import BACKENDS, COLD, PODMAN

from lis_kernel import registry
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError, SandboxError, SandboxUnavailable
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox import bubblewrap, docker, index
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox
from lis_kernel.sandbox.container_spec import HOST_INSIDE
from lis_kernel.sandbox.docker import DockerSandbox
from lis_kernel.sandbox.local import LocalSandbox
from lis_kernel.sandbox.network import OPEN_WARNING
from lis_kernel.types import Attempt

SH = '''
import subprocess, sys
def sh(command):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    print(done.returncode, (done.stdout + done.stderr).strip())
FETCH = """import sys, urllib.request, urllib.error
try:
    answer = urllib.request.urlopen(sys.argv[1])
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""
def fetch(url):
    """As an ordinary program does it: by the variables, and not in the kernel."""
    done = subprocess.run([sys.executable, "-c", FETCH, url], capture_output=True, text=True)
    print((done.stdout + done.stderr).strip())
'''
DOORS = dict.fromkeys(("zygote", "bubblewrap"), "/run/lis/proxy.sock")
"""Where the sandbox sees the proxy's socket; containers have one place in common."""
DIRECT = """
import socket
for address in ("192.0.2.1", "127.0.0.1", "169.254.169.254"):
    with socket.socket() as sock:
        sock.settimeout(1)
        print(sock.connect_ex((address, {port})))
try:
    print(socket.getaddrinfo("example.org", 80))
except OSError:
    print("no names")
"""


on_each = pytest.mark.parametrize("backend", BACKENDS)
on_podman_too = pytest.mark.parametrize("backend", [*BACKENDS, PODMAN])


class Box:
    """A started sandbox with its session, and what it said."""

    def __init__(self, backend: str, network: str, **settings: Any) -> None:
        self.said: list[str] = []
        self.sandbox = registry.load(registry.SANDBOXES, backend, "backend")(
            SandboxConfig(backend=backend, network=network, **settings),
            Limits(cell_seconds=60),
            say=self.said.append,
        )
        self.session = KernelSession(self.sandbox, self.sandbox.limits, SH)

    async def ask(self, code: str) -> str:
        result = await self.session.execute(code)
        text = "".join(o.get("text", "") for o in result.outputs).strip()
        assert result.status == "ok", result.outputs
        return text

    def attempts(self) -> list[tuple[str, int, bool]]:
        return [(a.host, a.port, a.allowed) for a in self.sandbox.attempts()]


@asynccontextmanager
async def box(backend: str, network: str, *files: Path, **settings: Any) -> AsyncIterator[Box]:
    made = Box(backend, network, **settings)
    try:
        await made.sandbox.start()
        for file in files:
            made.sandbox.put(file, f"/testbed/input/{file.name}")
        await made.session.start()
        yield made
    finally:
        await made.session.close()
        await made.sandbox.stop()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that a server on this machine's loopback shows, and its port."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "hello.txt").write_text("hello from the host")
    with serving(folder) as port:
        yield folder, port


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """A server that shows the folder; its port."""
    with ThreadingHTTPServer((host, 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def wheel(folder: Path, name: str, version: str = "1.0") -> Path:
    """The smallest package with a module and a command."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n\ndef main():\n    print('this is', VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-say = {name}:main\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        rows = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
        archive.writestr(f"{info}/RECORD", rows)
    return path


# -- none ------------------------------------------------------------------------------------


@on_podman_too
async def test_none_has_no_way_out_and_no_proxy(backend: str) -> None:
    async with box(backend, "none") as made:
        assert await made.ask(DIRECT.format(port=9)) == "101\n111\n101\nno names"
        assert await made.ask("import os; print([k for k in os.environ if 'proxy' in k])") == "[]"
        door = DOORS.get(backend, f"{HOST_INSIDE}/proxy.sock")
        assert await made.ask(f"print(os.path.exists({door!r}))") == "False"
        assert made.sandbox.describe()["network"] == "none"
        assert made.attempts() == []


@on_podman_too
async def test_pip_installs_wheels_of_the_task_without_a_network(
    tmp_path: Path, backend: str
) -> None:
    old, new = wheel(tmp_path, "listiny"), wheel(tmp_path, "listiny", "2.0")
    other, third = wheel(tmp_path, "lisother"), wheel(tmp_path, "listhird")
    async with box(backend, "none", old, new, other, third) as made:
        said = await made.ask(f"sh('pip install /testbed/input/{old.name}')")
        assert said.startswith("0 ") and "Successfully installed listiny-1.0" in said
        assert await made.ask("import listiny; print(listiny.VERSION)") == "1.0"
        assert await made.ask("sh('listiny-say')") == "0 this is 1.0"
        said = await made.ask("sh('python -m pip install --upgrade listiny')")
        assert "Successfully installed listiny-2.0" in said
        assert await made.ask("sh('listiny-say')") == "0 this is 2.0"
        links = "--no-index --find-links /testbed/input"
        assert "Successfully" in await made.ask(f"sh('pip install {links} lisother')")
        assert "Successfully" in await made.ask("%pip install listhird")
        assert await made.ask("import lisother, listhird; print(listhird.VERSION)") == "1.0"
        said = await made.ask("sh('pip uninstall -y lisother')")
        assert "Successfully uninstalled" in said
        assert (await made.ask("sh('pip install surely-not-there')")).startswith("1 ")


@on_each
async def test_what_is_installed_goes_before_the_image_and_stays_over_a_restart(
    tmp_path: Path,
    backend: str,
) -> None:
    # under the name of a module that the kernel itself needs
    false = wheel(tmp_path, "zmq", "99.0")
    shadow = wheel(tmp_path, "mpmath", "99.0")
    async with box(backend, "none", false, shadow) as made:
        await made.ask(f"sh('pip install --no-deps /testbed/input/{false.name}')")
        said = await made.ask(f"sh('pip install --no-deps /testbed/input/{shadow.name}')")
        assert "Successfully installed mpmath-99.0" in said
        assert await made.ask("import mpmath; print(mpmath.VERSION)") == "99.0"
        await made.session.start()  # the image's own zmq still runs the kernel
        assert await made.ask("import mpmath; print(mpmath.VERSION)") == "99.0"
        said = await made.ask("sh('touch /opt/lis/lib/x; apt-get install sl; echo $?')")
        assert "Read-only" in said and "no system packages" in said


@on_each
async def test_python_of_the_shell_and_of_cells_are_one(backend: str) -> None:
    async with box(backend, "none") as made:
        assert await made.ask("import sys; print(sys.executable)") == "/home/user/.venv/bin/python"
        assert await made.ask("sh('command -v python')") == "0 /home/user/.venv/bin/python"
        assert await made.ask("sh('python -c \"import numpy; print(numpy.sum([1]))\"')") == "0 1"
        assert (
            await made.ask("sh('python -m venv --without-pip /tmp/v && /tmp/v/bin/python -c 1')")
            == "0"
        )


# -- allow -----------------------------------------------------------------------------------


@on_podman_too
async def test_an_allowed_host_of_this_machine(site: tuple[Path, int], backend: str) -> None:
    _, port = site
    async with box(backend, f"allow=!127.0.0.1:{port},other.example") as made:
        read = "import urllib.request as u; print(u.urlopen('http://{}/hello.txt').read())"
        assert await made.ask(read.format(f"127.0.0.1:{port}")) == "b'hello from the host'"
        assert made.attempts() == [("127.0.0.1", port, True)]
        asked = f"fetch('http://127.0.0.1:{port}/hello.txt')"
        assert await made.ask(asked) == "200 hello from the host"
        assert made.attempts() == [("127.0.0.1", port, True)]
        tunnel = (
            "import http.client as h, os\nway = h.HTTPConnection('127.0.0.1', 3128)\n"
            f"way.set_tunnel('127.0.0.1', {port})\nway.request('GET', '/hello.txt')\n"
            "print(way.getresponse().read())"
        )
        assert await made.ask(tunnel) == "b'hello from the host'"
        # without the proxy the same host cannot be reached, nor any other
        assert await made.ask(DIRECT.format(port=port)) == "101\n111\n101\nno names"
        made.attempts()
        said = await made.ask("fetch('http://evil.example/')")
        assert "evil.example is not on the sandbox's allow-list" in said
        said = await made.ask(
            "try:\n    u.urlopen('https://evil.example/')\nexcept OSError as e:\n    print(e)"
        )
        assert "403" in said and "evil.example is not on" in said
        assert made.attempts() == [("evil.example", 80, False), ("evil.example", 443, False)]
        assert made.sandbox.describe()["network"] == f"allow=!127.0.0.1:{port},other.example"


@pytest.mark.bwrap
async def test_curl_takes_the_same_way(site: tuple[Path, int]) -> None:
    """A program that is not Python; an image need not have it."""
    _, port = site
    async with box("bubblewrap", f"allow=!127.0.0.1:{port}") as made:
        for options in ("-s", "-sp"):  # plain, and through a tunnel
            asked = f"sh('curl {options} http://127.0.0.1:{port}/hello.txt')"
            assert await made.ask(asked) == "0 hello from the host"
        assert made.attempts() == [("127.0.0.1", port, True)] * 2


@on_each
async def test_without_the_mark_the_machine_itself_is_refused(
    site: tuple[Path, int], backend: str
) -> None:
    _, port = site
    async with box(backend, f"allow=localhost:{port}") as made:
        said = await made.ask(
            "import http.client as h\nway = h.HTTPConnection('127.0.0.1', 3128)\n"
            f"way.request('GET', 'http://localhost:{port}/')\nprint(way.getresponse().read())"
        )
        assert "localhost resolves to" in said and "loopback" in said
        assert made.attempts() == [("localhost", port, False)]


@on_podman_too
async def test_the_way_out_survives_a_restart_and_a_busy_kernel(
    site: tuple[Path, int], backend: str
) -> None:
    _, port = site
    async with box(backend, f"allow=!127.0.0.1:{port}") as made:
        await made.session.start()
        busy = (
            f"job = subprocess.Popen([sys.executable, '-c', FETCH, "
            f"'http://127.0.0.1:{port}/hello.txt'], stdout=-1)\n"
            "sum(range(30_000_000))\nprint(job.communicate(timeout=20)[0])"
        )
        assert await made.ask(busy) == "b'200 hello from the host\\n'"


@on_podman_too
async def test_the_socket_is_the_sandboxes_alone(backend: str) -> None:
    async with box(backend, "allow=good.example") as made:
        info = (made.sandbox._door / "proxy.sock").stat()
        assert info.st_uid == made.sandbox.describe()["host_uid"]
        assert info.st_mode & 0o777 == 0o600


@on_each
async def test_the_socket_itself_gives_no_more_than_the_forwarder(backend: str) -> None:
    door = DOORS.get(backend, f"{HOST_INSIDE}/proxy.sock")
    async with box(backend, "allow=good.example") as made:
        said = await made.ask(
            "import socket\nwith socket.socket(socket.AF_UNIX) as s:\n"
            f"    s.connect({door!r})\n"
            "    s.sendall(b'CONNECT 127.0.0.1:22 HTTP/1.1\\r\\nHost: 127.0.0.1:22\\r\\n\\r\\n')\n"
            "    print(s.recv(100))"
        )
        assert said[2:].startswith("HTTP/1.1 403 Forbidden")


@pytest.mark.parametrize("backend", [*COLD, PODMAN])
@pytest.mark.parametrize("network", ["none", "allow=good.example"])
async def test_a_sandbox_without_its_wall_does_not_start(
    monkeypatch: pytest.MonkeyPatch, backend: str, network: str
) -> None:
    command, arguments = bubblewrap.command, docker.arguments

    def holed(*given: object) -> list[str]:
        return [word for word in command(*given) if word != "--unshare-net"]  # type: ignore[arg-type]

    monkeypatch.setattr(bubblewrap, "command", holed)
    monkeypatch.setattr(docker, "arguments", lambda s: arguments(s) | {"network_mode": "bridge"})
    with pytest.raises(SandboxError, match="network wall is missing"):
        async with box(backend, network):
            pass


def test_a_bad_policy_is_found_before_anything_starts() -> None:
    with pytest.raises(ConfigError):
        BubblewrapSandbox(SandboxConfig(network="everything"), Limits())


# -- open ------------------------------------------------------------------------------------


def bridge() -> str:
    """This machine's address for containers."""
    (settings,) = DockerSandbox.connect().networks.get("bridge").attrs["IPAM"]["Config"]
    # a daemon that made its bridge just now does not name the gateway: it is the first address
    return str(settings.get("Gateway") or ip_network(settings["Subnet"])[1])


@on_each
async def test_open_says_so_loudly(tmp_path: Path, backend: str) -> None:
    (tmp_path / "hello.txt").write_text("hello from the host")
    host = bridge() if backend == "docker" else "127.0.0.1"
    with serving(tmp_path, host) as port:
        await open_to(backend, f"{host}:{port}")


async def open_to(backend: str, open_site: str) -> None:
    async with box(backend, "open") as made:
        assert OPEN_WARNING in made.said
        direct = f"fetch('http://{open_site}/hello.txt')"
        assert await made.ask(direct) == "200 hello from the host"
        assert made.sandbox.describe()["network"] == "open"
        assert await made.ask("print(open('/etc/resolv.conf').read() != '')") == "True"


async def test_the_local_backend_holds_no_policy() -> None:
    sandbox = LocalSandbox(SandboxConfig(backend="local", network="allow=a.example"), Limits())
    with pytest.raises(SandboxUnavailable, match="local"):
        await sandbox.start()


# -- the package index -----------------------------------------------------------------------


@pytest.fixture
def own_index(
    site: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[int, int]]:
    """An index on this machine that keeps its files on another port, as pip is told of it."""
    folder, port = site
    files = tmp_path / "files"
    files.mkdir()
    with serving(files) as kept:
        for name in ("pip", "listiny"):
            made = wheel(files, name, "98.0")
            page = folder / "simple" / name
            page.mkdir(parents=True)
            link = f'<a href="http://127.0.0.1:{kept}/{made.name}">{made.name}</a>'
            (page / "index.html").write_text(f"<!DOCTYPE html>{link}")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST"):
            monkeypatch.delenv(name, raising=False)
        address = f"http://user:secret-word@127.0.0.1:{port}/simple"
        monkeypatch.setenv("PIP_INDEX_URL", address)
        for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
            monkeypatch.setenv(name, "1")  # as in a notebook's kernel
        yield port, kept


@on_podman_too
async def test_index_is_what_pip_on_this_host_uses(
    own_index: tuple[int, int], backend: str
) -> None:
    port, kept = own_index
    async with box(backend, "allow=index") as made:
        assert any("credentials" in line for line in made.said)
        said = await made.ask("sh('pip install listiny; env')")
        assert "Successfully installed listiny-98.0" in said
        assert "secret-word" not in said
        assert await made.ask("import listiny; print(listiny.VERSION)") == "98.0"
        assert set(made.attempts()) == {("127.0.0.1", port, True), ("127.0.0.1", kept, True)}
        assert made.sandbox.describe()["network"] == "allow=index"


def test_what_is_read_of_pips_settings(
    own_index: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port, kept = own_index
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} https://links.example/list")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "trusted.example:8443 plain.example")
    found = index.read()
    assert set(found.hosts) == {
        ("127.0.0.1", port),
        ("127.0.0.1", kept),
        ("links.example", 443),
        ("trusted.example", 8443),
        ("plain.example", 80),
        ("plain.example", 443),
    }
    assert found.environment == {
        "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
        "PIP_FIND_LINKS": "https://links.example/list",
        "PIP_TRUSTED_HOST": "trusted.example:8443 plain.example",
    }
    assert any("local folders" in note for note in found.notes)


def test_pip_itself_names_its_default() -> None:
    assert index.default_url().startswith("https://")


@on_each
async def test_pip_install_from_the_real_index(backend: str) -> None:
    async with box(backend, "allow=index") as made:
        said = await made.ask("sh('pip install roman')")
        attempts = made.sandbox.attempts()
        if any(a.allowed and a.reason for a in attempts):
            pytest.skip(f"the package index cannot be reached from here: {attempts}")
        assert "Successfully installed roman" in said
        assert await made.ask("import roman; print(roman.toRoman(2026))") == "MMXXVI"
        assert attempts and all(a.allowed for a in attempts)
        await made.ask("fetch('https://example.org/')")
        (refused,) = made.sandbox.attempts()
        assert refused == Attempt(
            host="example.org",
            port=443,
            allowed=False,
            reason="example.org is not on the sandbox's allow-list",
        )
