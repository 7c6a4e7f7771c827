"""Is every record kept, found, and trusted only as far as it deserves?"""

from __future__ import annotations

import json
import os
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ms_fakes import TARGET, matmul, record_of, split_j

from gputune.errors import RecordError, UserError
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import IRModule
from gputune.meta_schedule import (
    ArgInfo,
    Database,
    JSONDatabase,
    MemoryDatabase,
    OrderedUnionDatabase,
    PyDatabase,
    ScalarInfo,
    TensorInfo,
    TuningRecord,
    UnionDatabase,
    Workload,
    compile_tir,
    derived_object,
    journal,
)
from gputune.meta_schedule.record import checksum
from gputune.schedule import Schedule, Trace
from gputune.script import tir as T
from gputune.target import Target


@pytest.fixture
def mod() -> IRModule:
    return matmul()


def filled(folder: Path, *times: float) -> JSONDatabase:
    db = JSONDatabase(work_dir=folder)
    workload = db.commit_workload(matmul())
    for k, t in enumerate(times):
        db.commit_tuning_record(record_of(workload, [t], 2 ** (k % 4), program=f"p{k}"))
    return db


# ----------------------------------------------------------------------------- values
def test_arg_info_round_trips() -> None:
    info = ArgInfo.from_entry_func(matmul(8))
    assert info == [TensorInfo("float32", (8, 8))] * 3
    assert info[0].as_json() == ["TENSOR", "float32", [8, 8]]
    assert ArgInfo.from_json(info[0].as_json()) == info[0]
    assert ArgInfo.from_json(["SCALAR", "int32"]) == ScalarInfo("int32")


def test_arg_info_of_scalars() -> None:
    @T.prim_func
    def scaled(a: T.float32, A: T.Buffer((4,), "float32")) -> None:  # type: ignore[valid-type]  # script
        for i in range(4):
            with T.block("A"):
                vi = T.axis.spatial(4, i)
                A[vi] = a

    assert ArgInfo.from_prim_func(scaled) == [ScalarInfo("float32"), TensorInfo("float32", (4,))]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        ["TENSOR"],
        ["TENSOR", "float32", [True]],
        ["TENSOR", "float32", [-1]],
        ["TENSOR", "nope", [1]],
        ["TENSOR", 3, [1]],
        ["OTHER", "float32", [1]],
    ],
)
def test_arg_info_refuses(bad: Any) -> None:
    with pytest.raises(RecordError, match="argument description"):
        ArgInfo.from_json(bad)


def test_workload_round_trips(mod: IRModule) -> None:
    text = json.dumps(Workload(mod).as_json())
    back = Workload.from_json(json.loads(text))
    assert structural_equal(back.mod, mod)
    assert back.shash == Workload(mod).shash


def test_workload_that_is_another_program_is_refused(mod: IRModule) -> None:
    shash, body = Workload(mod).as_json()
    body["script"] = matmul(8).script()
    with pytest.raises(RecordError, match="another program"):
        _ = Workload.from_json([shash, body]).mod


def test_hostile_workload_runs_nothing(tmp_path: Path, mod: IRModule) -> None:
    shash, body = Workload(mod).as_json()
    mark = tmp_path / "mark"
    for script in (
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n" + body["script"],
        f"__import__('os').mknod({str(mark)!r})",
        body["script"].replace('"float32"', f"open({str(mark)!r}, 'w')"),
    ):
        with pytest.raises(RecordError):
            _ = Workload.from_json([shash, {"script": script, "version": 1}]).mod
    assert not mark.exists()


numbers = st.floats(min_value=1e-12, max_value=1e9)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(numbers, min_size=1, max_size=4), st.text(max_size=20), st.integers())
def test_record_round_trips(times: list[float], text: str, seed: int) -> None:
    workload = Workload(matmul())
    record = record_of(workload, times, 4, note=text, seed=seed)
    back = TuningRecord.from_json(json.loads(json.dumps(record.as_json())), workload)
    assert back.run_secs == times
    assert back.extras == record.extras
    assert back.target == Target(TARGET)
    assert back.args_info == record.args_info
    assert str(back.trace) == str(record.trace)
    assert back.as_json() == record.as_json()
    candidate = back.as_measure_candidate()
    assert structural_equal(candidate.sch.mod, split_j(workload.mod, 4).mod)


def test_any_change_to_a_record_is_noticed() -> None:
    workload = Workload(matmul())
    good = record_of(workload, [1e-3], note="x").as_json()
    for change in ([9e-9], None):
        bad = json.loads(json.dumps(good))
        bad[1] = change
        with pytest.raises(RecordError, match="crc"):
            TuningRecord.from_json(bad, workload)
    bad = json.loads(json.dumps(good))
    bad[4]["note"] = "y"
    with pytest.raises(RecordError, match="crc"):
        TuningRecord.from_json(bad, workload)


@pytest.mark.parametrize(
    "bad", ["x", [1, "x"], [float("inf")], [-1.0], [True], [[1.0]], {"a": 1}], ids=str
)
def test_times_that_are_none_are_refused(bad: Any) -> None:
    body = [[[], []], bad, None, None]
    with pytest.raises(RecordError, match="times"):
        TuningRecord.from_json(body, Workload(matmul()))


def test_an_untuned_baseline_is_a_record(mod: IRModule) -> None:
    db = MemoryDatabase()
    workload = db.commit_workload(mod)
    db.commit_tuning_record(TuningRecord(Trace(), workload, [1e-6], TARGET))
    db.commit_tuning_record(record_of(workload, [1e-3]))
    found = db.query_schedule(mod, TARGET)
    assert found is not None
    assert structural_equal(found.mod, mod)


# ----------------------------------------------------------------------------- databases
def test_current_database(mod: IRModule) -> None:
    assert Database.current() is None
    outer, inner = MemoryDatabase(), MemoryDatabase()
    with outer as same:
        assert same is outer
        with inner:
            assert Database.current() is inner
        assert Database.current() is outer
    assert Database.current() is None


def test_create_by_kind(mod: IRModule) -> None:
    with pytest.raises(ValueError, match="'redis'"):
        Database.create("redis")
    with pytest.raises(UserError, match="module equality"):
        MemoryDatabase("nearly")

    def schedule(sch: Schedule) -> bool:
        if sch.mod["main"].buffers[0].shape[0].value != 16:  # type: ignore[union-attr]  # IntImm
            return False
        sch.parallel(sch.get_loops(sch.get_block("C"))[0])
        return True

    db = Database.create(schedule)
    found = db.query_schedule(mod, TARGET)
    assert found is not None
    assert "parallel" in str(found.trace)
    assert db.query_tuning_record(mod, TARGET) is not None
    assert not db.has_workload(matmul(8))
    assert db.query_schedule(matmul(8), TARGET) is None
    with pytest.raises(NotImplementedError, match="queries only"):
        db.commit_workload(mod)


def test_unions(mod: IRModule) -> None:
    slow, fast = MemoryDatabase(), MemoryDatabase()
    slow.commit_tuning_record(record_of(slow.commit_workload(mod), [2.0], 2))
    fast.commit_tuning_record(record_of(fast.commit_workload(mod), [1.0], 8))
    empty = MemoryDatabase()
    assert UnionDatabase(empty, slow, fast).query_tuning_record(mod, TARGET).seconds == 1.0  # type: ignore[union-attr]  # found
    ordered = OrderedUnionDatabase(empty, slow, fast)
    assert ordered.query_tuning_record(mod, TARGET).seconds == 2.0  # type: ignore[union-attr]  # found
    assert ordered.has_workload(mod)
    assert not ordered.has_workload(matmul(8))
    assert Database.create("union", slow, fast).query_schedule(mod, TARGET) is not None
    with pytest.raises(NotImplementedError, match="queries only"):
        ordered.commit_tuning_record(record_of(slow.commit_workload(mod), [1.0]))
    with pytest.raises(UserError, match="list"):
        UnionDatabase([slow, fast])  # type: ignore[arg-type]  # the mistake in question


def test_a_union_may_allow_other_machines(mod: IRModule) -> None:
    member = MemoryDatabase()
    workload = member.commit_workload(mod)
    member.commit_tuning_record(record_of(workload, [1.0], device="another machine"))
    for kind in (UnionDatabase, OrderedUnionDatabase):
        union = kind(member)
        assert union.query_schedule(mod, TARGET) is None
        assert union.query_schedule(mod, TARGET, allow_other_device=True) is not None
        union.allow_other_device = True
        assert union.query_schedule(mod, TARGET) is not None
        assert union.query_tuning_record(mod, TARGET, allow_other_device=False) is None


def test_compile_tir_may_take_records_of_other_machines(mod: IRModule) -> None:
    db = MemoryDatabase()
    workload = db.commit_workload(mod)
    db.commit_tuning_record(record_of(workload, [1.0], 8, device="another machine"))
    assert compile_tir(db, mod, TARGET) is None
    found = compile_tir(db, mod, TARGET, allow_other_device=True)
    assert found is not None
    assert structural_equal(found.mod, split_j(mod, 8).mod)


def test_dump_pruned(tmp_path: Path, mod: IRModule) -> None:
    db = filled(tmp_path, 3.0, 1.0, 2.0)
    other = db.commit_workload(matmul(8))
    db.commit_tuning_record(record_of(other, [5.0]))
    db.commit_tuning_record(record_of(other, None))
    pruned = MemoryDatabase()
    db.dump_pruned(pruned)
    assert sorted(r.seconds for r in pruned.get_all_tuning_records()) == [1.0, 5.0]


def test_anchor_block_equality(tmp_path: Path) -> None:
    @T.prim_func(name="main")
    def with_relu(
        A: T.Buffer((16, 16), "float32"),  # type: ignore[valid-type]  # script
        B: T.Buffer((16, 16), "float32"),  # type: ignore[valid-type]  # script
        D: T.Buffer((16, 16), "float32"),  # type: ignore[valid-type]  # script
    ) -> None:
        C = T.alloc_buffer((16, 16), "float32")
        for i, j, k in T.grid(16, 16, 16):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
        for i, j in T.grid(16, 16):
            with T.block("D"):
                vi, vj = T.axis.remap("SS", [i, j])
                D[vi, vj] = T.max(C[vi, vj], T.float32(0))

    fused = IRModule({"main": with_relu})
    for mode, known in (("structural", False), ("ignore-ndarray", False), ("anchor-block", True)):
        folder = tmp_path / mode
        filled(folder, 1.0)
        for db in (
            JSONDatabase(work_dir=folder, module_equality=mode),
            MemoryDatabase(module_equality=mode),
        ):
            db.commit_workload(matmul())
            assert db.has_workload(fused) is known


def test_an_unfinished_database_class_says_what_is_missing() -> None:
    class Half(Database):
        def has_workload(self, mod: IRModule) -> bool:
            return False

    with pytest.raises(TypeError, match="commit_tuning_record"):
        Half()  # type: ignore[abstract]  # the mistake in question

    @derived_object
    class Quarter(PyDatabase):
        pass

    with pytest.raises(NotImplementedError, match="Quarter: has_workload is not implemented"):
        Quarter().has_workload(matmul())  # type: ignore[abstract]  # the mistake in question


# ----------------------------------------------------------------------------- files
def test_reload_is_the_live_database(tmp_path: Path, mod: IRModule) -> None:
    db = filled(tmp_path, 3.0, 1.0 / 3, 2e-5)
    again = JSONDatabase(work_dir=tmp_path)
    live = db.get_top_k(db.commit_workload(mod), 9)
    back = again.get_top_k(again.commit_workload(mod), 9)
    assert [r.as_json() for r in live] == [r.as_json() for r in back]
    assert again.skipped == []
    lines = (tmp_path / "database_workload.json").read_text().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])[1]["version"] == 1
    record = json.loads((tmp_path / "database_tuning_record.json").read_text().splitlines()[0])
    assert record[0] == 0
    assert record[1][1] == [3.0]


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing_here"):
        JSONDatabase(work_dir=tmp_path / "nothing_here", allow_missing=False)
    (tmp_path / "plain").write_text("")
    with pytest.raises(UserError, match="plain"):
        JSONDatabase(work_dir=tmp_path / "plain" / "below")
    db = JSONDatabase(str(tmp_path / "w.json"), str(tmp_path / "r.json"))
    db.commit_workload(matmul())
    assert (tmp_path / "w.json").exists()


def test_lines_that_cannot_be_read_are_skipped_and_reported(tmp_path: Path) -> None:
    filled(tmp_path, 1.0, 2.0, 3.0)
    path = tmp_path / "database_tuning_record.json"
    good = path.read_text().splitlines()
    changed = good[1].replace("[2.0]", "[1e-09]")
    assert changed != good[1]
    lines = [
        good[0],
        "",
        "not json",
        '{"foreign": true}',
        "[0, [[[], []], [1.0], null, null, {}]]",
        changed,
        "[7, [[[], []], [1.0], null, null]]",
        "[NaN, 1]",
        "[" * 100_000,
        "\x1b[31mhostile\x1b[0m",
        good[2],
    ]
    before = "\n".join(lines) + "\n" + good[1][:50]
    path.write_text(before)
    with pytest.warns(UserWarning, match=r"database_tuning_record.json:2:.*and 9 more"):
        db = JSONDatabase(work_dir=tmp_path)
    assert sorted(r.seconds for r in db.get_all_tuning_records()) == [1.0, 3.0]
    assert [s.line for s in db.skipped] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12]
    assert all("\x1b" not in str(s) for s in db.skipped)
    reasons = {s.line: s.reason for s in db.skipped}
    assert "crc" in reasons[6]
    assert "workload 7" in reasons[7]
    assert path.read_text() == before  # nothing is rewritten
    db.commit_tuning_record(record_of(db.commit_workload(matmul()), [0.5]))
    assert path.read_text().startswith(before + "\n[0,")  # a fresh line behind the torn one
    with pytest.warns(UserWarning, match="skipped"):
        again = JSONDatabase(work_dir=tmp_path)
    assert sorted(r.seconds for r in again.get_all_tuning_records()) == [0.5, 1.0, 3.0]


def test_a_last_line_without_its_end_is_read(tmp_path: Path) -> None:
    filled(tmp_path, 1.0, 2.0)
    path = tmp_path / "database_tuning_record.json"
    path.write_text(path.read_text().rstrip("\n"))
    db = JSONDatabase(work_dir=tmp_path)
    assert len(db) == 2
    db.commit_tuning_record(record_of(db.commit_workload(matmul()), [0.5]))
    assert len(JSONDatabase(work_dir=tmp_path)) == 3


def test_a_torn_workload_line_keeps_the_numbering(tmp_path: Path) -> None:
    filled(tmp_path, 1.0)
    path = tmp_path / "database_workload.json"
    with path.open("a") as f:
        f.write('["abc", {"scr')
    with pytest.warns(UserWarning, match=r"database_workload.json:2"):
        db = JSONDatabase(work_dir=tmp_path)
    db.commit_tuning_record(record_of(db.commit_workload(matmul(8)), [4.0]))
    with pytest.warns(UserWarning, match=r"database_workload.json:2"):
        again = JSONDatabase(work_dir=tmp_path)
    assert again.query_tuning_record(matmul(8), TARGET).seconds == 4.0  # type: ignore[union-attr]  # found
    assert again.query_tuning_record(matmul(), TARGET).seconds == 1.0  # type: ignore[union-attr]  # found


def test_a_workload_whose_script_is_hostile_is_reported(tmp_path: Path) -> None:
    filled(tmp_path, 1.0)
    path = tmp_path / "database_workload.json"
    shash, body = json.loads(path.read_text())
    body["script"] = "import os\nos.system('true')\n"
    path.write_text(json.dumps([shash, body]) + "\n")
    db = JSONDatabase(work_dir=tmp_path)
    with pytest.warns(UserWarning, match="not a program"):
        assert not db.has_workload(matmul())
    assert len(db.skipped) == 1
    db.commit_tuning_record(record_of(db.commit_workload(matmul()), [2.0]))
    assert db.query_tuning_record(matmul(), TARGET).seconds == 2.0  # type: ignore[union-attr]  # found


def test_a_disk_that_fills_up(
    tmp_path: Path, mod: IRModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = filled(tmp_path, 3.0, 2.0)
    path = tmp_path / "database_tuning_record.json"
    before = path.read_bytes()

    def full(fd: int, data: bytes) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", full)
        with pytest.raises(RecordError, match=r"database_tuning_record\.json: No space left"):
            db.commit_tuning_record(record_of(db.commit_workload(mod), [1.0], 8))
    assert path.read_bytes() == before
    assert db.query_tuning_record(mod, TARGET).seconds == 1.0  # type: ignore[union-attr]  # in memory
    db.commit_tuning_record(record_of(db.commit_workload(mod), [0.5], 8))  # there is room again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(JSONDatabase(work_dir=tmp_path)) == 3


def test_a_limit_on_file_size(tmp_path: Path, mod: IRModule) -> None:
    db = filled(tmp_path, 3.0)
    path = tmp_path / "database_tuning_record.json"
    size = path.stat().st_size
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, old[1]))
    try:
        with pytest.raises(RecordError, match="File too large"):
            db.commit_tuning_record(record_of(db.commit_workload(mod), [1.0], 8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.stat().st_size == size
    assert len(db) == 2
    assert len(JSONDatabase(work_dir=tmp_path)) == 1


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, mod: IRModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 3.0)
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(tmp_path) in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)  # tests may run as root, whom no mode bits stop
    db = JSONDatabase(work_dir=tmp_path)  # reading goes
    assert db.query_tuning_record(mod, TARGET) is not None
    with pytest.raises((UserError, RecordError), match=str(tmp_path)):
        db.commit_tuning_record(record_of(db.commit_workload(mod), [1.0]))
    assert db.query_tuning_record(mod, TARGET).seconds == 1.0  # type: ignore[union-attr]  # in memory


def test_a_file_that_was_removed_is_noticed(tmp_path: Path, mod: IRModule) -> None:
    db = filled(tmp_path, 3.0)
    (tmp_path / "database_tuning_record.json").unlink()
    with pytest.raises(RecordError, match="removed or shortened"):
        db.commit_tuning_record(record_of(db.commit_workload(mod), [1.0]))


def test_loading_many_records_takes_few_steps_each(
    tmp_path: Path, calls_of: Callable[..., int]
) -> None:
    filled(tmp_path, 1.0)
    path = tmp_path / "database_tuning_record.json"
    index, body = json.loads(path.read_text())
    with path.open("w") as f:
        for k in range(5000):
            body[1] = [1.0 + k]
            extras = {x: v for x, v in body[4].items() if x != "crc"}
            body[4] = {**extras, "crc": checksum([*body[:4], extras])}
            f.write(json.dumps([index, body]) + "\n")
    opened: list[JSONDatabase] = []
    calls = calls_of(lambda: opened.append(JSONDatabase(work_dir=tmp_path)))
    (db,) = opened
    assert len(db) == 5000
    assert db.query_tuning_record(matmul(), TARGET).seconds == 1.0  # type: ignore[union-attr]  # found
    assert calls < 5000 * 150
