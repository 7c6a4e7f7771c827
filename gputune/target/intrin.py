"""Which pieces of a program can a machine do in one go? Tensor intrinsics.

A tensor intrinsic is two functions of the same parameters. The *description* says in plain loops
what is computed; the *implementation* says how, with vector intrinsics (`T.call_intrin`, see
`gputune.ir.ops`) or calls. `Schedule.tensorize` finds the description in a program and puts the
implementation in its place. Both are programs, so the interpreter runs either.

Written as plain Python functions, they are parsed when they are first used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..ir import fragments, walk
from ..ir.nodes import Call, PrimFunc
from ..ir.ops import VECTOR, VectorOp
from . import host

if TYPE_CHECKING:
    from .target import Target

FAMILIES = (
    "intrin_x86", "intrin_amx", "intrin_aarch64", "intrin_wmma", "intrin_mma", "intrin_dp4a",
)  # fmt: skip
"""Modules of this room with a table `INTRINSICS`: name -> (description, implementation)."""

ABSENT = {
    r"wmma_\w+_8x8x32_": "its operands are int4, of which there are no buffers here",
    r"mma_\w+_m16n8k8_": "products on tensor cores are tiles of 16 x 16 sums here: mma_ldmatrix_*,"
    " mma_fill_16x16_*, mma_f16f16f32, mma_store_16x16_*",
    r"mma_\w*(e4m3|e5m2)": "mma.sync has no products of float8 here",
    r"(?i)rocm_|sdot4": "there is no code for ROCm here",
    r"simdgroup_": "there is no code for Metal here",
    r"sme_": "there is no code for SME here; NEON's dot products are dot_4x4_*",
    r"rvv_": "there is no code for RISC-V here",
    r"dot_32x\d_|dma_read|sync_dma": "there is no code for Hexagon here",
}
"""Intrinsics that TVM has, by how their names begin, and why they are not here."""

_FIRST_MMA = "sm_80"
"""The first architecture that has all of mma.sync's products here."""

Script = PrimFunc | Callable[..., Any]


@dataclass(frozen=True, eq=False)
class TensorIntrin:
    """A tensor intrinsic: its name, description and implementation.

    Example:
        >>> from gputune.script import tir as T
        >>> @T.prim_func
        ... def desc(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
        ...     for i in range(4):
        ...         with T.block("B"):
        ...             vi = T.axis.spatial(4, i)
        ...             B[vi] = A[vi] * T.float32(2)
        >>> @T.prim_func
        ... def impl(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
        ...     B[0:4] = A[0:4] + A[0:4]
        >>> TensorIntrin.register("example.double4", desc, impl, override=True)
        >>> TensorIntrin.get("example.double4").desc.name
        'desc'
    """

    name: str
    _desc: Script = field(repr=False)
    _impl: Script = field(repr=False)
    _of_user: bool = field(default=False, repr=False)

    @cached_property
    def desc(self) -> PrimFunc:
        """What is computed, in plain loops."""
        return self._functions[0]

    @cached_property
    def impl(self) -> PrimFunc:
        """How it is computed."""
        return self._functions[1]

    @cached_property
    def _functions(self) -> tuple[PrimFunc, PrimFunc]:
        from ..script.parser import parse_function

        desc, impl = [
            f if isinstance(f, PrimFunc) else parse_function(f) for f in (self._desc, self._impl)
        ]
        _check_pair(self.name, desc, impl)
        if self._of_user:  # those of gputune are tested
            from .intrin_meaning import check_meaning

            check_meaning(self.name, desc, impl)
        return desc, impl

    @cached_property
    def features(self) -> frozenset[str]:
        """What the processor must have (see `VectorOp.features`)."""
        return frozenset(f for op in self._ops for f in op.features)

    @property
    def tolerance(self) -> float:
        """How far the implementation may be from the description: the attribute "tolerance" of the
        latter, as a part of the sum of the absolute values of all that is added; 0: not at all.
        Floats below 2 ** -126 may count as zero where it is more."""
        return float(dict(self.desc.attrs).get("tolerance", 0.0))

    def missing(self, target: Target) -> str:
        """Why a target cannot run it, or ""."""
        if self.kind == "cuda":
            return self._missing_on_cuda(target)
        if target.kind != "llvm":
            return f"{self.name} is for llvm targets, not for {target.kind}"
        lacking = sorted(self.features - host.enabled(target.mcpu, target.mattr))
        return f"the processor has no {', '.join(lacking)}" if lacking else ""

    @cached_property
    def kind(self) -> str:
        """The kind of target that it is for: "cuda" if a GPU's instructions are in it, or what the
        warps of one hold."""
        held = any(b.scope in fragments.SCOPES for b in self.impl.buffers)
        return "cuda" if held or any(op.cuda for op in self._ops) else "llvm"

    @cached_property
    def _ops(self) -> tuple[VectorOp, ...]:
        """The vector intrinsics that it calls."""
        return tuple([
            VECTOR[x.op]
            for e in walk.all_exprs(self.impl.body)
            for x in walk.walk_expr(e)
            if type(x) is Call and x.op in VECTOR
        ])  # fmt: skip

    def _missing_on_cuda(self, target: Target) -> str:
        if target.kind != "cuda":
            return f"{self.name} is for cuda targets, not for {target.kind}"
        first = max([_number(arch) for arch in self.features or (_FIRST_MMA,)])
        if _number(target.arch) >= first:
            return ""
        tiles = not self._ops or any(op.tiles for op in self._ops)
        what = "tensor cores" if tiles else "instruction"
        return f"{target.arch} has no {what} for {self.name}, sm_{first} was the first"

    @staticmethod
    def register(name: str, desc: Script, impl: Script, override: bool = False) -> None:
        """Make an intrinsic known by name.

        Args:
            name: for `tensorize`.
            desc: what is computed; a prim_func, or a plain function written as one.
            impl: how; its parameters are those of `desc` (shapes, dtypes, scopes).
            override: replace one of the same name.

        Raises:
            UserError: the name is taken; or (of plain functions when first used) the parameters
                differ, or `impl` gives other results than `desc` on small whole numbers.
        """
        for what, f in (("desc", desc), ("impl", impl)):
            if not isinstance(f, PrimFunc) and not callable(f):
                raise UserError(
                    f"{what} of tensor intrinsic {name!r} is a prim_func, got {type(f).__name__}",
                    hint="write it as a function under @T.prim_func",
                    code="intrin",
                )
        if not override and (name in _REGISTERED or name in _built_in()):
            raise UserError(
                f"there is a tensor intrinsic {name!r} already",
                hint="pass override=True to replace it",
                code="intrin-taken",
            )
        intrin = TensorIntrin(name, desc, impl, True)
        if isinstance(desc, PrimFunc) and isinstance(impl, PrimFunc):
            assert intrin.desc is desc  # refuses what does not go together
        _REGISTERED[name] = intrin

    @staticmethod
    def get(name: str, allow_missing: bool = False) -> TensorIntrin | None:
        """The intrinsic of this name.

        Raises:
            UserError: there is none, and `allow_missing` is not set.
        """
        found = _REGISTERED.get(name) or _built_in().get(name)
        if found is None and not allow_missing:
            from difflib import get_close_matches

            known = TensorIntrin.names()
            near = get_close_matches(name, known, 3) or list(known)
            why = next((f"{x}; " for p, x in ABSENT.items() if re.match(p, name)), "")
            raise UserError(
                f"there is no tensor intrinsic {name!r}",
                hint=f"{why}known are: {', '.join(near)}",
                code="intrin-unknown",
            )
        return found

    @staticmethod
    def names() -> tuple[str, ...]:
        """All names, in alphabetical order."""
        return tuple(sorted({*_REGISTERED, *_built_in()}))


def intrin(name: str) -> TensorIntrin:
    """The intrinsic of this name; UserError if there is none."""
    found = TensorIntrin.get(name)
    assert found is not None  # get has raised otherwise
    return found


_REGISTERED: dict[str, TensorIntrin] = {}
_BUILT_IN: dict[str, TensorIntrin] = {}


def _built_in() -> dict[str, TensorIntrin]:
    if not _BUILT_IN:
        for family in FAMILIES:
            table = import_module(f".{family}", __package__).INTRINSICS
            _BUILT_IN.update({n: TensorIntrin(n, desc, impl) for n, (desc, impl) in table.items()})
    return _BUILT_IN


def _number(arch: str) -> int:
    """Of an architecture: 90 for "sm_90a"."""
    return int(arch.removeprefix("sm_").rstrip("af"))


def _check_pair(name: str, desc: PrimFunc, impl: PrimFunc) -> None:
    """Have the two functions the same parameters?"""
    a, b = desc.buffers, impl.buffers
    if len(a) != len(b) or len(a) != len(desc.params) or len(b) != len(impl.params):
        raise UserError(
            f"tensor intrinsic {name!r}: desc has the buffers {_names(a)}, impl has {_names(b)}; "
            "they are the same, and there are no other parameters",
            hint="give both the same parameters, each a T.Buffer",
            code="intrin",
        )
    for x, y in zip(a, b, strict=True):
        mine, theirs = [(str(v.dtype), [str(n) for n in v.shape], v.scope) for v in (x, y)]
        if mine != theirs:
            raise UserError(
                f"tensor intrinsic {name!r}: buffer {x.name} of desc is {mine[0]} of shape "
                f"({', '.join(mine[1])}) in {mine[2]}, {y.name} of impl is {theirs[0]} of shape "
                f"({', '.join(theirs[1])}) in {theirs[2]}",
                hint="give both the same shape, dtype and scope",
                code="intrin",
            )


def _names(buffers: Iterable[Any]) -> str:
    return ", ".join(b.name for b in buffers) or "none"
