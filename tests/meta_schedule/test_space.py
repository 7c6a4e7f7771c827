"""Space generators: which spaces they make, that every candidate keeps its meaning, and that the
space stays cheap to search."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from space_programs import Population, context, matmul, redrawn, row_sum, space

from gputune import kernels
from gputune.errors import ScheduleError, UserError
from gputune.ir import interp
from gputune.ir.check import check
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import IRModule
from gputune.meta_schedule.kinds import kind_of_target
from gputune.meta_schedule.mutator import MutateUnroll
from gputune.meta_schedule.postproc import Postproc, RewriteReductionBlock, postprocess
from gputune.meta_schedule.schedule_rule import MultiLevelTiling, ParallelizeVectorizeUnroll
from gputune.meta_schedule.space_generator import (
    PostOrderApply,
    PySpaceGenerator,
    ScheduleFn,
    SpaceGenerator,
    SpaceGeneratorUnion,
)
from gputune.meta_schedule.tune_context import TuneContext
from gputune.schedule import Schedule
from gputune.schedule.dim import Evaluator, recording
from gputune.script import tir as T

COUNTS = {name: 3 for name in kernels.SUITE} | {"NRM": 4, "SFM": 17, "TBG": 6}


@pytest.mark.parametrize("name", kernels.SUITE)
def test_number_of_sketches(name: str) -> None:
    assert len(space(kernels.get(name).build())) == COUNTS[name]


# ----------------------------------------------------------------------------- meaning
CASES = [
    (name, k)
    for name in (
        "matmul", "dense_bias_relu", "conv2d", "conv2d_bn_relu", "softmax", "layernorm", "norm",
        "max_pool2d", "column_sum", "argmax", "gelu", "transpose", "jacobi2d",
    )
    for k in range(2)
]  # fmt: skip


@functools.cache
def reference(name: str, case: int) -> tuple[Any, list[Any], list[Any]]:
    kernel = kernels.get(name)
    shape = kernel.check_shapes[case]
    func = kernel.build(**shape)
    args = kernel.arguments(shape, exact=True)
    done = [a.copy() for a in args]
    interp.run(func, *done)
    return func, args, done


@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_candidate_keeps_its_meaning(name: str, case: int) -> None:
    func, args, expected = reference(name, case)
    done = 0
    for k, sketch in enumerate(space(func, cores=2)):
        for seed in (1, 2):
            try:
                sch = redrawn(sketch.trace, func, 10 * k + seed)
            except ScheduleError:  # a redrawn location may make a later one illegal
                continue
            assert postprocess(sch, Postproc.create("llvm")) is None
            check(sch.mod)
            out = [a.copy() for a in args]
            interp.run(sch.mod, *out, main=name, check_regions=True)
            for a, b in zip(out, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5)
            done += 1
    assert done > 0


# ----------------------------------------------------------------------------- structure classes
@pytest.mark.parametrize("sketch", range(3))
def test_a_population_of_matmuls_falls_into_few_classes(sketch: int) -> None:
    rows = 4096
    population = Population(matmul, space(matmul)[sketch].trace, rows)
    postprocs = Postproc.create("llvm")
    todo = np.ones(rows, bool)
    classes = 0
    extents = []
    while todo.any():
        row = int(np.flatnonzero(todo)[0])
        with recording() as guards:
            sch = population.replay(row, dims=True)
            assert postprocess(sch, postprocs) is None
            with np.errstate(divide="ignore"):
                same = Evaluator(population.columns).holds(guards, todo)
        assert same[row]
        extents.append((np.flatnonzero(same), sch))
        todo &= ~same
        classes += 1
    assert classes < 100
    # a class says the truth about its members: another row of it has the same structure
    for members, sch in extents:
        plain = population.replay(int(members[-1]), dims=False)
        assert postprocess(plain, postprocs) is None
        assert shape_of(plain) == shape_of(sch)


def shape_of(sch: Schedule) -> list[tuple[str, str]]:
    """Instructions, and the number of loops that each handled."""
    return [(i.kind.name, str(len(i.inputs)) + str(len(i.outputs))) for i in sch.trace.insts]


# ----------------------------------------------------------------------------- PostOrderApply
def test_rules_in_order_and_filter() -> None:
    class Note(MultiLevelTiling):
        def apply(self, sch: Schedule, block: Any) -> list[Schedule]:
            seen.append(sch.get(block).name)
            return [sch]

    seen: list[str] = []
    func = kernels.get("softmax").build(m=4, n=4)
    generator = PostOrderApply(sch_rules=[Note("S")], postprocs=[], mutator_probs={})
    space(func, space_generator=generator)
    assert seen == ["root", "B", "total", "power", "top"]
    seen.clear()
    generator = PostOrderApply(
        f_block_filter=lambda block: block.name != "power", sch_rules=[Note("S")]
    )
    space(func, space_generator=generator)
    assert seen == ["root", "B", "total", "top"]


def test_cross_product_of_spaces() -> None:
    class Two(MultiLevelTiling):
        def apply(self, sch: Schedule, block: Any) -> list[Schedule]:
            return [sch, sch.copy()] if sch.get(block).name != "root" else [sch]

    func = kernels.get("softmax").build(m=4, n=4)
    generator = PostOrderApply(sch_rules=[Two("S"), Two("S")])
    assert len(space(func, space_generator=generator)) == 2 ** (2 * 4)


def test_scheduled_functions_are_left_alone() -> None:
    (sch,) = space(matmul.with_attr("tir.is_scheduled", True))
    assert sch.trace.insts == []


def test_every_function_of_a_module_is_scheduled() -> None:
    mod = IRModule({"main": matmul, "other": row_sum})
    sketches = space(mod)
    assert len(sketches) == 3 * 4
    assert 'func_name="other"' in str(sketches[0].trace)
    for s in sketches:
        assert postprocess(s, Postproc.create("llvm")) is None


def test_block_names_must_be_unique() -> None:
    @T.prim_func
    def same(
        A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32"), C: T.Buffer((4,), "float32")
    ):
        for i in range(4):
            with T.block("X"):
                vi = T.axis.spatial(4, i)
                B[vi] = A[vi]
        for i in range(4):
            with T.block("X"):
                vi = T.axis.spatial(4, i)
                C[vi] = A[vi]

    with pytest.raises(ScheduleError, match="named 'X'"):
        space(same)


def test_rules_must_return_schedules() -> None:
    class Wrong(MultiLevelTiling):
        def apply(self, sch: Schedule, block: Any) -> list[Schedule]:
            return None  # type: ignore[return-value]

    with pytest.raises(UserError, match="rule Wrong returned NoneType"):
        space(row_sum, space_generator=PostOrderApply(sch_rules=[Wrong("S")]))


def test_a_generator_without_context_says_so() -> None:
    with pytest.raises(UserError, match="not settled"):
        PostOrderApply().generate_design_space(matmul)


# ----------------------------------------------------------------------------- settings
def test_explicit_lists_kinds_and_from_target() -> None:
    generator = PostOrderApply(
        sch_rules=[ParallelizeVectorizeUnroll(2, 8)],
        postprocs="llvm",
        mutator_probs={MutateUnroll(): 1.0},
    )
    ctx = context(matmul, space_generator=generator)
    assert ctx.space_generator is generator
    assert [type(p).__name__ for p in generator.postprocs][-1] == "RewriteLayout"
    assert [p for p in generator.mutator_probs.values()] == [1.0]  # type: ignore[union-attr]
    (sch,) = ctx.generate_design_space()
    assert dict(sch.mod["main"].body.annotations)["meta_schedule.parallel"] == 2


@pytest.mark.parametrize("word", ["sch_rules", "postprocs", "mutator_probs"])
def test_unknown_kinds_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="llvm"):
        context(matmul, space_generator=PostOrderApply(**{word: "vax"}))


def test_from_target_needs_a_target() -> None:
    with pytest.raises(UserError, match="from-target"):
        TuneContext(matmul, space_generator=PostOrderApply())


def test_clones_have_their_own_parts() -> None:
    generator = context(matmul).space_generator
    assert generator is not None
    other = generator.clone()
    for a, b in zip(generator.postprocs, other.postprocs, strict=True):
        assert type(a) is type(b)
        assert a is not b
    assert set(generator.mutator_probs).isdisjoint(other.mutator_probs)


# ----------------------------------------------------------------------------- functions
def in_place(sch: Schedule) -> None:
    sch.parallel(sch.get_loops(sch.get_block("C"))[0])


def one(sch: Schedule) -> Schedule:
    in_place(sch)
    return sch


def several(sch: Schedule) -> list[Schedule]:
    other = sch.copy()
    in_place(other)
    return [sch, other]


@pytest.mark.parametrize(("fn", "count"), [(in_place, 1), (one, 1), (several, 2)])
def test_schedule_functions(fn: Any, count: int) -> None:
    found = space(matmul, space_generator=ScheduleFn(fn))
    assert len(found) == count
    assert "sch.parallel" in str(found[-1].trace)
    created = space(matmul, space_generator=SpaceGenerator.create(fn))
    assert [str(s.trace) for s in created] == [str(s.trace) for s in found]


def test_create_with_a_function_has_the_defaults_of_the_target() -> None:
    generator = SpaceGenerator.create(in_place)
    ctx = context(matmul, space_generator=generator)
    assert isinstance(generator, ScheduleFn)
    wanted = Postproc.create(kind_of_target(ctx, "postprocs"))
    assert [type(p) for p in generator.postprocs] == [type(p) for p in wanted]
    assert len(generator.mutator_probs) == 4


def test_a_schedule_function_of_the_tutorial() -> None:
    def stochastic_schedule_mm(sch: Schedule) -> Schedule:
        block = sch.get_block(name="C", func_name="main")
        i, j, k = sch.get_loops(block=block)
        j_0, j_1 = sch.split(loop=j, factors=sch.sample_perfect_tile(loop=j, n=2))
        sch.reorder(i, j_0, k, j_1)
        sch.decompose_reduction(block, k)
        return sch

    (sch,) = space(matmul, space_generator=ScheduleFn(stochastic_schedule_mm))
    before = sch.mod
    assert postprocess(sch, Postproc.create("llvm")) is None
    assert sch.mod is before
    assert str(sch.trace).splitlines()[-1] == "sch.enter_postproc()"


@pytest.mark.parametrize("wrong", [5, [1], "text"])
def test_schedule_functions_must_return_schedules(wrong: Any) -> None:
    with pytest.raises(UserError, match="schedule function"):
        space(matmul, space_generator=ScheduleFn(lambda sch: wrong))


def test_unions() -> None:
    union = SpaceGenerator.create("union", [PostOrderApply(), ScheduleFn(in_place)])
    assert isinstance(union, SpaceGeneratorUnion)
    assert len(space(matmul, space_generator=union)) == 4
    other = union.clone()
    assert isinstance(other, SpaceGeneratorUnion)
    assert other.space_generators[0] is not union.space_generators[0]
    assert len(other.generate_design_space(matmul)) == 4


@pytest.mark.parametrize("members", [(), ([],), ([3],), (ScheduleFn(in_place),)])
def test_a_union_without_members_is_refused(members: tuple[Any, ...]) -> None:
    with pytest.raises(UserError, match="a union of spaces needs"):
        SpaceGenerator.create("union", *members)


def test_create_names_what_there_is() -> None:
    assert isinstance(SpaceGenerator.create(), PostOrderApply)
    with pytest.raises(UserError, match="post-order-apply"):
        SpaceGenerator.create("pre-order")
    with pytest.raises(UserError, match="function of a schedule"):
        ScheduleFn(3)  # type: ignore[arg-type]


def test_users_write_generators_by_inheriting() -> None:
    class Unchanged(PySpaceGenerator):
        def __init__(self) -> None:
            super().__init__([], [RewriteReductionBlock()], {})

        def generate_design_space(self, mod: Any) -> list[Schedule]:
            return [Schedule(mod)]

    (sch,) = space(matmul, space_generator=Unchanged())
    assert structural_equal(sch.mod["main"], matmul)
