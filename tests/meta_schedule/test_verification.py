"""Does somebody who asks for it get only what was run and compared: with the unscheduled program,
or with a function of the user's?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ms_fakes import TARGET, matmul, record_of, split_j

import gputune as gt
from gputune import meta_schedule as ms
from gputune.codegen.cuda import nvrtc
from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.errors import RunError, UserError
from gputune.ir.nodes import IRModule
from gputune.meta_schedule import proofs
from gputune.meta_schedule.reference import Reference
from gputune.meta_schedule.runner import shared_worker
from gputune.script import from_source
from gputune.target import Target
from gputune.target.host import cuda_problem

LLVM = Target(TARGET)
CUDA = Target("cuda -arch=sm_80")
needs_compilers = pytest.mark.skipif(
    nvrtc.load() is None or (shutil.which("g++") is None and shutil.which("clang++") is None),
    reason="no NVRTC, or no C++ compiler for host execution",
)


def product(a: Any, b: Any) -> Any:
    return a @ b


def with_wrong_index() -> IRModule:
    text = split_j(matmul(), 4).mod.script()
    assert "B[vk, vj]" in text
    found = from_source(text.replace("B[vk, vj]", "B[vk, vj % 15]"))
    return found if isinstance(found, IRModule) else IRModule({found.name: found})


def verifier(reference: Callable[..., Any] | None = product, mod: IRModule | None = None) -> Any:
    return ms.Verifier(mod or matmul(), LLVM, shared_worker(), reference=reference)


# ----------------------------------------------------------------------------- a user's function
def test_a_function_says_what_is_right() -> None:
    calls: list[tuple[Any, ...]] = []

    def spied(a: Any, b: Any) -> Any:
        calls.append((a.copy(), b.copy()))
        a[...] = 7  # of its own, to do with as it likes
        return a.dtype.type(1) * (calls[-1][0] @ b)

    found = verifier(spied)
    assert found.by_user
    assert len(calls) == 1  # what is wrong with it shows at once
    assert found.check_program(split_j(matmul(), 4).mod).outcome == "right"
    assert found.check_program(split_j(matmul(), 8).mod).outcome == "right"
    assert [x.shape for x in calls[-1]] == [(16, 16), (16, 16)]
    assert not np.array_equal(calls[-1][0], calls[-2][0])  # fresh inputs
    wrong = found.check_program(with_wrong_index())
    assert wrong.outcome == "wrong"
    assert "C: " in str(wrong.failure)
    before = found.checks
    assert found.check_program(split_j(matmul(), 8).mod).outcome == "right"
    assert found.checks == before  # it is remembered


def test_it_overrules_the_unscheduled_program() -> None:
    found = verifier(lambda a, b: -(a @ b))
    assert found.check_program(matmul()).outcome == "wrong"
    assert verifier(None).check_program(matmul()).outcome == "right"
    assert not verifier(None).by_user


TWO = """
@T.prim_func
def two(A: T.Buffer((8,), "float32"), s: T.float32, B: T.Buffer((8,), "float32"),
        N: T.Buffer((8,), "int32")):
    for i in range(8):
        with T.block("B"):
            v = T.axis.spatial(8, i)
            B[v] = B[v] + A[v] * s
    for i in range(8):
        with T.block("N"):
            v = T.axis.spatial(8, i)
            N[v] = v * 2
"""


def two() -> IRModule:
    found = from_source(TWO)
    return found if isinstance(found, IRModule) else IRModule({found.name: found})


@pytest.mark.parametrize("by_name", [True, False])
def test_numbers_updates_in_place_and_several_outputs(by_name: bool) -> None:
    def right(a: Any, s: Any, b: Any) -> Any:
        n = np.arange(8) * 2
        return {"B": b + a * s, "N": n} if by_name else (b + a * s, n)

    def wrong(a: Any, s: Any, b: Any) -> Any:
        return right(a, s, b * 2)

    assert verifier(right, two()).check_program(two()).outcome == "right"
    assert verifier(wrong, two()).check_program(two()).outcome == "wrong"


SYMBOLIC = """
@T.prim_func
def main(a: T.handle, b: T.handle):
    n = T.int64()
    A = T.match_buffer(a, (n,), "float32")
    B = T.match_buffer(b, (n,), "float32")
    for i in range(n):
        with T.block("B"):
            v = T.axis.spatial(n, i)
            B[v] = A[v] * T.float32(3)
"""


def test_open_sizes() -> None:
    found = from_source(SYMBOLIC)
    mod = found if isinstance(found, IRModule) else IRModule({found.name: found})
    sizes: list[int] = []

    def right(a: Any) -> Any:
        sizes.append(len(a))
        return a * 3

    assert verifier(right, mod).check_program(mod).outcome == "right"
    assert len(set(sizes)) == 2


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (3, "reference is a function of the inputs, found 3"),
        (lambda a, b: 1 / 0, "the reference raised ZeroDivisionError"),
        (lambda a: a, "the reference raised TypeError"),
        (lambda a, b: (a, b), "gave 2 results; the program writes C"),
        (lambda a, b: {"D": a}, "gave D; the program writes C"),
        (lambda a, b: a[:3], r"gave an array of shape \(3, 16\) for C, whose shape is \(16, 16\)"),
        (lambda a, b: (a @ b).astype("int32"), "gave an array of int32 for C, which holds float32"),
        (lambda a, b: None, "for C"),
    ],
)
def test_a_function_that_is_none(reference: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        verifier(reference)
    assert refused.value.code == "reference"


def test_a_function_that_fails_later_is_not_the_candidates_fault() -> None:
    calls: list[int] = []

    def moody(a: Any, b: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("not now")
        return a @ b

    found = verifier(moody)
    found._seed += 1
    with pytest.raises(UserError, match="the reference raised ValueError: not now"):
        found.check_program(split_j(matmul(), 4).mod)


def test_results_of_a_slow_function_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from gputune.meta_schedule import verify

    calls: list[int] = []

    def slow(a: Any, b: Any) -> Any:
        calls.append(1)
        return a @ b

    found = verifier(slow)
    monkeypatch.setattr(verify, "_EAGER_SECONDS", -1.0)
    for k in range(9):
        assert found.check_program(split_j(matmul(), 2 ** (k % 4)).mod).outcome == "right"
        found._right.clear()
    assert len(calls) <= 1 + verify._SETS


def test_the_reference_of_a_mapping_of_results_keeps_dtypes() -> None:
    (func,) = matmul().functions.values()
    at, arrays = Reference(func, lambda a, b: np.float64(a @ b)).expected(
        verifier(None)._described()[0], 3
    )
    assert at == [2]
    assert arrays[0].dtype == np.float32


# ----------------------------------------------------------------------------- tuning
def test_tuning_compares_with_the_function(tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(a: Any, b: Any) -> Any:
        calls.append(1)
        return a @ b

    f = gt.tune(matmul(32), TARGET, trials=4, seed=1, work_dir=tmp_path, reference=counted)
    assert len(calls) >= 2
    assert f.verified
    a, b = np.random.default_rng(0).random((2, 32, 32), dtype=np.float32)
    np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-4)


def test_tuning_against_another_function_finds_nothing_right(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="check wrong_result"):
        gt.tune(
            matmul(32), TARGET, trials=3, seed=1, work_dir=tmp_path,
            reference=lambda a, b: a @ b + 1,
        )  # fmt: skip


def test_functions_by_name(tmp_path: Path) -> None:
    both = IRModule({"one": matmul()["main"], "other": matmul(32)["main"]})
    calls: list[int] = []

    def counted(a: Any, b: Any) -> Any:
        calls.append(len(a))
        return a @ b

    result = ms.tune_tir(
        both, TARGET, tmp_path, 2, num_trials_per_iter=1, seed=1, cost_model="random",
        reference={"other": counted},
    )  # fmt: skip
    assert set(calls) == {32}
    assert result.tasks[1].reference is counted
    assert result.tasks[1].clone().reference is counted


@pytest.mark.parametrize(
    ("reference", "more", "message"),
    [
        (product, {"verify": False}, "verify=False compares nothing"),
        ({"nobody": product}, {}, "reference names no function of the module: nobody"),
        (product, {"mod": IRModule({"a": matmul()["main"], "b": matmul()["main"]})},
         "reference is one function, and the module has 2"),
        (7, {}, "reference is a function of the inputs, found 7"),
    ],
)  # fmt: skip
def test_references_that_make_no_sense(
    reference: Any, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    options = {"mod": matmul(), "target": TARGET, "work_dir": tmp_path, "max_trials_global": 1}
    with pytest.raises(UserError, match=message):
        ms.tune_tir(**{**options, "reference": reference, **more})


# ----------------------------------------------------------------------------- what is handed out
def database(*factors: int) -> ms.MemoryDatabase:
    db = ms.MemoryDatabase()
    workload = db.commit_workload(matmul())
    for k, factor in enumerate(factors):
        record = record_of(workload, [1e-3 * (k + 1)], factor, program=f"p{k}")
        db.commit_tuning_record(record)
    return db


def factor_of(trace: Any) -> int:
    (split,) = [x for x in trace.insts if x.kind.name == "Split"]
    return int(split.inputs[-1])


def test_what_is_asked_for_verified_is_right_by_the_function() -> None:
    """The fastest record is wrong by the function that is asked: the next one is given."""
    db = database(4, 8)
    asked: list[int] = []

    def first_is_wrong(a: Any, b: Any) -> Any:
        asked.append(1)
        return a @ b + (1 if len(asked) == 1 else 0)

    proofs.forget()
    sch = ms.compile_tir(db, matmul(), LLVM, reference=first_is_wrong)
    assert sch is not None
    assert factor_of(sch.trace) == 8
    assert ms.compile_tir(database(4), matmul(), LLVM, reference=lambda a, b: a) is None


@pytest.mark.parametrize("kind", ["schedule", "record", "ir_module"])
def test_queries_verify_when_asked(kind: str) -> None:
    db = database(4, 8)
    found = db.query(matmul(), LLVM, kind=kind, verify=True)
    assert found is not None
    if kind == "record":
        assert found.verified
    by_function = db.query(matmul(), LLVM, kind=kind, reference=product)
    assert type(by_function) is type(found)
    assert db.query(matmul(), LLVM, kind=kind, reference=lambda a, b: a) is None
    with pytest.raises(ValueError, match="cannot query"):
        db.query(matmul(), LLVM, kind="trace", verify=True)


def test_a_schedule_function_is_verified_when_asked() -> None:
    def splits(sch: Any) -> bool:
        sch.split(sch.get_loops("C")[1], [None, 4])
        return True

    db: ms.Database = ms.Database.create(splits)
    assert ms.compile_tir(db, matmul(), LLVM, verify=True) is not None
    assert ms.compile_tir(db, matmul(), LLVM, reference=lambda a, b: a) is None


def test_where_nothing_can_be_run_asking_is_refused() -> None:
    if cuda_problem() is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="for cuda cannot be verified here") as refused:
        gpu_database().query(matmul(), CUDA, verify=True)
    assert 'runner="host"' in str(refused.value.hint)
    both = IRModule({"a": matmul()["main"], "b": matmul()["main"]})
    with pytest.raises(UserError, match="reference is of one function"):
        ms.compile_tir(database(4), both, LLVM, reference=product)


def gpu_database() -> ms.MemoryDatabase:
    db = ms.MemoryDatabase()
    workload = db.commit_workload(matmul())
    sch = default_gpu_schedule(matmul(), CUDA)
    args = ms.ArgInfo.from_entry_func(matmul())
    db.commit_tuning_record(ms.TuningRecord(sch.trace, workload, [1e-3], CUDA, args))
    return db


@needs_compilers
def test_gpu_schedules_are_verified_on_the_processor() -> None:
    db = gpu_database()
    usual = ms.compile_tir(db, matmul(), CUDA)
    assert usual is not None  # nothing is run where it is not asked for
    assert not db.get_all_tuning_records()[0].verified
    found = ms.compile_tir(db, matmul(), CUDA, verify=True, runner="host")
    assert found is not None
    assert db.get_all_tuning_records()[0].verified
    assert ms.compile_tir(db, matmul(), CUDA, reference=product, runner="host") is not None
    wrong = gpu_database()
    assert ms.compile_tir(wrong, matmul(), CUDA, reference=lambda a, b: a, runner="host") is None
