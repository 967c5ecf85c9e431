"""People's cells in a run that is paused: run in the model's own kernel, recorded as theirs.

Called by `agent/loop.py` for whoever took over: a notebook's magic, or a client of the run's door.
"""

from __future__ import annotations

import asyncio
from typing import Any

from lis_kernel.agent import events
from lis_kernel.agent.handover import Handover
from lis_kernel.agent.turn import cut_short
from lis_kernel.errors import SandboxBusy, SandboxLost
from lis_kernel.kernel.outputs import OnMessage, clean_text
from lis_kernel.kernel.session import KernelSession
from lis_kernel.tools.toolset import toolset
from lis_kernel.trajectory import Recorder
from lis_kernel.trajectory.notebook import code_cell
from lis_kernel.types import CellResult

__all__ = ["Guests"]


class Guests:
    """People who work in a run's kernel while the model waits.

    Args:
        handover: says whether it does, and is told what they ran.
        recorder: of the run's notebook.
        tell: told what happens.
    """

    def __init__(self, handover: Handover, recorder: Recorder, tell: events.OnEvent) -> None:
        self._handover = handover
        self._recorder = recorder
        self._tell = tell
        self._tools = toolset("notebook")
        self._task: asyncio.Task[CellResult] | None = None
        self._number = 0
        self._ended = False

    async def run(
        self,
        session: KernelSession,
        source: str,
        turn: int,
        on_message: OnMessage | None,
        timeout: float | None,
    ) -> CellResult:
        """Run one cell, after which the model may go on.

        Raises:
            SandboxBusy: the model is at work, or another person's cell; nothing was run.
            SandboxLost: the run was ended meanwhile, and the cell with it.
            SandboxError, KernelError: as `KernelSession.execute`; the run ends with it.
        """
        self._check_paused()
        if self._handover.working.locked():
            raise SandboxBusy("another cell of a person's is running; wait for its end")
        async with self._handover.working:
            self._check_paused()  # the model may have been let go on while we waited
            work = self._run(session, clean_text(source), turn, on_message, timeout)
            self._task = asyncio.create_task(work)
            try:
                return await asyncio.shield(self._task)
            except asyncio.CancelledError:
                asked = asyncio.current_task()
                if self._ended and not (asked and asked.cancelling()):
                    raise SandboxLost("the run has ended, and the cell with it") from None
                self._task.cancel()  # whoever asked is gone: the cell must end, and be recorded
                await asyncio.wait({self._task})
                raise
            finally:
                self._task = None

    def _check_paused(self) -> None:
        if (state := self._handover.state) != "paused":
            raise SandboxBusy(f"the agent is at work ({state}): pause it before you run a cell")

    async def end(self) -> None:
        """The run ends: a cell that still runs is interrupted and recorded."""
        self._ended = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(
        self,
        session: KernelSession,
        source: str,
        turn: int,
        on_message: OnMessage | None,
        timeout: float | None,
    ) -> CellResult:
        self._number += 1
        name = self._recorder.new_id(f"human-{self._number}")
        cell = code_cell(name, source, ["lis-human"], kind="human", author="human", turn=turn)
        self._recorder.begin(cell)
        result, begun = CellResult(status="interrupted"), False
        try:
            await self._recorder.saved()
            self._tell(events.HumanStarted(source))
            begun = True

            def show(kind: str, content: dict[str, Any]) -> None:
                self._tell(events.CallOutput(kind, content))
                if on_message is not None:
                    on_message(kind, content)

            result = await session.execute(source, timeout, show)
        except BaseException as error:
            seen = session.partial if begun else ()  # else they are those of the cell before
            result = CellResult(status=cut_short(error), outputs=seen)
            raise
        finally:
            self._finish(cell, source, result)
            await self._recorder.saved()
            self._tell(events.HumanFinished(result))
        return result

    def _finish(self, cell: dict[str, Any], source: str, result: CellResult) -> None:
        cell["outputs"] = list(result.outputs)
        cell["execution_count"] = result.execution_count
        if result.status == "error":
            cell["metadata"]["tags"] = ["lis-human", "raises-exception"]
        elif result.status != "ok":
            cell["metadata"]["tags"] = ["lis-human", "skip-execution"]
        self._recorder.finish(
            status=result.status,
            seconds=result.seconds,
            restarted=result.restarted,
            verdict=result.verdict,
            limit=result.limit,
        )
        tool = "execute_bash" if source.startswith("%%bash\n") else "execute_python"
        self._handover.ran(source, self._tools[tool].to_observation(result).text)
