import ir_programs as P
import pytest

from gputune.errors import CheckError
from gputune.ir import build as b
from gputune.ir.flops import estimate_flops, flops_by_block
from gputune.ir.nodes import (
    BinOp,
    Broadcast,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    IfThenElse,
    IRModule,
    LetStmt,
    Ramp,
    Var,
)

A, C = P.buf("A", (64,)), P.buf("C", (64,))


def loop(n, make):
    i = Var("i")
    return For(i, b.const(0), b.expr(n), "serial", make(i))


def test_golden_counts():
    assert estimate_flops(P.matmul(128, 128, 128)) == 4194304
    assert estimate_flops(P.matmul_bias(1, 128, 784)) == 200832


def test_module_is_the_sum_and_the_attribute_wins():
    f = P.matmul(2, 3, 4)
    mod = IRModule({"a": f, "b": f.with_attr("estimated_flops", 1000)})
    assert estimate_flops(f) == 48
    assert estimate_flops(mod) == 1048
    assert estimate_flops(f.with_attr("estimated_flops", b.const(7))) == 7


@pytest.mark.parametrize("op", ["+", "-", "*", "/", "//", "%", "truncmod", "min", "max"])
def test_each_operation_counts_one_whatever_the_dtype(op):
    a = P.buf("a", (8,), "int32")
    body = loop(8, lambda i: BufferStore(a, BinOp(op, a[i], a[i], "int32"), (i,)))
    assert estimate_flops(body) == 8


def test_what_counts_nothing():
    i = Var("i")
    assert estimate_flops(BufferStore(C, A[i * 4 + 3], (i * 2,))) == 0
    cmp = BinOp("<", A[i] + 1.0, A[i] * 2.0, "bool")
    assert estimate_flops(BufferStore(C, cmp.astype("float32"), (i,))) == 0
    bits = P.buf("bits", (4,), "int32")
    assert estimate_flops(BufferStore(bits, bits[i] & bits[i + 1], (i,))) == 0
    assert estimate_flops(Evaluate(A[i] + 1.0)) == 0


def test_select_and_if_take_the_dearer_side_and_the_condition():
    i = Var("i")
    dear, cheap = A[i] + 1.0 + A[i], A[i] * 2.0
    cond = i < 3
    assert estimate_flops(BufferStore(C, b.select(cond, cheap, dear), (i,))) == 2
    assert estimate_flops(BufferStore(C, b.if_then_else(cond, dear, cheap), (i,))) == 2
    both = IfThenElse(cond, BufferStore(C, cheap, (i,)), b.seq(*[BufferStore(C, dear, (i,))] * 2))
    assert estimate_flops(both) == 4
    assert estimate_flops(IfThenElse(cond, BufferStore(C, cheap, (i,)))) == 1


def test_vectors_count_each_lane():
    lanes = Ramp(b.const(0), b.const(1), 8)
    value = BinOp("*", BufferLoad(A, (lanes,)), Broadcast(b.const(2.0), 8), "float32x8")
    assert estimate_flops(BufferStore(C, value, (lanes,))) == 8


def test_operands_of_intrinsics_and_lets_count():
    from gputune.ir.nodes import Call, Let

    i, x = Var("i"), Var("x", "float32")
    e = Call("exp", (A[i] + 1.0,), "float32")
    assert estimate_flops(BufferStore(C, e, (i,))) == 1
    assert estimate_flops(BufferStore(C, Let(x, A[i] + 1.0, x * x), (i,))) == 2
    assert estimate_flops(LetStmt(x, A[i] + 1.0, BufferStore(C, x * x, (i,)))) == 2


def test_loops_multiply_by_the_upper_bound_of_their_extent():
    def inner(i):
        return loop(i // 2 + 1, lambda j: BufferStore(C, C[j] + 1.0, (j,)))

    assert estimate_flops(loop(8, inner)) == 8 * 4
    tail = loop(
        8, lambda i: loop(b.minimum(4, 30 - i * 4), lambda j: BufferStore(C, C[j] + 1.0, (j,)))
    )
    assert estimate_flops(tail) == 8 * 4
    assert estimate_flops(loop(0, lambda i: BufferStore(C, C[i] + 1.0, (i,)))) == 0


def test_an_unbounded_loop_is_refused_with_a_way_out():
    n = Var("n")
    body = For(Var("k"), b.const(0), n, "serial", BufferStore(C, C[0] + 1.0, (b.const(0),)))
    with pytest.raises(CheckError, match="loop k") as e:
        estimate_flops(body)
    assert "estimated_flops" in str(e.value)


def test_by_block_in_program_order():
    got = [(blk.name, n) for blk, n in flops_by_block(P.matmul_bias(2, 3, 4).body)]
    assert got == [("root", 54), ("C", 48), ("D", 6)]
