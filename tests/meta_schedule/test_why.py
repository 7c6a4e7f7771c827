"""Does the log of rounds say where every candidate went, and survive what happens to files?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ms_fakes import TARGET, ListStrategy, NoSpace, matmul, split_j
from test_task_scheduler import context, run, schedules

from gputune import meta_schedule as ms
from gputune.errors import UserError
from gputune.meta_schedule.builder import BuilderResult
from gputune.meta_schedule.failures import Failure, write_failures
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.round_log import ROUNDS_FILE, Round, RoundLog, predictions
from gputune.meta_schedule.runner import RunnerResult
from gputune.meta_schedule.search_strategy import EvolutionarySearch, ReplayTrace
from gputune.meta_schedule.search_strategy.search_strategy import SearchCounts
from gputune.meta_schedule.why import Why, judgement_of

OK = BuilderResult("/nowhere/0")


def failed(phase: str, kind: str) -> RunnerResult:
    return RunnerResult.failed(Failure(phase, kind, f"{kind} happened"))


# ----------------------------------------------------------------------------- counting
def test_every_candidate_of_a_round_is_counted_once() -> None:
    bad = BuilderResult(None, "no", Failure("build", "timeout", "too long"))
    built = [bad, OK, OK, OK, OK, OK, OK]
    results = [
        failed("build", "timeout"),
        RunnerResult([1e-3]),
        RunnerResult([9e-3], cut=True),
        failed("run", "crash"),
        failed("check", "wrong_result"),
        failed("start", "cold"),
    ]
    found = Round.of(9, built, results)
    assert (found.proposed, found.attempted, found.built) == (9, 7, 6)
    assert (found.measured, found.cut, found.lost, found.wrong) == (2, 1, 1, 1)
    assert found.build_errors == {"timeout": 1}
    assert found.run_errors == {"run crash": 1}
    ended = found.measured + found.lost + found.wrong + found.run_errors.total()
    assert ended + found.build_errors.total() == len(results)


def test_counts_of_a_strategy_become_those_of_a_round() -> None:
    log = RoundLog()
    log.add(0, {"task": "a"}, SearchCounts(10, 1, {"too wide": 4}))
    log.add(1, {"task": "b"}, SearchCounts(7, 0, {}))
    log.add(0, {"task": "a"}, SearchCounts(25, 3, {"too wide": 4, "too deep": 2}))
    first, other, second = log.lines
    assert (first["sampled"], other["sampled"], second["sampled"]) == (10, 7, 15)
    assert second["duplicates"] == 2
    assert second["refused"] == {"too deep": 2}
    log.add(
        0, {}, SearchCounts(25, 3, {"too wide": 4, "too deep": 2} | {f"r{k}": 1 for k in range(30)})
    )
    assert sum(log.lines[-1]["refused"].values()) == 30
    assert log.lines[-1]["refused"]["other reasons"] == 18


def test_predictions_are_of_candidates_that_have_both() -> None:
    candidates = [MeasureCandidate(split_j(matmul(), 4), []) for _ in range(4)]
    for c, score in zip(candidates, (1.0, None, 3.0, float("-inf"))):
        c.score = score
    results = [RunnerResult([2e-3]), RunnerResult([1e-3]), failed("run", "crash")]
    assert predictions(candidates, [*results, RunnerResult([1e-3])]) == {
        "scores": [1.0],
        "seconds": [2e-3],
    }


# ----------------------------------------------------------------------------- from a tuning
def test_a_tuning_leaves_its_rounds_behind(tmp_path: Path) -> None:
    tasks = [context(5, "first"), context(9, "second")]
    run(
        tasks,
        num_trials_per_iter=4,
        fail=lambda i: "no way" if i == 2 else None,
        seconds_of=lambda i: "broke" if i == 5 else 1e-3 / (1 + i),
        rounds_path=tmp_path / ROUNDS_FILE,
        failures_path=tmp_path / "failures.jsonl",
    )
    why = Why.read(tmp_path)
    totals = {t.name: (t.total("proposed"), t.total("measured")) for t in why.tasks}
    assert totals["first"][0] == 5
    assert totals["second"][0] == 9
    assert sum(n for _, n in totals.values()) == 12
    text = str(why)
    for part in ("first: 2 rounds", "no way", "broke", "measured", "best"):
        assert part in text, text
    assert sum(n for t in why.tasks for _, n, _ in t.reasons()) == 2
    for line in (tmp_path / ROUNDS_FILE).read_text().splitlines():
        assert isinstance(json.loads(line), dict)


def test_a_real_search_counts_and_predicts(tmp_path: Path) -> None:
    result = ms.tune_tir(
        matmul(32), TARGET, tmp_path, 12, num_trials_per_iter=6, seed=1, cost_model="none"
    )
    (task,) = result.why().tasks
    assert task.total("sampled") > 12
    assert task.total("measured") == 12
    assert len(task.rounds) == 2
    for line in task.rounds:
        assert len(line["scores"]) == len(line["seconds"]) == 6
        assert line["model"] == "analytic model"
        found = judgement_of(line)
        assert found is not None
        assert math.isnan(found[1]) or -1 <= found[1] <= 1  # scores may all be equal
        assert {"search_s", "build_s", "measure_s"} <= set(line)
    assert "rank correlation" in str(result.why())
    assert str(Why.read(tmp_path)).startswith("main: 2 rounds")
    ms.tune_tir(matmul(32), TARGET, tmp_path, 3, seed=2, cost_model="none")
    (again,) = Why.read(tmp_path).tasks  # both runs
    assert again.total("measured") == 15
    assert len({r["run"] for r in again.rounds}) == 2


def test_strategies_count() -> None:
    for strategy in (EvolutionarySearch(), ReplayTrace()):
        ctx = ms.TuneContext(
            matmul(16), target=TARGET, space_generator="post-order-apply",
            search_strategy=strategy, rand_state=3,
        )  # fmt: skip
        assert strategy.counts() is None
        ctx.pre_tuning(8, 4)
        ctx.generate_measure_candidates()
        found = strategy.counts()
        assert found is not None
        assert found.sampled >= 4
        ctx.post_tuning()


# ----------------------------------------------------------------------------- files
def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / ROUNDS_FILE
    write_failures(path, [{"task": "a", "measured": 3, "best": 1e-3}])
    with path.open("a") as f:
        f.write('{"task": "a", "measu')  # a process died here
    write_failures(path, [{"task": "a", "measured": 4, "best": 5e-4}])
    with path.open("ab") as f:
        f.write(b"\xff\xfe\n[1, 2]\n" + b"[" * 100_000 + b"\n")
        strange = {
            "task": "\x1b[31mred\n", "measured": -1, "best": "soon", "refused": {"\x1b[0m": 7},
            "scores": [1, 2, "x"], "seconds": None, "sampled": 10**400, "build_s": float("nan"),
        }  # fmt: skip
        f.write(json.dumps(strange).encode() + b"\n")
    why = Why.read(tmp_path)
    assert why.skipped == 4
    a = why.tasks[0]
    assert (a.total("measured"), a.best) == (7, 5e-4)
    assert why.tasks[1].total("measured") == 0
    assert "\x1b" not in str(why)
    assert "4 lines of the logs cannot be read" in str(why)


def test_no_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        Why.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no log"):
        Why.read(tmp_path)
    assert str(Why.of(())) == "nothing was measured"


def test_a_folder_with_failures_alone(tmp_path: Path) -> None:
    """As earlier versions wrote."""
    line: dict[str, Any] = {"task": "a", "phase": "build", "kind": "timeout", "message": "slow"}
    write_failures(tmp_path / "failures.jsonl", [line, line])
    text = str(Why.read(tmp_path))
    assert "build timeout" in text
    assert "slow" in text


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    from gputune.errors import RecordError

    with pytest.raises(RecordError, match="cannot record"):
        run([context(3)], rounds_path=tmp_path / "no" / "such" / ROUNDS_FILE)


def test_a_plain_strategy_needs_no_counts(tmp_path: Path) -> None:
    ctx = ms.TuneContext(
        matmul(), target=TARGET, space_generator=NoSpace(),
        search_strategy=ListStrategy(schedules(3, 16)), task_name="t",
    )  # fmt: skip
    scheduler, _, _ = run([ctx])
    (line,) = scheduler.rounds.lines
    assert line["proposed"] == line["measured"] == 3
    assert "sampled" not in line
