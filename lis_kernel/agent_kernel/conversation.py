"""What the cells of one notebook have in common: a model, a sandbox, and what was said so far.

Each task is a run of its own (`agent/`), in the same sandbox, and begins with the messages of the
run before it. What people ran in between the model is told with the next task. Everything here
belongs to the kernel's own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from lis_kernel.agent import Agent, events
from lis_kernel.agent.handover import as_told
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.agent.workspace import check_files, given_name
from lis_kernel.config import ModelConfig, RunConfig
from lis_kernel.errors import ConfigError, SandboxBusy, SandboxError
from lis_kernel.kernel.outputs import OnMessage
from lis_kernel.models import make_model, split_name
from lis_kernel.protocols import Model
from lis_kernel.tools.toolset import toolset
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import CellResult, Message, Task

__all__ = ["Conversation", "settings_of"]

log = logging.getLogger(__name__)

NEWS = (
    "Before this task I ran the following in your sandbox; variables and files are as it left them."
)
REPEATED_CHARS = 2_000
"""Of a task that is said once more after the news, whose last number small models take for the
answer."""
NEWS_CELLS = 20
NEWS_CHARS = 4_000
"""Of one cell's source; of its outputs the model is shown as much as of its own."""
NO_LIMIT = 30 * 86_400.0
"""Seconds of a person's cell, who has a stop button."""
END_SECONDS = 3.0
"""How long a run may take to close its notebook when the kernel is told to end."""
SHARED = {"base_url", "api_key_env", "temperature", "timeout", "retries"}
"""Settings that other models of the same provider share: its server, and what the person wants of
any of them. The rest, `extra_body` with its thinking and templates too, fits one model."""


def settings_of(name: str, given: ModelConfig) -> ModelConfig:
    """The settings of the model `name`, where `given` are those that the person configured.

    Another provider's model shares none of them: its key is not for the server of `given`.

    Raises:
        ConfigError: the name has no provider.
    """
    if name == given.name:
        return given
    provider, _ = split_name(name)
    try:
        same = provider == split_name(given.name)[0]
    except ConfigError:  # the configured name is wrong, which is why another one is asked for
        same = False
    return ModelConfig(name=name, **given.model_dump(include=SHARED if same else set()))


class Conversation:
    """One notebook's.

    Args:
        config: of every run, until magics change it.
        out: folder of the runs' own folders.
        say: told in one line of anything slow or noteworthy, from any thread.
    """

    def __init__(
        self, config: RunConfig, out: Path = Path("runs"), say: Callable[[str], None] = log.info
    ) -> None:
        self.config = config
        self._given = config.model
        self.out = out
        self.messages: list[Message] = []
        self.files: list[Path] = []
        """For the next task."""
        self._say = say
        self._here: set[Path] = set()
        """Of `files`, those that lie in the sandbox already."""
        self._continues = ""
        self._protocol = ""
        self._news: list[str] = []
        self._model: Model | None = None
        self._shared: SharedSandbox | None = None
        self._agent: Agent | None = None
        self._free = asyncio.Event()
        """Set while no run is."""
        self._free.set()
        self._tools = toolset("notebook")

    # -- the model -------------------------------------------------------------------------------

    async def use_model(self, name: str) -> None:
        """Have `name` answer from here on; the model before it stays if that does not work.

        Of what was configured it has what `settings_of` says, whichever model was before it.

        Raises:
            ConfigError: there is no such model, or a setting of it is wrong.
            ModelAuth: it needs a key and there is none.
        """
        config = settings_of(name, self._given)
        # in a thread: a provider's SDK takes a second to load
        model = await asyncio.to_thread(make_model, config)
        former, self._model = self._model, model
        self.config = self.config.model_copy(update={"model": config})
        if former is not None:
            await former.aclose()

    async def _have_model(self) -> Model:
        """The model, which lives as long as the kernel: a local one is loaded once."""
        if self._model is None:
            self._model = await asyncio.to_thread(make_model, self.config.model)
        return self._model

    # -- the sandbox -----------------------------------------------------------------------------

    @property
    def shared(self) -> SharedSandbox:
        """The notebook's sandbox, which starts when it is first used.

        Raises:
            ConfigError: a setting of it is wrong.
        """
        if self._shared is None:
            config, limits = self.config.sandbox, self.config.limits
            self._shared = SharedSandbox("notebook", config, limits, say=self._say)
        return self._shared

    @property
    def idle(self) -> SharedSandbox | None:
        """The sandbox if it lives and nothing runs in it, for questions such as completion."""
        shared = self._shared
        return shared if shared is not None and shared.alive and shared.busy is None else None

    def give(self, paths: list[Path]) -> None:
        """Have these files in the sandbox, and the next task speak of them.

        Raises:
            ConfigError: one is missing, or two have the same name.
        """
        names = {given_name(path): path for path in paths}
        kept = [path for path in self.files if given_name(path) not in names]
        check_files((*kept, *paths), self.config.limits.disk_bytes)
        self.files = [*kept, *paths]
        self._here -= set(paths)

    async def put(self) -> None:
        """Put the files of the next task into the sandbox, for people to use before it.

        Raises:
            SandboxError: one does not fit.
        """
        for path in [path for path in self.files if path not in self._here]:
            await self.shared.start()
            inside = f"/testbed/input/{given_name(path)}"
            try:
                await asyncio.to_thread(self.shared.sandbox.put, path, inside)
            except OSError as error:
                raise SandboxError(f"{path} could not be put into the sandbox: {error}") from error
            self._here.add(path)

    # -- what runs -------------------------------------------------------------------------------

    async def run_code(self, source: str, on_message: OnMessage) -> CellResult:
        """Run a person's code; `source` begins with `%%bash` if it is for the shell.

        Raises:
            SandboxError, KernelError: the sandbox failed.
        """
        await self.put()
        result = await self.shared.execute(source, timeout=NO_LIMIT, on_message=on_message)
        bash = source.startswith("%%bash\n")
        seen = self._tools[f"execute_{'bash' if bash else 'python'}"].to_observation(result).text
        if len(source) > NEWS_CHARS:
            source = f"{source[:NEWS_CHARS]}\n[...]"
        self._news.append(as_told(source, seen))
        del self._news[:-NEWS_CELLS]
        return result

    async def run_task(
        self, prompt: str, on_event: events.OnEvent, on_agent: Callable[[Agent], None]
    ) -> Trajectory:
        """Have the model do what `prompt` asks.

        Args:
            on_event: told what happens.
            on_agent: given who is at work, for those who want to stop it or to pause it.

        Raises:
            ConfigError, ModelError, SandboxBusy: nothing was started.
            TrajectoryError: the notebook of the run could not be written.
        """
        model = await self._have_model()
        self._check_protocol(self.config.protocol or model.default_protocol)
        agent: Agent

        def hear(event: events.Event) -> None:
            if isinstance(event, events.RunStarted) and self._news:
                short = len(prompt) <= REPEATED_CHARS
                task = f"The task is:\n{prompt}" if short else "The task is the one above."
                agent.say("\n\n".join([NEWS, *self._news, task]))
            on_event(event)

        agent = Agent(
            self.config,
            out=self.out,
            model=model,
            on_event=hear,
            shared=self.shared,
            listen=True,
        )
        on_agent(agent)
        self._agent = agent
        self._free.clear()
        try:
            asked = Task(prompt=prompt, files=tuple(self.files))
            trajectory = await agent.arun(
                asked,
                history=self.messages,
                continues=self._continues,
                placed=frozenset(self._here),
            )
        finally:
            self._agent = None
            self._free.set()
        # else the model was told nothing, and may be told again; nor need the files be there
        if trajectory.turns:
            self.messages = list(agent.messages)
            self._continues = trajectory.path.parent.name
            self._news.clear()
            self.files.clear()
            self._here.clear()
        return trajectory

    def _check_protocol(self, protocol: str) -> None:
        """A conversation cannot go on in another protocol: its system prompt says which one."""
        if self.messages and protocol != self._protocol:
            self._say(
                "note: this model is asked in another way than the one before it, so that it does "
                "not know of the conversation so far; the sandbox stays as it is"
            )
            self.messages, self._continues = [], ""
        self._protocol = protocol

    def stop(self, *, at_once: bool = False) -> bool:
        """End what runs in the sandbox; `at_once` without waiting for its last words.

        False where there is nothing that can be asked to end.
        """
        if self._agent is not None:
            self._agent.abandon() if at_once else self._agent.stop()
            return True
        shared = self._shared
        if shared is not None and shared.alive and shared.busy == "cell":
            shared.interrupt()
            return not at_once
        return False

    # -- the end ---------------------------------------------------------------------------------

    async def reset(self) -> None:
        """Forget what was said, and end the sandbox."""
        shared, self._shared = self._shared, None
        self.messages, self._continues = [], ""
        self._news.clear()
        self._here.clear()
        if shared is not None:
            await shared.stop()

    async def close(self) -> None:
        """End all that runs and leave nothing behind. Never raises."""
        if self._agent is not None:
            self._agent.abandon()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._free.wait()
        shared = self._shared
        try:
            await self.reset()
        except SandboxBusy:  # the run does not end; its sandbox does
            if shared is not None:
                shared.sandbox.cleanup()
        except Exception:
            log.exception("the sandbox could not be removed")
        model, self._model = self._model, None
        if model is not None:  # last: a client that hangs or fails must not keep the sandbox
            try:
                await model.aclose()
            except Exception:
                log.exception("the model's client could not be closed")
