"""Performance engineer on the ladder: from plain cores to mma.sync with copies in the background.

Each step is printed, run on the processor with every access checked, and compiled, with no GPU.
"""

import numpy as np

import gputune as gt
from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.script import tir as T

M, N, K = 128, 128, 192


@T.prim_func
def mm(
    A: T.Buffer((M, K), "float16"), B: T.Buffer((K, N), "float16"), C: T.Buffer((M, N), "float32")
):
    for i, j, k in T.grid(M, N, K):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + T.Cast("float32", A[vi, vk]) * T.Cast("float32", B[vk, vj])


def fetch(sch, block, loop, warps, rows):
    """Tiles of A and B come through shared memory, 16 bytes a thread at a time."""
    for operand in (0, 1):
        copy = sch.cache_read(block, operand, "shared.dyn")
        sch.compute_at(copy, loop)
        fused = sch.fuse(*sch.get_loops(copy)[-2:])
        _, y, x, v = sch.split(fused, [None, warps, 32, 8])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(v)
        if rows == "padded":  # eight rows of a tile then lie in different banks
            sch.storage_align(copy, 0, -2, 32, 8)
        if rows == "swizzled":  # and so they do without padding
            sch.annotate(copy, "shared_swizzle", 128)


def plain_cores():
    """S0: each thread computes 4 x 4 results in registers."""
    sch = gt.Schedule(mm)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, i1, i2 = sch.split(i, [None, 8, 4])
    j0, j1, j2 = sch.split(j, [None, 32, 2])
    k0, k1 = sch.split(k, [None, 64])
    sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
    axes = ("blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x")
    for loop, axis in zip((i0, j0, i1, j1), axes):
        sch.bind(loop, axis)
    sch.reverse_compute_at(sch.cache_write(block, 0, "local"), j1)
    fetch(sch, block, k0, 8, "plain")
    return sch


def tiles(sch, block):
    """The loops over tiles of 16 x 16, and a block of what is in them."""
    (i, i_in), (j, j_in) = (sch.split(x, [None, 16]) for x in sch.get_loops(block)[-2:])
    sch.reorder(i, j, i_in, j_in)
    return sch.blockize(i_in)


def tensor_cores(kind, names, rows, stages):
    """Four warps compute 64 x 64 results, each 32 x 32 in its accumulators."""
    sch = gt.Schedule(mm)
    block = sch.get_block("C")
    (i, i_in), (j, j_in), (k, k_in) = (sch.split(x, [None, 16]) for x in sch.get_loops(block))
    sch.reorder(i, j, k, i_in, j_in, k_in)
    product = sch.blockize(i_in)
    i0, i1, i2 = sch.split(i, [None, 2, 2])
    j0, j1, j2 = sch.split(j, [None, 2, 2])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
    warp = sch.fuse(i1, j1)
    for loop, axis in zip((i0, j0, warp), ("blockIdx.y", "blockIdx.x", "threadIdx.y")):
        sch.bind(loop, axis)
    out = sch.cache_write(product, 0, f"{kind}.accumulator")
    sch.reverse_compute_at(out, warp)
    fetch(sch, product, k0, 4, rows)
    blocks = []
    for operand in (0, 1):
        load = sch.cache_read(product, operand, f"{kind}.matrix_{'ab'[operand]}")
        sch.compute_at(load, k1)
        blocks.append(tiles(sch, load))
    blocks += [tiles(sch, out), sch.decompose_reduction(product, k0), product]
    for one, name in zip(blocks, names):
        sch.tensorize(one, name)
    if stages > 1:  # the two copies run ahead of the arithmetic, in the background
        sch.annotate(k0, "software_pipeline_stage", [0, 0, stages - 1])
        sch.annotate(k0, "software_pipeline_async_stages", [0])
    return sch


WMMA = [
    "wmma_load_16x16x16_f16_a_shared_dyn", "wmma_load_16x16x16_f16_b_shared_dyn",
    "wmma_store_16x16x16_f32_global", "wmma_fill_16x16x16_f32", "wmma_sync_16x16x16_f16f16f32",
]  # fmt: skip
MMA = [
    "mma_ldmatrix_f16_a_dyn", "mma_ldmatrix_f16_b_dyn", "mma_store_16x16_f32_global",
    "mma_fill_16x16_f32", "mma_f16f16f32",
]  # fmt: skip
LADDER = {
    "plain cores": plain_cores(),
    "wmma": tensor_cores("wmma", WMMA, "plain", stages=1),
    "mma.sync and ldmatrix": tensor_cores("mma", MMA, "plain", stages=1),
    "mma.sync, rows padded": tensor_cores("mma", MMA, "padded", stages=1),
    "mma.sync, rows swizzled": tensor_cores("mma", MMA, "swizzled", stages=1),
    "mma.sync, three stages": tensor_cores("mma", MMA, "swizzled", stages=3),
}
rng = np.random.default_rng(0)
a, b = (rng.integers(-3, 4, shape).astype("float16") for shape in ((M, K), (K, N)))
want = a.astype("float32") @ b.astype("float32")
for step, sch in LADDER.items():
    (func,) = sch.mod.functions.values()
    source = generate(func)
    report = host_run(host_compile(source), {"A": a, "B": b, "C": None})
    assert not report.findings, report
    assert np.array_equal(report.outputs["C"].reshape(M, N), want)
    (figures,) = report.kernels.values()
    print(f"# {step}: {figures.barriers} barriers, {figures.bank_conflicts} bank conflicts")
    print(sch.mod.script())
    for arch in ("sm_80", "sm_90a", "sm_120"):
        (facts,) = compile_cuda(source, arch).facts.values()
        units = {x: facts.mix.get(x, 0) for x in ("FFMA", "HMMA", "LDSM", "LDGSTS", "BAR")}
        print(f"#   {arch}: {facts.registers} registers, {units}")
