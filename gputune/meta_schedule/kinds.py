"""Which defaults belong to which kind of target, and where does a component get its randomness?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from ..errors import UserError
from ..target.host import enabled

if TYPE_CHECKING:
    from ..target import Target
    from .tune_context import TuneContext

T = TypeVar("T")

KINDS = ("llvm", "cuda", "cuda-tensorcore", "hexagon")
"""The kinds that MetaSchedule names."""
LIKE = {
    **dict.fromkeys(("vnni", "avxvnni", "avx512", "dotprod", "asimd", "hexagon"), "llvm"),
    "cuda-tensorcore": "cuda",
}
"""Kinds whose defaults are those of another one where they have none of their own."""
TENSOR_CORES = 75
"""From sm_75 on a GPU is searched with its tensor cores."""


def choose(table: Mapping[str, T], kind: str, what: str) -> T:
    """The defaults of a kind.

    Args:
        table: defaults by kind.
        kind: such as "llvm".
        what: what they are, for the message: "schedule rules".

    Raises:
        UserError: there are none; names the kinds that have some.
    """
    if kind in table:
        return table[kind]
    if LIKE.get(kind) in table:
        return table[LIKE[kind]]
    known = ", ".join(
        [*table, *(k for k, like in LIKE.items() if k not in table and like in table)]
    )
    if kind in KINDS:
        raise UserError(
            f"there are no default {what} for {kind!r} in this version",
            hint=f"there are for: {known}; or give a list of your own",
            code="kind",
        )
    raise UserError(
        f"{kind!r} is no kind of {what}", hint=f"there are: {known}; or give a list", code="kind"
    )


def target_of(context: TuneContext) -> Target | None:
    """The machine that the context tunes for, if it has one."""
    try:
        return context.target
    except UserError:
        return None


def kind_of_target(context: TuneContext, what: str) -> str:
    """The kind that "from-target" stands for; UserError if the context has no target."""
    target = target_of(context)
    if target is None:
        raise UserError(
            f"the {what} are to follow from the target, but the tune context has none",
            hint='give TuneContext(target="llvm"), or name the kind instead of "from-target"',
            code="no-target",
        )
    if target.kind == "llvm":
        have = enabled(target.mcpu, target.mattr)
        if "avx512vnni" in have:
            return "vnni"
        if "avxvnni" in have:
            return "avxvnni"
        if {"avx512f", "avx512bw"} <= have:
            return "avx512"
        if "dotprod" in have:
            return "dotprod"
        if "neon" in have:
            return "asimd"
    if target.kind == "cuda" and int(target.arch.strip("sm_af")) >= TENSOR_CORES:
        return "cuda-tensorcore"
    return target.kind


def random_of(context: TuneContext, who: object) -> random.Random:
    """A generator for one component: the same for the same `rand_state` and component, different
    for different components; unpredictable if the context has no `rand_state`."""
    state = context.rand_state
    return random.Random() if state == -1 else random.Random(f"{type(who).__name__}/{state}")
