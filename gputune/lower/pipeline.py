"""In which order does a scheduled program become plain loops? One tuple of passes, and its runner.

A pass is a function `(PrimFunc, CpuLimits) -> PrimFunc` that keeps the meaning. With the knob
GPUTUNE_DUMP set to a folder, the program after every pass is written there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from .. import knobs
from ..errors import LowerError
from ..ir.nodes import PrimFunc
from .auto_copy import vector_copies
from .blocks import ALIGN_ATTR, lower_blocks
from .compact import compact_buffers
from .ignored import warn_of_ignored
from .init import lower_init
from .interior import interior
from .limits import CpuLimits
from .partition import partition
from .place import place_buffers
from .prepare import prepare
from .registers import use_registers
from .simplify import simplify
from .start_inside import start_inside
from .threads import flatten_parallel
from .turn import turn_tiles
from .unroll import unroll
from .vectorize import vectorize
from .zeros import skip_zeros, statements, write_out_residues

Pass: TypeAlias = Callable[[PrimFunc, CpuLimits], PrimFunc]
_TRIES = 3  # with less and less unrolling, until a kernel is no larger than it may be
_STEP = 16  # statements

LLVM: tuple[Pass, ...] = (
    prepare,  # no GPU threads; sampled sizes are plain integers
    lower_init,  # initial values of reductions become statements
    vector_copies,  # blocks that only copy
    lower_blocks,  # iterators become their bindings; blocks vanish
    simplify,  # unit loops and decided conditions vanish
    start_inside,  # initial values are set where they are added to
    place_buffers,  # temporaries live as deep inside as they can
    compact_buffers,  # and are as small as what is used of them
    simplify,
    flatten_parallel,  # one parallel loop at a time
    partition,  # one check for a tile that may stick out, not one for each element
    simplify,
    interior,  # padding is asked for at the edges, and once for a tile
    turn_tiles,  # copies that transpose go by squares
    vectorize,  # vector statements of native width
    simplify,
    unroll,  # which loops are written out
    write_out_residues,  # so far that it is known which data is zero
    use_registers,  # accumulators and small buffers become registers
    skip_zeros,  # products with such zeros are not computed
)


def lower(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` as plain loops over plain statements, for the CPU.

    Loops left over are serial, unrolled (of constant extent) or parallel (outermost). Raises
    LowerError, which names the pass.
    """
    warn_of_ignored(func)
    folder = knobs.DUMP.get()
    if folder:
        dump(Path(folder), 0, "start", func)
    first = LLVM.index(unroll)
    func = _passed(func, limits, 0, first, folder)
    out = _passed(func, limits, first, len(LLVM), folder)
    # loads and stores of registers come on top of what is written out; how many is known after
    over = statements(out.body) - limits.statements
    for k in range(_TRIES if statements(func.body) <= limits.statements else 0):
        if statements(out.body) <= limits.statements:
            break
        less = replace(limits, statements=limits.statements - ((over + _STEP) << k))
        out = _passed(func, less, first, len(LLVM), folder)
    return out


def _passed(func: PrimFunc, limits: CpuLimits, first: int, end: int, folder: str) -> PrimFunc:
    """The function after some of the passes."""
    for k, step in enumerate(LLVM[first:end], first + 1):
        try:
            func = step(func, limits)
        except LowerError as e:
            raise LowerError(
                f"{func.name}: pass {step.__name__}: {e.message}", hint=e.hint, code=e.code
            ) from None
        except RecursionError:
            raise too_deep(func.name) from None
        if folder:
            dump(Path(folder), k, step.__name__, func)
    return func


def too_deep(name: str) -> LowerError:
    """The error for a function whose loops or expressions Python cannot follow to their ends."""
    return LowerError(
        f"{name}: the program is nested too deeply to be compiled",
        hint="use fewer loops inside each other",
        code="too-deep",
    )


def dump(folder: Path, number: int, name: str, func: PrimFunc) -> None:
    """Write the program after a pass to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    attrs = tuple((k, v) for k, v in func.attrs if k != ALIGN_ATTR)
    shown = PrimFunc(func.params, func.buffer_map, func.body, attrs)
    (folder / f"{number:02d}_{name}.txt").write_text(shown.script(), encoding="utf-8")
