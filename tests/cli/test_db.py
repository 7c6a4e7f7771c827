"""Does `gputune db` keep databases in order, and refuse what makes no sense?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_cli import refused, run

from gputune import kernels
from gputune.meta_schedule import Database, TuningRecord, open_database
from gputune.schedule import Schedule

SIZES = {"m": 16, "n": 16, "k": 16}


def record(db: Database, seconds: float | None, factor: int = 2, **extras: object) -> None:
    """Commit a matmul whose j loop is split."""
    workload = db.commit_workload(kernels.get("matmul").build(**SIZES))  # type: ignore[arg-type]  # a PrimFunc
    sch = Schedule(workload.mod, seed=1)
    _, j, _ = sch.get_loops(sch.get_block("C"))
    sch.split(j, [None, factor])
    times = None if seconds is None else [seconds]
    said = {"program": f"p{seconds}", **extras}
    target = "llvm -num-cores 1"
    db.commit_tuning_record(TuningRecord(sch.trace, workload, times, target, None, said))


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    folder = tmp_path / "tuned"
    db = open_database(folder)
    for seconds in (3e-6, 1e-6, 2e-6, None):
        record(db, seconds)
    return folder


def times(address: str | Path) -> list[float]:
    return [r.seconds for r in open_database(address).get_all_tuning_records() if r.is_valid]


@pytest.mark.parametrize("name", ["ls", "merge", "prune", "export", "import", "verify"])
def test_help_has_examples(name: str) -> None:
    out = run("db", name, "--help").stdout
    assert f"gputune db {name} " in out
    assert "Examples:" in out
    assert name in run("db", "--help").stdout
    assert all(len(line) <= 100 for line in out.splitlines())


@pytest.mark.parametrize("suffix", ["", ".sqlite"])
def test_ls(tmp_path: Path, suffix: str) -> None:
    address = f"{tmp_path}/x{suffix}"
    record(open_database(address), 1e-6)
    out = run("db", "ls", address).stdout
    assert "matmul(float32[16, 16], float32[16, 16], float32[16, 16])" in out
    assert "1.00 us" in out
    assert run("db", "ls", f"sqlite:///{tmp_path}/x.sqlite" if suffix else address).stdout == out


def test_merge(tuned: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    record(open_database(other), 0.5e-6)
    record(open_database(other), 1e-6)
    out = run("db", "merge", str(tuned), str(other)).stdout
    assert out == f"{tuned}: 1 record added, 1 known already, 0 programs new\n"
    assert times(tuned) == [0.5e-6, 1e-6, 2e-6, 3e-6]
    assert times(other) == [0.5e-6, 1e-6]
    new = tmp_path / "new"
    assert "5 records added, 2 known already, 1 program new" in run(
        "db", "merge", str(new), str(tuned), str(other)
    ).stdout  # fmt: skip
    assert times(new) == times(tuned)
    assert "cannot be merged into itself" in refused("db", "merge", str(tuned), f"{tuned}/.")
    assert "there is no folder" in refused("db", "merge", str(tmp_path / "n"), str(tmp_path / "x"))
    assert not (tmp_path / "n").exists()


def test_merge_tells_of_lines_that_cannot_be_read(tuned: Path, tmp_path: Path) -> None:
    path = tuned / "database_tuning_record.json"
    with path.open("a") as f:
        f.write("foreign\n")
    result = run("db", "merge", str(tmp_path / "new"), str(tuned))
    assert "4 records added" in result.stdout
    assert f"skipped {path}:5: not JSON" in result.stderr


def test_prune(tuned: Path) -> None:
    path = tuned / "database_tuning_record.json"
    with path.open("a") as f:
        f.write("foreign\n")
    result = run("db", "prune", str(tuned), "--keep", "2")
    assert result.stdout == f"{tuned}: 2 records kept, 2 dropped\n"
    assert result.stderr == "1 lines cannot be read: kept as they are\n"
    assert times(tuned) == [1e-6, 2e-6]
    result = run("db", "prune", str(tuned), "--unreadable")
    assert result.stdout == f"{tuned}: 1 record kept, 2 dropped\n"
    assert len(path.read_text().splitlines()) == 1
    assert "--keep" in refused("db", "prune", str(tuned), "--keep", "0")
    assert "there is no folder" in refused("db", "prune", f"{tuned}x")


def test_export_and_import(tuned: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    out = run("db", "export", str(tuned), str(file)).stdout
    assert out == f"{file}: 4 records of 1 program\n"
    assert "is there already" in refused("db", "export", str(tuned), str(file))
    assert run("db", "export", str(tuned), str(file), "--overwrite").exit_code == 0
    there = tmp_path / "there.sqlite"
    out = run("db", "import", str(there), str(file)).stdout
    assert out == f"{there}: 4 records added, 0 known already, 1 program new\n"
    assert times(there) == times(tuned)
    assert "0 records added, 4 known already" in run("db", "import", str(there), str(file)).stdout


def test_import_refuses(tuned: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    new = tmp_path / "new"
    run("db", "export", str(tuned), str(file))
    file.write_text(file.read_text()[:-40] + "\n")
    for words, said in (
        ([str(new), str(file)], "not JSON"),
        ([str(new), str(tmp_path / "nothing")], "there is no file"),
        ([str(new), str(tuned)], "gputune db merge"),
        ([str(new), str(file), "--shape", "1,2"], "go with --tvm"),
        ([str(new), str(file), "--this-machine"], "go with --tvm"),
        ([str(new), str(tmp_path / "nothing"), "--tvm", "matmul"], "there is no file or folder"),
        ([str(new), str(file), "--tvm", "matmull"], "no kernel is called 'matmull'"),
    ):
        assert said in refused("db", "import", *words)
        assert not new.exists()


def test_import_of_what_tvm_wrote(tmp_path: Path) -> None:
    written = Path(__file__).parents[1] / "meta_schedule" / "tvm_tuning_record.json"
    folder = tmp_path / "tvm"
    folder.mkdir()
    shutil.copy(written, folder / "database_tuning_record.json")
    with (folder / "database_tuning_record.json").open("a") as f:
        index, body = json.loads(written.read_text().splitlines()[0])
        f.write(json.dumps([index, [body[0], [1e10], *body[2:]]]) + "\nforeign\n")
    result = run(
        "db", "import", str(tmp_path / "x"), str(folder), "--tvm", "matmul",
        "--shape", "128,128,128",
    )  # fmt: skip
    assert "2 records added, 0 known already, 1 program new" in result.stdout
    assert "1 record of candidates that had failed in TVM left out" in result.stdout
    assert f"skipped {folder / 'database_tuning_record.json'}:4: not JSON" in result.stderr
    assert run("db", "verify", str(tmp_path / "x")).exit_code == 0


def test_verify(tuned: Path) -> None:
    result = run("db", "verify", str(tuned))
    assert result.exit_code == 0
    assert result.stdout == f"{tuned}: 1 program, 4 records, no problems\n"
    path = tuned / "database_tuning_record.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0], lines[1].replace("[1e-06]", "[1e-09]")]) + "\n")
    for options in ((), ("--quick",)):
        result = run("db", "verify", str(tuned), *options)
        assert result.exit_code == 1
        said = result.stdout.splitlines()
        assert said[0] == f"{path}:5: the same as 1"
        assert said[1].startswith(f"{path}:6: tuning record: crc")
        assert said[2] == f"{tuned}: 1 program, 6 records, 2 problems"
    assert "there is no folder" in refused("db", "verify", f"{tuned}x")


def test_addresses_are_redacted() -> None:
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg")
    address = "postgresql://me:hunter2@127.0.0.1:1/t"
    for words in (("ls", address), ("verify", address), ("merge", address, address)):
        said = refused("db", *words)
        assert "hunter2" not in said
        assert "postgresql://me:***@127.0.0.1:1/t" in said


def test_tune_remembers_where_it_is_told(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/x.sqlite"
    result = run(
        "tune", "matmul", "--shape", "8,8,8", "--target", "llvm -num-cores=1", "--trials", "2",
        "--database", address, "-q",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(times(address)) == 2
    assert run("db", "verify", address).exit_code == 0
    assert "names no file" in refused("tune", "matmul", "--database", "sqlite://")
