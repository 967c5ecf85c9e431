"""Our signed words are Jupyter's: its own reader takes ours, and we take its; nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_client.session import Session

from lis_kernel.kernel.words import DELIMITER, Words

KEY = "a key"
SCHEME = "hmac-sha256"


def theirs() -> Session:
    return Session(key=KEY.encode(), signature_scheme=SCHEME)


def test_jupyter_reads_ours_and_we_read_jupyters() -> None:
    content: dict[str, Any] = {"code": "print('ä\udcff ')", "silent": False}
    msg_id, frames = Words(KEY, SCHEME).request("execute_request", content)
    session = theirs()
    read = session.deserialize(session.feed_identities(frames)[1])
    assert (read["header"]["msg_id"], read["msg_type"]) == (msg_id, "execute_request")
    assert read["content"] == content
    answer = session.msg("execute_reply", {"status": "ok"}, parent=read)
    got = Words(KEY, SCHEME).read([b"route", *session.serialize(answer), b"buffer"])
    assert got["parent_header"]["msg_id"] == msg_id
    assert (got["header"]["msg_type"], got["content"]) == ("execute_reply", {"status": "ok"})


def test_ids_differ() -> None:
    ours, others = Words(KEY, SCHEME), Words(KEY, SCHEME)
    ids = {words.request("x", {})[0] for words in (ours, others) for _ in range(5)}
    assert len(ids) == 10


def signed(*parts: bytes) -> list[bytes]:
    return [DELIMITER, theirs().sign(list(parts[:4])), *parts]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [DELIMITER],
        [b"no delimiter", b"{}", b"{}", b"{}", b"{}"],
        [DELIMITER, b"", b"{}", b"{}", b"{}", b"{}"],
        [DELIMITER, "ü".encode() * 32, b"{}", b"{}", b"{}", b"{}"],
        signed(b"{}", b"{}", b"{}"),
        signed(b"{}", b"{}", b"{}", b"[]"),
        signed(b"{}", b"null", b"{}", b"{}"),
        signed(b"{}", b"{}", b"{}", b"\xff"),
        signed(b"{}", b"{}", b"{}", b"{"),
        signed(b"{}", b"{}", b"{}", b"9" * 5000),
        signed(b"{}", b"{}", b"{}", b"[" * 100_000),
        [*signed(b"{}", b"{}", b"{}", b"{}")[:5], b'{"other": 1}'],
    ],
)
def test_anything_else_is_no_message(frames: list[bytes]) -> None:
    with pytest.raises((ValueError, RecursionError)):
        Words(KEY, SCHEME).read(frames)


def test_without_a_key_nothing_is_signed() -> None:
    _, frames = Words("", SCHEME).request("x", {"a": 1})
    assert frames[1] == b""
    assert Words("", SCHEME).read(frames)["content"] == {"a": 1}


def test_what_is_said_again_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lis_kernel.kernel.words.HEARD", 2)
    words, said = Words(KEY, SCHEME), [Words(KEY, SCHEME).request("x", {})[1] for _ in range(3)]
    words.read(said[0])
    with pytest.raises(ValueError, match="said before"):
        words.read(said[0])
    words.read(said[1])
    words.read(said[2])
    words.read(said[0])  # long ago: what is remembered is bounded
