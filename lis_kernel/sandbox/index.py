"""The package index as pip is configured on this host: its hosts, and its settings for the inside.

Everything is asked of pip itself at run time, its default included; no host is written down here.
Files often lie on another host than the index: pip is asked for the address of one file. Called by
`network.py` at a sandbox's start, for the word `index` of a policy.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from lis_kernel.errors import SandboxUnavailable

__all__ = ["Index", "read", "settings"]

PIP_SECONDS = 60
DEFAULT = re.compile(r"\(default:? (https?://[^\s)]+)\)")
"""In the help of `--index-url`."""


@dataclass(frozen=True)
class Index:
    """What pip needs: hosts with ports, and `PIP_…` variables without credentials."""

    hosts: tuple[tuple[str, int], ...]
    environment: Mapping[str, str]
    notes: tuple[str, ...]
    """Sentences about what could not be carried over."""


def settings() -> dict[str, str]:
    """pip's settings for `pip install` on this host: environment over files, without dashes' case.

    Raises:
        SandboxUnavailable: this Python has no pip.
    """
    found: dict[tuple[int, str], str] = {}
    order = {"global": 0, "install": 1, ":env:": 2}
    for line in _pip("config", "list").splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in order:
            text = ast.literal_eval(value) if value[:1] in "'\"" else value
            found[order[section], name.replace("_", "-")] = str(text)
    return {name: value for (_, name), value in sorted(found.items())}


def read() -> Index:
    """The index of this host. Takes one or two seconds the first time.

    Raises:
        SandboxUnavailable: this Python has no pip, or it has no index to speak of.
    """
    options = settings()
    notes: list[str] = []
    indexes: list[str] = []
    if options.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        indexes = [options.get("index-url") or default_url()]
        indexes += options.get("extra-index-url", "").split()
    links = options.get("find-links", "").split()
    remote = [url for url in indexes + links if _split(url)]
    if len(remote) < len(indexes + links):
        notes.append("pip's local folders of packages are not visible in the sandbox")
    hosts: dict[tuple[str, int], None] = {}
    for url in remote:
        hosts[_host(url)] = None
    for url in (url for url in indexes if _split(url)):
        files = _files_host(url, tuple(sorted(os.environ.items())))
        if files is None:
            notes.append(f"pip could not say where {_host(url)[0]} keeps its files")
        else:
            hosts[files] = None
    trusted = options.get("trusted-host", "").split()
    for entry in trusted:
        name, _, port = entry.partition(":")
        ports = [int(port)] if port.isdigit() else [80, 443]
        hosts.update(dict.fromkeys((name, number) for number in ports))
    if not hosts:
        raise SandboxUnavailable("`index`: pip has no index on the network here; see `pip config`")
    if any(_without_credentials(url) != url for url in remote):
        notes.append("pip's index address holds credentials; they are not given to the sandbox")
    if "client-cert" in options:
        notes.append("pip's client certificate is not given to the sandbox")
    kept = {
        "PIP_INDEX_URL": [url for url in indexes[:1] if _split(url)] or remote[:1],
        "PIP_EXTRA_INDEX_URL": [url for url in indexes[1:] if _split(url)],
        "PIP_FIND_LINKS": [url for url in links if _split(url)],
        "PIP_TRUSTED_HOST": trusted,
    }
    environment = {
        name: " ".join(map(_without_credentials, values)) for name, values in kept.items() if values
    }
    return Index(tuple(hosts), environment, tuple(notes))


def default_url() -> str:
    """The index that pip takes when nothing is configured, in its own words."""
    match = DEFAULT.search(_pip("install", "--help", environment={"COLUMNS": "2000"}))
    if match is None:
        raise SandboxUnavailable("`index`: pip does not say its default index; set PIP_INDEX_URL")
    return match[1]


@functools.lru_cache(maxsize=16)
def _files_host(url: str, environment: object) -> tuple[str, int] | None:
    """Where this index keeps files, by the address that pip would fetch its own from.

    `environment` only keys the cache.
    """
    with tempfile.TemporaryDirectory(prefix="lis-index-") as folder:
        empty, report = Path(folder, "empty"), Path(folder, "report.json")
        empty.mkdir()
        # the same address twice: an empty one would not override that of a configuration file
        only = {"PIP_INDEX_URL": url, "PIP_EXTRA_INDEX_URL": url, "PIP_FIND_LINKS": str(empty)}
        asked = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet")
        try:
            _pip(*asked, "--report", str(report), "pip", environment=only)
            found = json.loads(report.read_text("utf-8"))
            return _host(found["install"][0]["download_info"]["url"])
        except (SandboxUnavailable, OSError, ValueError, LookupError, TypeError):
            return None


def _pip(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    # in a notebook's kernel all that it prints would be coloured
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    try:
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            env={**plain, **(environment or {})},
            timeout=PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SandboxUnavailable("`index`: pip did not answer") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        hint = " Run `python -m ensurepip`." if "No module named pip" in last else ""
        raise SandboxUnavailable(f"`index`: {last}.{hint}")
    return done.stdout


def _split(url: str) -> SplitResult | None:
    """The parts of an address on the network; None for folders and `file:`."""
    parts = urlsplit(url)
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def _host(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"no host in {url!r}")
    return parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)


def _without_credentials(url: str) -> str:
    if not (parts := _split(url)):
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
