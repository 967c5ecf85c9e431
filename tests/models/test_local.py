"""`local/<name>` with the real 1.5B model: it answers, streams, stops, remembers and is shared."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError, ContextOverflow, ModelUnavailable
from lis_kernel.models import local, make_model, weights
from lis_kernel.models.local import LocalModel
from lis_kernel.types import AssistantMessage, SystemMessage, UserMessage

NAME = f"local/{weights.DEFAULT}"
ROOT = Path(local.__file__).parents[2]
DATA = weights.directory().parent  # before the fixtures move HOME
COUNT = [UserMessage(text="Count from 1 to 5000, one number a line. Write all of them.")]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own weights. CI fetches them; on a user's machine 1 GB is not ours to fetch."""
    monkeypatch.setenv("LIS_DATA_DIR", str(DATA))
    if weights.local_path(weights.find(weights.DEFAULT)) is None:
        if os.environ.get("CI") != "true":
            pytest.skip(f"needs the weights: lis model pull {weights.DEFAULT}")
        weights.fetch(weights.DEFAULT)


@pytest.fixture
async def model(data: None) -> AsyncIterator[LocalModel]:
    made = make_model(ModelConfig(name=NAME))
    assert isinstance(made, LocalModel)
    yield made
    await made.aclose()


def pid_of(model: LocalModel) -> int:
    assert model._server is not None and model._server._process is not None
    return model._server._process.pid


def longest_gap(over: Callable[[], bool]) -> float:
    """Seconds for which this thread was held up most, sleeping in steps of 10 ms."""
    gap = 0.0
    while not over():
        before = time.monotonic()
        time.sleep(0.01)
        gap = max(gap, time.monotonic() - before)
    return gap


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.localmodel
async def test_answers_and_streams(model: LocalModel) -> None:
    heard: list[str] = []
    question = UserMessage(text="Count from 1 to 5. Write only the numbers, one a line.")
    reply = await model.generate([question], [], on_text=lambda kind, text: heard.append(text))
    assert reply.text.split() == ["1", "2", "3", "4", "5"]
    assert "".join(heard) == reply.text
    assert len(heard) > 3
    assert reply.finish == "stop"
    assert reply.usage.output_tokens > 4
    assert reply.usage.cost_usd == 0


@pytest.mark.localmodel
async def test_replies_are_bounded(model: LocalModel) -> None:
    reply = await model.generate(COUNT, [], max_tokens=7)
    assert (reply.finish, reply.usage.output_tokens) == ("length", 7)


@pytest.mark.localmodel
@pytest.mark.parametrize("when", ["writing", "reading the prompt"])
async def test_cancel_stops_generation(model: LocalModel, when: str) -> None:
    await model.prepare()
    started = asyncio.Event()
    prompt = COUNT if when == "writing" else [UserMessage(text="one two " * 3000)]
    task = asyncio.create_task(model.generate(prompt, [], on_text=lambda kind, text: started.set()))
    if when == "writing":
        await started.wait()
    else:
        await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = pid_of(model)
    deadline = time.monotonic() + 15  # one batch of prompt on a busy machine
    while True:
        before = cpu_seconds(pid)
        await asyncio.sleep(0.5)
        if cpu_seconds(pid) - before < 0.1:
            return
        assert time.monotonic() < deadline, "llama.cpp still works for nobody"


@pytest.mark.localmodel
async def test_second_turn_reuses_the_cache(model: LocalModel) -> None:
    system = SystemMessage(text="You are terse. " + "The quick brown fox jumps. " * 60)
    first = UserMessage(text="What is 17 + 25?")
    one = await model.generate([system, first], [])
    said = AssistantMessage(text=one.text, raw=one.raw, provider=model.provider)
    two = await model.generate([system, first, said, UserMessage(text="And 3 more?")], [])
    assert two.usage.cache_read_tokens >= one.usage.input_tokens
    assert two.usage.input_tokens - two.usage.cache_read_tokens < 40


@pytest.mark.localmodel
async def test_two_share_one_server(model: LocalModel) -> None:
    other = LocalModel(ModelConfig(name=NAME, context_window=4096))
    question = [UserMessage(text="Say hi.")]
    await asyncio.gather(model.generate(question, []), other.generate(question, []))
    assert pid_of(model) == pid_of(other)
    assert other.context_window == 4096
    await other.aclose()
    await model.generate(question, [])  # closing one leaves it to the other


@pytest.mark.localmodel
async def test_a_killed_server_is_started_again(model: LocalModel) -> None:
    await model.prepare()
    server = model._server
    assert server is not None
    os.kill(pid_of(model), signal.SIGKILL)
    server.wait()
    reply = await model.generate([UserMessage(text="Say hi.")], [])
    assert reply.text


@pytest.mark.localmodel
async def test_overflow_has_its_name(model: LocalModel) -> None:
    with pytest.raises(ContextOverflow):
        await model.generate([UserMessage(text="hello " * 20_000)], [])


@pytest.mark.localmodel
async def test_loading_leaves_the_loop_free(data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LINGER_SECONDS", 0.0)
    # A larger window than the other tests' needs a server of its own.
    model = LocalModel(ModelConfig(name=NAME, context_window=16_640))
    loading = asyncio.create_task(model.prepare())
    aside = asyncio.create_task(asyncio.to_thread(longest_gap, loading.done))
    gap = 0.0
    while not loading.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        gap = max(gap, time.monotonic() - before)
    await loading
    assert gap < 0.5 + await aside  # a busy machine holds up both
    pid = pid_of(model)
    await model.aclose()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.localmodel
async def test_nobody_else_can_ask(model: LocalModel) -> None:
    url = await model._url()
    with urllib.request.urlopen(f"{url}/models") as answer:
        assert json.load(answer)["data"][0]["id"].startswith("qwen2.5-coder-1.5b")
    origin = "/".join(url.split("/")[:3])
    for path in ("/v1/models", "/health", "/slots", "/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(origin + path)


SCRIPT = """
    import asyncio, os, signal, sys
    from lis_kernel.config import ModelConfig
    from lis_kernel.models.local import LocalModel
    from lis_kernel.types import UserMessage

    model = LocalModel(ModelConfig(name=sys.argv[1]))
    def write(kind, text):
        if not os.path.exists(sys.argv[2]):
            open(sys.argv[2], "w").write(str(model._server._process.pid))
    asyncio.run(model.generate([UserMessage(text=sys.argv[3])], [], on_text=write))
"""


@pytest.mark.localmodel
@pytest.mark.parametrize("end", ["exit", "ctrl-c", "kill"])
def test_ends_cleanly_and_silently(data: None, tmp_path: Path, end: str) -> None:
    """Whatever ends the program, the child goes with it; nothing of llama.cpp's is printed."""
    mark = tmp_path / "pid"
    ask = "Say hi." if end == "exit" else COUNT[0].text
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), NAME, str(mark), ask],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 120
    while not (mark.exists() and mark.read_text()):
        assert program.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child = int(mark.read_text())
    if end != "exit":
        program.send_signal(signal.SIGINT if end == "ctrl-c" else signal.SIGKILL)
    out, err = program.communicate(timeout=20)
    assert out == ""
    if end == "ctrl-c":
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert "llama" not in err.rpartition("Traceback")[2]
    else:
        assert err == ""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline, "the server outlives its program"
        time.sleep(0.05)


async def test_not_a_model(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model at all")
    model = LocalModel(ModelConfig(name=f"local/{bad}"))
    with pytest.raises(ModelUnavailable, match=r"could not serve .*bad\.gguf.*\n.*failed to load"):
        await model.generate([UserMessage(text="hi")], [])
    await model.aclose()


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="no local model 'nope'"):
        LocalModel(ModelConfig(name="local/nope"))
    with pytest.raises(ConfigError, match="--base-url"):
        LocalModel(ModelConfig(name=NAME, base_url="http://127.0.0.1:1/v1"))


def test_without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigError, match=r"pip install 'lis-kernel\[local\]'"):
        make_model(ModelConfig(name=NAME))
