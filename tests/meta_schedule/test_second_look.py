"""What the compiler tells of a candidate: is it kept, learned from, and used to measure less?"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ms_fakes import FakeRunner, ListStrategy, NoSpace, matmul
from test_task_scheduler import schedules

import gputune.meta_schedule as ms
from gputune.codegen.cuda import nvrtc
from gputune.errors import BuildError
from gputune.ir.equal import structural_hash
from gputune.ir.nodes import PrimFunc
from gputune.kernels import KERNELS
from gputune.meta_schedule import compiled as compiled_module
from gputune.meta_schedule import second_look
from gputune.meta_schedule.artifact import Artifact
from gputune.meta_schedule.builder import Builder, BuilderInput, BuilderResult, LocalBuilder
from gputune.meta_schedule.compiled import COMPILED, Compiled, facts_in, told
from gputune.meta_schedule.cost_model import XGBConfig, XGBModel
from gputune.meta_schedule.failures import INFRASTRUCTURE, REFUSED, Failure
from gputune.meta_schedule.gpu_usage import kernels_of
from gputune.meta_schedule.host_runner import HostExecutionRunner
from gputune.meta_schedule.measure_callback import AddToDatabase, RemoveBuildArtifact
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.postproc.verify_gpu_code import CHOICES, MAX_VTHREAD, VerifyGPUCode
from gputune.meta_schedule.predicted import predict
from gputune.meta_schedule.record import TuningRecord
from gputune.meta_schedule.round_log import Round
from gputune.meta_schedule.runner import RunnerResult
from gputune.meta_schedule.search_strategy import evolutionary
from gputune.meta_schedule.second_look import (
    MOST_LOCAL_BYTES,
    MeasuredCode,
    look,
    rank_again,
    refusals,
    regret,
    spared,
)
from gputune.meta_schedule.sketch_feature import FEATURE_COUNT
from gputune.meta_schedule.task_scheduler import RoundRobin, TaskScheduler
from gputune.meta_schedule.why import Why
from gputune.schedule import Schedule
from gputune.target import Target

SM_80 = "cuda -arch=sm_80"
LIGHT = {"registers": 40, "stack_bytes": 0, "instructions": 100, "occupancy": 0.5, "mix": {}}
HEAVY = {**LIGHT, "registers": 255, "stack_bytes": MOST_LOCAL_BYTES + 8}
OK = BuilderResult("/nowhere/0")

needs_tools = pytest.mark.skipif(
    nvrtc.load() is None or (shutil.which("g++") is None and shutil.which("clang++") is None),
    reason="needs NVRTC and a C++ compiler for host execution",
)


@pytest.fixture(autouse=True)
def _no_mercy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which candidates are spared is a matter of their digests: in these tests none is."""
    monkeypatch.setattr(second_look, "spared", lambda digest: False)


def candidates(facts: Sequence[dict[str, Any] | None], codes: str = "") -> list[MeasureCandidate]:
    """Candidates that compiled to these facts; equal letters of `codes` stand for equal code."""
    out = []
    for k, (sch, f) in enumerate(zip(schedules(len(facts)), facts)):
        c = MeasureCandidate(sch, [])
        c.compiled = None if f is None else Compiled({"k": f}, codes[k : k + 1])
        out.append(c)
    return out


def column(row: Sequence[float], name: str) -> float:
    return float(row[COMPILED.index(name)])


# ----------------------------------------------------------------------------- facts and columns
def test_columns_sum_and_take_the_most_demanding_kernel() -> None:
    a = {"registers": 40, "instructions": 10, "occupancy": 0.5, "mix": {"FFMA": 4, "LDG": 2}}
    b = {"registers": 64, "instructions": 30, "occupancy": 0.25, "mix": {"FFMA": 1, "STL": 3}}
    row = Compiled({"a": a, "b": b}).columns()
    assert len(row) == len(COMPILED) == len(set(COMPILED))
    found = {name: column(row, name) for name in COMPILED}
    assert (found["known"], found["kernels"], found["occupancy"]) == (1, 2, 0.25)
    assert (found["registers"], found["instructions"]) == (64, 40)
    assert (found["fma"], found["global_loads"], found["local"]) == (5, 2, 3)
    assert found["tensor"] == found["shuffles"] == 0


def test_facts_of_a_file_are_not_believed() -> None:
    strange = {"registers": "many", "stack_bytes": -4, "instructions": 10**400, "mix": [1, 2],
               "occupancy": math.nan, "spill_loads": True}  # fmt: skip
    row = Compiled({"k": strange}).columns()
    assert row == [1.0, 1.0] + [0.0] * (len(COMPILED) - 2)
    assert Compiled({"k": strange}).local_bytes == 0
    assert facts_in({"facts": [1]}) == facts_in({}) == {}
    assert facts_in({"facts": {"a": 3, "b": LIGHT}}) == {"b": LIGHT}


def test_rows_have_zeros_where_nothing_is_known() -> None:
    rows = told(np.ones((2, FEATURE_COUNT), np.float32), [None, Compiled({"k": LIGHT})])
    assert rows.shape == (2, FEATURE_COUNT + len(COMPILED))
    assert not rows[0, FEATURE_COUNT:].any()
    assert column(rows[1, FEATURE_COUNT:], "registers") == pytest.approx(math.log2(41))


# ----------------------------------------------------------------------------- rules
def test_a_rule_refuses_what_spills_heavily_and_nothing_else() -> None:
    found = candidates([LIGHT, HEAVY, None, {**LIGHT, "stack_bytes": MOST_LOCAL_BYTES}])
    out = refusals(found, [OK] * 4, known=False)
    assert [r is None for r in out] == [True, False, True, True]
    refused = out[1]
    assert refused is not None
    assert refused.failure is not None
    assert (refused.failure.phase, refused.failure.kind) == (REFUSED, "heavy-spills")
    assert refused.extras["facts"]["k"]["stack_bytes"] == MOST_LOCAL_BYTES + 8
    assert not any(c.excused for c in found)


def test_where_there_is_nothing_better_all_are_measured() -> None:
    found = candidates([HEAVY, HEAVY])
    assert refusals(found, [OK, OK], known=False) == [None, None]
    assert [c.excused for c in found] == ["heavy-spills"] * 2
    assert None not in refusals(candidates([HEAVY, HEAVY]), [OK, OK], known=True)
    bad = BuilderResult(None, "no", Failure("build", "error", "no"))
    assert refusals(candidates([None, HEAVY]), [bad, OK], known=False) == [None, None]


def test_a_few_are_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [blake2b(str(k).encode()).hexdigest() for k in range(4000)]
    assert sum(map(spared, digests)) / 4000 == pytest.approx(second_look.SPARED, rel=0.2)
    monkeypatch.setattr(second_look, "spared", lambda digest: True)
    found = candidates([LIGHT, HEAVY])
    assert refusals(found, [OK, OK], known=True) == [None, None]
    assert [c.excused for c in found] == ["", "heavy-spills"]


def test_regret_has_a_row_for_each_rule() -> None:
    found = candidates([LIGHT, LIGHT, HEAVY, HEAVY, HEAVY, LIGHT, None])
    found[2].excused = found[3].excused = "heavy-spills"
    found[5].excused = "gpu-vthread"  # refused before it was built, and counted there
    results = [
        RunnerResult([2e-3]),
        RunnerResult([1e-3]),
        RunnerResult([4e-3]),
        RunnerResult([3e-3]),
        RunnerResult.failed(Failure(REFUSED, "heavy-spills", "")),
        RunnerResult.failed(Failure("run", "crash", "")),
        RunnerResult.failed(Failure(INFRASTRUCTURE, "cold", "")),
    ]
    assert regret(found, results) == {
        "rules": {
            "heavy-spills": {"refused": 3, "measured": 2, "best": 3e-3},
            "gpu-vthread": {"refused": 0, "measured": 1, "best": None},
        },
        "accepted": 1e-3,
    }
    assert regret([], []) == {"rules": {}, "accepted": None}


# ----------------------------------------------------------------------------- the same code
def test_the_same_code_is_measured_once() -> None:
    code = MeasuredCode()
    a, b, c, d = candidates([LIGHT] * 4, "xyx")
    assert [code.again(k) for k in (a, b, c, d)] == [False, False, True, False]
    assert not code.again(d)  # its code is not known
    code.note(a, RunnerResult([5e-3], cut=True, extras={"clock": "x"}))
    found = code.result_of(c)
    assert found.seconds == 5e-3
    assert found.cut
    assert found.extras["same_code_as"] == a.digest
    assert found.extras["clock"] == "x"
    code.note(c, found)
    code.end_round()
    assert code.again(c)
    assert not code.again(b)  # it was to be measured, and was not


def test_what_was_lost_is_measured_again() -> None:
    code = MeasuredCode()
    a, b = candidates([LIGHT] * 2, "xx")
    assert not code.again(a)
    assert code.again(b)
    code.note(a, RunnerResult.failed(Failure(INFRASTRUCTURE, "cold", "")))
    assert code.result_of(b).is_lost
    assert not code.again(b)


def test_a_failure_is_that_of_all_with_the_same_code() -> None:
    code = MeasuredCode()
    a, b = candidates([LIGHT] * 2, "xx")
    code.note(a, RunnerResult.failed(Failure("check", "wrong_result", "no")))
    found = code.result_of(b)
    assert found.failure is not None
    assert found.failure.kind == "wrong_result"
    refused = RunnerResult.failed(Failure(REFUSED, "heavy-spills", ""))
    other = MeasuredCode()
    other.note(a, refused)
    assert not other.again(b)


# ----------------------------------------------------------------------------- in a tuning
class FactsBuilder(Builder):
    """Gives artifacts with given facts and code; the path ends in their number."""

    def __init__(self, folder: Path, facts: Sequence[dict[str, Any]], codes: str) -> None:
        self.folder, self.facts, self.codes = folder, facts, codes
        self.count = 0

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        out = []
        for _ in build_inputs:
            k = self.count
            cuda = {"facts": {"main_kernel": self.facts[k]}, "host": {"steps": []}}
            path = self.folder / str(k)
            Artifact("main", [], 1, "", {"kind": "cuda"}, self.codes[k].encode(), cuda).save(path)
            out.append(BuilderResult(str(path)))
            self.count += 1
        return out


def tuned(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    facts: Sequence[dict[str, Any]],
    codes: str,
    seconds: Callable[[int], float | str] = lambda k: 1e-3 * (k + 1),
    batch: int = 8,
    model: Any = None,
) -> tuple[TaskScheduler, ms.MemoryDatabase, FakeRunner, ListStrategy]:
    """A tuning of made-up candidates on a made-up GPU."""
    monkeypatch.setattr(compiled_module, "code_digest", lambda code: code.decode())
    strategy = ListStrategy(schedules(len(facts)))
    ctx = ms.TuneContext(
        matmul(64), target=SM_80, space_generator=NoSpace(), search_strategy=strategy,
        task_name="main", rand_state=7,
    )  # fmt: skip
    scheduler, database, runner = RoundRobin(), ms.MemoryDatabase(), FakeRunner(seconds)
    (folder / "built").mkdir()
    scheduler.tune(
        [ctx], [1.0], 100, 100, batch, FactsBuilder(folder / "built", facts, codes), runner,
        [AddToDatabase(), RemoveBuildArtifact()], database, model, verify=False,
        rounds_path=folder / "rounds.jsonl", failures_path=folder / "failures.jsonl",
    )  # fmt: skip
    return scheduler, database, runner, strategy


def test_duplicates_by_code_have_the_times_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, database, runner, strategy = tuned(
        tmp_path, monkeypatch, [LIGHT] * 6, "abacba", batch=4
    )
    assert runner.measured == 3  # a, b, c
    records = database.get_all_tuning_records()
    assert [r.seconds for r in records] == pytest.approx([1e-3, 2e-3, 1e-3, 4e-3, 2e-3, 1e-3])
    first, second = records[0].program, records[1].program
    same = [r.extras.get("same_code_as") for r in records]
    assert same == [None, None, first, None, second, first]
    assert len({r.extras["code"] for r in records}) == 3
    assert all(r.extras["facts"] == {"main_kernel": LIGHT} for r in records[2::2])
    assert [len(n) for n in strategy.notified] == [4, 2]  # the strategy is told of all
    why = Why.read(tmp_path)
    (task,) = why.tasks
    counts = [task.total(k) for k in ("built", "measured", "same_code")]
    assert counts == [6, 3, 3]
    assert "not reached" not in str(why)
    assert "its times are theirs" in str(why)
    for r in records:  # all of it survives the file
        again = TuningRecord.from_json(json.loads(json.dumps(r.as_json())), r.workload)
        assert again.extras == r.extras
    assert scheduler.tasks[0].trials == 6


def test_refusals_have_a_row_in_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []

    def first_of_all(digest: str) -> bool:
        chosen.append(digest)
        return digest == chosen[0]

    monkeypatch.setattr(second_look, "spared", first_of_all)
    facts = [LIGHT, HEAVY, HEAVY, LIGHT, HEAVY]
    scheduler, database, runner, _ = tuned(tmp_path, monkeypatch, facts, "abcde")
    assert runner.measured == 3  # two, and one that is spared
    why = Why.read(tmp_path)
    (task,) = why.tasks
    (row,) = task.refusals()
    assert (row.reason, row.count, row.measured, row.judged) == ("heavy-spills", 3, 1, True)
    assert row.best == pytest.approx(2e-3)
    assert task.accepted == pytest.approx(1e-3)
    assert task.total("refused_built") == 2
    assert "refused by rules" in str(why)
    assert "2.00" in str(why)
    assert task.reasons() == []  # a refusal is no failure of the candidate's
    assert str(scheduler.rounds.lines[0]["rules"])
    records = database.get_all_tuning_records()
    refused = [r for r in records if r.error is not None]
    assert [r.error["phase"] for r in refused if r.error] == [REFUSED] * 2
    assert all(r.extras["facts"]["main_kernel"] == HEAVY for r in refused)
    assert [r.extras.get("excused") for r in records].count("heavy-spills") == 1


def test_a_rule_that_refuses_everything_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [HEAVY] * 5 + [LIGHT, HEAVY]
    _, database, runner, _ = tuned(tmp_path, monkeypatch, facts, "abcdefg", batch=2)
    records = database.get_all_tuning_records()
    # from the third batch on there is something better
    assert [r.is_valid for r in records] == [True] * 4 + [False, True, False]
    assert runner.measured == 5
    (task,) = Why.read(tmp_path).tasks
    (row,) = task.refusals()
    assert (row.count, row.measured) == (6, 4)


def test_a_wrong_candidate_is_wrong_for_its_twins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, database, runner, _ = tuned(
        tmp_path, monkeypatch, [LIGHT] * 3, "aab", lambda k: "broken" if k == 0 else 1e-3
    )
    assert runner.measured == 2
    assert [r.is_valid for r in database.get_all_tuning_records()] == [False, False, True]
    (task,) = Why.read(tmp_path).tasks
    assert (task.total("same_code"), task.counter("run_errors").total()) == (1, 1)


def test_lines_of_rules_are_data(tmp_path: Path) -> None:
    strange: list[Any] = [
        {"task": "a", "rules": [1]}, {"task": "a", "rules": {"r": 3}},
        {"task": "a", "rules": {"r": {"refused": -1, "measured": "x", "best": "soon"}}},
        {"task": "a", "refused": {"gpu-shared": 4, "gpu-vthread": 2}, "best": 1e-3},
    ]  # fmt: skip
    (tmp_path / "rounds.jsonl").write_text("\n".join(map(json.dumps, strange)))
    (task,) = Why.read(tmp_path).tasks
    rows = {x.reason: (x.count, x.measured, x.best, x.judged) for x in task.refusals()}
    assert rows == {
        "gpu-shared": (4, 0, None, False),
        "gpu-vthread": (2, 0, None, True),
        "r": (0, 0, None, True),
    }
    assert task.accepted == 1e-3


def test_every_result_is_counted_once() -> None:
    results = [
        RunnerResult([1e-3]),
        RunnerResult([1e-3], extras={"same_code_as": "x"}),
        RunnerResult.failed(Failure(REFUSED, "heavy-spills", "")),
    ]
    found = Round.of(3, [OK] * 3, results)
    assert (found.measured, found.same_code, found.refused_built) == (1, 1, 1)
    assert not found.run_errors


# ----------------------------------------------------------------------------- the model
def rows_and_times(n: int, seed: int) -> tuple[np.ndarray, list[Compiled], np.ndarray]:
    """Rows that say nothing, facts that say half, times."""
    rng = np.random.default_rng(seed)
    rows = rng.random((n, FEATURE_COUNT)).astype(np.float32)
    spills = rng.integers(0, 60, n)
    times = 1e-3 * 2.0 ** (3 * rows[:, 30] + spills / 20)
    facts = [Compiled({"k": {**LIGHT, "spill_loads": int(s)}}) for s in spills]
    return rows, facts, times


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(x)).astype(float) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_the_model_learns_from_facts_and_does_without_them() -> None:
    rows, facts, times = rows_and_times(300, 1)
    model = XGBModel(config=XGBConfig(max_depth=5, num_trees=80, colsample_bytree=1.0))
    assert model.takes_compiled
    model.update_features("w", told(rows, facts), times.tolist())
    rows, facts, times = rows_and_times(200, 2)
    known = correlation(model.predict_features(told(rows, facts)), -times)
    unknown = correlation(model.predict_features(rows), -times)
    assert known > 0.75
    assert 0.2 < unknown < known - 0.15


def test_rows_without_facts_teach_what_they_did_before(tmp_path: Path) -> None:
    rows, _, times = rows_and_times(60, 3)
    model = XGBModel()
    model.update_features("w", rows, times.tolist())
    said = model.predict_features(rows)
    assert model._booster.num_features() == FEATURE_COUNT  # no column more
    path = tmp_path / "m"
    model.save(str(path))
    with np.load(path) as f:
        parts = {k: f[k] for k in f.files}
    parts["rows"] = parts["rows"][:, :FEATURE_COUNT]  # as an earlier version wrote it
    parts["version"] = np.array([parts["version"][0], FEATURE_COUNT], np.int64)
    with path.open("wb") as out:
        np.savez(out, **parts)
    old = XGBModel()
    old.load(str(path))
    assert (old.predict_features(rows) == said).all()
    more, facts, seconds = rows_and_times(60, 4)
    old.update_features("v", told(more, facts), seconds.tolist())
    assert np.isfinite(old.predict_features(rows)).all()
    assert old._booster.num_features() == FEATURE_COUNT + len(COMPILED)
    old.save(str(path))
    again = XGBModel()
    again.load(str(path))
    assert (again.predict_features(rows) == old.predict_features(rows)).all()


def test_records_teach_their_facts(tmp_path: Path) -> None:
    """A new tuning of a workload learns from what the file tells of it; old lines have no facts."""

    def searching(database: ms.Database | None, model: XGBModel | None) -> ms.TuneContext:
        ctx = ms.TuneContext(
            KERNELS["matmul"].build(m=256, n=256, k=64), target=SM_80, rand_state=3,
            space_generator="post-order-apply", search_strategy="evolutionary",
        )  # fmt: skip
        ctx.pre_tuning(64, 6, ctx.generate_design_space(), database, model)
        return ctx

    ctx = searching(None, None)
    database = ms.JSONDatabase(work_dir=str(tmp_path))
    workload = database.commit_workload(ctx.mod)
    batch = ctx.generate_measure_candidates()
    assert batch
    for k, c in enumerate(batch):
        extras: dict[str, Any] = {"program": c.digest}
        if k:
            extras["facts"] = {"matmul_kernel": {**LIGHT, "registers": 30 + k}}
        database.commit_tuning_record(
            TuningRecord(c.sch.trace, workload, [1e-3 + k], ctx.target, c.args_info, extras)
        )
    model = XGBModel()
    searching(ms.JSONDatabase(work_dir=str(tmp_path)), model)
    rows = np.concatenate(model._data.packs(structural_hash(ctx.mod)))[:, FEATURE_COUNT:]
    assert rows.shape == (len(batch), len(COMPILED))
    known = sorted(round(2 ** column(row, "registers")) - 1 for row in rows)
    assert known == [0, *(30 + k for k in range(1, len(batch)))]


class Judge(XGBModel):
    """Says that few registers are good."""

    @property
    def is_trained(self) -> bool:
        return True

    def predict(self, context: Any, candidates: Any) -> Any:
        return np.array([-c.compiled.columns()[COMPILED.index("registers")] for c in candidates])


def test_what_is_built_is_measured_in_the_models_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [{**LIGHT, "registers": n} for n in (90, 30, 60)]
    asked: list[int] = []

    def seconds(k: int) -> float:
        asked.append(k)
        return 1e-3 * (k + 1)

    scheduler, database, _, _ = tuned(tmp_path, monkeypatch, facts, "abc", seconds, model=Judge())
    assert asked == [1, 2, 0]
    (line,) = scheduler.rounds.lines
    assert line["built_scores"] == [-30, -60, -90]
    assert line["built_seconds"] == pytest.approx([2e-3, 3e-3, 1e-3])
    why = Why.of([{**line, "scores": [1, 2, 3], "seconds": line["built_seconds"]}])
    assert "once built" in str(why)
    assert len(database.get_all_tuning_records()) == 3


def test_a_model_that_knows_no_facts_is_not_asked() -> None:
    ctx = ms.TuneContext(matmul(64), target=SM_80)
    found = candidates([LIGHT, None, LIGHT])
    assert rank_again(ctx, None, found) == [0, 1, 2]
    assert rank_again(ctx, XGBModel(), found) == [0, 1, 2]  # it has learned nothing
    assert rank_again(ctx, XGBModel(extractor="per-store-feature"), found) == [0, 1, 2]
    order = rank_again(ctx, Judge(), candidates([HEAVY, None, LIGHT]))
    assert order == [2, 0, 1]


# ----------------------------------------------------------------------------- real code
def parallel(func: PrimFunc, step: int = 1, idle: bool = False) -> Schedule:
    """A thread for each element; `idle`: with a loop that does nothing."""
    sch = Schedule(func, seed=1)
    i, j, k = sch.get_loops(sch.get_block("C"))
    if idle:
        sch.split(k, [1, None])
    j0, j1 = sch.split(j, [None, 8 * step])
    sch.bind(sch.fuse(i, j0), "blockIdx.x")
    sch.bind(j1, "threadIdx.x")
    return sch


def hoarding(func: PrimFunc) -> Schedule:
    """A thread for 32 x 32 elements, which it keeps: no registers suffice."""
    sch = Schedule(func, seed=1)
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    local = sch.cache_write(c, 0, "local")
    (i0, i1), (j0, j1) = (sch.split(x, [None, 32]) for x in (i, j))
    sch.reorder(i0, j0, k, i1, j1)
    sch.bind(i0, "blockIdx.x")
    sch.bind(j0, "threadIdx.x")
    sch.reverse_compute_at(local, j0, preserve_unit_loops=True)
    return sch


@needs_tools
def test_real_code_end_to_end(tmp_path: Path) -> None:
    """Twins, and what spills, compiled by NVRTC and run by host execution."""
    func = KERNELS["matmul"].build(m=64, n=64, k=16)
    given = [parallel(func), hoarding(func), parallel(func, idle=True), parallel(func, 2)]
    programs = [structural_hash(sch.mod) for sch in given]
    strategy = ListStrategy(given)
    ctx = ms.TuneContext(
        func, target=SM_80, space_generator=NoSpace(), search_strategy=strategy, task_name="main"
    )
    database = ms.JSONDatabase(work_dir=str(tmp_path))
    RoundRobin().tune(
        [ctx], [1.0], 8, 8, 4, LocalBuilder(1), HostExecutionRunner(),
        [AddToDatabase(), RemoveBuildArtifact()], database, None, verify=False,
        rounds_path=tmp_path / "rounds.jsonl",
    )  # fmt: skip
    found_ = ms.JSONDatabase(work_dir=str(tmp_path)).get_all_tuning_records()
    one, heavy, again, other = sorted(found_, key=lambda r: programs.index(r.program))
    assert again.run_secs == one.run_secs
    assert again.extras["same_code_as"] == one.program
    assert again.extras["code"] == one.extras["code"] != other.extras["code"]
    assert heavy.error is not None
    assert heavy.error["kind"] == "heavy-spills"
    found = Compiled(facts_in(heavy.extras))
    assert found.local_bytes > MOST_LOCAL_BYTES
    row = Compiled(facts_in(one.extras)).columns()
    for name in ("fma", "global_loads", "global_stores", "code_bytes", "registers"):
        assert column(row, name) > 0, name
    assert column(row, "local") == column(row, "spill_loads") == 0
    (task,) = Why.read(tmp_path).tasks
    assert [x.reason for x in task.refusals()] == ["heavy-spills"]


@needs_tools
def test_code_is_the_same_where_only_names_differ() -> None:
    from gputune.codegen.cuda.cubin import code_digest

    compiler = nvrtc.load()
    assert compiler is not None
    text = (
        'extern "C" __global__ void k(float* a) {{ float {0} = a[threadIdx.x];'
        " a[threadIdx.x] = {0} * {1}; }}"
    )

    def digest(name: str, factor: str, arch: str = "sm_80", file: str = "k.cu") -> str:
        done = compiler.compile(text.format(name, factor), file, ("-std=c++17",), arch)
        assert done.cubin is not None
        return code_digest(done.cubin)

    first = digest("x", "2.0f")
    assert first == digest("y", "2.0f") == digest("x", "2.0f", file="other.cu")
    assert first != digest("x", "3.0f")
    assert first != digest("x", "2.0f", "sm_90a")
    with pytest.raises(BuildError, match="not a readable cubin"):
        code_digest(b"nothing")


def test_artifacts_of_others_tell_nothing(tmp_path: Path) -> None:
    (c,) = candidates([None])
    look([c], [BuilderResult(str(tmp_path / "none"))])
    assert c.compiled is None
    Artifact("f", [], 1, "", {"kind": "llvm"}, b"code").save(tmp_path / "cpu")
    look([c], [BuilderResult(str(tmp_path / "cpu"))])
    assert c.compiled is None
    cuda = {"facts": {"k": LIGHT}}
    Artifact("f", [], 1, "", {"kind": "cuda"}, b"no cubin", cuda).save(tmp_path / "gpu")
    look([c], [BuilderResult(str(tmp_path / "gpu"))])
    assert c.compiled == Compiled({"k": LIGHT}, "")  # no code: it is nobody's twin


def test_source_of_a_users_own_has_no_twins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_module, "code_digest", lambda code: code.decode())
    found = []
    for prelude in (True, False):
        cuda = {"facts": {"k": LIGHT}, "prelude": prelude}
        artifact = Artifact("f", [], 1, "", {"kind": "cuda"}, b"code", cuda)
        found.append(Compiled.of(artifact))
    generated, own = found
    assert generated is not None
    assert own is not None
    assert generated.code
    assert not own.code
    assert own.facts == generated.facts


class Ranked(ListStrategy):
    """Likes its schedules in the order in which they were given."""

    def best_candidates(self, count: int) -> list[MeasureCandidate]:
        return [MeasureCandidate(s, []) for s in self.waiting[:count]]


@pytest.mark.parametrize(("facts", "chosen"), [("HHL", 2), ("LHH", 0), ("HHH", 0)])
def test_without_a_trial_the_first_that_does_not_spill_is_chosen(
    facts: str, chosen: int, tmp_path: Path
) -> None:
    given = schedules(3)
    ctx = ms.TuneContext(
        matmul(64), target=SM_80, space_generator=NoSpace(), search_strategy=Ranked(given)
    )
    told_ = [HEAVY if f == "H" else LIGHT for f in facts] * 2
    builder = FactsBuilder(tmp_path, told_, "abcabc")
    found = predict(ctx, None, builder, None, lambda c, f: pytest.fail(str(f)))
    assert found is not None
    assert found.schedule is given[chosen]
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------- before building
def test_a_judgement_can_be_excused_and_a_limit_cannot() -> None:
    func = KERNELS["matmul"].build(m=64, n=64, k=16)
    sch = Schedule(func, seed=1)
    i, j, _ = sch.get_loops(sch.get_block("C"))
    i0, i1 = sch.split(i, [None, 2 * MAX_VTHREAD])
    for loop, axis in ((i0, "blockIdx.x"), (i1, "vthread.x"), (j, "threadIdx.x")):
        sch.bind(loop, axis)
    p = VerifyGPUCode()
    p.limits = Target(SM_80).limits
    assert not p.apply(sch)
    assert p.last_error is not None
    assert p.last_error.code == "gpu-vthread"
    kind = p.excusing("gpu-vthread")
    assert kind.apply(sch)
    assert not p.apply(sch)  # the postproc itself is as it was
    assert not p.excusing("gpu-shared").excused
    assert p.choices == CHOICES


def test_a_search_measures_some_of_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolutionary, "_SPARED", 1.0)
    func = KERNELS["matmul"].build(m=256, n=256, k=64)
    ctx = ms.TuneContext(
        func, target=SM_80, space_generator="post-order-apply", search_strategy="evolutionary",
        rand_state=3,
    )  # fmt: skip
    ctx.pre_tuning(64, 8, ctx.generate_design_space(), None, None)
    strategy = ctx.search_strategy
    assert strategy is not None
    spared_: list[MeasureCandidate] = []
    for _ in range(6):
        batch = strategy.generate_measure_candidates()
        assert batch
        assert len(batch) <= 8
        spared_ += [c for c in batch if c.excused]
        strategy.notify_runner_results(batch, [RunnerResult([1e-3])] * len(batch))
    assert spared_
    counts = strategy.counts()
    assert counts is not None
    for c in spared_:
        assert c.excused in CHOICES
        assert counts.refused[c.excused] > 0
        (scheduled,) = c.sch.mod.functions.values()
        (kernel,) = kernels_of(scheduled)
        few = any(w.low is not None and w.threads < w.low for w in kernel.windows)
        many = any(w.high is not None and w.threads > w.high for w in kernel.windows)
        assert few or many or max(kernel.vthreads) > MAX_VTHREAD
    ctx.post_tuning()
