"""REST under `/lis/api/`, authenticated, authorised and guarded against forgery as Jupyter's own.

Every answer is JSON; an error has `message`, and `field` and `fix` where a setting is wrong. The
resource for a server's authoriser is `lis`: `read` for GET, `write` for POST.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler, FileFindHandler
from jupyter_server.utils import ensure_async, url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from lis_kernel.agent.remote import LiveRun, ask, follow, live_runs
from lis_kernel.errors import ConfigError, LisKernelError
from lis_kernel.server import sandboxes
from lis_kernel.server.attaching import attach_notebook, notebook_name
from lis_kernel.server.extension import LOGOS, STATIC, LisServer
from lis_kernel.server.listing import Run, listed, of_live, of_summary
from lis_kernel.server.page import PageHandler, ToPageHandler
from lis_kernel.server.starting import start
from lis_kernel.tools.strict_json import json_text
from lis_kernel.trajectory.summary import summary, there

__all__ = ["routes"]

CLIPPED = 2000
"""Characters of a task and an answer in a list; one run's own address has all."""


Events = AsyncGenerator[dict[str, Any], None]


class Refused(web.HTTPError):
    """An error whose words are for the caller."""

    def __init__(self, status: int, message: str, **more: str) -> None:
        super().__init__(status)
        self.words = {"message": message, **more}


class Handler(APIHandler):
    """Base of all that follow."""

    auth_resource = "lis"

    def initialize(self, lis: LisServer) -> None:
        self.lis = lis

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = (kwargs.get("exc_info") or (None, None))[1]
        if isinstance(error, Refused):
            words = error.words
        elif isinstance(error, web.HTTPError) and error.log_message:
            # tornado doubles the percent signs of a text that it does not format
            words = {"message": error.log_message.replace("%%", "%")}
        else:
            words = {"message": HTTPStatus(status_code).phrase}
        self.finish(json_text(words))

    def words(self) -> dict[str, Any]:
        """The request's JSON object; empty if there is no body."""
        body = self.get_json_body()
        if body is None:
            return {}
        if not isinstance(body, dict):
            raise Refused(400, "the body is not a JSON object")
        return body

    async def live(self, name: str) -> LiveRun | None:
        """The live run with this id, the server's own before others of its name."""
        found = [run for run in await asyncio.to_thread(live_runs) if run.id == name]
        here = os.path.realpath(self.notebook(name))
        ours = [run for run in found if run.path == here]
        if len(found := ours or found) > 1:
            raise Refused(409, f"{len(found)} live runs are called {name}: use `lis` and a path.")
        return found[0] if found else None

    def notebook(self, name: str) -> Path:
        """Where the notebook of a run with this id is, if it was started here."""
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise Refused(404, f"there is no run {name!r}")
        return self.lis.runs / name / "trajectory.ipynb"

    async def run(self, name: str) -> Run:
        """The run with this id, alive or not."""
        with explained(500):
            if (live := await self.live(name)) is not None:
                return await of_live(live)
        path = self.notebook(name)
        if not there(path):
            raise Refused(404, f"there is no run {name!r}")
        return of_summary(await asyncio.to_thread(summary, path))

    def row(self, run: Run, most: int | None = None) -> dict[str, Any]:
        """A run as JSON: with the address that opens it, and its files with theirs."""
        row = run.model_dump(mode="json")
        if most is not None:
            for name in ("task", "answer", "detail"):
                if row[name] and len(row[name]) > most:
                    row[name] = row[name][: most - 1] + "…"
            row["files"] = row["files"][:50]
        row["url"] = self.lis.lab_url(run.path)
        folder = run.path.parent / "files"
        row["files"] = [
            {"name": name, "url": None if run.live else self.lis.lab_url(folder / name)}
            for name in row["files"]
        ]
        return row


@contextlib.contextmanager
def explained(status: int = 400) -> Iterator[None]:
    """Our errors as answers: with `status` if a setting is wrong, 503 if a run does not answer."""
    try:
        yield
    except ConfigError as error:
        raise Refused(status, str(error), field=error.field, fix=error.fix) from error
    except TimeoutError as error:
        raise Refused(503, "the run does not answer") from error
    except LisKernelError as error:
        raise Refused(500, str(error)) from error


class RunsHandler(Handler):
    """GET: all runs. POST: start one."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        self.lis.reap()
        with explained(500):
            runs = await listed(self.lis.runs)
        self.finish(json_text({"runs": [self.row(run, CLIPPED) for run in runs]}))

    @web.authenticated
    @authorized
    async def post(self) -> None:
        self.lis.reap()
        with explained():
            started = await start(self.words(), self.lis.root, self.lis.runs)
        self.lis.started.append(started.process)
        self.log.info("lis_kernel: run %s is process %d", started.id, started.process.pid)
        self.set_status(202 if started.id is None else 201)
        self.finish(json_text({"id": started.id, "pid": started.process.pid}))


class RunHandler(Handler):
    """GET: one run, with all of its task and answer."""

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        self.finish(json_text(self.row(await self.run(name))))


class ActionHandler(Handler):
    """POST: do something with a run that lives."""

    @web.authenticated
    @authorized
    async def post(self, name: str, action: str) -> None:
        with explained(500):
            live = await self.live(name)
        if live is None:
            run = await self.run(name)
            raise Refused(409, f"the run {name} has ended: {run.state}")
        words = {"text": self.text()} if action == "say" else {}
        with explained(409):
            answer = await ask(live, action, **words)
        if action == "attach":
            answer |= await self.joined(live)
        self.finish(json_text(answer))

    def text(self) -> str:
        text = self.words().get("text")
        if not isinstance(text, str) or not text.strip():
            raise Refused(400, "there is nothing to say: send text", field="text")
        return text

    async def joined(self, live: LiveRun) -> dict[str, Any]:
        """A notebook that opens connected to the run; one that is there is left as it is."""
        name = notebook_name(live.id)
        files: Any = self.contents_manager
        if not await ensure_async(files.file_exists(name)):
            notebook = attach_notebook(live.id)
            model = {"type": "notebook", "format": "json", "content": notebook}
            await ensure_async(files.save(model, name))
        return {"notebook": name, "url": self.lis.lab_url(self.lis.root / name)}


class EventsHandler(Handler):
    """GET: what happens in a run from now on, as server-sent events, until it ends.

    Each event's data is JSON with its name under `event`. The first is `status`, whose `recap` is
    what happened before, see `agent/recap.py`; the last is `end`, with the run's row.
    """

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        run = await self.run(name)
        live = await self.live(name)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")
        with contextlib.suppress(StreamClosedError):
            if live is not None:
                await self.stream(live)
            run = await self.run(name)
            await self.tell({"event": "end", "run": self.row(run)})
            self.finish(set_content_type="text/event-stream")

    async def stream(self, live: LiveRun) -> None:
        async with contextlib.aclosing(cast(Events, follow(live))) as events:
            while (event := await self.following(events)) is not None:
                await self.tell(event)

    async def following(self, events: Events) -> dict[str, Any] | None:
        """The next event; None if the run ended or the browser went away."""
        self.reading = reading = asyncio.ensure_future(anext(events, None))
        try:
            while not (await asyncio.wait({reading}, timeout=self.lis.keep_alive))[0]:
                self.write(": still here\n\n")
                await self.flush()
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if reading.cancelled() or isinstance(reading.exception(), ConfigError):
            return None
        return reading.result()

    async def tell(self, event: dict[str, Any]) -> None:
        self.write(f"data: {json_text(event)}\n\n")
        await self.flush()

    def on_connection_close(self) -> None:
        if (reading := getattr(self, "reading", None)) is not None:
            reading.cancel()


class SandboxesHandler(Handler):
    """GET: this user's sandboxes."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        with explained(500):
            rows = await asyncio.to_thread(sandboxes.sandboxes)
        self.finish(json_text({"sandboxes": rows}))


class StopSandboxHandler(Handler):
    """POST: remove a sandbox whose owner is dead."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        try:
            with explained(500):
                row = await asyncio.to_thread(sandboxes.stop, name)
        except sandboxes.InUse as error:
            raise Refused(409, f"sandbox {name}: {error}") from error
        if row is None:
            raise Refused(404, f"there is no sandbox {name!r}")
        self.finish(json_text({"removed": row}))


def routes(lis: LisServer) -> list[tuple[Any, ...]]:
    """The extension's addresses and their handlers, for tornado."""
    actions = "stop|pause|resume|say|attach"
    table: dict[str, type[web.RequestHandler]] = {
        r"lis/api/runs": RunsHandler,
        r"lis/api/runs/([^/]+)": RunHandler,
        rf"lis/api/runs/([^/]+)/({actions})": ActionHandler,
        r"lis/api/runs/([^/]+)/events": EventsHandler,
        r"lis/api/sandboxes": SandboxesHandler,
        r"lis/api/sandboxes/([^/]+)/stop": StopSandboxHandler,
        r"lis/runs": PageHandler,
        r"lis/?": ToPageHandler,
    }
    ours = {"lis": lis}
    made = [(url_path_join(lis.base_url, path), handler, ours) for path, handler in table.items()]
    static = url_path_join(lis.base_url, r"lis/static/(.*)")
    return [*made, (static, FileFindHandler, {"path": [str(STATIC), str(LOGOS)]})]
