"""What happens to records and folders that others wrote? They are checked in a worker process
first, whatever they say of themselves; one that fails is withdrawn and harms nobody."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gputune as gt
from gputune import jitted, kernels
from gputune import meta_schedule as ms
from gputune.ir import build as ir
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import BufferStore, For, IntImm, IRModule, PrimFunc, Stmt, Var
from gputune.meta_schedule import admission, proofs
from gputune.meta_schedule.record import checksum
from gputune.meta_schedule.verify import Verdict
from gputune.schedule import Trace
from gputune.script import tir as T
from gputune.target import Target
from gputune.tuned_kernel import TunedKernel

ONE_CORE = "llvm -num-cores=1"
SIZES = (8, 16, 12)


def matmul(m: int = 8, n: int = 16, k: int = 12) -> gt.PrimFunc:
    return kernels.get("matmul").build(m=m, n=n, k=k)


@pytest.fixture(autouse=True)
def _new_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing is known of any program, in this process or in the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    proofs.forget()
    yield
    proofs.forget()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    gt.tune(matmul(), ONE_CORE, trials=3, work_dir=folder, seed=1)
    return folder


@pytest.fixture
def folder(history: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(history, tmp_path / "work"))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[IRModule]:
    """The programs that were run by a verifier."""
    seen: list[IRModule] = []
    real = ms.Verifier.check_program

    def counted(self: ms.Verifier, scheduled: IRModule) -> Verdict:
        seen.append(scheduled)
        return real(self, scheduled)

    monkeypatch.setattr(ms.Verifier, "check_program", counted)
    return seen


def pretend_wrong(monkeypatch: pytest.MonkeyPatch, wrong: IRModule) -> None:
    """A compiler bug: this program computes something else."""
    real = ms.Verifier.check_program

    def check(self: ms.Verifier, scheduled: IRModule) -> Verdict:
        if structural_equal(scheduled, wrong):
            return Verdict("wrong", ms.Failure("check", "wrong_result", "C: \x1b[31mdiffers"))
        return real(self, scheduled)

    monkeypatch.setattr(ms.Verifier, "check_program", check)


def bound() -> gt.Schedule:
    """Replays, and cannot be built for a CPU."""
    sch = gt.Schedule(matmul())
    i, _, _ = sch.get_loops(sch.get_block("C"))
    sch.bind(i, "threadIdx.x")
    return sch


def halved() -> gt.Schedule:
    sch = gt.Schedule(matmul())
    i, _, _ = sch.get_loops(sch.get_block("C"))
    sch.split(i, [None, 2])
    return sch


def forge(folder: Path, trace: Any, seconds: float = 1e-9, **extras: Any) -> None:
    """Append a record that says the best of itself, with a checksum that fits."""
    path = folder / "database_tuning_record.json"
    lines = [json.loads(x) for x in path.read_text().splitlines()]
    index, body = next(x for x in lines if x[1][1])
    said = {**body[4], "program": "0" * 32, "verified": True, **extras}
    said.pop("crc")
    body = [trace.as_json() if isinstance(trace, Trace) else trace, [seconds], *body[2:4], said]
    body[4] = {**said, "crc": checksum(body)}
    with path.open("a") as f:
        f.write(json.dumps([index, body]) + "\n")


def count(folder: Path) -> int:
    return len((folder / "database_tuning_record.json").read_text().splitlines())


def is_right(f: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((8, 12), dtype=np.float32), rng.random((12, 16), dtype=np.float32)
    np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-5)


def jit_of(folder: Path) -> jitted.Jit:
    @gt.jit(target=ONE_CORE, work_dir=folder)
    def mm(m: int, n: int, k: int) -> gt.PrimFunc:
        return matmul(m, n, k)

    return mm


def by_tune(folder: Path) -> TunedKernel:
    return gt.tune(matmul(), ONE_CORE, trials=1, work_dir=folder, seed=5)


def by_jit(folder: Path) -> TunedKernel:
    return jit_of(folder)(*SIZES)


def by_compile_tir(folder: Path) -> TunedKernel:
    sch = ms.compile_tir(ms.JSONDatabase(work_dir=folder), matmul(), ONE_CORE)
    assert sch is not None
    return TunedKernel(sch, Target(ONE_CORE), workload=matmul())


WAYS = pytest.mark.parametrize("way", [by_tune, by_jit, by_compile_tir])


# ----------------------------------------------------------------------------- what is claimed
@WAYS
def test_a_record_that_claims_to_be_verified_is_checked(
    way: Callable[[Path], TunedKernel],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sch = halved()
    forge(folder, sch.trace)
    pretend_wrong(monkeypatch, sch.mod)
    f = way(folder)
    assert not structural_equal(f.mod, sch.mod)
    is_right(f)
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1
    assert r"computes wrong results and is withdrawn: C: \x1b[31mdiffers" in said


def test_a_right_record_is_used_and_counts_as_verified(folder: Path, checks: list[Any]) -> None:
    sch = halved()
    forge(folder, sch.trace, verified=False)
    f = by_jit(folder)
    assert structural_equal(f.mod, sch.mod)
    assert f.verified
    assert "numbers verified" in f.report()
    assert len(checks) == 1


def test_what_a_file_says_is_kept_and_not_believed(folder: Path) -> None:
    forge(folder, halved().trace)
    record = ms.JSONDatabase(work_dir=folder).candidates(matmul(), ONE_CORE)[0]
    assert record.extras["verified"] is True
    assert not record.verified
    assert not record.own


# ----------------------------------------------------------------------------- once
@WAYS
def test_a_program_is_checked_once(
    way: Callable[[Path], TunedKernel], folder: Path, checks: list[IRModule]
) -> None:
    sch = halved()
    forge(folder, sch.trace)

    def times() -> int:
        return sum(structural_equal(x, sch.mod) for x in checks)

    way(folder)
    assert times() == 1
    by_jit(folder)
    by_compile_tir(folder)
    by_tune(folder)
    assert times() == 1
    proofs.forget()  # as in a process that starts later
    way(folder)
    assert times() == 1


def test_another_user_checks_again(
    folder: Path, checks: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_compile_tir(folder)
    proofs.forget()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    by_compile_tir(folder)
    assert len(checks) == 2


def test_a_proof_that_others_may_have_written_counts_for_nothing(
    folder: Path, checks: list[Any]
) -> None:
    by_compile_tir(folder)
    place = gt.target.host.cache_folder("verified")
    assert place is not None
    (proof,) = place.iterdir()
    assert proof.stat().st_mode & 0o777 == 0o600
    for spoil in ("others may write", "a link"):
        if spoil == "a link":
            proof.rename(proof.with_name("elsewhere"))
            proof.symlink_to("elsewhere")
        else:
            proof.chmod(0o666)
        proofs.forget()
        checks.clear()
        by_compile_tir(folder)
        assert len(checks) == 1


def test_a_proof_is_about_program_workload_and_target() -> None:
    mod, one, two = IRModule({"main": matmul()}), halved().mod, bound().mod
    target, other = Target(ONE_CORE), Target("llvm -num-cores=2")
    keys = {
        proofs.key_of(mod, one, target),
        proofs.key_of(mod, two, target),
        proofs.key_of(mod, one, other),
        proofs.key_of(IRModule({"main": matmul(8, 16, 8)}), one, target),
    }
    assert len(keys) == 4
    proofs.note(min(keys), Verdict("unknown"))
    assert proofs.known(min(keys)) is None


# ----------------------------------------------------------------------------- withdrawing
def test_a_record_that_cannot_be_built_is_withdrawn_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(folder, bound().trace)
    before = count(folder)
    is_right(by_tune(folder))
    assert "cannot be built and is withdrawn" in capsys.readouterr().err
    after = count(folder)
    lines = (folder / "database_tuning_record.json").read_text().splitlines()[before:]
    assert sum("withdraws" in json.loads(x)[1][4] for x in lines) == 1
    for way in (by_compile_tir, by_jit):
        proofs.forget()
        is_right(way(folder))
    assert count(folder) == after
    assert "WARNING" not in capsys.readouterr().err


def test_a_liar_takes_no_honest_record_along(folder: Path) -> None:
    honest = ms.JSONDatabase(work_dir=folder).candidates(matmul(), ONE_CORE)[0]
    forge(folder, bound().trace, program=honest.program)
    by_compile_tir(folder)
    best = ms.JSONDatabase(work_dir=folder).candidates(matmul(), ONE_CORE)[0]
    assert best.program == honest.program
    assert best.seconds == honest.seconds


def test_a_withdrawal_that_cannot_be_recorded_is_no_error(folder: Path) -> None:
    forge(folder, bound().trace)
    before = count(folder)
    sch = ms.compile_tir(ms.UnionDatabase(ms.JSONDatabase(work_dir=folder)), matmul(), ONE_CORE)
    assert sch is not None
    assert count(folder) == before


def test_where_no_record_works_the_default_schedule_serves(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    shutil.copy(folder / "database_workload.json", bad)
    shutil.copy(folder / "database_tuning_record.json", bad)
    forge(bad, bound().trace)
    path = bad / "database_tuning_record.json"
    path.write_text(path.read_text().splitlines()[-1] + "\n")
    f = by_jit(bad)
    assert f.seconds is None
    is_right(f)
    assert "No record of matmul can be used" in capsys.readouterr().err

    def only_for_gpus(sch: gt.Schedule) -> None:
        sch.bind(sch.get_loops(sch.get_block("C"))[0], "threadIdx.x")

    f = gt.tune(matmul(), ONE_CORE, trials=1, work_dir=bad, seed=1, space=only_for_gpus)
    assert f.seconds is None
    is_right(f)
    said = capsys.readouterr().err
    assert said.count("it gets the default one") == 1


def test_a_build_that_fails_here_leads_to_the_next_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sch = halved()
    forge(folder, sch.trace)
    real = gt.build

    def build(mod: Any, target: Any) -> Any:
        if structural_equal(mod, sch.mod):
            raise gt.BuildError("no memory for the compiler")
        return real(mod, target)

    monkeypatch.setattr("gputune.tuned_kernel.build", build)
    f = by_tune(folder)
    assert not structural_equal(f.mod, sch.mod)
    is_right(f)
    assert "passed over: no memory for the compiler" in capsys.readouterr().err


def test_without_verification_only_what_was_measured_here_is_believed(
    folder: Path, tmp_path: Path, checks: list[IRModule]
) -> None:
    own = ms.tune_tir(
        matmul(), ONE_CORE, tmp_path / "own", 2, seed=1, verify=False, cost_model="none"
    )
    assert own.mod is not None
    assert own.record is not None
    assert own.record.own
    assert checks == []
    forge(folder, bound().trace)
    mixed = ms.tune_tir(matmul(), ONE_CORE, folder, 1, seed=1, verify=False, cost_model="none")
    assert not structural_equal(mixed.mod, bound().mod)
    assert structural_equal(checks[0], bound().mod)


def test_a_search_competes_only_with_what_is_proven(folder: Path) -> None:
    """A forged time would make every candidate 'clearly slower', and none a new best."""
    mod, target = IRModule({"matmul": matmul()}), Target(ONE_CORE)
    forge(folder, halved().trace)
    database = ms.JSONDatabase(work_dir=folder)
    assert admission.known_seconds(database.candidates(mod, target), mod, target) is None
    by_compile_tir(folder)
    database = ms.JSONDatabase(work_dir=folder)
    assert admission.known_seconds(database.candidates(mod, target), mod, target) == 1e-9


# ----------------------------------------------------------------------------- jit does not wait
def test_jit_serves_the_default_schedule_while_a_check_takes_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    real = ms.Verifier.check_program

    def slow(self: ms.Verifier, scheduled: IRModule) -> Verdict:
        go.wait(60)
        return real(self, scheduled)

    monkeypatch.setattr(ms.Verifier, "check_program", slow)
    monkeypatch.setattr(jitted, "_PATIENCE_S", 0.05)
    mm = jit_of(folder)
    start = time.monotonic()
    first = mm(*SIZES)
    assert mm(*SIZES) is first
    assert time.monotonic() - start < 30
    assert first.seconds is None
    is_right(first)
    go.set()
    deadline = time.monotonic() + 60
    while (now := mm(*SIZES)) is first and time.monotonic() < deadline:
        time.sleep(0.02)
    assert now.seconds is not None
    assert now.verified
    assert mm(*SIZES) is now
    is_right(now)


# ----------------------------------------------------------------------------- folders
@pytest.fixture
def exported(tmp_path: Path) -> Path:
    f = TunedKernel(halved(), Target(ONE_CORE), workload=matmul())
    assert not f.verified
    return f.export(tmp_path / "kernel")


def test_a_loaded_kernel_is_checked_once(exported: Path, checks: list[Any]) -> None:
    f = gt.load(exported)
    assert f.verified
    is_right(f)
    gt.load(exported)
    assert len(checks) == 1


def test_a_loaded_kernel_that_computes_something_else_is_refused(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_wrong(monkeypatch, halved().mod)
    with pytest.raises(gt.RecordError, match=r"kernel: its kernel is not what workload.py says"):
        gt.load(exported)


def test_a_loaded_kernel_that_cannot_be_built_is_refused(exported: Path) -> None:
    sch = bound()
    (exported / "trace.json").write_text(json.dumps(sch.trace.as_json()))
    (exported / "script.py").write_text(sch.mod.script())
    with pytest.raises(gt.RecordError, match=r"does not run: .*threadIdx\.x"):
        gt.load(exported)


def test_a_loaded_kernel_whose_program_takes_long_is_run_by_itself(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(admission, "_verifiers", {})
    monkeypatch.setattr(admission, "_LONGEST_S", 0.0)
    f = gt.load(exported)
    assert not f.verified
    is_right(f)
    assert "could not be verified" in capsys.readouterr().err


def test_a_kernel_that_cannot_be_checked_is_not_loaded(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_verifiers", {})
    monkeypatch.setattr(admission, "_worker", lambda: gt.runtime.process.Worker(["/nowhere"]))
    with pytest.raises(gt.RunError, match="cannot be checked, and is not run unchecked"):
        gt.load(exported)


def test_a_kernel_of_symbolic_sizes_is_checked_for_some(tmp_path: Path, checks: list[Any]) -> None:
    @T.prim_func
    def double(a: T.handle, b: T.handle) -> None:
        n = T.int32()
        A = T.match_buffer(a, (n,), "float32")
        B = T.match_buffer(b, (n,), "float32")
        for i in range(n):
            with T.block("B"):
                vi = T.axis.spatial(n, i)
                B[vi] = A[vi] * T.float32(2)

    sch = gt.Schedule(double)
    (i,) = sch.get_loops(sch.get_block("B"))
    sch.split(i, [None, 8])
    TunedKernel(sch, Target(ONE_CORE), workload=double).export(tmp_path)
    f = gt.load(tmp_path)
    assert f.verified
    assert len(checks) == 1
    x = np.arange(21, dtype=np.float32)
    np.testing.assert_array_equal(f(x), 2 * x)


# ----------------------------------------------------------------------------- too deep
def deep_trace(n: int) -> list[Any]:
    block = ["GetSBlock", [], ["C", "main"], ["b0"]]
    units = [["AddUnitLoop", ["b0"], [], [f"l{k + 1}"]] for k in range(n)]
    return [[block, *units], []]


@WAYS
def test_an_over_deep_trace_is_passed_over(
    way: Callable[[Path], TunedKernel], folder: Path
) -> None:
    forge(folder, deep_trace(3000))
    start = time.monotonic()
    is_right(way(folder))
    assert time.monotonic() - start < 30


def test_loops_around_a_block_are_bounded() -> None:
    sch = gt.Schedule(matmul())
    with pytest.raises(gt.ScheduleError, match="at most 64 are taken") as e:
        Trace.from_json(deep_trace(3000)).apply_to_schedule(sch)
    assert e.value.code == "too-deep"
    assert len(sch.get_loops(sch.get_block("C"))) == 64
    gt.build(sch.mod, ONE_CORE)


def test_the_instructions_of_a_trace_are_bounded() -> None:
    with pytest.raises(gt.RecordError, match="at most 10000 are taken"):
        Trace.from_json(deep_trace(10_001))
    with pytest.raises(gt.RecordError, match="at most 10000 are taken"):
        Trace.from_python('sch.get_block("C")\n' * 10_001)
    assert len(Trace.from_json(deep_trace(9_999)).insts) == 10_000


def nest(depth: int) -> PrimFunc:
    """A store inside `depth` loops of extent 1."""
    var, a = ir.buffer_param("A", (1,))
    body: Stmt = BufferStore(a, ir.const(1.0), (IntImm(0),))
    for k in range(depth):
        body = For(Var(f"i{k}"), IntImm(0), IntImm(1), "serial", body)
    return PrimFunc((var,), ((var, a),), ir.root_block(body))


def test_a_program_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(gt.LowerError, match="nested too deeply to be compiled") as e:
        gt.build(nest(2000), ONE_CORE)
    assert e.value.code == "too-deep"


def test_a_verifier_says_that_a_program_is_too_deep() -> None:
    mod = IRModule({"main": nest(1)})
    verdict = admission.check_scheduled(mod, IRModule({"main": nest(2000)}), Target(ONE_CORE))
    assert verdict.outcome == "wrong"
    assert "nested too deeply" in str(verdict.failure)
