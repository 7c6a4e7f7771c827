"""What is the best by energy, and what is said where nobody can tell? With a stand-in for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import gputune as gt
from gputune import meta_schedule as ms
from gputune.errors import GputuneError, RunError, UserError
from gputune.meta_schedule import objective as module
from gputune.meta_schedule.artifact import Artifact
from gputune.meta_schedule.json_database import JSONDatabase
from gputune.meta_schedule.objective import by_objective, check_objective
from gputune.meta_schedule.runner import RunnerInput, RunnerResult
from gputune.runtime.energy import Energy
from gputune.script import tir as T

from .cuda_sim import Defines, SimulatedGpu, defines
from .test_cuda_kernel import args, clock, reference, right, vadd

TARGET = gt.Target("cuda -arch=sm_80")


@T.prim_func
def add(
    A: T.Buffer((4096,), "float32"),
    B: T.Buffer((4096,), "float32"),
    C: T.Buffer((4096,), "float32"),
):
    for i in range(4096):
        with T.block("C"):
            v = T.axis.spatial(4096, i)
            C[v] = A[v] + B[v]


def in_threads(sch: gt.Schedule) -> None:
    """A small space: blocks of so many threads."""
    (i,) = sch.get_loops(sch.get_block("C"))
    blocks, threads = sch.split(i, sch.sample_perfect_tile(i, n=2, max_innermost_factor=256))
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")


class MeteredGpu(SimulatedGpu):
    """A stand-in that also tells energy.

    Args:
        joules: of a call by parameters; or why it cannot be told, or an error to raise.
        problem: why there is none at all.
    """

    def __init__(
        self, joules: Callable[[Defines], Any], problem: str = "", others: int = 0
    ) -> None:
        super().__init__(clock, right)
        self.joules, self.problem, self.others = joules, problem, others
        self.metered: list[Defines] = []

    def _one(self, x: RunnerInput) -> RunnerResult:
        found = super()._one(x)
        facts = {"readings": 3, "batches": 3, "others": self.others}
        return RunnerResult(found.run_secs, extras={**found.extras, "nvml": facts})

    def meter(self) -> Any:
        return self

    def about(self, again: bool = False) -> Mapping[str, Any]:
        return {"gpu": {"pci_bus_id": "0000:3B:00.0"}, "energy_problem": self.problem}

    def energy(self, x: RunnerInput) -> Mapping[str, Any]:
        found = defines(Artifact.load(x.artifact_path))
        self.metered.append(found)
        match self.joules(found):
            case BaseException() as error:
                raise error
            case str() as problem:
                return Energy(problem=problem).as_json()
            case told:
                return Energy(told, "", "counter", 1.5, 1000, 200.0).as_json()


def joules(p: Defines) -> float:
    """What is slowest takes the least."""
    return 1e-3 / (clock(p) * 1e6) ** 3


def tuned(gpu: MeteredGpu, **options: Any) -> Any:
    given: dict[str, Any] = {
        "reference": reference, "target": TARGET, "runner": gpu, "seed": 1, "trials": 9,
    }  # fmt: skip
    return gt.tune_kernel(vadd(), args(), **{**given, **options})


def test_the_least_energy(tmp_path: Path) -> None:
    gpu = MeteredGpu(joules)
    r = tuned(gpu, objective="energy", work_dir=tmp_path)
    assert len(gpu.metered) == 8  # all that were measured: the fastest eight
    worst = max(gpu.measured, key=clock)
    assert dict(r.best.params) == {k: int(v) for k, v in worst.items()}
    assert r.best.measured.joules == pytest.approx(joules(worst))
    assert r.best.seconds == pytest.approx(clock(worst))  # time is told as it is
    assert [m.joules for m in r.measured] == sorted(m.joules for m in r.measured)
    head = r.table().splitlines()[0].split()
    assert head.index("mJ") == head.index("best") + 1
    told = r.best.measured.extras["energy"]
    assert (told["source"], told["watts"], told["problem"]) == ("counter", 200.0, "")
    # The files remember it, so it is not measured again; and what is fastest is known as ever.
    gpu.metered.clear()
    assert tuned(gpu, objective="energy", work_dir=tmp_path).best.params == r.best.params
    assert gpu.metered == []
    fastest = tuned(gpu, work_dir=tmp_path)
    assert fastest.best.params == {"BX": 256, "VEC": 2}
    assert fastest.objective == "latency"
    assert "mJ" not in fastest.table()


def test_energy_times_delay() -> None:
    """Energy falls as the time rises, but not as fast: the fastest has the least product."""
    r = tuned(MeteredGpu(lambda p: 1e-3 / (clock(p) * 1e6) ** 0.5), objective="edp")
    assert r.best.params == {"BX": 256, "VEC": 2}
    least = tuned(MeteredGpu(lambda p: 1e-3 / (clock(p) * 1e6) ** 0.5), objective="energy")
    assert least.best.params != r.best.params
    assert r.objective == "edp"


def test_only_the_fastest_few_are_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINALISTS", 3)
    gpu = MeteredGpu(joules)
    r = tuned(gpu, objective="energy")
    assert len(gpu.metered) == 3
    fast = sorted(gpu.measured, key=clock)[:3]
    assert sorted(gpu.metered, key=clock) == fast
    assert dict(r.best.params) == {k: int(v) for k, v in max(fast, key=clock).items()}
    assert [m.joules is None for m in r.measured] == [False] * 3 + [True] * 5


def test_a_time_limit_holds_for_energy_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "EACH_S", 1e9)
    gpu = MeteredGpu(joules)
    r = tuned(gpu, objective="energy", seconds=60, work_dir=tmp_path)
    assert len(gpu.metered) == 1  # no less: it is the best of those whose energy is known
    assert r.best.params == {"BX": 256, "VEC": 2}
    assert r.best.measured.joules is not None
    monkeypatch.undo()
    tuned(gpu, objective="energy", seconds=60, work_dir=tmp_path)
    assert len(gpu.metered) == 8  # the next run goes on with the others


def test_energy_that_fails_on_the_way() -> None:
    """Some cannot be told: those that can come first, and the records say why."""
    some = MeteredGpu(lambda p: joules(p) if p["BX"] == "64" else "2 other processes used the GPU")
    r = tuned(some, objective="energy")
    assert r.best.params.BX == 64
    without = [m for m in r.measured if m.joules is None]
    assert len(without) == 5
    assert {m.extras["energy"]["problem"] for m in without} == {"2 other processes used the GPU"}
    assert all(m.extras["energy"]["joules"] is None for m in without)
    broken = MeteredGpu(lambda p: RunError("GPU is lost"))
    r = tuned(broken, objective="energy")  # none can: the fastest, and that is said
    assert r.best.params == {"BX": 256, "VEC": 2}
    assert r.best.measured.extras["energy"]["problem"] == "GPU is lost"


def test_that_the_best_is_the_fastest_all_the_same_is_said(tmp_path: Path) -> None:
    gpu: Any = _AnyKernel()
    result = ms.tune_tir(
        add, TARGET, tmp_path, 4, runner=gpu, objective="energy", cost_model="none", seed=1,
        verify=False, space=in_threads,
    )  # fmt: skip
    (note,) = [x for x in result.why().remarks() if "energy" in x]
    assert note.endswith("energy could not be measured (GPU is lost): the best is the fastest")
    assert result.record is not None
    best = result.database.query_tuning_record(add, TARGET)
    assert best is not None
    assert result.record.key == best.key


class _AnyKernel(MeteredGpu):
    def __init__(self) -> None:
        super().__init__(lambda p: "")
        self.count = 0

    def _one(self, x: RunnerInput) -> RunnerResult:
        self.count += 1
        return RunnerResult([1e-4 * self.count])

    def energy(self, x: RunnerInput) -> Mapping[str, Any]:
        return Energy(problem="GPU is lost").as_json()


def test_what_tune_tir_gives_is_ranked_by_the_objective(tmp_path: Path) -> None:

    class Falling(_AnyKernel):
        """Those that were measured first take the most."""

        metered_so_far = 0

        def energy(self, x: RunnerInput) -> Mapping[str, Any]:
            self.metered_so_far += 1
            return Energy(1.0 / self.metered_so_far, "", "counter", 1.5, 10, 100.0).as_json()

    runner: Any = Falling()
    result = ms.tune_tir(
        add, TARGET, tmp_path, 4, runner=runner, objective="energy", cost_model="none", seed=1,
        verify=False, space=in_threads,
    )  # fmt: skip
    record = result.record
    assert record is not None
    records = result.database.candidates(add, TARGET)
    n = len(records)
    assert n > 1
    assert record.extras["energy"]["joules"] == pytest.approx(1 / n)
    assert record.key == records[-1].key  # the slowest of all
    fastest = result.database.query_tuning_record(add, TARGET)
    assert fastest is not None
    assert fastest is records[0]
    assert result.query_tuning_record(add, TARGET) is record
    again = JSONDatabase(work_dir=tmp_path)
    found = by_objective(again.candidates(add, TARGET), "energy")
    assert [r.extras["energy"]["joules"] for r in found] == pytest.approx(
        [1 / k for k in range(n, 0, -1)]
    )


# ----------------------------------------------------------------------------- refusals
def test_objectives_that_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the target is llvm"):
        gt.tune(add, "llvm", trials=1, objective="energy")
    with pytest.raises(UserError, match="a SimulatedGpu does not measure it"):
        gt.tune_kernel(
            vadd(), args(), runner=SimulatedGpu(clock, right), target=TARGET, objective="edp"
        )
    with pytest.raises(UserError, match="a HostExecutionRunner does not measure it"):
        gt.tune_kernel(vadd(), args(), runner="host", target=TARGET, objective="energy")
    with pytest.raises(UserError, match="MIG is on") as refused:
        tuned(MeteredGpu(joules, "MIG is on"), objective="energy")
    assert refused.value.code == "objective"
    assert "gputune doctor" in refused.value.hint

    class Lost(MeteredGpu):
        def about(self, again: bool = False) -> Mapping[str, Any]:
            raise RunError("there is no worker")

    with pytest.raises(UserError, match="there is no worker"):
        tuned(Lost(joules), objective="energy")

    class Plain(ms.MemoryDatabase):
        takes_amendments = False

    with pytest.raises(UserError, match="a Plain does not take what is learned"):
        ms.tune_tir(
            add, TARGET, tmp_path, 1, runner=MeteredGpu(joules), database=Plain(),
            objective="energy",
        )  # fmt: skip


@pytest.mark.parametrize("bad", ["speed", "", None, 3])
def test_what_is_no_objective(bad: Any) -> None:
    with pytest.raises(UserError, match="the objective is latency, energy or edp"):
        check_objective(bad)
    with pytest.raises(UserError, match="the objective is"):
        tuned(MeteredGpu(joules), objective=bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observers": [3]}, "observers is a list"),
        ({"lock_clocks": "fast"}, "lock_clocks is True"),
        ({"shared_gpu": 2}, "shared_gpu is True or False"),
    ],
)
def test_conditions_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GputuneError, match=message):
        tuned(MeteredGpu(joules), **options)


# ----------------------------------------------------------------------------- a shared GPU
def test_what_did_not_rank_is_measured_again_once_it_can(tmp_path: Path) -> None:
    for strategy in ("evolutionary", "exhaustive"):
        folder = tmp_path / strategy
        shared = MeteredGpu(joules, others=1)
        with pytest.raises(RunError, match="do not rank"):
            tuned(shared, work_dir=folder, strategy=strategy)
        assert shared.measured
        alone = MeteredGpu(joules)
        r = tuned(alone, work_dir=folder, strategy=strategy)
        assert len(alone.measured) == 8  # what is in the folder does not count as measured
        assert r.best.params == {"BX": 256, "VEC": 2}
        assert tuned(alone, work_dir=folder, strategy=strategy).summary.trials == 0


def test_a_report_says_how_many_do_not_rank(tmp_path: Path) -> None:

    class Shared(_AnyKernel):
        def _one(self, x: RunnerInput) -> RunnerResult:
            found = super()._one(x)
            return RunnerResult(found.run_secs, extras={"nvml": {"others": int(self.count == 1)}})

    runner: Any = Shared()
    result = ms.tune_tir(
        add,
        TARGET,
        tmp_path,
        3,
        runner=runner,
        cost_model="none",
        seed=1,
        verify=False,
        space=in_threads,
    )
    (note,) = [x for x in result.why().remarks() if "do not rank" in x]
    assert "1 candidates were measured while others computed on the GPU" in note
    assert result.seconds == pytest.approx(2e-4)


def test_shared_all_the_same() -> None:
    r = tuned(MeteredGpu(joules, others=1), shared_gpu=True)
    assert r.best.params == {"BX": 256, "VEC": 2}
    assert {m.status for m in r.measured} <= {"verified", "not checked"}
