"""What do notes named `pragma_*` ask of the loops inside? How they are read and handed on."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import walk
from ..ir.build import const_int
from ..ir.known_annotations import plain
from ..ir.nodes import Annotations, Block, For, Stmt

_STEPS = "pragma_auto_unroll_max_step"
_EXPLICIT = "pragma_unroll_explicit"


@dataclass(frozen=True, slots=True)
class Unroll:
    """How the loops at a place are unrolled.

    Attributes:
        steps: a loop that makes at most so many statements is.
        explicit: by the code generator, rather than by the compiler that takes its text; None:
            nobody said so.
    """

    steps: int = 0
    explicit: bool | None = None

    def inside(self, s: For) -> Unroll:
        """What holds for a loop and inside it. (`prepare` has looked at the values.)"""
        if not s.annotations:
            return self
        steps, explicit = self.steps, self.explicit
        for name, value in s.annotations:
            if name == _STEPS:
                steps = int(plain(value))
            elif name == _EXPLICIT:
                explicit = bool(plain(value))
        return Unroll(steps, explicit)


def pragmas_of(notes: Annotations) -> Annotations:
    """The notes that are for the loops inside, too."""
    return tuple([kv for kv in notes if kv[0].startswith("pragma_")])


def with_pragmas(s: Stmt, notes: Annotations) -> Stmt:
    """`s`, inside a loop or block that is about to vanish, with what its pragmas ask: they pass on
    to the outermost loops inside, where what those say themselves holds."""
    notes = pragmas_of(notes)
    return _noted(s, notes) if notes else s


def _noted(s: Stmt, notes: Annotations) -> Stmt:
    if type(s) is Block:
        own = {k for k, _ in s.annotations}  # it vanishes, too, and will hand on its own
        notes = tuple([kv for kv in notes if kv[0] not in own])
    if type(s) is For:
        own = {k for k, _ in s.annotations}
        more = tuple([kv for kv in notes if kv[0] not in own])
        body = _noted(s.body, notes) if const_int(s.extent) == 1 else s.body  # it will vanish, too
        return For(s.var, s.min, s.extent, s.kind, body, s.thread, (*s.annotations, *more))
    out = walk.map_stmt(s, lambda e: e, lambda x: _noted(x, notes))
    assert out is not None  # nothing is deleted
    return out
