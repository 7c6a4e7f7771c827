"""What does the owner of CUDA source say of a kernel? `cuda_kernel`: text, parameters, launch."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .codegen.cuda.raw import Configuration, Value, check_name, define
from .errors import BuildError, ScheduleError, UserError

Source: TypeAlias = "str | Callable[[Params], str]"
Size: TypeAlias = "int | Sequence[int]"

WHERE = "refused by where"
_TEXTS = 32  # configurations whose text tells one function of the parameters from another


def cdiv(a: int, b: int) -> int:
    """The least whole number that is not below a / b: blocks of b for a elements.

    Example:
        >>> cdiv(1000, 256)
        4
    """
    return -(-a // b)


class Params(Mapping[str, Value]):
    """The values of a kernel's parameters: `p.BX` or `p["BX"]`."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Value:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(f"there is no parameter {name}: {', '.join(self._values)}") from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            known = ", ".join(self._values) or "none"
            raise AttributeError(f"there is no parameter {name!r}; there are: {known}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return _typed(self) == _typed(other)

    def __hash__(self) -> int:
        return hash(tuple(sorted(_typed(self).items())))

    def __repr__(self) -> str:
        return "Params(" + ", ".join(f"{k}={v!r}" for k, v in self._values.items()) + ")"


def _typed(values: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """1, 1.0 and True are different values of a parameter."""
    return {k: (type(v).__name__, v) for k, v in values.items()}


@dataclass(frozen=True, slots=True, eq=False)
class CudaKernel:
    """A CUDA kernel with open parameters; made by `cuda_kernel`, tuned by `tune_kernel`.

    Attributes:
        name: of the kernel in its source.
        source: the text, or a function that gives the text for `Params`.
        params: the values that each parameter may have.
        where, grid, block, smem: see `cuda_kernel`.
        options: for the compiler.
        outputs: arrays that the kernel writes and does not read.
        inout: arrays that it updates.
        arguments: the names of its arguments, where they were given.
    """

    name: str
    source: Source
    params: Mapping[str, tuple[Value, ...]]
    where: Callable[..., Any] | None
    grid: Callable[..., Any] | Size
    block: Callable[..., Any] | Size
    smem: Callable[..., Any] | int
    options: tuple[str, ...]
    outputs: tuple[str, ...]
    inout: tuple[str, ...]
    arguments: tuple[str, ...] | None

    @property
    def size(self) -> int:
        """How many combinations of values there are, refused ones included."""
        return math.prod(len(v) for v in self.params.values())

    def combinations(self) -> Iterator[Params]:
        """All combinations of values, refused ones included."""
        for values in itertools.product(*self.params.values()):
            yield Params(dict(zip(self.params, values)))

    def names(self, count: int, reference: Callable[..., Any] | None = None) -> tuple[str, ...]:
        """The names of the kernel's `count` arguments: as given, or those that the launch's
        functions, the reference or the text give them.

        Raises:
            UserError: nothing tells them, or outputs are not among them.
        """
        found = self.arguments
        if found is None:
            found = next((n for n in self._told(reference) if len(n) == count), None)
        if found is None or len(found) != count:
            seen = "; ".join(f"({', '.join(n)})" for n in self._told(reference)) or "none"
            raise UserError(
                f"{self.name}: {count} arguments were given, and nothing names so many; "
                f"found {seen}",
                hint='name them in the kernel\'s order: cuda_kernel(..., arguments=("c", "a"))',
                code="arguments",
            )
        for name in (*self.outputs, *self.inout):
            if name not in found:
                raise UserError(
                    f"{self.name}: output {name!r} is none of its arguments {', '.join(found)}",
                    code="outputs",
                )
        return tuple([check_name(n, f"{self.name}: an argument") for n in found])

    def _told(self, reference: Callable[..., Any] | None) -> list[tuple[str, ...]]:
        out = [
            names[1:]
            for f in (self.grid, self.block, self.smem)
            if callable(f) and len(names := _positional(f)) > 1
        ]
        if reference is not None:
            out.append(_positional(reference))
        if isinstance(self.source, str):
            out += _parameters(self.source, self.name)
        return out

    # ------------------------------------------------------------------ configurations
    def configure(self, params: Mapping[str, Value], args: Sequence[Any]) -> Configuration:
        """The configuration for these values and arguments.

        Raises:
            ScheduleError: it is refused: `where` is false, no block may be so large, a function
                raised; `code` is what refusals are counted by.
        """
        p = Params(params)
        if self.where is not None and not _call(self.where, "where", p, args):
            raise ScheduleError(f"where is false for {p!r}", code=WHERE)
        try:
            return Configuration(
                dict(p),
                _sizes("grid", self.grid, p, args),
                _sizes("block", self.block, p, args),
                _whole("smem", _call(self.smem, "smem", p, args)),
                None if isinstance(self.source, str) else self.text(p),
            )
        except BuildError as e:
            raise ScheduleError(f"{e.message} for {p!r}", hint=e.hint, code=e.code) from None

    def text(self, params: Mapping[str, Value]) -> str:
        """The source for these values, without the #defines.

        Raises:
            ScheduleError: the function that makes it failed.
            UserError: it made something else.
        """
        if isinstance(self.source, str):
            return self.source
        found = _call(self.source, "source", Params(params), ())
        if not isinstance(found, str):
            raise _not_text(self.name, found)
        return found

    def identity(self, args: Sequence[Any]) -> str:
        """What tells a kernel whose text is a function of the parameters from another one: a
        digest of the texts of some configurations; "" where there is one text."""
        if isinstance(self.source, str):
            return ""
        digest = hashlib.blake2b(digest_size=16)
        stride = max(1, self.size // _TEXTS)
        for p in itertools.islice(self.combinations(), 0, None, stride):
            try:
                digest.update(f"{p!r}\n{self.configure(p, args).text}\n".encode())
            except ScheduleError:
                continue
        return digest.hexdigest()

    def __repr__(self) -> str:
        names = ", ".join(f"{k} {list(v)}" for k, v in self.params.items())
        return f"CudaKernel({self.name}; {names or 'no parameters'})"


def cuda_kernel(
    name: str,
    source: str | Path | Callable[[Any], str],
    params: Mapping[str, Sequence[Value]] | None = None,
    *,
    where: Callable[..., Any] | None = None,
    grid: Callable[..., Any] | Size,
    block: Callable[..., Any] | Size,
    smem: Callable[..., Any] | int = 0,
    options: Sequence[str] = (),
    outputs: Sequence[str],
    inout: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
) -> CudaKernel:
    """Describe a CUDA kernel and what may be varied in it.

    Args:
        name: of the kernel in the source, where it is `extern "C" __global__`.
        source: CUDA C++ (a `Path` is read), or a function that takes the parameters and returns it.
        params: for each parameter the values to try: numbers, bools or text. A configuration puts
            `#define NAME value` lines in front of the source (bools are 1 and 0).
        where: takes the parameters; where it is false, the combination is not even compiled.
        grid: blocks: a function of the parameters and all arguments of the kernel (or of the
            parameters alone) that gives a number or up to three along x, y, z; or such numbers.
        block: threads of a block, likewise.
        smem: bytes of dynamic shared memory of a block, likewise.
        options: for the compiler, such as "-std=c++17" or "--use_fast_math".
        outputs: names of the arrays that the kernel writes. They begin with arbitrary values
            whenever a configuration is checked.
        inout: names of arrays that the kernel reads and writes. They begin with the caller's
            values.
        arguments: names of the kernel's arguments in their order; default: as in the functions
            above, in `tune_kernel`'s reference or in the source.

    Raises:
        UserError: something that makes no sense; names it.

    Example:
        >>> k = cuda_kernel("vadd", text, dict(BX=[64, 128, 256], VEC=[1, 2, 4]),
        ...     where=lambda p: p.BX * p.VEC <= 512,
        ...     grid=lambda p, c, a, b, n: cdiv(int(n), p.BX * p.VEC), block=lambda p: p.BX,
        ...     outputs=("c",))  # doctest: +SKIP
    """
    try:
        check_name(name, "the kernel")
        values = {check_name(k, "a parameter"): _values(k, v) for k, v in (params or {}).items()}
    except BuildError as e:
        raise UserError(f"cuda_kernel: {e.message}", code=e.code) from None
    return CudaKernel(
        name,
        _source(name, source),
        values,
        where,
        grid,
        block,
        smem,
        _strings(name, "options", options),
        _strings(name, "outputs", outputs, least=0 if inout else 1),
        _strings(name, "inout", inout),
        None if arguments is None else _strings(name, "arguments", arguments),
    )


def _source(name: str, source: Any) -> Any:
    if isinstance(source, Path):
        try:
            return source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"{name}: cannot read the source {source}: {e}") from None
    if isinstance(source, str):
        if "\n" not in source and source.endswith((".cu", ".cuh")):
            raise UserError(
                f"{name}: the source is CUDA text, found the file name {source!r}",
                hint=f"source=Path({source!r})",
                code="source",
            )
        return source
    if callable(source) and not _is_numba(source):
        return source
    raise _not_text(name, source)


def _is_numba(x: Any) -> bool:
    return type(x).__module__.split(".")[0] in ("numba", "numba_cuda")


def _not_text(name: str, found: Any) -> UserError:
    if _is_numba(found):
        return UserError(
            f"{name}: the source is a numba kernel, which cannot be tuned: numba compiles it by "
            "NVVM to PTX, and gputune compiles CUDA C++ to cubin (it has no way from PTX, and "
            "none to check such a kernel without a GPU)",
            hint="give the kernel as CUDA C++ text",
            code="numba",
        )
    return UserError(
        f"{name}: the source is CUDA text, or a function that makes it of the parameters; "
        f"found {type(found).__name__}",
        code="source",
    )


def _values(name: str, values: Any) -> tuple[Value, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise UserError(
            f"cuda_kernel: parameter {name} has the values {values!r:.60}: give a list of at "
            "least one",
            code="params",
        )
    out = tuple([v.item() if hasattr(v, "item") else v for v in values])
    for v in out:
        define(name, v)
    if len({(type(v), v) for v in out}) < len(out):
        raise UserError(
            f"cuda_kernel: parameter {name} has a value twice: {list(out)}", code="params"
        )
    return out


def _strings(kernel: str, what: str, given: Any, least: int = 0) -> tuple[str, ...]:
    if isinstance(given, str) or not all(isinstance(x, str) for x in given):
        raise UserError(f"{kernel}: {what} is a list of strings, found {given!r:.60}", code=what)
    if len(given) < least:
        raise UserError(
            f"{kernel}: {what} names the arrays that the kernel writes: at least one", code=what
        )
    return tuple(given)


# ----------------------------------------------------------------------------- the user's functions
def _call(f: Any, what: str, p: Params, args: Sequence[Any]) -> Any:
    """A function of the user on the parameters, or on parameters and arguments; or a constant."""
    if not callable(f):
        return f
    names = _positional(f)
    try:
        return f(p) if len(names) == 1 or not args else f(p, *args)
    except Exception as e:  # what the user's function raises refuses the candidate, and is counted
        raise ScheduleError(
            f"{what} raised {type(e).__name__} for {p!r}: {e}",
            code=f"{what} raised {type(e).__name__}",
        ) from e


def _positional(f: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's positional parameters; () where it does not tell."""
    try:
        found = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return ()
    if any(x.kind is x.VAR_POSITIONAL for x in found):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple([x.name for x in found if x.kind in kinds and x.default is x.empty])


def _sizes(what: str, f: Any, p: Params, args: Sequence[Any]) -> tuple[int, int, int]:
    found = _call(f, what, p, args)
    parts = list(found) if isinstance(found, (tuple, list)) else [found]
    if not 1 <= len(parts) <= 3:
        raise ScheduleError(
            f"{what} gave {found!r} for {p!r}: one to three numbers are needed",
            code=f"{what} is no size",
        )
    x, y, z = [*(_whole(what, n) for n in parts), 1, 1][:3]
    return x, y, z


def _whole(what: str, n: Any) -> int:
    try:
        return int(operator.index(n))
    except TypeError:
        raise ScheduleError(
            f"{what} gave {n!r}, which is no whole number", code=f"{what} is no whole number"
        ) from None


def _parameters(text: str, name: str) -> list[tuple[str, ...]]:
    """The names of the kernel's parameters as its text gives them, if they can be read."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
    found = re.search(rf"\bvoid\b[^;{{}}()]*(?:\([^()]*\))?\s*\b{name}\s*\(([^()]*)\)\s*\{{", bare)
    if found is None:
        return []
    names = [re.search(r"(\w+)\s*(?:\[\s*\])?\s*$", part) for part in found[1].split(",")]
    return [tuple([n[1] for n in names if n])] if all(names) else []
