"""How does an executable get to another process, or another machine? As a folder of data.

    module.py      the program as script; its constants stand there as the last parameters
    constants.npz  the bytes of these constants
    about.json     the target, and which constants belong to which graph function

`load` compiles anew, which takes milliseconds a tensor function, and executes nothing from the
folder. It does not believe the folder either: each tensor function is run in a worker process
before this one runs it. External functions are not in the folder: they are looked up by name.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GputuneError, RecordError, RunError, UserError
from ..ir import dtypes
from ..ir.graph import (
    Constant,
    Expr,
    Function,
    TensorType,
    Var,
    bind_params,
    call_sites,
    constants_of,
    lift_constants,
)
from ..ir.nodes import IRModule
from ..target import Target, host
from .executable import Executable, build

FORMAT = "gputune executable 1"
_LARGEST_TEXT = 1 << 26  # bytes of a text that is read


def export(ex: Executable, folder: str | Path) -> Path:
    """Write an executable as a folder (see above); files of an earlier export are replaced.

    Raises:
        UserError: it cannot be written.

    Example:
        >>> relax.export(relax.build(mod, "llvm"), "model.gputune")
        >>> vm = relax.VirtualMachine(relax.load("model.gputune"))
    """
    where = _folder(folder, "export")
    data: dict[str, np.ndarray[Any, Any]] = {}
    graphs: dict[str, Function] = {}
    belongs: dict[str, list[str]] = {}
    numbers: dict[Constant, str] = {}
    for name, func in ex.mod.graphs.items():
        found = constants_of(func)
        for c in found:
            if c not in numbers:
                numbers[c] = str(len(numbers))
                data[numbers[c]] = c.data.reshape(-1).view(np.uint8)
        graphs[name] = lift_constants(func, found)
        belongs[name] = [numbers[c] for c in found]
    about = {
        "format": FORMAT,
        "target": ex.target.export(),
        "device": ex.target.device_key,
        "constants": belongs,
    }
    try:
        where.mkdir(parents=True, exist_ok=True)
        text = IRModule(ex.mod.functions, ex.mod.attrs, graphs).script()
        _replace(where / "module.py", text.encode())
        part = where / ".constants.part.npz"
        with part.open("wb") as f:
            np.savez(f, **data)  # type: ignore[arg-type]  # numpy's stub takes flags for arrays
        part.replace(where / "constants.npz")
        _replace(where / "about.json", (json.dumps(about, indent=1) + "\n").encode())
    except OSError as e:
        raise UserError(
            f"cannot export to {where}: {e.strerror or e}",
            hint="choose a folder that can be written",
            code="export",
        ) from None
    return where


def load(folder: str | Path) -> Executable:
    """The executable that `export` wrote, compiled for this machine.

    The target is the recorded one if this machine has the processor features that it asks for;
    else this machine's own, with the same number of cores.

    Raises:
        UserError: a file is missing or cannot be read.
        RecordError: a file is not what it should be, by name; or a tensor function cannot be
            compiled, crashes, does not end, or writes where it must not.
        RunError: a tensor function could not be tried.
    """
    where = _folder(folder, "load")
    about = _json(where / "about.json")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise RecordError(
            f"{where / 'about.json'}: not an executable of this gputune",
            hint=f"it reads the format {FORMAT!r}",
        )
    lifted = _module(where / "module.py")
    belongs = about.get("constants")
    if not isinstance(belongs, dict) or set(belongs) != set(lifted.graphs):
        raise RecordError(f"{where / 'about.json'}: its functions are not those of module.py")
    graphs: dict[str, Function] = {}
    with _archive(where / "constants.npz") as archive:
        for name, func in lifted.graphs.items():
            graphs[name] = _bound(func, name, belongs[name], archive, where)
    mod = IRModule(lifted.functions, lifted.attrs, graphs)
    target = _target(about.get("target"), where / "about.json")
    for name in call_sites(graphs.values()):
        _try(mod, name, target, where)
    try:
        return build(mod, target)
    except GputuneError as e:
        raise RecordError(f"{where / 'module.py'}: {e.message}", hint=e.hint) from None


def _bound(
    func: Function, name: str, keys: Any, archive: Mapping[str, Any], where: Path
) -> Function:
    """A function with its constants in the place of its last parameters."""
    if not isinstance(keys, list) or len(keys) > len(func.params):
        raise RecordError(f"{where / 'about.json'}: the constants of {name!r} are {keys!r:.60}")
    params = func.params[len(func.params) - len(keys) :]
    values: dict[Var, Expr] = {}
    for var, key in zip(params, keys):
        path = where / "constants.npz"
        if not isinstance(var.type, TensorType) or not isinstance(key, str):
            raise RecordError(f"{path}: constant {key!r:.60} of {name!r} is no tensor")
        try:
            raw = archive[key]
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
            raise RecordError(f"{path}: constant {key!r:.60} of {name!r}: {e}") from None
        if raw.dtype != np.uint8 or raw.shape != (var.type.nbytes,):
            raise RecordError(
                f"{path}: constant {key!r} of {name!r} has {raw.size} elements of {raw.dtype}, "
                f"not {var.type.nbytes} bytes"
            )
        if var.type.dtype == "bool" and raw.max(initial=0) > 1:
            raise RecordError(f"{path}: constant {key!r} of {name!r}: a bool is 0 or 1 in memory")
        data = raw.view(dtypes.numpy_dtype(var.type.dtype)).reshape(var.type.shape)
        data.setflags(write=False)
        values[var] = Constant(data)
    return bind_params(func, values)


def _try(mod: IRModule, name: str, target: Target, where: Path) -> None:
    """Run a tensor function in a worker process, unless one like it has been run before."""
    from ..meta_schedule.admission import check_scheduled

    alone = IRModule({"main": mod.functions[name].with_attr("global_symbol", "main")})
    verdict = check_scheduled(alone, alone, target)
    why = "" if verdict.failure is None else f": {ascii(verdict.failure.message)[1:-1][:400]}"
    if verdict.outcome == "wrong":
        raise RecordError(
            f"{where / 'module.py'}: tensor function {name!r} does not run{why}",
            hint="export the executable again",
            code="wrong-kernel",
        )
    if verdict.outcome == "unknown":
        raise RunError(
            f"{where / 'module.py'}: tensor function {name!r} cannot be tried, and is not run "
            f"untried{why}",
            hint="gputune doctor says what this machine offers",
            code="not-checked",
        )


def _target(value: Any, path: Path) -> Target:
    """The recorded target, or this machine's where that asks for what is not here."""
    if not isinstance(value, dict) or value.get("kind") != "llvm":
        raise RecordError(f"{path}: the target is {value!r:.60}, not one of kind llvm")
    if not host.has_features(str(value.get("mattr", ""))):
        value = {"kind": "llvm", "num-cores": value.get("num-cores")}
    try:
        return Target(value)
    except GputuneError as e:
        raise RecordError(f"{path}: {e.message}") from None


# ----------------------------------------------------------------------------- files
def _folder(folder: str | Path, what: str) -> Path:
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise UserError(f"{what}: expected the path of a folder, found {folder!r:.80}")
    return Path(folder)


def _replace(path: Path, content: bytes) -> None:
    """Write a file: whole, or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise RecordError(f"{path}: larger than {_LARGEST_TEXT >> 20} MiB, so not what it says")
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise UserError(
            f"cannot read {path}: {e.strerror or e}",
            hint="give a folder that relax.export wrote",
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


def _module(path: Path) -> IRModule:
    from ..script import from_source

    text = _text(path)
    try:
        found = from_source(text)
    except GputuneError as e:
        raise RecordError(f"{path}: not a program: {e.message}", hint=e.hint) from None
    if not isinstance(found, IRModule) or not found.graphs:
        raise RecordError(f"{path}: no module with graph functions")
    return found


def _archive(path: Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as e:
        raise UserError(
            f"cannot read {path}: {e.strerror or e}",
            hint="give a folder that relax.export wrote",
            code="missing",
        ) from None
    except (ValueError, EOFError, zipfile.BadZipFile) as e:
        raise RecordError(f"{path}: no archive of arrays ({e})") from None
    if not hasattr(found, "files"):
        raise RecordError(f"{path}: no archive of arrays, but one array")
    return found
