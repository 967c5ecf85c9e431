"""Runs rollouts of the reference package, one per line on stdin, in the rival's own venv.

Request: {"script": [...], "task": "...", "answer": "..."}. Reply: {"start", "turns": [...],
"model": [...], "collect", "stop", "total"} in seconds, or {"error"}. The steps are those of the
package's own command line: container, agent, copy of /testbed/output, trajectory.json, clean-up.
Its LLM client talks to a loopback server that speaks the OpenAI chat protocol and answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

# Before the imports: litellm would fetch its price list, and a proxy would get our calls.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
os.environ["OPENAI_API_KEY"] = "none"

from llm_in_sandbox.agent import Agent, AgentArgs
from llm_in_sandbox.cli import get_default_config_path, load_prompt_config
from llm_in_sandbox.docker_runtime import DockerRuntime

IMAGE, LABEL = sys.argv[1:3]
DIRECTORIES = {
    "working_dir": "/testbed",
    "input_dir": "/testbed/input",
    "output_dir": "/testbed/output",
}


class Chat(BaseHTTPRequestHandler):
    """POST /v1/chat/completions: after k assistant messages, reply k of the script, made before."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for a delayed ACK (40 ms)
    replies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.replies[sum(message["role"] == "assistant" for message in body["messages"])]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        pass


def completion(number: int, turn: dict[str, Any]) -> bytes:
    calls = [
        {
            "id": f"call_{number}_{place}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for place, call in enumerate(turn["tool_calls"])
    ]
    message = {"role": "assistant", "content": turn["text"], "tool_calls": calls}
    return json.dumps(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()


class TimedAgent(Agent):
    """The package's agent; only notes when each turn begins."""

    def model_query(self, *args: Any, **kwargs: Any) -> Any:
        self.marks.append(perf_counter())
        return super().model_query(*args, **kwargs)


def rollout(request: dict[str, Any], base_url: str) -> dict[str, Any]:
    Chat.replies = [completion(number, turn) for number, turn in enumerate(request["script"])]
    logger = logging.getLogger("reference")
    logger.setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="lis-bench-") as folder:
        began = perf_counter()
        # The label is ours, to find what a killed worker left behind; it costs nothing.
        runtime = DockerRuntime(
            IMAGE, repo_path="/testbed", logger=logger, labels={"lis-bench": LABEL}
        )
        try:
            started = perf_counter()
            prompts = load_prompt_config(str(get_default_config_path()))
            for name, value in DIRECTORIES.items():
                for prompt in ("system_prompt", "instance_prompt"):
                    prompts[prompt] = prompts[prompt].replace("{" + name + "}", value)
            agent = TimedAgent(
                AgentArgs(
                    system_prompt=prompts["system_prompt"],
                    instance_prompt=prompts["instance_prompt"],
                    llm_name="openai/scripted",
                    llm_base_url=base_url,
                    quiet=True,  # its benchmark mode: panels go to a string, not to a terminal
                ),
                logger=logger,
            )
            agent.marks = []
            trajectory = agent.run(runtime, request["task"], max_steps=100)
            turned = perf_counter()
            runtime.copy_from_container("/testbed/output", f"{folder}/files")
            with open(f"{folder}/trajectory.json", "w") as file:
                json.dump(trajectory.to_dict(), file, indent=2, ensure_ascii=False)
            collected = perf_counter()
        finally:
            closing = perf_counter()
            runtime.close()
        ended = perf_counter()
        answer = Path(folder, "files/answer.txt").read_text().strip()

    if answer != request["answer"] or len(trajectory.steps) != len(request["script"]):
        seen = "\n".join(step.observation for step in trajectory.steps)
        raise RuntimeError(f"not the scripted rollout: answer {answer!r}\n{seen}")
    edges = [started, *agent.marks[1:], turned]
    return {
        "start": started - began,
        "turns": [after - before for before, after in pairwise(edges)],
        "model": [step.metadata["exec_time"] for step in trajectory.steps],
        "collect": collected - turned,
        "stop": ended - closing,
        "total": ended - began,
    }


def main() -> None:
    # Whatever the package prints goes to stderr; the real stdout is for replies only.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base_url = f"http://127.0.0.1:{server.server_port}/v1"
    names = ("llm-in-sandbox", "litellm", "openai", "docker")
    print(json.dumps({name: version(name) for name in names}), file=replies)
    for line in sys.stdin:
        try:
            reply = rollout(json.loads(line), base_url)
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()
