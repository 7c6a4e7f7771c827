# ruff: noqa: E501 - golden programs are printed as they are
"""fuse_reduction_epilogue: what is fused, what it computes, what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScheduleError
from gputune.ir import dtypes
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.sketch_feature import Machine
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.script import tir as T
from tests.properties.programs import dense_bias_relu
from tests.properties.programs import softmax as softmax_rows

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, replays, scheduled


def reduced(
    op: str = "Y[vi, vj] + X[vi, vk] * W[vk, vj]",
    value: str = "Y[vi, vj] + b[vj]",
    *,
    init: str = "T.float32(0)",
    dtype: str = "float32",
    out: str = "Z[vi, vj]",
    shape: str = "(5, 7)",
    read: tuple[int, int] = (5, 7),
    extra: str = "",
) -> PrimFunc:
    """A reduction Y and what is done to its result in Z; extents that divide by nothing."""
    m, n = read
    func = from_source(f"""
@T.prim_func
def f(X: T.Buffer((5, 6), "{dtype}"), W: T.Buffer((6, 7), "{dtype}"), b: T.Buffer((7,), "{dtype}"),
      c: T.Buffer((5,), "{dtype}"), Z: T.Buffer({shape}, "{dtype}")):
    Y = T.alloc_buffer((5, 7), "{dtype}")
    for i, j, k in T.grid(5, 7, 6):
        with T.block("Y"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                Y[vi, vj] = {init}
            Y[vi, vj] = {op}
    for i, j in T.grid({m}, {n}):
        with T.block("Z"):
            vi, vj = T.axis.remap("SS", [i, j])
            {out} = {value}
{extra}
""")
    assert isinstance(func, PrimFunc)
    return func


def fuse(s: Schedule) -> None:
    s.fuse_reduction_epilogue("Y", "Z")


def fused(func: PrimFunc, first: Callable[[Schedule], Any] = lambda s: None) -> Schedule:
    def do(s: Schedule) -> None:
        first(s)
        fuse(s)

    sch = keeps(func, do)
    parsed = from_source(sch.mod.script())
    assert isinstance(parsed, IRModule)
    assert structural_equal(parsed, sch.mod)
    return sch


# ----------------------------------------------------------------------------- what is fused
def test_a_bias_is_what_the_sum_starts_from() -> None:
    sch = fused(reduced())
    prints(
        sch,
        """
        for i, j, k in T.grid(5, 7, 6):
            with T.block("Y"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                T.reads(X[vi, vk], W[vk, vj], b[vj])
                T.writes(Z[vi, vj])
                with T.init():
                    Z[vi, vj] = b[vj]
                Z[vi, vj] = Z[vi, vj] + X[vi, vk] * W[vk, vj]
    """,
    )
    assert sch.trace.as_json()[0] == [
        ["GetSBlock", [], ["Y", "f"], ["b0"]],
        ["GetSBlock", [], ["Z", "f"], ["b1"]],
        ["FuseReductionEpilogue", ["b0", "b1"], [], []],
    ]
    assert str(sch.trace).splitlines()[-1] == (
        "sch.fuse_reduction_epilogue(reduction_block=b0, epilogue_block=b1)"
    )


def pooled() -> PrimFunc:
    """A maximum, limited on both sides and written in another shape."""

    @T.prim_func
    def f(
        X: T.Buffer((8, 8), "float32"),
        lo: T.Buffer((4,), "float32"),
        hi: T.Buffer((4,), "float32"),
        Z: T.Buffer((2, 4, 2), "float32"),
    ):
        Y = T.alloc_buffer((4, 4))
        for h, w, r, s in T.grid(4, 4, 2, 2):
            with T.block("Y"):
                vh, vw, vr, vs = T.axis.remap("SSRR", [h, w, r, s])
                with T.init():
                    Y[vh, vw] = T.min_value("float32")
                Y[vh, vw] = T.max(X[vh * 2 + vr, vw * 2 + vs], Y[vh, vw])
        for a, c, b in T.grid(2, 4, 2):
            with T.block("Z"):
                va, vc, vb = T.axis.remap("SSS", [a, c, b])
                Z[va, vc, vb] = T.min(T.max(lo[vc], Y[va * 2 + vb, vc]), hi[vc])

    return f


def test_limits_of_a_maximum() -> None:
    """The lower one is what it starts from, the upper one is done to each element: exactly."""
    prints(
        fused(pooled()),
        """
        for h, w, r, s in T.grid(4, 4, 2, 2):
            with T.block("Y"):
                vh, vw, vr, vs = T.axis.remap("SSRR", [h, w, r, s])
                T.reads(X[vh * 2 + vr, vw * 2 + vs], hi[vw], lo[vw])
                T.writes(Z[vh // 2, vw, vh % 2])
                with T.init():
                    Z[vh // 2, vw, vh % 2] = T.min(T.max(lo[vw], T.float32(-3.4028234663852886e+38)), hi[vw])
                Z[vh // 2, vw, vh % 2] = T.max(T.min(X[vh * 2 + vr, vw * 2 + vs], hi[vw]), Z[vh // 2, vw, vh % 2])
    """,
    )


def test_an_epilogue_of_a_part_gives_a_predicate() -> None:
    """Elements that the epilogue did not read are not computed: Z has no place for them."""
    func = reduced(
        value="b[vj] + Y[vi + 1, vj + 2]", read=(3, 5), shape="(4, 5)", out="Z[3 - vi, vj]"
    )
    prints(
        fused(func),
        """
        for i, j, k in T.grid(5, 7, 6):
            with T.block("Y"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                T.where(i - 1 >= 0 and i - 1 < 3 and j - 2 >= 0)
                T.reads(X[vi, vk], W[vk, vj], b[vj - 2])
                T.writes(Z[4 - vi, vj - 2])
                with T.init():
                    Z[4 - vi, vj - 2] = b[vj - 2]
                Z[4 - vi, vj - 2] = Z[4 - vi, vj - 2] + X[vi, vk] * W[vk, vj]
    """,
    )


@pytest.mark.parametrize(
    ("options", "init", "body"),
    [
        ({"value": "b[vj] + Y[vi, vj]"}, "b[vj]", "Z[vi, vj] + X[vi, vk] * W[vk, vj]"),
        (
            {"value": "Y[vi, vj] - b[vj] * T.float32(2)"},
            "T.float32(0) - b[vj] * T.float32(2)",
            None,
        ),
        ({"value": "(Y[vi, vj] + b[vj]) - c[vi]"}, "b[vj] - c[vi]", None),
        ({"value": "Y[vi, vj] + b[vj]", "init": "c[vi]"}, "c[vi] + b[vj]", None),
        ({"value": "Y[vi, vj]"}, "T.float32(0)", None),
        ({"value": "Y[vi, vj] + T.Cast('float32', vi * 3)"}, 'T.Cast("float32", vi * 3)', None),
        ({"dtype": "int32", "init": "0", "value": "Y[vi, vj] + 5"}, "5", None),
        (
            {"op": "X[vi, vk] * Y[vi, vj]", "init": "T.float32(1)", "value": "b[vj] * Y[vi, vj]"},
            "b[vj]",
            "X[vi, vk] * Z[vi, vj]",
        ),
        (
            {"op": "T.min(Y[vi, vj], X[vi, vk])", "init": "T.max_value('float32')",
             "value": "T.min(T.float32(1), Y[vi, vj])"},
            "T.float32(1)",
            "T.min(Z[vi, vj], X[vi, vk])",
        ),
        (
            {"op": "T.min(Y[vi, vj], X[vi, vk])", "init": "T.max_value('float32')",
             "value": "T.max(T.min(Y[vi, vj], c[vi]), b[vj])"},
            "T.max(T.min(T.float32(3.4028234663852886e+38), c[vi]), b[vj])",
            "T.min(Z[vi, vj], T.max(X[vi, vk], b[vj]))",
        ),
        (
            {"op": "T.max(Y[vi, vj], X[vi, vk])", "init": "T.min_value('int32')", "dtype": "int32",
             "value": "T.max(T.min(Y[vi, vj], 2), b[vj])"},
            "b[vj]",
            "T.max(Z[vi, vj], T.min(X[vi, vk], 2))",
        ),
        ({"out": "Z[vj, 4 - vi]", "shape": "(7, 5)"}, None, None),
    ],
)  # fmt: skip
def test_what_is_fused(options: dict[str, Any], init: str | None, body: str | None) -> None:
    sch = fused(reduced(**options))
    block = sch.get(sch.get_block("Y"))
    assert sch.get(sch.get_child_blocks(sch.get_block("root"))[0]) is block
    assert len(sch.get_child_blocks(sch.get_block("root"))) == 1
    assert not sch.get(sch.get_block("root")).alloc_buffers
    if init is not None:
        assert str(block.init.value) == init
    if body is not None:
        assert str(block.body.value) == body


def test_handles_the_reduction_stays_and_the_epilogue_goes() -> None:
    sch = scheduled(reduced())
    y, z = sch.get_block("Y"), sch.get_block("Z")
    nest = sch.get_loops(y)
    sch.fuse_reduction_epilogue(y, z)
    assert sch.get(y).name == "Y"
    assert [sch.get(a).var for a in sch.get_loops(y)] == [sch.get(a).var for a in nest]
    refuses(sch, "block-gone", lambda: sch.get_loops(z), names="block")


def test_alignment_belongs_to_the_buffer_that_stays() -> None:
    """storage_align of what was reduced into says nothing of what is written now."""
    sch = scheduled(reduced())
    sch.storage_align("Y", 0, 0, 32, 8)
    sch.annotate(sch.get_block("Y"), "kept", 1)
    z = sch.cache_write("Z", 0, "shared")
    sch.storage_align("Z", 0, 0, 16, 4)
    sch.annotate(sch.get_block("Z"), "gone", 1)
    fuse(sch)
    notes = {"kept": 1, "buffer_dim_align": ((0, 0, 16, 4),)}
    assert dict(sch.get(sch.get_block("Y")).annotations) == notes
    assert len(sch.get_child_blocks(sch.get_block("root"))) == 2
    sch.fuse_reduction_epilogue("Y", z)
    assert dict(sch.get(sch.get_block("Y")).annotations) == {"kept": 1}


def test_stated_regions_are_kept_where_they_still_hold() -> None:
    sch = scheduled(reduced())
    sch.annotate_buffer_access("Y", "W", "read", lambda i, j, k: (k, (0, 7)))
    sch.annotate_buffer_access("Y", "Y", "write", lambda i, j, k: (i, j))
    fuse(sch)
    b = sch.get(sch.get_block("Y"))
    assert dict(b.annotations) == {"explicit_read_region": (1,)}
    assert [r.buffer.name for r in b.reads] == ["X", "W", "b"]
    assert b.reads[1].region[1].extent.value == 7
    assert b.writes[0].buffer.name == "Z"


# ----------------------------------------------------------------------------- with other primitives
def test_after_and_before_other_primitives() -> None:
    def tiled(s: Schedule) -> None:
        i, j, k = loops(s, "Y")
        i0, i1 = s.split(i, [None, 2])  # 5 rows by 2s: a predicate
        k0, k1 = s.split(k, [None, 4])  # 6 by 4s
        s.reorder(i0, k0, i1, k1, j)
        a, _ = loops(s, "Z")
        s.split(a, [2, None])

    sch = fused(reduced(), tiled)
    assert "T.where" in sch.mod.script()

    def and_then(s: Schedule) -> None:
        tiled(s)
        fuse(s)
        s.decompose_reduction("Y", loops(s, "Y")[1])

    sch = keeps(reduced(), and_then)
    assert "Y_init" in sch.mod.script()

    def factored(s: Schedule) -> None:
        fuse(s)
        s.rfactor(s.split(loops(s, "Y")[2], [None, 4])[1], 0)

    sch = keeps(reduced(value="Y[vi, vj] - b[vj]"), factored)
    text = sch.mod.script()
    assert (
        text.count("b[vj]") == text.count("- b[vj]") + text.count(", b[vj]") == 2
    )  # once: at the end

    def inside(s: Schedule) -> None:
        fuse(s)
        w = s.cache_write("Y", 0, "local")
        s.reverse_compute_at(w, loops(s, "Y")[1])
        s.fuse_reduction_epilogue("Y", w)

    keeps(reduced(), inside)

    def under(s: Schedule) -> None:  # the reduction stands inside the loops of its epilogue
        s.split(loops(s, "Z")[1], [None, 3])
        s.compute_at("Y", loops(s, "Z")[1])
        fuse(s)

    sch = keeps(reduced(), under)
    assert len(sch.get_child_blocks(sch.get_block("root"))) == 1


def test_two_epilogues_one_after_the_other() -> None:
    def do(s: Schedule) -> None:
        s.fuse_reduction_epilogue("Y", "R")
        # what cannot be fused is computed where the sum is complete, as the refusal says
        e = refuses(s, "epilogue-step", lambda: s.fuse_reduction_epilogue("Y", "Z"), names="T.max")
        assert "reverse_compute_at" in e.hint
        s.reverse_compute_at("Z", loops(s, "Y")[1])

    sch = keeps(dense_bias_relu(), do)
    assert [sch.get(b).name for b in sch.get_child_blocks(loops(sch, "Y")[1])] == ["Y", "Z"]


def test_what_else_it_reads_may_come_from_blocks_before() -> None:
    @T.prim_func
    def f(X: T.Buffer((5, 6), "float32"), Z: T.Buffer((5,), "float32")):
        M = T.alloc_buffer((5,))
        Y = T.alloc_buffer((5,))
        for i, k in T.grid(5, 6):
            with T.block("M"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi] = T.min_value("float32")
                M[vi] = T.max(M[vi], X[vi, vk])
        for i, k in T.grid(5, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                Z[vi] = Y[vi] - M[vi]

    fused(f)
    sch = scheduled(f)
    sch.compute_at("M", loops(sch, "Z")[0])
    refuses(sch, "epilogue-producer", lambda: fuse(sch), names="block M")


# ----------------------------------------------------------------------------- numbers
def test_floats_agree_with_numpy_and_bias_is_added_once() -> None:
    rng = np.random.default_rng(1)
    func = reduced(value="T.float32(0.25) + (Y[vi, vj] - b[vj])")
    sch = scheduled(func)
    fuse(sch)
    i, j, _ = loops(sch, "Y")
    sch.parallel(i)
    sch.vectorize(sch.split(j, [None, 4])[1])
    x, w = rng.normal(size=(5, 6)).astype("f4"), rng.normal(size=(6, 7)).astype("f4")
    b, c = rng.normal(size=7).astype("f4"), np.zeros(5, "f4")
    z = np.full((5, 7), np.nan, "f4")
    want = x.astype("f8") @ w - b + 0.25
    run(sch.mod["f"], x, w, b, c, z)
    np.testing.assert_allclose(z, want, rtol=1e-5, atol=1e-5)
    z[:] = np.nan
    build(sch.mod, "llvm --num-cores=2")["f"](x, w, b, c, z)
    np.testing.assert_allclose(z, want, rtol=1e-5, atol=1e-5)


def test_limits_are_exact_on_any_floats() -> None:
    rng = np.random.default_rng(2)
    x, lo = rng.normal(size=(8, 8)).astype("f4"), np.array([-1, 0.3, 2, -np.inf], "f4")
    hi = np.array([-2, 0.9, np.inf, 0.1], "f4")  # the first below its lower one
    want = np.minimum(np.maximum(x.reshape(4, 2, 4, 2).max((1, 3)), lo), hi)
    want = want.reshape(2, 2, 4).transpose(0, 2, 1)
    sch = scheduled(pooled())
    fuse(sch)
    for call in (lambda *a: run(sch.mod["f"], *a), build(sch.mod, "llvm")["f"]):
        z = np.full((2, 4, 2), np.nan, "f4")
        call(x, lo, hi, z)
        assert (z == want).all()


COMBINERS: dict[str, tuple[str, list[str]]] = {
    "sum": ("Y[vi, vj] + X[vi, vk]", ["{} + b[vj]", "c[vi] + {}", "{} - b[vj]"]),
    "product": ("Y[vi, vj] * X[vi, vk]", ["{} * b[vj]", "c[vi] * {}"]),
    "maximum": ("T.max(Y[vi, vj], X[vi, vk])", ["T.max({}, b[vj])", "T.min(c[vi], {})", "T.min({}, {one})"]),
    "minimum": ("T.min(X[vi, vk], Y[vi, vj])", ["T.max({}, b[vj])", "T.min(c[vi], {})", "T.max({one}, {})"]),
}  # fmt: skip


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(st.sampled_from(sorted(COMBINERS)), st.integers(0, 2**31), st.sampled_from(["int32", "float32", "float64"]))  # fmt: skip
def test_random_chains_keep_the_numbers(which: str, seed: int, dtype: str) -> None:
    rng = random.Random(seed)
    op, steps = COMBINERS[which]
    value = "Y[vi, vj]"
    for _ in range(rng.randint(0, 4)):
        value = rng.choice(steps).replace("{one}", f"T.{dtype}(1)").replace("{}", value)
    start = rng.choice([f"T.{dtype}({rng.randint(-2, 2)})", "c[vi]", f"T.min_value('{dtype}')"])
    if which in ("sum", "product") and "min_value" in start:
        start = "b[vj]"
    func = reduced(op, value, init=start, dtype=dtype)

    def do(s: Schedule) -> None:
        if rng.random() < 0.5:
            i, _, k = loops(s, "Y")
            s.reorder(s.split(k, [None, 4])[0], i)
        fuse(s)
        if rng.random() < 0.5:
            s.rfactor(loops(s, "Y")[-1], rng.choice([0, 1, 2]))

    keeps(func, do)


# ----------------------------------------------------------------------------- matrices of decisions
def test_a_matrix_of_decisions_agrees_with_replay() -> None:
    func = reduced()

    def tiles(s: Schedule) -> None:
        i, _, k = loops(s, "Y")
        s.split(i, s.sample_tile(i, 2))
        s.split(k, s.sample_perfect_tile(k, 2))
        j = loops(s, "Z")[1]
        s.split(j, s.sample_tile(j, 2))
        fuse(s)
        s.rfactor(loops(s, "Y")[-1], 0)

    sch = Schedule(func, seed=3)
    tiles(sch)
    sketch = Sketch(IRModule.from_expr(func), sch.trace, (), Machine())
    rows = sketch.decisions.sample(40, np.random.default_rng(1))
    found = sketch.evaluate(rows)
    assert found.valid.all()
    assert not sketch.fallbacks
    assert sketch.class_count < 6
    for row in rows[:10]:
        again, refusal = sketch.schedule(row)
        assert refusal is None
        replays(func, again)


# ----------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("options", "code", "names"),
    [
        ({"value": "T.max(Y[vi, vj], T.float32(0))"}, "epilogue-step", "T.max with T.float32(0)"),
        ({"value": "T.max(Y[vi, vj] + b[vj], T.float32(0))"}, "epilogue-step", "sum of block Y"),
        ({"value": "T.min(T.max(Y[vi, vj], c[vi]), b[vj])"}, "epilogue-step", "T.min with b[vj]"),
        ({"value": "Y[vi, vj] * b[vj]"}, "epilogue-step", "'*' with b[vj]"),
        ({"value": "b[vj] - Y[vi, vj]"}, "epilogue-step", "'-' with b[vj]"),
        ({"value": "Y[vi, vj] / b[vj]"}, "epilogue-step", "'/' with b[vj]"),
        (
            {"op": "T.max(Y[vi, vj], X[vi, vk])", "value": "Y[vi, vj] + b[vj]"},
            "epilogue-step",
            "maximum of block Y",
        ),
        (
            {"op": "Y[vi, vj] * X[vi, vk]", "value": "Y[vi, vj] + b[vj]"},
            "epilogue-step",
            "product of block Y",
        ),
        ({"value": "T.exp2(Y[vi, vj])"}, "epilogue-pattern", "T.exp2(Y[vi, vj])"),
        (
            {"value": "T.if_then_else(b[vj] > T.float32(0), Y[vi, vj], b[vj])"},
            "epilogue-pattern",
            "no chain",
        ),
        (
            {"value": "T.Cast('float32', T.Cast('float16', Y[vi, vj])) + b[vj]"},
            "epilogue-dtype",
            "converts the sum of block Y",
        ),
        ({"value": "Y[vi, vj] * Y[vi, vj]"}, "epilogue-region", "2 times"),
        ({"value": "Y[vi, vj] + Y[4 - vi, vj]"}, "epilogue-region", "reads Y 2 times"),
        ({"value": "Y[vi, 0] + b[vj]"}, "inline-invert", "vi, 0"),
        (
            {"value": "Y[vi + 1, vj] + b[vj]", "read": (5, 7)},
            "inline-domain",
            "from 1 to 5, of 5",
        ),
        ({"op": "X[vi, vk] - Y[vi, vj]"}, "epilogue-combiner", "combiner of block Y"),
        ({"op": "Y[vi, vj] + X[vi, vk] * Y[vi, vj]"}, "epilogue-combiner", "combiner of block Y"),
    ],
)  # fmt: skip
def test_epilogues_that_are_not_fused(options: dict[str, Any], code: str, names: str) -> None:
    sch = scheduled(reduced(**options))
    e = refuses(sch, code, lambda: fuse(sch), names=names)
    assert e.hint
    assert "Z" in str(e)


def test_the_hint_leads_to_what_was_wanted() -> None:
    def do(s: Schedule) -> None:
        with pytest.raises(ScheduleError) as caught:
            fuse(s)
        assert "reverse_compute_at it at the innermost loop" in caught.value.hint
        i, j, k = loops(s, "Y")
        s.reorder(i, k, j)  # j is inside k: first bring it out
        s.reorder(j, k)
        s.reverse_compute_at("Z", j)

    keeps(reduced(value="T.max(Y[vi, vj] + b[vj], T.float32(0))"), do)


def test_blocks_that_are_no_pair() -> None:
    sch = scheduled(reduced())
    call = sch.fuse_reduction_epilogue
    refuses(sch, "root-block", lambda: call("root", "Z"), names="root")
    refuses(sch, "root-block", lambda: call("Y", "root"), names="root")
    e = refuses(sch, "not-reduction", lambda: call("Z", "Y"), names="reduction_block Z")
    assert "reverse_compute_inline" in e.hint
    refuses(sch, "not-complete", lambda: call("Y", "Y"), names="epilogue_block Y")
    refuses(sch, "no-block", lambda: call("Y", "Q"), names="'Q'")
    loop, z = loops(sch, "Y")[0], sch.get_block("Z")
    refuses(sch, "not-a-block", lambda: call(loop, z), names="a loop")  # type: ignore[arg-type]  # wrong on purpose
    sch.decompose_reduction("Y", loops(sch, "Y")[2])
    e = refuses(sch, "not-reduction", lambda: call("Y_update", "Z"), names="Y_update")
    assert "before decompose_reduction" in e.hint
    sch = scheduled(softmax_rows())
    call = sch.fuse_reduction_epilogue
    refuses(sch, "epilogue-consumer", lambda: call("S", "E"), names="does not read what block S")


def test_results_that_are_used_elsewhere() -> None:
    extra = """
    for i in range(5):
        with T.block("Q"):
            vi = T.axis.spatial(5, i)
            c[vi] = Y[vi, 0]
"""
    sch = scheduled(reduced(extra=extra))
    refuses(sch, "epilogue-consumer", lambda: fuse(sch), names="block Q reads it")

    @T.prim_func
    def f(
        X: T.Buffer((5, 6), "float32"), Y: T.Buffer((5,), "float32"), Z: T.Buffer((5,), "float32")
    ):
        for i, k in T.grid(5, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                Z[vi] = Y[vi] + 1.0

    sch = scheduled(f)
    refuses(sch, "epilogue-consumer", lambda: fuse(sch), names="it is an output")


def test_what_it_reads_must_be_there_before_the_reduction() -> None:
    @T.prim_func
    def f(X: T.Buffer((5, 6), "float32"), Z: T.Buffer((5,), "float32")):
        Y = T.alloc_buffer((5,))
        M = T.alloc_buffer((5,))
        for i, k in T.grid(5, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(5):
            with T.block("M"):
                vi = T.axis.spatial(5, i)
                M[vi] = X[vi, 0] * 2.0
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                Z[vi] = Y[vi] + M[vi]

    sch = scheduled(f)
    e = refuses(sch, "epilogue-producer", lambda: fuse(sch), names="block M")
    assert "compute_inline block M" in e.hint

    def hinted(s: Schedule) -> None:
        s.compute_inline("M")
        fuse(s)

    keeps(f, hinted)


def test_bodies_that_are_no_plain_store() -> None:
    @T.prim_func
    def f(
        X: T.Buffer((5, 6), "float32"), Z: T.Buffer((5,), "float32"), Q: T.Buffer((5,), "float32")
    ):
        Y = T.alloc_buffer((5,))
        U = T.alloc_buffer((5,))
        for i, k in T.grid(5, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                if X[vi, vk] > 0.0:
                    Y[vi] = Y[vi] + X[vi, vk]
        for i, k in T.grid(5, 6):
            with T.block("U"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    U[vi] = 0.0
                U[vi] = U[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                Z[vi] = Y[vi] + 1.0
        for i in range(5):
            with T.block("Q"):
                vi = T.axis.spatial(5, i)
                if X[vi, 0] > 0.0:
                    Q[vi] = U[vi]
                else:
                    Q[vi] = U[vi] + 1.0

    sch = scheduled(f)
    refuses(sch, "epilogue-body", lambda: fuse(sch), names="body of block Y")
    refuses(sch, "epilogue-body", lambda: sch.fuse_reduction_epilogue("U", "Q"), names="block Q")
    sch = scheduled(programs.arg_max())
    refuses(sch, "epilogue-body", lambda: sch.fuse_reduction_epilogue("A", "I"), names="block A")


def test_conditions_and_loops_that_fusing_would_lose() -> None:
    @T.prim_func
    def under_condition(X: T.Buffer((5, 6), "float32"), Z: T.Buffer((5,), "float32")):
        Y = T.alloc_buffer((5,))
        for i, k in T.grid(5, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(5):
            if i < 3:
                with T.block("Z"):
                    vi = T.axis.spatial(5, i)
                    Z[vi] = Y[vi] + 1.0

    sch = scheduled(under_condition)
    refuses(sch, "epilogue-guard", lambda: fuse(sch), names="block Z stands under a condition")
    sch = scheduled(programs.part_of_domain())  # the loop of Y stops at 5 of 8
    refuses(sch, "epilogue-domain", lambda: sch.fuse_reduction_epilogue("S", "Y"), names="block Y")

    @T.prim_func
    def where(X: T.Buffer((5, 6), "float32"), Z: T.Buffer((5,), "float32")):
        Y = T.alloc_buffer((5,))
        for i, k in T.grid(5, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                T.where(i % 2 == 0)
                Z[vi] = Y[vi] + 1.0

    sch = scheduled(where)
    refuses(sch, "epilogue-predicate", lambda: fuse(sch), names="i % 2 == 0")

    @T.prim_func
    def twice(X: T.Buffer((5, 6), "float32"), Z: T.Buffer((5,), "float32")):
        Y = T.alloc_buffer((5,))
        for _t, i, k in T.grid(2, 5, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                Z[vi] = Y[vi] + 1.0

    sch = scheduled(twice)
    refuses(sch, "not-affine", lambda: fuse(sch), names="bindings of block Y")

    @T.prim_func
    def late(X: T.Buffer((5, 6), "float32"), Z: T.Buffer((5,), "float32")):
        Y = T.alloc_buffer((5,))
        for i, k in T.grid(5, 4):
            with T.block("Y"):
                vi = T.axis.spatial(5, i)
                vk = T.axis.reduce(6, k + 2)
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                Z[vi] = Y[vi] + 1.0

    sch = scheduled(late)
    refuses(sch, "reduction-start", lambda: fuse(sch), names="never initialised")


def test_a_stencil_on_a_reduction() -> None:
    sch = scheduled(programs.reduced_halo())
    refuses(sch, "epilogue-region", lambda: sch.fuse_reduction_epilogue("S", "Y"), names="3 times")


def test_no_stage_pipeline() -> None:
    @T.prim_func
    def f(X: T.Buffer((5, 6), "float32"), Z: T.Buffer((5,), "float32")):
        Y = T.alloc_buffer((5,))
        for i, k in T.grid(5, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        X[0, 0] = 3.0
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                Z[vi] = Y[vi] + 1.0

    sch = scheduled(f)
    refuses(sch, "not-pipeline", lambda: fuse(sch), names="outside any block")


def test_narrow_types_round_in_another_order_only() -> None:
    """float16: the same tolerance as rfactor; the docstring says what a large bias does."""
    func = reduced(dtype="float16", init="T.float16(0)")
    rng = np.random.default_rng(4)
    args = [
        rng.normal(size=s).astype(dtypes.numpy_dtype("float16")) for s in ((5, 6), (6, 7), 7, 5)
    ]
    plain, new = (np.zeros((5, 7), "f2") for _ in range(2))
    run(func, *args, plain)
    sch = scheduled(func)
    fuse(sch)
    run(sch.mod["f"], *args, new)
    np.testing.assert_allclose(new, plain, rtol=1e-2, atol=1e-2)
