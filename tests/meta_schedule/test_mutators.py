"""Mutators: what changes, what stays, when there is nothing to change."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from space_programs import chain, context, matmul, row_sum, space

from gputune.errors import ScheduleError, UserError
from gputune.meta_schedule.mutator import (
    MutateComputeLocation,
    MutateParallel,
    MutateThreadBinding,
    MutateTileSize,
    MutateUnroll,
    Mutator,
    PyMutator,
)
from gputune.meta_schedule.postproc import Postproc, postprocess
from gputune.schedule import Schedule, Trace


def ready(mutator: Mutator, func: Any, seed: int = 7, cores: int = 1) -> Mutator:
    mutator.initialize_with_tune_context(context(func, cores, seed, space_generator=None))
    return mutator


def decisions(trace: Trace) -> list[Any]:
    return [trace.decisions.get(i) for i in trace.insts if i.kind.samples]


def sketch(func: Any, which: int = 0) -> Trace:
    sch = space(func)[which]
    assert postprocess(sch, Postproc.create("llvm")) is None
    return sch.trace


def test_tile_size_moves_a_divisor_and_drops_postprocessing() -> None:
    trace, m = sketch(matmul), ready(MutateTileSize(), matmul)
    seen = set()
    for _ in range(60):
        new = m.apply(trace)
        assert new is not None
        assert "enter_postproc" not in str(new)
        pairs = [(a, b) for a, b in zip(decisions(trace), decisions(new), strict=True) if a != b]
        ((old, now),) = pairs
        assert math.prod(old) == math.prod(now)
        assert sum(a != b for a, b in zip(old, now, strict=True)) == 2
        assert now[-1] <= 64
        seen.add(tuple(now))
        new.apply_to_schedule(Schedule(matmul, seed=1))
    assert len(seen) > 10


def test_tile_size_respects_the_innermost_limit() -> None:
    sch = Schedule(matmul, seed=1)
    (loop, _, _) = sch.get_loops(sch.get_block("C"))
    sch.split(loop, list(sch.sample_perfect_tile(loop, 2, 4, decision=[32, 4])))
    m = MutateTileSize()
    m.rng = random.Random(1)
    for _ in range(20):
        new = m.apply(sch.trace)
        assert new is not None
        ((big, small),) = decisions(new)
        assert small in (1, 2)
        assert big * small == 128


def test_tile_size_changes_fetch_widths() -> None:
    sch = Schedule(matmul, seed=1)
    block = sch.get_block("C")
    n = sch.sample_categorical([1, 2, 4], [0.25, 0.25, 0.5], decision=2)
    sch.annotate(block, "meta_schedule.cooperative_fetch", n)
    m = MutateTileSize()
    m.rng = random.Random(1)
    found = {decisions(t)[0] for t in (m.apply(sch.trace) for _ in range(20)) if t is not None}
    assert found == {0, 1}


def test_unroll_draws_another_limit() -> None:
    trace, m = sketch(matmul), ready(MutateUnroll(), matmul)
    found = set()
    for _ in range(40):
        new = m.apply(trace)
        assert new is not None
        assert decisions(new)[:-1] == decisions(trace)[:-1]
        found.add(decisions(new)[-1])
    assert found == {0, 1, 2, 3} - {decisions(trace)[-1]}


def test_thread_binding_draws_another_extent() -> None:
    sch = Schedule(row_sum, seed=1)
    loop = sch.get_loops(sch.get_block("S"))[1]
    n = sch.sample_categorical([4, 8, 16], [0.25, 0.25, 0.5], decision=1)
    _, inner = sch.split(loop, [None, n])
    m = ready(MutateThreadBinding(), row_sum)
    assert m.apply(sch.trace) is None  # not bound yet
    sch.bind(inner, "threadIdx.x")
    found = {decisions(t)[0] for t in (m.apply(sch.trace) for _ in range(20)) if t is not None}
    assert found == {0, 2}


def test_a_single_candidate_is_never_chosen() -> None:
    sch = Schedule(matmul, seed=1)
    n = sch.sample_categorical([16], [1.0])
    sch.annotate(sch.get_block("root"), "meta_schedule.unroll_explicit", n)
    assert ready(MutateUnroll(), matmul).apply(sch.trace) is None


def limit_of(trace: Trace) -> int:
    (inst,) = [
        i for i in trace.insts
        if i.kind.name == "Annotate" and i.attrs[0] == "meta_schedule.parallel"
    ]  # fmt: skip
    return int(inst.inputs[1])


def test_parallel_changes_how_many_loops_are_fused() -> None:
    sch = space(matmul)[0]
    given = iter([[2, 2, 32, 1], [2, 2, 8, 4], [64, 2], 1])
    fixed = Schedule(matmul, seed=1)
    sch.trace.apply_to_schedule(fixed, decision_provider=lambda i, x, a, d: next(given))
    m = ready(MutateParallel(16), matmul)
    found: set[int] = set()
    for _ in range(40):
        new = m.apply(fixed.trace)
        assert new is not None
        assert decisions(new) == decisions(fixed.trace)
        found.add(limit_of(new))
        replayed = Schedule(matmul, seed=1)
        new.apply_to_schedule(replayed)
        assert postprocess(replayed, Postproc.create("llvm")) is None
    # loops i0=2 j0=2 i1=2 j1=2: products 2, 4, 8, 16; the limit 16 fuses as many as 8 does
    assert found == {1, 2, 4}


def test_parallel_has_nothing_to_change_in_one_loop() -> None:
    sch = Schedule(row_sum, seed=1)
    sch.annotate(sch.get_block("root"), "meta_schedule.parallel", 16)
    assert ready(MutateParallel(16), row_sum).apply(sch.trace) is None
    assert ready(MutateParallel(16), row_sum).apply(Schedule(row_sum).trace) is None


def test_compute_location_draws_a_legal_place() -> None:
    (sch, *_) = space(chain)
    places = [i for i in sch.trace.insts if i.kind.name == "SampleComputeLocation"]
    assert places
    m = ready(MutateComputeLocation(), chain)
    replayed = 0
    for _ in range(20):
        new = m.apply(sch.trace)
        assert new is not None
        changed = [
            (a, b) for a, b in zip(decisions(sch.trace), decisions(new), strict=True) if a != b
        ]
        assert len(changed) == 1
        try:
            new.apply_to_schedule(Schedule(chain, seed=1))
            replayed += 1
        except ScheduleError as e:  # a later place may depend on the changed one
            assert e.code == "sample-decision"  # noqa: PT017
    assert replayed


@pytest.mark.parametrize(
    "mutator",
    [
        MutateTileSize(), MutateUnroll(), MutateThreadBinding(), MutateComputeLocation(),
        MutateParallel(16),
    ],
)  # fmt: skip
def test_nothing_to_mutate(mutator: Mutator) -> None:
    sch = Schedule(matmul, seed=1)
    sch.get_loops(sch.get_block("C"))
    assert ready(mutator, matmul).apply(sch.trace) is None


def test_same_seed_same_mutations() -> None:
    trace = sketch(matmul)
    runs = []
    for seed in (7, 7, 8):
        m = ready(MutateTileSize(), matmul, seed)
        runs.append([str(m.apply(trace)) for _ in range(5)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_default_mutators_of_llvm() -> None:
    found = {type(m).__name__: p for m, p in Mutator.create("llvm").items()}
    assert found == {
        "MutateTileSize": 0.9,
        "MutateComputeLocation": 0.05,
        "MutateUnroll": 0.03,
        "MutateParallel": 0.02,
    }
    with pytest.raises(UserError, match="llvm"):
        Mutator.create("metal")


def test_users_write_mutators_by_inheriting() -> None:
    class Same(PyMutator):
        def apply(self, trace: Trace) -> Trace | None:
            return trace

    m = ready(Same(), matmul)
    copy = m.clone()
    assert type(copy) is Same
    assert copy.rng is not m.rng
