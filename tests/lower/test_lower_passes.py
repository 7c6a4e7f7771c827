"""What does lowering do to programs? Placement, compaction, tiles, vectors, registers, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gputune.errors import LowerError
from gputune.ir import interp, walk
from gputune.ir.build import const_int, replace_body, root_block
from gputune.ir.nodes import (
    Alloc,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    IfThenElse,
    IntImm,
    PrimFunc,
    Ramp,
    Stmt,
    Var,
)
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import LLVM, lower
from gputune.script import from_source

AVX512 = CpuLimits(64, 32, 2)


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


def all_of(f: PrimFunc, kind: type) -> list[Any]:
    return [s for s in walk.walk_stmt(f.body) if type(s) is kind]


def run(f: PrimFunc, *args: Any) -> list[Any]:
    copies = [a.copy() for a in args]
    interp.run(f, *copies)
    return copies


def lowered(text: str, *args: Any, limits: CpuLimits = AVX512) -> PrimFunc:
    """The lowered program, after a check that it does the same to `args`."""
    f = parse(text)
    out = lower(f, limits)
    for a, b in zip(run(f, *args), run(out, *args)):
        np.testing.assert_allclose(b, a, rtol=1e-5, err_msg=out.script())
    return out


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(-4, 5, shape).astype(np.float32)


TWO_STAGES = """
@T.prim_func
def main(A: T.Buffer((64, 48), "float32"), Z: T.Buffer((64, 48), "float32")):
    W = T.alloc_buffer((64, 48), "float32")
    for i_0, j_0 in T.grid(8, 3):
        for a, b in T.grid(8, 16):
            with T.block("W"):
                vi = T.axis.spatial(64, i_0 * 8 + a)
                vj = T.axis.spatial(48, j_0 * 16 + b)
                NOTE
                W[vi, vj] = A[vi, vj] * T.float32(2)
        for a, b in T.grid(8, 16):
            with T.block("Z"):
                vi = T.axis.spatial(64, i_0 * 8 + a)
                vj = T.axis.spatial(48, j_0 * 16 + b)
                Z[vi, vj] = W[vi, vj] + T.float32(1)
"""


def test_a_temporary_moves_inside_and_shrinks() -> None:
    f = lowered(TWO_STAGES.replace("NOTE", ""), floats(64, 48), floats(64, 48))
    (alloc,) = all_of(f, Alloc)
    assert [const_int(n) for n in alloc.buffer.shape] == [8, 16]
    inner = [s for s in walk.walk_stmt(alloc.body) if type(s) is For]
    assert len(all_of(f, For)) == len(inner) + 2  # it lives inside i_0 and j_0


def test_storage_align_pads_the_rows() -> None:
    note = 'T.block_attr({"buffer_dim_align": [[0, 0, 32, 8]]})'
    f = lowered(TWO_STAGES.replace("NOTE", note), floats(64, 48), floats(64, 48))
    (alloc,) = all_of(f, Alloc)
    assert alloc.buffer.strides is not None
    assert [const_int(n) for n in alloc.buffer.strides] == [40, 1]
    assert not any(k.startswith("lower.") for k, _ in f.attrs)


def test_a_value_carried_between_iterations_keeps_its_buffer_outside() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((12,), "float32"), Z: T.Buffer((12,), "float32")):
    W = T.alloc_buffer((13,), "float32")
    W[0] = T.float32(0)
    for t in range(12):
        W[t + 1] = W[t] + A[t]
        Z[t] = W[t + 1]
"""
    f = lowered(text, floats(12), floats(12))
    outer = [s for s in all_of(f, For) if any(type(x) is Alloc for x in walk.walk_stmt(s.body))]
    assert outer == []


def test_a_cache_filled_once_stays_outside() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((4,), "float32"), Z: T.Buffer((20, 4), "float32")):
    W = T.alloc_buffer((4,), "float32")
    for t in range(20):
        for j in range(4):
            with T.block("W"):
                vj = T.axis.spatial(4, j)
                T.where(t == 0)
                W[vj] = A[vj]
        for j in range(4):
            with T.block("Z"):
                vt, vj = T.axis.remap("SS", [t, j])
                Z[vt, vj] = W[vj]
"""
    lowered(text, floats(4), floats(20, 4))


TAIL = """
@T.prim_func
def main(A: T.Buffer((100, 70), "float32"), Z: T.Buffer((100, 70), "float32")):
    for i_0, j_0, i_1 in T.grid(17, 2, 6):
        for j_1 in T.vectorized(64):
            with T.block("Z"):
                vi = T.axis.spatial(100, i_0 * 6 + i_1)
                vj = T.axis.spatial(70, j_0 * 64 + j_1)
                T.where(i_0 * 6 + i_1 < 100 and j_0 * 64 + j_1 < 70)
                Z[vi, vj] = A[vi, vj] + T.float32(1)
"""


def test_conditions_of_tiles_leave_the_tiles() -> None:
    f = lowered(TAIL, floats(100, 70), floats(100, 70))
    branches = all_of(f, IfThenElse)
    assert branches
    tile_vars = {s.var for s in all_of(f, For) if s.kind == "unrolled"}
    assert not any(walk.uses_var(s.cond, tile_vars) for s in branches)


def test_no_more_than_eight_copies() -> None:
    dims = "abcdef"
    loops = ", ".join(f"{d}_0, {d}_1" for d in dims)
    binds = "\n".join(f"                v{d} = T.axis.spatial(5, {d}_0 * 2 + {d}_1)" for d in dims)
    text = f"""
@T.prim_func
def main(Z: T.Buffer((5, 5, 5, 5, 5, 5), "float32")):
    for {loops} in T.grid({", ".join(["3, 2"] * 6)}):
            with T.block("Z"):
{binds}
                T.where({" and ".join(f"{d}_0 * 2 + {d}_1 < 5" for d in dims)})
                Z[va, vb, vc, vd, ve, vf] = T.float32(1)
"""
    f = lower(parse(text), AVX512)
    assert len(all_of(f, BufferStore)) <= 8


def test_init_gets_loops_of_its_own() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((8, 40), "float32"), Z: T.Buffer((8,), "float32")):
    for k_0, i, k_1 in T.grid(5, 8, 8):
        with T.block("Z"):
            vi = T.axis.spatial(8, i)
            vk = T.axis.reduce(40, k_0 * 8 + k_1)
            with T.init():
                Z[vi] = T.float32(0)
            Z[vi] = Z[vi] + A[vi, vk]
"""
    f = lowered(text, floats(8, 40), floats(8))
    assert all_of(f, IfThenElse) == []


@pytest.mark.parametrize(
    "bind",
    [
        "vi = T.axis.spatial(4, f // 8)\n            vk = T.axis.reduce(8, f % 8)",
        "vi = T.axis.spatial(4, f % 4)\n            vk = T.axis.reduce(8, f // 4)",
    ],
)
def test_init_stays_inside_where_loops_mix_space_and_reduction(bind: str) -> None:
    text = f"""
@T.prim_func
def main(A: T.Buffer((4, 8), "float32"), Z: T.Buffer((4,), "float32")):
    for f in range(32):
        with T.block("Z"):
            {bind}
            with T.init():
                Z[vi] = T.float32(0)
            Z[vi] = Z[vi] + A[vi, vk]
"""
    lowered(text, floats(4, 8), floats(4))


MATMUL = """
@T.prim_func
def main(A: T.Buffer((8, 24), "float32"), B: T.Buffer((24, 32), "float32"), C: T.Buffer((8, 32), "float32")):
    for i_0, k, i_1 in T.grid(2, 24, 4):
        for j in T.vectorized(32):
            with T.block("C"):
                vi = T.axis.spatial(8, i_0 * 4 + i_1)
                vj = T.axis.spatial(32, j)
                vk = T.axis.reduce(24, k)
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
"""  # noqa: E501


def _loads(s: Stmt) -> list[Buffer]:
    return [e.buffer for e in walk.all_exprs(s) if type(e) is BufferLoad]


def test_accumulators_live_in_registers() -> None:
    f = lowered(MATMUL, floats(8, 24), floats(24, 32), floats(8, 32))
    reduction = [s for s in all_of(f, For) if s.kind == "serial" and s.var.name.startswith("k")]
    assert reduction
    for loop in reduction:
        touched = {b.name for b in _loads(loop.body)}
        assert "C" not in touched
        assert "C" not in {s.buffer.name for s in walk.walk_stmt(loop) if type(s) is BufferStore}
    # set to zero in registers: C is never read
    assert "C" not in {b.name for b in _loads(f.body)}


def test_a_tile_too_large_for_the_registers_stays_in_memory() -> None:
    f = lower(parse(MATMUL), CpuLimits(16, 8, 1))  # 4 x 32 floats are 32 registers of 16 bytes
    assert not any(a.buffer.scope == "register" for a in all_of(f, Alloc))


def test_another_element_of_the_accumulator_is_not_overlooked() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((9,), "float32"), C: T.Buffer((2,), "float32")):
    C[0] = T.float32(0)
    C[1] = T.float32(1)
    for k in range(9):
        C[0] = C[0] + A[k] * C[k % 2]
"""
    lowered(text, floats(9), floats(2))


def test_vectors_have_native_width_and_a_tail() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((45,), "float32"), Z: T.Buffer((45,), "float32")):
    for i in T.vectorized(45):
        with T.block("Z"):
            v = T.axis.spatial(45, i)
            Z[v] = A[v] + T.float32(1)
"""
    f = lowered(text, floats(45), floats(45))
    lanes = [
        s.indices[0].lanes if type(s.indices[0]) is Ramp else 1 for s in all_of(f, BufferStore)
    ]
    assert lanes == [16, 8, 4, 1]


def test_int8_sums_use_the_lanes_of_the_accumulator() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((64,), "int8"), Z: T.Buffer((64,), "int32")):
    for i in T.vectorized(64):
        with T.block("Z"):
            v = T.axis.spatial(64, i)
            Z[v] = T.Cast("int32", A[v]) * 3
"""
    a = np.arange(64).astype(np.int8)
    f = lowered(text, a, np.zeros(64, np.int32))
    assert {s.indices[0].lanes for s in all_of(f, BufferStore)} == {16}


# ----------------------------------------------------------------------------- sizes, refusals
def test_sampled_sizes_become_plain_integers() -> None:
    class Sampled(int):
        pass

    z = Buffer("Z", (IntImm(6),), "float32")
    i = Var("i")
    body = For(i, IntImm(0), IntImm(Sampled(6)), "serial", BufferStore(z, IntImm(1), (i,)))
    p = Var("z", "handle")
    f = PrimFunc((p,), ((p, z),), root_block(body))
    after = LLVM[0](f, AVX512)
    values = [e.value for e in walk.all_exprs(after.body) if type(e) is IntImm]
    assert values
    assert all(type(v) is int for v in values)


def test_gpu_threads_are_refused_with_a_question() -> None:
    z = Buffer("Z", (IntImm(6),), "float32")
    i = Var("i")
    body = For(
        i, IntImm(0), IntImm(6), "thread_binding", BufferStore(z, IntImm(1), (i,)), "threadIdx.x"
    )
    p = Var("z", "handle")
    f = PrimFunc((p,), ((p, z),), root_block(body), (("global_symbol", "kernel"),))
    with pytest.raises(LowerError, match="did you schedule for cuda") as e:
        lower(f, AVX512)
    assert "kernel: pass prepare: loop i is bound to threadIdx.x" in str(e.value)


def test_dumps_are_numbered_after_the_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUTUNE_DUMP", str(tmp_path / "dump"))
    lower(parse(MATMUL), AVX512)
    names = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert names[0] == "00_start.txt"
    assert names[1] == "01_prepare.txt"
    assert len(names) == len(LLVM) + 1
    assert "C_reg" in (tmp_path / "dump" / names[-1]).read_text()


def test_nothing_but_plain_code_is_left() -> None:
    f = lower(parse(MATMUL), AVX512)
    assert len(all_of(f, Block)) == 1
    assert {s.kind for s in all_of(f, For)} <= {"serial", "unrolled", "parallel"}
    assert replace_body(f, f.body) is f


CROWDED = """
@T.prim_func
def main(
    A: T.Buffer((64, 64), "float32"),
    B: T.Buffer((64, 64), "float32"),
    C: T.Buffer((64, 64), "float32"),
):
    P = T.alloc_buffer((64, 64))
    for o in T.parallel(2, annotations={"pragma_auto_unroll_max_step": 512}):
        for a in T.serial(32):
            for b in T.serial(4):
                for c in T.vectorized(16):
                    with T.block("P"):
                        vi = T.axis.spatial(64, o * 32 + a)
                        vk = T.axis.spatial(64, b * 16 + c)
                        P[vi, vk] = A[vi, vk] * T.float32(2)
        for i, j, k, i_1 in T.grid(8, 2, 64, 4):
            for j_1 in T.vectorized(32):
                with T.block("C"):
                    vi = T.axis.spatial(64, o * 32 + i * 4 + i_1)
                    vj = T.axis.spatial(64, j * 32 + j_1)
                    vk = T.axis.reduce(64, k)
                    with T.init():
                        C[vi, vj] = T.float32(0)
                    C[vi, vj] = C[vi, vj] + P[vi, vk] * B[vk, vj]
"""


def test_copies_do_not_use_up_what_a_register_tile_needs() -> None:
    """The copy of 128 statements stood before the tile and left it too little to be written out: it
    ran at less than half the speed."""
    f = lowered(CROWDED, floats(64, 64), floats(64, 64), floats(64, 64))
    sums = [s for s in all_of(f, For) if s.var.name == "i_1"]
    assert sums
    assert all(s.kind == "unrolled" for s in sums)
    assert any("_reg" in s.buffer.name for s in all_of(f, BufferStore))
