"""Does the short way in work? tune, TunedKernel, export and load, jit, and the default schedule."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gputune as gt
from gputune import kernels
from gputune.calling import Convention, random_inputs, roles
from gputune.default_schedule import build_default, default_schedule
from gputune.meta_schedule import JSONDatabase, MemoryDatabase, Progress, TuningRecord
from gputune.script import tir as T
from gputune.target import Target
from gputune.tuned_kernel import TunedKernel

ONE_CORE = "llvm -num-cores=1"


def matmul(m: int = 16, n: int = 32, k: int = 24) -> gt.PrimFunc:
    return kernels.get("matmul").build(m=m, n=n, k=k)


@T.prim_func
def split_halves(
    A: T.Buffer((8, 6), "float32"),
    s: T.float32,
    B: T.Buffer((8, 3), "float32"),
    C: T.Buffer((8, 3), "float32"),
):
    """Two outputs and a number."""
    for i, j in T.grid(8, 3):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] * s
    for i, j in T.grid(8, 3):
        with T.block("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = A[vi, vj + 3] + B[vi, vj]


@T.prim_func
def accumulate(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    """Updates in place."""
    for i in range(8):
        with T.block("B"):
            vi = T.axis.spatial(8, i)
            B[vi] = B[vi] + A[vi]


def test_a_report_tells_the_energy_where_it_is_known() -> None:
    f = gt.tune(matmul(), ONE_CORE, trials=1, seed=1)
    assert f.record is not None
    f.record.extras["energy"] = {"joules": 2.5e-3}  # as a GPU's record has it
    assert "  energy   2.50 mJ a call" in f.report()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> TunedKernel:
    folder = tmp_path_factory.mktemp("tuned")
    return gt.tune(matmul(), ONE_CORE, trials=6, work_dir=folder, seed=1)


def arrays(seed: int = 0, m: int = 16, n: int = 32, k: int = 24) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.random((m, k), dtype=np.float32), rng.random((k, n), dtype=np.float32)


def untuned(func: gt.PrimFunc) -> TunedKernel:
    return TunedKernel(gt.Schedule(func), Target(ONE_CORE), workload=func)


# ----------------------------------------------------------------------------- what is an output
def test_roles_of_every_kernel() -> None:
    """What the library calls outputs is what the analysis finds."""
    for name, k in kernels.KERNELS.items():
        func = k.build(k.check_shapes[0])
        found = [b.name for b, r in zip(func.buffers, roles(func)) if r == "out"]
        assert found == [b.name for b in func.buffers if b.name in k.outputs], name
        assert "inout" not in roles(func)


def test_what_is_read_first_is_updated_in_place() -> None:
    assert roles(accumulate) == ("in", "inout")
    assert roles(split_halves) == ("in", "in", "out", "out")


# ----------------------------------------------------------------------------- calling
def test_inputs_alone_give_the_output(tuned: TunedKernel) -> None:
    a, b = arrays()
    c = tuned(a, b)
    assert isinstance(c, np.ndarray)
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)
    assert tuned(a, b) is not c


def test_out_is_written(tuned: TunedKernel) -> None:
    a, b = arrays(1)
    c = np.empty((16, 32), np.float32)
    assert tuned(a, b, out=c) is c
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)
    d = np.empty_like(c)
    assert tuned(a, b, out=(d,)) is d


def test_all_arguments_in_the_manner_of_tvm(tuned: TunedKernel) -> None:
    a, b = arrays(2)
    c = np.empty((16, 32), np.float32)
    assert tuned(a, b, c) is None
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)


def test_gputune_arrays_give_gputune_arrays(tuned: TunedKernel) -> None:
    a, b = arrays(3)
    c = tuned(gt.nd.array(a), gt.nd.array(b))
    assert isinstance(c, gt.nd.NDArray)
    np.testing.assert_allclose(c.numpy(), a @ b, rtol=1e-5)


class Library:
    """An array library of immutable arrays: it can only be read, and takes over memory."""

    class Array:
        def __init__(self, data: Any) -> None:
            self.data = data

        def __array_namespace__(self) -> type[Library]:
            return Library

        def __dlpack__(self, **options: Any) -> Any:
            return self.data.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    @staticmethod
    def from_dlpack(x: Any) -> Library.Array:
        return Library.Array(np.from_dlpack(x))


def test_arrays_of_another_library_give_its_arrays(tuned: TunedKernel) -> None:
    a, b = arrays(4)
    c = tuned(Library.Array(a), Library.Array(b))
    assert isinstance(c, Library.Array)
    np.testing.assert_allclose(c.data, a @ b, rtol=1e-5)
    bound = tuned.bind(Library.Array(a), Library.Array(b))
    assert isinstance(bound(), Library.Array)
    np.testing.assert_allclose(bound().data, a @ b, rtol=1e-5)


def test_torch_tensors_give_torch_tensors(tuned: TunedKernel) -> None:
    torch = pytest.importorskip("torch")
    a, b = arrays(5)
    c = tuned(torch.from_numpy(a), torch.from_numpy(b))
    assert isinstance(c, torch.Tensor)
    np.testing.assert_allclose(c.numpy(), a @ b, rtol=1e-5)


def test_bound_calls_reuse_the_output(tuned: TunedKernel) -> None:
    a, b = arrays(6)
    step = tuned.bind(a, b)
    c = step()
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)
    a *= 2
    assert step() is c
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)


def test_several_outputs_and_numbers() -> None:
    f = untuned(split_halves)
    a = np.arange(48, dtype=np.float32).reshape(8, 6)
    b, c = f(a, 2.0)
    np.testing.assert_array_equal(b, a[:, :3] * 2)
    np.testing.assert_array_equal(c, a[:, 3:] + b)
    assert str(f.convention) == (
        "split_halves(A: float32[8, 6], s: float32) -> B: float32[8, 3], C: float32[8, 3]"
    )


def test_an_update_in_place_returns_nothing() -> None:
    a, b = np.ones(8, np.float32), np.full(8, 2, np.float32)
    assert untuned(accumulate)(a, b) is None
    np.testing.assert_array_equal(b, np.full(8, 3))


def test_symbolic_outputs_are_allocated_by_the_inputs() -> None:
    @T.prim_func
    def double(a: T.handle, b: T.handle):
        n = T.int32()
        A = T.match_buffer(a, (n,), "float32")
        B = T.match_buffer(b, (n,), "float32")
        for i in range(n):
            with T.block("B"):
                vi = T.axis.spatial(n, i)
                B[vi] = A[vi] * T.float32(2)

    f = untuned(double)
    np.testing.assert_array_equal(f(np.ones(5, np.float32)), np.full(5, 2))
    assert f.flops is None
    assert f.speedup is None


def test_elements_that_are_never_written_are_zero() -> None:
    @T.prim_func
    def first(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
        for i in range(2):
            with T.block("B"):
                vi = T.axis.spatial(2, i)
                B[vi] = A[vi]

    np.testing.assert_array_equal(untuned(first)(np.ones(4, np.float32)), [1, 1, 0, 0])


def test_outputs_lie_at_vector_boundaries(tuned: TunedKernel) -> None:
    a, b = arrays()
    for _ in range(20):
        assert tuned(a, b).ctypes.data % 64 == 0


@pytest.mark.parametrize(
    ("args", "out", "said"),
    [
        (1, None, "expected 2 inputs (A, B), or all 3 arguments with the outputs (C), found 1"),
        (4, None, "found 4"),
        (1, 1, "expected 2 inputs (A, B), found 1"),
        (2, 2, "out= holds 2 arrays, the kernel has 1 outputs (C)"),
    ],
)
def test_a_wrong_number_of_arguments(
    tuned: TunedKernel, args: int, out: int | None, said: str
) -> None:
    x = np.zeros((16, 24), np.float32)
    with pytest.raises(gt.RunError) as e:
        tuned(*[x] * args, out=None if out is None else (x,) * out)
    assert said in str(e.value)


def test_a_wrong_shape_is_named(tuned: TunedKernel) -> None:
    a, _ = arrays()
    with pytest.raises(gt.RunError, match="'B'"):
        tuned(a, a)


# ----------------------------------------------------------------------------- what is known
def test_a_tuned_kernel_tells_about_itself(tuned: TunedKernel) -> None:
    assert tuned.seconds is not None
    assert 0 < tuned.seconds < 1
    assert isinstance(tuned.record, TuningRecord)
    assert tuned.record.verified
    assert "define" in tuned.source
    assert "sch.enter_postproc()" in str(tuned.trace)
    assert tuned.mod.script() == tuned.schedule.mod.script()
    assert tuned.flops == 2 * 16 * 32 * 24
    report = tuned.report()
    assert "energy" not in report
    for part in ("matmul(A: float32[16, 24]", "GFLOP/s", "numbers verified", "6 trials",
                 "the unscheduled program's", "sample_perfect_tile"):  # fmt: skip
        assert part in report
    assert "matmul" in repr(tuned)


def test_failures_are_reported_by_reason() -> None:
    from gputune.tuned_kernel import Summary

    text = str(Summary(9, 3.0, {"run timeout": 1, "build crash": 3}))
    assert text == "9 trials in 3.0 s, 4 failed (3 build crash, 1 run timeout)"


def test_the_same_seed_tries_the_same_candidates(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        gt.tune(matmul(8, 16, 8), ONE_CORE, trials=4, work_dir=tmp_path / name, seed=7)
        lines = (tmp_path / name / "database_tuning_record.json").read_text().splitlines()
        found.append([json.loads(x)[1][0] for x in lines])
    assert found[0] == found[1]


def test_without_a_folder_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Progress] = []
    f = gt.tune(matmul(8, 16, 8), ONE_CORE, trials=3, seed=1, progress=seen.append)
    assert f.seconds is not None
    assert list(tmp_path.iterdir()) == []
    assert {p.phase for p in seen} >= {"build", "measure", "done"}
    assert "INFO" not in capsys.readouterr().err


def test_the_best_of_the_whole_history_is_returned(tmp_path: Path) -> None:
    first = gt.tune(matmul(8, 16, 8), ONE_CORE, trials=6, work_dir=tmp_path, seed=3)
    second = gt.tune(matmul(8, 16, 8), ONE_CORE, trials=1, work_dir=tmp_path, seed=4)
    assert first.seconds is not None
    assert second.seconds is not None
    assert second.seconds <= first.seconds


def test_ctrl_c_before_anything_was_measured() -> None:
    def stop(now: Progress) -> None:
        if now.phase == "build":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(gt.UserError, match="interrupted before any candidate of matmul"):
        gt.tune(matmul(8, 16, 8), ONE_CORE, trials=4, seed=1, progress=stop)


def test_a_space_of_ones_own() -> None:
    def rows(sch: gt.Schedule) -> None:
        i, _, _ = sch.get_loops(sch.get_block("C"))
        sch.split(i, sch.sample_perfect_tile(i, n=2))

    f = gt.tune(matmul(8, 16, 8), ONE_CORE, trials=20, space=rows)
    assert f.summary is not None
    assert f.summary.trials == 4  # 8x1, 4x2, 2x4, 1x8


def test_ctrl_c_returns_the_best_so_far() -> None:
    """The signal comes in the middle of the measurements."""

    calls: list[str] = []

    def stop(now: Progress) -> None:
        calls.append(now.phase)
        if (
            now.phase == "measure" and calls.count("measure") == 3
        ):  # the first says that measuring begins
            signal.raise_signal(signal.SIGINT)

    def four(sch: gt.Schedule) -> None:
        i, _, _ = sch.get_loops(sch.get_block("C"))
        sch.split(i, sch.sample_perfect_tile(i, n=2))

    assert threading.current_thread() is threading.main_thread()
    f = gt.tune(matmul(8, 16, 8), ONE_CORE, trials=100, seed=1, space=four, progress=stop)
    assert f.summary is not None
    assert f.summary.interrupted
    assert 1 <= f.summary.trials < 4
    assert f.report().count("interrupted") == 1
    a, b = arrays(m=8, n=16, k=8)
    np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-5)


@pytest.mark.parametrize(
    ("func", "options", "error", "said"),
    [
        (matmul(), {"seconds": 0}, gt.UserError, "seconds is a time above 0, found 0"),
        (matmul(), {"trials": -1}, gt.UserError, "trials is a count from 0, found -1"),
        (matmul(), {"trials": 2.5}, gt.UserError, "trials is a count from 0, found 2.5"),
        (matmul(), {"target": "lvm"}, gt.TargetError, "unknown target kind 'lvm'"),
        ("matmul", {}, gt.UserError, "expected a PrimFunc or an IRModule, found str"),
        (gt.Schedule(matmul()), {}, gt.UserError, "found a Schedule"),
        (
            gt.IRModule({"a": matmul(), "b": matmul()}), {}, gt.UserError,
            "expected a module of one function, found 2 (a, b)",
        ),
        (matmul(), {"work_dir": "/dev/null/x"}, gt.UserError, "cannot use /dev/null/x"),
    ],
)  # fmt: skip
def test_bad_calls_are_refused(func: Any, options: Any, error: type, said: str) -> None:
    with pytest.raises(error) as e:
        gt.tune(func, **{"target": ONE_CORE, "trials": 1, **options})
    assert said in str(e.value)


# ----------------------------------------------------------------------------- export and load
def test_export_and_load(tuned: TunedKernel, tmp_path: Path) -> None:
    folder = tuned.export(tmp_path / "kernel")
    assert {p.name for p in folder.iterdir()} == {
        "workload.py", "script.py", "trace.json", "record.json", "kernel.ll", "kernel.o",
    }  # fmt: skip
    f = gt.load(folder)
    a, b = arrays(9)
    np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-5)
    assert f.seconds == tuned.seconds
    assert str(f.trace) == str(tuned.trace)
    assert gt.structural_equal(f.mod, tuned.mod)
    assert f.target == tuned.target
    assert "numbers verified" in f.report()
    tuned.export(folder)  # again, over the old files
    assert gt.load(folder).seconds == tuned.seconds


def test_the_object_file_is_never_used(tuned: TunedKernel, tmp_path: Path) -> None:
    folder = tuned.export(tmp_path)
    (folder / "kernel.o").write_bytes(b"\x7fELF garbage")
    (folder / "kernel.ll").unlink()
    a, b = arrays(10)
    np.testing.assert_allclose(gt.load(folder)(a, b), a @ b, rtol=1e-5)


def test_a_kernel_of_another_processor_is_compiled_anew(tuned: TunedKernel, tmp_path: Path) -> None:
    folder = tuned.export(tmp_path)
    about = json.loads((folder / "record.json").read_text())
    about["target"] |= {"mcpu": "sapphirerapids", "mattr": "+avx2,+made-up-unit"}
    about["record"] = None
    (folder / "record.json").write_text(json.dumps(about))
    f = gt.load(folder)
    assert f.target == Target(ONE_CORE)
    assert f.seconds is None
    a, b = arrays(11)
    np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-5)


HOSTILE = "import os\nos.system('touch {0}')\n"


@pytest.mark.parametrize(
    ("file", "content", "error", "said"),
    [
        ("script.py", HOSTILE, gt.RecordError, "script.py: not a program"),
        ("workload.py", "def f(: pass", gt.RecordError, "workload.py: not a program"),
        ("workload.py", b"\xff\xfe\x00", gt.RecordError, "workload.py: not UTF-8"),
        ("trace.json", "[[1, 2]]", gt.RecordError, "trace.json"),
        ("trace.json", "[" * 100_000, gt.RecordError, "trace.json: nested too deeply"),
        ("trace.json", '[[["Split", [], [], []]], []]', gt.RecordError, "trace.json"),
        ("record.json", "{}", gt.RecordError, "record.json: not a kernel of this gputune"),
        ("record.json", "no", gt.RecordError, "record.json: not JSON"),
        ("trace.json", None, gt.UserError, "trace.json: No such file"),
    ],
)
def test_a_folder_that_was_tampered_with(
    tuned: TunedKernel, tmp_path: Path, file: str, content: Any, error: type, said: str
) -> None:
    folder = tuned.export(tmp_path / "kernel")
    proof = tmp_path / "ran"
    if content is None:
        (folder / file).unlink()
    elif isinstance(content, bytes):
        (folder / file).write_bytes(content)
    else:
        (folder / file).write_text(content.replace("{0}", str(proof)))
    with pytest.raises(error) as e:
        gt.load(folder)
    assert said in str(e.value)
    assert not proof.exists()


def test_a_script_that_is_not_the_traces(tuned: TunedKernel, tmp_path: Path) -> None:
    folder = tuned.export(tmp_path)
    (folder / "script.py").write_text((folder / "workload.py").read_text())
    with pytest.raises(gt.RecordError, match=r"is not what .*trace.json makes of workload.py"):
        gt.load(folder)


def test_export_to_where_nothing_can_be_written(tuned: TunedKernel) -> None:
    with pytest.raises(gt.UserError, match="cannot export to /dev/null/x"):
        tuned.export("/dev/null/x")


# ----------------------------------------------------------------------------- the default schedule
@pytest.mark.parametrize("folder", [3, None, "", b"x"])
def test_what_is_no_folder_is_refused(tuned: TunedKernel, folder: Any) -> None:
    with pytest.raises(gt.UserError, match="load: expected the path of a folder, found"):
        gt.load(folder)
    with pytest.raises(gt.UserError, match="export: expected the path of a folder, found"):
        tuned.export(folder)


@T.prim_func
def cannot_be_built(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.block("B"):
            vi = T.axis.spatial(8, i)
            B[vi] = T.call_extern("float32", "no_such_function", A[vi])


def test_the_hint_names_no_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(gt.RunError) as e:
        gt.tune(cannot_be_built, ONE_CORE, trials=1)
    assert e.value.hint == 'work_dir="FOLDER" keeps every failure with its trace'
    with pytest.raises(gt.RunError) as e:
        gt.tune(cannot_be_built, ONE_CORE, trials=1, work_dir=tmp_path)
    named = Path(e.value.hint.split(" has every failure")[0])
    assert named.parent == tmp_path
    assert "trace" in named.read_text()


def test_default_schedules_compute_what_the_programs_compute() -> None:
    for name, k in kernels.KERNELS.items():
        if name in kernels.SUITE:
            continue  # the same programs under other names
        shape = k.check_shapes[-1]
        func = k.build(shape)
        _, lib = build_default(func, Target(ONE_CORE))
        args = k.arguments(shape, exact=k.exact)
        lib(*args)
        outputs = [a for b, a in zip(func.buffers, args) if b.name in k.outputs]
        for found, expected in zip(outputs, k.expected(args, shape)):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_default_schedule_vectorises_and_uses_threads() -> None:
    sch = default_schedule(matmul(128, 128, 128), Target("llvm -num-cores=2"))
    script = sch.mod.script()
    assert "T.vectorized" in script
    assert "T.parallel" in script
    assert "T.parallel" not in default_schedule(matmul(4, 4, 4), Target("llvm")).mod.script()


# ----------------------------------------------------------------------------- jit
def test_jit_compiles_for_each_size_once() -> None:
    made: list[int] = []

    @gt.jit(target=ONE_CORE)
    def mm(m: int, n: int = 16, k: int = 8) -> gt.PrimFunc:
        made.append(m)
        return matmul(m, n, k)

    assert mm.__name__ == "mm"
    f = mm(8)
    assert mm(8, 16, k=8) is f
    assert mm(4) is not f
    assert made == [8, 4]
    a, b = arrays(m=8, n=16, k=8)
    np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-5)
    assert f.seconds is None
    assert "not measured" in f.report()


def test_jit_takes_what_the_database_has(tmp_path: Path) -> None:
    tuned = gt.tune(matmul(8, 16, 8), ONE_CORE, trials=3, work_dir=tmp_path, seed=1)

    @gt.jit(target=ONE_CORE, work_dir=tmp_path)
    def from_files(m: int, n: int, k: int) -> gt.PrimFunc:
        return matmul(m, n, k)

    assert from_files(8, 16, 8).seconds == tuned.seconds
    assert from_files(8, 16, 4).seconds is None

    @gt.jit
    def current(m: int, n: int, k: int) -> gt.PrimFunc:
        return matmul(m, n, k)

    with Target(ONE_CORE):
        assert current(8, 16, 8).seconds is None
        with JSONDatabase(work_dir=tmp_path):
            assert current(8, 16, 8).seconds == tuned.seconds
        with MemoryDatabase():
            assert current(8, 16, 8).seconds is None


def test_jit_can_be_tuned(tmp_path: Path) -> None:
    @gt.jit(target=ONE_CORE, work_dir=tmp_path / "new")
    def mm(m: int, n: int, k: int) -> gt.PrimFunc:
        return matmul(m, n, k)

    assert mm(8, 16, 8).seconds is None
    found = mm.tune(8, 16, 8, trials=2, seed=1)
    assert mm(8, 16, 8) is found
    mm.clear()
    assert mm(8, 16, 8).seconds == found.seconds


def test_jit_refuses_what_makes_no_sense() -> None:
    @gt.jit(target=ONE_CORE)
    def mm(m: int) -> Any:
        return "no program"

    with pytest.raises(gt.UserError, match="expected a PrimFunc or an IRModule, found str"):
        mm(1)
    with pytest.raises(gt.UserError, match="too many positional"):
        mm(1, 2)
    with pytest.raises(gt.UserError, match="sizes must be hashable"):
        mm([1])
    with pytest.raises(gt.UserError, match="expected a function, found int"):
        gt.jit(3)  # type: ignore[call-overload]  # what is refused


def test_random_inputs_are_repeatable() -> None:
    conv = Convention.of(split_halves)
    one, two = random_inputs(conv), random_inputs(conv)
    assert len(one) == 2
    assert isinstance(one[1], float)
    np.testing.assert_array_equal(one[0], two[0])
    assert np.unique(one[0]).size > 10
