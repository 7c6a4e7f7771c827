"""How does a tuned kernel get to another program, or another machine? As a folder of data.

    workload.py   the unscheduled program, as script
    script.py     the scheduled program, as script
    trace.json    what was done to the one to make the other
    record.json   target, measured times, versions
    kernel.o      machine code for that target, for programs that link it themselves (kernel.cubin
                  for a cuda target)
    kernel.ll     the same as LLVM IR, to read (kernel.cu for a cuda target)
    pack_N.o, .ll machine code that packs argument N, where its layout is free and the kernel has
                  it packed

`load` reads the first four and compiles; what it compiled is checked in a worker process before
this one runs it. Nothing in the folder is executed, and `kernel.o` is not even opened, since
machine code from a file cannot be checked.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .codegen.llvm import LlvmKernel
from .errors import GputuneError, RecordError, RunError, ScheduleError, UserError
from .figures import plain
from .ir.equal import structural_equal
from .ir.nodes import IRModule, PrimFunc
from .runtime.module import AnyCode, Module
from .schedule import Schedule, Trace
from .target import Target, host
from .tuned_kernel import TunedKernel

if TYPE_CHECKING:
    from .meta_schedule.record import TuningRecord

FORMAT = "gputune kernel 1"
_LARGEST = 1 << 26  # bytes of a file that is read; a script is a few thousand


def save(kernel: TunedKernel, folder: Path) -> Path:
    """Write the folder (see above); files of an earlier export are replaced.

    Raises:
        UserError: it cannot be written.
    """
    name = next(iter(kernel.mod.functions))
    code = _only_code(kernel.module)
    record = None if kernel.record is None else kernel.record.as_json()
    packers = kernel.packer.modules()
    about = {
        "format": FORMAT,
        "function": name,
        "symbol": code.symbol,
        "target": kernel.target.export(),
        "device": kernel.target.device_key,
        "record": record,
        "packed": {
            str(at): {"name": kernel.packer.buffers[at].name, "symbol": _only_code(m).symbol,
                      "layout": kernel.packer.layouts[at]}
            for at, m in packers.items()
        },
    }  # fmt: skip
    files: dict[str, str | bytes] = {
        "workload.py": IRModule({name: kernel.workload}).script(),
        "script.py": kernel.mod.script(),
        "trace.json": json.dumps(kernel.trace.as_json()) + "\n",
        "record.json": json.dumps(about, indent=1) + "\n",
        **_code_files(code, "kernel"),
    }
    for at, module in packers.items():
        files |= _code_files(_only_code(module), f"pack_{at}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("pack_*"):
            if re.fullmatch(r"pack_\d+\.(o|ll)", old.name) and old.name not in files:
                old.unlink()
        for file, content in files.items():
            _replace(folder / file, content if isinstance(content, bytes) else content.encode())
    except OSError as e:
        raise UserError(
            f"cannot export to {folder}: {e.strerror or e}",
            hint="choose a folder that can be written",
            code="export",
        ) from None
    return folder


def _code_files(code: AnyCode, name: str) -> dict[str, str | bytes]:
    if isinstance(code, LlvmKernel):
        return {f"{name}.ll": code.ir, f"{name}.o": code.object_code}
    return {f"{name}.cu": code.source.text, f"{name}.cubin": code.object_code}


def _only_code(module: Module) -> AnyCode:
    (code,) = module.kernels.values()
    return code


def _replace(path: Path, content: bytes) -> None:
    """Write a file: whole, or not at all."""
    number, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as f:
            f.write(content)
        umask = os.umask(0)
        os.umask(umask)
        Path(part).chmod(0o666 & ~umask)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def load(folder: str | Path) -> TunedKernel:
    """A kernel that `TunedKernel.export` wrote, compiled for this machine.

    The target is the recorded one if this machine has the processor features that it asks for;
    else this machine's own, with the same number of cores. Times in the record stay what they are:
    `report()` says where they were measured.

    The folder is not believed: before it is given out, the kernel is compiled and run in a worker
    process, and its numbers are compared with those of the program in workload.py. That takes some
    tenths of a second, once; a kernel that this user tuned on this machine was checked before.
    Where that program would run for long, the kernel is run by itself, and `.verified` is False.

    Raises:
        UserError: no path, or a file that is missing or cannot be read.
        RecordError: a file is not what it should be; names it. So is a kernel that cannot be
            compiled, does not run, or computes something else.
        RunError: the kernel could not be checked.

    Example:
        >>> f = gputune.load("matmul.tuned")
    """
    where = folder_path(folder, "load")
    about = _json(where / "record.json")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise RecordError(
            f"{where / 'record.json'}: not a kernel of this gputune",
            hint=f"it reads the format {FORMAT!r}",
        )
    workload = _script(where / "workload.py")
    scheduled = _script(where / "script.py")
    _, func = _only(workload, where / "workload.py")
    schedule = _replayed(where, workload)
    if not structural_equal(schedule.mod, scheduled):
        raise RecordError(
            f"{where / 'script.py'}: is not what {where / 'trace.json'} makes of workload.py",
            hint="a file was changed: export the kernel again",
        )
    record = _record(where, about, workload)
    target = _target(where, about)
    right = _checked(where, workload, schedule.mod, target)
    return TunedKernel(schedule, target, workload=func, record=record, verified=right)


def _checked(where: Path, workload: IRModule, scheduled: IRModule, target: Target) -> bool:
    """Refuse a kernel that must not run in this process; were its numbers found right?"""
    from .meta_schedule.admission import check_scheduled

    if target.kind != "llvm":
        return False  # `build` has the say
    verdict = check_scheduled(workload, scheduled, target)
    why = "" if verdict.failure is None else f": {plain(verdict.failure.message)}"
    if verdict.outcome == "wrong":
        raise RecordError(
            f"{where}: its kernel is not what workload.py says, or does not run{why}",
            hint="tune and export the kernel again",
            code="wrong-kernel",
        )
    if verdict.outcome == "unknown":
        raise RunError(
            f"{where}: its kernel cannot be checked, and is not run unchecked{why}",
            hint="gputune doctor says what this machine offers",
            code="not-checked",
        )
    return verdict.outcome == "right"


def folder_path(folder: str | Path, what: str) -> Path:
    """The path of a folder; UserError if it is none."""
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise UserError(f"{what}: expected the path of a folder, found {folder!r:.80}")
    return Path(folder)


def _replayed(where: Path, workload: IRModule) -> Schedule:
    path = where / "trace.json"
    value = _json(path)
    schedule = Schedule(workload, error_render_level="fast")
    schedule.work_on(next(iter(workload.functions)))
    try:
        Trace.from_json(value).apply_to_schedule(schedule, remove_postproc=False)
    except (RecordError, ScheduleError) as e:
        raise RecordError(f"{path}: {e.message}") from None
    return schedule


def _record(where: Path, about: Mapping[str, Any], workload: IRModule) -> TuningRecord | None:
    value = about.get("record")
    if value is None:
        return None
    from .meta_schedule.record import TuningRecord, Workload

    try:
        record = TuningRecord.from_json(value, Workload(workload))
        record.target  # noqa: B018  # decoded on first use: an error belongs here
    except RecordError as e:
        raise RecordError(f"{where / 'record.json'}: {e.message}") from None
    return record


def _target(where: Path, about: Mapping[str, Any]) -> Target:
    """The recorded target, or this machine's where that asks for what is not here."""
    value = about.get("target")
    if not isinstance(value, dict):
        raise RecordError(f"{where / 'record.json'}: the target is {value!r:.60}, not a dict")
    cores = value.get("num-cores")
    if value.get("kind") == "llvm" and not host.has_features(str(value.get("mattr", ""))):
        return Target({"kind": "llvm", "num-cores": cores})
    try:
        return Target(value)
    except GputuneError as e:
        raise RecordError(f"{where / 'record.json'}: {e.message}") from None


# ----------------------------------------------------------------------------- files
def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise RecordError(f"{path}: larger than {_LARGEST >> 20} MiB, so no file of a kernel")
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise UserError(
            f"cannot read {path}: {e.strerror or e}",
            hint="give a folder that TunedKernel.export wrote",
            code="missing",
        ) from None
    except UnicodeDecodeError as e:
        raise RecordError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start})") from None


def _json(path: Path) -> Any:
    text = _text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise RecordError(f"{path}: nested too deeply") from None
    except ValueError as e:
        raise RecordError(f"{path}: not JSON ({e})") from None


def _script(path: Path) -> IRModule:
    from .script import from_source

    try:
        found = from_source(_text(path))
    except RecordError:
        raise
    except UserError:
        raise
    except GputuneError as e:
        raise RecordError(f"{path}: not a program: {e.message}", hint=e.hint) from None
    return found if isinstance(found, IRModule) else IRModule({found.name: found})


def _only(mod: IRModule, path: Path) -> tuple[str, PrimFunc]:
    if len(mod.functions) != 1:
        raise RecordError(f"{path}: holds {len(mod.functions)} functions, not one")
    return next(iter(mod.functions.items()))
