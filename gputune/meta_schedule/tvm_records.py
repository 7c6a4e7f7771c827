"""What can be had from a database that TVM's MetaSchedule has written? Its traces and times, where
the programs are given: TVM keeps those in a form of its own, which only TVM reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import GputuneError, RecordError, UserError
from ..ir.equal import structural_hash
from ..ir.nodes import IRModule, PrimFunc
from . import record_line
from .arg_info import ArgInfo
from .database import Database, replay
from .database_check import Problem
from .database_copy import Copied, add_records
from .json_database import RECORD_FILE
from .module_equality import as_module
from .record import TuningRecord, Workload

Modules: TypeAlias = (
    "IRModule | PrimFunc | Sequence[IRModule | PrimFunc] | Mapping[int, IRModule | PrimFunc]"
)


@dataclass(slots=True)
class TVMImport:
    """What became of TVM's records.

    Attributes:
        copied: what was added.
        failed: records of candidates that had failed in TVM, which say nothing here.
        skipped: records that do not apply to any program that was given, and why.
    """

    copied: Copied = field(default_factory=lambda: Copied(0, 0, 0))
    failed: int = 0
    skipped: list[Problem] = field(default_factory=list)


def import_tvm_records(
    database: Database,
    source: str | Path,
    modules: Modules,
    *,
    this_machine: bool = False,
) -> TVMImport:
    """Add the records of a database of TVM's to one of gputune's.

    Each trace is replayed on the program that it is for; one that does not apply is skipped. The
    times are those of TVM's code: what gputune makes of the same schedule may take another time.
    The records say so (`extras["source"]`), and count as those of another machine unless
    `this_machine`, so that queries pass them over without `allow_other_device=True`.

    Args:
        database: what is added to.
        source: TVM's work_dir, or its file of tuning records.
        modules: the programs that were tuned. A mapping says which of TVM's workloads (the line in
            its file, from 0) each one is; else they are told by the shapes and types of their
            arguments, and by whether the trace applies.
        this_machine: the times were measured on this machine.

    Raises:
        UserError: there is no such file, or a program is none.

    Example:
        >>> found = import_tvm_records(open_database("tuned"), "tvm_tune_tmp", [matmul])
        >>> for problem in found.skipped: print(problem)
    """
    path = Path(source)
    path = path / RECORD_FILE if path.is_dir() else path
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}", code="not-readable") from None
    programs = _Programs(modules)
    out = TVMImport()
    found: list[TuningRecord] = []
    for number, line in enumerate(lines, 1):
        if not line and number == len(lines):
            continue
        try:
            record = _record(line, programs, this_machine)
        except (GputuneError, RecursionError) as e:
            said = ascii(e.message)[1:-1] if isinstance(e, GputuneError) else "nested too deeply"
            out.skipped.append(Problem(str(path), number, said))
            continue
        if record is None:
            out.failed += 1
        else:
            found.append(record)
    out.copied = add_records(database, found)
    return out


class _Programs:
    """Which program is workload `index` of TVM's?"""

    def __init__(self, modules: Modules) -> None:
        self.fixed: dict[int, Workload] = {}
        self.given: list[tuple[Workload, list[Any]]] = []
        if isinstance(modules, Mapping):
            for index, mod in modules.items():
                if isinstance(index, bool) or not isinstance(index, int) or index < 0:
                    raise UserError(
                        f"modules: a workload of TVM's is a number from 0, found {index!r:.40}",
                        code="modules",
                    )
                self.fixed[index] = Workload(as_module(mod))
            return
        some = modules if isinstance(modules, Sequence) else [modules]
        for mod in some:
            workload = Workload(as_module(mod))
            self.given.append((workload, _shapes(workload)))
        if not self.given:
            raise UserError("modules: no programs are given", code="modules")

    def candidates(self, index: int, args: Any) -> list[Workload]:
        """Those that it may be by the arguments of a record."""
        if index in self.fixed:
            return [self.fixed[index]]
        return [w for w, shapes in self.given if args is None or shapes == args]


def _shapes(workload: Workload) -> list[Any]:
    return [a.as_json() for a in ArgInfo.from_entry_func(workload.mod)]


def _record(line: bytes, programs: _Programs, this_machine: bool) -> TuningRecord | None:
    """The record of a line; None for one that had failed.

    Raises:
        GputuneError: it is no record, or applies to no program that is given.
    """
    match record_line.decoded(line):
        case [int() as index, [_, seconds, _, args] as body]:
            pass
        case found:
            raise RecordError(f"expected [workload index, record of TVM's], found {found!r:.80}")
    known = programs.candidates(index, args)
    if not known:
        raise RecordError(
            f"no program that was given has the arguments of workload {index}: {args!r:.120}"
        )
    problem: GputuneError | None = None
    fitting: list[tuple[TuningRecord, str]] = []
    for workload in known:
        record = TuningRecord.from_json(body, workload)
        if not record.is_valid:
            return None
        try:
            fitting.append((record, structural_hash(replay(record).mod)))
        except GputuneError as e:
            problem = e
    if not fitting:
        assert problem is not None
        raise RecordError(f"workload {index}: its trace does not apply: {problem.message}")
    if len(fitting) > 1:
        raise RecordError(
            f"workload {index}: its trace applies to {len(fitting)} of the programs",
            hint="say which it is: modules={index: program}",
        )
    ((record, program),) = fitting
    programs.fixed[index] = record.workload
    return _made(record, program, seconds, this_machine)


def _made(
    record: TuningRecord, program: str, seconds: list[float], this_machine: bool
) -> TuningRecord:
    target = record.target
    if target is None:
        raise RecordError("its target is not said")
    extras = {"program": program, "source": "tvm"}
    if target.kind == "llvm" and not this_machine:
        extras["device"] = f"unknown {target.mcpu}"
    elif target.kind != "llvm":
        extras["device"] = target.device_key
    return TuningRecord(record.trace, record.workload, seconds, target, record.args_info, extras)
