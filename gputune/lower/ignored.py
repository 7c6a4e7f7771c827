"""Which annotations does lowering know of, and leave without effect? One warning for each."""

from __future__ import annotations

from ..ir.known_annotations import KNOWN, warn_once
from ..ir.nodes import Annotations, Block, For, PrimFunc
from ..ir.walk import walk_stmt


def warn_of_ignored(func: PrimFunc) -> None:
    """Warn of MetaSchedule's annotations that have no effect here, each name once a process."""
    for s in walk_stmt(func.body):
        if type(s) is Block and s.annotations:
            _look(s.annotations, f"block {s.name} in {func.name}")
        elif type(s) is For and s.annotations:
            _look(s.annotations, f"loop {s.var.name} in {func.name}")


def _look(notes: Annotations, at: str) -> None:
    for name, _ in notes:
        known = KNOWN.get(name)
        if known is not None and not known.reader:
            warn_once(
                f"annotation {name}",
                f"the annotation {name!r} of {at} has no effect in gputune: {known.effect}",
            )
