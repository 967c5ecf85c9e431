"""The words of a kernel's messages: signed JSON, as Jupyter's messaging protocol 5 has it.

Between `kernel/session.py` and its channels (`kernel/wire.py`). jupyter_client's `Session` says the
same, but looks for a date in every text of every message, and loads all of its package: a third of
what a session cost. Who can sign is in the sandbox and hostile, so nothing read here is trusted.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["Words"]

DELIMITER = b"<IDS|MSG>"
"""After the routing frames: signature, header, parent's header, metadata, content, buffers."""
VERSION = "5.4"
HEARD = 65_536
"""Signatures that are remembered: what is said twice, word for word, is heard once."""


class Words:
    """Makes requests of one client, and reads what its kernel says.

    Args:
        key: of the connection file; without one nothing is signed.
        scheme: `hmac-sha256`, or another digest after `hmac-`.
    """

    def __init__(self, key: str, scheme: str) -> None:
        self._mac = hmac.new(key.encode(), digestmod=scheme.removeprefix("hmac-")) if key else None
        self._session = secrets.token_hex(16)
        self._count = 0
        self._heard: dict[bytes, None] = {}

    def request(self, kind: str, content: dict[str, Any]) -> tuple[str, list[bytes]]:
        """A message of ours: its id, and its frames."""
        self._count += 1
        header = {
            "msg_id": f"{self._session}_{os.getpid()}_{self._count}",
            "msg_type": kind,
            "username": "lis",
            "session": self._session,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": VERSION,
        }
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        return header["msg_id"], [DELIMITER, self._signature(parts), *parts]

    def read(self, frames: Sequence[bytes]) -> dict[str, Any]:
        """A kernel's message: `header`, `parent_header` and `content`, each an object.

        Raises:
            ValueError, RecursionError: it is none, or not signed with our key, or was said before.
        """
        signature, *parts = frames[list(frames).index(DELIMITER) + 1 :]
        if len(parts) < 4 or not hmac.compare_digest(signature, self._signature(parts[:4])):
            raise ValueError("not a signed message")
        if self._mac is not None and signature in self._heard:
            raise ValueError("said before")
        self._heard[signature] = None
        if len(self._heard) > HEARD:
            del self._heard[next(iter(self._heard))]
        names = ("header", "parent_header", "metadata", "content")
        message = {name: json.loads(part) for name, part in zip(names, parts, strict=False)}
        if not all(isinstance(value, dict) for value in message.values()):
            raise ValueError("not made of objects")
        return message

    def _signature(self, parts: Sequence[bytes]) -> bytes:
        if self._mac is None:
            return b""
        mac = self._mac.copy()
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()
