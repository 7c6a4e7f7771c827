"""The tensor intrinsics of CPUs: what is registered computes what it says, in the interpreter, as
machine code where the processor has the instruction, and as assembly text everywhere."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from amx_programs import (
    DOTS,
    DTYPES,
    EmulatedAmx,
    copy_through_tiles,
    depth_of,
    product,
    tiled_product,
)

from gputune.codegen.llvm import compile, jit, tile_registers
from gputune.codegen.llvm.kernel import generate
from gputune.errors import BuildError, ScheduleError
from gputune.ir import dtypes
from gputune.ir.build import const_int
from gputune.ir.check import check
from gputune.ir.interp import run
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.target import Target
from gputune.target.intrin import TensorIntrin, intrin
from tests.properties.law import check_round_trips

X86 = "x86_64-unknown-linux-gnu"
ARM = "aarch64-unknown-linux-gnu"
SERVER = "+avx512vnni,+avx512bf16,+avx512bw,+avx512vl,+avxvnni,+amx-int8,+amx-bf16"
WITH_AMX = Target("llvm -num-cores=2 -mattr=+amx-int8,+amx-bf16") if (
    jit.host_triple().startswith("x86_64")
) else None  # fmt: skip

# The instruction that each vector intrinsic is, and what a processor needs.
VECTORS = {
    "dot_16x4_vnni": (X86, r"vpdpbusd\s+.*%zmm", "+avx512vnni,+avx512bw,+avx512vl"),
    "dot_16x4_avx512": (X86, r"vpmaddwd\s+.*%zmm", "+avx512bw,+avx512vl"),
    "dot_8x4_avxvnni": (X86, r"\{vex\}\s*vpdpbusd\s+.*%ymm", "+avx2,+avxvnni"),
    "dot_16x4_i8i8_vnni": (X86, r"vpdpbusd\s+.*%zmm", "+avx512vnni,+avx512bw,+avx512vl"),
    "dot_16x4_i8i8_avx512": (X86, r"vpmaddwd\s+.*%zmm", "+avx512bw,+avx512vl"),
    "dot_8x4_i8i8_avxvnni": (X86, r"\{vex\}\s*vpdpbusd\s+.*%ymm", "+avx2,+avxvnni"),
    "dot_8x4_avxvnniint8": (X86, r"vpdpbssd\s+.*%ymm", "+avx2,+avxvnniint8"),
    "dot_16x2_avx512bf16": (X86, r"vdpbf16ps\s+.*%zmm", "+avx512bf16,+avx512bw,+avx512vl"),
    "sum_16x4_vnni": (X86, r"vpdpbusd\s+.*%zmm", "+avx512vnni,+avx512bw,+avx512vl"),
    "sum_16x4_avx512": (X86, r"vpmaddubsw\s+.*%zmm", "+avx512bw,+avx512vl"),
    "sum_8x4_avxvnni": (X86, r"\{vex\}\s*vpdpbusd\s+.*%ymm", "+avx2,+avxvnni"),
    "dot_4x4_i8i8s32_neon": (ARM, r"smull\s+v", "+neon"),
    "dot_4x4_i8i8s32_sdot": (ARM, r"sdot\s+v", "+neon,+dotprod"),
    "dot_4x4_u8u8u32_udot": (ARM, r"udot\s+v", "+neon,+dotprod"),
    "dot_4x4_u8u8i32_hdot": (ARM, r"udot\s+v", "+neon,+dotprod"),
}
NAMES = [n for n in TensorIntrin.names() if "." not in n and intrin(n).kind == "llvm"]
needs_x86 = pytest.mark.skipif(WITH_AMX is None, reason="this is no x86-64 processor")


def operands(func: PrimFunc, which: int) -> list[np.ndarray]:
    """Random numbers of every kind: bytes from end to end, small whole floats (odd `which`: sums
    are exact in any order), or floats of all sizes."""
    rng = np.random.default_rng(which)
    out = []
    for b in func.buffers:
        shape = [int(const_int(n) or 0) for n in b.shape]
        kind = dtypes.numpy_dtype(b.dtype)
        if dtypes.is_float(b.dtype):
            whole = rng.integers(-9, 10, shape).astype(np.float64)
            spread = rng.standard_normal(shape) * 10.0 ** rng.integers(-2, 3, shape)
            out.append((whole if which % 2 else spread).astype(kind))
            continue
        lo, hi = np.iinfo(kind).min, np.iinfo(kind).max
        picks = [rng.integers(lo, hi, shape, endpoint=True), np.full(shape, lo), np.full(shape, hi)]
        out.append(picks[which % 3].astype(kind))
    return out


def allowed(found: TensorIntrin, args: list[np.ndarray]) -> np.ndarray:
    """How far from the description the result may be, element by element."""
    if not found.tolerance:
        return np.zeros(args[-1].shape)
    size = [np.abs(a) for a in args]
    run(found.desc, *size)
    return size[-1].astype(np.float64) * found.tolerance + 2.0**-125


# ----------------------------------------------------------------------------- their meaning
def test_there_are_these() -> None:
    loads = [f"amx_load_16x16x{k}_{s}_{x}" for k, s in ((32, "bf16"), (64, "s8"), (64, "u8"))
             for x in "ab"]  # fmt: skip
    sums = [f"amx_{do}_16x16_{s}" for do in ("load", "zero", "store") for s in ("f32", "s32")]
    assert set(NAMES) == {*VECTORS, *DOTS, *loads, *sums}


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("name", NAMES)
def test_the_implementation_does_what_is_described(name: str, which: int) -> None:
    found = intrin(name)
    check(IRModule.from_expr(found.desc))
    check(IRModule.from_expr(found.impl))
    want, got = operands(found.desc, which), operands(found.desc, which)
    limit = np.zeros(()) if which % 2 else allowed(found, operands(found.desc, which))
    with np.errstate(over="ignore"):
        run(found.desc, *want)
        run(found.impl, *got)
    for x, y in zip(got[:-1], want[:-1], strict=True):
        np.testing.assert_array_equal(x, y)
    if dtypes.is_float(found.desc.buffers[-1].dtype):
        off = np.abs(got[-1].astype(np.float64) - want[-1].astype(np.float64))
        assert (off <= limit).all()
    else:
        np.testing.assert_array_equal(got[-1], want[-1])
    for f in (found.desc, found.impl):
        assert from_source(f.script()).script() == f.script()


def test_a_tolerance_is_no_wider_than_it_must_be() -> None:
    """Order and rounding of a bfloat16 instruction show: bits differ from the description's."""
    for name in ("dot_16x2_avx512bf16", "amx_dot_16x16x32_bf16bf16f32"):
        found = intrin(name)
        differ = 0
        for which in range(0, 20, 2):
            want, got = operands(found.desc, which), operands(found.desc, which)
            run(found.desc, *want)
            run(found.impl, *got)
            differ += int((want[-1] != got[-1]).sum())
        assert found.tolerance > 0
        assert differ


@pytest.mark.parametrize("name", ["dot_16x2_avx512bf16", "amx_dot_16x16x32_bf16bf16f32"])
def test_denormal_numbers_are_zero_to_bfloat16_instructions(name: str) -> None:
    found = intrin(name)
    a, b, c = operands(found.desc, 0)
    a[...] = np.float32(2.0**-130)
    b[...] = np.float32(2.0**20)
    c[...] = np.float32(2.0**-130)
    run(found.impl, a, b, c)
    assert (c == 0).all()
    a[...], b[...] = np.float32(2.0**-64), np.float32(2.0**-64)
    c[...] = np.float32(2.0**-126)
    run(found.impl, a, b, c)
    assert (c > 2.0**-126).all() == (name == "dot_16x2_avx512bf16")
    # a product smaller than the least normal number survives only inside a fused addition


@pytest.mark.parametrize("which", range(8))
@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("amx")])
def test_the_machine_gives_the_same_bits_as_the_meaning(name: str, which: int) -> None:
    found = intrin(name)
    missing = found.missing(Target("llvm"))
    if missing:
        pytest.skip(missing)
    want, got = operands(found.impl, which), operands(found.impl, which)
    with np.errstate(over="ignore"):
        run(found.impl, *want)
    build(found.impl, "llvm")(*got)
    np.testing.assert_array_equal(got[-1], want[-1])


@pytest.mark.parametrize(
    ("a", "b", "c"),
    [
        ((0, 0), (0, 0), 2.0**-130), ((1, 0), (2.0**-126, 0), 2.0**-130),
        ((2.0**-70, 0), (2.0**-70, 0), 0), ((2.0**-64, 0), (2.0**-66, 0), 2.0**-126),
        ((2.0**-126 * 1.5, 0), (-1, 0), 2.0**-126), ((2.0**127, 2.0**127), (2, -2), 0),
        ((2.0**127, 2.0**127), (1.5, -1.5), -3e38), ((np.inf, 1), (1, 1), 0),
        ((np.inf, np.inf), (1, -1), 0), ((0, 0), (-1, -1), -0.0),
    ],
)  # fmt: skip
def test_vdpbf16ps_at_the_ends_of_its_range(a: Any, b: Any, c: float) -> None:
    found = intrin("dot_16x2_avx512bf16")
    missing = found.missing(Target("llvm"))
    if missing:
        pytest.skip(missing)
    kind = dtypes.numpy_dtype("bfloat16")
    x = np.array(a, np.float32).astype(kind)
    y = np.tile(np.array(b, np.float32), (16, 1)).astype(kind)
    want, got = np.full(16, c, np.float32), np.full(16, c, np.float32)
    run(found.impl, x, y, want)
    build(found.impl, "llvm")(x, y, got)
    np.testing.assert_array_equal(got, want)
    assert (np.signbit(got) == np.signbit(want)).all() or np.isnan(got).all()


# ----------------------------------------------------------------------------- assembly text
@cache
def llvm() -> Any:
    found = jit.binding()
    found.initialize_all_targets()
    found.initialize_all_asmprinters()
    return found


def assembly(monkeypatch: pytest.MonkeyPatch, func: PrimFunc, triple: str, mattr: str) -> str:
    """The text for any processor that LLVM here knows."""
    try:
        target = llvm().Target.from_triple(triple)
    except RuntimeError as e:
        pytest.skip(f"LLVM here has no target {triple}: {e}")
    monkeypatch.setattr(jit, "host_triple", lambda: triple)
    limits = CpuLimits(64, 32, 2) if triple == X86 else CpuLimits(16, 32, 2)
    text = generate(lower(func, limits), limits, "", mattr, "kernel")
    machine = target.create_target_machine(cpu="", features=mattr, opt=jit.CODEGEN_LEVEL)
    module = llvm().parse_assembly(text, llvm().create_context())
    module.verify()
    return str(machine.emit_assembly(module))


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_intrinsic_is_its_instruction(name: str, monkeypatch: Any) -> None:
    triple, instruction, features = VECTORS[name]
    assert intrin(name).features <= {f[1:] for f in features.split(",")}
    assert re.search(instruction, assembly(monkeypatch, intrin(name).impl, triple, features))


@pytest.mark.parametrize("name", VECTORS)
def test_code_for_a_processor_without_it_is_refused(name: str, monkeypatch: Any) -> None:
    triple, _, _ = VECTORS[name]
    with pytest.raises(BuildError, match="needs a processor with") as caught:
        assembly(monkeypatch, intrin(name).impl, triple, "")
    assert all(f in caught.value.message for f in intrin(name).features)


@pytest.mark.parametrize("dot", DOTS)
def test_a_product_is_instructions_on_tiles(dot: str, monkeypatch: Any) -> None:
    depth, _ = depth_of(dot)
    sch = Schedule(product(dot, 64, 32, 3 * depth))
    tiled_product(sch, dot)
    text = assembly(monkeypatch, sch.mod["mm"], X86, SERVER)
    op = {"bf16": "tdpbf16ps"}.get(DOTS[dot][0]) or f"tdpb{DOTS[dot][0][0]}{DOTS[dot][1][0]}d"
    assert len(re.findall(rf"{op}\s+%tmm", text)) in (4, 12)  # 12: the steps are written out
    for word in ("ldtilecfg", "tilezero", "tileloadd", "tilestored", "tilerelease"):
        assert word in text
    body = text[text.index("ldtilecfg") : text.index("tilerelease")]
    for dst, *_ in re.findall(rf"{op}\s+%tmm\d, %tmm\d, %tmm(\d)", body):
        assert int(dst) < 4


@pytest.mark.parametrize("short", ["f32", "s32"])
def test_sums_are_loaded_into_tiles(short: str, monkeypatch: Any) -> None:
    sch = copy_through_tiles(short)
    text = assembly(monkeypatch, sch.mod["copy"], X86, SERVER)
    assert "tileloadd" in text
    assert "tilestored" in text
    check_copy(sch, short)


def check_copy(sch: Schedule, short: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-99, 99, (48, 64)).astype(DTYPES[short])
    b = np.zeros((32, 32), DTYPES[short])
    run(sch.mod["copy"], a, b)
    np.testing.assert_array_equal(b, a[16:, 32:])
    if WITH_AMX is not None:
        b[:] = 0
        EmulatedAmx().run(compile(sch.mod["copy"], WITH_AMX, "copy"), a, b)
        np.testing.assert_array_equal(b, a[16:, 32:])


# ----------------------------------------------------------------------------- numbers of AMX
def small(func: PrimFunc, seed: int = 0) -> list[np.ndarray]:
    """Any bytes; small whole numbers as floats, so that sums are exact in any order."""
    rng = np.random.default_rng(seed)
    out = []
    for b in func.buffers:
        shape = [int(const_int(n) or 0) for n in b.shape]
        kind = dtypes.numpy_dtype(b.dtype)
        lo, hi = (-8, 9) if dtypes.is_float(b.dtype) else (np.iinfo(kind).min, np.iinfo(kind).max)
        out.append(rng.integers(lo, hi, shape, endpoint=True).astype(kind))
    return out


def agrees(func: PrimFunc, sch: Schedule, *, interpret: bool = True) -> None:
    """NumPy, the interpreter and machine code (its tiles emulated, and real ones if there are)."""
    a, b, c = small(func)
    wide = np.float32 if dtypes.is_float(func.buffers[2].dtype) else np.int32
    want = a.astype(wide) @ b.astype(wide)
    if interpret:
        run(sch.mod["mm"], a, b, c, check_regions=True)
        np.testing.assert_array_equal(c, want)
    if WITH_AMX is None:
        return
    kernel = compile(sch.mod["mm"], WITH_AMX, "mm")
    c[:] = 77
    EmulatedAmx().run(kernel, a, b, c)
    np.testing.assert_array_equal(c, want)
    if not tile_registers.refusal():
        c[:] = 77
        build(sch.mod, WITH_AMX)["mm"](a, b, c)
        np.testing.assert_array_equal(c, want)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dot", DOTS)
def test_products_of_tiles(dot: str, parallel: bool) -> None:
    depth, _ = depth_of(dot)
    func = product(dot, 32, 64, 2 * depth)
    sch = Schedule(func)
    tiled_product(sch, dot, parallel=parallel)
    agrees(func, sch, interpret=not parallel)
    check_round_trips(func, sch)


@pytest.mark.parametrize("tiles", [(1, 1), (1, 3), (3, 1)])
def test_other_numbers_of_tiles_at_a_time(tiles: tuple[int, int]) -> None:
    dot = "amx_dot_16x16x64_s8u8s32"
    func = product(dot, 48, 48, 64)
    sch = Schedule(func)
    tiled_product(sch, dot, tiles)
    agrees(func, sch, interpret=False)


def test_extents_that_tiles_do_not_divide_are_padded() -> None:
    dot = "amx_dot_16x16x64_u8s8s32"
    func = product(dot, 19, 35, 70)
    sch = Schedule(func)
    sch.pad_einsum("C", [32, 32, 64])
    tiled_product(sch, dot)
    agrees(func, sch)
    check_round_trips(func, sch)


@pytest.mark.parametrize("dot", ["amx_dot_16x16x64_u8s8s32", "amx_dot_16x16x32_bf16bf16f32"])
def test_products_on_the_machine(dot: str) -> None:
    """Large enough that a wrong stride or a lost tile shows; bits against the interpreter's."""
    reason = tile_registers.refusal()
    if reason or WITH_AMX is None:
        pytest.skip(f"no AMX here: {reason}")
    func = product(dot, 128, 96, 256)
    sch = Schedule(func)
    tiled_product(sch, dot, parallel=True)
    a, b, c = small(func)
    build(sch.mod, WITH_AMX)["mm"](a, b, c)
    wide = np.float32 if "f32" in dot else np.int32
    np.testing.assert_array_equal(c, a.astype(wide) @ b.astype(wide))


# ----------------------------------------------------------------------------- what is refused
@needs_x86
def test_a_kernel_is_not_loaded_where_the_system_gives_no_tiles(monkeypatch: Any) -> None:
    dot = "amx_dot_16x16x64_s8s8s32"
    sch = Schedule(product(dot, 32, 32, 64))
    tiled_product(sch, dot)
    monkeypatch.setattr(tile_registers, "refusal", lambda: "arch_prctl failed with EPERM")
    with pytest.raises(BuildError, match="uses AMX tiles, which this process cannot have") as e:
        build(sch.mod, WITH_AMX)
    assert "EPERM" in e.value.message
    assert e.value.code == "amx"
    assert "-amx-tile" in e.value.hint
    build(product(dot, 32, 32, 64), WITH_AMX)  # other kernels do not ask


def test_the_system_is_asked_once(monkeypatch: Any) -> None:
    asked = []

    class Libc:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.syscall: Any = lambda *args: (
                asked.append([a.value for a in args]) or len(asked) - 1
            )

    tile_registers.refusal.cache_clear()
    monkeypatch.setattr(tile_registers.ctypes, "CDLL", Libc)
    monkeypatch.setattr(tile_registers.host, "features", lambda: {"amx-tile": True})
    monkeypatch.setattr(tile_registers.sys, "platform", "linux")
    try:
        assert tile_registers.refusal() == ""
        assert tile_registers.refusal() == ""
        assert asked == [[158, 0x1023, 18]]
        tile_registers.refusal.cache_clear()
        tile_registers.ctypes.set_errno(1)
        assert "EPERM" in tile_registers.refusal()
        tile_registers.refusal.cache_clear()
        monkeypatch.setattr(tile_registers.host, "features", lambda: {"amx-tile": False})
        assert "no amx-tile" in tile_registers.refusal()
        assert len(asked) == 2
    finally:
        tile_registers.refusal.cache_clear()


def compiled(sch: Schedule, name: str = "mm") -> None:
    assert WITH_AMX is not None
    compile(sch.mod[name], WITH_AMX, name)


@needs_x86
def test_a_processor_without_tiles_is_refused() -> None:
    dot = "amx_dot_16x16x64_s8s8s32"
    sch = Schedule(product(dot, 32, 32, 64))
    tiled_product(sch, dot)
    with pytest.raises(BuildError, match=r"needs a processor with amx-(tile|int8)"):
        build(sch.mod, "llvm -mattr=-amx-tile")
    assert "no amx-int8" in intrin(dot).missing(Target("llvm -mattr=-amx-tile"))
    assert intrin(dot).missing(Target("llvm -mcpu=sapphirerapids")) == ""


@needs_x86
def test_more_than_eight_tiles_are_refused() -> None:
    dot = "amx_dot_16x16x64_s8s8s32"
    sch = Schedule(product(dot, 48, 48, 64))
    tiled_product(sch, dot, (3, 3))
    with pytest.raises(BuildError, match="needs one more AMX tile, and all 8 are in use") as caught:
        compiled(sch)
    assert "C_amx.tmm" in caught.value.message
    assert "2 x 2" in caught.value.hint


@needs_x86
def test_plain_statements_do_not_reach_tiles() -> None:
    dot = "amx_dot_16x16x64_s8s8s32"
    sch = Schedule(product(dot, 32, 32, 64))
    sch.cache_read("C", 0, "amx.tmm")
    with pytest.raises(BuildError, match="which only its own instructions reach") as caught:
        compiled(sch)
    assert "tensorize every block" in caught.value.hint


def written(body: str, columns: int = 16) -> PrimFunc:
    """A function with tiles `t` and `u` of `columns` columns, and the lanes of a tile as L."""
    lines = "\n".join(f"        {line}" for line in body.strip("\n").splitlines())
    text = f"""
@T.prim_func
def f(A: T.Buffer((64, 64), "int32"), B: T.Buffer((64, 64), "int32")):
    with T.block("root"):
        t = T.alloc_buffer((32, {columns}), "int32", scope="amx.tmm")
        u = T.alloc_buffer((32, {columns}), "int32", scope="amx.tmm")
        a = T.alloc_buffer((16, 64), "int8", scope="amx.tmm")
{lines}
"""
    for short, full in (
        ("ROW", "T.Ramp(0, 1, 256) // 16"), ("COL", "T.Ramp(0, 1, 256) % 16"),
        ("LEFT", "a[T.Ramp(0, 1, 1024) // 64, T.Ramp(0, 1, 1024) % 64]"),
        ("LOAD", 'T.call_intrin("int32x256", "x86.tileload.s32", '),
        ("STORE", 'T.call_intrin("int32x256", "x86.tilestore.s32", '),
    ):  # fmt: skip
        text = text.replace(short, full)
    func = from_source(text)
    assert isinstance(func, PrimFunc)
    return func


def refused(func: PrimFunc, reason: str) -> BuildError:
    assert WITH_AMX is not None
    with pytest.raises(BuildError, match=reason) as caught:
        compile(func, WITH_AMX, "f")
    return caught.value


@needs_x86
def test_tiles_lie_side_by_side_in_a_buffer() -> None:
    """Loops over them are written out, whatever their kind."""
    func = written(
        """
for i, j in T.grid(2, 2):
    t[ROW + i * 16, COL + j * 16] = LOAD A[ROW + i * 16 + 3, COL + j * 16 + 5])
for i, j in T.grid(2, 2):
    B[ROW + j * 16 + 1, COL + 20 - i * 16] = STORE t[ROW + i * 16, COL + j * 16])
""",
        columns=32,
    )
    rng = np.random.default_rng(0)
    a = rng.integers(-99, 99, (64, 64)).astype(np.int32)
    want, got = np.zeros((64, 64), np.int32), np.zeros((64, 64), np.int32)
    run(func, a, want)
    assert WITH_AMX is not None
    machine = EmulatedAmx()
    machine.run(compile(func, WITH_AMX, "f"), a, got)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got[1:17, 20:36], a[3:19, 5:21])
    assert machine.calls["tileloadd64"] == machine.calls["tilestored64"] == 4
    assert machine.calls["ldtilecfg"] == machine.calls["tilerelease"] == 1


@needs_x86
def test_tiles_do_not_outlive_a_parallel_loop() -> None:
    refused(
        written("""
t[ROW, COL] = LOAD A[ROW, COL])
for i in T.parallel(4):
    B[ROW + i * 16, COL] = STORE t[ROW, COL])
"""),
        "across a parallel loop",
    )


@needs_x86
def test_tiles_do_not_outlive_a_c_function() -> None:
    func = written("""
t[ROW, COL] = LOAD A[ROW, COL])
T.evaluate(T.call_extern("labs", A[0, 0], dtype="int32"))
B[ROW, COL] = STORE t[ROW, COL])
""")
    refused(func, "call_extern of labs: a C function does not keep the tiles t")


@needs_x86
def test_tiles_that_overlap_are_refused() -> None:
    func = written("""
t[ROW, COL] = LOAD A[ROW, COL])
B[ROW, COL] = STORE t[ROW + 8, COL])
""")
    refused(func, "two tiles of buffer t overlap")


@needs_x86
def test_rows_in_memory_must_be_whole() -> None:
    func = written("""
t[ROW, COL] = LOAD A[ROW, COL * 2])
B[ROW, COL] = STORE t[ROW, COL])
""")
    e = refused(func, "a tile of A cannot be taken from memory: its rows do not lie one by one")
    assert "64 bytes" in e.hint


@needs_x86
def test_sums_stay_in_their_register() -> None:
    func = written("""
t[ROW, COL] = LOAD A[ROW, COL])
u[ROW, COL] = T.call_intrin("int32x256", "x86.tdpbssd", t[ROW, COL], LEFT, LEFT)
B[ROW, COL] = STORE u[ROW, COL])
""")
    refused(func, "adds to the tile that it stores to, and these two differ: u and t")


@needs_x86
def test_operands_are_where_the_instruction_takes_them() -> None:
    refused(
        written("B[ROW, COL] = LOAD A[ROW, COL])"),
        "buffer B is in global memory, the instruction takes it from amx.tmm",
    )
    refused(
        written("t[ROW, COL] = LOAD A[ROW, COL])\nu[ROW, COL] = STORE t[ROW, COL])"),
        "buffer u is in amx.tmm, the instruction takes it in memory",
    )


@needs_x86
def test_which_tile_is_meant_must_be_known() -> None:
    func = written("""
for i in range(A[0, 0] % 2 + 1):
    t[ROW + i * 16, COL] = LOAD A[ROW, COL])
B[ROW, COL] = STORE t[ROW + 16, COL])
""")
    e = refused(func, "which tile of t is meant is not constant")
    assert "constant extents" in e.hint


@needs_x86
def test_cuda_has_no_code_for_tiles() -> None:
    assert "llvm" in intrin("amx_zero_16x16_s32").missing(Target("cuda -arch=sm_90a"))


def test_tensorize_asks_the_current_target() -> None:
    dot = "amx_dot_16x16x64_s8s8s32"
    sch = Schedule(product(dot, 32, 32, 64))
    with (
        Target("cuda -arch=sm_90a"),
        pytest.raises(ScheduleError, match="not for the current target") as caught,
    ):
        sch.tensorize(sch.get_loops("C")[0], dot)
    assert caught.value.code == "tensorize-target"
