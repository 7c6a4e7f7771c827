"""Does a database of TVM's lead to gputune's schedules, and are its times taken for what they are?

`tvm_tuning_record.json` has two lines as TVM 0.27 has written them while it tuned a matmul of 128.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ms_fakes import TARGET, matmul

from gputune.errors import UserError
from gputune.ir.nodes import IRModule
from gputune.meta_schedule import (
    JSONDatabase,
    MemoryDatabase,
    TuningRecord,
    import_tvm_records,
    verify_database,
)
from gputune.schedule import Schedule
from gputune.script import tir as T

WRITTEN = (Path(__file__).parent / "tvm_tuning_record.json").read_text().splitlines()
MATMUL = matmul(128)


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """TVM's folder; its programs are base64 of a form of TVM's own."""
    folder = tmp_path / "tvm"
    folder.mkdir()
    (folder / "database_workload.json").write_text('["1975238974954591924","pEYAAAAAAAB7CiAg"]\n')
    (folder / "database_tuning_record.json").write_text("".join(x + "\n" for x in WRITTEN))
    return folder


def add(work_dir: Path, *lines: Any) -> None:
    with (work_dir / "database_tuning_record.json").open("a") as f:
        f.writelines(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines)


def rowwise(n: int = 128) -> IRModule:
    """Another program with the same arguments, to which the traces do not apply."""

    @T.prim_func(name="main")
    def main(
        A: T.Buffer((n, n), "float32"),  # type: ignore[valid-type]  # script
        B: T.Buffer((n, n), "float32"),  # type: ignore[valid-type]  # script
        C: T.Buffer((n, n), "float32"),  # type: ignore[valid-type]  # script
    ) -> None:
        for i, j in T.grid(n, n):
            with T.block("S"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = A[vi, vj] + B[vi, vj]

    return IRModule({"main": main})


def test_traces_and_times_arrive(work_dir: Path, tmp_path: Path) -> None:
    db = JSONDatabase(work_dir=tmp_path / "ours")
    done = import_tvm_records(db, work_dir, [rowwise(), matmul(8), MATMUL])
    assert (done.copied.added, done.failed, done.skipped) == (2, 0, [])
    again = JSONDatabase(work_dir=tmp_path / "ours")
    assert [r.seconds for r in again.get_all_tuning_records()] == [
        8.8066036521739131057e-05, 0.00025377852472089311442,
    ]  # fmt: skip
    assert not again.has_workload(rowwise())
    assert verify_database(again).problems == []
    record = again.get_all_tuning_records()[0]
    assert record.extras["source"] == "tvm"
    assert record.target is not None
    assert record.target.num_cores == 1
    assert "sch.parallel" in str(record.trace)
    assert import_tvm_records(db, work_dir, MATMUL).copied.added == 0  # each candidate once


def test_times_of_an_unknown_machine_are_not_used_unless_asked(work_dir: Path) -> None:
    db = MemoryDatabase()
    import_tvm_records(db, work_dir, {0: MATMUL})
    assert db.query_schedule(MATMUL, TARGET) is None
    sch = db.query_schedule(MATMUL, TARGET, allow_other_device=True)
    assert isinstance(sch, Schedule)
    here = MemoryDatabase()
    import_tvm_records(here, work_dir, MATMUL, this_machine=True)
    assert here.query_schedule(MATMUL, TARGET) is not None


def test_a_record_for_a_gpu_says_its_device(work_dir: Path) -> None:
    index, body = json.loads(WRITTEN[0])
    body[2] = {"kind": "cuda", "arch": "sm_90", "keys": ["cuda", "gpu"], "tag": ""}
    add(work_dir, [index, body])
    db = MemoryDatabase()
    import_tvm_records(db, work_dir, MATMUL)
    assert {r.extras["device"].split()[0] for r in db.get_all_tuning_records()} == {
        "unknown", "cuda/sm_90",
    }  # fmt: skip


def test_what_does_not_apply_is_skipped_and_reported(work_dir: Path) -> None:
    index, body = json.loads(WRITTEN[0])
    failed = [index, [body[0], [1e10], *body[2:]]]
    small = [5, [*body[:3], [["TENSOR", "float32", [8, 8]]] * 3]]
    stranger = [6, [[[["GetSBlock", [], ["nothing", "main"], ["b0"]]], []], *body[1:]]]
    machine = [index, [*body[:2], {"kind": "opencl"}, body[3]]]
    add(work_dir, failed, small, stranger, machine, "torn [[\n", {"foreign": 1}, [0, [*body, {}]])
    done = import_tvm_records(MemoryDatabase(), work_dir, MATMUL)
    assert (done.copied.added, done.failed) == (2, 1)
    path = str(work_dir / "database_tuning_record.json")
    assert [(p.file, p.line) for p in done.skipped] == [(path, k) for k in range(4, 10)]
    for problem, words in zip(
        done.skipped,
        ("no program that was given has the arguments of workload 5", "workload 6: its trace does "
         "not apply", "opencl", "not JSON", "expected", "expected"), strict=True,
    ):  # fmt: skip
        assert words in problem.reason


def test_a_trace_that_fits_two_programs_is_not_guessed(work_dir: Path) -> None:
    two = [MATMUL, IRModule({"other": matmul(128)["main"]})]
    done = import_tvm_records(MemoryDatabase(), work_dir, two)
    assert done.copied.added == 0
    assert "its trace applies to 2 of the programs" in done.skipped[0].reason
    assert import_tvm_records(MemoryDatabase(), work_dir, {0: two[1]}).copied.added == 2


def test_bad_arguments(work_dir: Path, tmp_path: Path) -> None:
    db = MemoryDatabase()
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        import_tvm_records(db, tmp_path / "nowhere", MATMUL)
    with pytest.raises(UserError, match="no programs are given"):
        import_tvm_records(db, work_dir, [])
    with pytest.raises(UserError, match="expected a PrimFunc or an IRModule"):
        import_tvm_records(db, work_dir, ["matmul"])  # type: ignore[list-item]  # the mistake
    with pytest.raises(UserError, match="is a number from 0, found 'a'"):
        import_tvm_records(db, work_dir, {"a": MATMUL})  # type: ignore[dict-item]  # the mistake


def test_the_form_of_four_elements_is_read() -> None:
    """Which is how TVM's lines come in."""
    from gputune.meta_schedule import Workload

    _, body = json.loads(WRITTEN[1])
    record = TuningRecord.from_json(body, Workload(MATMUL))
    assert record.as_measure_candidate().sch.mod is not None
