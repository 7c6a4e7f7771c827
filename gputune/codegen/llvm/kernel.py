"""From a scheduled program to object code: `compile`, and what its result says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...errors import BuildError, GputuneError
from ...ir import dtypes, walk
from ...ir.nodes import Buffer, Expr, PrimFunc, Var
from ...lower.limits import CpuLimits
from ...lower.pipeline import lower
from ...target import host
from . import jit, kept
from .expr import value
from .fn import Fn, Module
from .stmt import emit
from .values import V, scalar_type

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


@dataclass(frozen=True, slots=True)
class Param:
    """One argument slot: a data pointer (`buffer` given) or a scalar of `dtype`."""

    name: str
    dtype: str
    buffer: Buffer | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LlvmKernel:
    """A compiled function.

    The machine function is `i32 symbol(ptr args, ptr pool)`. `args` points to 8-byte slots: one
    for each of `params` in order, then one int64 for each of `shape_vars`. It returns 0, or 1 when
    memory ran out. `pool` is null (parallel loops run in the calling thread) or the address of a
    `pool.Pool`.
    """

    object_code: bytes
    symbol: str
    params: tuple[Param, ...]
    shape_vars: tuple[Var, ...]
    ir: str
    lowered: PrimFunc
    mcpu: str
    mattr: str
    workspace_bytes: int = 0

    def asm(self) -> str:
        """The assembly text (compiled again: for reading)."""
        return jit.emit_assembly(self.ir, self.mcpu, self.mattr)


def compile(func: PrimFunc, target: Any, name: str = "main") -> LlvmKernel:
    """Compile a scheduled function for `target` (see `CpuLimits.of`; also mcpu and mattr).

    Raises LowerError or BuildError, which name the pass or the construct.

    Example:
        >>> kernel = compile(matmul, Target("llvm"), "matmul")
        >>> loaded = load(kernel.object_code, kernel.symbol)
    """
    if not _SYMBOL.fullmatch(name):
        raise BuildError(f"{name!r} cannot be the name of a kernel", hint="use letters, digits, _")
    limits = CpuLimits.of(target)
    lowered = lower(func, limits)
    ir = generate(lowered, limits, target.mcpu, target.mattr, name)
    return LlvmKernel(
        jit.emit_object(ir, target.mcpu, target.mattr),
        name,
        tuple(_param(p, func) for p in func.params),
        shape_vars(func),
        ir,
        lowered,
        target.mcpu,
        target.mattr,
    )


def _param(p: Var, func: PrimFunc) -> Param:
    buffer = dict(func.buffer_map).get(p)
    if buffer is not None:
        return Param(buffer.name, buffer.dtype, buffer)
    return Param(p.name, p.dtype)


def shape_vars(func: PrimFunc) -> tuple[Var, ...]:
    """Variables in shapes, strides and offsets of the parameters, which are not parameters."""
    out: dict[Var, None] = {}
    for b in func.buffers:
        for e in _layout(b):
            for x in walk.walk_expr(e):
                if type(x) is Var and x not in func.params:
                    out.setdefault(x)
    return tuple(out)


def _layout(b: Buffer) -> tuple[Expr, ...]:
    last = () if b.elem_offset is None else (b.elem_offset,)
    return (*b.shape, *(b.strides or ()), *last)


def generate(func: PrimFunc, limits: CpuLimits, mcpu: str, mattr: str, name: str) -> str:
    """LLVM text of a lowered function."""
    on = host.enabled(mcpu, mattr)
    alias = not dict(func.attrs).get("tir.noalias", True)
    module = Module(on, "x86" in jit.host_triple().split("-")[0], limits.num_cores, alias)
    f = Fn(module)
    f.params = frozenset(func.buffers)
    f.pool = V("%pool", "handle")
    head, call, loads = _bind(f, func)
    try:
        emit(f, func.body)
    except GputuneError as e:
        raise BuildError(f"{func.name}: {e.message}", hint=e.hint) from None
    body = f.text(f"define internal i32 @{name}.body({head})")
    entry = "\n".join([
        f"define i32 @{name}(ptr %args, ptr %pool) #0 {{", *loads,
        f"  %rc = call i32 @{name}.body({call})", "  ret i32 %rc", "}", "",
    ])  # fmt: skip
    attributes = (
        f'attributes #0 = {{ nounwind "target-cpu"="{mcpu}" "target-features"="{mattr}" '
        '"prefer-vector-width"="512" }\n'
    )
    return "\n".join([
        f'target triple = "{jit.host_triple()}"', *sorted(module.declares.values()), "",
        kept.text(name, module.temporaries), *module.constants, *module.functions,
        body, entry, attributes, *module.hints,
    ])  # fmt: skip


def _bind(f: Fn, func: PrimFunc) -> tuple[str, str, list[str]]:
    """Give every parameter a value in `f`; (parameters of the body, arguments, loads of slots)."""
    table = dict(func.buffer_map)
    heads, calls, loads = [], [], []
    slots: list[tuple[str, str]] = []
    for p in func.params:
        if p in table:
            b = table[p]
            kind = "ptr" if f.module.alias_params else "ptr noalias"
            f.bases[b] = V(f"%a{len(slots)}", "handle")
            f.aligns[b] = max(b.align, dtypes.itemsize(b.dtype))
            slots.append(("ptr", kind))
        else:
            slots.append(_scalar(f, p, len(slots)))
    for v in shape_vars(func):
        f.env[v] = V(f"%a{len(slots)}", "int64")
        f.dom[v] = (0, 2**31 - 1 if v.dtype == "int32" else 2**62)
        slots.append(("i64", "i64"))
    for k, (kind, declared) in enumerate(slots):
        loads.append(f"  %p{k} = getelementptr i64, ptr %args, i64 {k}")
        loads.append(f"  %a{k} = load {kind}, ptr %p{k}, align 8")
        heads.append(f"{declared} %a{k}")
        calls.append(f"{kind} %a{k}")
    heads.append("ptr %pool")
    calls.append("ptr %pool")
    return ", ".join(heads), ", ".join(calls), loads


def _scalar(f: Fn, p: Var, k: int) -> tuple[str, str]:
    """A scalar parameter; narrow floats and bool arrive as their bits."""
    from .values import NARROW, stored_type

    if p.dtype in NARROW or p.dtype == "bool":
        from . import ops

        bits = V(f"%a{k}", "uint16" if dtypes.bits(p.dtype) == 16 else "uint8")
        f.env[p] = ops.cast(f, "bool", bits) if p.dtype == "bool" else ops.decode(
            f, bits, p.dtype
        )  # fmt: skip
        kind = stored_type(p.dtype)
        return kind, kind
    f.env[p] = V(f"%a{k}", p.dtype)
    return scalar_type(p.dtype), scalar_type(p.dtype)


__all__ = ["LlvmKernel", "Param", "compile", "generate", "shape_vars", "value"]
