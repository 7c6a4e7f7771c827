import subprocess
import sys
from dataclasses import dataclass, replace

import ir_programs as P
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.ir import build as b
from gputune.ir import walk
from gputune.ir.equal import find_anchor_block, structural_equal, structural_hash
from gputune.ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferStore,
    Cast,
    Evaluate,
    FloatImm,
    For,
    IntImm,
    IRModule,
    Let,
    LetStmt,
    MatchBuffer,
    PrimFunc,
    Ramp,
    Range,
    Select,
    Shuffle,
    StringImm,
    Var,
)

MODES = ["structural", "ignore-tensor", "ignore-ndarray", "anchor-block"]


def renamed(func: PrimFunc, suffix="_r") -> PrimFunc:
    """An alpha-renamed copy that shares no variable, buffer or block with `func`."""
    table = {}
    for _, buf in func.buffer_map:
        table[buf] = replace(buf, name=buf.name + suffix)
    for blk in walk.blocks(func.body):
        for buf in blk.alloc_buffers:
            table[buf] = replace(buf, name=buf.name + suffix)
    params = {p: Var(p.name + suffix, p.dtype) for p in func.params}
    body = walk.replace_buffers(walk.rename_blocks(func.body), table)
    body = walk.substitute_stmt(body, params)

    def rename(s):
        out = walk.map_stmt(s, lambda e: e, rename)
        return replace(out, name=out.name + suffix) if type(out) is Block else out

    return PrimFunc(
        tuple(params[p] for p in func.params),
        tuple((params[p], table[buf]) for p, buf in func.buffer_map),
        rename(body),
        func.attrs,
    )


def agree(a, b_, mode="structural"):
    """Equality; and that the hash says the same."""
    same = structural_equal(a, b_, mode)
    assert structural_equal(b_, a, mode) == same
    assert (structural_hash(a, mode) == structural_hash(b_, mode)) == same
    return same


programs = st.one_of(
    st.builds(
        P.matmul,
        st.integers(1, 4),
        st.integers(1, 4),
        st.integers(1, 4),
        st.sampled_from(["float32", "float16", "int8"]),
        st.sampled_from(["", "float32", "int32"]),
    ),
    st.builds(P.matmul_bias, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
)


@given(programs, st.sampled_from(MODES))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_renamed_copies_are_equal(func, mode):
    copy = renamed(func)
    assert copy.body is not func.body
    assert agree(func, copy, mode)


def test_different_arguments_give_different_programs():
    made = {}
    for n in (1, 2, 3):
        for m in (1, 2, 3):
            for dtype in ("float32", "float16"):
                made[n, m, dtype] = structural_hash(P.matmul(n, m, 2, dtype))
    assert len(set(made.values())) == len(made)


# ----------------------------------------------------------------------------- mutations
def edit(func, f):
    """`func` with the first statement for which `f` gives a replacement replaced."""
    done = []

    def go(s):
        new = None if done else f(s)
        if new is not None:
            done.append(s)
            return new
        return walk.map_stmt(s, lambda e: e, go)

    body = go(func.body)
    assert done, "the mutation found nothing to change"
    return PrimFunc(func.params, func.buffer_map, body, func.attrs)


def on(cls, f, when=lambda s: True):
    return lambda func: edit(func, lambda s: f(s) if type(s) is cls and when(s) else None)


def update(s):
    return type(s) is Block and s.iter_vars


MUTATIONS = {
    "loop kind": on(For, lambda s: replace(s, kind="parallel")),
    "thread": on(For, lambda s: replace(s, kind="thread_binding", thread="threadIdx.x")),
    "extent": on(For, lambda s: replace(s, extent=b.const(9))),
    "start": on(For, lambda s: replace(s, min=b.const(1))),
    "loop dtype": on(For, lambda s: replace(s, var=Var("i", "int64"))),
    "loop annotation": on(For, lambda s: replace(s, annotations=(("k", 1),))),
    "annotation value": on(For, lambda s: replace(s, annotations=(("k", 2),))),
    "annotation key": on(For, lambda s: replace(s, annotations=(("l", 1),))),
    "annotation dtype": on(For, lambda s: replace(s, annotations=(("k", 1.0),))),
    "annotation text": on(For, lambda s: replace(s, annotations=(("k", "1"),))),
    "annotation list": on(For, lambda s: replace(s, annotations=(("k", [1]),))),
    "annotation none": on(For, lambda s: replace(s, annotations=(("k", None),))),
    "block annotation": on(Block, lambda s: replace(s, annotations=(("k", 1),)), update),
    "predicate": on(Block, lambda s: replace(s, predicate=s.iter_values[0] < 1), update),
    "no init": on(Block, lambda s: replace(s, init=None), update),
    "reads": on(Block, lambda s: replace(s, reads=s.reads[:1]), update),
    "read order": on(Block, lambda s: replace(s, reads=s.reads[::-1]), update),
    "writes": on(Block, lambda s: replace(s, writes=()), update),
    "allocation": on(Block, lambda s: replace(s, alloc_buffers=(Buffer("x", ()),)), update),
    "scope": on(
        Block, lambda s: replace(s, alloc_buffers=(Buffer("x", (), scope="shared"),)), update
    ),
    "alignment": on(
        Block, lambda s: replace(s, alloc_buffers=(Buffer("x", (), align=64),)), update
    ),
    "offset": on(
        Block,
        lambda s: replace(s, alloc_buffers=(Buffer("x", (), elem_offset=b.const(0)),)),
        update,
    ),
    "view": on(
        Block,
        lambda s: replace(s, match_buffers=(MatchBuffer(P.buf("v", (1, 1)), s.writes[0]),)),
        update,
    ),
    "binding order": on(
        Block,
        lambda s: replace(s, iter_values=tuple(s.iter_values[k] for k in (1, 0, 2))),
        update,
    ),
    "iterator kind": on(
        Block,
        lambda s: replace(s, iter_vars=(replace(s.iter_vars[0], kind="opaque"), *s.iter_vars[1:])),
        update,
    ),
    "iterator domain": on(
        Block,
        lambda s: replace(
            s,
            iter_vars=(
                replace(s.iter_vars[0], dom=Range(b.const(0), b.const(9))),
                *s.iter_vars[1:],
            ),
        ),
        update,
    ),
    "store index": on(BufferStore, lambda s: replace(s, indices=s.indices[::-1])),
    "store mask": on(BufferStore, lambda s: replace(s, predicate=b.TRUE)),
    "value": on(BufferStore, lambda s: replace(s, value=s.value + 1.0)),
    "statement": on(BufferStore, lambda s: b.seq(s, s)),
    "effect": on(BufferStore, lambda s: b.seq(s, Evaluate(b.const(0)))),
}  # fmt: skip


def test_every_mutation_is_seen():
    start = P.matmul()
    seen = {structural_hash(start): "start"}
    for name, mutate in MUTATIONS.items():
        mutant = mutate(start)
        assert not structural_equal(start, mutant), name
        digest = structural_hash(mutant)
        assert digest not in seen, f"{name} looks like {seen.get(digest)}"
        seen[digest] = name


v, w = Var("v"), Var("w")
EXPRS = [
    v, v + 1, v + 2, v - 1, v * 2, 1 - v, v // 2, v % 2, b.div(v, 2), b.binary("truncmod", v, 2),
    b.minimum(v, 1), b.maximum(v, 1), v & 1, v | 1, b.bitxor(v, 1), v << 1, v >> 1, b.eq(v, 1),
    b.ne(v, 1), v < 1, v <= 1, v > 1, v >= 1, b.logical_not(v < 1), b.logical_and(v < 1, v > 2),
    b.logical_or(v < 1, v > 2), IntImm(1), IntImm(1, "int64"), IntImm(1, "bool"), IntImm(0),
    FloatImm(0.0), FloatImm(-0.0), FloatImm(1.0), FloatImm(1.0, "float16"), FloatImm(1e30),
    FloatImm(1e300),
    FloatImm(float("nan")), FloatImm(1e-30, "bfloat16"), FloatImm(0.0, "float64"),
    StringImm("a"), StringImm("a b"), StringImm(""), Cast("float32", v), Cast("float64", v),
    Select(v < 1, v, v + 1), Select(v < 1, v + 1, v), b.if_then_else(v < 1, v, v + 1),
    Ramp(v, b.const(1), 4), Ramp(v, b.const(1), 8), Ramp(v, b.const(2), 4), b.broadcast(v, 4),
    Shuffle((b.broadcast(v, 4),), (0, 1)), Shuffle((b.broadcast(v, 4),), (1, 0)),
    Let(w, v, w + 1), Let(w, v + 1, w),
]  # fmt: skip


def test_all_different_expressions_differ():
    digests = [structural_hash(e) for e in EXPRS]
    for i, x in enumerate(EXPRS):
        for j, y in enumerate(EXPRS):
            assert structural_equal(x, y) == (i == j), (str(x), str(y))
            assert (digests[i] == digests[j]) == (i == j)


def test_constants_are_compared_in_their_dtype():
    tenth = FloatImm(0.1)
    assert agree(tenth, FloatImm(0.10000000149011612))
    assert not agree(FloatImm(0.1, "float64"), FloatImm(0.10000000149011612, "float64"))


def test_free_variables_are_themselves():
    x, y = Var("x"), Var("x")
    assert not structural_equal(x + 1, y + 1)
    assert structural_hash(x + 1) == structural_hash(y + 1)
    assert structural_equal(x + 1, x + 1)
    assert not agree(x + x, x + y)
    A, B = P.buf("A", (4,)), P.buf("A", (4,))
    assert not structural_equal(A[x], B[x])
    assert structural_hash(A[x]) == structural_hash(B[x])
    assert structural_hash(A[x]) != structural_hash(P.buf("A", (5,))[x])


def test_bound_variables_are_their_binding():
    x, y, z = Var("x"), Var("y"), Var("z")
    A = P.buf("A", (4,), "int32")
    zero = (b.const(0),)

    def lets(first, second, used):
        return LetStmt(first, b.const(1), LetStmt(second, b.const(1), BufferStore(A, used, zero)))

    assert agree(lets(x, y, x), lets(y, x, y))
    assert agree(lets(x, y, y), lets(y, z, z))
    assert not agree(lets(x, y, x), lets(x, y, y))


def test_one_variable_bound_twice_is_not_mixed_up():
    x, y = Var("x"), Var("y")
    A = P.buf("A", (4,), "int32")

    def twice(first, second, used):
        inner = LetStmt(second, b.const(1), BufferStore(A, used, (b.const(0),)))
        return b.seq(LetStmt(first, b.const(1), Evaluate(first)), LetStmt(first, b.const(1), inner))

    assert not agree(twice(x, y, x), twice(x, y, y))


def test_attributes():
    f = P.matmul()
    assert agree(f, f.with_attr("global_symbol", "other"))
    g = f.with_attr("tir.noalias", True)
    assert not agree(f, g)
    assert not agree(g, f.with_attr("tir.noalias", 1))
    assert agree(g, f.with_attr("tir.noalias", b.TRUE))
    one = PrimFunc(f.params, f.buffer_map, f.body, (("a", 1), ("b", [1, "x"])))
    two = PrimFunc(f.params, f.buffer_map, f.body, (("b", (b.const(1), "x")), ("a", 1)))
    assert agree(one, two)
    assert not agree(f.with_attr("a", {"x": 1}), f.with_attr("a", {"x": 2}))


@dataclass(frozen=True)
class Point:
    x: int


class Opaque:
    pass


class Named:
    def __str__(self):
        return "named"


def test_attribute_values_of_other_kinds():
    f = P.matmul()
    assert agree(f.with_attr("p", Point(1)), f.with_attr("p", Point(1)))
    assert not agree(f.with_attr("p", Point(1)), f.with_attr("p", Point(2)))
    assert agree(f.with_attr("p", Named()), f.with_attr("p", Named()))
    with pytest.raises(TypeError, match="annotation 'p' holds a Opaque"):
        structural_hash(f.with_attr("p", Opaque()))


def test_modules_compare_functions_by_name():
    f, g = P.matmul(), P.matmul(2, 2, 2)
    assert agree(IRModule({"a": f, "b": g}), IRModule({"b": renamed(g), "a": renamed(f)}))
    assert not agree(IRModule({"a": f}), IRModule({"b": f}))
    assert not agree(IRModule({"a": f, "b": g}), IRModule({"a": g, "b": f}))
    assert not agree(IRModule({"a": f}), IRModule({"a": f}, (("x", 1),)))
    assert not agree(IRModule({"a": f}), f)


def test_symbolic_shapes_are_bound_by_the_function():
    def copy(names):
        n, m = Var(names[0]), Var(names[1])
        A, B = Buffer("A", (n, m)), Buffer("B", (m, n))
        i, j = Var("i"), Var("j")
        return P.func((A, B), P.nest([(i, n), (j, m)], BufferStore(B, A[i, j], (j, i))))

    assert agree(copy("nm"), copy("xy"))


def test_sampled_integers_are_hashed_by_value():
    class Dim(int):
        def __str__(self):
            raise AssertionError("the text of a sampled integer is not its value")

        __repr__ = __format__ = __str__

    assert agree(IntImm(Dim(4)), IntImm(4))
    assert agree(P.matmul(Dim(4)), P.matmul(4))
    assert agree(P.matmul().with_attr("x", Dim(1)), P.matmul().with_attr("x", 1))


@pytest.mark.parametrize("ask", [structural_hash, lambda x, mode: structural_equal(x, x, mode)])
def test_unknown_mode(ask):
    with pytest.raises(ValueError, match=r"'fuzzy'.*structural, ignore-tensor.*anchor-block"):
        ask(P.matmul(), "fuzzy")


def test_what_is_not_a_program():
    with pytest.raises(TypeError, match="int is not a program"):
        structural_hash(1)


def test_anchor_block():
    f = P.matmul_bias(2, 3, 4)
    anchor = find_anchor_block(f)
    assert anchor is not None
    assert anchor.name == "C"
    assert find_anchor_block(IRModule({"main": f})) is anchor
    assert find_anchor_block(P.elementwise(lambda x: x)) is None
    small = P.matmul(2, 2, 2)
    big = P.matmul(3, 3, 3)
    assert find_anchor_block(IRModule({"a": small, "b": big})) is find_anchor_block(big)
    assert find_anchor_block(IRModule({"a": small, "b": P.matmul(2, 2, 2)})) is find_anchor_block(
        small
    )


def test_anchor_mode_sees_the_anchor_only():
    fused, bare = P.matmul_bias(2, 3, 4), P.matmul(2, 3, 4)
    assert not agree(fused, bare)
    assert agree(fused, bare, "anchor-block")
    assert not agree(fused, P.matmul(2, 3, 5), "anchor-block")
    assert not agree(fused, P.matmul(2, 3, 4, "float16"), "anchor-block")


def test_anchor_mode_without_an_anchor_compares_all():
    double, triple = P.elementwise(lambda x: x * 2.0), P.elementwise(lambda x: x * 3.0)
    assert not agree(double, triple, "anchor-block")
    assert agree(double, P.elementwise(lambda x: x * 2.0), "anchor-block")
    assert not agree(double, P.matmul(), "anchor-block")


def test_the_digest_is_stable():
    """In another process with another hash seed; and, by the constant, from version to version."""
    code = (
        "import sys; sys.path[:0] = ['tests/ir', '.']; import ir_programs as P;"
        "from gputune.ir.equal import structural_hash; print(structural_hash(P.matmul()))"
    )
    from pathlib import Path

    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )  # fmt: skip
    digest = structural_hash(P.matmul())
    assert out.stdout.strip() == digest
    assert digest == "01589c49487bbcb0e2c9388e50a9fc7b"


def test_fragments():
    A = P.buf("A", (4,))
    i, j = Var("i"), Var("j")
    one = For(i, b.const(0), b.const(4), "serial", BufferStore(A, b.const(1.0), (i,)))
    two = For(j, b.const(0), b.const(4), "serial", BufferStore(A, b.const(1.0), (j,)))
    assert agree(one, two)
    assert not agree(
        one, For(j, b.const(0), b.const(4), "serial", BufferStore(A, b.const(1.0), (i,)))
    )
    assert not agree(BufferLoad(A, (i,)), BufferLoad(A, (i,), b.TRUE))
    key = Block(BlockKey(), "a", (), (), b.TRUE, (), (), one)
    assert agree(key, replace(key, key=BlockKey(), name="b"))
