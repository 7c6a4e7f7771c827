"""What does each construct of the language mean?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gputune.script
from gputune.errors import ScriptError
from gputune.ir import build
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import (
    Alloc,
    BinOp,
    Block,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    IRModule,
    LetStmt,
    Not,
    PrimFunc,
    Ramp,
    Select,
    Seq,
    Var,
)
from gputune.ir.show import show
from gputune.script import from_source
from gputune.script import ir as I
from gputune.script import tir as T

HEAD = """\
@T.prim_func
def f(A: T.Buffer((8, 8), "float32"), B: T.Buffer((8,), "int32"), \
H: T.Buffer((8,), "float16"), n: T.int32, m: T.int64):
"""


def body(*lines: str) -> Any:
    """The body of a function that consists of `lines`."""
    text = HEAD + "".join(f"    {line}\n" for line in lines)
    func = from_source(text)
    assert isinstance(func, PrimFunc)
    again = from_source(func.script())
    assert structural_equal(func, again)
    return func.body.body


def value(text: str) -> Any:
    """The expression that `text` stands for."""
    s = body(f"T.evaluate({text})")
    assert isinstance(s, Evaluate)
    return s.value


# ----------------------------------------------------------------------------- expressions
@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("n * 1", "n * 1"),
        ("n + 2 * 3", "n + 6"),
        ("m + 1", "m + T.int64(1)"),
        ("m + n", 'm + T.Cast("int64", n)'),
        ("-n", "0 - n"),
        ("~n", "n ^ -1"),
        ("1 - -n", "1 - (0 - n)"),
        ("0 <= n < 4", "0 <= n and n < 4"),
        ("0 < n and n < 4 and n != 2", "0 < n and n < 4 and n != 2"),
        ("not n < 4", "not n < 4"),
        ("~(n < 4)", "not n < 4"),
        ("(n < 4) & (n > 2)", "n < 4 and n > 2"),
        ("n & 3 | n ^ 1", "n & 3 | n ^ 1"),
        ("n << 2 >> 1", "n << 2 >> 1"),
        ("n // 4 % 2", "n // 4 % 2"),
        ("T.floordiv(n, 4)", "n // 4"),
        ("T.floormod(n, 4)", "n % 4"),
        ("T.truncdiv(n, 4)", "T.truncdiv(n, 4)"),
        ("T.truncmod(n, 4)", "T.truncmod(n, 4)"),
        ("T.ceildiv(n, 4)", "(n + 4 - 1) // 4"),
        ("T.ceildiv(10, 4)", "3"),
        ("A[n, n] * 2", "A[n, n] * T.float32(2)"),
        ("H[n] + 0.5", "H[n] + T.float16(0.5)"),
        ("A[0, 0] / 3.0", "A[0, 0] / T.float32(3)"),
        ("n * 0.5", 'T.Cast("float32", n) * T.float32(0.5)'),
        ("A[n, n] if n < 4 else 0", "T.if_then_else(n < 4, A[n, n], T.float32(0))"),
        ("T.if_then_else(n < 4, A[n, n], 0)", "T.if_then_else(n < 4, A[n, n], T.float32(0))"),
        ("T.Select(n < 4, n, 0)", "T.Select(n < 4, n, 0)"),
        ("1 if 2 < 3 else n", "1"),
        ('T.Cast("float32", n)', 'T.Cast("float32", n)'),
        ('T.cast(n, "float32")', 'T.Cast("float32", n)'),
        ('n.astype("float32")', 'T.Cast("float32", n)'),
        ("T.float32(n)", 'T.Cast("float32", n)'),
        ("T.int64(3)", "T.int64(3)"),
        ("T.float16(2)", "T.float16(2)"),
        ('T.float32("inf")', 'T.float32("inf")'),
        ("T.bool(True)", "T.bool(True)"),
        ('T.min_value("int8")', "T.int8(-128)"),
        ('T.max_value("float16")', "T.float16(65504)"),
        ('T.infinity("float32")', 'T.float32("inf")'),
        ("T.exp(A[0, 0])", "T.exp(A[0, 0])"),
        ("T.fabs(A[0, 0])", "T.abs(A[0, 0])"),
        ("T.power(A[0, 0], 2)", "T.pow(A[0, 0], T.float32(2))"),
        ("T.isnan(A[0, 0])", "T.isnan(A[0, 0])"),
        ("T.sqrt(2)", "T.sqrt(T.float32(2))"),
        ("T.min(n, 3, 5)", "T.min(T.min(n, 3), 5)"),
        ("T.max(A[0, 0], 0)", "T.max(A[0, 0], T.float32(0))"),
        ("max(n, 3)", "T.max(n, 3)"),
        ("max(2, 3) + len((1, 2))", "5"),
        ("T.likely(n < 4)", "T.likely(n < 4)"),
        ("T.assume(n < 4)", "T.assume(n < 4)"),
        ('T.call_extern("f", n, dtype="int32")', 'T.call_extern("f", n, dtype="int32")'),
        ('T.call_extern("int32", "f", n)', 'T.call_extern("f", n, dtype="int32")'),
        ('T.reinterpret("float32", n)', 'T.reinterpret("float32", n)'),
        ("T.Let(x * x, where={x: n + 1})", "T.Let(x * x, where={x: n + 1})"),
        ("A.shape[0] + A.shape[1] // 2", "12"),
        ("T.Cast(A.dtype, n)", 'T.Cast("float32", n)'),
        ("T.bitwise_and(n, 3)", "n & 3"),
        ("T.shift_left(n, 3)", "n << 3"),
        ("2 ** 5", "32"),
    ],
)
def test_expressions(text: str, printed: str) -> None:
    assert show(value(text)) == printed


def test_vectors() -> None:
    load = value("A[n, 0:4]")
    assert isinstance(load, BufferLoad)
    assert isinstance(load.indices[1], Ramp)
    assert load.dtype == "float32x4"
    assert show(value("A[n, n * 4:n * 4 + 4]")) == "A[n, T.Ramp(n * 4, 1, 4)]"
    assert show(value("A[n, 0:8:2]")) == "A[n, T.Ramp(0, 2, 4)]"
    masked = value("A.vload([n, T.Ramp(0, 1, 4)], predicate=T.Broadcast(n < 4, 4))")
    assert masked.predicate is not None
    shuffle = value("T.Shuffle([A[0, 0:4], A[1, 0:4]], [0, 4])")
    assert shuffle.dtype == "float32x2"
    store = body("A[0, 0:4] = 0")
    assert isinstance(store.value, Broadcast)


# ----------------------------------------------------------------------------- statements
def test_constants_take_the_dtype_of_the_buffer() -> None:
    assert body("H[0] = 0.0").value.dtype == "float16"
    assert isinstance(body("A[0, 0] = 1").value, FloatImm)
    assert body("H[0] = T.float32(1)").value.dtype == "float16"
    assert body("B[0] = T.int64(1)").value.dtype == "int32"
    assert body("H[n] += 1").value.dtype == "float16"


def test_augmented_assignment() -> None:
    s = body("A[n, 0] *= A[0, 0]")
    assert isinstance(s, BufferStore)
    assert show(s) == "A[n, 0] = A[n, 0] * A[0, 0]"


@pytest.mark.parametrize(
    ("head", "kind", "low", "extent"),
    [
        ("range(4)", "serial", 0, 4),
        ("range(2, 6)", "serial", 2, 4),
        ("range(0, 4, 1)", "serial", 0, 4),
        ("T.serial(4)", "serial", 0, 4),
        ("T.parallel(1, 4)", "parallel", 1, 3),
        ("T.vectorized(4)", "vectorized", 0, 4),
        ("T.unroll(4)", "unrolled", 0, 4),
        ('T.thread_binding(4, thread="threadIdx.x")', "thread_binding", 0, 4),
        ('T.thread_binding(0, 4, "threadIdx.x")', "thread_binding", 0, 4),
    ],
)
def test_loops(head: str, kind: str, low: int, extent: int) -> None:
    s = body(f"for i in {head}:", "    B[i] = 0")
    assert isinstance(s, For)
    assert (s.kind, build.const_int(s.min), build.const_int(s.extent)) == (kind, low, extent)
    assert s.thread == ("threadIdx.x" if kind == "thread_binding" else None)
    assert s.annotations == ()


def test_loop_annotations_keep_their_types() -> None:
    s = body('for i in T.serial(4, annotations={"a": [1, (2.0, None)], "b": True}):', "    pass")
    assert s.annotations == (("a", [1, (2.0, None)]), ("b", True))
    assert type(dict(s.annotations)["b"]) is bool


def test_wide_loops() -> None:
    s = body("for i, j in T.grid(T.int64(4), 2):", "    A[i, j] = 0")
    assert (s.var.dtype, s.body.var.dtype) == ("int64", "int32")


def test_launch_thread_both_ways() -> None:
    a = body('with T.launch_thread("threadIdx.x", 4) as tx:', "    B[tx] = 0", "B[0] = 1")
    assert isinstance(a, Seq)
    b = body('tx = T.launch_thread("threadIdx.x", 4)', "B[tx] = 0", "B[0] = 1")
    assert isinstance(b, For)
    assert isinstance(b.body, Seq)


def test_branches() -> None:
    s = body("if n < 1:", "    B[0] = 0", "elif n < 2:", "    B[0] = 1", "else:", "    B[0] = 2")
    assert isinstance(s, IfThenElse)
    assert isinstance(s.orelse, IfThenElse)
    assert s.orelse.orelse is not None


def test_lets() -> None:
    for line in (
        "x: T.int32 = n + 1",
        "x = T.let(n + 1)",
        "x: T.let[T.int32] = n + 1",
        "x = n + 1",
    ):
        s = body(line, "B[x] = x")
        assert isinstance(s, LetStmt)
        assert s.body.value is s.var
    nested = body("with T.LetStmt(n + 1) as x:", "    B[x] = x", "B[0] = 0")
    assert isinstance(nested, Seq)
    assert isinstance(body('x = T.var("int32")', "with T.let(x, n):", "    B[x] = x"), LetStmt)


def test_python_constants_are_no_statements() -> None:
    s = body("k = 4", "name = f'b{k}'", "for i in range(k * 2):", "    with T.block(name + '_x'):",
             "        vi = T.axis.spatial(8, i)", "        B[vi] = k")  # fmt: skip
    assert isinstance(s, For)
    assert isinstance(s.body, Block)
    assert s.body.name == "b4_x"


def test_allocations_of_lowered_code() -> None:
    flat = body('X = T.decl_buffer((4,), "int32", scope="local")', "X[0] = n", "B[0] = X[0]")
    assert isinstance(flat, Alloc)
    assert isinstance(flat.body, Seq)
    assert isinstance(body("with T.decl_buffer((4,)) as X:", "    X[0] = 0.0", "pass"), Seq)


def test_effects() -> None:
    for line in ("T.evaluate(n)", "T.assume(n < 4)", 'T.call_extern("f", dtype="int32")'):
        assert isinstance(body(line), Evaluate)


# ----------------------------------------------------------------------------- blocks
def block(*lines: str) -> Block:
    s = body(
        "for i, j in T.grid(8, 8):", "    with T.block('C'):", *[f"        {x}" for x in lines]
    )
    out = s.body.body
    assert isinstance(out, Block)
    return out


def test_axes() -> None:
    b = block(
        "vi = T.axis.spatial(8, i)", "vj = T.axis.reduce((0, 8), j)", "vk = T.axis.scan((2, 4), 3)",
        "vl = T.axis.opaque(1, 0)", "vm = T.axis.S(8, i)", "vn = T.axis.R(8, i)", "B[vi] = vj",
    )  # fmt: skip
    kinds = [iv.kind for iv in b.iter_vars]
    assert kinds == ["spatial", "reduce", "scan", "opaque", "spatial", "reduce"]
    assert build.const_int(b.iter_vars[2].dom.extent) == 2


def test_remap_takes_the_domain_of_the_loop() -> None:
    b = block("vi, vj = T.axis.remap('SR', [i, j])", "B[vi] = vj")
    assert [build.const_int(iv.dom.extent) for iv in b.iter_vars] == [8, 8]
    one = block("vi = T.axis.remap('S', [i])", "B[vi] = 0")
    assert len(one.iter_vars) == 1


def test_block_parts() -> None:
    b = block(
        "vi, vj = T.axis.remap('SR', [i, j])", "T.where(i < n)", "T.reads([A[vi, 0:8], B])",
        "T.writes(B[vi])", "T.block_attr({'k': 1})",
        "X = T.alloc_buffer(4, 'int32', scope='local')",
        "V = T.match_buffer(A[vi, 0:8], (8,))", "with T.init():", "    B[vi] = 0", "B[vi] = X[0]",
    )  # fmt: skip
    assert show(b.predicate) == "i < n"
    assert [show(r) for r in b.reads] == ["A[vi, 0:8]", "B[0:8]"]
    assert b.annotations == (("k", 1),)
    assert b.alloc_buffers[0].scope == "local"
    assert b.match_buffers[0].buffer.name == "V"
    assert isinstance(b.init, BufferStore)


def test_regions_are_found_where_they_are_not_given() -> None:
    b = block("vi, vj = T.axis.remap('SR', [i, j])", "B[vi] = B[vj]")
    assert [show(r) for r in b.reads] == ["B[vj]"]
    assert [show(r) for r in b.writes] == ["B[vi]"]
    half = block("vi, vj = T.axis.remap('SR', [i, j])", "T.reads()", "B[vi] = B[vj]")
    assert half.reads == ()
    assert [show(r) for r in half.writes] == ["B[vi]"]


def test_region_extents_cancel() -> None:
    b = block("vi = T.axis.spatial(8, i)", "T.reads(A[vi - 1:vi + 3, vi * 4:vi * 4 + 4])",
              "T.writes()", "pass")  # fmt: skip
    assert [build.const_int(r.extent) for r in b.reads[0].region] == [4, 4]


def test_root_block() -> None:
    implicit = from_source(HEAD + "    B[0] = 1\n")
    explicit = from_source(HEAD + "    with T.block('root'):\n        B[0] = 1\n")
    spelled = from_source(
        HEAD + "    with T.block('root'):\n        T.reads(A)\n        B[0] = 1\n"
    )
    assert isinstance(implicit, PrimFunc)
    assert isinstance(spelled, PrimFunc)
    assert implicit.body.name == "root"
    assert implicit.body.reads == ()
    assert structural_equal(implicit, explicit)
    assert len(spelled.body.reads) == 1


# ----------------------------------------------------------------------------- parameters
def test_match_buffer_of_a_parameter() -> None:
    f = from_source(
        "@T.prim_func\n"
        "def f(a: T.handle, b: T.handle('float32'), n: T.int32):\n"
        "    s = T.int64()\n"
        "    A = T.match_buffer(a, (n, 4), 'float16', strides=(s, 1), elem_offset=n,\n"
        "                       scope='shared', align=32)\n"
        "    B = T.match_buffer(b, [4], dtype='float32', offset_factor=1)\n"
        "    A[0, 0] = 0\n"
    )
    assert isinstance(f, PrimFunc)
    a, b = f.buffers
    assert (a.dtype, a.scope, a.align) == ("float16", "shared", 32)
    assert a.shape[0] is f.params[2]
    assert a.strides is not None
    assert a.strides[0].dtype == "int64"
    assert isinstance(b.elem_offset, Var)


def test_old_buffer_syntax() -> None:
    f = from_source(
        "@T.prim_func\ndef f(A: T.Buffer[(4, 4), 'int8'], B: T.Buffer[8, 'float32'], "
        "C: T.Buffer[(2,)], D: 'T.Buffer((), \"int8\")', n: T.int32):\n    D[()] = 1\n"
    )
    assert isinstance(f, PrimFunc)
    assert [len(b.shape) for b in f.buffers] == [2, 1, 1, 0]
    assert [b.dtype for b in f.buffers] == ["int8", "float32", "float32", "int8"]


def test_global_symbol() -> None:
    assert body("pass") is not None
    named = from_source(HEAD + "    pass\n")
    private = from_source(HEAD.replace("prim_func", "prim_func(private=True)") + "    pass\n")
    assert isinstance(named, PrimFunc)
    assert isinstance(private, PrimFunc)
    assert named.name == "f"
    assert private.attrs == ()


# ----------------------------------------------------------------------------- decorators
def test_captured_values_are_constants() -> None:
    n, dtype, one = 16, "float16", 1
    config = SimpleNamespace(tile=4)
    shapes = {"x": (n, np.int64(8))}

    @T.prim_func
    def f(A: T.Buffer(shapes["x"], dtype), B: T.Buffer((n,), np.float32)):
        for i in range(n // config.tile):
            with T.block("B"):
                vi = T.axis.spatial(n // config.tile, i * one)
                if one == 1:
                    B[vi] = T.Cast("float32", A[vi * one, 0])
                else:
                    B[vi] = undefined_name  # noqa: F821

    assert [b.dtype for b in f.buffers] == ["float16", "float32"]
    loop: Any = f.body.body
    assert build.const_int(loop.extent) == 4
    assert loop.body.iter_values[0] is loop.var  # i * one folds, as one is captured
    assert structural_equal(from_source(f.script()), f)


def test_captured_buffers_functions_and_expressions() -> None:
    outside = Buffer("O", (IntImm(4),))
    size = T.int64(4)

    @T.prim_func
    def f(A: T.Buffer((4,), "float32")):
        for i in range(size):
            A[i] = outside[0]

    loop: Any = f.body.body
    assert loop.var.dtype == "int64"
    assert loop.body.value.buffer is outside


def test_names_used_only_in_annotations_are_found() -> None:
    extent = 12

    @T.prim_func
    def f(A: T.Buffer((extent,), "float32")):
        A[0] = 0.0

    assert build.const_int(f.buffers[0].shape[0]) == 12


def test_aliases_of_words() -> None:
    grid, block, f32 = T.grid, T.block, T.float32

    @T.prim_func
    def f(A: T.Buffer((4, 4), "float32")):
        for i, j in grid(4, 4):
            with block("A"):
                vi, vj = T.axis.remap("SS", [i, j])
                A[vi, vj] = f32(0)

    loop: Any = f.body.body
    assert isinstance(loop.body.body, Block)


def test_options_of_the_decorator() -> None:
    @T.prim_func(private=True, check_well_formed=False, s_tir=True)
    def f(A: T.Buffer((4,), "float32")):
        A[0] = 0.0

    assert f.attrs == ()


def test_modules() -> None:
    n = 4

    @gputune.script.ir_module
    class Module:
        I.module_attrs({"a": 1})

        @T.prim_func
        def main(A: T.Buffer((n,), "float32")):
            A[0] = 0.0

        @T.prim_func(name="odd name")
        def other(A: T.Buffer((n,), "float32")):
            T.func_attr({"x": 1})
            A[0] = 0.0

    module: Any = Module
    assert isinstance(module, IRModule)
    assert list(module.functions) == ["main", "odd name"]
    assert module.attrs == (("a", 1),)
    assert structural_equal(from_source(module.script()), module)


def test_body_is_never_run() -> None:
    ran = []

    @T.prim_func
    def f(A: T.Buffer((4,), "float32")):
        """Docstrings are allowed."""
        A[0] = 0.0

    ran_append = ran.append
    with pytest.raises(ScriptError, match="cannot call 'ran_append'"):

        @T.prim_func
        def g(A: T.Buffer((4,), "float32")):
            ran_append(1)
            A[0] = 0.0

    assert not ran
    assert isinstance(f.body.body, BufferStore)


def test_text_with_imports_and_several_functions() -> None:
    one = HEAD.replace("def f", "def one") + "    pass\n"
    text = "from gputune.script import tir as T\n" + one + HEAD + "    B[0] = 1\n"
    assert isinstance(from_source(text, "f"), PrimFunc)
    with pytest.raises(ScriptError, match="the text holds one, f"):
        from_source(text)
    with pytest.raises(ScriptError, match="no function or module named 'g'"):
        from_source(text, "g")


# ----------------------------------------------------------------------------- outside a script
def test_words_outside_a_script_are_refused() -> None:
    for word in (T.grid, T.block, T.axis.spatial, T.alloc_buffer, T.reads):
        with pytest.raises(ScriptError, match="cannot be called outside a script"):
            word(4)


def test_constants_and_functions_outside_a_script() -> None:
    x = Var("x", "float32")
    assert show(T.int64(4)) == "T.int64(4)"
    assert show(T.float32("inf")) == 'T.float32("inf")'
    assert show(T.min_value("int8")) == "T.int8(-128)"
    assert isinstance(T.exp(x), Call)
    assert isinstance(T.Select(x < 1.0, x, 0.0), Select)
    assert isinstance(T.cast(x, "int32"), Cast)
    assert isinstance(T.Cast("int32", x), Cast)
    assert isinstance(T.max(x, 0.0), BinOp)
    assert isinstance(T.Not(x < 1.0), Not)
    assert T.float32x4(1.0).dtype == "float32x4"
    assert T.Buffer((4, 4), "int8").dtype == "int8"
    assert T.Buffer[(4, 4), "int8"].dtype == "int8"
    assert isinstance(T.int32(), Var)
    assert "exp" in dir(T)
    with pytest.raises(AttributeError, match="T has no 'nothing'"):
        _ = T.nothing
