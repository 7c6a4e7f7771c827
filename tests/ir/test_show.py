"""What does a program look like? Golden texts of every statement and of the pictures."""

from __future__ import annotations

import pytest

from gputune.ir import build
from gputune.ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferRegion,
    Call,
    Cast,
    Expr,
    FloatImm,
    For,
    IntImm,
    IRModule,
    Let,
    Not,
    PrimFunc,
    Range,
    Seq,
    Stmt,
    Var,
)
from gputune.ir.show import draw, html, script, show
from gputune.script import from_source

X, J, K = Var("i"), Var("j"), Var("k")
N = Var("n", "int64")
A = Buffer("A", (IntImm(8), IntImm(8)))


def int_(v: int, dtype: str = "int32") -> IntImm:
    return IntImm(v, dtype)


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (X * 4 + J, "i * 4 + j"),
        (X * (J + 4), "i * (j + 4)"),
        (X - (J - K), "i - (j - k)"),
        (X - J - K, "i - j - k"),
        (X // 4 % 2, "i // 4 % 2"),
        (X // (J % 2), "i // (j % 2)"),
        ((X + J) // 2, "(i + j) // 2"),
        (X + -1, "i + -1"),
        (build.neg(X), "0 - i"),
        ((X < J) & (J < K), "i < j and j < k"),
        ((X < J) & ((J < K) | (K < X)), "i < j and (j < k or k < i)"),
        (build.eq(X < J, J < K), "(i < j) == (j < k)"),
        (Not(X < J), "not i < j"),
        (build.eq(Not(X < J), J < K), "(not i < j) == (j < k)"),
        (X << 2 | J & 3, "i << 2 | j & 3"),
        (N + 1, "n + T.int64(1)"),
        (BinOp("+", int_(1), int_(2), "int32"), "T.int32(1) + 2"),
        (BinOp("*", X, int_(1), "int32"), "i * 1"),
        (build.div(X, J), "T.truncdiv(i, j)"),
        (build.minimum(X, 4), "T.min(i, 4)"),
        (Cast("float32", X), 'T.Cast("float32", i)'),
        (FloatImm(0.0), "T.float32(0)"),
        (FloatImm(-0.0), "T.float32(-0.0)"),
        (FloatImm(0.1, "float16"), "T.float16(0.1)"),
        (FloatImm(float("-inf")), 'T.float32("-inf")'),
        (build.TRUE, "T.bool(True)"),
        (int_(2**31), "T.int32(2147483648)"),
        (A[X, J], "A[i, j]"),
        (Call("exp", (A[X, J],), "float32"), "T.exp(A[i, j])"),
        (Call("mma", (X,), "handle"), 'T.call_intrin("handle", "mma", i)'),
        (build.select(X < J, X, J), "T.Select(i < j, i, j)"),
        (Let(K, X + 1, K * K), "T.Let(k * k, where={k: i + 1})"),
        (build.broadcast(X, 4), "T.Broadcast(i, 4)"),
    ],
)
def test_expressions(e: Expr, text: str) -> None:
    assert show(e) == text
    assert str(e) == text


def test_long_sum_is_linear_and_needs_no_recursion() -> None:
    e: Expr = X
    for _ in range(5000):
        e = e + J
    assert show(e).count("j") == 5000


def test_regions() -> None:
    def region(*ranges: Range) -> str:
        return show(BufferRegion(A, ranges))

    assert region(Range(X, int_(1)), Range(int_(0), int_(4))) == "A[i, 0:4]"
    assert region(Range(X * 2, int_(2)), Range(int_(2), J)) == "A[i * 2:i * 2 + 2, 2:2 + j]"
    mixed = region(Range(X, int_(1, "int64")), Range(int_(0), int_(4)))
    assert mixed == "A[T.Range(i, T.int64(1)), 0:4]"


def test_names_are_made_legal_and_unique() -> None:
    odd = [Var(n) for n in ("for", "T", "x y", "9", "i", "i")]
    loops: Stmt = build.seq(For(Var("é"), int_(0), int_(2), "parallel", pass_()))
    for v in reversed(odd):
        loops = For(v, int_(0), int_(2), "serial", loops)
    text = show(loops).splitlines()
    assert text[0] == "for for_, T_, x_y, v9, i, i_1 in T.grid(2, 2, 2, 2, 2, 2):"
    assert text[1] == "    for _ in T.parallel(2):"


def pass_() -> Stmt:
    from gputune.ir.nodes import Evaluate

    return Evaluate(int_(0))


def test_siblings_reuse_names() -> None:
    a, b = Var("i"), Var("i")
    two = Seq(
        (For(a, int_(0), int_(2), "serial", pass_()), For(b, int_(0), int_(3), "serial", pass_()))
    )
    assert show(two).splitlines()[::2] == ["for i in range(2):", "for i in range(3):"]


def test_dependent_extents_do_not_merge_into_a_grid() -> None:
    nest = For(X, int_(0), int_(8), "serial", For(J, int_(0), X, "serial", pass_()))
    assert show(nest).splitlines()[:2] == ["for i in range(8):", "    for j in range(i):"]


LOOPS = [
    (For(X, int_(0), int_(8), "serial", pass_()), "range(8)"),
    (For(X, int_(2), int_(8), "serial", pass_()), "T.serial(2, 10)"),
    (For(X, J, int_(8), "serial", pass_()), "T.serial(j, j + 8)"),
    (For(N, int_(0, "int64"), int_(4, "int64"), "serial", pass_()), "range(T.int64(4))"),
    (For(X, int_(0), int_(8), "parallel", pass_()), "T.parallel(8)"),
    (For(X, int_(0), int_(8), "unrolled", pass_()), "T.unroll(8)"),
    (For(X, int_(0), int_(8), "vectorized", pass_()), "T.vectorized(8)"),
    (
        For(X, int_(0), int_(8), "thread_binding", pass_(), "threadIdx.x"),
        'T.thread_binding(8, thread="threadIdx.x")',
    ),
    (
        For(X, int_(0), int_(8), "serial", pass_(), None, (("a", (1, "x", None, [2.5])),)),
        'T.serial(8, annotations={"a": (1, "x", None, [2.5])})',
    ),
]


@pytest.mark.parametrize(("loop", "text"), LOOPS)
def test_loops(loop: For, text: str) -> None:
    assert show(loop).splitlines()[0].split(" in ")[1] == text + ":"


GOLDEN = """\
@T.prim_func
def mm(A: T.Buffer((128, 64), "float32"), c: T.handle, n: T.int32):
    T.func_attr({"global_symbol": "mm", "tir.noalias": True})
    m = T.int64()
    C = T.match_buffer(c, (m, 64), "float16", scope="shared", strides=(64, 1), align=64)
    # with T.block("root"):
    T.block_attr({"unroll": 16})
    C_local = T.alloc_buffer((128, 64), scope="local")
    for i, j in T.grid(128, 64):
        with T.block("C"):
            vi, vj = T.axis.remap("SR", [i, j])
            T.where(i * 2 < n)
            T.reads(A[vi, 0:64])
            T.writes(C_local[vi, vj])
            T.block_attr({"kind": "x"})
            A_1 = T.match_buffer(A[vi, 0:64], (64,), "float32")
            with T.init():
                C_local[vi, vj] = T.float32(0)
            C_local[vi, vj] = C_local[vi, vj] + A_1[vj]
    if n < 4:
        x: T.int32 = n * 2
        T.evaluate(x)
    elif n < 8:
        with T.LetStmt(n) as y:
            T.evaluate(y)
        C.vstore([0, T.Ramp(0, 1, 4)], C[1, T.Ramp(0, 1, 4)], predicate=T.Broadcast(n < 2, 4))
    else:
        B = T.decl_buffer((4,), "int32")
        B[0] = 5
"""


def test_golden_program() -> None:
    func = from_source(GOLDEN)
    assert script(func) == GOLDEN
    assert str(func) == GOLDEN


def test_module_header() -> None:
    func = from_source(GOLDEN)
    assert isinstance(func, PrimFunc)
    lines = IRModule({"mm": func}).script().splitlines()
    assert lines[:3] == ["@I.ir_module", "class Module:", "    @T.prim_func"]
    assert IRModule().script() == "@I.ir_module\nclass Module:\n    pass\n"


def test_annotation_without_script_form_is_refused_but_drawn() -> None:
    func = from_source(GOLDEN)
    assert isinstance(func, PrimFunc)
    func = func.with_attr("thing", object())
    with pytest.raises(TypeError, match="annotation 'thing' holds a object"):
        func.script()
    assert "<object>" in draw(func, ())


def two_loops() -> tuple[PrimFunc, For, For, Block]:
    func = from_source(GOLDEN)
    assert isinstance(func, PrimFunc)
    assert isinstance(func.body.body, Seq)
    i = func.body.body.items[0]
    assert isinstance(i, For)
    j = i.body
    assert isinstance(j, For)
    block = j.body
    assert isinstance(block, Block)
    return func, i, j, block


def test_draw_marks_a_loop_by_node_or_variable() -> None:
    func, i, j, _ = two_loops()
    plain = draw(func, ())
    assert all(line.startswith("  ") for line in plain.splitlines())
    assert plain.replace("\n  ", "\n")[2:] + "\n" == GOLDEN
    for mark in (j, j.var):
        marked = [x for x in draw(func, (mark,)).splitlines() if x.startswith(">")]
        assert marked == [">         for j in range(64):"]
    marked = [x for x in draw(func, (i, j.var)).splitlines() if x.startswith(">")]
    assert marked == [">     for i in range(128):", ">         for j in range(64):"]


def test_draw_marks_blocks_and_statements() -> None:
    func, _, _, block = two_loops()
    for mark in (block, block.key):
        picture = draw(func, (mark,), note="this one")
        assert '>         with T.block("C"):  # this one' in picture
        assert picture.count("this one") == 1
    assert '>     # with T.block("root"):' in draw(func, (func.body.key,))
    assert ">             C_local[vi, vj] = C_local[vi, vj] + A_1[vj]" in draw(func, (block.body,))


def test_html_is_escaped() -> None:
    text = html('x < y  # "<b>"\nfor s in "<script>": 1')
    assert text.startswith("<pre>")
    assert text.endswith("</pre>")
    assert "<b>" not in text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert '<span style="color:#d73a49">for</span>' in text
    func, *_ = two_loops()
    assert func._repr_html_() == html(GOLDEN)


def test_show_refuses_what_is_no_node() -> None:
    with pytest.raises(TypeError, match="cannot show a dict"):
        show({})
