"""Messages that are too big, or none: the second half of the family "kernel channel"."""

from __future__ import annotations

import asyncio
import time

from lis_kernel.attacks.ground import Outcome, judged
from lis_kernel.attacks.measure import Peak
from lis_kernel.attacks.readers import Reader, attempt, faults
from lis_kernel.kernel.outputs import MAX_OUTPUTS

MB = 1 << 20

# -- the host's memory -----------------------------------------------------------------------------

ROOM = 32 * MB
DROPPED = "what is over the limit of a message is read past"


ASKED, BUSY = 0.05, 0.8
"""Seconds until a request is on its way, and for which the host then does something else."""


async def _memory(reader: Reader, source: str, size: int = 4 * MB, busy: bool = False) -> Outcome:
    """How much a cell takes of the host's memory; `busy` while the host reads nothing."""
    with Peak() as peak:
        running = asyncio.create_task(reader.cell(source))
        await asyncio.sleep(ASKED)
        if busy:
            time.sleep(BUSY)  # noqa: ASYNC251  the loop stands still: that is the point
        cell = await running
        await reader.settle()
    grown = f"the host grew by {peak.grown // MB} MB, the record by {cell.size // MB} MB"
    return judged(peak.grown > ROOM or cell.size > size, grown, DROPPED)


@attempt
async def send_one_huge_frame(reader: Reader) -> Outcome:
    return await _memory(reader, f"say('x' * {48 * MB})")


@attempt
async def send_endless_parts(reader: Reader) -> Outcome:
    """No part is large, the message they make is."""
    return await _memory(reader, f"part = bytes({8 * MB})\nraw([b'a', *[part] * 6, b'end'])")


@attempt
async def send_many_large_messages(reader: Reader) -> Outcome:
    """More than anybody reads at once: whoever takes it off the wire keeps it."""
    source = f"part = b'x' * {4 * MB}\nraw(*[[b'a', part]] * 30)"
    return await _memory(reader, source, busy=True)


@attempt
async def send_brackets(reader: Reader) -> Outcome:
    """A list of empty lists takes twenty times its text."""
    source = (
        "body = b'{\"data\": {\"application/json\": [' + b'[],' * 700_000 + b'[]]}}'\n"
        "publish('display_data', body)"
    )
    return await _memory(reader, source, MB)


@attempt
async def flood_with_bytes(reader: Reader) -> Outcome:
    return await _memory(reader, f"text = 'x' * {MB}\nfor n in range(24): say(text + str(n))")


@attempt
async def flood_with_messages(reader: Reader) -> Outcome:
    cell = await reader.cell(
        "content = {'data': {'text/plain': 'x'}, 'metadata': {}}\n"
        "many = [[b'', *sealed('display_data', content)] for _ in range(5_300)]\n"
        "raw(*many)"
    )
    many = f"{len(cell.outputs)} outputs"
    return judged(len(cell.outputs) > MAX_OUTPUTS, many, f"at most {MAX_OUTPUTS} outputs a cell")


# -- what is no message ----------------------------------------------------------------------------

VALID = "checked field by field; what does not fit is dropped"


async def _nonsense(reader: Reader, source: str) -> Outcome:
    cell = await reader.cell(f"{source}\nprint('end')")
    fault = faults(cell) or ("" if "end" in cell.text else "the end of the cell is missing")
    return judged(fault, f"a valid record of {len(cell.outputs)} outputs", VALID)


@attempt
async def nest_deeply(reader: Reader) -> Outcome:
    deep = "b'[' * 100_000 + b']' * 100_000"
    body = f'b\'{{"metadata": {{}}, "data": {{"application/json": \' + {deep} + b\'}}}}\''
    return await _nonsense(reader, f"publish('display_data', {body})")


@attempt
async def send_no_numbers(reader: Reader) -> Outcome:
    body = b'{"metadata": {}, "data": {"application/json": [NaN, Infinity, -Infinity, 1e999]}}'
    return await _nonsense(reader, f"publish('display_data', {body!r})")


@attempt
async def send_huge_numbers(reader: Reader) -> Outcome:
    source = (
        "for n in (-1, 10**5000, 10**400, 1.5, True, None, '1'):\n"
        "    body = json.dumps({'data': {}, 'metadata': {}, 'execution_count': 0})\n"
        "    text = '1' + '0' * 5000 if n == 10**5000 else json.dumps(n)\n"
        "    publish('execute_result', body.replace(': 0}', ': ' + text + '}').encode())"
    )
    return await _nonsense(reader, source)


@attempt
async def send_half_characters(reader: Reader) -> Outcome:
    body = b'{"name": "stdout", "text": "\\ud800 and \\udfff"}'
    return await _nonsense(reader, f"publish('stream', {body!r})")


@attempt
async def send_no_unicode(reader: Reader) -> Outcome:
    body = b'{"name": "stdout", "text": "\xff\xfe\x80"}'
    return await _nonsense(reader, f"publish('stream', {body!r})")


@attempt
async def send_wrong_types(reader: Reader) -> Outcome:
    source = """
kinds = ("stream", "display_data", "execute_result", "error", "status", "clear_output",
         "update_display_data", "comm_open", "x" * 1000)
for kind in kinds:
    for wrong in (None, 5, [], "text", {}, {"name": [], "text": 5}, {"data": [], "metadata": 1},
                  {"data": {"text/html": {"a": 1}, "image/png": 5}, "metadata": {"x": "\\udead"}},
                  {"ename": 5, "evalue": {}, "traceback": [5, None]}, {"traceback": "x"},
                  {"execution_state": ["idle"]}, {"transient": 5, "data": {}}, {"wait": "yes"}):
        publish(kind, wrong)
"""
    return await _nonsense(reader, source)


@attempt
async def send_half_messages(reader: Reader) -> Outcome:
    source = """
whole = sealed("stream", {"name": "stdout", "text": "x"})
for frames in ([b""], [b"x"] * 3, whole[:2], whole[:4], [*whole[:3], b"", b"", b""],
               [b"", *whole[1:]], [b""] * 900, [*whole, *[b"buffer"] * 900]):
    raw(frames)
"""
    return await _nonsense(reader, source)
