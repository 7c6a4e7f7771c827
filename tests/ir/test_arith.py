import math

import ir_programs as P
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from points import Undefined, affine_expr, condition, index_expr, points, size, value

from gputune.ir import build as b
from gputune.ir import interp
from gputune.ir.affine import same
from gputune.ir.arith import bounds, from_linear, linear, prove, simplify, simplify_stmt
from gputune.ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Evaluate,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    IterVar,
    Let,
    LetStmt,
    Range,
    Var,
)
from gputune.ir.walk import walk_stmt

i, j, k, n = Var("i"), Var("j"), Var("k"), Var("n")
A = Buffer("A", (b.const(64),))
domains = st.fixed_dictionaries(
    {v: st.tuples(st.integers(-4, 6), st.integers(0, 5)).map(lambda t: (t[0], t[0] + t[1]))
     for v in (i, j)}
)  # fmt: skip


def defined_values(e, dom):
    """(point, value) wherever `e` is defined."""
    out = []
    for at in points(dom):
        try:
            out.append((at, value(e, at)))
        except Undefined:
            continue
    return out


# ----------------------------------------------------------------------------- by brute force
@settings(derandomize=True, deadline=None, max_examples=700)
@given(index_expr([i, j]), domains)
def test_bounds_hold_at_every_point(e, dom):
    lo, hi = bounds(e, dom)
    for _, v in defined_values(e, dom):
        assert lo is None or lo <= v
        assert hi is None or v <= hi


@settings(derandomize=True, deadline=None, max_examples=900)
@given(index_expr([i, j]), domains)
def test_simplify_keeps_the_value_at_every_point(e, dom):
    s = simplify(e, dom)
    assert s.dtype == e.dtype
    for at, v in defined_values(e, dom):
        assert value(s, at) == v, f"{at}"


@settings(derandomize=True, deadline=None, max_examples=600)
@given(affine_expr([i, j]), domains)
def test_simplify_of_quasi_affine_expressions(e, dom):
    s = simplify(e, dom)
    for at in points(dom):
        assert value(s, at) == value(e, at), f"{at}"
    assert size(s) <= 2 * size(e) + 4
    again = simplify(s, dom)
    for at in points(dom):
        assert value(again, at) == value(e, at), f"{at}"
    assert size(again) <= size(s)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(index_expr([i, j]))
def test_simplify_without_a_domain(e):
    s = simplify(e)
    for at, v in defined_values(e, {i: (-7, 7), j: (-7, 7)}):
        assert value(s, at) == v, f"{at}"


@settings(derandomize=True, deadline=None, max_examples=700)
@given(condition([i, j]), domains)
def test_conditions(c, dom):
    s = simplify(c, dom)
    proved = prove(c, dom)
    for at, v in defined_values(c, dom):
        assert value(s, at) == v, f"{at}"
        assert v or not proved


@settings(derandomize=True, deadline=None, max_examples=300)
@given(index_expr([i, j]), domains, st.lists(st.sampled_from([i, j]), unique=True))
def test_linear_and_back(e, dom, order):
    terms, const = linear(e)
    back = from_linear(terms, const, e.dtype)
    for at, v in defined_values(e, dom):
        assert value(back, at) == v


# ----------------------------------------------------------------------------- named forms
SMALL = {i: (0, 15), j: (0, 3), k: (0, 7)}


@pytest.mark.parametrize(
    ("e", "want"),
    [
        ((i * 4 + j) // 4, i),
        ((i * 4 + j) % 4, j),
        ((k % 8) // 4, k // 4),
        (n % 8 // 4, n // 4 % 2),
        (n // 2 // 3, n // 6),
        (n // 4 * 4 + n % 4, n),
        (n // 8 * 8 + n // 4 % 2 * 4 + n % 4, n),
        (n // 4 % 3 * 4 + n % 4, n % 12),
        (n - n // 4 * 4, n % 4),
        ((i * 2 + n) % 2, n % 2),
        ((i * 8 + j) // 16, i // 2),
        ((i * 8 + j) % 16, i % 2 * 8 + j),
        ((n * 6 + 3) // 4, (n * 6 + 3) // 4),
        ((n * 4 + 5) // 4, n + 1),
        (n % 12 % 4, n % 4),
        (i + j - i, j),
        (b.minimum(j, 5), j),
        (b.minimum(b.minimum(n, 5), 3), b.minimum(n, 3)),
        (b.maximum(n, n + 1), n + 1),
        (b.select(j < 4, i, n), i),
        (b.if_then_else(j > 3, i, n), n),
        (b.select(n < 4, b.minimum(n, 8), n), n),
        (b.div(k, 4), k // 4),
        (b.const(3) - n, b.const(3) - n),
        ((i * 4 + j) * 16 + (k - j) * 16, i * 64 + k * 16),
        (Let(n, b.const(3), n * i), i * 3),
    ],
)
def test_canonical_forms(e, want):
    got = simplify(e, SMALL)
    assert same(got, simplify(want, SMALL))
    assert size(got) <= size(want)


@pytest.mark.parametrize(
    ("c", "want"),
    [
        (i * 4 + j < 16, i < 4),
        (i * 4 + j >= 16, i >= 4),
        (n // 4 < 3, n < 12),
        (n // 4 >= 3, n >= 12),
        (i * 4 + j < 64, b.TRUE),
        (i * 4 + j > 63, b.FALSE),
        (b.eq(i * 4 + 2, j * 8), b.FALSE),
        (b.ne(n * 2, n * 2 + 1), b.TRUE),
        (b.const(8) > n, n < 8),
        (b.logical_not(n < 8), n >= 8),
        (b.logical_and(n < 8, n < 9), n < 8),
        (b.logical_or(n < 8, n >= 8), b.TRUE),
        (b.logical_and(n + i < 8, n + i < 8), n + i < 8),
        (Call("likely", (j < 4,), "bool"), b.TRUE),
    ],
)
def test_canonical_conditions(c, want):
    got = simplify(c, SMALL)
    assert same(got, want), [got.op, want]  # the operators say enough when this fails


def test_bounds_are_tight_for_quotients_and_remainders_of_one_number():
    assert bounds(i // 4 * 4 + i % 4, {i: (0, 9)}) == (0, 9)
    assert bounds(i - i, {}) == (0, 0)
    assert bounds(i * 2 + j, {i: (1, 3), j: (0, 1)}) == (2, 7)
    assert bounds(i % 8, {i: (9, 11)}) == (1, 3)
    assert bounds(n, {}) == (None, None)
    assert bounds(n % 5, {}) == (0, 4)
    assert bounds(b.maximum(n, 3), {}) == (3, None)


def test_unsigned_and_narrow_integers_wrap_around():
    u, v = Var("u", "uint32"), Var("v", "uint32")
    dom = {u: (0, 3), v: (0, 3)}
    assert bounds(u - v, dom) == (0, 2**32 - 1)
    assert bounds(u + v, dom) == (0, 6)
    e = (u - v) // b.const(4, "uint32")
    assert same(simplify(e, dom), e)
    x = Var("x", "int8")
    assert bounds(x + x, {x: (0, 127)}) == (-128, 127)
    assert not prove(x + x >= 0, {x: (0, 127)})
    assert prove(u >= 0, {})


def test_sums_merge_equal_atoms_in_order_of_appearance():
    terms, const = linear(j // 2 + i * 4 + 3 - i + (j // 2) * 2)
    assert list(terms.values()) == [3, 3]
    assert next(iter(terms)).op == "//"
    assert const == 3
    assert linear(i - i) == ({}, 0)


def test_int64_sums_keep_their_dtype():
    w = Var("w", "int64")
    e = b.cast("int64", i * 4 + 1) + w * 2
    s = simplify(e + b.cast("int64", i) - w, {i: (0, 3), w: (0, 3)})
    assert s.dtype == "int64"
    assert value(s, {i: 2, w: 3}) == 14


def test_what_is_canonical_stays_the_same_object():
    e = i * 64 + j * 16 + k
    assert simplify(e, SMALL) is e
    c = n < 12
    assert simplify(c, SMALL) is c
    load = BufferLoad(A, (e,))
    assert simplify(load, SMALL) is load


def test_unit_variables_become_constants_unless_kept():
    dom = {i: (0, 7), j: (0, 0)}
    assert simplify(i * 4 + j, dom).op == "*"
    assert same(simplify(i * 4 + j, dom, keep_unit_vars=True), i * 4 + j)


def test_float_arithmetic_is_left_alone():
    x = BufferLoad(A, (i + i,))
    y = BufferLoad(A, ((i * 4 + j) // 4,))
    e = (x + y) * FloatImm(0.0) + (x - x)
    s = simplify(e, SMALL)
    assert (s.op, s.a.op, s.b.op, s.a.a.op) == ("+", "*", "-", "+")
    assert same(s.a.a.a.indices[0], i * 2)
    assert s.a.a.b.indices[0] is i
    nan = b.logical_not(x < y)
    assert type(simplify(nan, SMALL)).__name__ == "Not"  # not x >= y: NaN
    chosen = b.if_then_else(j < 4, x, y)
    assert type(simplify(chosen, SMALL)) is BufferLoad


def test_loads_and_calls_with_effects_are_not_merged():
    call = Call("call_extern", (b.const("next"),), "int32")
    other = Call("call_extern", (b.const("next"),), "int32")
    assert len(linear(call - other)[0]) == 2
    table = Buffer("t", (b.const(8),), "int32")
    load = BufferLoad(table, (i,))
    assert linear(load - BufferLoad(table, (i,))) == ({}, 0)


class Sampled(int):
    """An int of which nothing may be assumed: comparing it is an error."""

    def __eq__(self, o):
        raise AssertionError("compared")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __hash__ = int.__hash__

    def __mul__(self, o):
        return Sampled(int(self) * int(o))

    def __add__(self, o):
        return Sampled(int(self) + int(o))

    def __sub__(self, o):
        return Sampled(int(self) - int(o))

    __rmul__, __radd__ = __mul__, __add__

    def __neg__(self):
        return Sampled(-int(self))


def test_sampled_values_do_not_steer_simplification():
    f = IntImm(Sampled(1))
    e = (i * f + j) * f + k
    terms, const = linear(e)
    assert [type(c) for c in terms.values()] == [Sampled, Sampled, int]
    assert const == 0
    s = simplify(e, {i: (0, Sampled(0)), j: (0, Sampled(0)), k: (0, 3)})
    assert value(s, {i: 2, j: 3, k: 1}) == 2 + 3 + 1
    assert {v.name for v in linear(s)[0]} == {"i", "j", "k"}
    div = simplify((i * f + j) // f, {})
    assert div.op == "//"


# ----------------------------------------------------------------------------- statements
def loop(v, extent, body, kind="serial", lo=0, **kw):
    return For(v, b.const(lo), b.expr(extent), kind, body, **kw)


def store(at, val=None):
    return BufferStore(A, FloatImm(1.0) if val is None else val, (b.expr(at),))


def test_statements_use_loop_bounds_and_conditions():
    body = IfThenElse(i * 4 + j < 64, store((i * 4 + j) // 4), store(0))
    s = simplify_stmt(loop(i, 16, loop(j, 4, body)))
    (x,) = [x for x in walk_stmt(s) if type(x) is BufferStore]
    assert x.indices[0] is i
    kept = simplify_stmt(loop(i, 17, loop(j, 4, body)))
    (c,) = [x for x in walk_stmt(kept) if type(x) is IfThenElse]
    assert same(c.cond, i < 16)


def test_the_guarded_branch_knows_its_condition():
    inner = IfThenElse(i < 20, store(b.minimum(i, 9)), store(1))
    s = simplify_stmt(loop(i, 64, IfThenElse(i < 10, inner, IfThenElse(i >= 10, store(2)))))
    assert [type(x) for x in walk_stmt(s)] == [For, IfThenElse, BufferStore, BufferStore]
    sums = IfThenElse(i + j < 50, IfThenElse(i + j < 51, store(3)))
    s = simplify_stmt(loop(i, 64, loop(j, 64, sums)))
    assert [type(x) for x in walk_stmt(s)] == [For, For, IfThenElse, BufferStore]


def test_assumptions_hold_from_there_on():
    said = Evaluate(Call("assume", (n < 8,), "bool"))
    s = simplify_stmt(b.seq(IfThenElse(n < 9, store(0)), said, IfThenElse(n < 9, store(1))))
    kinds = [type(x) for x in s.items]
    assert kinds == [IfThenElse, Evaluate, BufferStore]


def test_branches_and_loops_that_never_run_are_removed():
    s = simplify_stmt(
        loop(i, 4, b.seq(IfThenElse(i > 7, store(0)), loop(j, 0, store(1)), store(2)))
    )
    assert [type(x) for x in walk_stmt(s)] == [For, BufferStore]
    empty = simplify_stmt(loop(i, 4, IfThenElse(i > 7, store(0))))
    assert type(empty) is Evaluate
    other = simplify_stmt(loop(i, 4, IfThenElse(n > 7, IfThenElse(i > 7, store(0)), store(1))))
    (c,) = [x for x in walk_stmt(other) if type(x) is IfThenElse]
    assert same(c.cond, n <= 7)


def test_unit_loops_are_dropped_on_request():
    nest = loop(i, 1, loop(j, 4, store(i * 4 + j)), lo=2)
    assert type(simplify_stmt(nest, keep_unit_vars=True)) is For
    assert simplify_stmt(nest, keep_unit_vars=True).var is i
    s = simplify_stmt(nest, drop_unit_loops=True)
    assert s.var is j
    assert same(s.body.indices[0], j + 8)
    bound = loop(i, 1, store(i), kind="thread_binding", thread="threadIdx.x")
    assert type(simplify_stmt(bound, drop_unit_loops=True)) is For
    noted = loop(i, 1, store(n), annotations=(("pragma", 1),))
    assert simplify_stmt(noted, drop_unit_loops=True) is noted


def test_blocks_bound_their_iterators():
    vi = Var("vi")
    dom = Range(b.const(0), b.const(100))
    block = Block(
        BlockKey(), "b", (IterVar(vi, dom, "spatial"),), (i * 16 + j,), i * 16 + j < 100, (), (),
        IfThenElse(vi < 100, store(b.minimum(vi, 200))),
    )  # fmt: skip
    s = simplify_stmt(loop(i, 7, loop(j, 16, block)))
    (x,) = [x for x in walk_stmt(s) if type(x) is Block]
    assert x.predicate is block.predicate
    assert type(x.body) is BufferStore
    assert x.body.indices[0] is vi
    never = simplify_stmt(loop(i, 7, b.seq(Block(
        BlockKey(), "b", (), (), i > 9, (), (), store(1)), store(2))))  # fmt: skip
    assert [type(x) for x in walk_stmt(never)] == [For, BufferStore]


def test_let_bounds_and_sharing():
    s = LetStmt(n, i % 4, IfThenElse(n < 4, store(n)))
    out = simplify_stmt(s)
    assert type(out.body) is BufferStore
    same_again = loop(i, 8, b.seq(store(i), IfThenElse(n < i, store(i + 1))))
    assert simplify_stmt(same_again) is same_again


def test_triangular_loops():
    s = loop(i, 8, For(j, b.const(0), i + 1, "serial", IfThenElse(j < 8, store(j))))
    out = simplify_stmt(s)
    assert [type(x) for x in walk_stmt(out)] == [For, For, BufferStore]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(condition([i, j], 1), condition([i, j], 1), index_expr([i, j], 2))
def test_statements_write_the_same(c1, c2, e):
    """What is stored, and where, at every point."""
    out = Buffer("out", (b.const(64), b.const(64)), "int32")
    body = IfThenElse(
        c1,
        IfThenElse(c2, BufferStore(out, e, (i, j)), BufferStore(out, e + 1, (i, j))),
        IfThenElse(b.logical_or(c1, c2), BufferStore(out, b.const(7), (i, j))),
    )
    s = loop(i, 6, loop(j, 5, body))
    try:
        want = run(s, {})
    except Undefined:
        assume(False)
    assert run(simplify_stmt(s), {}) == want


def run(s, env):
    match s:
        case For():
            out = {}
            lo = value(s.min, env)
            for x in range(lo, lo + value(s.extent, env)):
                out |= run(s.body, {**env, s.var: x})
            return out
        case IfThenElse():
            if value(s.cond, env):
                return run(s.then, env)
            return {} if s.orelse is None else run(s.orelse, env)
        case BufferStore():
            return {tuple(value(x, env) for x in s.indices): value(s.value, env)}
        case Evaluate():
            return {}
    raise AssertionError(type(s))


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("func", [P.matmul(3, 1, 4), P.matmul_bias(2, 3, 1)], ids=["mm", "bias"])
def test_whole_programs_compute_the_same(func, drop):
    def results(body):
        args = [
            np.arange(math.prod(n.value for n in x.shape), dtype=x.dtype).reshape(
                [n.value for n in x.shape]
            )
            for x in func.buffers
        ]
        interp.run(b.replace_body(func, body), *args, check_regions=True)
        return args

    simplified = simplify_stmt(func.body, drop_unit_loops=drop)
    for x, y in zip(results(simplified), results(func.body)):
        np.testing.assert_array_equal(x, y)


def test_numpy_integers_are_constants():
    assert simplify(b.const(np.int32(3)) + 4, {}).value == 7
