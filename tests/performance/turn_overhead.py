"""What the harness around the model costs: one scripted task, a model that answers at once.

    python tests/performance/turn_overhead.py [-n 10] [--no-docker | --only reference]

Each round runs a short and a long script (6 and 12 turns) with each contender. Ours is timed from
the call of `lis_kernel.run` to its return, the notebook closed; the rival from its container's
creation to its removal; imports outside on both sides. "turn, by difference" = (long - short) /
extra turns within one round, thus without start and stop.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import harness
import workload
from reference import IMAGE, Missing, Reference

SHORT, LONG = 6, 12
TASK = f"task of {SHORT} turns"
TASK_WITHOUT_STOP = f"task of {SHORT} turns, the rival's stop left out"
TASK_LONG = f"task of {LONG} turns"
TURN = "turn, by difference"
TURN_WITHOUT_CLIENT = "turn, by difference, the rival's LLM client left out"
TOOL = "tool call, as recorded"


class Ours:
    """`lis_kernel.run` with one backend."""

    def __init__(self, backend: str, scripts: Path) -> None:
        import lis_kernel

        self.run = lis_kernel.run
        self.backend = backend
        self.scripts = {turns: scripts / f"script{turns}.json" for turns in (SHORT, LONG)}
        for turns, path in self.scripts.items():
            path.write_text(json.dumps(workload.script(turns)))

    def __call__(self) -> Mapping[str, float]:
        short, facts = self.task(SHORT)
        long, _ = self.task(LONG)
        turn = (long - short) / (LONG - SHORT)
        calls = [cell["seconds"] for cell in facts if cell.get("tool", "submit") != "submit"]
        return {
            TASK: short,
            TASK_WITHOUT_STOP: short,
            TASK_LONG: long,
            TURN: turn,
            TURN_WITHOUT_CLIENT: turn,
            TOOL: mean(calls),
            "our set-up cell": sum(cell["seconds"] for cell in facts if cell["kind"] == "setup"),
        }

    def task(self, turns: int) -> tuple[float, list[dict[str, Any]]]:
        """Seconds of one task, and the notebook's own facts on each code cell."""
        with tempfile.TemporaryDirectory(prefix="lis-bench-") as out:
            model = f"scripted:{self.scripts[turns]}"
            began = perf_counter()
            done = self.run(workload.TASK, model=model, backend=self.backend, out=out)
            total = perf_counter() - began
            notebook = json.loads(Path(done.path).read_text())
        run = notebook["metadata"]["lis_kernel"]
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        facts = [cell["metadata"]["lis_kernel"] for cell in cells]
        failed = [cell for cell in facts if cell["status"] != "ok" or cell.get("is_error")]
        if failed or run["turns"] != turns or (run["answer"] or "").strip() != workload.ANSWER:
            raise RuntimeError(f"not the scripted rollout: {run}, {failed}")
        return total, facts


def theirs(reference: Reference) -> Mapping[str, float]:
    short, long = reference.rollout(SHORT), reference.rollout(LONG)
    turns, model = short["turns"], short["model"]
    extra = LONG - SHORT
    client = (sum(long["model"]) - sum(model)) / extra
    # Its stop is a fixed 5 s wait for a `sleep` that ignores SIGTERM: only noise in a difference.
    difference = ((long["total"] - long["stop"]) - (short["total"] - short["stop"])) / extra
    return {
        TASK: short["total"],
        TASK_WITHOUT_STOP: short["total"] - short["stop"],
        TASK_LONG: long["total"],
        TURN: difference,
        TURN_WITHOUT_CLIENT: difference - client,
        TOOL: mean(turn - asked for turn, asked in zip(turns[:-1], model[:-1], strict=True)),
        "its start": short["start"],
        f"its {SHORT} turns": sum(turns),
        "its turn, mean": mean(turns),
        "its LLM client, per turn": mean(model),
        "its collecting": short["collect"],
        "its stop": short["stop"],
        **{f"its turn {number}": seconds for number, seconds in enumerate(turns, start=1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead per task and per turn, two sides.")
    parser.add_argument("-n", type=int, default=10, help="rounds after the warm-up")
    parser.add_argument("--no-docker", action="store_true", help="leave the rival out")
    parser.add_argument("--only", choices=["ours", "reference"], help="run one side alone")
    parser.add_argument(
        "--backend", nargs="+", default=["bubblewrap"], help="the first is our base"
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scripts = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lis-bench-")))
        contenders: dict[str, harness.Contender] = {}
        if options.only != "reference":
            for place, backend in enumerate(options.backend):
                contenders["ours" if place == 0 else backend] = Ours(backend, scripts)
        facts: dict[str, object] = {"backends": options.backend}
        if options.only != "ours" and not options.no_docker:
            reference = stack.enter_context(Reference())
            contenders["reference"] = lambda: theirs(reference)
            facts["reference"] = {**reference.versions, "image": IMAGE}
        samples = harness.interleave(contenders, options.n)
    samples.machine.update(facts)
    both = "ours" in contenders and "reference" in contenders
    harness.report("turn_overhead" if both else f"turn_overhead-{'-'.join(contenders)}", samples)


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        raise SystemExit(f"turn_overhead: {missing}") from None
