"""A Jupyter client for tests, which keeps what a cell shows as a notebook would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

Message = dict[str, Any]


class Shown:
    """What a cell showed, and what came back."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []
        self.messages: list[Message] = []
        self.reply: dict[str, Any] = {}

    def take(self, message: Message) -> None:
        self.messages.append(message)
        kind, content = message["msg_type"], message["content"]
        name = content.get("transient", {}).get("display_id")
        if kind == "update_display_data":
            for output in self.outputs:
                if name and output.get("display_id") == name:
                    output["data"] = content["data"]
        elif kind in ("stream", "display_data", "execute_result", "error"):
            self.outputs.append({"kind": kind, **content, "display_id": name})

    @property
    def text(self) -> str:
        """Everything that can be read without HTML."""
        said = []
        for output in self.outputs:
            if output["kind"] == "error":
                said.append(f"{output['ename']}: {output['evalue']}")
            else:
                said.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
        return "\n".join(said).strip()

    @property
    def html(self) -> str:
        return "".join(output.get("data", {}).get("text/html", "") for output in self.outputs)

    @property
    def ok(self) -> bool:
        return bool(self.reply.get("status") == "ok")


class Console:
    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager, self.client = manager, client

    async def run(
        self,
        source: str,
        *,
        page: bool = False,
        on_message: Callable[[Message], None] = lambda _: None,
        seconds: float = 60,
    ) -> Shown:
        """Run a cell as nbclient does, or as a page with widgets."""
        shown = Shown()
        content = {
            "code": source,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": page,
            "stop_on_error": True,
        }
        message = self.client.session.msg("execute_request", content)
        if page:
            message["metadata"] = {"cellId": "a-cell"}
        self.client.shell_channel.send(message)
        mine = message["header"]["msg_id"]
        idle = False
        async with asyncio.timeout(seconds):
            while not idle:
                heard = await self.client.get_iopub_msg()
                on_message(heard)
                if heard["parent_header"].get("msg_id") != mine:
                    continue
                shown.take(heard)
                idle = heard["content"].get("execution_state") == "idle"
            while not shown.reply:
                reply = await self.client.get_shell_msg()
                if reply["parent_header"].get("msg_id") == mine:
                    shown.reply = reply["content"]
        return shown

    async def ask(self, kind: str, **content: Any) -> dict[str, Any]:
        """A request on the shell channel; its reply's content."""
        message = self.client.session.msg(f"{kind}_request", content)
        self.client.shell_channel.send(message)
        async with asyncio.timeout(30):
            while True:
                reply = await self.client.get_shell_msg()
                if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                    return dict(reply["content"])

    def comm(self, comm_id: str, data: dict[str, Any]) -> None:
        """What a page says to a widget."""
        content = {"comm_id": comm_id, "data": data}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", content))
