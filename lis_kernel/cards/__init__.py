"""Cards: what people see of a run, a cell or a sandbox in a notebook, as HTML that stands alone.

Pure: texts and numbers in, HTML out. Whatever it shows is taken for hostile and escaped.
"""

from lis_kernel.cards.ansi import ansi
from lis_kernel.cards.code import code, markdown, pre
from lis_kernel.cards.files import PREVIEW_BYTES, File, files
from lis_kernel.cards.outputs import Clean, outputs
from lis_kernel.cards.parts import (
    Tone,
    badge,
    bar,
    box,
    escape,
    facts,
    fold,
    label,
    link,
    note,
    page,
    row,
    table,
    text,
)
from lis_kernel.cards.run import Call, Run, Step, amount, call, duration, run, step

__all__ = [
    "PREVIEW_BYTES",
    "Call",
    "Clean",
    "File",
    "Run",
    "Step",
    "Tone",
    "amount",
    "ansi",
    "badge",
    "bar",
    "box",
    "call",
    "code",
    "duration",
    "escape",
    "facts",
    "files",
    "fold",
    "label",
    "link",
    "markdown",
    "note",
    "outputs",
    "page",
    "pre",
    "row",
    "run",
    "step",
    "table",
    "text",
]
