"""Which programs must not run on tensor cores, and are they told why?"""

from __future__ import annotations

import re

import pytest
from wmma_programs import AT, FILL, Product, load, mma, program, store, tile

from gputune.errors import LowerError
from gputune.ir import build, walk
from gputune.ir.nodes import (
    Block,
    Broadcast,
    BufferLoad,
    BufferStore,
    Expr,
    IntImm,
    PrimFunc,
    Stmt,
)
from gputune.lower.gpu import lower_gpu
from gputune.script import from_source


def lowered(text: str) -> None:
    func = from_source(text)
    assert isinstance(func, PrimFunc)
    lower_gpu(func)


def refused(text: str | PrimFunc, code: str, reason: str) -> None:
    with pytest.raises(LowerError, match=re.escape(reason)) as caught:
        lower_gpu(text) if isinstance(text, PrimFunc) else lowered(text)
    assert caught.value.code == code, caught.value
    assert caught.value.hint or code == "warp-tile"


def test_the_plain_program_is_accepted() -> None:
    lowered(program("\n".join([load(), FILL, load(op="load_b", to="G"), mma(), store()])))


# ----------------------------------------------------------------------------- divergence
def test_a_loop_over_lanes_around_it() -> None:
    refused(program(FILL, axis="x"), "warp-divergent", "stands around an operation of whole warps")


def test_more_lanes_than_a_warp_has() -> None:
    refused(Product(lanes=64).tensorized(), "warp-lanes", "threadIdx.x has 64 steps")


def test_a_condition_that_lanes_answer_differently() -> None:
    text = program(f"if L[0, 0] > T.float32(0):\n    {FILL}")
    refused(text, "warp-divergent", "the threads of a warp differ in the condition")


def test_a_condition_that_warps_answer_differently_is_fine() -> None:
    lowered(program(f"if w < 2:\n    {FILL}\n    {store()}"))
    lowered(program(f"if N[w] < 2:\n    {FILL}\n    {store()}"))


def test_a_tile_that_lanes_choose_differently() -> None:
    text = program(f"{FILL}\n{store('T.Cast(chr(105), L[0, 0])')}".replace("chr(105)", '"int32"'))
    refused(text, "warp-divergent", "a tile at")


# ----------------------------------------------------------------------------- registers
def test_plain_code_that_uses_what_warps_hold() -> None:
    refused(program(f"{FILL}\nC[w, 0] = H[0, 0]"), "warp-plain", "plain code uses it too")
    refused(program(f"F[0, 0] = A[0, 0]\n{FILL}"), "warp-plain", "buffer F lies in wmma.matrix_a")


@pytest.mark.parametrize("which", ["load_a", "load_b", "fill", "store", "sync"])
def test_a_block_that_was_not_tensorized(which: str) -> None:
    p = Product()
    func = p.tensorized(**{which: None})
    refused(func, "warp-plain", "in parts that only operations of whole warps can use")


def test_tiles_of_other_sizes() -> None:
    at = tile("", "8")
    text = program(f'H[{at}] = T.call_intrin("float32x256", "wmma.fill.f32", T.float32(0))\n{FILL}')
    refused(text, "warp-fragment", "16 x 24, not multiples of 16")


def test_tiles_that_overlap() -> None:
    at = tile("", "8")
    more = tile("", "16")
    fills = "\n".join(
        f'H[{x}] = T.call_intrin("float32x256", "wmma.fill.f32", T.float32(0))'
        for x in (AT, more, at)
    )
    refused(program(fills), "warp-fragment", "is no multiple of 16")


def test_columns_as_rows_of_registers() -> None:
    at = "T.Ramp(0, 1, 256) % 16, T.Ramp(0, 1, 256) // 16"
    text = program(f'H[{at}] = T.call_intrin("float32x256", "wmma.fill.f32", T.float32(0))')
    refused(text, "warp-fragment", "is no multiple of 16")


def test_the_wrong_registers() -> None:
    text = program("\n".join([load(to="G"), FILL]))
    refused(text, "warp-scope", "wmma.load_a.f16 has G in wmma.matrix_a, it is in wmma.matrix_b")


def test_registers_of_another_warp() -> None:
    """What warp w loads, warp 3 - w cannot use."""
    body = """
for t in T.thread_binding(4, thread="threadIdx.y"):
    with T.block("F"):
        w = T.axis.spatial(4, t)
        T.reads(A[w * 16:w * 16 + 16, 0:16])
        T.writes(F[w * 16:w * 16 + 16, 0:16])
        F[{one}] = T.call_intrin("float32x256", "wmma.fill.f32", T.float32(0))
for t in T.thread_binding(4, thread="threadIdx.y"):
    with T.block("C"):
        w = T.axis.spatial(4, t)
        T.reads(F[48 - w * 16:64 - w * 16, 0:16])
        T.writes(C[w * 16:w * 16 + 16, 0:16])
        C[{mine}] = T.call_intrin("float32x256", "wmma.store.f32", F[{other}])
""".format(one=tile("w * 16"), mine=tile("w * 16"), other=tile("48 - w * 16"))
    head = """
@T.prim_func
def main(A: T.Buffer((64, 16)), C: T.Buffer((64, 16))):
    F = T.alloc_buffer((64, 16), scope="wmma.accumulator")
    for b in T.thread_binding(1, thread="blockIdx.x"):
"""
    text = head + "\n".join("        " + line for line in body.strip("\n").split("\n")) + "\n"
    refused(text, "not-private", "a thread reads an element that another thread wrote")
    lowered(text.replace("48 - w * 16", "w * 16").replace("64 - w * 16", "w * 16 + 16"))


@pytest.mark.parametrize("trans", [False, True])
def test_loads_and_products_that_lie_differently(trans: bool) -> None:
    other = "wmma_load_16x16x16_f16_b_trans_shared_dyn"
    p = Product(trans=trans)
    func = p.tensorized(load_b=other.replace("_trans", "") if trans else other)
    refused(func, "warp-layout", "what is loaded transposed must be multiplied so")


def test_padded_registers() -> None:
    p = Product()
    p.sch.storage_align(p.blocks["load_b"], 0, -2, 32, 8)
    refused(p.tensorized(), "warp-fragment", "it is padded: take storage_align away")


def test_what_is_computed_is_no_tile() -> None:
    text = program(FILL + f"\n{store()}".replace(f"H[{AT}])", "T.Broadcast(T.float32(1), 256))"))
    refused(text, "warp-operand", "an argument of wmma.store.f32 is computed")


def test_tiles_are_whole() -> None:
    func = from_source(program(f"{FILL}\n{store()}"))
    assert isinstance(func, PrimFunc)
    mask = Broadcast(IntImm(1, "bool"), 256)

    def masked(s: Stmt) -> Stmt:
        if type(s) is BufferStore and s.buffer.name == "C":
            return BufferStore(s.buffer, s.value, s.indices, mask)
        out = walk.map_stmt(s, lambda e: e, masked)
        assert out is not None
        return out

    def unloaded(e: Expr) -> Expr:
        if type(e) is BufferLoad and e.buffer.name == "H":
            return BufferLoad(e.buffer, e.indices, mask)
        return walk.map_expr(e, unloaded)

    body = masked(func.body)
    assert type(body) is Block
    refused(build.replace_body(func, body), "warp-masked", "wmma.store.f32 takes and gives whole")
    body = walk.rewrite_exprs(func.body, unloaded)
    assert type(body) is Block
    refused(build.replace_body(func, body), "warp-masked", "wmma.store.f32 takes and gives whole")


# ----------------------------------------------------------------------------- memory
def test_memory_that_no_warp_shares() -> None:
    text = program(f"{FILL}\n{store(to='L')}")
    refused(text, "warp-scope", "takes L in shared or global memory, it is in local")


@pytest.mark.parametrize("offset", [4, 12])
def test_rows_that_are_not_aligned(offset: int) -> None:
    p = Product()
    p.sch.storage_align(p.fetches[0], 0, -2, 32, offset)
    refused(p.tensorized(), "warp-align", "must begin at a multiple of 16 bytes")


def test_tiles_that_begin_out_of_alignment() -> None:
    refused(program(load(j="w * 4")), "warp-align", "must begin at a multiple of 16 bytes")


def test_columns_in_memory() -> None:
    at = "T.Ramp(0, 1, 256) % 16, T.Ramp(0, 1, 256) // 16"
    text = program(f'F[{AT}] = T.call_intrin("float16x256", "wmma.load_a.f16", A[{at}])')
    refused(text, "warp-tile", "64 elements from column to column")


def test_pieces_in_memory() -> None:
    at = "T.Ramp(0, 1, 256) // 16 // 8, T.Ramp(0, 1, 256) % 16"
    text = program(f'F[{AT}] = T.call_intrin("float16x256", "wmma.load_a.f16", A[{at}])')
    refused(text, "warp-tile", "it is cut in pieces")


# ----------------------------------------------------------------------------- races
def test_a_number_from_shared_memory_is_waited_for() -> None:
    fill = FILL.replace("T.float32(0)", "P[0, 0]")
    func = from_source(program(f"P[w, 0] = T.float32(1)\n{fill}\n{store()}"))
    assert isinstance(func, PrimFunc)
    (kernel,) = lower_gpu(func).kernels
    text = kernel.func.script()
    assert text.count("sync_threads") == 1
    assert text.index("P[") < text.index("sync_threads") < text.index("wmma.fill")


def test_warps_that_write_one_tile() -> None:
    text = program(f"{FILL}\n{store('w // 2 * 16')}")
    refused(text, "thread-race", "one element of C")


def test_lanes_of_one_warp_do_not_race() -> None:
    lowered(program(f"{FILL}\n{store('w * 16', '32')}"))
