"""What do primitives return? One-line handles: a block, a loop, a sampled value.

Handles are minted by primitives and stay valid in copies of the schedule. What they stand for is
kept in the schedule, so a handle holds nothing. A sampled value is a plain `Var`, so that index
maps and attributes can compute with it.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from ..ir.nodes import Var


class BlockRV:
    """A block."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"BlockRV({id(self):#x})"


class LoopRV:
    """A loop."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"LoopRV({id(self):#x})"


ExprRV: TypeAlias = Var
RV: TypeAlias = BlockRV | LoopRV | ExprRV


def shown(x: object) -> str:
    """A value as a message shows it: the same in every process, so without addresses."""
    if isinstance(x, BlockRV):
        return "a block"
    if isinstance(x, LoopRV):
        return "a loop"
    if type(x) is Var:
        return "a sampled value"
    if type(x) is list or type(x) is tuple:
        items = ", ".join(map(shown, x))
        return f"[{items}]" if type(x) is list else f"({items}{',' * (len(x) == 1)})"
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(x))
