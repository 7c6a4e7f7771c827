"""Primitives that leave notes on blocks and loops: annotate, unannotate, enter_postproc."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir.nodes import Annotations, Block, Expr, FloatImm, For, IntImm, StringImm, Var
from .handles import BlockRV, LoopRV
from .primitive import primitive
from .state import State
from .tree import Link, block_with


def annotations_of(link: Link) -> Annotations:
    """The annotations of a block or loop."""
    node = link.node
    assert type(node) is Block or type(node) is For
    return node.annotations


def set_annotations(s: State, link: Link, notes: Annotations) -> None:
    """Replace the annotations of a block or loop."""
    node = link.node
    if type(node) is Block:
        s.replace(link, block_with(node, annotations=notes))
    else:
        f = link.loop()
        s.replace(link, For(f.var, f.min, f.extent, f.kind, f.body, f.thread, notes))


def _value(s: State, x: Any, key: str, link: Link) -> Any:
    """An annotation value: sampled values become ints."""
    if x is None or isinstance(x, (bool, str, float)):
        return x
    if isinstance(x, int):
        return x
    if isinstance(x, (list, tuple)):
        return tuple(_value(s, y, key, link) for y in x)
    if isinstance(x, Mapping):
        if not all(isinstance(k, str) for k in x):
            s.fail(
                f"annotation {key!r}: the keys of a dict must be strings", code="annotation-value"
            )
        return {k: _value(s, v, key, link) for k, v in x.items()}
    if isinstance(x, (FloatImm, StringImm, IntImm)):
        return x.value
    if isinstance(x, Var) or hasattr(x, "dtype"):
        e: Expr = x
        return s.integer(e)
    s.fail(
        f"annotation {key!r}: a value of type {type(x).__name__} cannot be stored",
        hint="use str, int, float, bool, None, a list, a dict or a sampled value",
        code="annotation-value",
        at=link.node,
    )


@primitive("Annotate", inputs=("block_or_loop", "ann_val"))
def annotate(s: State, block_or_loop: BlockRV | LoopRV, ann_key: str, ann_val: Any) -> None:
    """Leave a note on a block or loop.

    Args:
        block_or_loop: where.
        ann_key: the key.
        ann_val: str, int, float, bool, None, list, dict or a sampled value.

    Raises:
        ScheduleError: the key is there already (unannotate it first); the value cannot be kept.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); sch.annotate(b, "schedule_rule", "mine")
        >>> dict(sch.get(b).annotations)
        {'schedule_rule': 'mine'}
    """
    link = s.block_or_loop(block_or_loop)
    notes = annotations_of(link)
    for k, old in notes:
        if k == ann_key:
            s.fail(
                f"the annotation {ann_key!r} is already there, with value {old!r}",
                hint="unannotate it first",
                code="annotation-exists",
                at=link.node,
            )
    set_annotations(s, link, (*notes, (ann_key, _value(s, ann_val, ann_key, link))))


@primitive("Unannotate", inputs=("block_or_loop",))
def unannotate(s: State, block_or_loop: BlockRV | LoopRV, ann_key: str) -> None:
    """Remove a note from a block or loop.

    Raises:
        ScheduleError: there is no annotation with the key.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); sch.annotate(b, "k", 1)
        >>> sch.unannotate(b, "k"); sch.get(b).annotations
        ()
    """
    link = s.block_or_loop(block_or_loop)
    notes = annotations_of(link)
    kept = tuple([kv for kv in notes if kv[0] != ann_key])
    if len(kept) == len(notes):
        known = ", ".join(k for k, _ in notes) or "none"
        s.fail(
            f"no annotation {ann_key!r} to remove",
            hint=f"there are: {known}",
            code="annotation-missing",
            at=link.node,
        )
    set_annotations(s, link, kept)


@primitive("EnterPostproc")
def enter_postproc(s: State) -> None:
    """Mark where post-processing begins: `remove_postproc=True` drops what follows.

    Example:
        >>> sch = demo_schedule(); sch.enter_postproc(); print(sch.trace)
        sch.enter_postproc()
    """
