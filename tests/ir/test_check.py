from dataclasses import replace

import ir_programs as P
import pytest

from gputune.errors import CheckError
from gputune.ir import build as b
from gputune.ir.check import THREAD_AXES, check
from gputune.ir.nodes import (
    Alloc,
    BinOp,
    Block,
    BlockKey,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    IRModule,
    IterVar,
    Let,
    LetStmt,
    MatchBuffer,
    Not,
    PrimFunc,
    Ramp,
    Range,
    Select,
    Seq,
    Shuffle,
    StringImm,
    Var,
)

A, B = P.buf("A", (8,)), P.buf("B", (8,))
K, N = P.buf("K", (8,), "int32"), Var("n")
i, x = Var("i"), Var("x")
zero, one = b.const(0), b.const(1)
V4 = Ramp(zero, one, 4)


def store(value, index=zero, buffer=A, **rest):
    return BufferStore(buffer, value, (index,), **rest)


def loop(body, var=i, n=8, **rest):
    return For(
        var, b.const(0, var.dtype), b.const(n, var.dtype), rest.pop("kind", "serial"), body, **rest
    )


def func(body, *allocs):
    return P.func((A, B, K, N), body, allocs)


def blk(body=None, **rest):
    """A block with one iterator in a loop."""
    v, loop_var = Var("v"), Var("l")
    iters = (IterVar(v, Range(zero, b.const(8)), "spatial"),)
    make = body or (lambda v, outer: store(b.const(0.0), v))
    base = Block(
        BlockKey(), "blk", iters, (loop_var,), b.TRUE, (), (P.point(A, v),), make(v, loop_var)
    )
    return loop(replace(base, **rest), loop_var)


def inner(stmt, f):
    """`stmt` with its block changed."""
    return replace(stmt, body=f(stmt.body))


def expr_program(e):
    return func(loop(Evaluate(e)))


GOOD = {
    "matmul": P.matmul(),
    "bias": P.matmul_bias(2, 3, 4),
    "store": func(loop(store(A[i] + 1.0, i))),
    "scalar": func(store(N.astype("float32"))),
    "thread": func(loop(store(A[i], i), kind="thread_binding", thread="threadIdx.x")),
    "vector": func(store(Broadcast(b.const(1.0), 4), V4)),
    "mask": func(
        store(
            Broadcast(b.const(1.0), 4),
            V4,
            predicate=BinOp("<", V4, Broadcast(b.const(2), 4), "boolx4"),
        )
    ),
    "scalar mask": func(store(Broadcast(b.const(1.0), 4), V4, predicate=b.TRUE)),
    "shuffle": func(store(Shuffle((BufferLoad(A, (V4,)), A[0]), (4,)))),
    "opaque block sees loops": func(
        loop(Block(BlockKey(), "o", (), (), b.TRUE, (), (), store(b.const(0.0), i)))
    ),
    "block": func(blk()),
    "local": func(blk(lambda v, outer: Alloc(T := P.buf("T", (1,)), store(T[0], v)))),
    "let": func(LetStmt(x, one, store(Let(y := Var("y"), x + 1, y + x).astype("float32")))),
    "shared let": func(Evaluate((e := Let(y := Var("y"), N, y + 1)) + e)),
    "calls": expr_program(
        b.select(
            Call("likely", (Call("isnan", (A[i],), "bool"),), "bool"),
            Call("exp", (A[i],), "float32"),
            Call("call_extern", (StringImm("f"), A[i]), "float32"),
        )
    ),
    "device intrinsic": expr_program(Call("mma_sync", (A[i], K[i]), "handle")),
}


@pytest.mark.parametrize("name", GOOD)
def test_well_formed(name):
    assert check(GOOD[name]) is None
    assert check(IRModule({"main": GOOD[name]})) is None


def test_symbolic_sizes_and_views():
    n, m, s = Var("n"), Var("m"), Var("s")
    X = Buffer("X", (n, n * m, m))
    view = Buffer("V", (one, m), strides=(s, one), elem_offset=Var("off"))
    region = BufferRegion(X, (Range(zero, one), Range(zero, one), Range(zero, m)))
    body = Block(
        BlockKey(), "b", (), (), b.TRUE, (region,), (), Evaluate(view[0, 0]),
        match_buffers=(MatchBuffer(view, region),),
    )  # fmt: skip
    check(P.func((X,), body))


BAD = {
    # scope
    "undefined variable": (func(store(x.astype("float32"))), "variable x is used outside"),
    "after the loop": (
        func(b.seq(loop(store(A[i], i)), store(A[i], i))),
        "variable i is used outside",
    ),
    "let does not leak": (
        func(b.seq(Evaluate(Let(x, N, x)), Evaluate(x))),
        "variable x is used outside",
    ),
    "undefined buffer": (
        func(store(b.const(0.0), buffer=P.buf("T", (1,)))),
        "buffer T is used, but is neither a parameter nor allocated",
    ),
    "after the allocation": (
        func(b.seq(Alloc(T := P.buf("T", (1,)), store(T[0])), store(T[0]))),
        "buffer T is used",
    ),
    "outer loop": (
        func(blk(lambda v, outer: store(b.const(0.0), outer))),
        "block blk uses the loop variable l of a loop around it",
    ),
    "outer loop, deeper": (
        func(
            blk(
                lambda v, outer: Block(
                    BlockKey(), "o", (), (), b.TRUE, (), (), store(b.const(0.0), outer)
                )
            )
        ),
        "block blk uses the loop variable l",
    ),
    "outer loop in a region": (
        func(inner(s := blk(), lambda k: replace(k, reads=(P.point(A, s.var),)))),
        "block blk uses the loop variable l",
    ),
    "iterator in its own binding": (
        func(inner(blk(), lambda k: replace(k, iter_values=(k.iter_vars[0].var,)))),
        "variable v is used outside",
    ),
    "iterator in the predicate": (
        func(inner(blk(), lambda k: replace(k, predicate=k.iter_vars[0].var < 3))),
        "variable v is used outside",
    ),
    "loop twice": (
        func(b.seq(loop(store(A[i], i)), loop(store(A[i], i)))),
        "loop variable i is defined twice",
    ),
    "block twice": (
        func(b.seq(s := blk(), inner(blk(), lambda k: replace(k, key=s.body.key)))),
        "block blk occurs twice",
    ),
    "buffer twice": (func(store(A[0]), A), "buffer A is defined twice"),
    "let twice": (func(Evaluate(Let(x, N, Let(x, N, x)))), "variable x is defined twice"),
    "parameter as loop": (func(loop(store(A[0]), N)), "loop variable n is defined twice"),
    # counts
    "store indices": (
        func(BufferStore(A, b.const(0.0), (zero, zero))),
        "buffer A has 1 dimensions, got 2 indices",
    ),
    "load indices": (expr_program(BufferLoad(A, ())), "buffer A has 1 dimensions, got 0 indices"),
    "bindings": (
        func(inner(blk(), lambda k: replace(k, iter_values=()))),
        "block blk has 1 iterators, but 0 bindings",
    ),
    "region": (
        func(inner(blk(), lambda k: replace(k, reads=(BufferRegion(A, ()),)))),
        "the read region of A has 0 ranges, the buffer has 1 dimensions",
    ),
    "written region": (
        func(inner(blk(), lambda k: replace(k, writes=(P.point(A, 0, 0),)))),
        "the write region of A has 2 ranges",
    ),
    "strides": (
        func(store(A[0]), P.buf("T", (2, 2), strides=(one,))),
        "buffer T has 2 dimensions and 1 strides",
    ),
    # dtypes
    "store dtype": (func(store(N)), "the value stored to A has dtype int32, expected float32"),
    "store lanes": (
        func(store(b.const(0.0), V4)),
        "the value stored to A has dtype float32, expected float32x4",
    ),
    "sides": (
        expr_program(BinOp("+", A[0], N, "float32")),
        r"the sides of .* have dtypes float32 and int32",
    ),
    "result": (
        expr_program(BinOp("<", N, N, "int32")),
        "the result of '<' has dtype int32, expected bool",
    ),
    "and": (expr_program(BinOp("and", N, N, "int32")), "'and' is not defined on int32"),
    "bool sum": (
        expr_program(BinOp("+", b.TRUE, b.TRUE, "bool")),
        r"'\+' is not defined on bool",
    ),
    "floordiv": (
        expr_program(BinOp("//", A[0], A[0], "float32")),
        "'//' is not defined on float32",
    ),
    "operator": (expr_program(BinOp("**", N, N, "int32")), r"there is no operator '\*\*'"),
    "handles": (
        expr_program(BinOp("==", StringImm("a"), StringImm("a"), "bool")),
        "not defined on handles",
    ),
    "not": (expr_program(Not(N)), "the operand of not must be bool, got n of dtype int32"),
    "if": (
        func(IfThenElse(N, store(A[0]))),
        "the condition of an if must be bool, got n of dtype int32",
    ),
    "select": (expr_program(Select(N, N, N)), "the condition of a select must be bool"),
    "select sides": (
        expr_program(Select(b.TRUE, N, A[0])),
        "the second side of a select has dtype float32, expected int32",
    ),
    "predicate": (
        func(inner(blk(), lambda k: replace(k, predicate=one))),
        "the predicate of block blk must be bool",
    ),
    "store mask": (
        func(store(Broadcast(b.const(1.0), 4), V4, predicate=Broadcast(b.TRUE, 8))),
        "the predicate of a store must be bool",
    ),
    "index": (expr_program(A[i] + BufferLoad(A, (A[0],))), "index 0 of A has dtype float32"),
    "loop dtype": (
        func(For(i, zero, b.const(8, "int64"), "serial", store(A[0]))),
        "the extent of loop i has dtype int64, expected int32",
    ),
    "float extent": (
        func(For(i, zero, b.const(8.0), "serial", store(A[0]))),
        "the extent of loop i must be an integer",
    ),
    "binding dtype": (
        func(inner(blk(), lambda k: replace(k, iter_values=(b.const(0, "int64"),)))),
        "the binding of iterator v of block blk has dtype int64, expected int32",
    ),
    "let dtype": (
        func(LetStmt(x, A[0], Evaluate(x))),
        "the value of x has dtype float32, expected int32",
    ),
    "buffer dtype": (
        func(store(A[0]), P.buf("T", (1,), "float31")),
        "buffer T has dtype 'float31'; known are: float64",
    ),
    "float size": (
        func(store(A[0]), Buffer("T", (b.const(1.0),))),
        "a size of buffer T must be an integer",
    ),
    "constant range": (expr_program(IntImm(300, "int8")), "int8 cannot hold the constant 300"),
    "bool constant": (expr_program(IntImm(2, "bool")), "bool cannot hold the constant 2"),
    "constant dtype": (expr_program(IntImm(1, "float32")), "integer constant 1 has dtype float32"),
    "float constant": (expr_program(FloatImm(1.0, "int32")), "constant 1.0 has dtype int32"),
    "cast": (expr_program(Cast("int33", N)), "a cast of int32 to int33"),
    "cast lanes": (expr_program(Cast("float32x4", N)), "changes the lanes"),
    "ramp base": (expr_program(Ramp(A[0], one, 4)), "the base of a ramp must be an integer"),
    "ramp lanes": (expr_program(Ramp(zero, one, 1)), "a ramp has 1 lanes"),
    "broadcast": (expr_program(Broadcast(V4, 4)), "which is a vector"),
    "shuffle": (expr_program(Shuffle((V4,), (4,))), "a shuffle picks element 4 of 4"),
    "empty shuffle": (expr_program(Shuffle((), (0,))), "a shuffle of nothing"),
    "two vectors": (
        expr_program(BufferLoad(T := P.buf("T", (8, 8)), (V4, Ramp(zero, one, 8)))),
        "buffer T is used",
    ),
    "math arity": (expr_program(Call("exp", (), "float32")), "exp takes 1 arguments, got 0"),
    "math dtype": (
        expr_program(Call("exp", (N,), "int32")),
        "exp is not defined on int32",
    ),
    "math result": (
        expr_program(Call("isnan", (A[0],), "float32")),
        "the result of isnan has dtype float32, expected bool",
    ),
    "if_then_else": (
        expr_program(Call("if_then_else", (b.TRUE, N, A[0]), "int32")),
        "a side of if_then_else has dtype float32",
    ),
    "assume": (expr_program(Call("assume", (N,), "bool")), "the argument of assume must be bool"),
    "extern": (expr_program(Call("call_extern", (N,), "int32")), "needs the name of a function"),
    "reinterpret": (
        expr_program(Call("reinterpret", (N,), "int64")),
        "a reinterpret of int32 as int64: the sizes differ",
    ),
    # form
    "short sequence": (func(Seq((store(A[0]),))), "a sequence has 1 statements"),
    "nested sequence": (
        func(Seq((store(A[0]), Seq((store(A[0]), store(A[0])))))),
        "a sequence directly holds another one",
    ),
    "no thread": (
        func(loop(store(A[0]), kind="thread_binding")),
        "loop i is bound to None, which is not a thread axis",
    ),
    "wrong thread": (
        func(loop(store(A[0]), kind="thread_binding", thread="threadIdx.w")),
        "loop i is bound to 'threadIdx.w'",
    ),
    "thread on a serial loop": (
        func(loop(store(A[0]), thread="threadIdx.x")),
        "loop i is serial, but names the axis 'threadIdx.x'",
    ),
    "loop kind": (func(loop(store(A[0]), kind="fast")), "loop i has the unknown kind 'fast'"),
    "iterator kind": (
        func(
            inner(blk(), lambda k: replace(k, iter_vars=(replace(k.iter_vars[0], kind="x"),)))
        ),
        "iterator v of block blk has the unknown kind 'x'",
    ),
    "init": (
        func(inner(blk(), lambda k: replace(k, init=store(b.const(0.0))))),
        "block blk has an init, but no reduce iterator",
    ),
    "annotation twice": (
        func(loop(store(A[0]), annotations=(("a", 1), ("a", 2)))),
        "loop i has the annotation 'a' twice",
    ),
    "annotation key": (
        func(inner(blk(), lambda k: replace(k, annotations=((1, 1),)))),
        "block blk has an annotation under 1, not a string",
    ),
    "view shape": (
        func(
            inner(
                blk(),
                lambda k: replace(
                    k, match_buffers=(MatchBuffer(P.buf("V", (2,)), P.point(A, 0)),)
                ),
            )
        ),
        r"view V of shape \(2\) does not fit its region with extents \(1\) of A",
    ),
    "view dtype": (
        func(
            inner(
                blk(),
                lambda k: replace(
                    k, match_buffers=(MatchBuffer(P.buf("V", (1,), "int8"), P.point(A, 0)),)
                ),
            )
        ),
        "view V has dtype int8, not float32",
    ),
    # functions
    "root": (
        PrimFunc((), (), inner(blk(), lambda k: k).body),
        "the body of a function must be a block without iterators",
    ),
    "handle without a buffer": (
        PrimFunc((Var("h", "handle"),), (), b.root_block(Evaluate(zero))),
        "parameter h of dtype handle has no buffer",
    ),
    "number with a buffer": (
        PrimFunc((p := Var("p"),), ((p, A),), b.root_block(Evaluate(zero))),
        "parameter p of dtype int32 has a buffer",
    ),
    "buffer of no parameter": (
        PrimFunc((), ((Var("h", "handle"), A),), b.root_block(Evaluate(zero))),
        "buffer A belongs to h, not a parameter",
    ),
    "parameter twice": (
        PrimFunc((N, N), (), b.root_block(Evaluate(zero))),
        "parameter n is defined twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    program, message = BAD[name]
    with pytest.raises(CheckError, match=message) as e:
        check(program)
    assert e.value.code
    with pytest.raises(CheckError, match=message):
        check(IRModule({"main": program}))


def test_the_error_draws_the_program_with_the_place_marked():
    program = func(b.seq(loop(store(A[i], i)), store(A[i] + 7.0, one)))
    with pytest.raises(CheckError) as e:
        check(program)
    text = str(e.value)
    assert text.startswith("variable i is used outside what defines it, in block root\n")
    marked = [line for line in text.splitlines() if line.startswith("> ")]
    assert len(marked) == 1
    assert "7" in marked[0]


def test_what_cannot_be_drawn_is_still_reported():
    with pytest.raises(CheckError) as e:
        check(BAD["operator"][0])
    assert "there is no operator '**'" in str(e.value)
    assert "(the program cannot be drawn: " in str(e.value)


def test_thread_axes():
    for axis in THREAD_AXES:
        check(func(loop(store(A[0]), kind="thread_binding", thread=axis)))
    assert len(THREAD_AXES) == 10


def test_vector_indices_of_different_lengths():
    T = P.buf("T", (8, 8))
    e = BufferLoad(T, (V4, Ramp(zero, one, 8)))
    with pytest.raises(CheckError, match=r"the indices of T have \[4, 8\] lanes"):
        check(P.func((T,), Evaluate(e)))


def test_function_names_of_a_module():
    with pytest.raises(CheckError, match="a function under ''"):
        check(IRModule({"": P.matmul()}))
