"""What does the search know about a configuration of a hand-written CUDA kernel? A row of numbers.

The row is as long as that of scheduled programs, so that one model serves all; the first column
says that it is none of those. What the compiler finds out (registers, spills) is not in it: nobody
knows that of a candidate before it is compiled, and candidates are ranked before.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from ..codegen.cuda.raw import Configuration, Value, configuration
from ..ir.nodes import IRModule

_FIRST = 12  # column of the first parameter
_PER_PARAMETER = 4
_GUESS = 7  # where the cost model looks for the analytic guess
_GOOD_THREADS = 192.0  # of a block: what does well on most devices
_BUSY_BLOCKS = 132.0  # of a grid: fewer leave parts of a large device idle


def raw_features(mod: IRModule, width: int) -> tuple[npt.NDArray[np.float32], float] | None:
    """The row (width,) and the score of a configured kernel; None for any other program.

    Raises:
        BuildError: the configuration is not what gputune writes.
    """
    if len(mod.functions) != 1:
        return None
    (func,) = mod.functions.values()
    chosen = configuration(func)
    return None if chosen is None else _row(func.name, chosen, width)


def _row(name: str, c: Configuration, width: int) -> tuple[npt.NDArray[np.float32], float]:
    out = np.zeros(width, np.float32)
    guess = _guess(c)
    out[1:3] = _scatter(f"{name} {sorted(c.params)}")
    out[3] = math.log2(c.threads)
    out[4] = math.log2(c.blocks)
    out[5] = math.log2(1 + c.smem)
    out[6] = math.log2(c.threads * c.blocks)
    out[_GUESS] = guess
    out[8] = c.threads % 32 / 32
    out[9:12] = [math.log2(n) for n in c.block]
    at = _FIRST
    for value in c.params.values():
        if at + _PER_PARAMETER > width:
            break  # the model does without the rest
        out[at : at + _PER_PARAMETER] = _told(value)
        at += _PER_PARAMETER
    return out, -guess


def _guess(c: Configuration) -> float:
    """A number that is small for launches of the usual kind; before anything was measured it keeps
    the search from beginning with blocks of one warp."""
    whole_warps = -(-c.threads // 32) * 32
    uneven = abs(math.log2(whole_warps / _GOOD_THREADS))
    idle = max(0.0, math.log2(_BUSY_BLOCKS / c.blocks))
    return 1.0 + uneven + 0.5 * idle + 2.0 * math.log2(whole_warps / c.threads)


def _told(value: Value) -> tuple[float, float, float, float]:
    """A number by its size and itself; anything else by where chance puts it."""
    if isinstance(value, bool | str):
        return 0.0, 0.0, *_scatter(repr(value))
    size = math.log2(value) if value > 0 else -1.0
    return size, float(np.clip(value, -1e30, 1e30)), 0.0, 0.0


def _scatter(text: str) -> tuple[float, float]:
    """Two numbers from 0 to 1, the same for equal texts."""
    digest = blake2b(text.encode(), digest_size=4).digest()
    return (int.from_bytes(digest[:2]) / 65535, int.from_bytes(digest[2:]) / 65535)
