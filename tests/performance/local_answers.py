"""How often the local model answers right: its real path, on questions with known answers.

    python tests/performance/local_answers.py [--split dev|test] [--only csv needle compute]

Runs every question of `local_questions.py` through `Agent` with one shared local model and a fresh
bubblewrap sandbox each. Prints a row per question and writes `results/local_answers-<split>-
<date>.json` (the day's last one stays) with every answer. Seconds depend on what else the machine
does; whether an answer is right hardly does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import harness
from local_questions import SEEDS, SETS, Question, is_right, questions

from lis_kernel.agent import Agent
from lis_kernel.config import Budget, ModelConfig, RunConfig
from lis_kernel.models import make_model
from lis_kernel.protocols import Model
from lis_kernel.types import StopReason, Task

MODEL = "local/qwen2.5-coder-1.5b"
NOTE = {
    "dev": "prompts and nudges were improved on these questions: not a held-out score",
    "test": "held out: run when the prompts and nudges were fixed",
}


async def ask(question: Question, config: RunConfig, model: Model, out: Path) -> dict[str, Any]:
    """One question's row."""
    task = Task(prompt=question.prompt, files=question.files)
    began = perf_counter()
    done = await Agent(config, out=out, model=model).arun(task)
    seconds = perf_counter() - began
    facts = json.loads(Path(done.path).read_text())["metadata"]["lis_kernel"]
    submitted = facts["stop_reason"] == StopReason.SUBMITTED
    return {
        "name": question.name,
        "right": submitted and is_right(facts["answer"], question),
        "answer": facts["answer"],
        "gold": question.gold,
        "turns": facts["turns"],
        "input_tokens": facts["usage"]["input_tokens"],
        "output_tokens": facts["usage"]["output_tokens"],
        "seconds": round(seconds, 1),
        "stop_reason": facts["stop_reason"],
        "prompt": question.prompt,
        "notebook": str(done.path),
    }


async def ask_all(options: argparse.Namespace, folder: Path, out: Path) -> list[dict[str, Any]]:
    config = RunConfig(
        model=ModelConfig(name=options.model, temperature=options.temperature),
        budget=Budget(turns=options.max_turns, seconds=options.timeout),
    )
    model = make_model(config.model)
    rows = []
    try:
        for kind in options.only:
            for question in questions(options.split, kind, folder):
                if options.numbers and int(question.name.split("-")[1]) not in options.numbers:
                    continue
                row = await ask(question, config, model, out)
                rows.append(row)
                print(_line(row), flush=True)
    finally:
        await model.aclose()
    return rows


def _line(row: dict[str, Any]) -> str:
    tokens = f"{row['input_tokens']}>{row['output_tokens']}"
    answer = " ".join(str(row["answer"]).split())[:60]
    return (
        f"{'right' if row['right'] else 'WRONG'}  {row['name']:<10} {row['turns']:>2} turns "
        f"{tokens:>11} tokens {row['seconds']:>6.1f} s  {row['stop_reason']:<10} "
        f"{answer!r} of {row['gold']!r}"
    )


def summary(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    asked = [row for row in rows if row["name"].startswith(f"{kind}-")]
    return {
        "name": kind,
        "right": sum(row["right"] for row in asked),
        "of": len(asked),
        "median_turns": median(row["turns"] for row in asked),
        "median_input_tokens": median(row["input_tokens"] for row in asked),
        "median_output_tokens": median(row["output_tokens"] for row in asked),
        "median_seconds": median(row["seconds"] for row in asked),
    }


@contextmanager
def _kept(path: Path | None) -> Iterator[Path]:
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lis-bench-") as folder:
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Questions that the local model gets right.")
    parser.add_argument("--split", choices=sorted(SEEDS), default="dev")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--numbers", nargs="+", type=int, help="only these of each set")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--max-turns", type=int, default=8)
    parser.add_argument("--timeout", type=float, default=180.0)
    parser.add_argument("--keep", type=Path, help="folder for the notebooks; else they are removed")
    options = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="lis-bench-") as folder, _kept(options.keep) as out:
        rows = asyncio.run(ask_all(options, Path(folder), out))
    sums = [summary(rows, kind) for kind in options.only]
    for one in sums:
        print(f"{one['name']}: {one['right']} of {one['of']} right")
    whole = set(options.only) == set(SETS) and not options.numbers
    if not whole:
        return  # a part is for looking, not for keeping
    now = datetime.now(UTC)
    facts = {
        "name": "facts",
        "date": now.isoformat(timespec="seconds"),
        "split": options.split,
        "note": NOTE[options.split],
        "seed": SEEDS[options.split],
        "model": options.model,
        "temperature": options.temperature,
        "max_turns": options.max_turns,
        "timeout": options.timeout,
        "load_before": load,
        "load_after": os.getloadavg(),
        **harness.machine(),
    }
    rows = [{key: row[key] for key in row if key != "notebook"} for row in rows]
    harness.RESULTS.mkdir(exist_ok=True)
    path = harness.RESULTS / f"local_answers-{options.split}-{now:%Y-%m-%d}.json"
    path.write_text(
        json.dumps([*sums, {"name": "questions", "rows": rows}, facts], indent=1) + "\n"
    )
    print(path)


if __name__ == "__main__":
    main()
