"""How did a program come to be scheduled as it is? `explain`, for all that holds a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import GputuneError, RecordError, UserError
from .figures import duration, plain
from .ir.nodes import IRModule, PrimFunc
from .schedule import Schedule, Trace
from .schedule.explain import Explanation
from .schedule.explain import explain as steps_of

if TYPE_CHECKING:
    from .meta_schedule.record import TuningRecord

_LARGEST = 1 << 26  # bytes of a file that is read


def explain(
    what: Any,
    program: PrimFunc | IRModule | None = None,
    *,
    task: str | None = None,
    postproc: bool = False,
) -> Explanation:
    """A trace step by step, each with the difference that it makes to the program.

    Args:
        what: a Schedule, a TunedKernel, what `tune_tir` returns, a TuningRecord, a Trace, or a
            path: a folder of tuning results (its best record is explained), one that
            `TunedKernel.export` wrote, or a file that holds a trace, as Python or as JSON.
        program: what a Trace or a file with a trace is about.
        task: of a folder with results of several programs, the name of the function.
        postproc: also what follows `enter_postproc`: the postprocs' doing.

    Raises:
        UserError: nothing that holds a trace, a program that is missing, no such folder or file.
        RecordError: a file that holds something else.

    Example:
        >>> print(explain(tuned))
        >>> explain("./tuned").step(4).diff()
    """
    mod, trace = _found(what, program, task)
    return steps_of(mod, trace, postproc)


def _found(what: Any, program: PrimFunc | IRModule | None, task: str | None) -> Any:
    from .meta_schedule import TuneResult, TuningRecord
    from .tuned_kernel import TunedKernel

    if isinstance(what, TuningRecord):
        return what.workload.mod, what.trace
    if isinstance(what, TunedKernel | TuneResult):
        what = what.schedule
    if isinstance(what, Schedule):
        return what._original, what.trace
    if isinstance(what, Trace):
        return _module(program), what
    if isinstance(what, str | Path):
        path = Path(what)
        if path.is_dir():
            return _in_folder(path, task)
        return _module(program), trace_in(path)
    raise UserError(
        f"explain: expected something that holds a trace, found {type(what).__name__}",
        hint="a Schedule, a TunedKernel, a result of tune_tir, a TuningRecord, or a path",
    )


def _module(program: PrimFunc | IRModule | None) -> IRModule:
    if isinstance(program, PrimFunc):
        return IRModule({program.name: program})
    if isinstance(program, IRModule):
        return program
    raise UserError(
        "explain: a trace alone does not say what it was done to",
        hint="explain(trace, program); gputune explain FILE --kernel KERNEL",
        code="program",
    )


def trace_in(path: Path) -> Trace:
    """The trace that a file holds, as Python (its printed form) or as JSON.

    Raises:
        UserError: the file cannot be read.
        RecordError: it holds something else.
    """
    text = _text(path)
    if text.lstrip()[:1] in ("[", "{"):
        return Trace.from_json(text)
    return Trace.from_python(text)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as f:
            found = f.read(_LARGEST + 1)
        if len(found) > _LARGEST:
            raise UserError(f"{path} is too large to be a trace or a program")
        return found.decode("utf-8")
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}", code="missing") from None
    except UnicodeDecodeError:
        raise RecordError(f"{path} holds no text") from None


# ----------------------------------------------------------------------------- folders
def _in_folder(folder: Path, task: str | None) -> tuple[IRModule, Trace]:
    if (folder / "trace.json").exists() and (folder / "workload.py").exists():
        from .script import from_source

        program = from_source(_text(folder / "workload.py"))
        return _module(program), trace_in(folder / "trace.json")
    record = best_record(folder, task)
    return record.workload.mod, record.trace


def best_record(folder: Path, task: str | None = None) -> TuningRecord:
    """The best record of a folder of tuning results, which is replayed and never run.

    Args:
        task: the name of the function; needed where there are several programs.

    Raises:
        UserError: there is none, or more than one program, which are named.
    """
    import warnings

    from .meta_schedule import JSONDatabase

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lines that cannot be read: `gputune db ls` lists them
        database = JSONDatabase(work_dir=folder, allow_missing=False)
    best: dict[str, TuningRecord] = {}
    for record in database.get_all_tuning_records():
        key = record.workload.shash
        if record.is_valid and (key not in best or record.seconds < best[key].seconds):
            best[key] = record
    named = [(_title(r), r) for r in best.values()]
    if not named:
        raise UserError(f"{folder} holds no record of anything that worked", code="no-schedule")
    chosen = [r for title, r in named if task is None or title.split("(")[0] == task]
    if len(chosen) == 1:
        return chosen[0]
    listed = "; ".join(title for title, _ in named)
    if not chosen:
        raise UserError(f"{folder} holds nothing of {task!r}", hint=f"it holds {listed}")
    if task is not None or len({t.split("(")[0] for t, _ in named}) == 1:
        return min(chosen, key=lambda r: -float(r.extras.get("time", 0) or 0))
    raise UserError(
        f"{folder} holds results of {len(named)} programs",
        hint=f"say which with task=NAME (--task NAME): {listed}",
        code="task",
    )


def _title(record: TuningRecord) -> str:
    """A record's program and time, for people."""
    try:
        name = next(iter(record.workload.mod.functions), "?")
    except GputuneError:
        name = "?"
    return plain(f"{name}({duration(record.seconds)})", 80)


def as_json(found: Explanation) -> str:
    """Steps as one JSON text: number, line, does it change the program, its difference."""
    return json.dumps(
        [
            {
                "step": s.number,
                "line": s.line,
                "postproc": s.postproc,
                "changes": s.changes,
                "diff": s.diff(),
                "error": s.error,
            }
            for s in found
        ]
    )
