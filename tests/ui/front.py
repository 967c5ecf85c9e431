"""A front end with widgets, as far as a kernel can tell: it plays JupyterLab's part in a test.

Messages to widgets go over a subshell, which is asked for over the control channel; a directional
link is carried out as the widgets' own JavaScript does it.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

__all__ = ["FrontEnd"]

WIDGET = "application/vnd.jupyter.widget-view+json"


class FrontEnd:
    """A kernel and a page that shows it.

    Args:
        subshells: whether it sends what widgets say over a subshell.
        widgets: whether it knows widgets at all.
    """

    def __init__(self, *, subshells: bool = True, widgets: bool = True) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        info = self._asked(self.client.kernel_info())
        assert "kernel subshells" in info["supported_features"]
        self.widgets = widgets
        self.subshell = self._subshell() if subshells else None
        self.models: dict[str, dict[str, Any]] = {}
        self.displays: dict[str, dict[str, Any]] = {}
        self.order: list[str] = []
        self.printed = ""
        self.errors: list[str] = []
        self.updates = 0
        self._cell = ""
        self.running = False

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)

    def _asked(self, msg_id: str) -> dict[str, Any]:
        while True:
            reply = self.client.get_shell_msg(timeout=30)
            if reply["parent_header"].get("msg_id") == msg_id:
                found: dict[str, Any] = reply["content"]
                return found

    def _subshell(self) -> str:
        request = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(request)
        reply = self.client.get_control_msg(timeout=30)
        return str(reply["content"]["subshell_id"])

    # -- cells -----------------------------------------------------------------------------------

    def start(self, code: str, **metadata: Any) -> None:
        """Run a cell, as JupyterLab does unless `metadata` says otherwise; do not wait."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": True}
        message = self.client.session.msg("execute_request", content)
        message["header"]["username"] = metadata.pop("username", "")
        words = {"cellId": "c1", **metadata}
        message["metadata"] = {key: value for key, value in words.items() if value is not None}
        self._cell, self.running = message["header"]["msg_id"], True
        self.client.shell_channel.send(message)

    def until(self, true: Callable[[], Any], seconds: float = 60) -> None:
        """Take what comes until something holds."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, (self.printed, self.errors)
            with contextlib.suppress(queue.Empty):
                self._take(self.client.get_iopub_msg(timeout=0.1))

    def finish(self) -> None:
        self.until(lambda: not self.running)

    def run(self, code: str, **metadata: Any) -> None:
        self.start(code, **metadata)
        self.finish()

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and message["parent_header"].get("msg_id") == self._cell:
            self.running = content["execution_state"] != "idle"
        elif kind in ("display_data", "update_display_data"):
            name = content.get("transient", {}).get("display_id", f"#{len(self.order)}")
            if kind == "display_data":
                self.order.append(name)
            else:
                self.updates += 1
            self.displays[name] = content["data"]
        elif kind == "execute_result":
            self.displays["result"] = content["data"]
        elif kind == "stream":
            self.printed += content["text"]
        elif kind == "error":
            self.errors.append("\n".join(content["traceback"]))
        elif self.widgets and kind == "comm_open":
            self.models[content["comm_id"]] = dict(content["data"]["state"])
            self._link(self.models[content["comm_id"]])
        elif self.widgets and kind == "comm_msg" and content["comm_id"] in self.models:
            self.models[content["comm_id"]].update(content["data"].get("state", {}))

    def _link(self, state: dict[str, Any]) -> None:
        if state.get("_model_name") == "DirectionalLinkModel":
            (source, name), (target, other) = state["source"], state["target"]
            value = self.model(source)[name]
            self.say(target, {"method": "update", "state": {other: value}, "buffer_paths": []})

    # -- widgets ---------------------------------------------------------------------------------

    def model(self, reference: str) -> dict[str, Any]:
        return self.models[reference.removeprefix("IPY_MODEL_")]

    def find(self, **words: Any) -> str:
        """The widget whose state holds these words."""
        return next(
            name
            for name, state in self.models.items()
            if all(state.get(key) == value for key, value in words.items())
        )

    def has(self, **words: Any) -> bool:
        return any(
            all(state.get(key) == value for key, value in words.items())
            for state in self.models.values()
        )

    def say(self, reference: str, data: dict[str, Any]) -> None:
        """Send a widget's message to the kernel."""
        content = {"comm_id": reference.removeprefix("IPY_MODEL_"), "data": data}
        message = self.client.session.msg("comm_msg", content)
        if self.subshell is not None:
            message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)

    def click(self, **words: Any) -> None:
        self.say(self.find(**words), {"method": "custom", "content": {"event": "click"}})

    def type(self, value: str, **words: Any) -> None:
        state = {"value": value}
        self.say(self.find(**words), {"method": "update", "state": state, "buffer_paths": []})
