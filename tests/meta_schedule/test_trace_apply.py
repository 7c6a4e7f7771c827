"""Does a schedule found for one program serve a similar one, with the right numbers?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from api_search import matmul_and
from ms_fakes import TARGET, matmul, split_j

from gputune import meta_schedule as ms
from gputune.errors import ScheduleError, UserError
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import IRModule
from gputune.meta_schedule.relax_integration import _bound
from gputune.schedule import Schedule, Trace
from gputune.script import from_source
from gputune.target import Target

CUDA = "cuda -arch=sm_90"


def around(name: str = "C", block: str = "") -> IRModule:
    """Scaled inputs, a matmul (or another block), and a clipped output."""
    block = (
        block
        or f"""
    for i, j, k in T.grid(16, 16, 16):
        with T.block("{name}"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + P[vi, vk] * B[vk, vj]"""
    )
    return ms.module_equality.as_module(
        from_source(f"""
@T.prim_func
def main(A: T.Buffer((16, 16), "float32"), B: T.Buffer((16, 16), "float32"),
         D: T.Buffer((16, 16), "float32")):
    P = T.alloc_buffer((16, 16), "float32")
    C = T.alloc_buffer((16, 16), "float32")
    E = T.alloc_buffer((16, 16), "float32")
    for i, j in T.grid(16, 16):
        with T.block("P"):
            vi, vj = T.axis.remap("SS", [i, j])
            P[vi, vj] = A[vi, vj] * T.float32(2)
{block}
    for i, j in T.grid(16, 16):
        with T.block("E"):
            vi, vj = T.axis.remap("SS", [i, j])
            E[vi, vj] = C[vi, vj] - T.float32(1)
    for i, j in T.grid(16, 16):
        with T.block("D"):
            vi, vj = T.axis.remap("SS", [i, j])
            D[vi, vj] = T.max(E[vi, vj], T.float32(0))
""")
    )  # type: ignore[arg-type]  # one function


def searched(target: str, seed: int) -> Trace:
    """A finished trace of the matmul alone, as tuning makes it."""
    ctx = ms.TuneContext(
        matmul(), target=target, space_generator="post-order-apply",
        search_strategy="replay-trace", rand_state=seed,
    )  # fmt: skip
    ctx.pre_tuning(1)
    (found,) = ctx.generate_measure_candidates() or ()
    return found.sch.trace


def same_numbers(a: IRModule, b: IRModule) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(-3, 4, (2, 16, 16)).astype(np.float32)
    outs = [np.zeros((16, 16), np.float32) for _ in range(2)]
    for mod, out in zip((a, b), outs):
        run(mod["main"], x, y, out)
    np.testing.assert_array_equal(*outs)


@pytest.mark.parametrize("name", ["C", "matmul"])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("target", [TARGET, CUDA])
def test_a_searched_trace(target: str, seed: int, name: str) -> None:
    sch = Schedule(around(name), debug_mask="all")
    ms.trace_apply.schedule_using_anchor_trace(sch, searched(target, seed), target)
    same_numbers(around(name), sch.mod)
    text = sch.mod.script()
    assert 'T.block("P")' not in text  # scaling is inlined
    assert "enter_postproc" in str(sch.trace)
    if target == CUDA:
        for block in sch.get_child_blocks(sch.get_block("root")):
            above = [sch.get(x).thread for x in sch.get_loops(block)]
            assert "blockIdx.x" in above
    again = Schedule(around(name))
    sch.trace.apply_to_schedule(again)
    assert structural_equal(again.mod, sch.mod)


@pytest.mark.parametrize("target", [TARGET, CUDA])
def test_a_trace_made_by_hand(target: str) -> None:
    sch = Schedule(around())
    ms.trace_apply.schedule_using_anchor_trace(sch, split_j(matmul(), 4).trace, target)
    same_numbers(around(), sch.mod)
    text = sch.mod.script()
    assert ("T.parallel" if target == TARGET else "blockIdx.x") in text


def test_what_does_not_fit_leaves_the_schedule_as_it_was() -> None:
    trace = split_j(matmul(), 4).trace
    only_spatial = """
    for i, j in T.grid(16, 16):
        with T.block("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = P[vi, vj] * B[vi, vj]"""
    two_loops = """
    for i, k in T.grid(16, 16):
        with T.block("C"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                C[vi, 0] = T.float32(0)
            C[vi, 0] = C[vi, 0] + P[vi, vk] * B[vk, vi]"""
    for block, why in ((only_spatial, "no anchor block"), (two_loops, "does not fit")):
        sch = Schedule(around(block=block))
        with pytest.raises(ScheduleError, match=why):
            ms.trace_apply.schedule_using_anchor_trace(sch, trace, TARGET)
        assert structural_equal(sch.mod, around(block=block))
        assert sch.trace.insts == []


def test_a_module_of_several_functions() -> None:
    mod = IRModule({"f": around()["main"], "g": matmul(32)["main"]})
    trace = split_j(matmul(), 4).trace
    sch = Schedule(mod)
    with pytest.raises(UserError, match="which is meant"):
        ms.trace_apply.schedule_using_anchor_trace(sch, trace, TARGET)
    sch.work_on("f")
    ms.trace_apply.schedule_using_anchor_trace(sch, trace, TARGET)
    assert structural_equal(sch.mod["g"], mod["g"])
    same_numbers(around(), IRModule({"main": sch.mod["f"]}))


def test_a_database_by_anchor_block_serves_similar_programs(tmp_path: Path) -> None:
    """The schedule is that of the program asked for, and the record stays."""
    db = ms.JSONDatabase(work_dir=tmp_path, module_equality="anchor-block")
    workload = db.commit_workload(matmul())
    sch = split_j(matmul(), 4)
    db.commit_tuning_record(ms.TuningRecord(sch.trace, workload, [1e-6], TARGET))
    other = matmul_and("T.float32(1)")
    found = ms.compile_tir(db, other, TARGET)
    assert found is not None
    same_numbers(found.mod, other)
    assert not structural_equal(found.mod, sch.mod)
    looked_up = db.query_ir_module(other, TARGET)
    assert looked_up is not None
    same_numbers(looked_up, other)
    both = IRModule({"f": other["main"], "g": other["main"]})
    for name in both:
        alone = db.commit_workload(IRModule({name: both[name]}))
        db.commit_tuning_record(ms.TuningRecord(sch.trace, alone, [1e-6], TARGET))
    of_both = ms.compile_tir(db, both, TARGET)
    assert of_both is not None
    for name in both:
        same_numbers(IRModule({"main": of_both.mod[name]}), other)
    own = ms.compile_tir(db, matmul(), TARGET)
    assert own is not None
    assert structural_equal(own.mod, sch.mod)


def test_untuned_functions_are_bound_on_a_gpu() -> None:
    func = _bound(around()["main"], Target(CUDA))
    assert func.body is not None
    text = IRModule({"main": func}).script()
    assert text.count("blockIdx.x") == 4
    same_numbers(around(), IRModule({"main": func}))
