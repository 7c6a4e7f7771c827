"""Does a function say that it is scheduled already? MetaSchedule and its successors mark it so."""

from __future__ import annotations

from .nodes import IntImm, PrimFunc

SCHEDULED = "tir.is_scheduled"
_NAMES = (SCHEDULED, "tirx.is_scheduled")


def is_scheduled(func: PrimFunc) -> bool:
    """Is it marked: does anything that schedules leave it alone?"""
    notes = dict(func.attrs)
    values = [notes.get(k) for k in _NAMES]
    return any(bool(v.value) if isinstance(v, IntImm) else bool(v) for v in values)
