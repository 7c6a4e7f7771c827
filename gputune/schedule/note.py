"""Primitives that leave notes on blocks and loops: annotate, unannotate, enter_postproc."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.nodes import EXPR_CLASSES, Annotations, Block, FloatImm, For, IntImm, StringImm, Var
from .dim import Dim
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


def _plain(s: State, x: Any, key: str, link: Link) -> Any:
    """The value as the trace keeps it: Python's own types (with NumPy's numbers as those) and
    sampled values, in new lists and dicts, so that nobody changes it afterwards."""
    if type(x) in _AS_IS:
        return x
    if isinstance(x, np.generic):
        x = x.item()
    match x:
        case None | bool():
            return x
        case int():
            return int(x)
        case float():
            return float(x)
        case str():
            return str.__str__(x)
        case list() | tuple():
            return [_plain(s, y, key, link) for y in x]
        case Mapping():
            if not all(isinstance(k, str) for k in x):
                s.fail(
                    f"annotation {key!r}: the keys of a dict must be strings",
                    hint="use strings as keys",
                    code="annotation-value",
                    at=link.node,
                )
            return {str.__str__(k): _plain(s, v, key, link) for k, v in x.items()}
        case FloatImm() | StringImm() | IntImm():
            return x.value
    if isinstance(x, EXPR_CLASSES):
        return x
    s.fail(
        f"annotation {key!r}: a value of type {type(x).__name__} cannot be stored",
        hint="use str, int, float, bool, None, a list, a dict or a sampled value",
        code="annotation-value",
        at=link.node,
    )


_AS_IS = frozenset({type(None), bool, int, float, str, Dim, Var})


def _kept(s: State, x: Any) -> Any:
    """A plain value as the program keeps it: sampled values become ints, lists tuples."""
    if type(x) in _AS_IS and type(x) is not Var:
        return x
    if isinstance(x, list):
        return tuple([_kept(s, y) for y in x])
    if isinstance(x, dict):
        return {k: _kept(s, v) for k, v in x.items()}
    return s.integer(x) if isinstance(x, EXPR_CLASSES) else x


@primitive("Annotate", inputs=("block_or_loop", "ann_val"))
def annotate(s: State, block_or_loop: BlockRV | LoopRV, ann_key: str, ann_val: Any) -> None:
    """Leave a note on a block or loop.

    Args:
        block_or_loop: where.
        ann_key: the key; one of those that mean something (see "Annotations" on the page of the
            primitives, and `gputune.ir.known_annotations`), or any other, which is kept.
        ann_val: str, int, float, bool, None or a sampled value (or arithmetic over them), and
            lists and dicts of such values, in any depth; NumPy's numbers count as Python's.

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
    plain = _plain(s, ann_val, ann_key, link)
    if plain is not ann_val:
        s.resolved["ann_val"] = plain
    set_annotations(s, link, (*notes, (ann_key, _kept(s, plain))))


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
