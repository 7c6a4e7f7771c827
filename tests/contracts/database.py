"""What every database keeps to. Inherit from `DatabaseContract` and give `open`; one that outlives
the process also inherits from `LastingDatabaseContract` and gives `address`."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from ms_fakes import TARGET, matmul, record_of, split_j

from gputune.errors import GputuneError, RecordError, UserError
from gputune.ir.equal import structural_equal
from gputune.meta_schedule import (
    Database,
    MemoryDatabase,
    TuningRecord,
    Workload,
    export_database,
    import_database,
    merge_databases,
    open_database,
    verify_database,
)
from gputune.meta_schedule.logging import console
from gputune.schedule import Schedule, Trace

ROOT = Path(__file__).resolve().parents[2]
GPU = {"kind": "cuda", "arch": "sm_90a"}


def best(db: Database, n: int = 16, target: str = TARGET, **options: Any) -> float | None:
    """The time of the best record of a matmul."""
    record = db.query_tuning_record(matmul(n), target, **options)
    return None if record is None else record.seconds


def fill(db: Database, *times: float, n: int = 16, **extras: Any) -> list[TuningRecord]:
    """Commit a record with each of some times."""
    workload = db.commit_workload(matmul(n))
    out = []
    for k, t in enumerate(times):
        said = {"program": f"p{n}/{k}/{t}", **extras}
        out.append(record_of(workload, [t], 2 ** (k % 4), **said))
        db.commit_tuning_record(out[-1])
    return out


class DatabaseContract:
    """The tests; `open` gives the database of a folder."""

    def open(self, place: Path, **options: Any) -> Database:
        """The database at a place: a new one where there is none yet."""
        raise NotImplementedError

    @pytest.fixture
    def db(self, tmp_path: Path) -> Database:
        return self.open(tmp_path)

    # ------------------------------------------------------------------ workloads and ranks
    def test_a_program_is_known_by_what_it_is(self, db: Database) -> None:
        assert not db.has_workload(matmul())
        workload = db.commit_workload(matmul())
        assert db.has_workload(matmul())
        assert db.commit_workload(matmul()) is workload
        assert structural_equal(workload.mod, matmul())
        assert not db.has_workload(matmul(8))
        assert db.query_schedule(matmul(8), TARGET) is None
        assert bool(db)
        assert len(db) == 0

    def test_records_are_ranked_by_their_median(self, db: Database) -> None:
        workload = db.commit_workload(matmul())
        for k, times in enumerate(([3.0], [1.0, 1.0, 50.0], None, [], [1e10], [2.0])):
            db.commit_tuning_record(record_of(workload, times, program=str(k)))
        assert [r.seconds for r in db.get_top_k(workload, 9)] == [1.0, 2.0, 3.0]
        assert [r.seconds for r in db.get_top_k(workload, 2)] == [1.0, 2.0]
        assert db.get_top_k(workload, 0) == []
        with pytest.raises(ValueError, match="-1"):
            db.get_top_k(workload, -1)
        assert len(db) == len(db.get_all_tuning_records()) == 6
        assert [r.program for r in db.get_records(workload)] == list("012345")
        assert sorted(r.program for r in db.entries()) == list("012345")
        assert db.get_top_k(Workload(matmul(8)), 3) == []
        assert db.get_records(Workload(matmul(8))) == []
        # a workload object of another database means the same program
        assert [r.seconds for r in db.get_top_k(Workload(matmul()), 1)] == [1.0]

    def test_queries(self, db: Database) -> None:
        fill(db, 2.0, 1.0)
        best_one = split_j(matmul(), 2)
        sch = db.query_schedule(matmul(), TARGET, "main")
        assert sch is not None
        assert str(sch.trace) == str(best_one.trace)
        assert db.query(matmul(), TARGET, kind="record").seconds == 1.0
        assert structural_equal(db.query(matmul(), TARGET, kind="ir_module"), best_one.mod)
        assert isinstance(db.query(matmul(), TARGET), Schedule)
        with pytest.raises(ValueError, match="'nothing'"):
            db.query(matmul(), TARGET, kind="nothing")

    def test_what_was_committed_is_the_same_object(self, db: Database) -> None:
        """What this process knows of a record (`own`, `verified`) stays with it."""
        (record,) = fill(db, 1.0)
        assert db.query_tuning_record(matmul(), TARGET) is record
        assert db.get_all_tuning_records()[0] is record

    def test_what_is_no_record_is_refused(self, db: Database) -> None:
        with pytest.raises(UserError, match="is no TuningRecord"):
            db.commit_tuning_record("a record")  # type: ignore[arg-type]  # the mistake in question

    def test_several_at_once(self, db: Database) -> None:
        workload = db.commit_workload(matmul())
        other = Workload(matmul(8))  # not committed by itself
        db.commit_tuning_records(
            [record_of(workload, [1.0]), record_of(other, [2.0]), record_of(workload, [3.0])]
        )
        assert (best(db), best(db, 8)) == (1.0, 2.0)
        assert len(db) == 3

    # ------------------------------------------------------------------ targets and devices
    def test_a_record_of_another_machine_is_not_applied(
        self, db: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(console(), "propagate", True)
        workload = db.commit_workload(matmul())
        db.commit_tuning_record(record_of(workload, [1e-9], 8, device="another machine/4"))
        gpu = record_of(workload, [1e-9], 4, device="cuda/sm_90a")
        gpu._target = GPU
        db.commit_tuning_record(gpu)
        assert best(db) is None
        assert db.query_schedule(matmul(), TARGET) is None
        (said,) = {r.getMessage() for r in caplog.records if "other machines" in r.getMessage()}
        assert "1 record of main for other machines only (another machine)" in said
        assert "allow_other_device=True" in said
        assert best(db, allow_other_device=True) == 1e-9
        assert db.query_schedule(matmul(), TARGET, allow_other_device=True) is not None
        assert db.query(matmul(), TARGET, allow_other_device=True) is not None
        assert db.query_ir_module(matmul(), TARGET, allow_other_device=True) is not None
        caplog.clear()
        assert best(db) is None
        assert caplog.records == []  # it is said once
        db.allow_other_device = True
        assert best(db) == 1e-9
        db.commit_tuning_record(record_of(workload, [1.0], 2))
        assert best(db) == 1.0  # of this machine, though slower

    def test_records_of_exactly_this_target_come_first(self, db: Database) -> None:
        workload = db.commit_workload(matmul())
        for cores, seconds in ((4, 1.0), (1, 3.0)):
            trace = split_j(matmul(), cores).trace
            db.commit_tuning_record(
                TuningRecord(trace, workload, [seconds], f"llvm -num-cores {cores}")
            )
        assert best(db, target="llvm -num-cores 1") == 3.0
        assert best(db, target="llvm -num-cores 4") == 1.0
        assert best(db, target="llvm -num-cores 2") == 1.0  # same machine: better than none

    # ------------------------------------------------------------------ what takes effect later
    def test_a_wrong_result_withdraws_its_program(self, db: Database) -> None:
        fill(db, 1.0, 2.0)
        error = {"phase": "check", "kind": "wrong_result", "message": "C differs"}
        workload = db.commit_workload(matmul())
        db.commit_tuning_record(record_of(workload, None, program="p16/0/1.0", error=error))
        assert best(db) == 2.0

    def test_a_record_can_be_withdrawn(self, db: Database) -> None:
        first, _ = fill(db, 1.0, 2.0)
        workload = db.commit_workload(matmul())
        db.commit_tuning_record(record_of(workload, None, withdraws=first.key))
        assert best(db) == 2.0

    def test_times_that_were_measured_again_count(self, db: Database) -> None:
        assert db.takes_amendments
        lucky, other = fill(db, 1.0, 2.0)
        workload = db.commit_workload(matmul())
        db.commit_tuning_record(
            record_of(workload, [5.0], 1, remeasures=lucky.key, was=1.0, processes=[5.0])
        )
        assert [r.seconds for r in db.get_top_k(workload, 9)] == [2.0, 5.0]
        assert db.query_tuning_record(matmul(), TARGET) is other
        assert len(db.get_all_tuning_records()) == 2

    def test_a_record_that_does_not_apply_is_passed_over(self, db: Database) -> None:
        workload = db.commit_workload(matmul())
        stranger = Schedule(matmul(), seed=1)
        stranger.unroll(stranger.get_loops(stranger.get_block("C"))[2])
        bad = stranger.trace.as_json()
        bad[0][0][2] = ["no_such_block", "main"]
        db.commit_tuning_record(TuningRecord(Trace.from_json(bad), workload, [1e-9], TARGET))
        fill(db, 1.0)
        sch = db.query_schedule(matmul(), TARGET)
        assert sch is not None
        assert str(sch.trace) == str(split_j(matmul(), 1).trace)

    # ------------------------------------------------------------------ upkeep
    def test_pruning_keeps_the_best(self, db: Database) -> None:
        fill(db, 3.0, 1.0, 2.0)
        fill(db, 4.0, 5.0, n=8)
        fill(db, 0.5, device="another machine")
        workload = db.commit_workload(matmul())
        db.commit_tuning_record(record_of(workload, None, program="failed"))
        error = {"phase": "check", "kind": "wrong_result", "message": "C differs"}
        db.commit_tuning_record(record_of(workload, None, program="p16/1/1.0", error=error))
        done = db.prune(1)
        assert (done.kept, done.dropped, done.unreadable) == (4, 4, 0)
        assert (best(db), best(db, 8)) == (2.0, 4.0)
        assert best(db, target=TARGET, allow_other_device=True) == 2.0
        assert len(db) == 4
        fill(db, 1.0)  # it is remembered that the program of the first time is wrong
        assert sorted(r.seconds for r in db.get_top_k(workload, 9)) == [0.5, 1.0, 2.0]
        again = record_of(workload, [0.1], program="p16/1/1.0")
        db.commit_tuning_record(again)
        assert again not in db.get_top_k(workload, 9)
        for bad in (0, -1, True, "all"):
            with pytest.raises(UserError, match="keep is a count from 1"):
                db.prune(bad)  # type: ignore[arg-type]  # the mistake in question

    def test_merging_takes_each_candidate_once(self, db: Database) -> None:
        fill(db, 3.0, 4.0)
        other = MemoryDatabase()
        fill(other, 3.0, 9.0)  # the first is the same candidate
        fill(other, 7.0, n=8)
        third = MemoryDatabase()
        fill(third, 7.0, 1.0, n=8)
        done = merge_databases(db, [other, third])
        assert (done.added, done.known, done.workloads, done.unusable) == (3, 2, 1, 0)
        assert sorted(r.seconds for r in db.get_all_tuning_records()) == [1.0, 3.0, 4.0, 7.0, 9.0]
        assert (best(db), best(db, 8)) == (3.0, 1.0)
        assert len(other) == 3  # as they were
        assert other.get_all_tuning_records()[0].workload is other.commit_workload(matmul())
        assert merge_databases(db, [other, third]).added == 0
        with pytest.raises(UserError, match="into itself"):
            merge_databases(db, [db])

    def test_merging_adds_to_failures_and_keeps_withdrawals(self, db: Database) -> None:
        workload = db.commit_workload(matmul())
        db.commit_tuning_record(record_of(workload, None, 2, program="a"))
        db.commit_tuning_record(record_of(workload, [1.0], 4, program="b"))
        other = MemoryDatabase()
        theirs = other.commit_workload(matmul())
        other.commit_tuning_record(record_of(theirs, [2.0], 2, program="a"))  # failed here
        other.commit_tuning_record(record_of(theirs, None, 4, program="b"))  # measured here
        error = {"phase": "check", "kind": "wrong_result", "message": "C differs"}
        other.commit_tuning_record(record_of(theirs, None, 4, program="b", error=error))
        done = merge_databases(db, [other])
        assert (done.added, done.known) == (2, 1)
        assert best(db) == 2.0

    def test_a_file_that_travels(self, db: Database, tmp_path: Path) -> None:
        lucky, _, _ = fill(db, 1.0, 2.0, 3.0)
        fill(db, 5.0, n=8)
        workload = db.commit_workload(matmul())
        db.commit_tuning_record(record_of(workload, None, program="failed", note="\x1b\u00fc"))
        db.commit_tuning_record(record_of(workload, [2.5], 1, remeasures=lucky.key, was=1.0))
        path = tmp_path / "there" / "all.jsonl"
        path.parent.mkdir()
        done = export_database(db, path)
        assert done.workloads == 2
        assert path.read_text().isascii()
        assert list(path.parent.iterdir()) == [path]
        there = MemoryDatabase()
        copied = import_database(there, path)
        assert (copied.added, copied.known, copied.workloads) == (5, 0, 2)
        for n in (16, 8):
            mine, theirs = (
                [r.as_json() for r in x.get_top_k(x.commit_workload(matmul(n)), 9)]
                for x in (db, there)
            )
            assert mine == theirs
        assert import_database(there, path).added == 0
        with pytest.raises(UserError, match="is there already"):
            export_database(db, path)
        export_database(there, path, overwrite=True)


class LastingDatabaseContract(DatabaseContract):
    """The tests of databases that others can open, too; `address` is what `open_database` takes."""

    appends = 200
    """Records that each of two processes writes."""

    def address(self, place: Path) -> str:
        """What means the database of a place in another process."""
        raise NotImplementedError

    def open(self, place: Path, **options: Any) -> Database:
        return open_database(self.address(place), **options)

    def test_a_database_that_is_opened_again_is_the_same(
        self, db: Database, tmp_path: Path
    ) -> None:
        lucky, _, _ = fill(db, 1.0 / 3, 2e-5, 3.0, note="\u00fc \x1b \ud800")
        fill(db, 4.0, n=8)
        workload = db.commit_workload(matmul())
        db.commit_tuning_record(record_of(workload, [0.25], 1, remeasures=lucky.key, was=1.0 / 3))
        db.flush()
        again = self.open(tmp_path)
        assert len(again) == len(db) == 4
        for n in (16, 8):
            mine, theirs = (
                [r.as_json() for r in x.get_top_k(x.commit_workload(matmul(n)), 9)]
                for x in (db, again)
            )
            assert mine == theirs
        assert again.skipped == []  # type: ignore[attr-defined]  # those that last have it
        record = again.query_tuning_record(matmul(), TARGET)
        assert record is not None
        assert not record.own
        candidate = record.as_measure_candidate()
        assert structural_equal(candidate.sch.mod, split_j(matmul(), 2).mod)
        assert verify_database(again).problems == []

    def test_the_very_same_record_is_kept_once(self, db: Database, tmp_path: Path) -> None:
        workload = db.commit_workload(matmul())
        for _ in range(2):
            db.commit_tuning_record(record_of(workload, [1.0], program="p"))
        assert len(db) == 1
        again = self.open(tmp_path)
        again.commit_tuning_record(record_of(again.commit_workload(matmul()), [1.0], program="p"))
        assert len(again) == len(self.open(tmp_path)) == 1

    def test_what_another_has_written_is_seen(self, db: Database, tmp_path: Path) -> None:
        fill(db, 2.0)
        theirs = self.open(tmp_path)
        fill(theirs, 7.0, n=8)
        fill(theirs, 1.0)
        db.reload()  # type: ignore[attr-defined]  # those that last have it
        assert (best(db), best(db, 8)) == (1.0, 7.0)
        fill(theirs, 9.0, n=4)
        fill(db, 3.0)  # whoever writes has seen what was written
        assert best(db, 4) == 9.0
        assert len(db) == 5

    def test_all_of_several_records_or_none(self, db: Database, tmp_path: Path) -> None:
        fill(db, 2.0)
        workload = db.commit_workload(matmul())
        bad = record_of(workload, [1.0], 4)
        bad.extras["number"] = float("nan")
        with pytest.raises(RecordError, match="cannot be written as JSON"):
            db.commit_tuning_records([record_of(workload, [0.5], 2), bad])
        again = self.open(tmp_path)
        assert [r.seconds for r in again.get_all_tuning_records()] == [2.0]
        assert verify_database(again).problems == []

    def test_another_process_may_prune_meanwhile(self, db: Database, tmp_path: Path) -> None:
        fill(db, 3.0, 1.0, 2.0)
        mine = db.query_tuning_record(matmul(), TARGET)
        self.open(tmp_path).prune(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fill(db, 0.5, 4.0, n=8)
            assert best(db, 8) == 0.5
            assert db.query_tuning_record(matmul(), TARGET) is mine
        again = self.open(tmp_path)
        assert sorted(r.seconds for r in again.get_all_tuning_records()) == [0.5, 1.0, 4.0]
        assert verify_database(again).problems == []

    def test_a_database_that_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"there is no|holds no database"):
            self.open(tmp_path / "x", allow_missing=False)
        self.open(tmp_path / "x").commit_workload(matmul())
        fill(self.open(tmp_path / "x"), 1.0)
        assert self.open(tmp_path / "x", allow_missing=False).has_workload(matmul())

    def test_anchor_blocks(self, db: Database, tmp_path: Path) -> None:
        fill(db, 1.0)
        near = self.open(tmp_path, module_equality="anchor-block")
        assert near.has_workload(matmul())
        with pytest.raises(GputuneError, match="module equality"):
            self.open(tmp_path, module_equality="nearly")

    def test_two_processes_write_at_once(self, tmp_path: Path) -> None:
        address = self.address(tmp_path)
        here = ROOT / "tests" / "meta_schedule"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(here)))}
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, address, str(who), str(self.appends)],
                env=env, stderr=subprocess.PIPE,
            )
            for who in (0, 1)
        ]  # fmt: skip
        said = [w.communicate(timeout=240)[1].decode() for w in writers]
        assert [w.returncode for w in writers] == [0, 0], said
        db = self.open(tmp_path)
        assert db.skipped == []  # type: ignore[attr-defined]  # those that last have it
        records = db.get_all_tuning_records()
        assert sorted(r.program for r in records) == sorted(
            f"{w}/{k}" for w in (0, 1) for k in range(self.appends)
        )
        own = {4 * n: db.commit_workload(matmul(4 * n)) for n in range(1, 6)}
        for r in records:  # each still belongs to the program that it was measured for
            who, k = map(int, r.program.split("/"))
            assert r.workload is own[4 * (k % 5 + 1) if who else 4 * (5 - k % 5)]
        checked = verify_database(db, replays=False)
        assert checked.problems == []
        assert checked.workloads == 5


WRITER = """
import sys
from ms_fakes import matmul, record_of
from gputune.meta_schedule import Workload, open_database, record_line
db = open_database(sys.argv[1])
who, count = int(sys.argv[2]), int(sys.argv[3])
base, own = {}, {}
for k in range(count):
    n = 4 * (k % 5 + 1) if who else 4 * (5 - k % 5)
    if n not in own:
        own[n] = db.commit_workload(matmul(n))
        body = record_line.body_of(record_of(own[n], [1.0], 2)).encode()
        base[n] = record_line.read_body(body, own[n])
    record = base[n].copy()
    record.run_secs = [1.0 + k + who / 2]
    record.extras["program"] = f"{who}/{k}"
    db.commit_tuning_record(record)
"""
