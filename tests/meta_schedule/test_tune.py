"""Does one call tune, remember, resume, verify, and refuse what makes no sense?"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ms_fakes import TARGET, FakeBuilder, FakeRunner, ListStrategy, NoSpace, matmul, split_j

import gputune
from gputune import meta_schedule as ms
from gputune.errors import RecordError, RunError, UserError
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.meta_schedule import journal, logging, proofs
from gputune.meta_schedule.verify import Verdict
from gputune.schedule import Schedule, Trace
from gputune.script import tir as T


def five_points(sch: Schedule) -> Schedule:
    """The tutorial's space: five tilings of a loop whose extent is a power of two from 16."""
    block = sch.get_block("C", "main")
    i, j, k = sch.get_loops(block=block)
    j0, j1 = sch.split(loop=j, factors=sch.sample_perfect_tile(loop=j, n=2))
    sch.reorder(i, j0, k, j1)
    sch.decompose_reduction(block, k)
    return sch


def tune(work_dir: Path, **more: Any) -> ms.TuneResult:
    options: dict[str, Any] = {
        "mod": matmul(32),
        "target": "llvm --num-cores=1",
        "config": ms.TuneConfig(max_trials_global=64, num_trials_per_iter=64),
        "space": ms.space_generator.ScheduleFn(five_points),
        "work_dir": work_dir,
        "task_name": "main",
        "seed": 1,
    }
    return ms.tune_tir(**{**options, **more})


def check(lib: Any, n: int = 32) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, n, n), dtype=np.float32)
    c = np.full((n, n), np.nan, np.float32)
    lib["main"](a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4)


# ----------------------------------------------------------------------------- the tutorial
def test_tutorial(tmp_path: Path, capsys: Any) -> None:
    result = tune(tmp_path)
    log = capsys.readouterr().err
    assert len(result) == 5
    assert all(r.is_valid for r in result.get_all_tuning_records())
    best = min(r.seconds for r in result.get_all_tuning_records())
    assert result.seconds == best
    assert result.record is not None
    assert result.record.verified
    # the database, the schedule and the program at once
    assert isinstance(result, ms.Database)
    assert isinstance(result.trace, Trace)
    assert structural_equal(ms.compile_tir(result, matmul(32), TARGET).mod, result.mod)  # type: ignore[union-attr]  # found
    assert "sample_perfect_tile" in str(result.trace)
    assert "enter_postproc" in str(result.trace)
    assert result.script() == result.mod.script()
    assert len(result.get_loops(result.get_block("C_update"))) == 4  # all that a Schedule has
    check(gputune.build(result.mod, "llvm"))
    check(gputune.build(result, "llvm"))
    # the printed trace replays
    again = Schedule(matmul(32))
    Trace.from_python(str(result.trace)).apply_to_schedule(again)
    assert structural_equal(again.mod, result.mod)
    # the log
    lines = [
        x for x in log.splitlines() if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO", x)
    ]
    said = [x[24:] for x in lines]
    d = str(tmp_path)
    files = f"{d}/database_workload.json. Tuning records at: {d}/database_tuning_record.json"
    assert said[:7] == [
        f"INFO Logging directory: {d}/logs",
        f"INFO Logging directory: {d}/logs",
        f"INFO Working directory: {d}",
        f"INFO Creating JSONDatabase. Workload at: {files}",
        f"INFO LocalBuilder: max_workers = {gputune.Target('llvm').num_cores}",
        "INFO LocalRunner: max_workers = 1",
        'INFO Initializing Task #0: "main"',
    ]
    assert said[7:12] == [
        "INFO",
        'INFO Scheduler picks Task #0: "main"',
        "INFO Sending 5 sample(s) to builder",
        "INFO Sending 5 sample(s) to runner",
        'INFO [Updated] Task #0: "main"',
    ]
    assert said.count("INFO Sending 0 sample(s) to builder") == 4
    assert said[-2:] == [
        "INFO Task #0 has finished. Remaining task(s): 0",
        f"INFO Saved XGBModel to {d}/cost_model.xgb",
    ]
    assert (tmp_path / "cost_model.xgb").exists()
    names = {p.name for p in (tmp_path / "logs").iterdir()}
    assert names == {
        "gputune.meta_schedule.logging.task_0_main.log",
        "gputune.meta_schedule.logging.task_scheduler.log",
    }


def test_a_second_run_keeps_the_best_and_deleting_starts_anew(tmp_path: Path) -> None:
    first = tune(tmp_path)
    text, seconds = str(first.trace), first.seconds
    second = tune(tmp_path, seed=2)
    assert second.seconds is not None
    assert seconds is not None
    assert second.seconds <= seconds
    if second.seconds == seconds:
        assert str(second.trace) == text
    for name in ("database_workload.json", "database_tuning_record.json"):
        (tmp_path / name).unlink()
    assert len(tune(tmp_path, seed=3)) == 5


def test_the_best_of_the_whole_history_wins(tmp_path: Path) -> None:
    db = ms.JSONDatabase(work_dir=tmp_path)
    old = split_j(matmul(32), 2)
    workload = db.commit_workload(matmul(32))
    extras = {"verified": True, "program": "old"}
    db.commit_tuning_record(ms.TuningRecord(old.trace, workload, [1e-9], TARGET, None, extras))
    result = tune(tmp_path)
    assert str(result.trace) == str(old.trace)
    assert len(result) == 6


def test_same_seed_same_candidates(tmp_path: Path) -> None:
    def programs(name: str, seed: int) -> list[str]:
        result = tune(
            tmp_path / name, mod=matmul(64), space="post-order-apply", strategy="replay-trace",
            config=ms.TuneConfig(4), seed=seed, cost_model="random",
        )  # fmt: skip
        return sorted(r.program for r in result.get_all_tuning_records())

    assert programs("a", 5) == programs("b", 5)
    assert programs("c", 6) != programs("d", 5)


@pytest.mark.parametrize("model", ["random", "none", "xgb"])
def test_same_seed_and_same_times_same_candidates(tmp_path: Path, model: str) -> None:
    """Three rounds, so that all depends on what the model said after the first."""

    def programs(name: str) -> list[str]:
        result = tune(
            tmp_path / name, mod=matmul(64), space="post-order-apply", cost_model=model,
            config=ms.TuneConfig(18, 6), seed=5, builder=FakeBuilder(), verify=False,
            runner=FakeRunner(lambda i: 1e-3 + 1e-4 * (i * 7 % 18)),
        )  # fmt: skip
        return [r.program for r in result.get_all_tuning_records()]

    assert programs("a") == programs("b")


def test_default_space_and_numbers(tmp_path: Path) -> None:
    result = tune(tmp_path, mod=matmul(64), space="post-order-apply", config=ms.TuneConfig(8, 4))
    assert len(result) == 8
    check(gputune.build(result, TARGET), 64)
    record = result.record
    assert record is not None
    assert record.verified
    assert record.extras["versions"]["llvm"]
    assert record.extras["device"] == gputune.Target(TARGET).device_key
    assert abs(record.extras["time"] - time.time()) < 600
    again = record.as_measure_candidate()
    assert again.digest == record.program
    assert structural_equal(again.sch.mod, result.mod)


# ----------------------------------------------------------------------------- budgets
def test_seconds(tmp_path: Path) -> None:
    result = tune(tmp_path, mod=matmul(64), space="post-order-apply", config=None, seconds=0.5)
    assert len(result) >= 1
    check(gputune.build(result, TARGET), 64)


def test_no_trials_measure_nothing(tmp_path: Path) -> None:
    empty = tune(tmp_path, config=ms.TuneConfig(0))
    assert len(empty) == 0
    assert empty.seconds is None
    check(gputune.build(empty.mod, "llvm"))  # what the model chose; see test_flow
    known = tune(tmp_path)
    assert str(tune(tmp_path, config=None, max_trials_global=0).trace) == str(known.trace)


def test_exactly_so_many_trials(tmp_path: Path) -> None:
    result = tune(tmp_path, config=None, max_trials_global=3, num_trials_per_iter=2)
    assert len(result) == 3


# ----------------------------------------------------------------------------- wrong results
def leave_out(sch: Schedule) -> Schedule:
    """A 'schedule' that a bug has made: it writes zeros."""

    @T.prim_func(name="main")
    def main(
        A: T.Buffer((32, 32), "float32"),  # type: ignore[valid-type]  # script
        B: T.Buffer((32, 32), "float32"),  # type: ignore[valid-type]  # script
        C: T.Buffer((32, 32), "float32"),  # type: ignore[valid-type]  # script
    ) -> None:
        for i, j in T.grid(32, 32):
            with T.block("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = T.float32(0)

    sch._mod = IRModule({"main": main})
    return sch


def with_candidates(*schedules: Schedule, **more: Any) -> dict[str, Any]:
    context = ms.TuneContext(
        matmul(32), target=TARGET, space_generator=NoSpace(),
        search_strategy=ListStrategy(schedules), rand_state=3,
    )  # fmt: skip
    return {"tasks": [context], "task_weights": [1.0], "max_trials_global": 16, **more}


def test_a_fast_wrong_candidate_is_never_the_result(tmp_path: Path) -> None:
    bad, good = leave_out(Schedule(matmul(32))), split_j(matmul(32), 4)
    for k, order in enumerate(((bad, good), (good, bad))):
        result = ms.tune_tasks(**with_candidates(*order), work_dir=tmp_path / str(k))
        assert str(result.trace) == str(good.trace)
        failed = [r for r in result.get_all_tuning_records() if not r.is_valid]
        assert [r.error["kind"] for r in failed if r.error] == ["wrong_result"]
        assert "C: " in failed[0].error["message"]  # type: ignore[index]  # there is one
        lines = (tmp_path / str(k) / "failures.jsonl").read_text().splitlines()
        assert [json.loads(x)["phase"] for x in lines] == ["check"]


def test_only_wrong_candidates_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"all 1 candidates failed .1 x check wrong_result"):
        ms.tune_tasks(**with_candidates(leave_out(Schedule(matmul(32)))), work_dir=tmp_path)


def test_checks_at_the_end_of_a_round_find_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ms.Verifier, "eager", property(lambda self: False))
    bad, good = leave_out(Schedule(matmul(32))), split_j(matmul(32), 4)
    result = ms.tune_tasks(**with_candidates(good, bad, split_j(matmul(32), 1)), work_dir=tmp_path)
    record = result.record
    assert record is not None
    assert record.verified
    assert len([r for r in result.get_all_tuning_records() if not r.is_valid]) == 1
    assert [r.verified for r in result.get_all_tuning_records() if r.is_valid].count(True) == 1


def test_an_old_record_that_is_wrong_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    proofs.forget()  # other tests have found these programs right
    db = ms.JSONDatabase(work_dir=tmp_path)
    workload = db.commit_workload(matmul(32))
    for factor, seconds in ((2, 1e-9), (4, 1e-8)):
        trace = split_j(matmul(32), factor).trace
        db.commit_tuning_record(ms.TuningRecord(trace, workload, [seconds], TARGET))
    wrong = split_j(matmul(32), 2).mod
    real = ms.Verifier.check_program

    def pretend(self: ms.Verifier, scheduled: IRModule) -> Verdict:
        if structural_equal(scheduled, wrong):
            return Verdict("wrong", ms.Failure("check", "wrong_result", "C differs"))
        return real(self, scheduled)

    monkeypatch.setattr(ms.Verifier, "check_program", pretend)
    result = tune(tmp_path)
    assert str(result.trace) == str(split_j(matmul(32), 4).trace)
    assert result.seconds == 1e-8
    proofs.forget()


# ----------------------------------------------------------------------------- parts of one's own
def test_a_clock_of_ones_own(tmp_path: Path) -> None:
    times = [5.0, 1.0, 3.0, 4.0, 2.0]
    result = tune(
        tmp_path,
        builder=FakeBuilder(),
        runner=FakeRunner(lambda i: times[i]),
        cost_model="none",
        database="memory",
    )
    ranked = sorted(result.get_all_tuning_records(), key=lambda r: r.seconds)
    assert [r.seconds for r in ranked] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert str(result.trace) == str(ranked[0].trace)
    assert ranked[0].verified  # its numbers are checked even so
    assert not (tmp_path / "cost_model.xgb").exists()


def two() -> IRModule:
    @T.prim_func
    def double(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")) -> None:  # type: ignore[valid-type]  # script
        for i in range(64):
            with T.block("B"):
                vi = T.axis.spatial(64, i)
                B[vi] = A[vi] * T.float32(2)

    main: PrimFunc = matmul(16)["main"]
    return IRModule({"main": main, "double": double})


def test_a_module_of_two_functions(tmp_path: Path) -> None:
    def schedule(sch: Schedule) -> Schedule:
        name = next(iter(sch.mod.functions))
        block = sch.get_block("C" if name == "main" else "B", name)
        loops = sch.get_loops(block)
        sch.split(loops[0], sch.sample_perfect_tile(loops[0], n=2, max_innermost_factor=4))
        return sch

    result = ms.tune_tir(two(), TARGET, tmp_path, 6, num_trials_per_iter=3, space=schedule, seed=1)
    assert len(result) == 6
    assert set(result.mod.functions) == {"main", "double"}
    lib = gputune.build(result, TARGET)
    check(lib, 16)
    a, b = np.ones(64, np.float32), np.empty(64, np.float32)
    lib["double"](a, b)
    assert (b == 2).all()
    for name, func in two().functions.items():
        assert result.query_schedule(IRModule({name: func}), TARGET) is not None
    only = ms.TuneConfig(1)
    special = {"main": ms.space_generator.ScheduleFn(five_points)}
    found = ms.tune_tir(two(), TARGET, tmp_path / "b", config=only, space=schedule, seed=1,
                        special_space=special)  # fmt: skip
    assert "decompose_reduction" in str(found.trace)
    assert structural_equal(found.mod["double"], two()["double"])  # one trial: left as it is


def test_extracted_task() -> None:
    task = ms.ExtractedTask("t", matmul(), gputune.Target(TARGET), [matmul()], 3)
    assert (task.task_name, task.weight) == ("t", 3)


# ----------------------------------------------------------------------------- refusals
def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_text("")
    for options, words in (
        ({"config": None}, "max_trials_global or seconds"),
        ({"work_dir": plain}, str(plain)),
        ({"work_dir": plain / "below"}, str(plain / "below")),
        ({"work_dir": ""}, "work_dir"),
        ({"mod": "matmul"}, "str"),
        ({"mod": two()}, "2 functions"),
        ({"special_space": {"other": "post-order-apply"}}, "other"),
        ({"seed": -7}, "-7"),
        ({"num_tuning_cores": "all"}, "'all'"),
        ({"module_equality": "nearly"}, "'nearly'"),
        ({"seconds": -1}, "seconds"),
        ({"config": ms.TuneConfig(-5)}, "max_trials_global"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            tune(**{"work_dir": tmp_path / "ok", **options})
    for options in (
        {"runner": "x"},
        {"builder": "x"},
        {"task_scheduler": "x"},
        {"database": "x"},
    ):
        with pytest.raises(ValueError, match="unknown kind"):
            tune(tmp_path / "ok", **options)
    with pytest.raises(ValueError, match="empty"):
        ms.tune_tasks(tasks=[], task_weights=[], work_dir=tmp_path, max_trials_global=1)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(tmp_path)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)  # tests may run as root, whom no mode bits stop
    with pytest.raises(UserError, match=f"{tmp_path}.*Permission denied"):
        tune(tmp_path)


def test_a_disk_that_fills_up_while_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = journal.write_all, 0

    def fills(fd: int, data: bytes) -> None:
        nonlocal count
        count += 1
        if count > 3:  # the workload and two records
            real(fd, data[:100])
            raise OSError(28, "No space left on device")
        real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", fills)
        with pytest.raises(RecordError, match=r"tuning_record\.json: No space left") as e:
            tune(tmp_path)
    result = e.value.result
    assert isinstance(result, ms.TuneResult)
    assert len(result) == 5  # nothing that was measured is lost
    assert result.mod is not None
    assert len(ms.JSONDatabase(work_dir=tmp_path)) == 2  # nor what was written


def test_a_hostile_history_does_no_harm(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "database_workload.json").write_text(
        f'["x", {{"script": "open({str(mark)!r}, \'w\')", "version": 1}}]\n'
    )
    (tmp_path / "database_tuning_record.json").write_text(
        f"__import__('pathlib').Path({str(mark)!r}).touch()\n"
    )
    (tmp_path / "cost_model.xgb").write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.warns(UserWarning, match="database_tuning_record.json:1"):
        result = tune(tmp_path)
    assert not mark.exists()
    assert sum(r.is_valid for r in result.get_all_tuning_records()) == 5


# ----------------------------------------------------------------------------- contexts, logs
def test_tune_context() -> None:
    bare = ms.TuneContext(matmul(), rand_state=9)
    for call in (bare.generate_design_space, bare.pre_tuning, bare.post_tuning):
        with pytest.raises(UserError, match="has no"):
            call(*([3] if call == bare.pre_tuning else []))  # type: ignore[operator]  # three kinds
    with pytest.raises(UserError, match="no target"):
        _ = bare.target
    with pytest.raises(UserError, match="no program"):
        _ = ms.TuneContext().mod
    with gputune.Target(TARGET):
        assert ms.TuneContext().target == gputune.Target(TARGET)
    assert 1 <= ms.TuneContext().rand_state < 2**31
    assert ms.TuneContext(num_threads=3).num_threads == 3
    assert ms.TuneContext(num_threads="logical").num_threads >= 1
    for bad in (0, "some", True):
        with pytest.raises(UserError, match="num_threads"):
            ms.TuneContext(num_threads=bad)


def test_tune_context_by_hand() -> None:
    context = ms.TuneContext(
        matmul(32), target=TARGET, space_generator=five_points, search_strategy="replay-trace",
        rand_state=4,
    )  # fmt: skip
    copy = context.clone()
    assert copy.space_generator is not context.space_generator
    assert copy.search_strategy is not context.search_strategy
    assert copy.mod is context.mod
    (space,) = context.generate_design_space()
    assert "decompose_reduction" in str(space.trace)
    context.pre_tuning(max_trials=3, num_trials_per_iter=2)
    found = context.generate_measure_candidates()
    assert found is not None
    assert len(found) == 2
    assert found[0].args_info == ms.ArgInfo.from_entry_func(matmul(32))
    context.notify_runner_results(found, [ms.RunnerResult([1.0])] * 2)
    assert len(context.generate_measure_candidates(1) or ()) == 1
    context.post_tuning()
    with pytest.raises(UserError):
        context.post_tuning()


def test_loggers(tmp_path: Path) -> None:
    first, second = logging.get_loggers_from_work_dir(tmp_path, ["task_0_a/b", "task_1_c"])
    first.info("one\ntwo")
    second.info("three")
    text = (tmp_path / "logs" / f"{first.name}.log").read_text()
    assert re.fullmatch(r"[\d-]+ [\d:]+\.\d{3} INFO one\ntwo\n", text)
    assert "a_b" in first.name
    for logger in (first, second):
        for handler in logger.handlers:
            handler.close()
