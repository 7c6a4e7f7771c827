"""Primitives that make a random choice: sample_perfect_tile, sample_tile, sample_partitioned_tile,
sample_categorical, sample_compute_location.

The choice is drawn from the schedule's generator unless a decision is given; a decision that is not
one of the legal choices is refused, so a trace never replays into something else than it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.build import const_int
from ..ir.nodes import For, Var
from ..ir.walk import uses_var
from .analysis import consumers, is_output, kind_of
from .dim import Dim, take
from .handles import BlockRV, ExprRV, LoopRV, shown
from .primitive import primitive
from .state import State
from .tilings import Covering, Partitioned, Perfect, Rule
from .tree import Link

ROOT_MARK = Var("root")
"""What a sampled location stands for when the block stays where it is."""
INLINE_MARK = Var("inline")
"""What a sampled location stands for when the block is inlined."""


MOST_FACTORS = 64
"""More factors than any loop nest has; a bound for hostile files."""


# ----------------------------------------------------------------------------- tiles
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
        max_innermost_factor: the last factor is at most this; -1: no limit.
        decision: the factors to take instead of drawing.

    Returns:
        n sampled values, outermost first.

    Raises:
        ScheduleError: the extent is not constant; n is below 1, or max_innermost_factor is and is
            not -1; the decision is not such a list.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> [int(sch.get(f)) for f in sch.sample_perfect_tile(i, 2, decision=[2, 4])]
        [2, 4]
    """
    return _tiles(s, loop, Perfect(n, max_innermost_factor), decision)


@primitive("SampleTile", inputs=("loop",), samples=True)
def sample_tile(
    s: State,
    loop: LoopRV,
    n: int,
    max_innermost_factor: int = 16,
    decision: Sequence[int] | None = None,
) -> list[ExprRV]:
    """Draw factors that cover the extent of a loop and need not divide it.

    The first factor is the extent divided by the product of the others, rounded up. In all the
    tiles have at most a quarter more iterations than the loop (`split` gives the blocks inside a
    predicate for those), so a loop of 127 has register tiles of 6 rows and vectors of 16 lanes. The
    other factors are drawn from divisors of the extent, the numbers up to 16, powers of two and
    three times those, and multiples of 16 up to 128; half of the draws divide the extent, fewer
    where it has few divisors. This primitive is gputune's own: TVM does not know it.

    Args:
        loop: the loop that will be split. Its extent is constant; see `sample_perfect_tile`.
        n: how many factors.
        max_innermost_factor: the last factor is at most this; -1: no limit.
        decision: the factors to take instead of drawing, all n of them. Any positive integers that
            cover the extent as above will do, not only those that are drawn. A list that does not
            is refused; nothing is put in its place.

    Returns:
        n sampled values, outermost first.

    Raises:
        ScheduleError: the extent is not constant; n is below 1, or max_innermost_factor is and is
            not -1; the decision is not such a list.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> factors = sch.sample_tile(i, 2, decision=[3, 3])
        >>> [sch.get(x).extent.value for x in sch.split(i, factors)]
        [3, 3]
    """
    return _tiles(s, loop, Covering(n, max_innermost_factor), decision)


@primitive("SamplePartitionedTile", inputs=("loop",), samples=True)
def sample_partitioned_tile(
    s: State,
    loop: LoopRV,
    n: int,
    partition_pos: int = 0,
    innerpart_factor: int = 1,
    decision: Sequence[int] | None = None,
) -> list[ExprRV]:
    """Draw factors whose product is the extent of a loop, the inner part a multiple of a number.

    Args:
        loop: the loop that will be split. Its extent is constant; see `sample_perfect_tile`.
        n: how many factors.
        partition_pos: where the inner part begins, from 0 to n - 1.
        innerpart_factor: the product of the factors from `partition_pos` on is a multiple of this.
            Where the extent is none, no list of factors can be, and the one that is drawn is 1 for
            all but the last.
        decision: the factors to take instead of drawing.

    Returns:
        n sampled values, outermost first, each legal list with the same probability.

    Raises:
        ScheduleError: the extent is not constant; n or innerpart_factor is below 1; partition_pos
            is no place in the list; the decision is not such a list.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> [int(sch.get(f)) for f in sch.sample_partitioned_tile(i, 3, 1, 8)][0]
        1
    """
    if innerpart_factor < 1 or not 0 <= partition_pos < n <= MOST_FACTORS:
        s.fail(
            f"innerpart_factor must be at least 1 and partition_pos from 0 to n - 1, got "
            f"{innerpart_factor} and {partition_pos} with n = {n}",
            hint="for a loop of 64 into three parts: n=3, partition_pos=1, innerpart_factor=8",
            code="sample-arguments",
            at=s.loop(loop).loop(),
        )
    return _tiles(s, loop, Partitioned(n, partition_pos, innerpart_factor), decision)


def _tiles(s: State, loop: LoopRV, rule: Rule, decision: Sequence[int] | None) -> list[ExprRV]:
    """The factors of a loop by a rule: those of the decision, or drawn."""
    f = s.loop(loop).loop()
    n, limit = rule.n, rule.limit
    if n > MOST_FACTORS:
        s.fail(
            f"n must be at most {MOST_FACTORS}, got {n}",
            hint="sample fewer factors",
            code="sample-arguments",
            at=f,
        )
    if n < 1 or limit < 1:
        s.fail(
            f"n and max_innermost_factor must be at least 1, got {n} and {limit}",
            hint="such as n=2, max_innermost_factor=16; -1 is no limit",
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
    if type(extent) is int and extent < 1:  # a sampled extent is at least 1
        s.fail(
            f"the loop {f.var.name} has extent {extent}: it never runs, and has no tiles",
            hint="leave it as it is",
            code="sample-empty",
            at=f,
        )
    if n == 1 and extent > limit:
        s.fail(
            f"one factor of {extent} is above max_innermost_factor {limit}",
            hint="raise max_innermost_factor, or sample two factors or more",
            code="sample-arguments",
            at=f,
        )
    if decision is None:
        decision = rule.draw(s.rng, int(extent))
    elif not isinstance(decision, (list, tuple)):  # a decision provider may give anything
        s.fail(
            f"the decision {shown(decision)} is not a list of factors",
            hint="leave decision out to have one drawn",
            code="sample-decision",
            at=f,
        )
    else:
        _check_tiles(s, f, list(decision), extent, rule)
    s.decision = [x if type(x) is Dim else int(x) for x in decision]
    return [s.mint_value(x) for x in s.decision]


def _check_tiles(s: State, f: For, decision: list[int], extent: int, rule: Rule) -> None:
    if len(decision) != rule.n:
        why = f"it has {len(decision)} factors, not {rule.n}"
    elif not all(isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in decision):
        why = "factors must be positive integers"
    else:
        why = rule.fault(decision, extent)
    if why:
        found = [int(x) if type(x) is Dim else x for x in decision]
        s.fail(
            f"the decision {shown(found)} is not legal: {why}",
            hint="leave decision out to have one drawn",
            code="sample-decision",
            at=f,
        )


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
        s.fail(
            f"{len(values)} candidates with {len(probs)} probabilities",
            hint="give one probability for each candidate",
            code="sample-arguments",
        )
    weights = [float(p) for p in probs]
    if any(not p >= 0 for p in weights) or not 0 < sum(weights) < math.inf:
        s.fail(
            f"{list(probs)} are not probabilities",
            hint="give numbers from 0 up, not all 0",
            code="sample-arguments",
        )
    if decision is None:
        decision = s.rng.choices(range(len(values)), weights)[0]
    elif isinstance(decision, bool) or not isinstance(decision, int):
        s.fail(
            f"the decision {shown(decision)} is not an index",
            hint="give the position of a candidate, from 0, or leave decision out",
            code="sample-decision",
        )
    elif not 0 <= int(decision) < len(values):
        s.fail(
            f"the decision {int(decision)} is not an index into {len(values)} candidates",
            hint="give the position of a candidate, from 0, or leave decision out",
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
        s.fail(
            "the root block has no location",
            hint="name a block inside it; get_child_blocks lists them",
            code="root-block",
            at=link.node,
        )
    legal = compute_locations(s, link)
    if decision is None:
        decision = s.rng.choice(legal)
    elif isinstance(decision, bool) or not isinstance(decision, int) or int(decision) not in legal:
        s.fail(
            f"the decision {shown(decision)} is not legal for block {link.block().name}",
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
