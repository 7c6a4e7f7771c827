"""What does `gputune tune KERNEL` mean? A kernel of the library, or a function of a user's file."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gputune import kernels
from gputune.calling import Convention, random_inputs
from gputune.errors import GputuneError, UserError
from gputune.ir import dtypes
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.tuned_kernel import single_function


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be tuned.

    Attributes:
        title: for people: name, sizes, dtype.
        func: the program.
        inputs: arrays to call it with.
        reference: the same computation in NumPy, from the inputs; None where there is none.
    """

    title: str
    func: PrimFunc
    inputs: list[Any]
    reference: Callable[..., Any] | None


def find(name: str, shape: str | None, dtype: str | None) -> Subject:
    """The kernel that a command line names.

    Raises:
        UserError: no such kernel, file or function, or sizes or a dtype that do not fit; says what
            would.
    """
    path, colon, function = name.rpartition(":")
    if colon and (path.endswith(".py") or Path(path).is_file()):
        return _from_file(Path(path), function, shape, dtype)
    if name.endswith(".py"):
        raise UserError(
            f"{name}: which function of it?", hint=f"gputune tune {name}:FUNCTION", code="function"
        )
    return _from_library(name, shape, dtype)


def _from_library(name: str, shape: str | None, dtype: str | None) -> Subject:
    kernel = kernels.get(name)
    sizes = _sizes(shape, list(kernel.shapes), f"kernel {name}")
    kind = dtype or "float32"
    func = kernel.build(sizes, kind)
    whole = kernel.shape(sizes)
    text = ", ".join(f"{k}={v}" for k, v in whole.items())
    args = kernel.arguments(sizes, kind)
    inputs = [x for b, x in zip(func.buffers, args) if b.name not in kernel.outputs]

    def reference(*arrays: Any) -> Any:
        found = kernel.reference(*map(_widened, arrays), **whole)
        return found if len(found) > 1 else found[0]

    return Subject(f"{name} ({text}) {kind}", func, inputs, reference)


def _widened(x: Any) -> Any:
    """Narrow numbers as NumPy must have them for sums that kernels do in a wider type."""
    name = dtypes.from_numpy(x.dtype)
    if dtypes.bits(name) >= 32 or dtypes.is_bool(name):
        return x
    return x.astype(np.float32 if dtypes.is_float(name) else np.int32)


# ----------------------------------------------------------------------------- sizes
def _sizes(text: str | None, names: Sequence[str], whose: str) -> dict[str, int]:
    """ "m=128,n=64" or "128,64" as sizes by name."""
    if text is None:
        return {}
    out: dict[str, int] = {}
    parts = [p.strip() for p in re.split(r"[,\s]+|(?<=\d)x(?=\d)", text.strip()) if p.strip()]
    if not parts:
        raise UserError(f"--shape {text!r} holds no sizes", hint=_example(names), code="shape")
    if len({"=" in p for p in parts}) > 1:
        raise UserError(f"--shape {text!r}: give all sizes by name, or none", code="shape")
    for at, part in enumerate(parts):
        name, equals, value = part.rpartition("=")
        if not equals:
            if at >= len(names):
                raise UserError(
                    f"--shape {text!r} holds {len(parts)} sizes, {whose} has {len(names)} "
                    f"({', '.join(names)})",
                    code="shape",
                )
            name = names[at]
        if not re.fullmatch(r"-?[0-9]+", value):
            raise UserError(
                f"--shape: the size {part!r} is no whole number", hint=_example(names), code="shape"
            )
        if name in out:
            raise UserError(f"--shape gives {name!r} twice", code="shape")
        out[name] = int(value)
    return out


def _example(names: Sequence[str]) -> str:
    return "for example --shape " + ",".join(f"{n}=128" for n in names[:3])


# ----------------------------------------------------------------------------- files
def _from_file(path: Path, function: str, shape: str | None, dtype: str | None) -> Subject:
    """A function of a Python file, which is imported: it is the user's own program."""
    module = _imported(path)
    found = getattr(module, function, None)
    if found is None:
        kinds = (PrimFunc, IRModule)
        known = [
            k for k, v in vars(module).items()
            if isinstance(v, kinds) or (inspect.isfunction(v) and v.__module__ == module.__name__)
        ]  # fmt: skip
        raise UserError(
            f"{path} has no function {function!r}",
            hint=f"it has: {', '.join(known) or 'no kernel'}",
            code="function",
        )
    func = _program(path, function, found, shape, dtype)
    _, prim = single_function(func, f"{path}:{function}")
    conv = Convention.of(prim)
    if conv.sig.shape_vars:
        raise UserError(
            f"{path}:{function} has symbolic sizes ({', '.join(map(str, conv.sig.shape_vars))})",
            hint="write a function of the sizes that returns the program, and give --shape",
        )
    reference = getattr(module, "reference", None)
    return Subject(
        f"{path.name}:{function}", prim, random_inputs(conv), _fitted(reference, shape, found)
    )


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no file {path}", code="missing")
    spec = importlib.util.spec_from_file_location("gputune_user_kernel", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file", hint="give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except GputuneError:
        raise
    except (Exception, SystemExit) as e:  # whatever the user's file does
        raise UserError(f"{path} cannot be imported: {_said(e, path)}", code="import") from None
    finally:
        sys.path.pop(0)
    return module


def _said(e: BaseException, path: Path) -> str:
    """An exception in one line, with the line of the user's file where it arose."""
    lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == str(path)]
    if isinstance(e, SyntaxError) and e.lineno:
        lines.append(e.lineno)
    where = f"line {lines[-1]}: " if lines else ""
    text = e.msg if isinstance(e, SyntaxError) else str(e).splitlines()[0] if str(e) else ""
    return f"{where}{type(e).__name__}" + (f": {text}" if text else "")


def _program(path: Path, name: str, found: Any, shape: str | None, dtype: str | None) -> Any:
    """The program itself, or what a function of the sizes returns."""
    if isinstance(found, PrimFunc | IRModule):
        for option, value in (("--shape", shape), ("--dtype", dtype)):
            if value is not None:
                raise UserError(
                    f"{path}:{name} is a program of fixed sizes: {option} has no meaning for it",
                    hint="write a function of the sizes that returns the program",
                )
        return found
    factory = getattr(found, "factory", found)  # of a `gputune.jit` function
    if not callable(factory):
        raise UserError(
            f"{path}:{name} is a {type(found).__name__}",
            hint="name a @T.prim_func, or a function of the sizes that returns one",
        )
    return _called(path, name, factory, shape, dtype)


def _called(
    path: Path, name: str, factory: Callable[..., Any], shape: str | None, dtype: str | None
) -> Any:
    takes = inspect.signature(factory).parameters
    names = [k for k in takes if k not in ("dtype",)]
    given: dict[str, Any] = dict(_sizes(shape, names, f"{path}:{name}"))
    for key in given:
        if key not in takes:
            raise UserError(
                f"{path}:{name} has no size {key!r}", hint=f"it has: {', '.join(names) or 'none'}"
            )
    if dtype is not None:
        if "dtype" not in takes:
            raise UserError(f"{path}:{name} takes no dtype: --dtype has no meaning for it")
        if dtype not in dtypes.SCALARS:
            known = ", ".join(sorted(dtypes.SCALARS))
            raise UserError(f"there is no dtype {dtype!r}", hint=f"known are: {known}")
        given["dtype"] = dtype
    missing = [k for k, p in takes.items() if p.default is p.empty and k not in given]
    if missing:
        raise UserError(
            f"{path}:{name} needs the sizes {', '.join(missing)}", hint=_example(missing)
        )
    try:
        return factory(**given)
    except GputuneError:
        raise
    except Exception as e:  # whatever the user's function does
        raise UserError(f"{path}:{name} failed: {_said(e, path)}", code="import") from None


def _fitted(reference: Any, shape: str | None, found: Any) -> Callable[..., Any] | None:
    """The file's `reference`; sizes that it names are passed by keyword."""
    if not callable(reference):
        return None
    takes = inspect.signature(reference).parameters
    factory = getattr(found, "factory", found)
    if isinstance(found, PrimFunc | IRModule):
        return reference  # type: ignore[no-any-return]  # callable was checked
    sizes: Mapping[str, int] = _sizes(
        shape, [k for k in inspect.signature(factory).parameters if k != "dtype"], "it"
    )
    wanted = {k: v for k, v in sizes.items() if k in takes}
    return lambda *arrays: reference(*arrays, **wanted)
