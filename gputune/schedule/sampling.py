"""Primitives that make a random choice: sample_perfect_tile, sample_categorical,
sample_compute_location.

The choice is drawn from the schedule's generator unless a decision is given; a decision that is not
one of the legal choices is refused, so a trace never replays into something else than it says.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache

from ..ir.build import const_int
from ..ir.nodes import For, Var
from ..ir.walk import uses_var
from .analysis import consumers, is_output, kind_of
from .dim import Dim, take
from .handles import BlockRV, ExprRV, LoopRV
from .primitive import primitive
from .state import State
from .tree import Link

ROOT_MARK = Var("root")
"""What a sampled location stands for when the block stays where it is."""
INLINE_MARK = Var("inline")
"""What a sampled location stands for when the block is inlined."""


MOST_FACTORS = 64
"""More factors than any loop nest has; a bound for hostile files."""


# ----------------------------------------------------------------------------- tiles
@lru_cache(maxsize=4096)
def divisors(n: int) -> tuple[int, ...]:
    """The divisors of n, ascending."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return tuple(sorted({*small, *(n // d for d in small)}))


@lru_cache(maxsize=65536)
def count_tilings(extent: int, n: int) -> int:
    """In how many ways is `extent` an ordered product of n factors?"""
    if n == 1:
        return 1
    return sum(count_tilings(extent // d, n - 1) for d in divisors(extent))


@lru_cache(maxsize=4096)
def _choices(extent: int, n: int, last: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Candidates for the last of n factors (at most `last`), and how many tilings each leaves."""
    ds = tuple(d for d in divisors(extent) if last is None or d <= last)
    return ds, tuple(count_tilings(extent // d, n - 1) for d in ds)


def draw_tiling(rng: random.Random, extent: int, n: int, max_innermost_factor: int) -> list[int]:
    """n factors with product `extent` and the last at most `max_innermost_factor`, each such list
    with the same probability."""
    out: list[int] = []
    limit: int | None = max_innermost_factor
    while n > 1:
        ds, weights = _choices(extent, n, limit)
        d = rng.choices(ds, weights)[0]
        out.append(d)
        extent //= d
        n, limit = n - 1, None
    out.append(extent)
    # the loop drew the last factor first, then the one before it, ...
    return out[::-1]


@primitive("SamplePerfectTile", inputs=("loop",), samples=True)
def sample_perfect_tile(
    s: State,
    loop: LoopRV,
    n: int,
    max_innermost_factor: int = 16,
    decision: Sequence[int] | None = None,
) -> list[ExprRV]:
    """Draw factors whose product is the extent of a loop, uniformly.

    Args:
        loop: the loop that will be split. Its extent is constant: a sampled value is an integer,
            and a factor of an extent that is known when the program runs is none. Split such a
            loop by `[None, factor]`.
        n: how many factors.
        max_innermost_factor: the last factor is at most this.
        decision: the factors to take instead of drawing.

    Returns:
        n sampled values, outermost first.

    Raises:
        ScheduleError: the extent is not constant; n or max_innermost_factor is below 1; the
            decision is not such a list.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> [int(sch.get(f)) for f in sch.sample_perfect_tile(i, 2, decision=[2, 4])]
        [2, 4]
    """
    f = s.loop(loop).loop()
    if n > MOST_FACTORS:
        s.fail(f"n must be at most {MOST_FACTORS}, got {n}", code="sample-arguments", at=f)
    if n < 1 or max_innermost_factor < 1:
        s.fail(
            f"n and max_innermost_factor must be at least 1, got {n} and {max_innermost_factor}",
            code="sample-arguments",
            at=f,
        )
    extent = const_int(f.extent)
    if extent is None:
        s.fail(
            f"the extent {f.extent} of loop {f.var.name} is not constant",
            hint="split with factors of your own and one None",
            code="sample-dynamic",
            at=f,
        )
    if n == 1 and extent > max_innermost_factor:
        s.fail(
            f"one factor of {extent} is above max_innermost_factor {max_innermost_factor}",
            code="sample-arguments",
            at=f,
        )
    if decision is None:
        decision = draw_tiling(s.rng, int(extent), n, max_innermost_factor)
    else:
        _check_tiling(s, f, list(decision), int(extent), n, max_innermost_factor)
    s.decision = [x if type(x) is Dim else int(x) for x in decision]
    return [s.mint_value(x) for x in s.decision]


def _check_tiling(s: State, f: For, decision: list[int], extent: int, n: int, limit: int) -> None:
    why = ""
    if len(decision) != n:
        why = f"it has {len(decision)} factors, not {n}"
    elif not all(isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in decision):
        why = "factors must be positive integers"
    else:
        product = decision[0]
        for x in decision[1:]:
            product = product * x
        if product != extent:
            why = f"its product is {int(product)}, not the extent {extent}"
        elif decision[-1] > limit:
            why = f"its last factor is above max_innermost_factor {limit}"
    if why:
        shown = [int(x) if isinstance(x, int) else x for x in decision]
        s.fail(f"the decision {shown} is not legal: {why}", code="sample-decision", at=f)


# ----------------------------------------------------------------------------- categories
@primitive("SampleCategorical", samples=True)
def sample_categorical(
    s: State, candidates: Sequence[int], probs: Sequence[float], decision: int | None = None
) -> ExprRV:
    """Draw one of some integers.

    Args:
        candidates: the integers.
        probs: the probability of each, same length.
        decision: the *index* of the candidate to take instead of drawing.

    Raises:
        ScheduleError: no candidates, lengths differ, probabilities are not, or the index is out of
            range.

    Example:
        >>> sch = demo_schedule()
        >>> int(sch.get(sch.sample_categorical([0, 16, 64], [0.2, 0.3, 0.5], decision=1)))
        16
    """
    values = [s.integer(c) for c in candidates]
    if not values or len(values) != len(probs):
        s.fail(f"{len(values)} candidates with {len(probs)} probabilities", code="sample-arguments")
    weights = [float(p) for p in probs]
    if any(not p >= 0 for p in weights) or not 0 < sum(weights) < math.inf:
        s.fail(f"{list(probs)} are not probabilities", code="sample-arguments")
    if decision is None:
        decision = s.rng.choices(range(len(values)), weights)[0]
    elif isinstance(decision, bool) or not isinstance(decision, int):
        s.fail(f"the decision {decision!r} is not an index", code="sample-decision")
    elif not 0 <= int(decision) < len(values):
        s.fail(
            f"the decision {int(decision)} is not an index into {len(values)} candidates",
            code="sample-decision",
        )
    s.decision = decision
    return s.mint_value(take(tuple(int(v) for v in values), decision))


# ----------------------------------------------------------------------------- locations
def compute_locations(s: State, link: Link) -> list[int]:
    """The legal decisions of `sample_compute_location` for a block: -2 inline it, -1 leave it,
    k >= 0 compute it at loop k over its first consumer."""
    from .inline import inline_fault

    out: list[int] = []
    if not inline_fault(s, link)[0]:
        out.append(-2)
    out.append(-1)
    users = consumers(link, s)
    if not users or is_output(link, s):
        return out
    if kind_of(link, s) == "" or s.pipeline_fault(link.scope()):
        return out
    above = _common_loops(users)
    last = -1
    for k, f in enumerate(above):
        if f.kind in ("vectorized", "unrolled"):
            break
        if _feeds_only_spatial(f, users):
            last = k
        elif any(_feeds_only_spatial(g, users) for g in above[k:]):
            last = k  # a reduce loop with spatial loops inside it
    own = {f.var for f in link.loops()}
    out += [k for k in range(last + 1) if above[k].var not in own]
    return out


def _common_loops(users: Sequence[Link]) -> list[For]:
    """The loops that all consumers share, outermost first."""
    common = users[0].loops()
    for u in users[1:]:
        other = {f.var for f in u.loops()}
        common = [f for f in common if f.var in other]
    return common


def _feeds_only_spatial(f: For, users: Sequence[Link]) -> bool:
    for u in users:
        b = u.block()
        for iv, value in zip(b.iter_vars, b.iter_values, strict=True):
            if iv.kind != "spatial" and uses_var(value, f.var):
                return False
    return True


@primitive("SampleComputeLocation", inputs=("block",), samples=True)
def sample_compute_location(s: State, block: BlockRV | str, decision: int | None = None) -> LoopRV:
    """Draw a loop at which to compute a block, for `compute_at`.

    Args:
        block: the block that will be moved.
        decision: -2 to inline it, -1 to leave it where it is, k to take loop k over its consumer.

    Returns:
        A handle that `compute_at` understands.

    Raises:
        ScheduleError: the decision is not one of the legal ones.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> loop = sch.sample_compute_location(b, decision=-1)
    """
    link = s.block(block)
    if link.up is None:
        s.fail("the root block has no location", code="root-block", at=link.node)
    legal = compute_locations(s, link)
    if decision is None:
        decision = s.rng.choice(legal)
    elif int(decision) not in legal:
        s.fail(
            f"the decision {decision} is not legal for block {link.block().name}",
            hint=f"legal are {legal}",
            code="sample-decision",
            at=link.node,
        )
    s.decision = int(decision)
    if s.decision == -2:
        return s.mint_loop(INLINE_MARK)
    if s.decision == -1:
        return s.mint_loop(ROOT_MARK)
    users = consumers(link, s)
    return s.mint_loop(_common_loops(users)[s.decision].var)


def location_mark(s: State, loop: object) -> Var | None:
    """ROOT_MARK or INLINE_MARK, if the handle came from sampling and stands for one of them."""
    value = s._values.get(loop) if isinstance(loop, LoopRV) else None
    if value is ROOT_MARK or value is INLINE_MARK:
        assert isinstance(value, Var)
        return value
    return None
