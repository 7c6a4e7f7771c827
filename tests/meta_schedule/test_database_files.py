"""Are the files of a database read fast, mended by nobody, and pruned without loss?"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ms_fakes import TARGET, matmul, record_of

from gputune.errors import RecordError, UserError
from gputune.meta_schedule import (
    Database,
    JSONDatabase,
    MemoryDatabase,
    TuningRecord,
    Workload,
    export_database,
    import_database,
    journal,
    merge_databases,
    open_database,
    record_line,
    verify_database,
)
from gputune.schedule import Trace
from tests.contracts.database import best, fill

RECORDS, WORKLOADS = "database_tuning_record.json", "database_workload.json"


@pytest.fixture
def db(tmp_path: Path) -> JSONDatabase:
    found = JSONDatabase(work_dir=tmp_path)
    fill(found, 3.0, 1.0, 2.0)
    return found


def opened(folder: Path) -> JSONDatabase:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return JSONDatabase(work_dir=folder)


def old_form(line: str) -> str:
    """A line as earlier versions wrote it, with spaces and keys in another order."""
    index, body = json.loads(line)
    return json.dumps([index, [*body[:4], dict(reversed(body[4].items()))]])


# ----------------------------------------------------------------------------- one line
texts = st.text(max_size=12) | st.sampled_from([']],[1.0],{"a', "]],null,null", '"crc":12}]]'])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=150)
@given(values, st.dictionaries(texts, values, max_size=3), st.none() | st.lists(st.floats(0, 1e9)))
def test_a_line_is_read_as_it_was_written(
    odd: Any, extras: dict[str, Any], times: list[float] | None
) -> None:
    """Also where a trace or a note looks like the end of a trace."""
    extras.pop("crc", None)
    trace = [[["Annotate", ["b0", odd], [odd], []], odd], [[[1]], [1], {"a": odd}]]
    workload = Workload(matmul())
    target = {"kind": "llvm", "note": odd}
    record = TuningRecord.unread(trace, [times, target, [odd], extras], workload)
    line = record_line.text_of(7, record).encode()
    assert record_line.index_of(line) == 7
    back = record_line.read(line, workload)
    assert back.content() == json.loads(json.dumps(record.content()))
    assert back.as_json() == json.loads(json.dumps(record.as_json()))
    assert record_line.text_of(7, back).encode() == line
    slow = TuningRecord.from_json(record_line.decoded(line)[1], workload)
    assert slow.content() == back.content()
    assert slow.key == back.key == record.key


def test_any_change_to_a_line_is_noticed() -> None:
    line = record_line.text_of(3, record_of(Workload(matmul()), [1.0], note="x")).encode()
    assert record_line.index_of(line) == 3
    for at in range(len(line)):
        if line[:at].find(b",") >= 0:  # the index stands outside
            for other in (line[:at] + b"~" + line[at + 1 :], line[:at] + line[at + 1 :]):
                assert record_line.index_of(other) is None
    assert record_line.index_of(line[:-1]) is None
    for index in (b"-1", b"1_0", b" 3", b"", b"3.0"):
        assert record_line.index_of(b"[" + index + line[2:]) is None


def test_a_trace_is_parsed_when_it_is_asked_for(tmp_path: Path, db: JSONDatabase) -> None:
    """A line whose checksum fits, around a trace that is none."""
    line = (tmp_path / RECORDS).read_text().splitlines()[0]
    record = record_line.read(line.encode(), Workload(matmul()))
    record._trace = b'[["Nonsense"]],[]]'
    record.run_secs = [1e-9]
    with (tmp_path / RECORDS).open("a") as f:
        f.write(record_line.text_of(0, record) + "\n")
    again = JSONDatabase(work_dir=tmp_path)
    assert again.query_schedule(matmul(), TARGET) is not None
    assert best(again) == 1.0
    (problem,) = verify_database(again).problems
    assert (problem.file, problem.line) == (str(tmp_path / RECORDS), 4)


def test_opening_parses_nothing(
    tmp_path: Path, db: JSONDatabase, calls_of: Callable[..., int]
) -> None:
    record = db.get_top_k(db.commit_workload(matmul()), 1)[0]
    lines = []
    for k in range(5000):
        record.run_secs = [10.0 + k]
        lines.append(record_line.text_of(0, record) + "\n")
    with (tmp_path / RECORDS).open("a") as f:
        f.writelines(lines)
    found: list[JSONDatabase] = []
    calls = calls_of(lambda: found.append(JSONDatabase(work_dir=tmp_path)))
    assert calls < 5000 * 30
    assert len(found[0]) == 5003
    assert found[0]._unread == 5003
    assert best(found[0]) == 1.0
    assert found[0]._unread == 0


# ----------------------------------------------------------------------------- what is in a file
def test_lines_that_stand_there_twice_are_reported(tmp_path: Path, db: JSONDatabase) -> None:
    """As two copies of a folder put together by `cat` have them."""
    for name in (WORKLOADS, RECORDS):
        path = tmp_path / name
        path.write_text(path.read_text() * 2)
    with pytest.warns(UserWarning, match="skipped a line") as said:
        again = JSONDatabase(work_dir=tmp_path)
    assert "and 3 more" in str(said[0].message)
    assert [(Path(s.file).name, s.line, s.reason) for s in again.skipped] == [
        (WORKLOADS, 2, "the same workload as line 1"),
        (RECORDS, 4, "the same record as line 1"),
        (RECORDS, 5, "the same record as line 2"),
        (RECORDS, 6, "the same record as line 3"),
    ]
    assert len(again) == 3
    fill(again, 0.5)
    assert best(opened(tmp_path)) == 0.5


def test_records_of_a_copied_workload_are_found(tmp_path: Path, db: JSONDatabase) -> None:
    path = tmp_path / WORKLOADS
    path.write_text(path.read_text() * 2)
    record = record_of(Workload(matmul()), [0.25], program="x")
    with (tmp_path / RECORDS).open("a") as f:
        f.write(record_line.text_of(1, record) + "\n")
    assert best(opened(tmp_path)) == 0.25


def test_what_earlier_versions_wrote_is_read(tmp_path: Path, db: JSONDatabase) -> None:
    path = tmp_path / RECORDS
    before = path.read_text().splitlines()
    path.write_text("".join(old_form(x) + "\n" for x in before))
    again = JSONDatabase(work_dir=tmp_path)
    assert again.skipped == []
    assert [r.as_json() for r in again.entries()] == [r.as_json() for r in db.entries()]
    assert again.get_top_k(again.commit_workload(matmul()), 1)[0].key == (
        db.get_top_k(db.commit_workload(matmul()), 1)[0].key
    )
    assert verify_database(again).problems == []
    again.prune(9)
    assert sorted(path.read_text().splitlines()) == sorted(before)  # in today's form


def test_a_file_that_is_written_anew_by_hand_is_noticed(tmp_path: Path, db: JSONDatabase) -> None:
    path = tmp_path / RECORDS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[2], lines[1], lines[0], "", ""]) + "\n")
    with pytest.warns(UserWarning, match=f"{RECORDS}:4: an empty line"):
        fill(db, 0.5)
    assert best(db) == 0.5
    assert len(opened(tmp_path)) == len(db) == 4


def test_workloads_that_were_written_anew_are_refused(tmp_path: Path, db: JSONDatabase) -> None:
    path = tmp_path / WORKLOADS
    fill(JSONDatabase(work_dir=tmp_path / "other"), 1.0, n=8)
    text = (tmp_path / "other" / WORKLOADS).read_text()
    path.write_text(text + path.read_text())
    with pytest.raises(RecordError, match="was written anew while it was in use") as e:
        db.commit_workload(matmul(4))
    assert "open the database anew" in str(e.value)


# ----------------------------------------------------------------------------- pruning
def test_pruning_keeps_what_nobody_can_read(tmp_path: Path, db: JSONDatabase) -> None:
    path = tmp_path / RECORDS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "foreign", *lines[1:], lines[0], lines[2][:40]]))
    path.chmod(0o640)
    found = opened(tmp_path)
    done = found.prune(1)
    assert (done.kept, done.dropped, done.unreadable) == (1, 2, 2)
    assert path.read_text().splitlines() == ["foreign", lines[1], lines[2][:40]]
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == sorted(
        (WORKLOADS, RECORDS)
    )
    done = opened(tmp_path).prune(1, unreadable=True)
    assert (done.kept, done.dropped, done.unreadable) == (1, 2, 2)
    assert path.read_text().splitlines() == [lines[1]]


def test_pruning_that_fails_changes_nothing(
    tmp_path: Path, db: JSONDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / RECORDS).read_bytes()

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", full)
        with pytest.raises(RecordError, match="No space left"):
            db.prune(1)
    assert (tmp_path / RECORDS).read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    assert len(db) == len(opened(tmp_path)) == 3


def test_pruning_counts_times_that_were_measured_again(tmp_path: Path, db: JSONDatabase) -> None:
    (lucky,) = db.get_top_k(db.commit_workload(matmul()), 1)
    db.commit_tuning_record(
        record_of(lucky.workload, [9.0], 2, remeasures=lucky.key, was=1.0, processes=[9.0])
    )
    db.prune(2)
    for x in (db, opened(tmp_path)):
        assert [r.seconds for r in x.get_top_k(x.commit_workload(matmul()), 9)] == [2.0, 3.0]


def test_an_empty_folder_is_pruned(tmp_path: Path) -> None:
    assert JSONDatabase(work_dir=tmp_path / "new").prune().kept == 0
    with pytest.raises(UserError, match="UnionDatabase cannot be pruned"):
        Database.create("union").prune()


# ----------------------------------------------------------------------------- full disks
def test_merging_into_a_full_disk_adds_nothing(
    tmp_path: Path, db: JSONDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / RECORDS).read_bytes()
    other = MemoryDatabase()
    fill(other, *(10.0 + k for k in range(20)))

    def full(fd: int, data: bytes) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", full)
        with pytest.raises(RecordError, match="No space left"):
            merge_databases(db, [other])
    assert (tmp_path / RECORDS).read_bytes() == before
    assert merge_databases(opened(tmp_path), [other]).added == 20


def test_a_full_sqlite_file(tmp_path: Path) -> None:
    found = open_database(tmp_path / "t.sqlite")
    fill(found, 1.0)
    tables = found._tables  # type: ignore[attr-defined]  # of this kind
    ((pages,),) = tables.run("PRAGMA page_count")
    tables.run(f"PRAGMA max_page_count = {pages}")
    other = MemoryDatabase()
    fill(other, *(0.5 + k for k in range(200)))
    with pytest.raises(RecordError, match=r"record in .*t\.sqlite: database or disk is full"):
        merge_databases(found, [other])
    assert len(open_database(tmp_path / "t.sqlite")) == 1
    assert best(found) == 0.5  # kept in memory
    assert verify_database(open_database(tmp_path / "t.sqlite")).problems == []


def test_a_sqlite_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    found = open_database(path)
    fill(found, 1.0)
    found._tables.run("PRAGMA query_only = 1")  # type: ignore[attr-defined]  # root may write all
    with pytest.raises(RecordError, match="readonly database"):
        fill(found, 0.5)
    assert best(found) == 0.5
    assert best(open_database(path)) == 1.0


def test_a_sqlite_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    path.write_text("not a database, but some other text that is long enough to be looked at\n" * 9)
    with pytest.raises(RecordError, match="file is not a database"):
        open_database(path)
    assert path.read_text().startswith("not a database")


def test_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    found = open_database(tmp_path / "t.sqlite")
    found._tables.run("UPDATE gputune_schema SET version = 2")  # type: ignore[attr-defined]  # this kind
    with pytest.raises(RecordError, match=r"tables of version \[2\]"):
        open_database(tmp_path / "t.sqlite")


def test_rows_that_cannot_be_read_are_skipped_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    found = open_database(path)
    fill(found, 1.0, 2.0, 3.0)
    run = found._tables.run  # type: ignore[attr-defined]  # of this kind
    run("UPDATE gputune_tuning_record SET body = replace(body, '[1.0]', '[0.5]')")
    run(
        "INSERT INTO gputune_tuning_record (digest, workload_id, amends, device, target, body) "
        "VALUES ('x', 1, 0, '', '', 'nonsense')"
    )
    run("INSERT INTO gputune_workload (digest, shash, body) VALUES ('x', 'y', '[]')")
    again = open_database(path)
    with pytest.warns(UserWarning, match="skipped a row that cannot be read"):
        assert best(again) == 2.0
    said = [str(s) for s in again.skipped]  # type: ignore[attr-defined]  # those of tables have it
    assert f"{path} gputune_tuning_record:1: tuning record: crc" in said[1]
    assert f"{path} gputune_tuning_record:4: not JSON" in said[2]
    assert f"{path} gputune_workload:2: workload: expected" in said[0]
    assert [p.line for p in verify_database(again).problems] == [2, 1, 4]
    done = again.prune(1)
    assert (done.kept, done.dropped, done.unreadable) == (1, 1, 2)
    with pytest.warns(UserWarning, match="skipped a row"):
        assert again.prune(1, unreadable=True).dropped == 2
    assert len(again) == 1


# ----------------------------------------------------------------------------- verifying
def test_every_kind_of_problem_is_found(tmp_path: Path, db: JSONDatabase) -> None:
    workload = db.commit_workload(matmul())
    stranger = [[["GetSBlock", [], ["nothing", "main"], ["b0"]]], []]
    unfit = record_of(workload, [1.0], program="unfit")
    unfit._trace = Trace.from_json(stranger)
    gone = record_of(workload, [1.0], program="gone")
    gone._trace, gone._target = unfit._trace, {"kind": "llvm", "num-cores": 3}
    machine = record_of(workload, [1.0], program="no machine")
    machine._target = {"kind": "abacus"}
    for record in (unfit, gone, machine):
        db.commit_tuning_record(record)
    db.commit_tuning_record(record_of(workload, None, withdraws=gone.key))
    path = tmp_path / RECORDS
    good = path.read_text().splitlines()
    changed = good[1].replace("[1.0]", "[0.1]")
    lines = [*good, good[0], "foreign", changed, "[4,[[[],[]],[1.0],null,null]]"]
    path.write_text("\n".join([*lines, good[2][:30]]))
    with (tmp_path / WORKLOADS).open("a") as f:
        f.write('["abc",{"script":"import os","version":1}]\n')
    checked = verify_database(opened(tmp_path))
    assert (checked.workloads, checked.records) == (2, 12)
    found = {(Path(p.file).name, p.line): p.reason for p in checked.problems}
    assert list(found) == [
        (WORKLOADS, 2),
        *((RECORDS, k) for k in (4, 6, 8, 9, 10, 11, 12)),
    ]
    for line, words in {
        4: "nothing", 6: "abacus", 8: "the same as 1", 9: "not JSON", 10: "crc",
        11: "there is no workload 4", 12: "not JSON",
    }.items():  # fmt: skip
        assert words in found[RECORDS, line]
    assert [p.line for p in verify_database(opened(tmp_path), replays=False).problems] == [
        2, 6, 8, 9, 10, 11, 12,
    ]  # fmt: skip
    with pytest.raises(UserError, match="MemoryDatabase has nothing"):
        verify_database(MemoryDatabase())


# ----------------------------------------------------------------------------- a file that travels
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[:-1], "its end is missing"),
        (lambda x: [*x[:-1], x[-1][:-3]], "not JSON"),
        (lambda x: [x[0], *x[2:]], ":2: there is no workload 0"),
        (lambda x: [*x[:3], x[3].replace("[1.0]", "[0.1]"), *x[4:]], ":4: neither a workload nor"),
        (lambda x: [*x[:3], *x[4:]], "its digest differs"),
        (lambda x: ["{}", *x[1:]], ":1: no file of `gputune db export`"),
        (lambda x: [x[0].replace(":1}", ":9}"), *x[1:]], ":1: version 9 is not known"),
        (lambda x: ["\x00\xff"], ":1: not JSON"),
        (lambda x: [], ":1: an empty line"),
        (lambda x: [x[0], x[1].replace("16", "17"), *x[2:]], ":2: workload"),
    ],
)
def test_a_file_that_is_not_whole_adds_nothing(
    spoil: Callable[[list[str]], list[str]], said: str, tmp_path: Path, db: JSONDatabase
) -> None:
    path = tmp_path / "all.jsonl"
    export_database(db, path)
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{x}\n" for x in spoil(lines)))
    there = MemoryDatabase()
    with pytest.raises(RecordError) as e:
        import_database(there, path)
    assert said in str(e.value)
    assert str(path) in str(e.value)
    assert len(there) == 0
    assert not there.has_workload(matmul())


def test_files_that_cannot_be_read_or_written(tmp_path: Path, db: JSONDatabase) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        import_database(db, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot write .*there"):
        export_database(db, tmp_path / "nowhere" / "there")


def test_records_of_programs_that_cannot_be_read_stay_behind(
    tmp_path: Path, db: JSONDatabase
) -> None:
    fill(db, 4.0, n=8)
    path = tmp_path / WORKLOADS
    lines = path.read_text().splitlines()
    shash, body = json.loads(lines[0])
    lines[0] = json.dumps([shash, {**body, "script": "import os"}])
    path.write_text("".join(x + "\n" for x in lines))
    there = MemoryDatabase()
    done = merge_databases(there, [opened(tmp_path)])
    assert (done.added, done.unusable) == (1, 3)
    assert export_database(opened(tmp_path), tmp_path / "x").unusable == 3
    assert best(there, 8) == 4.0
