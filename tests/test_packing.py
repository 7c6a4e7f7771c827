"""Do arguments whose layout is free arrive packed, right, and outside of what is measured?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gputune as gt
from gputune import kernels
from gputune import meta_schedule as ms
from gputune.calling import random_inputs
from gputune.errors import RunError, UserError
from gputune.ir.build import const_int
from gputune.ir.interp import run as interpret
from gputune.ir.nodes import Buffer, For, PrimFunc
from gputune.ir.walk import all_loads, walk_stmt
from gputune.lower.layout_preproc import packings_of, split_layout_preproc
from gputune.meta_schedule.artifact import Artifact
from gputune.meta_schedule.builder import build_args
from gputune.meta_schedule.postproc import RewriteLayout, postprocess
from gputune.meta_schedule.runner import shared_worker
from gputune.meta_schedule.sketch_feature import Machine, features_of
from gputune.meta_schedule.verify import Verifier
from gputune.packing import with_free_layouts
from gputune.runtime.module import build
from gputune.runtime.operations import packing_code
from gputune.runtime.process import Worker
from gputune.script import tir as T
from gputune.target import Target
from gputune.tuned_kernel import TunedKernel

ONE_CORE = "llvm -num-cores=1"
FREE = "layout_free_buffers"
M, N, K = 3, 24, 20


def dense(m: int = M, n: int = N, k: int = K) -> PrimFunc:
    return kernels.get("dense_bias_relu").build(m=m, n=n, k=k)


def data(m: int = M, n: int = N, k: int = K) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(0)
    x, w, b = (rng.integers(-4, 5, s).astype(np.float32) for s in ((m, k), (n, k), (n,)))
    return x, w, b, np.maximum(x @ w.T + b, 0)


@T.prim_func
def square(
    A: T.Buffer((6, 6), "float32"), W: T.Buffer((6, 6), "float32"), C: T.Buffer((6, 6), "float32")
):
    """Two places of W are read at once: it stays as it is."""
    for i, j in T.grid(6, 6):
        with T.block("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = A[vi, vj] * (W[vi, vj] - W[vj, vi])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def tuned(folder: Path) -> TunedKernel:
    return gt.tune(dense(), ONE_CORE, trials=8, seed=1, layout_free="W", work_dir=folder)


# ----------------------------------------------------------------------------- calling
def test_packed_once_or_at_every_call_or_when_it_is_bound(
    tuned: TunedKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    x, w, b, want = data()
    packed = tuned.pack(W=w)
    assert isinstance(packed, gt.PackedArray)
    assert packed.layout == tuned.layouts["W"]
    assert packed.array.shape != w.shape
    np.testing.assert_array_equal(tuned(x, packed, b), want)
    out = np.zeros_like(want)
    assert tuned(x, packed, b, out) is None
    np.testing.assert_array_equal(out, want)
    step = tuned.bind(x, packed, b)
    np.testing.assert_array_equal(step(), want)
    np.testing.assert_array_equal(tuned.bind(x, w, b)(), want)
    assert "packed at every call" not in capsys.readouterr().err
    for _ in range(3):
        np.testing.assert_array_equal(tuned(x, w, b), want)
    assert f"W: {packed.layout}" in tuned.report()
    assert "cache_read" in str(tuned.explain(postproc=True))


def test_a_plain_array_is_packed_with_one_note(monkeypatch: pytest.MonkeyPatch) -> None:
    sch = scheduled()
    kernel = TunedKernel(sch, Target(ONE_CORE), workload=free_matmul())
    notes: list[str] = []
    monkeypatch.setattr(
        "gputune.meta_schedule.logging.console",
        lambda: type("", (), {"warning": lambda self, text, *args: notes.append(text % args)})(),
    )
    a, w = matrices()
    for _ in range(2):
        np.testing.assert_array_equal(kernel(a, w), a @ w)
    assert notes == [
        "matmul: W is packed at every call: pack it once, with kernel.pack(W=...), and pass that"
    ]


def test_what_is_packed_is_a_copy_and_can_be_kept(tuned: TunedKernel, tmp_path: Path) -> None:
    x, w, b, want = data()
    packed = tuned.pack(W=w)
    w[:] = 0
    np.testing.assert_array_equal(tuned(x, packed, b), want)
    np.save(tmp_path / "w.npy", packed.array)
    again = gt.PackedArray("W", packed.layout, np.load(tmp_path / "w.npy"))
    np.testing.assert_array_equal(tuned(x, again, b), want)
    np.testing.assert_array_equal(tuned(x, tuned.pack(W=again), b), want)


def test_refused_calls(tuned: TunedKernel) -> None:
    x, w, b, _ = data()
    packed = tuned.pack(W=w)
    other = gt.PackedArray("W", "float32[24, 20] as it is", w)
    with pytest.raises(RunError, match=r"dense_bias_relu: expected W packed as float32\["):
        tuned(x, other, b)
    with pytest.raises(RunError, match="expected W packed as"):
        tuned.pack(W=other)
    with pytest.raises(RunError, match="expected W packed as"):
        tuned(x, gt.PackedArray("V", packed.layout, packed.array), b)
    with pytest.raises(RunError, match="W"):
        tuned.pack(W=w[:, 1:])
    with pytest.raises(RunError, match="W"):
        tuned.pack(W=w.astype(np.float64))
    with pytest.raises(RunError):
        tuned(packed, packed, b)
    with pytest.raises(UserError, match="'B' is no argument whose layout is free") as e:
        tuned.pack(B=b)
    assert "those are: W" in str(e.value)
    with pytest.raises(UserError, match="nothing to pack"):
        tuned.pack()
    with pytest.raises(UserError, match="packed for one kernel"):
        gt.bench({"tuned": tuned}, (x, packed, b))


def test_an_argument_that_stays_as_it_is_packs_to_a_copy() -> None:
    rng = np.random.default_rng(0)
    a, w = rng.integers(-4, 5, (2, 6, 6)).astype(np.float32)
    f = gt.tune(square, ONE_CORE, trials=2, seed=1, layout_free=("W", 0))
    assert f.layouts["W"] == "float32[6, 6] as it is"
    pa, pw = f.pack(A=a, W=w)
    want = a * (w - w.T)
    w[:] = 7
    np.testing.assert_array_equal(f(pa, pw), want)
    with pytest.raises(RunError, match=r"expected float32\[6, 6\], found float32\[6, 5\]"):
        f.pack(W=w[:, 1:])


def test_a_kernel_without_free_layouts_packs_nothing() -> None:
    f = TunedKernel(gt.Schedule(dense()), Target(ONE_CORE), workload=dense())
    assert f.layouts == {}
    with pytest.raises(UserError, match="'W' is no argument whose layout is free") as e:
        f.pack(W=data()[1])
    assert "layout_free" in str(e.value)


def test_bench_packs_before_it_times(tuned: TunedKernel) -> None:
    x, w, b, _ = data()
    entries = {"numpy": lambda x, w, b: np.maximum(x @ w.T + b, 0), "tuned": tuned}
    found = gt.bench(entries, (x, w, b), seconds=0.05)
    assert found.checked
    assert found.results["tuned"].median > 0
    assert tuned.speedup is not None


# ----------------------------------------------------------------------------- saying what is free
@pytest.mark.parametrize("listed", ["W", ("W",), 1, [1], {"W", 1}])
def test_names_and_positions(listed: Any) -> None:
    assert dict(with_free_layouts(dense(), listed).attrs)[FREE] == (1,)


def test_the_attribute_says_it_too() -> None:
    func = dense().with_attr(FREE, ("W",))
    assert dict(with_free_layouts(func, None).attrs)[FREE] == (1,)
    f = gt.tune(func, ONE_CORE, trials=4, seed=1)
    x, w, b, want = data()
    np.testing.assert_array_equal(f(x, f.pack(W=w), b), want)


@T.prim_func
def several(
    A: T.Buffer((8,), "float32"),
    s: T.float32,
    U: T.Buffer((8,), "float32"),
    B: T.Buffer((8,), "float32"),
):
    for i in range(8):
        with T.block("U"):
            vi = T.axis.spatial(8, i)
            U[vi] = U[vi] + A[vi] * s
    for i in range(8):
        with T.block("B"):
            vi = T.axis.spatial(8, i)
            B[vi] = U[vi]


@T.prim_func
def viewed(W: T.Buffer((8, 4), "float32"), B: T.Buffer((8, 4), "float32")):
    for i in range(8):
        with T.block("B"):
            vi = T.axis.spatial(8, i)
            T.reads(W[vi, 0:4])
            T.writes(B[vi, 0:4])
            row = T.match_buffer(W[vi, 0:4], (4,), strides=[1])
            for j in range(4):
                B[vi, j] = row[j]


@T.prim_func
def overlapping(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    T.func_attr({"tir.noalias": False})
    for i in range(8):
        with T.block("B"):
            vi = T.axis.spatial(8, i)
            B[vi] = A[vi]


@T.prim_func
def symbolic(a: T.handle, b: T.handle):
    n = T.int32()
    A = T.match_buffer(a, (n,))
    B = T.match_buffer(b, (n,))
    for i in range(n):
        with T.block("B"):
            vi = T.axis.spatial(n, i)
            B[vi] = A[vi]


@pytest.mark.parametrize(
    ("func", "listed", "message"),
    [
        (several, "V", "has no argument 'V'"),
        (several, ("A", 4), "names or positions of arguments, found 4"),
        (several, -1, "names or positions of arguments, found -1"),
        (several, True, "names or positions of arguments, found True"),
        (several, 1.0, "names or positions of arguments, found 1.0"),
        (several, "s", "s is a number, which has no layout"),
        (several, "U", "several writes U"),
        (several, ("A", "B"), "several writes B"),
        (viewed, "W", "block B of viewed reads W through match_buffer"),
        (overlapping, "A", "may overlap, as its attribute tir.noalias says"),
        (symbolic, "A", "the shape of A is open"),
        (several.with_attr(FREE, (2,)), None, "several writes U"),
    ],
)
def test_what_cannot_be_free_is_refused(func: PrimFunc, listed: Any, message: str) -> None:
    with pytest.raises(UserError, match="layout_free") as e:
        gt.tune(func, ONE_CORE, trials=1, layout_free=listed)
    assert message in str(e.value)
    assert e.value.code == "layout-free"


# ----------------------------------------------------------------------------- keeping
def test_a_record_replays_to_the_same_packed_kernel(tuned: TunedKernel, folder: Path) -> None:
    again = gt.tune(dense(), ONE_CORE, trials=0, layout_free=("W",), work_dir=folder)
    assert again.layouts == tuned.layouts
    x, w, b, want = data()
    np.testing.assert_array_equal(again(x, tuned.pack(W=w), b), want)
    plain = gt.tune(dense(), ONE_CORE, trials=1, seed=1, work_dir=folder)  # another workload
    assert plain.layouts == {}
    np.testing.assert_array_equal(plain(x, w, b), want)


def test_records_say_what_was_measured(tuned: TunedKernel) -> None:
    assert tuned.record is not None
    infos = tuned.record.args_info
    assert infos is not None
    assert list(infos[1].shape) == list(tuned.pack(W=data()[1]).array.shape)


def test_export_and_load_keep_the_packing(tuned: TunedKernel, tmp_path: Path) -> None:
    (tmp_path / "pack_7.o").write_bytes(b"of an earlier export")
    tuned.export(tmp_path)
    about = json.loads((tmp_path / "record.json").read_text())
    assert about["packed"]["1"]["name"] == "W"
    assert about["packed"]["1"]["layout"] == tuned.layouts["W"]
    assert (tmp_path / "pack_1.ll").read_text().count(about["packed"]["1"]["symbol"])
    assert not (tmp_path / "pack_7.o").exists()
    loaded = gt.load(tmp_path)
    assert loaded.verified
    assert loaded.layouts == tuned.layouts
    x, w, b, want = data()
    np.testing.assert_array_equal(loaded(x, tuned.pack(W=w), b), want)
    np.testing.assert_array_equal(tuned(x, loaded.pack(W=w), b), want)


def test_without_a_trial() -> None:
    f = gt.tune(dense(), ONE_CORE, trials=0, seed=1, layout_free="W")
    assert f.verified
    assert f.layouts["W"] != "float32[24, 20] as it is"
    x, w, b, want = data()
    np.testing.assert_array_equal(f(x, f.pack(W=w), b), want)


def test_jit_knows_the_attribute(folder: Path, tuned: TunedKernel) -> None:
    @gt.jit(work_dir=folder, target=ONE_CORE)
    def layer(m: int) -> PrimFunc:
        return dense(m).with_attr(FREE, (1,))

    x, w, b, want = data()
    f = layer(M)
    assert f.record is not None
    np.testing.assert_array_equal(f(x, f.pack(W=w), b), want)
    x, w, b, want = data(m=2)
    f = layer(2)  # not tuned: the default schedule
    np.testing.assert_array_equal(f(x, f.pack(W=w), b), want)


# ----------------------------------------------------------------------------- measuring
@T.prim_func
def matmul(
    A: T.Buffer((8, 12), "float32"),
    W: T.Buffer((12, 18), "float32"),
    C: T.Buffer((8, 18), "float32"),
):
    for i, j, k in T.grid(8, 18, 12):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = 0.0
            C[vi, vj] = C[vi, vj] + A[vi, vk] * W[vk, vj]


def free_matmul() -> PrimFunc:
    return matmul.with_attr(FREE, (1,))


def matrices() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return (
        rng.integers(-4, 5, (8, 12)).astype(np.float32),
        rng.integers(-4, 5, (12, 18)).astype(np.float32),
    )


def scheduled(factor: int = 4) -> gt.Schedule:
    """With tiles of 18 columns that 4 does not divide: the packed weights have padding."""
    sch = gt.Schedule(free_matmul(), seed=1)
    i, j, k = sch.get_loops(sch.get_block("C"))
    j0, j1 = sch.split(j, [None, factor])
    sch.reorder(i, j0, k, j1)
    assert postprocess(sch, [RewriteLayout()]) is None
    return sch


def built(sch: gt.Schedule) -> Artifact:
    (result,) = ms.LocalBuilder().build([ms.BuilderInput(sch.mod, Target(ONE_CORE))])
    assert result.artifact_path is not None, result.error_msg
    return Artifact.load(result.artifact_path)


def test_candidates_are_built_without_the_packing() -> None:
    artifact = built(scheduled())
    assert artifact.arguments[1]["shape"] == [5, 12, 4]
    assert artifact.packing["positions"] == [1]
    assert [a["shape"] for a in artifact.packing["arguments"]] == [[12, 18], [5, 12, 4]]
    plain = built(gt.Schedule(free_matmul()))
    assert (plain.packing, plain.packer) == ({}, b"")


def test_candidates_with_the_users_functions() -> None:
    """`f_build` gets what is measured, and `args_info` describes it."""
    seen: list[Any] = []

    def f_build(mod: Any, target: Any, params: Any) -> Any:
        seen.append(mod)
        return build(mod, target)

    def f_alloc(device: str, infos: Any, repeat: int) -> list[list[Any]]:
        seen.append([list(i.shape) for i in infos])
        return [[np.zeros(i.shape, np.float32) for i in infos]]

    sch = scheduled()
    builder = ms.LocalBuilder(f_build=f_build)
    (result,) = builder.build([ms.BuilderInput(sch.mod, Target(ONE_CORE))])
    candidate = ms.MeasureCandidate.of(sch)
    runner = ms.LocalRunner(f_alloc_argument=f_alloc)
    x = ms.RunnerInput(str(result.artifact_path), "cpu", candidate.args_info)
    (future,) = runner.run([x])
    assert future.result().error_msg is None
    assert seen[1] == [[8, 12], [5, 12, 4], [8, 18]]
    assert "layout_rewrite_preproc" not in seen[0].script()
    artifact = Artifact.load(str(result.artifact_path))
    assert verifier().check(artifact).outcome == "right"


def verifier() -> Verifier:
    return Verifier(gt.IRModule({"matmul": free_matmul()}), Target(ONE_CORE), shared_worker())


def test_numbers_are_compared_with_inputs_packed_accordingly() -> None:
    v = verifier()
    assert v.check(built(scheduled())).outcome == "right"
    assert v.check_program(scheduled(6).mod).outcome == "right"
    assert v.run_program(scheduled().mod).outcome == "ran"


def test_a_packing_that_is_wrong_is_found() -> None:
    """Elements in other places, or written where there is no room."""
    artifact = built(scheduled(6))  # packed: (3, 12, 6)

    @T.prim_func
    def shifted(W: T.Buffer((12, 18), "float32"), P: T.Buffer((3, 12, 6), "float32")):
        for i, j in T.grid(12, 18):
            with T.block("P"):
                vi, vj = T.axis.remap("SS", [i, j])
                P[vj // 6, vi, (vj + 1) % 6] = W[vi, vj]

    @T.prim_func
    def outside(W: T.Buffer((12, 18), "float32"), P: T.Buffer((217,), "float32")):
        for i, j in T.grid(12, 18):
            with T.block("P"):
                vi, vj = T.axis.remap("SS", [i, j])
                P[vj // 6 * 72 + vi * 6 + vj % 6 + 1] = W[vi, vj]

    @T.prim_func
    def backwards(W: T.Buffer((12, 18), "float32"), P: T.Buffer((3, 12, 6), "float32")):
        for i, j in T.grid(12, 18):
            with T.block("P"):
                vi, vj = T.axis.remap("SS", [i, j])
                P[vj // 6, vi, vj % 6] = W[vi, vj]
                W[vi, vj] = 0.0

    for func, reason in ((shifted, "C: "), (outside, "outside its bounds"), (backwards, "changed")):
        lib = build(func, ONE_CORE)
        (code,) = lib.kernels.values()
        packing = {**artifact.packing, "symbol": code.symbol}
        bad = dataclasses.replace(artifact, packing=packing, packer=code.object_code)
        verdict = verifier().check(bad)
        assert verdict.outcome == "wrong"
        assert verdict.failure is not None
        assert reason in verdict.failure.message


def test_the_score_leaves_the_packing_out() -> None:
    machine = Machine()
    sch = scheduled(6)
    _, rest = split_layout_preproc(sch.mod["matmul"])
    whole, alone = (features_of(m, machine) for m in (sch.mod, gt.IRModule({"matmul": rest})))
    assert whole[1] == alone[1]
    np.testing.assert_array_equal(whole[0], alone[0])


def test_vectors_run_along_what_will_be_packed() -> None:
    """Named for a bug: the loop of 24 columns was no vector, since W, as it was written, is read
    with a stride along it; the layout was chosen only afterwards."""
    f = gt.tune(dense(), ONE_CORE, trials=0, seed=1, layout_free="W")
    vectors = [
        s
        for s in walk_stmt(f.mod["dense_bias_relu"].body)
        if type(s) is For and s.kind == "vectorized"
    ]
    assert any(x.buffer.name == "W_global" for s in vectors for x in all_loads(s))


def test_no_packing_function_where_nothing_is_packed() -> None:
    assert packing_code(matmul, Target(ONE_CORE)) == ({}, b"")
    assert packings_of(free_matmul()) == []


def test_a_worker_answers_with_both_kernels() -> None:
    with Worker() as worker:
        reply = worker.request("build", build_args(scheduled().mod, Target(ONE_CORE)), timeout_s=60)
    assert len(reply.blobs) == 2
    assert reply.data["packing"]["positions"] == [1]


# ----------------------------------------------------------------------------- right for all tiles
@st.composite
def programs(draw: st.DrawFn) -> tuple[PrimFunc, gt.Schedule]:
    """A product with free weights, in either orientation, under tiles that need not divide."""
    m, n, k = (draw(st.integers(1, 13)) for _ in range(3))
    across = draw(st.booleans())
    shape = (n, k) if across else (k, n)

    @T.prim_func
    def f(
        A: T.Buffer((m, k), "float32"),
        W: T.Buffer(shape, "float32"),
        C: T.Buffer((m, n), "float32"),
    ):
        for i, j, r in T.grid(m, n, k):
            with T.block("C"):
                vi, vj, vr = T.axis.remap("SSR", [i, j, r])
                with T.init():
                    C[vi, vj] = 0.0
                C[vi, vj] = C[vi, vj] + A[vi, vr] * (W[vj, vr] if across else W[vr, vj])

    func = f.with_attr(FREE, (1,))
    sch = gt.Schedule(func, seed=1)
    loops = sch.get_loops(sch.get_block("C"))
    parts = [sch.split(x, [None, draw(st.integers(1, 6))]) for x in loops]
    inner = [parts[0][1], parts[2][1], parts[1][1]]
    sch.reorder(parts[0][0], parts[1][0], parts[2][0], *inner)
    if draw(st.booleans()):
        sch.vectorize(parts[1][1])
    if draw(st.booleans()):
        sch.parallel(sch.fuse(parts[0][0], parts[1][0]))
    if draw(st.booleans()):
        sch.decompose_reduction("C", sch.get_loops(sch.get_block("C"))[-4])
    return func, sch


def extents(buffer: Buffer) -> list[int]:
    return [const_int(n) or 0 for n in buffer.shape]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(programs())
def test_packed_layouts_are_right_for_all_tiles(program: tuple[PrimFunc, gt.Schedule]) -> None:
    """What the packing does not fill is NaN here: no result may depend on it."""
    func, sch = program
    assert postprocess(sch, [RewriteLayout()]) is None
    pack, rest = split_layout_preproc(sch.mod["f"])
    assume(pack is not None)
    assert pack is not None
    rng = np.random.default_rng(0)
    a, w = (rng.integers(-4, 5, extents(b)).astype(np.float32) for b in func.buffers[:2])
    want = np.zeros(extents(func.buffers[2]), np.float32)
    interpret(func, a, w, want)
    shape = extents(rest.buffers[1])
    for call in (interpret, lambda f, *args: build(f, ONE_CORE)[f.name](*args)):
        packed = np.full(shape, np.nan, np.float32)
        call(pack, w, packed)
        out = np.full_like(want, np.nan)
        call(rest, a, packed, out)
        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("name", ["matmul", "conv1d", "conv2d", "gemv", "depthwise_conv2d"])
def test_operators_of_the_library(name: str) -> None:
    kernel = kernels.get(name)
    func = kernel.build(**kernel.check_shapes[0])
    f = gt.tune(func, ONE_CORE, trials=3, seed=2, layout_free=1)
    x, w, *rest = random_inputs(f.convention)
    out = np.zeros_like(f(x, w, *rest))
    build(func, ONE_CORE)(x, w, *rest, out)
    packed = f.pack(**{f.packer.names[0]: w})
    np.testing.assert_allclose(f(x, packed, *rest), out, rtol=1e-4, atol=1e-4)
