"""How is a CUDA kernel that somebody wrote by hand held in a program, and how is it got out again?

Such a kernel is a function with one opaque block: it declares what is read and written, and its
annotations hold the source text and, once a schedule is finished, the configuration: values of
the parameters, grid, block, shared memory. So it has a script, a digest, a trace and a record like
every other program, and what is replayed from a record needs none of the user's Python functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...errors import BuildError
from ...ir import dtypes
from ...ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferRegion,
    Call,
    Evaluate,
    IntImm,
    IRModule,
    PrimFunc,
    Range,
    StringImm,
    Var,
)
from .program import CudaSource, HostProgram, Launch, Param, Triple

Value: TypeAlias = int | float | bool | str
"""What a parameter of a kernel may be."""

SOURCE = "cuda.source"
"""Annotation: the text; "" where each configuration brings its own."""
OPTIONS = "cuda.options"
"""Annotation: more options for the compiler."""
SCALARS = "cuda.scalars"
"""Annotation: the values of the arguments that are numbers, by name."""
NOTES = "cuda.notes"
"""Annotation: what else tells two workloads apart, such as the clock that times them."""
PARAMETER = "cuda.param."
"""Begins the annotation of a parameter whose sampled value is an integer."""
CHOICE = "cuda.choice."
"""Begins the annotation of a parameter whose sampled value is a place in its list of values."""
LAUNCH = "cuda.launch"
"""Annotation: the finished configuration."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GRID_LIMITS = (2**31 - 1, 65535, 65535)
MOST_THREADS = 1024
"""Threads of a block on every architecture."""
_BLOCK_LIMITS = (1024, 1024, 64)


# ----------------------------------------------------------------------------- arguments
@dataclass(frozen=True, slots=True)
class RawArgument:
    """An argument of a kernel.

    Attributes:
        name: as the caller's functions know it.
        dtype: of the number or of the elements.
        shape: of the array; None: it is a number.
        written: does the kernel write it?
        value: of a number.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None = None
    written: bool = False
    value: int | float | None = None


# ----------------------------------------------------------------------------- configurations
@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to compile and launch a kernel.

    Attributes:
        params: the values of its parameters, each a #define.
        grid: blocks along x, y, z.
        block: threads of a block along x, y, z.
        smem: bytes of dynamic shared memory.
        text: the source of this configuration; None: the kernel's one text.

    Raises:
        BuildError: on making one that no kernel can have.
    """

    params: Mapping[str, Value] = field(default_factory=dict)
    grid: Triple = (1, 1, 1)
    block: Triple = (1, 1, 1)
    smem: int = 0
    text: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.params.items():
            check_name(name, "a parameter")
            define(name, value)
        for what, sizes, limits in (
            ("grid", self.grid, _GRID_LIMITS),
            ("block", self.block, _BLOCK_LIMITS),
        ):
            for axis, n, most in zip("xyz", sizes, limits):
                if type(n) is not int or n < 1:
                    raise BuildError(
                        f"{what} is {self.grid if what == 'grid' else self.block}: along {axis} "
                        "it must be a whole number from 1",
                        code=f"{what} below 1",
                    )
                if n > most:
                    raise BuildError(
                        f"{what}.{axis} is {n}, the most is {most}", code=f"{what} too large"
                    )
        if math.prod(self.block) > MOST_THREADS:
            raise BuildError(
                f"a block of {self.block} has {math.prod(self.block)} threads, "
                f"the most is {MOST_THREADS}",
                code="too many threads",
            )
        if type(self.smem) is not int or self.smem < 0:
            raise BuildError(f"smem is {self.smem!r}, not a number of bytes", code="smem below 0")

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return math.prod(self.block)

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return math.prod(self.grid)

    def annotation(self) -> dict[str, Any]:
        """As the block's annotation holds it."""
        out: dict[str, Any] = {
            "params": dict(self.params),
            "grid": self.grid,
            "block": self.block,
            "smem": self.smem,
        }
        if self.text is not None:
            out["text"] = self.text
        return out

    @staticmethod
    def of_annotation(value: Any) -> Configuration:
        """What `annotation` wrote; BuildError if it is something else."""
        try:
            text = value.get("text")
            if text is not None and not isinstance(text, str):
                raise TypeError("the text is no string")
            return Configuration(
                dict(value["params"]), _triple(value["grid"]), _triple(value["block"]),
                value["smem"], text,
            )  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise BuildError(
                f"{value!r:.80} is not the configuration of a CUDA kernel: {e}",
                code="configuration",
            ) from None


def _triple(value: Sequence[Any]) -> Triple:
    x, y, z = value
    return x, y, z


def check_name(name: Any, what: str) -> str:
    """A C identifier; BuildError for anything else."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BuildError(f"{what} is named {name!r:.60}, which is no C identifier", code="name")
    return name


def define(name: str, value: Value) -> str:
    """The #define of a parameter.

    Example:
        >>> define("FAST", True), define("T", "float")
        ('#define FAST 1', '#define T float')

    Raises:
        BuildError: a value that cannot stand in one line of C.
    """
    match value:
        case bool():
            return f"#define {name} {int(value)}"
        case int():
            return f"#define {name} {value}"
        case float() if math.isfinite(value):
            return f"#define {name} {value!r}"
        case str() if value.isprintable() and not value.endswith("\\"):
            return f"#define {name} {value}"
        case _:
            raise BuildError(
                f"parameter {name} is {value!r:.60}: a value is a number, a bool or a line of text",
                code="parameter value",
            )


# ----------------------------------------------------------------------------- into a program
def raw_module(
    name: str,
    arguments: Sequence[RawArgument],
    text: str,
    options: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> IRModule:
    """The program of a kernel with these arguments, not configured yet.

    Args:
        name: of the kernel in its source.
        arguments: in the kernel's order.
        text: the source; "" where each configuration brings its own.
        options: for the compiler.
        notes: what else makes this a workload of its own.
    """
    params: list[Var] = []
    table: list[tuple[Var, Buffer]] = []
    for a in arguments:
        if a.shape is None:
            params.append(Var(a.name, a.dtype))
            continue
        handle = Var(a.name, "handle")
        params.append(handle)
        table.append((handle, Buffer(a.name, tuple(map(IntImm, a.shape)), a.dtype)))
    written = {a.name for a in arguments if a.written}
    # What is written may be read as well: the text alone knows.
    notes_ = [
        (SOURCE, text),
        (OPTIONS, tuple(options)),
        (SCALARS, {a.name: a.value for a in arguments if a.shape is None}),
    ]
    if notes:
        notes_.append((NOTES, dict(notes)))
    block = Block(
        BlockKey(),
        name,
        (),
        (),
        IntImm(1, "bool"),
        tuple([_whole(b) for _, b in table]),
        tuple([_whole(b) for _, b in table if b.name in written]),
        Evaluate(Call("call_extern", (StringImm(name),), "int32")),
        annotations=tuple(notes_),
    )
    root = Block(BlockKey(), "root", (), (), IntImm(1, "bool"), (), (), block)
    func = PrimFunc(tuple(params), tuple(table), root, (("global_symbol", name),))
    return IRModule({name: func})


def _whole(b: Buffer) -> BufferRegion:
    return BufferRegion(b, tuple([Range(IntImm(0), n) for n in b.shape]))


# ----------------------------------------------------------------------------- out of a program
def raw_block(func: PrimFunc) -> Block | None:
    """The block of a function that holds a kernel's text; None where it is any other function."""
    inner = func.body.body
    if type(inner) is Block and any(key == SOURCE for key, _ in inner.annotations):
        return inner
    return None


def configuration(func: PrimFunc) -> Configuration | None:
    """How a kernel is configured; None if it is not, or the function holds none.

    Raises:
        BuildError: its annotation is not what gputune writes.
    """
    block = raw_block(func)
    found = None if block is None else dict(block.annotations).get(LAUNCH)
    return None if found is None else Configuration.of_annotation(found)


def raw_source(func: PrimFunc) -> CudaSource | None:
    """The source and the host's steps of a kernel's configuration; None for any other function.

    Raises:
        BuildError: the kernel is not configured, or was not made by gputune.
    """
    block = raw_block(func)
    if block is None:
        return None
    chosen = configuration(func)
    if chosen is None:
        raise BuildError(
            f"the CUDA kernel {func.name} has no configuration: its parameters are open",
            hint="tune it with gputune.tune_kernel, or apply the trace of a record",
            code="not-configured",
        )
    notes = dict(block.annotations)
    name, params = check_name(block.name, "the kernel"), _params(func, block)
    text = notes[SOURCE] if chosen.text is None else chosen.text
    options = notes.get(OPTIONS, ())
    if not isinstance(text, str) or not all(isinstance(o, str) for o in options):
        raise BuildError(f"the CUDA kernel {name} was not made by gputune", code="configuration")
    launch = Launch(name, chosen.grid, chosen.block, tuple([p.name for p in params]), chosen.smem)
    host = HostProgram(name, params, (launch,))
    return CudaSource(with_defines(text, chosen.params, name), host, tuple(options), prelude=False)


def with_defines(text: str, params: Mapping[str, Value], name: str) -> str:
    """A text with its parameters' values in front; the compiler's messages still count its own
    lines."""
    lines = [define(n, v) for n, v in params.items()]
    return "\n".join([*lines, f'#line 1 "{name}.cu"', text])


def _params(func: PrimFunc, block: Block) -> tuple[Param, ...]:
    written = {r.buffer for r in block.writes}
    table = dict(func.buffer_map)
    out = []
    for p in func.params:
        b = table.get(p)
        if b is None:
            out.append(Param(check_name(p.name, "an argument"), p.dtype))
            continue
        elements = math.prod(int(n.value) for n in b.shape if type(n) is IntImm)
        out.append(Param(check_name(b.name, "an argument"), b.dtype, elements, b in written))
    return tuple(out)


def scalar_values(func: PrimFunc) -> dict[str, int | float]:
    """The values of a kernel's arguments that are numbers, by name; {} for any other function.

    Raises:
        BuildError: they are not numbers.
    """
    block = raw_block(func)
    if block is None:
        return {}
    found = dict(block.annotations).get(SCALARS, {})
    known = {p.name: p.dtype for p in func.params}
    if not isinstance(found, dict) or not all(
        n in known
        and isinstance(v, int | float)
        and (dtypes.is_float(known[n]) or isinstance(v, int))
        for n, v in found.items()
    ):
        raise BuildError(f"{found!r:.80} are not the numbers of {func.name}", code="configuration")
    return dict(found)
