"""Do the sketches that MetaSchedule makes for tensor cores run, whatever their tile sizes?

The schedule is that of reference B.1, written out; post-processing is the target's own.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from wmma_programs import SHORT, matmul

from gputune import meta_schedule as ms
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.ir.interp import run
from gputune.schedule import BlockRV, Schedule
from gputune.target import Target

NOTE, INIT = "meta_schedule.auto_tensorize", "meta_schedule.auto_tensorize_init"
N = 64


def sketch(
    ab: str, c: str, trans: bool, i_sizes: list[int], j_sizes: list[int], k_sizes: list[int]
) -> Schedule:
    """The product of N x N with these tiles of tiles: five of i and j, three of k."""
    sch = Schedule(matmul(ab, c, trans, N))
    block = sch.get_block("C")
    kind = f"{SHORT[ab]}{SHORT[ab]}{SHORT[c]}" + "_trans" * trans
    written = sch.reindex(block, ("write", 0))
    for which in (0, 1):
        sch.reindex(block, ("read", which))
    if not trans:  # reindex lays B out as [j, k], in the order of the iterators
        sch.transform_layout(
            block, ("read", 1), lambda j, k: (k, j), assume_injective_transform=True
        )
    i, j, k = sch.get_loops(block)
    (i, i_in), (j, j_in), (k, k_in) = (sch.split(x, [None, 16]) for x in (i, j, k))
    sch.reorder(i, j, k, i_in, j_in, k_in)
    main = sch.blockize(i_in)
    sch.annotate(main, NOTE, f"wmma_sync_16x16x16_{kind}")
    sch.annotate(main, INIT, f"wmma_fill_16x16x16_{SHORT[c]}")
    sch.annotate(main, "warp_execution", 1)
    i0, i1, i2, i3, i4 = sch.split(i, i_sizes)
    j0, j1, j2, j3, j4 = sch.split(j, j_sizes)
    k0, k1, k2 = sch.split(k, k_sizes)
    sch.reorder(i0, j0, i1, j1, i2, j2, k0, k1, i3, j3, k2, i4, j4)
    by, bx, warp = (sch.fuse(*pair) for pair in ((i0, j0), (i1, j1), (i2, j2)))
    sch.bind(by, "blockIdx.y")
    sch.bind(bx, "blockIdx.x")
    sch.bind(warp, "threadIdx.y")
    rows, cols = i_sizes[3] * i_sizes[4], j_sizes[3] * j_sizes[4]
    sch.transform_layout(
        main, ("write", 0),
        lambda i, j: (
            i // 16 // rows, j // 16 // cols, i // 16 % rows, j // 16 % cols, i % 16, j % 16,
        ),
        assume_injective_transform=True,
    )  # fmt: skip
    out = sch.cache_write(main, 0, "shared.dyn")
    sch.reverse_compute_at(out, bx, True)
    store = sch.cache_write(main, 0, "wmma.accumulator")
    _, _, a, b, c_, d, _, _ = sch.get_loops(out)
    sch.reorder(c_, a, b, d)
    sch.compute_at(store, c_, True)
    loops = sch.get_loops(store)
    sch.bind(sch.fuse(loops[3], loops[4]), "threadIdx.y")
    sch.reverse_compute_inline(written)
    tile = sch.blockize(sch.get_loops(store)[-2])
    sch.annotate(tile, NOTE, f"wmma_store_16x16x16_{SHORT[c]}_shared_dyn")
    sch.fuse(*sch.get_loops(out)[3:])
    sch.annotate(out, "meta_schedule.cooperative_fetch", 4)
    for which in (0, 1):
        fetch = sch.cache_read(main, which, "shared.dyn", [main])
        sch.compute_at(fetch, k0, True)
        sch.fuse(*sch.get_loops(fetch)[-2:])
        sch.annotate(fetch, "meta_schedule.cooperative_fetch", 4)
        (copy,) = sch.get_producers(fetch)
        sch.compute_inline(copy)
        sch.storage_align(fetch, 0, -2, 32, 8 if ab == "float16" else 16)
    for which, name in ((0, "a"), (1, "b" + "_trans" * trans)):
        load = sch.cache_read(main, which, f"wmma.matrix_{name[0]}")
        sch.compute_at(load, k1, True)
        tile = _tiles(sch, load)
        sch.annotate(tile, NOTE, f"wmma_load_16x16x16_{SHORT[ab]}_{name}_shared_dyn")
    sch.enter_postproc()
    context = ms.TuneContext(mod=sch.mod, target=Target("cuda -arch=sm_80"))
    for p in ms.Postproc.create("cuda-tensorcore"):
        p._initialize_with_tune_context(context)
        assert p.apply(sch), p
    return sch


def _tiles(sch: Schedule, block: BlockRV) -> BlockRV:
    i, j = sch.get_loops(block)[-2:]
    (i, i_in), (j, j_in) = (sch.split(x, [None, 16]) for x in (i, j))
    sch.reorder(i, j, i_in, j_in)
    return sch.blockize(i_in)


def sizes(count: int) -> st.SearchStrategy[list[int]]:
    """Tile sizes whose product is N / 16."""
    every = [list(x) for x in product([1, 2, 4], repeat=count) if prod(x) == N // 16]
    return st.sampled_from(every)


@settings(derandomize=True, deadline=None, max_examples=6, phases=[Phase.generate])
@given(
    kind=st.sampled_from([
        ("float16", "float32", True), ("float16", "float16", False), ("int8", "int32", True),
    ]),
    i=sizes(5), j=sizes(5), k=sizes(3),
)  # fmt: skip
def test_sketches_are_right(
    kind: tuple[str, str, bool], i: list[int], j: list[int], k: list[int]
) -> None:
    ab, c, trans = kind
    func = sketch(ab, c, trans, i, j, k).mod["main"]
    rng = np.random.default_rng(5)
    a, b = (rng.integers(-3, 4, (N, N)).astype(ab) for _ in range(2))
    want = (a.astype(np.int64) @ (b.T if trans else b).astype(np.int64)).astype(c)
    out = np.zeros((N, N), c)
    run(func, a, b, out)
    np.testing.assert_array_equal(out, want)
    source = generate(func)
    (launch,) = source.host.launches
    assert launch.block == (32, i[2] * j[2], 1)
    report = host_run(host_compile(source), {"A": a, "B": b, "C": None}, order="random")
    assert not report.findings, str(report)
    np.testing.assert_array_equal(np.reshape(report.outputs["C"], (N, N)), want)
