"""The child of `models/llama_server.py`: loads a model, says where it serves, lives as we do.

Run by its path, with one line of JSON (`LlamaServer._start` writes it) on standard input. Standard
library and xllamacpp only, so that it starts fast and needs nothing of ours to be importable.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

SLOTS = 2
"""Conversations that are answered at the same time; more of them wait for a slot."""

PROMPT_CACHE_MIB = 1024
"""Host memory for the KV cache of conversations that had to leave their slot."""


def main() -> None:
    """The child: load, say where, and live until the parent closes our standard input."""
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    # Whatever native code prints goes to the log; only we answer on the real standard output.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        server = _llama(settings)
    except RuntimeError as error:
        sys.exit(str(error))  # what llama.cpp had against it is in the log already
    answer.write(f"{server.listening_address}\n")
    answer.close()
    sys.stdin.read()
    # Not the interpreter's exit: it would wait for a reply that is still being generated.
    os._exit(0)


def _llama(settings: dict[str, Any]) -> Any:
    # Threads that wait by spinning keep the core from those they wait for as soon as anything else
    # runs, such as a cell: 25 tokens a second became 0.3 on two busy cores. With a short spin they
    # stay 25, and 8 when busy. libgomp reads this when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["weights"]
    params.model_alias = {settings["name"]}
    params.n_parallel = SLOTS
    params.n_ctx = settings["context"] * SLOTS
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _physical_cores()
    # llama.cpp looks for a cancelled request between batches only: with its own 2048 tokens a
    # cancelled prompt goes on for 20 seconds here, with 256 for two, at the same speed.
    params.n_batch = params.n_ubatch = 256
    # Mean of six runs on x86-64 (AVX2): repacked weights take 0.6 GB more and are read 20 % slower
    # in prompts, 12 % faster in replies. Fitting to a GPU's memory would load everything twice.
    params.no_extra_bufts = platform.machine() == "x86_64"
    params.fit_params = False
    params.verbosity = 1  # errors only
    params.port = settings["port"]
    params.api_prefix = settings["prefix"]
    # llama.cpp's own pages and probes are not wanted; nor may a web page of another origin ask.
    params.ui = params.endpoint_slots = False
    params.cors_origins = "http://127.0.0.1"
    return xllamacpp.Server(params)


def _physical_cores() -> int:
    """Physical cores this process may use; hyperthreads share the units that llama.cpp needs."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        topology = Path("/sys/devices/system/cpu")
        siblings = "topology/thread_siblings_list"
        return len({(topology / f"cpu{cpu}" / siblings).read_text() for cpu in cpus}) or 1
    except OSError:
        return len(cpus) or os.cpu_count() or 1


if __name__ == "__main__":
    main()
