"""Is the whole of a space searched whose code looks at what it sampled?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from search_spaces import context, drive, five_points, many_tiles, matmul, two_tiles

from gputune.meta_schedule.database import MemoryDatabase
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.mutator import Mutator
from gputune.meta_schedule.record import TuningRecord
from gputune.meta_schedule.schedule_rule import ScheduleRule
from gputune.meta_schedule.space_generator import PostOrderApply, ScheduleFn, SpaceGeneratorUnion
from gputune.meta_schedule.tune_context import TuneContext
from gputune.meta_schedule.watched import makers_to_call
from gputune.schedule import BlockRV, Schedule

KINDS = ["evolutionary", "replay-trace", "replay-func"]


def factor(sch: Schedule) -> Any:
    return sch.sample_categorical([2, 4, 8, 16], [0.25] * 4)


def reads(sch: Schedule) -> None:
    _, j, _ = sch.get_loops("C")
    sch.split(j, [None, int(sch.get(factor(sch)))])


def branches(sch: Schedule) -> None:
    v = factor(sch)
    i, j, _ = sch.get_loops("C")
    sch.split(j if sch.get(v) > 4 else i, [None, v])


def looks_at_extents(sch: Schedule) -> None:
    """16 alone is vectorised, and only the loop's extent says that it was drawn."""
    _, j, _ = sch.get_loops("C")
    _, inner = sch.split(j, [None, factor(sch)])
    if sch.get(inner).extent.value == 16:
        sch.unroll(inner)


def samples_more(sch: Schedule) -> None:
    """Four factors of a loop, and where the first is 8, five tilings of another: 8 candidates."""
    v = factor(sch)
    i, j, _ = sch.get_loops("C")
    sch.split(j, [None, v])
    if sch.get(v) == 8:
        sch.split(i, sch.sample_perfect_tile(i, n=2, max_innermost_factor=16))


def only_looks(sch: Schedule) -> None:
    v = factor(sch)
    str(sch.get(v))
    _, j, _ = sch.get_loops("C")
    sch.split(j, [None, v])


def raises_for_two(sch: Schedule) -> None:
    v = factor(sch)
    if sch.get(v) == 2:
        raise ValueError("not with two")
    _, j, _ = sch.get_loops("C")
    sch.split(j, [None, v])


def a_copy_reads(sch: Schedule) -> Schedule:
    v = factor(sch)
    other = sch.copy()
    _, j, _ = other.get_loops("C")
    other.split(j, [None, int(sch.get(v))])
    return other


SPACES = [
    (reads, 4), (branches, 4), (looks_at_extents, 4), (samples_more, 8), (only_looks, 4),
    (raises_for_two, 3), (a_copy_reads, 4),
]  # fmt: skip


def distinct(ctx: TuneContext, **more: Any) -> set[str]:
    sizes, seen = drive(ctx, 100, 6, **more)
    found = {c.digest for c in seen}
    assert len(found) == len(seen) == sum(sizes)
    return found


def generated(space: Callable[[Schedule], Any], kind: str, seed: int = 7) -> TuneContext:
    for k in range(seed, seed + 20):  # the function must not raise at first
        try:
            ctx = context(space, kind, seed=k)
            ctx.generate_design_space()
        except ValueError:
            continue
        return context(space, kind, seed=k)
    raise AssertionError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("space", "count"), SPACES, ids=lambda x: getattr(x, "__name__", ""))
def test_every_strategy_finds_all_of_a_space_that_reads(
    space: Callable[[Schedule], Any], count: int, kind: str
) -> None:
    assert len(distinct(generated(space, kind))) == count


@pytest.mark.parametrize("space", [branches, looks_at_extents, samples_more])
def test_the_candidates_are_those_of_the_function(space: Callable[[Schedule], Any]) -> None:
    found = [distinct(generated(space, kind)) for kind in KINDS]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("space", "needed"),
    [(s, True) for s, _ in SPACES]
    + [(s, False) for s in (five_points, two_tiles, many_tiles)],
    ids=lambda x: getattr(x, "__name__", ""),
)  # fmt: skip
def test_a_function_is_called_only_where_it_must_be(
    space: Callable[[Schedule], Any], needed: bool
) -> None:
    ctx = generated(space, "evolutionary")
    spaces = ctx.generate_design_space()
    assert [m is not None for m in makers_to_call(spaces, ctx.mod)] == [needed]


def big(sch: Schedule) -> None:
    """Reads, and has more candidates than are tried."""
    i, j, k = sch.get_loops("C")
    a = [int(sch.get(v)) for v in sch.sample_perfect_tile(i, n=3)]
    b = [int(sch.get(v)) for v in sch.sample_perfect_tile(j, n=3)]
    i0, i1, i2 = sch.split(i, a)
    j0, j1, j2 = sch.split(j, b)
    sch.reorder(i0, j0, i1, j1, k, i2, j2)


def test_evolution_varies_what_was_good_and_is_repeatable() -> None:
    def cost(c: MeasureCandidate) -> float:  # good is: the innermost loops are 8 and 16 long
        loops = [c.sch.get(x).extent for x in c.sch.get_loops("C")][-2:]
        i, j = (int(n.value) for n in loops)  # type: ignore[union-attr]  # constant
        return 1e-3 * (1 + abs(i - 8) + abs(j - 16))

    runs = []
    for _ in range(2):
        sizes, seen = drive(context(big, n=512), 48, 8, cost)
        assert sizes == [8] * 6
        runs.append([c.digest for c in seen])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 48
    costs = [cost(c) for c in seen]
    assert sum(costs[-16:]) < sum(costs[:16])  # later ones are better: it learned from the times


def test_a_mutant_keeps_the_other_decisions() -> None:
    import numpy as np

    from gputune.meta_schedule.search_strategy.called_space import CalledSpace
    from gputune.meta_schedule.search_strategy.spaces import make_space

    ctx = context(big, n=512)
    (sch,) = ctx.generate_design_space()
    (maker,) = makers_to_call([sch], ctx.mod)
    space = make_space(ctx, sch, 10, maker)
    assert isinstance(space, CalledSpace)
    rng = np.random.default_rng(1)
    parents = space.sample(40, rng)
    children = space.mutate(parents, rng)
    changed = 0
    for a, b in zip(parents[:, 0], children[:, 0]):
        before, after = (list(space._traces[k].decisions.values()) for k in (a, b))
        differ = [x != y for x, y in zip(before, after)]
        assert sum(differ) <= 1
        changed += sum(differ)
    assert changed > 20


class Forget(Mutator):
    """A user's mutator: no decision is kept."""

    def apply(self, trace: Any) -> Any:
        return type(trace)(trace.insts, {})


def test_mutators_of_users_and_of_gputune_act_on_it() -> None:
    assert len(distinct(context(samples_more, mutator_probs={Forget(): 1.0}))) == 8
    assert len(distinct(context(samples_more, mutator_probs="llvm"))) == 8


def test_records_are_recognised() -> None:
    db = MemoryDatabase()
    ctx = context(samples_more)
    workload = db.commit_workload(ctx.mod)
    ctx.pre_tuning(20, 5, None, db, None)
    first = ctx.generate_measure_candidates()
    assert first is not None
    for c in first:
        record = TuningRecord(c.sch.trace, workload, [1e-3], ctx.target, c.args_info)
        db.commit_tuning_record(record)
    ctx.post_tuning()
    assert len(first) == 5
    again = distinct(context(samples_more), database=db)
    assert len(again) == 3
    assert not again & {c.digest for c in first}


class Reader(ScheduleRule):
    """A user's rule that reads."""

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        if sch.get(block).name != "C":
            return [sch]
        other = sch.copy()
        _, j, _ = sch.get_loops(block)
        sch.split(j, [None, int(sch.get(factor(sch)))])
        return [sch, other]


def test_rules_and_unions_may_read() -> None:
    options: dict[str, Any] = {"postprocs": [], "mutator_probs": {}}
    rules = PostOrderApply(sch_rules=[Reader()], **options)
    both = SpaceGeneratorUnion([rules, ScheduleFn(five_points, [], **options)], [], **options)
    for kind in KINDS:
        ctx = TuneContext(
            matmul(32), target="llvm", space_generator=both.clone(), search_strategy=kind,
            rand_state=3,
        )  # fmt: skip
        assert len(distinct(ctx)) == 1 + 4 + 5


def test_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    distinct(context(reads))
    assert capsys.readouterr().err.count("it is called for every candidate") == 1
    distinct(context(two_tiles))
    assert capsys.readouterr().err == ""
