"""Do the features of GPU programs say what the kernels do?"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from gpu_spaces import (
    MACHINE,
    SPACES,
    TARGET,
    Counted,
    accesses,
    lowered,
    matmul,
    passes,
    sectors,
    shared_bytes,
    sketch_of,
    softmax,
    softmax_in_blocks,
    transpose,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from search_spaces import suite_kernel

from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.raw import Configuration, RawArgument, raw_module
from gputune.errors import TargetError
from gputune.ir.nodes import IRModule
from gputune.kernels import KERNELS
from gputune.meta_schedule.gpu_machine import GpuMachine, blocks_of, most_registers, with_device
from gputune.meta_schedule.gpu_model import GPU_COLUMNS, SLOTS, _Kernel, _passed_on, column
from gputune.meta_schedule.gpu_warps import PREFIX, _tables, warp_access
from gputune.meta_schedule.index_spans import Form, facts_in, renumbered
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.postproc import Postproc
from gputune.meta_schedule.sketch_feature import (
    CPU_COUNT,
    FEATURE_COUNT,
    Machine,
    columns,
    describe,
    features_of,
)
from gputune.meta_schedule.tune_context import TuneContext
from gputune.schedule import Schedule
from gputune.target import Target, limits_of, occupancy
from gputune.target.gpu import _PER_SM, speeds_of
from tests.gpu_schedules import gpu_schedules

Row = np.ndarray


def told(row: Row, name: str) -> float:
    """A column, without its logarithm."""
    return 2.0 ** float(row[CPU_COUNT + column(name)]) - 1.0


def row_of(mod: IRModule, machine: Machine = MACHINE) -> tuple[Row, float]:
    return features_of(mod, machine)


# ----------------------------------------------------------------------------- many at once
@pytest.mark.parametrize("name", SPACES)
def test_a_matrix_of_candidates_is_what_each_of_them_is(name: str) -> None:
    sketch = sketch_of(name)
    rows = sketch.decisions.sample(300, np.random.default_rng(5))
    found = sketch.evaluate(rows)
    assert found.valid.all()
    assert not sketch.fallbacks
    assert sketch.class_count <= 32
    assert np.isfinite(found.features).all()
    for k in range(0, 300, 12):
        row, score = row_of(sketch.materialise(rows[k]).mod)
        differ = np.flatnonzero(row != found.features[k])
        assert [GPU_COLUMNS[x - CPU_COUNT] for x in differ] == []
        assert score == found.score[k]


@pytest.mark.parametrize("name", ["GMM", "SFM"])
def test_the_default_rules_give_candidates_with_features(name: str) -> None:
    ctx = TuneContext(suite_kernel(name), target=TARGET, space_generator="post-order-apply")
    posts = Postproc.create("cuda")
    for p in posts:
        p.initialize_with_tune_context(ctx)
    for space in ctx.generate_design_space():
        sketch = Sketch(IRModule.from_expr(suite_kernel(name)), space.trace, posts, MACHINE)
        rows = sketch.decisions.sample(300, np.random.default_rng(8))
        found = sketch.evaluate(rows)
        assert not sketch.fallbacks
        legal = np.flatnonzero(found.valid)
        assert len(legal) >= 10
        for k in legal[:: max(1, len(legal) // 6)]:
            row, score = row_of(sketch.materialise(rows[k]).mod)
            assert (row == found.features[k]).all()
            assert score == found.score[k]
            assert told(row, "kernel0.occupancy") > 0
            assert told(row, "kernel0.threads") <= 1024.5


def test_candidates_of_one_space_differ() -> None:
    sketch = sketch_of("matmul_in_tiles")
    rows = np.unique(sketch.decisions.sample(200, np.random.default_rng(2)), axis=0)
    found = sketch.evaluate(rows)
    # a fetch in vectors of three is one of single elements, and k0, k1 may be told apart or not
    assert len({r.tobytes() for r in found.features}) > 0.9 * len(rows)
    assert len(set(found.score.tolist())) > 0.9 * len(rows)


def test_unit_loops_leave_no_trace() -> None:
    a, b = Schedule(transpose()), Schedule(transpose())
    for sch in (a, b):
        i, j = sch.get_loops(sch.get_block("B"))
        if sch is b:
            (_, i, _), (_, j, _) = (sch.split(x, [1, None, 1]) for x in (i, j))
        sch.bind(i, "blockIdx.x")
        sch.bind(j, "threadIdx.x")
    assert (row_of(a.mod)[0] == row_of(b.mod)[0]).all()


# ----------------------------------------------------------------------------- against lowering
def cost(x: Counted, width: int) -> int:
    count = sectors if x.scope == "global" else passes
    return count(x.places, x.bytes * width)


@pytest.mark.parametrize(
    "name", ["matmul_in_tiles", "matmul_padded", "transpose_direct", "transpose_shared",
             "transpose_padded", "matmul_in_rows"],
)  # fmt: skip
def test_features_agree_with_the_lowered_kernel(name: str) -> None:
    sketch = sketch_of(name)
    rows = sketch.decisions.sample(400, np.random.default_rng(11))
    seen = 0
    for row in rows:
        mod = sketch.materialise(row).mod
        layout, facts = describe(mod)
        assert layout.gpu is not None
        assert MACHINE.gpu is not None
        (kernel,) = (_Kernel(k, columns(facts), MACHINE.gpu) for k in layout.gpu.kernels)
        if kernel.launch.threads[0] > 1024 or kernel.launch.shared[0] > 200_000:
            continue
        (low,) = lowered(mod).kernels
        assert kernel.launch.threads == low.threads
        assert kernel.launch.blocks == np.prod(low.grid)
        assert kernel.launch.shared == shared_bytes(low)
        counted = accesses(low)
        for s in kernel.seen:  # each of mine is one that was counted out
            width = int(s.warp.width[0])
            assert s.warp.cost[0] in {
                cost(x, width)
                for x in counted
                if (x.scope, x.writes) == (s.access.scope, s.access.writes)
            }
        for x in counted:  # and each that was counted out is one of mine
            assert any(
                cost(x, int(s.warp.width[0])) == s.warp.cost[0]
                for s in kernel.seen
                if s.access.scope == x.scope and (s.access.writes if x.writes else s.access.reads)
            )
        seen += 1
        if seen == 25:
            break
    assert seen >= 10


@pytest.mark.parametrize("name", ["matmul", "softmax", "conv2d"])
def test_random_schedules_have_features_and_the_launches_of_lowering(name: str) -> None:
    for g in gpu_schedules(name, 16, 5):
        row, score = row_of(g.sch.mod)
        assert np.isfinite(row).all()
        assert np.isfinite(score)
        layout, facts = describe(g.sch.mod)
        assert layout.gpu is not None
        mine = [tuple(int(facts[x]) for x in (*k.grid, *k.block)) for k in layout.gpu.kernels]
        theirs = [(*k.grid, *k.block) for k in lowered(g.sch.mod).kernels]
        assert sorted(mine) == sorted(theirs), g.label


def test_widths_are_those_of_the_generated_code() -> None:
    sketch = sketch_of("matmul_in_tiles")
    rows = sketch.decisions.sample(400, np.random.default_rng(12))
    widths: set[int] = set()
    for row in rows:
        mod = sketch.materialise(row).mod
        layout, facts = describe(mod)
        assert layout.gpu is not None
        assert MACHINE.gpu is not None
        kernel = _Kernel(layout.gpu.kernels[0], columns(facts), MACHINE.gpu)
        if kernel.launch.threads[0] > 1024 or kernel.launch.shared[0] > 200_000:
            continue
        text = generate(mod.functions["matmul"]).text
        written = {int(n) for n in re.findall(r"const gt_vec<float, (\d+)> [AB]_v", text)}
        mine = {int(s.warp.width[0]) for s in kernel.seen if s.access.scope == "global"}
        assert mine - {1} == written
        widths |= mine
        if widths == {1, 2, 4}:
            break
    assert widths == {1, 2, 4}


def test_threads_that_share_reductions_agree_with_lowering() -> None:
    sketch = sketch_of("softmax_in_blocks")
    for row in np.unique(sketch.decisions.sample(40, np.random.default_rng(3)), axis=0):
        mod = sketch.materialise(row).mod
        got, _ = row_of(mod)
        (low,) = lowered(mod).kernels
        assert round(told(got, "kernel0.threads")) == low.threads
        assert told(got, "kernel0.shared_bytes") == pytest.approx(shared_bytes(low), rel=1e-5)
        assert round(told(got, "kernel0.crossing")) == low.threads
        # for each of two reductions: one where it takes several warps, one behind its result
        assert round(told(got, "kernel0.barriers")) == 2 * (low.threads > 32) + 2
        assert str(low.func).count('"sync_threads"') == 2 * (low.threads > 32) + 2


def test_each_statement_of_the_root_is_a_kernel() -> None:
    sketch = sketch_of("softmax_in_kernels")
    row = sketch.decisions.sample(1, np.random.default_rng(4))[0]
    mod = sketch.materialise(row).mod
    layout, facts = describe(mod)
    assert layout.gpu is not None
    low = lowered(mod).kernels
    mine = [
        tuple(int(facts[k]) for k in (*kernel.grid, *kernel.block)) for kernel in layout.gpu.kernels
    ]
    assert sorted(mine) == sorted((*k.grid, *k.block) for k in low)
    got, _ = row_of(mod)
    assert round(told(got, "program.kernels")) == len(low) == 4
    assert told(got, f"kernel{len(SLOTS) - 1}.present") == 1
    assert told(got, "program.rest_nanoseconds") > 0


def dram_of(mod: IRModule) -> dict[tuple[str, bool], list[float]]:
    """Bytes from and to DRAM, by buffer and direction, of each access."""
    layout, facts = describe(mod)
    assert layout.gpu is not None
    assert MACHINE.gpu is not None
    near = _passed_on(layout.gpu)
    kernels = [_Kernel(k, columns(facts), MACHINE.gpu, n) for k, n in zip(layout.gpu.kernels, near)]
    out: dict[tuple[str, bool], list[float]] = {}
    for s in (s for k in kernels for s in k.seen if s.access.scope == "global"):
        key = (s.access.buffer, s.access.writes)
        out.setdefault(key, []).append(float(np.broadcast_to(s.dram, 1)[0]))
    return out


def test_what_kernels_hand_on_is_in_the_l2_cache() -> None:
    """Inputs are read once from DRAM however many kernels read them, what one kernel writes and
    another reads not at all; unless there is too much of it."""
    build, space = SPACES["softmax_in_kernels"]
    for func, fits in ((build(), True), (softmax(16384, 4096), False)):
        sch = Schedule(func, seed=1)
        space(sch)
        found = dram_of(sch.mod)
        read = {name: sorted(x) for (name, writes), x in found.items() if not writes}
        once = np.prod([int(n.value) for n in func.buffers[0].shape]) * 4
        handed_on = [x for name, some in read.items() if name != "A" for x in some]
        if fits:
            assert sum(read["A"]) == pytest.approx(once)
            assert len(read["A"]) > 1
            assert handed_on
            assert not any(handed_on)
        else:
            assert sum(read["A"]) >= 0.99 * len(read["A"]) * once
            assert max(handed_on) >= once
        assert min(x for (_, writes), some in found.items() if writes for x in some) > 0


def test_blocks_of_a_wave_share_what_their_order_says() -> None:
    """Against counting out, block by block: which rows of A and columns of B each wave needs."""
    sketch = sketch_of("matmul_in_tiles")
    assert MACHINE.gpu is not None
    speeds = replace(MACHINE.gpu.speeds, sms=6, l2_bytes=1)
    small = GpuMachine(replace(MACHINE.gpu.limits, sms=6), speeds)
    seen = 0
    ratios = []
    for row in sketch.decisions.sample(400, np.random.default_rng(21)):
        layout, facts = describe(sketch.materialise(row).mod)
        assert layout.gpu is not None
        (kernel,) = (_Kernel(k, columns(facts), small) for k in layout.gpu.kernels)
        i0, j0 = int(row[0]), int(row[5])
        together = int(kernel.launch.resident[0]) * 6
        if kernel.launch.threads[0] > 1024 or 3 * together > i0 * j0 or min(i0, j0) < 2:
            continue  # the last of few waves, which is not full, is another matter
        rows = columns_ = 0
        for first in range(0, i0 * j0, together):
            blocks = range(first, min(first + together, i0 * j0))
            rows += len({b // j0 for b in blocks})
            columns_ += len({b % j0 for b in blocks})
        counted = {"A": rows * (256 // i0) * 256 * 4, "B": columns_ * (256 // j0) * 256 * 4}
        for s in kernel.seen:
            if s.access.scope == "global" and s.access.reads:
                once = 256 * 256 * 4
                want = max(once, min(float(s.l2[0]), counted[s.access.buffer]))
                ratios.append(float(s.dram[0]) / want)
        seen += 1
        if seen == 60:
            break
    assert seen >= 20
    assert all(0.75 < r < 1.35 for r in ratios), sorted(ratios)[:3] + sorted(ratios)[-3:]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("name", "sizes"), [("jacobi2d", {}), ("softmax", {"m": 65536, "n": 256})])
def test_what_a_kernel_reads_again_comes_from_dram_once(name: str, sizes: dict[str, int]) -> None:
    """Five neighbours in a stencil, and the rows that a kernel for whole rows reads three times."""
    func = KERNELS[name].build(**sizes)
    sch = Schedule(func, seed=1)
    if name == "softmax":
        softmax_in_blocks(sch)
    else:
        i, j = sch.get_loops(sch.get_child_blocks(sch.get_block("root"))[0])
        j0, j1 = sch.split(j, [None, 128])
        sch.bind(sch.fuse(i, j0), "blockIdx.x")
        sch.bind(j1, "threadIdx.x")
    row, _ = row_of(sch.mod)
    both = sum(np.prod([int(n.value) for n in b.shape]) * 4 for b in func.buffers)
    assert told(row, "kernel0.dram_bytes") == pytest.approx(both, rel=0.1)


def test_much_code_is_slow_to_fetch() -> None:
    """A thread that has its whole tile written out, and one that has as much in loops."""

    def issue(steps: int) -> tuple[float, float]:
        sch = Schedule(matmul(256))
        i, j, k = sch.get_loops(sch.get_block("C"))
        (i0, i1), (j0, j1) = (sch.split(x, [None, 32]) for x in (i, j))
        sch.reorder(i0, j0, i1, j1, k)
        sch.bind(i0, "blockIdx.x")
        sch.bind(j0, "threadIdx.x")
        sch.annotate(i0, "pragma_auto_unroll_max_step", steps)
        row, _ = row_of(sch.mod)
        return told(row, "kernel0.issue_ns"), told(row, "kernel0.instructions")

    few, many = issue(16), issue(1 << 20)
    assert many[0] / many[1] > 1.5 * few[0] / few[1]


# ----------------------------------------------------------------------------- warps
def leaves() -> st.SearchStrategy[Form]:
    axes = st.sampled_from([("lane", "x"), ("lane", "y"), ("lane", "z"), ("lane", "v")])
    return axes | st.builds(lambda n: ("const", ("is", n)), st.integers(0, 40))


def inner(parts: st.SearchStrategy[Form]) -> st.SearchStrategy[Form]:
    number = st.integers(1, 70).map(lambda n: ("is", n)) | st.sampled_from(
        [("fact", PREFIX), ("fact", PREFIX + 1)]
    )
    return st.builds(lambda a, b: ("add", a, b), parts, parts) | st.builds(
        lambda op, a, n: (op, a, n), st.sampled_from(["mul", "div", "mod"]), parts, number
    )


def by_hand(f: Form, lane: dict[str, int], numbers: list[int]) -> int:
    def number(n: tuple[str, int]) -> int:
        return n[1] if n[0] == "is" else numbers[n[1] - PREFIX]

    match f:
        case ("lane", axis):
            return lane[axis]
        case ("const", n):
            return number(n)
        case ("add", a, b):
            return by_hand(a, lane, numbers) + by_hand(b, lane, numbers)
        case ("mul", a, n):
            return by_hand(a, lane, numbers) * number(n)
        case ("div", a, n):
            return by_hand(a, lane, numbers) // number(n)
        case ("mod", a, n):
            return by_hand(a, lane, numbers) % number(n)
    raise AssertionError(f)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.recursive(leaves(), inner, max_leaves=5), st.data())
def test_a_warp_is_counted_out_thread_by_thread(form: Form, data: st.DataObject) -> None:
    sizes = st.integers(1, 40)
    x, y, z = data.draw(st.tuples(sizes, sizes, st.integers(1, 4)))
    own = [data.draw(st.integers(1, n)) for n in (x, y, z)]
    vector = data.draw(st.sampled_from([1, 2, 3, 4, 8]))
    numbers = data.draw(st.lists(st.integers(1, 64), min_size=2, max_size=2))
    size = data.draw(st.sampled_from([1, 2, 4, 8]))
    memory = data.draw(st.sampled_from(["global", "shared"]))
    params = np.array([[n] for n in (x, y, z, *own, vector, *numbers)])
    steps = np.array([[data.draw(st.sampled_from([1, 4, 6, 32]))]])
    # more than a few candidates come from the table; one is counted out
    found = [
        warp_access(form, memory, size, np.repeat(params, n, 1), np.repeat(steps, n, 1), np.ones(n))
        for n in (1, 20, 20)
    ]
    for f in found:
        assert (f.width == found[0].width).all()
        assert (f.cost == found[0].cost).all()
    width = int(found[0].width[0])
    assert width in (1, 2, 4, 8, 16)
    assert width * size <= 16 or width == 1
    assert vector % width == 0
    threads = [(t % x, t // x % y, t // (x * y)) for t in range(min(32, x * y * z))]
    places = []
    for a, b, c in threads:
        lane = {"x": min(a, own[0] - 1), "y": min(b, own[1] - 1), "z": min(c, own[2] - 1)}
        first = by_hand(form, {**lane, "v": 0}, numbers)
        places.append(first * size)
        if width > 1:
            assert first % width == 0
            for v in range(width):
                assert by_hand(form, {**lane, "v": v}, numbers) == first + v or v > 1
    count = sectors if memory == "global" else passes
    assert found[0].cost[0] == count(tuple(places), size * width)


def test_known_patterns() -> None:
    x: Form = ("lane", "x")
    one = np.array([[64], [1], [1], [64], [1], [1], [1]])
    none = np.empty((0, 1))

    def cost(form: Form, memory: str, size: int = 4, vector: int = 1, run: int = 1) -> tuple:
        params = one.copy()
        params[6] = vector
        found = warp_access(form, memory, size, params, none, np.full(1, float(run)))
        return float(found.width[0]), float(found.cost[0]), float(found.ideal[0])

    four: Form = ("add", ("mul", x, ("is", 4)), ("lane", "v"))
    assert cost(x, "global") == (1, 4, 4)
    assert cost(("mul", x, ("is", 1024)), "global") == (1, 32, 4)
    assert cost(("far",), "global") == (1, 32, 4)
    assert cost(("zero",), "global") == (1, 1, 1)
    assert cost(four, "global", vector=4) == (4, 16, 16)
    assert cost(("add", four, ("const", ("is", 1))), "global", vector=4) == (1, 16, 4)
    assert cost(x, "shared") == (1, 1, 1)
    assert cost(("mul", x, ("is", 32)), "shared") == (1, 32, 1)
    assert cost(("mul", x, ("is", 33)), "shared") == (1, 1, 1)
    assert cost(("mul", x, ("is", 2)), "shared") == (1, 2, 1)
    assert cost(("div", x, ("is", 8)), "shared") == (1, 1, 1)  # the same word to many threads
    assert cost(four, "shared", vector=4) == (4, 4, 4)
    assert cost(("mul", x, ("is", 4)), "shared", run=4) == (4, 4, 4)  # the compiler joins them
    assert cost(x, "shared", size=2) == (1, 1, 1)
    assert cost(x, "shared", size=8) == (1, 2, 2)


def test_the_table_grows_and_stays_right() -> None:
    form: Form = ("mul", ("lane", "x"), ("fact", PREFIX))
    n = 6000
    steps = np.arange(1, n + 1)
    params = np.ones((PREFIX + 1, n), np.int64)
    params[0] = params[3] = 32
    params[PREFIX] = steps
    found = warp_access(form, "shared", 4, params, np.empty((0, n)), np.ones(n))
    again = warp_access(form, "shared", 4, params[:, ::-1], np.empty((0, n)), np.ones(n))
    expected = np.gcd(steps, 32)  # of a stride, the words of a warp fall on 32 / gcd banks
    assert (found.cost == expected).all()
    assert (again.cost == expected[::-1]).all()
    assert len(_tables) <= 257


def test_forms_name_their_facts() -> None:
    form: Form = ("add", ("mul", ("lane", "x"), ("fact", 9)), ("const", ("fact", 4)))
    assert set(facts_in(form)) == {9, 4}
    assert set(facts_in(renumbered(form, {9: 0, 4: 1}))) == {0, 1}


# ----------------------------------------------------------------------------- occupancy
@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.sampled_from(sorted(_PER_SM)),
    st.integers(1, 1100),
    st.integers(0, 260),
    st.integers(0, 240_000),
)
def test_occupancy_is_that_of_the_target(
    arch: int, threads: int, registers: int, shared: int
) -> None:
    limits = limits_of(f"sm_{arch}")
    blocks, share = blocks_of(limits, *(np.array([float(x)]) for x in (threads, registers, shared)))
    assert (blocks[0], share[0]) == occupancy(limits, threads, registers, shared)


@pytest.mark.parametrize("threads", [32, 96, 256, 640, 1024])
def test_a_block_runs_with_the_most_registers_and_no_more(threads: int) -> None:
    limits = limits_of("sm_90")
    most = int(most_registers(limits, np.array([threads / 32]))[0])
    assert occupancy(limits, threads, most, 0)[0] >= 1
    assert most == 255 or occupancy(limits, threads, most + 1, 0)[0] == 0


# ----------------------------------------------------------------------------- the machine
@pytest.mark.parametrize("arch", sorted(_PER_SM))
def test_every_architecture_has_speeds(arch: int) -> None:
    s = speeds_of(f"sm_{arch}")
    assert 10 <= s.sms <= 200
    assert 1e9 < s.clock_hz < 3e9
    assert s.dram_bytes_s < s.l2_bytes_s
    assert limits_of(f"sm_{arch}").shared_per_sm <= s.l1_bytes
    assert s.fp64_lanes <= s.fp32_lanes


def test_unknown_architectures_have_none() -> None:
    with pytest.raises(TargetError, match="'sm_61' are not known"):
        speeds_of("sm_61")
    with pytest.raises(TargetError, match="'sm_61' are not known"):
        Machine.of(Target("cuda -arch=sm_61"))


def test_machine_of_a_target() -> None:
    assert MACHINE.gpu is not None
    assert MACHINE.gpu.limits == TARGET.limits
    assert Machine.of(Target("llvm -num-cores 2")).gpu is None
    small = Machine.of(Target("cuda -arch=sm_80 -max-shared-memory-per-block=1000"))
    assert small.gpu is not None
    assert small.gpu.limits.shared_per_block == 1000


def test_what_a_driver_tells_replaces_what_is_usual() -> None:
    like = speeds_of("sm_90")
    told = {"ClockRate": 1_755_000, "MemoryClockRate": 1_593_000, "GlobalMemoryBusWidth": 5120}
    pcie = with_device(like, "H100 PCIe", 114, 50 << 20, told)
    assert (pcie.sms, pcie.clock_hz) == (114, 1.755e9)
    assert pcie.dram_bytes_s == pytest.approx(2.039e12, rel=1e-3)
    assert pcie.l2_bytes_s < like.l2_bytes_s
    quiet = with_device(like, "H100", 132, 0, {})  # newer drivers tell no clocks
    assert (quiet.clock_hz, quiet.dram_bytes_s) == (like.clock_hz, like.dram_bytes_s)
    assert quiet.l2_bytes == like.l2_bytes


# ----------------------------------------------------------------------------- ranking
def copied(rows: bool, vector: int = 1, threads: int = 256) -> tuple[Row, float]:
    """A transpose whose neighbouring threads write neighbours, or read them."""
    sch = Schedule(transpose(4096, 4096))
    i, j = sch.get_loops(sch.get_block("B"))
    if not rows:
        sch.reorder(j, i)
        i, j = j, i
    j0, j1 = sch.split(j, [None, threads])
    sch.bind(sch.fuse(i, j0), "blockIdx.x")
    sch.bind(j1, "threadIdx.x")
    return row_of(sch.mod)


def through_shared(align: int) -> tuple[Row, float]:
    sch = Schedule(transpose(4096, 4096))
    b = sch.get_block("B")
    i, j = sch.get_loops(b)
    copy = sch.cache_read(b, "A", "shared")
    i0, i1 = sch.split(i, [None, 32])
    j0, j1, j2 = sch.split(j, [None, 4, 8])
    sch.reorder(i0, j0, j1, j2, i1)
    sch.reorder(i0, j0, i1, j1, j2)
    grid = sch.fuse(i0, j0)
    sch.compute_at(copy, grid, preserve_unit_loops=True)
    sch.bind(grid, "blockIdx.x")
    for block in (b, copy):
        fused = sch.fuse(*sch.get_loops(block)[1:])
        _, thread = sch.split(fused, [None, 256])
        sch.bind(thread, "threadIdx.x")
    if align:
        sch.storage_align(copy, 0, -2, 32, align)
    return row_of(sch.mod)


def worst_conflict(row: Row) -> float:
    return max(told(row, f"kernel0.shared{k}.conflicts") for k in (0, 1))


def test_uncoalesced_accesses_are_seen() -> None:
    row, _ = copied(rows=True)
    found = {
        round(told(row, f"kernel0.global{k}.kind")): told(row, f"kernel0.global{k}.sectors")
        for k in (0, 1)
    }
    assert found == {1: pytest.approx(32), 2: pytest.approx(4)}  # loads, stores


def test_the_score_prefers_padding_without_conflicts_and_shared_memory() -> None:
    plain, plain_score = through_shared(0)
    padded, padded_score = through_shared(1)
    assert worst_conflict(plain) == pytest.approx(32)
    assert worst_conflict(padded) == pytest.approx(1)
    assert padded_score > plain_score
    assert padded_score > copied(rows=True)[1]
    assert padded_score > copied(rows=False)[1]


def elementwise(threads: int, vector: int = 1, columns_first: bool = False) -> float:
    sch = Schedule(softmax(4096, 4096))
    for name in ("top", "power", "total"):
        i, _ = sch.get_loops(sch.get_block(name))
        sch.bind(i, "blockIdx.x")
    i, j = sch.get_loops(sch.get_block("B"))
    if columns_first:
        sch.reorder(j, i)
    fused = sch.fuse(j, i) if columns_first else sch.fuse(i, j)
    grid, thread, lanes = sch.split(fused, [None, threads, vector])
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    if vector > 1:
        sch.vectorize(lanes)
    return row_of(sch.mod)[1]


def test_the_score_prefers_neighbours_and_whole_warps() -> None:
    assert elementwise(256) > elementwise(256, columns_first=True)
    assert elementwise(256) > elementwise(8)
    assert elementwise(256, vector=4) >= elementwise(256)


def tiled(side: int, n: int = 1024, inner: int = 4) -> tuple[Row, float]:
    """A matmul in square tiles of shared memory, `inner` x `inner` results a thread."""
    sch = Schedule(matmul(n))
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    local = sch.cache_write(c, 0, "local")
    i0, i1, i2 = sch.split(i, [None, side // inner, inner])
    j0, j1, j2 = sch.split(j, [None, side // inner, inner])
    k0, k1 = sch.split(k, [None, 8])
    sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
    grid, thread = sch.fuse(i0, j0), sch.fuse(i1, j1)
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    sch.reverse_compute_at(local, thread, preserve_unit_loops=True)
    sch.annotate(grid, "pragma_auto_unroll_max_step", 512)
    for buffer in ("A", "B"):
        copy = sch.cache_read(c, buffer, "shared")
        sch.compute_at(copy, k0, preserve_unit_loops=True)
        fused = sch.fuse(*sch.get_loops(copy)[3:])
        _, thread = sch.split(fused, [None, (side // inner) ** 2])
        sch.bind(thread, "threadIdx.x")
    return row_of(sch.mod)


def test_the_score_knows_reuse_waves_and_what_cannot_run() -> None:
    good, score = tiled(64)
    assert told(good, "kernel0.tile") == pytest.approx(16)
    assert score > tiled(8, inner=1)[1]  # one result a thread: everything is loaded again and again
    assert score > tiled(64, inner=1)[1] + 5  # 4096 threads
    impossible, _ = tiled(64, inner=1)
    assert told(impossible, "kernel0.occupancy") == 0
    # one tile for all of the GPU leaves 131 multiprocessors idle
    few, few_score = tiled(128, n=128, inner=8)
    assert told(few, "kernel0.busy_multiprocessors") == pytest.approx(1)
    assert tiled(16, n=128, inner=2)[1] > few_score
    assert 0 < told(few, "kernel0.tail") < 0.02


def test_registers_follow_the_tile_and_spill_beyond_what_there_is() -> None:
    small, large = tiled(64)[0], tiled(128, inner=8)[0]
    assert told(large, "kernel0.registers") - told(small, "kernel0.registers") == pytest.approx(48)
    assert told(small, "kernel0.spilled") == pytest.approx(0)
    huge, _ = tiled(512, inner=32)
    assert told(huge, "kernel0.registers") == pytest.approx(255, rel=1e-3)
    assert told(huge, "kernel0.spilled") > 500


def test_the_expected_time_is_near_what_such_kernels_take() -> None:
    # 1024^3 on an H100: 32 us at peak, good kernels take 45; 4096^2 floats move in 40 us
    sketch = sketch_of("matmul_in_tiles")
    found = sketch.evaluate(sketch.decisions.sample(2000, np.random.default_rng(1)))
    best = 1e-9 * 2.0 ** -float(found.score.max())
    assert 2 * 256**3 / 66.9e12 < best < 60e-6
    seconds = 1e-9 * 2.0 ** -through_shared(1)[1]
    assert 40e-6 < seconds < 120e-6


# ----------------------------------------------------------------------------- raw kernels
def raw_row(block: int, grid: int, smem: int = 0) -> tuple[Row, float]:
    arguments = [RawArgument("a", "float32", (1 << 20,)), RawArgument("c", "float32", (1 << 20,))]
    mod = raw_module("k", arguments, "extern C")
    sch = Schedule(mod)
    chosen = Configuration({"BX": block}, (grid, 1, 1), (block, 1, 1), smem)
    sch.annotate(sch.get_block("k"), "cuda.launch", chosen.annotation())
    return row_of(sch.mod)


def test_raw_kernels_share_the_columns_of_launches() -> None:
    row, score = raw_row(256, 4096, 32768)
    assert row.shape == (FEATURE_COUNT,)
    assert round(told(row, "kernel0.threads")) == 256
    assert round(told(row, "kernel0.blocks")) == 4096
    assert told(row, "kernel0.shared_bytes") == pytest.approx(32768, rel=1e-5)
    expected, share = occupancy(limits_of("sm_90"), 256, 32, 32768)
    assert round(told(row, "kernel0.resident_blocks")) == expected
    assert told(row, "kernel0.occupancy") == pytest.approx(share)
    assert told(row, "program.nanoseconds") == pytest.approx(2.0**-score, rel=1e-3)
    assert row[7] == pytest.approx(-score, rel=1e-5)
    scheduled, _ = copied(rows=True)
    assert told(scheduled, "kernel0.present") == told(row, "kernel0.present") == 1
    # usual launches first
    assert score > raw_row(32, 4096)[1]
    assert score > raw_row(256, 4)[1]
    assert raw_row(256, 4096)[1] > raw_row(250, 4096)[1]
    assert raw_row(256, 4096)[1] > raw_row(256, 4096, 300_000)[1]  # cannot run


def test_names_of_columns_are_distinct() -> None:
    assert len(set(GPU_COLUMNS)) == len(GPU_COLUMNS) == FEATURE_COUNT - CPU_COUNT
    assert GPU_COLUMNS[column("kernel0.occupancy")] == "kernel0.occupancy"
    assert GpuMachine.named("sm_90a").speeds.sms == 132
