"""Are CUDA kernels tuned like everything else? The search, the records, the result: with a stand-in
for the GPU. (`test_cuda_kernel_host.py` runs the kernels.)"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gputune as gt
from gputune.codegen.cuda.raw import Configuration, define, raw_source, with_defines
from gputune.meta_schedule.json_database import RECORD_FILE, JSONDatabase
from gputune.meta_schedule.raw_features import raw_features
from gputune.meta_schedule.record import checksum
from gputune.raw_arguments import Arguments
from gputune.raw_kernel import CudaKernel, Params
from gputune.raw_space import Choices, Configure, own_configuration, workload
from gputune.script import from_source

from .cuda_sim import Defines, SimulatedGpu

TARGET = gt.Target("cuda -arch=sm_80")
TEXT = """\
extern "C" __global__ void vadd(float* c, const float* a, const float* b, int n) {
  int i = (blockIdx.x * BX + threadIdx.x) * VEC;
  for (int v = 0; v < VEC; ++v)
    if (i + v < n) c[i + v] = a[i + v] + b[i + v];
}
"""
N = 1000
A = np.linspace(-1, 1, N, dtype=np.float32)
B = np.linspace(3, 0, N, dtype=np.float32)


def vadd(**changes: Any) -> CudaKernel:
    given: dict[str, Any] = {
        "name": "vadd",
        "source": TEXT,
        "params": {"BX": [64, 128, 256], "VEC": [1, 2, 4]},
        "where": lambda p: p.BX * p.VEC <= 512,
        "grid": lambda p, c, a, b, n: gt.cdiv(int(n), p.BX * p.VEC),
        "block": lambda p: p.BX,
        "smem": lambda p: 0,
        "options": ("-std=c++17",),
        "outputs": ("c",),
    }
    return gt.cuda_kernel(**{**given, **changes})


def args() -> tuple[Any, ...]:
    return np.zeros(N, np.float32), A, B, np.int32(N)


def reference(c: Any, a: Any, b: Any, n: Any) -> dict[str, Any]:
    return {"c": a + b}


def clock(p: Defines) -> float:
    """The fastest is BX = 256, VEC = 2 (of those that `where` lets through)."""
    return 1e-6 * (1 + abs(int(p["BX"]) - 256) / 64 + abs(int(p["VEC"]) - 2))


def right(p: Defines) -> dict[str, Any]:
    return {"c": A + B}


def tuned(kernel: CudaKernel | None = None, gpu: Any = None, **options: Any) -> Any:
    given: dict[str, Any] = {
        "reference": reference,
        "target": TARGET,
        "runner": gpu or SimulatedGpu(clock, right),
        "seed": 1,
    }
    return gt.tune_kernel(kernel or vadd(), args(), **{**given, **options})


# ----------------------------------------------------------------------------- the example
def test_the_example() -> None:
    gpu = SimulatedGpu(clock, right)
    r = tuned(
        gpu=gpu,
        tolerance=None,
        strategy="evolutionary",
        cost_model="xgb",
        objective="latency",
        trials=None,
        seconds=30,
        metrics={"GB/s": lambda m: 12 * N / m.seconds / 1e9},
    )
    assert r.best.params == {"BX": 256, "VEC": 2}
    assert r.best.params.BX == 256
    assert r.best.seconds == pytest.approx(1e-6)
    assert r.best.nvml is None
    assert r.best.nvml_problem
    assert len(gpu.measured) == 8  # every combination but the one that `where` refuses, once
    assert r.metric("GB/s") == pytest.approx(12.0)
    table = r.table()
    assert "GB/s" in table.splitlines()[0]
    assert table.splitlines()[1].split()[:2] == ["256", "2"]
    assert "verified" in table
    why = r.why()
    assert "9 combinations: 8 measured, 0 failed, 1 refused before compiling, 0 not tried" in why
    assert "1 x refused by where" in why
    assert why.index("VEC  ") < why.index("BX  ")  # VEC mattered more
    assert r.summary.trials == 8


def test_nothing_is_written_into_the_callers_arrays() -> None:
    given = args()
    gt.tune_kernel(vadd(), given, runner=SimulatedGpu(clock, right), target=TARGET, trials=2)
    assert not given[0].any()


def test_the_same_seed_tries_the_same_configurations() -> None:
    found = []
    for _ in range(2):
        gpu = SimulatedGpu(clock, right)
        tuned(gpu=gpu, trials=5)
        found.append(gpu.measured)
    assert found[0] == found[1]


@pytest.mark.parametrize("strategy", ["evolutionary", "replay-trace", "exhaustive"])
@pytest.mark.parametrize("model", ["none", "random"])
def test_strategies(strategy: str, model: str) -> None:
    gpu = SimulatedGpu(clock, right)
    r = tuned(gpu=gpu, strategy=strategy, cost_model=model)
    assert r.best.params == {"BX": 256, "VEC": 2}
    assert len(gpu.measured) == 8


def test_trials_are_a_limit() -> None:
    gpu = SimulatedGpu(clock, right)
    assert tuned(gpu=gpu, trials=3).summary.trials == 3
    assert len(gpu.measured) == 3
    assert "5 not tried" in tuned(gpu=gpu, trials=3, strategy="exhaustive").why()


def test_the_model_learns_where_a_large_space_is_good() -> None:
    """4,096 combinations, 64 trials: what the model finds is much better than what chance does."""
    params = {name: [1, 2, 4, 8, 16, 32, 64, 128] for name in "UVWX"}
    text = TEXT.replace("BX", "64").replace("VEC", "1")
    kernel = vadd(source=text, params=params, where=None, grid=(16,), block=64)

    def hilly(p: Defines) -> float:
        return 1e-6 * (
            1 + sum((np.log2(int(p[n])) - at) ** 2 for n, at in zip("UVWX", (1, 6, 3, 5)))
        )

    def best(**options: Any) -> float:
        gpu = SimulatedGpu(hilly, right)
        return float(tuned(kernel, gpu, trials=64, **options).best.seconds)

    assert best() < 0.5 * best(strategy="replay-trace", cost_model="none")


# ----------------------------------------------------------------------------- wrong ones
def test_a_wrong_configuration_never_wins_and_is_named() -> None:
    def result(p: Defines) -> dict[str, Any]:
        out = A + B
        if p["BX"] == "256":
            out = out.copy()
            out[-3:] = 0
        return {"c": out}

    r = tuned(gpu=SimulatedGpu(clock, result))
    assert r.best.params.BX == 128
    assert "Params(BX=256, VEC=2)" in r.why()
    assert "check wrong_result" in r.table()
    wrong = [m for m in r.failed if m.error["kind"] == "wrong_result"]
    assert wrong
    assert all(m.params.BX == 256 for m in wrong)


def test_a_wrong_configuration_of_an_earlier_run_does_not_win(tmp_path: Path) -> None:
    """The first run knows no better; the second one has a reference."""

    def result(p: Defines) -> dict[str, Any]:
        return {"c": A + B + (p["BX"] == "256")}

    first = tuned(gpu=SimulatedGpu(clock, result), reference=None, work_dir=tmp_path, seed=4)
    second = tuned(gpu=SimulatedGpu(clock, result), work_dir=tmp_path)
    assert second.best.params.BX == 128
    assert "first configuration that ran" in first.why()
    assert "reference" in second.why().splitlines()[-4]


def test_without_a_reference_the_first_decides() -> None:
    def result(p: Defines) -> dict[str, Any]:
        return {"c": A + B + (p["VEC"] == "2")}

    r = tuned(gpu=SimulatedGpu(clock, result), reference=None)
    assert "no reference was given" in r.why()
    first = r.why().split("that ran, Params(")[1].split(")")[0]
    assert ("VEC=2" in first) == (r.best.params.VEC == 2)
    assert any(m.error["kind"] == "wrong_result" for m in r.failed)


def test_without_a_reference_elements_left_out_are_found() -> None:
    def result(p: Defines) -> dict[str, Any]:
        return {"c": np.random.default_rng().random(N, np.float32)}

    with pytest.raises(gt.GputuneError, match="inout"):
        tuned(gpu=SimulatedGpu(clock, result), reference=None)


def test_what_does_not_run_when_checked_is_wrong() -> None:
    def result(p: Defines) -> dict[str, Any]:
        return {"crash": 1} if p["BX"] == "256" else {"c": A + B}

    assert tuned(gpu=SimulatedGpu(clock, result)).best.params.BX == 128


@pytest.mark.parametrize(
    ("tolerance", "passes"), [(None, False), (1e-2, True), ({"c": 1e-2}, True)]
)
def test_tolerance(tolerance: Any, passes: bool) -> None:
    gpu = SimulatedGpu(clock, lambda p: {"c": (A + B) * np.float32(1.003)})
    if passes:
        assert tuned(gpu=gpu, tolerance=tolerance).best.params.BX == 256
    else:
        with pytest.raises(gt.RunError, match="wrong_result"):
            tuned(gpu=gpu, tolerance=tolerance)


# ----------------------------------------------------------------------------- failures
def test_a_configuration_that_cannot_compile_is_one_failure(tmp_path: Path) -> None:
    text = TEXT.replace("int i =", "#if VEC == 4\nnonsense;\n#endif\nint i =")
    kernel = vadd(source=text, params={"BX": [64, 128], "VEC": [1, 4]})
    r = tuned(kernel, work_dir=tmp_path)
    assert {str(m.params) for m in r.failed} == {
        "Params(BX=64, VEC=4)",
        "Params(BX=128, VEC=4)",
    }
    for m in r.failed:
        assert (m.error["phase"], m.error["kind"]) == ("build", "BuildError")
        assert "nonsense" in m.error["message"]
        assert "vadd.cu(3)" in m.error["message"]  # the line of the user's own text
    assert len(failures(tmp_path)) == 2
    assert "2 x build BuildError" in r.why()


def test_a_crash_is_one_failure(tmp_path: Path) -> None:
    gpu = SimulatedGpu(lambda p: "it crashed" if p["BX"] == "64" else clock(p), right)
    r = tuned(gpu=gpu, work_dir=tmp_path)
    assert len(failures(tmp_path)) == 3
    assert {m.params.BX for m in r.failed} == {64}


def test_all_failed() -> None:
    with pytest.raises(gt.RunError, match="it crashed"):
        tuned(gpu=SimulatedGpu(lambda p: "it crashed", right))


def test_what_the_device_cannot_run_is_refused_by_the_builder() -> None:
    """1,024 threads with __launch_bounds__ for 128 compile, and could not be launched."""
    text = TEXT.replace("__global__", "__global__ __launch_bounds__(128)")
    r = tuned(vadd(source=text, params={"BX": [128, 256], "VEC": [1]}))
    (failed,) = r.failed
    assert failed.params.BX == 256
    assert "at most 128 (__launch_bounds__)" in failed.error["message"]


def failures(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / RECORD_FILE).read_text().splitlines()
    return [r[4]["error"] for r in (json.loads(x)[1] for x in lines) if "error" in r[4]]


# ----------------------------------------------------------------------------- records
def test_a_second_run_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    gpu = SimulatedGpu(clock, right)
    tuned(gpu=gpu, trials=3, work_dir=tmp_path)
    r = tuned(gpu=gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 8
    assert len({tuple(p.items()) for p in gpu.measured}) == 8
    assert len(r.measured) == 8
    # everything is known: nothing is measured, and the result is the same
    for strategy in ("evolutionary", "exhaustive"):
        again = tuned(gpu=gpu, work_dir=tmp_path, strategy=strategy)
        assert len(gpu.measured) == 8
        assert again.best.params == r.best.params


def test_more_values_of_a_parameter_keep_what_was_measured(tmp_path: Path) -> None:
    gpu = SimulatedGpu(clock, right)
    tuned(vadd(params={"BX": [64, 128], "VEC": [1, 2]}), gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 4
    r = tuned(vadd(params={"BX": [32, 64, 128, 192], "VEC": [1, 2]}), gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 8
    assert len(r.measured) == 8


def test_other_arguments_and_other_text_are_other_workloads(tmp_path: Path) -> None:
    gpu = SimulatedGpu(clock, right)
    tuned(gpu=gpu, work_dir=tmp_path)
    tuned(vadd(source=TEXT + "// changed\n"), gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 16
    given = (*args()[:3], np.int32(N - 1))
    gt.tune_kernel(vadd(), given, target=TARGET, runner=gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 24


def test_records_replay_without_the_users_functions(tmp_path: Path) -> None:
    r = tuned(work_dir=tmp_path)
    database = JSONDatabase(work_dir=tmp_path)
    records = database.get_all_tuning_records()
    assert len(records) == 8
    best = min(records, key=lambda x: x.seconds)
    mod = best.as_measure_candidate().sch.mod
    source = raw_source(mod["vadd"])
    assert source is not None
    assert source.text == r.best.source
    assert source.host.launches[0].grid == (2, 1, 1)
    # and so does what a script says
    again = raw_source(from_source(mod.script())["vadd"])  # type: ignore[index]  # a module
    assert again == source
    facts = best.extras["facts"]["vadd"]
    assert facts["registers"] > 0
    assert 0 < facts["occupancy"] <= 1


def test_a_where_that_refuses_more_than_before_counts(tmp_path: Path) -> None:
    tuned(work_dir=tmp_path)
    r = tuned(vadd(where=lambda p: p.BX < 256), work_dir=tmp_path)
    assert r.best.params.BX == 128
    assert r.foreign == 2


def test_a_text_made_by_a_function(tmp_path: Path) -> None:
    def text(p: Params) -> str:
        return TEXT.replace("* VEC", "" if p.VEC == 1 else "* VEC")

    gpu = SimulatedGpu(clock, right)
    r = tuned(vadd(source=text), gpu, work_dir=tmp_path)
    assert r.best.params == {"BX": 256, "VEC": 2}
    assert "* VEC" in r.best.source
    tuned(vadd(source=text), gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 8
    # another function is another kernel
    tuned(vadd(source=lambda p: TEXT + f"// {p.BX}\n"), gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 16


# ----------------------------------------------------------------------------- hostile records
def with_record(folder: Path, change: Any) -> None:
    """Add a record that is faster than all others, with the launch changed."""
    path = folder / RECORD_FILE
    number, record = json.loads(path.read_text().splitlines()[0])
    (insts, _) = record[0]
    for inst in insts:
        if inst[0] == "Annotate" and inst[2] == ["cuda.launch"]:
            inst[1][1] = change(inst[1][1])
    record[1] = [1e-12]
    record[4].pop("crc")
    record[4] |= {"verified": True, "program": "0" * 32}
    record[4].pop("error", None)
    record[4]["crc"] = checksum(record)
    with path.open("a") as f:
        f.write(json.dumps([number, record]) + "\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: {**x, "text": 'extern "C" __global__ void vadd() { evil(); }'},
        lambda x: {**x, "params": {"BX": "64\n#include </etc/passwd>", "VEC": 1}},
        lambda x: {**x, "params": {"BX": 512, "VEC": 1}},
        lambda x: {**x, "params": {"BX": 64.0, "VEC": 1}},
        lambda x: {**x, "params": {"BX": True, "VEC": 1}},
        lambda x: {**x, "grid": [1, 1, 1]},
        lambda x: {**x, "grid": [-1, 1, 1]},
        lambda x: {**x, "smem": "lots"},
        lambda x: "no configuration at all",
        lambda x: {"params": {}},
    ],
)
def test_foreign_configurations_are_neither_run_nor_returned(tmp_path: Path, change: Any) -> None:
    tuned(work_dir=tmp_path, trials=3)
    with_record(tmp_path, change)
    seen: list[Defines] = []

    def result(p: Defines) -> dict[str, Any]:
        seen.append(p)
        return right(p)

    r = tuned(gpu=SimulatedGpu(clock, result), work_dir=tmp_path)
    assert r.best.params == {"BX": 256, "VEC": 2}
    assert r.best.seconds == pytest.approx(1e-6)
    assert all(set(p) == {"BX", "VEC"} and p["BX"] in ("64", "128", "256") for p in seen)
    assert r.foreign == 1
    assert "passed over  1 records" in r.why()


def test_an_annotation_that_is_torn_is_no_configuration() -> None:
    for bad in (None, [], {"params": {"a b": 1}, "grid": [1, 1, 1], "block": [1, 1, 1], "smem": 0}):
        with pytest.raises(gt.BuildError):
            Configuration.of_annotation(bad)


# ----------------------------------------------------------------------------- the result
def test_export(tmp_path: Path) -> None:
    r = tuned()
    folder = r.best.export(tmp_path / "vadd")
    text = (folder / "vadd.cu").read_text()
    assert text.startswith("#define BX 256\n#define VEC 2\n")
    assert text.endswith(TEXT)
    launch = json.loads((folder / "launch.json").read_text())
    assert launch["grid"] == [2, 1, 1]
    assert launch["block"] == [256, 1, 1]
    assert launch["params"] == {"BX": 256, "VEC": 2}
    assert launch["arguments"][3] == {
        "name": "n", "dtype": "int32", "shape": None, "value": N, "written": False,
    }  # fmt: skip
    readme = (folder / "README.md").read_text()
    assert "kernel((2, 1, 1), (256, 1, 1), (c, a, b, np.int32(1000),), shared_mem=0)" in readme
    with pytest.raises(gt.UserError, match="export"):
        r.best.export(folder / "vadd.cu")


def test_calling_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gputune.tuned_cuda_kernel.cuda_problem", lambda: "no driver")
    with pytest.raises(gt.RunError, match="no driver") as e:
        tuned(trials=1).best(*args())
    assert "export" in e.value.hint


def test_other_sizes_are_launched_as_the_grid_says() -> None:
    best = tuned().best
    f = best.function_for(args())
    assert f.source.text == best.source
    assert f.source.host.launches[0].grid == (2, 1, 1)
    assert best.function_for(args()) is f
    longer = np.zeros(5000, np.float32)
    g = best.function_for((longer, longer, longer, np.int32(5000)))
    assert g.source.host.launches[0].grid == (10, 1, 1)
    assert g.program.binary is f.program.binary
    with pytest.raises(gt.RunError, match="takes the arguments c, a, b, n; found 3"):
        best.function_for(args()[:3])
    with pytest.raises(gt.RunError, match="refused: grid is"):
        best.function_for((longer, longer, longer, np.int32(0)))


def test_without_a_gpu_the_hint_says_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gputune.raw_tuning.cuda_problem", lambda: "no driver (libcuda not found)")
    with pytest.raises(gt.UserError, match="libcuda not found") as e:
        gt.tune_kernel(vadd(), args(), target=TARGET)
    assert 'runner="host"' in e.value.hint


def test_a_metric_that_raises_is_named() -> None:
    r = tuned(trials=2, metrics={"odd": lambda m: m.nonsense})
    with pytest.raises(gt.UserError, match="'odd' raised AttributeError"):
        r.table()
    with pytest.raises(gt.UserError, match="there are: odd"):
        r.metric("GB/s")


# ----------------------------------------------------------------------------- parameters
def test_parameters_may_be_anything_that_a_define_can_say(tmp_path: Path) -> None:
    text = TEXT.replace("void vadd(float* c", "void vadd(T* c").replace(
        "a[i + v]", "SCALE * a[i+v]"
    )
    params = {"BX": [64], "VEC": [1], "T": ["float"], "SCALE": [1.0, 0.5], "FAST": [True, False]}
    gpu = SimulatedGpu(lambda p: 1e-6 * (float(p["SCALE"]) + int(p["FAST"])), right)
    r = tuned(vadd(source=text, params=params), gpu, work_dir=tmp_path)
    assert r.best.params == {"BX": 64, "VEC": 1, "T": "float", "SCALE": 0.5, "FAST": False}
    assert type(r.best.params.FAST) is bool
    assert r.best.source.startswith(
        "#define BX 64\n#define VEC 1\n#define T float\n#define SCALE 0.5\n#define FAST 0\n"
    )
    tuned(vadd(source=text, params=params), gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 4


def test_no_parameters_is_one_configuration() -> None:
    text = TEXT.replace("BX", "128").replace("VEC", "1")
    kernel = gt.cuda_kernel(
        "vadd", text, grid=(8,), block=128, outputs=["c"], arguments=("c", "a", "b", "n")
    )
    r = tuned(kernel, SimulatedGpu(lambda p: 1e-6, right))
    assert r.best.params == {}
    assert r.best.configuration.grid == (8, 1, 1)


def test_defines() -> None:
    assert define("X", -3) == "#define X -3"
    assert define("X", 1e-7) == "#define X 1e-07"
    assert with_defines("text", {"A": 1, "B": "int"}, "k") == (
        '#define A 1\n#define B int\n#line 1 "k.cu"\ntext'
    )
    for bad in ("two\nlines", "continued \\", float("nan"), float("inf"), None, (1, 2)):
        with pytest.raises(gt.BuildError, match="parameter X"):
            define("X", bad)  # type: ignore[arg-type]  # what it refuses


def test_params_compare_with_their_types() -> None:
    assert Params({"a": 1}) == {"a": 1}
    assert Params({"a": 1}) != {"a": True}
    assert Params({"a": 1}) != {"a": 1.0}
    with pytest.raises(AttributeError, match="there are: a"):
        _ = Params({"a": 1}).b


def test_cdiv() -> None:
    assert [gt.cdiv(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


# ----------------------------------------------------------------------------- refusals
def configured(kernel: CudaKernel) -> tuple[Configure, int]:
    configure = Configure(Arguments.of(kernel, args(), reference), TARGET)
    return configure, configure.try_all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"where": lambda p: p.BX == 64}, "refused by where"),
        ({"where": lambda p: p.BX if p.BX == 64 else 1 / 0}, "where raised ZeroDivisionError"),
        ({"block": lambda p: (p.BX, p.BX // 32)}, "too many threads"),
        ({"block": lambda p: (64 - (p.BX > 64) * 64, 1)}, "block below 1"),
        ({"grid": lambda p, c, a, b, n: (1, 1, 10**6 * (p.BX > 64) + 1)}, "grid too large"),
        ({"grid": lambda p, c, a, b, n: n / 64 if p.BX > 64 else 1}, "grid is no whole number"),
        ({"grid": lambda p, c, a, b, n: (1,) * (4 - 3 * (p.BX == 64))}, "grid is no size"),
        ({"smem": lambda p: (p.BX > 64) * 200_000}, "too much shared memory"),
        ({"smem": lambda p: -(p.BX > 64)}, "smem below 0"),
    ],
)
def test_combinations_are_refused_before_compiling(changes: dict[str, Any], reason: str) -> None:
    configure, legal = configured(vadd(params={"BX": [64, 128, 256], "VEC": [1]}, **changes))
    assert configure.refused == Counter({reason: 3 - legal})
    assert 0 < legal < 3


def test_all_refused() -> None:
    with pytest.raises(gt.UserError, match=r"all 9 combinations .* 9 x refused by where"):
        tuned(vadd(where=lambda p: False))


def test_a_source_function_that_fails_refuses() -> None:
    def text(p: Params) -> str:
        raise LookupError("no template")

    with pytest.raises(gt.UserError, match="source raised LookupError"):
        tuned(vadd(source=text))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "no C identifier"),
        ({"params": {"B X": [1]}}, "no C identifier"),
        ({"params": {"BX": []}}, "at least one"),
        ({"params": {"BX": "64"}}, "give a list"),
        ({"params": {"BX": [64, 64]}}, "twice"),
        ({"params": {"BX": [object()]}}, "BX is <object"),
        ({"source": "vadd.cu"}, "found the file name"),
        ({"source": 3}, "found int"),
        ({"source": Path("not/there.cu")}, "cannot read"),
        ({"outputs": ()}, "at least one"),
        ({"outputs": "c"}, "list of strings"),
        ({"options": "-O3"}, "list of strings"),
    ],
)
def test_kernels_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(gt.GputuneError, match=message):
        vadd(**changes)


def test_a_numba_kernel_is_refused_by_name() -> None:
    Dispatcher = type("CUDADispatcher", (), {"__module__": "numba.cuda.dispatcher"})
    with pytest.raises(gt.UserError, match="numba kernel"):
        vadd(source=Dispatcher())
    with pytest.raises(gt.UserError, match="numba kernel"):
        tuned(vadd(source=lambda p: Dispatcher()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((*args()[:3], N), r"Python int 1000.*"),
        ((*args()[:3], np.float64("nan")), "finite"),
        (args()[:3], "3 arguments were given"),
        ((args()[0][::2], *args()[1:]), "not contiguous"),
        ((args()[0].astype("complex64"), *args()[1:]), "dtype complex64"),
        ((args()[0], "A", *args()[2:]), "argument a"),
        ((np.int32(1), *args()[1:]), "cannot be an output"),
    ],
)
def test_arguments_that_a_kernel_cannot_take(given: Any, message: str) -> None:
    with pytest.raises(gt.UserError, match=message):
        gt.tune_kernel(vadd(), given, target=TARGET, runner=SimulatedGpu(clock, right))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "energy"}, "objective 'energy'"),
        ({"target": "llvm"}, "cuda target"),
        ({"trials": 0}, "trials"),
        ({"seconds": -1}, "seconds"),
        ({"tolerance": {"x": 1}}, "tolerance names x"),
        ({"tolerance": -1}, "tolerance"),
        ({"metrics": {"GB/s": 3}}, "metric"),
        ({"runner": 3}, "runner is"),
        ({"strategy": "hope"}, "no search strategy"),
        ({"reference": lambda c, a, b, n: {"d": a}}, "the kernel writes c"),
        ({"reference": lambda c, a, b, n: {"c": a[1:]}}, "shape"),
        ({"reference": lambda c, a, b, n: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_calls_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(gt.GputuneError, match=message):
        tuned(**options)


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(gt.UserError, match="expected what cuda_kernel makes"):
        gt.tune_kernel(lambda: 0, ())  # type: ignore[arg-type]  # what it refuses


# ----------------------------------------------------------------------------- names of arguments
def test_arguments_get_their_names_from_whoever_knows_them() -> None:
    assert vadd().names(4) == ("c", "a", "b", "n")
    assert vadd(grid=1).names(4) == ("c", "a", "b", "n")  # the text
    silent = vadd(grid=1, source=lambda p: TEXT)
    assert silent.names(4, reference) == ("c", "a", "b", "n")
    assert vadd(grid=1, arguments=("c", "x", "y", "z")).names(4) == ("c", "x", "y", "z")
    with pytest.raises(gt.UserError, match="nothing names so many"):
        silent.names(4)
    with pytest.raises(gt.UserError, match="output 'd' is none"):
        vadd(outputs=("d",)).names(4)


def test_comments_and_attributes_do_not_hide_the_parameters() -> None:
    text = """
    // void vadd(int wrong) {
    extern "C" __global__ void __launch_bounds__(BX, 2)
    vadd(float* __restrict__ c /* out */, const float *a, const float b[], int n)
    { }
    """
    assert vadd(grid=1, source=text).names(4) == ("c", "a", "b", "n")


# ----------------------------------------------------------------------------- arguments
def test_outputs_begin_with_other_values_and_inout_with_the_callers() -> None:
    kernel = vadd(outputs=("c",), inout=("a",))
    found = Arguments.of(kernel, args())
    seen: list[Any] = []

    def keep(c: Any, a: Any, b: Any, n: Any) -> dict[str, Any]:
        seen.append((c.copy(), a.copy()))
        a += 1
        return {"c": c, "a": a}

    expected = found.expected(keep, seed=3)
    ((c, a),) = seen
    assert (c >= 2).all()  # not the caller's zeros
    assert (a == A).all()
    assert (expected["a"] == A + 1).all()
    found.expected(keep, seed=3)
    assert (seen[1][1] == A).all()  # a fresh copy each time


def test_the_files_of_arguments_are_what_workers_fill_in() -> None:
    from gputune.runtime.operations import Held, arguments

    found = Arguments.of(vadd(), args())
    with found.stored() as specs:
        held = arguments({"arguments": specs}, 3)
        path = Path(specs[1]["path"])
        assert path.exists()
    assert not path.exists()
    c, a, b, n = held
    assert isinstance(c, Held)
    assert isinstance(a, Held)
    assert isinstance(b, Held)
    assert (a.array == A).all()
    assert (b.array == B).all()
    assert n == N
    poison = found.fresh(3)[0]
    assert (c.array == poison).all()


# ----------------------------------------------------------------------------- features
def test_features_tell_configurations_apart() -> None:
    kernel = vadd(params={"BX": [64, 128], "VEC": [1, 2], "T": ["float", "double"]})
    arguments = Arguments.of(kernel, args())
    configure = Configure(arguments, TARGET)
    mod = workload(arguments, {})
    assert raw_features(mod, 331) is None  # not configured
    space = Choices(kernel, configure)
    rows = set()
    for seed in range(40):
        space.rng.seed(seed)
        (sch,) = space.generate_design_space(mod)
        sch.enter_postproc()
        assert configure.apply(sch)
        assert own_configuration(arguments, sch.mod) is not None
        found = raw_features(sch.mod, 331)
        assert found is not None
        assert found[0].shape == (331,)
        assert np.isfinite(found[0]).all()
        rows.add(found[0].tobytes())
    assert len(rows) == 8
