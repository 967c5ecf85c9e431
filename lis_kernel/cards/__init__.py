"""Cards: what people see of a run, a cell or a sandbox in a notebook, as HTML that stands alone.

Pure: texts and numbers in, HTML out. Whatever it shows is taken for hostile and escaped.
"""

from lis_kernel.cards.ansi import ansi
from lis_kernel.cards.code import code, markdown, pre
from lis_kernel.cards.files import PREVIEW_BYTES, File, files
from lis_kernel.cards.outputs import Clean, outputs
from lis_kernel.cards.parts import (
    badge,
    bar,
    box,
    escape,
    facts,
    fold,
    label,
    link,
    page,
    table,
    text,
)
from lis_kernel.cards.run import Call, Run, Step, amount, duration, run, step

__all__ = [
    "PREVIEW_BYTES",
    "Call",
    "Clean",
    "File",
    "Run",
    "Step",
    "amount",
    "ansi",
    "badge",
    "bar",
    "box",
    "code",
    "duration",
    "escape",
    "facts",
    "files",
    "fold",
    "label",
    "link",
    "markdown",
    "outputs",
    "page",
    "pre",
    "run",
    "step",
    "table",
    "text",
]
