"""Products whose operands do not lie as an instruction takes them: padded, packed, and right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune import meta_schedule as ms
from gputune.errors import UserError
from gputune.ir import dtypes
from gputune.ir.build import const_int
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.ir.walk import blocks
from gputune.meta_schedule.postproc import Postproc, postprocess
from gputune.meta_schedule.schedule_rule import DEFAULTS, MultiLevelTilingPacked
from gputune.meta_schedule.sketch_feature import Machine, features_of
from gputune.meta_schedule.sketch_layout import describe
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.target import Target
from gputune.target.intrin import intrin
from tests.properties.law import check_round_trips

SERVER = Target("llvm -mcpu=cooperlake --num-cores=1")
"""A processor with dot products of bytes and of bfloat16, whatever this machine has."""
KINDS = {
    "u8s8": ("uint8", "int8", "int32", "dot_16x4_vnni"),
    "s8u8": ("int8", "uint8", "int32", "dot_16x4_vnni"),
    "s8s8": ("int8", "int8", "int32", "dot_16x4_vnni"),
    "bf16": ("bfloat16", "bfloat16", "float32", "dot_16x2_avx512bf16"),
}


def product(where: str, extents: dict[str, int], kind: str = "u8s8") -> PrimFunc:
    """`where` is such as "C[i, j] A[i, k] B[k, j]"; k and what begins with r is summed over."""
    c, a, b = where.split("] ")
    first, second, result, _ = KINDS[kind]
    shapes = []
    for text in (c, a, b.rstrip("]")):
        dims = []
        for index in text.split("[")[1].split(", "):
            dims.append(str(sum(extents[v] - 1 for v in index.split(" + ")) + 1))
        shapes.append(", ".join(dims))
    names = list(extents)
    letters = "".join("R" if v[0] in "kr" else "S" for v in names)
    at = [
        ", ".join(
            " + ".join("v" + v for v in index.split(" + "))
            for index in text.split("[")[1].split(", ")
        )
        for text in (c, a, b.rstrip("]"))
    ]
    func = from_source(f"""
@T.prim_func
def f(A: T.Buffer(({shapes[1]},), "{first}"), B: T.Buffer(({shapes[2]},), "{second}"),
      C: T.Buffer(({shapes[0]},), "{result}")):
    for {", ".join(names)} in T.grid({", ".join(str(n) for n in extents.values())}):
        with T.block("C"):
            {", ".join("v" + v for v in names)} = T.axis.remap("{letters}", [{", ".join(names)}])
            with T.init():
                C[{at[0]}] = T.cast(0, "{result}")
            C[{at[0]}] = C[{at[0]}] + (
                T.cast(A[{at[1]}], "{result}") * T.cast(B[{at[2]}], "{result}")
            )
""")
    assert isinstance(func, PrimFunc)
    return func


MATMUL = "C[i, j] A[i, k] B[k, j]"
NHWC = "C[n, h, w, o] A[n, h + r, w + rs, k] B[r, rs, k, o]"
NCHW = "C[n, o, h, w] A[n, k, h + r, w + rs] B[o, k, r, rs]"


def window(channels: int, out: int) -> dict[str, int]:
    return {"n": 1, "h": 3, "w": 4, "o": out, "r": 3, "rs": 2, "k": channels}


def tiled(func: PrimFunc, kind: str, sum_intrin: str | None = "sum_16x4_vnni") -> list[Schedule]:
    """The sketches with the instruction, from the rule alone."""
    rule = MultiLevelTilingPacked(
        KINDS[kind][3], structure="SSRSRS", max_innermost_factor=64, sum_intrin=sum_intrin,
        reuse_write={"req": "may", "levels": [1, 2], "scope": "global"},
    )  # fmt: skip
    context = ms.TuneContext(mod=func, target=SERVER, rand_state=1)
    rule.initialize_with_tune_context(context)
    sch = Schedule(func, seed=3)
    return [s for s in rule.apply(sch, sch.get_block("C")) if s is not sch]


def operands(func: PrimFunc, seed: int) -> list[np.ndarray]:
    """Bytes from end to end; whole numbers as floats, so that sums are exact in any order."""
    rng = np.random.default_rng(seed)
    out = []
    for b in func.buffers:
        shape = [int(const_int(n) or 0) for n in b.shape]
        kind = dtypes.numpy_dtype(b.dtype)
        if dtypes.is_float(b.dtype):
            out.append(rng.integers(-8, 9, shape).astype(kind))
        else:
            lo, hi = np.iinfo(kind).min, np.iinfo(kind).max
            out.append(rng.integers(lo, hi, shape, endpoint=True).astype(kind))
    return out


def is_right(func: PrimFunc, sch: Schedule, seed: int = 0, *, interpret: bool = True) -> None:
    """The interpreter, and machine code where this machine has the instruction."""
    want, got, kept = (operands(func, seed) for _ in range(3))
    run(func, *want) if interpret else build(func, "llvm --num-cores=1")["f"](*want)
    if interpret:
        run(sch.mod["f"], *got)
        np.testing.assert_array_equal(got[2], want[2])
    text = sch.mod.script()
    if not any(intrin(k[3]).missing(Target("llvm")) for k in KINDS.values()):
        assert "x86." in text
        build(sch.mod, "llvm --num-cores=1")["f"](*kept)
        np.testing.assert_array_equal(kept[2], want[2])


# ----------------------------------------------------------------------------- what it makes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [MATMUL, "C[i, j] A[i, k] B[j, k]", "C[i, j] A[k, i] B[k, j]"])
def test_matmuls_in_every_layout(where: str, kind: str) -> None:
    func = product(where, {"i": 16, "j": 32, "k": 8}, kind)
    found = tiled(func, kind)
    assert len(found) == 3
    for sch in found:
        assert postprocess(sch, list(Postproc.create("vnni"))) is None
        is_right(func, sch)


@pytest.mark.parametrize(
    ("where", "extents"),
    [
        (NHWC, window(8, 16)), (NCHW, window(8, 16)), (NHWC, window(4, 10)),
        (NHWC, window(3, 16)),  # the window is in the way of padding: 3 * 2 * 3 become one
        ("C[b, i, j] A[b, i, k] B[b, j, k]", {"b": 2, "i": 3, "j": 16, "k": 6}),
        ("C[i, j] A[i, k, r] B[r, j]", {"i": 2, "j": 16, "k": 2, "r": 4}),
    ],
)  # fmt: skip
def test_other_products(where: str, extents: dict[str, int]) -> None:
    func = product(where, extents)
    found = tiled(func, "u8s8")
    assert len(found) == 3
    for sch in found:
        assert postprocess(sch, list(Postproc.create("vnni"))) is None
        is_right(func, sch)
    check_round_trips(func, found[0])


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    kind=st.sampled_from(list(KINDS)),
    i=st.integers(1, 40),
    j=st.integers(9, 90),
    k=st.integers(3, 70),
    where=st.sampled_from([MATMUL, "C[i, j] A[i, k] B[j, k]", "C[j, i] A[j, k] B[k, i]"]),
)
def test_any_extents(kind: str, i: int, j: int, k: int, where: str) -> None:
    func = product(where, {"i": i, "j": j, "k": k}, kind)
    for seed, sch in enumerate(tiled(func, kind)):
        assert postprocess(sch, list(Postproc.create("vnni"))) is None
        is_right(func, sch, seed, interpret=False)


def test_packing_is_vectors() -> None:
    """Four rows are read and shuffled, not sixty-four bytes."""
    func = product(MATMUL, {"i": 4, "j": 32, "k": 8})
    sch = tiled(func, "u8s8")[0]
    text = sch.mod.script()
    assert "T.vectorized(64)" in text
    assert "B_global = T.alloc_buffer((2, 2, 16, 4)" in text


def test_sums_of_the_offset_are_taken_where_it_lay() -> None:
    """Named for a bug: they were taken of the packed copy, byte by byte."""
    func = product(MATMUL, {"i": 4, "j": 64, "k": 8}, "s8s8")
    fitting = {"sum_16x4_vnni", "sum_8x4_avxvnni", None}
    for name in fitting:
        sch = tiled(func, "s8s8", name)[0]
        read = sch.get(sch.get_block("B_sum")).reads[0].buffer
        assert (read is func.buffers[1]) == (name != "sum_16x4_vnni")


@pytest.mark.parametrize(
    ("where", "extents"),
    [
        (MATMUL, {"i": 4, "j": 128, "k": 8}),
        (MATMUL, {"i": 4, "j": 48, "k": 8}),  # three vectors: one at a time
        ("C[i, j] A[i, k] B[j, k]", {"i": 4, "j": 64, "k": 16}),
        ("C[b, i, j] A[b, i, k] B[b, k, j]", {"b": 2, "i": 3, "j": 64, "k": 8}),
        (NHWC, window(8, 64)),
    ],
)
def test_sums_of_the_offset_by_the_instruction(where: str, extents: dict[str, int]) -> None:
    """Of each few vectors right after they are packed, while they are in a cache."""
    func = product(where, extents, "s8s8")
    for sch in tiled(func, "s8s8"):
        copy, sums = (sch.get_loops(sch.get_block(x)) for x in ("B_global", "B_sum_o"))
        assert sch.get(copy[0]) is sch.get(sums[0])
        assert "sum_16x4_vnni" in str(sch.trace)
        assert postprocess(sch, list(Postproc.create("vnni"))) is None
        assert "B_sum" not in {b.name for b in blocks(sch.mod["f"].body)}
        is_right(func, sch)
    check_round_trips(func, tiled(func, "s8s8")[0])


def test_loops_that_sum_have_a_limit_of_their_own() -> None:
    """Half of the sum at most would be added to in memory: a bfloat16 matmul had 512 steps."""
    func = product(MATMUL, {"i": 64, "j": 1024, "k": 1024}, "bf16")
    for most, want in ((None, [8, 8, 8]), (512, [8, 8, 512])):
        rule = MultiLevelTilingPacked(
            "dot_16x2_avx512bf16", structure="SSRSRS", max_innermost_factor=8, max_sum_factor=most
        )
        rule.initialize_with_tune_context(ms.TuneContext(mod=func, target=SERVER, rand_state=1))
        sch = Schedule(func, seed=3)
        found = rule.apply(sch, sch.get_block("C"))[-1].trace.insts
        assert [int(x.attrs[1]) for x in found if x.kind.name == "SamplePerfectTile"] == want


def test_the_default_rules_sum_by_an_instruction() -> None:
    for name, dot in (("vnni", "vnni"), ("avx512", "avx512"), ("avxvnni", "avxvnni")):
        rules = [r for r in DEFAULTS[name] if isinstance(r, MultiLevelTilingPacked)]
        first = next(r for r in rules if r.intrin_name.endswith(dot))
        assert first.sum_intrin is not None
        assert first.sum_intrin.endswith(dot)
    with pytest.raises(UserError, match="no tensor intrinsic"):
        MultiLevelTilingPacked("dot_16x4_vnni", structure="SSRSRS", sum_intrin="sum_1x1")


# ----------------------------------------------------------------------------- what it leaves alone
@pytest.mark.parametrize(
    ("where", "extents"),
    [
        (MATMUL, {"i": 8, "j": 3, "k": 8}),  # five times as much work
        (MATMUL, {"i": 8, "j": 16, "k": 1}),
        ("C[i] A[i, k] B[k]", {"i": 16, "k": 16}),  # signed bytes are broadcast
        ("C[h, w] A[h + r, w + rs] B[r, rs]", {"h": 16, "w": 16, "r": 4, "rs": 4}),
        ("C[i, j] A[i, j, k] B[i, j, k]", {"i": 4, "j": 16, "k": 8}),  # no reuse
    ],
)  # fmt: skip
def test_what_the_instruction_does_not_help(where: str, extents: dict[str, int]) -> None:
    assert tiled(product(where, extents), "u8s8") == []


def test_nothing_is_done_without_the_instruction() -> None:
    func = product(MATMUL, {"i": 4, "j": 32, "k": 8})
    rule = MultiLevelTilingPacked("dot_16x4_vnni", structure="SSRSRS")
    rule.initialize_with_tune_context(ms.TuneContext(mod=func, target="llvm -mcpu=haswell"))
    sch = Schedule(func, seed=1)
    assert rule.apply(sch, sch.get_block("C")) == [sch]


# ----------------------------------------------------------------------------- what the model sees
def scored(func: PrimFunc, sch: Schedule) -> float:
    assert postprocess(sch, list(Postproc.create("vnni"))) is None
    return features_of(sch.mod, Machine.of(SERVER))[1]


def test_the_model_knows_what_an_instruction_does() -> None:
    """Named for a bug: a call on vectors counted as a scalar function of one element, so no
    candidate with an instruction was ever measured."""
    n = 256
    func = product(MATMUL, {"i": n, "j": n, "k": n})
    sch = tiled(func, "u8s8")[0]
    assert postprocess(sch, list(Postproc.create("vnni"))) is None
    layout, facts = describe(sch.mod)
    block = layout.blocks[0]
    assert block.calls == 0
    trips = int(np.prod([int(facts[f.extent]) for f in block.loops]))
    assert trips == n * n * n // 4  # a lane of the result, four products at a time
    sizes = {a.size for a in block.accesses}
    assert sizes == {4}
    best: Any = max(scored(func, s) for s in tiled(func, "u8s8"))
    plain = Schedule(func)
    assert best > features_of(plain.mod, Machine.of(SERVER))[1] + 3  # log2
