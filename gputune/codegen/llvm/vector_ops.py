"""How is one instruction on whole vectors called? The intrinsics of `gputune.ir.ops.VECTOR`.

Narrow floats and bools, which are held wider than they are in memory, go in and come out as their
bits.
"""

from __future__ import annotations

from ...errors import BuildError
from ...ir import dtypes
from ...ir.ops import VectorOp
from . import ops
from .fn import Fn
from .values import NARROW, V, llvm_type, stored_type, type_of

_NATIVE = {"bfloat16": "bfloat", "float16": "half"}


def call_vector_op(f: Fn, name: str, op: VectorOp, args: list[V]) -> V:
    """The value of a vector intrinsic.

    Raises:
        BuildError: it has no LLVM function, the processor lacks a feature, or an argument has
            another type.
    """
    require(f, name, op)
    texts = []
    for v, dtype in zip(args, op.args, strict=True):
        if (v.dtype, v.lanes) != dtypes.split(dtype):
            raise BuildError(f"{name} takes {dtype}, got {v.dtype} x {v.lanes}")
        kind, ref = _native(f, v)
        texts.append((kind, ref))
    dtype, lanes = dtypes.split(op.result)
    kind = _native_type(dtype, lanes)
    fn = f.module.declare(op.llvm, kind, ", ".join(k for k, _ in texts))
    text = f"call {kind} {fn}({', '.join(f'{k} {r}' for k, r in texts)})"
    out = f.op(text, dtype, lanes, max(v.depth for v in args))
    if dtype not in NARROW and dtype != "bool":
        return out
    bits = _stored_dtype(dtype)
    text = f"bitcast {kind} {out.ref} to {llvm_type(bits, lanes)}"
    return from_bits(f, f.op(text, bits, lanes, out.depth), dtype, lanes)


def require(f: Fn, name: str, op: VectorOp) -> None:
    """BuildError unless the target has the instruction."""
    if not op.llvm:
        raise BuildError(f"{name} has no code on llvm targets")
    missing = [x for x in op.features if x not in f.module.features]
    if missing:
        raise BuildError(
            f"{name} needs a processor with {', '.join(missing)}, which the target does not have",
            hint="tensorize with an intrinsic that this target has",
        )


def _native_type(dtype: str, lanes: int) -> str:
    """LLVM's own type for the elements."""
    one = _NATIVE.get(dtype) or stored_type(dtype)
    return one if lanes == 1 else f"<{lanes} x {one}>"


def _native(f: Fn, v: V) -> tuple[str, str]:
    kind = _native_type(v.dtype, v.lanes)
    bits = as_bits(f, v)
    if type_of(bits) == kind:
        return kind, bits.ref
    text = f"bitcast {type_of(bits)} {bits.ref} to {kind}"
    return kind, f.op(text, v.dtype, v.lanes, bits.depth).ref


def _stored_dtype(dtype: str) -> str:
    if dtype in NARROW:
        return "uint16" if dtypes.bits(dtype) == 16 else "uint8"
    return "uint8" if dtype == "bool" else dtype


def as_bits(f: Fn, v: V) -> V:
    """The value as it is in memory: narrow floats and bools as unsigned integers."""
    if v.dtype in NARROW:
        return ops.encode(f, v)
    return ops.convert(f, "zext", v, "uint8") if v.dtype == "bool" else v


def from_bits(f: Fn, bits: V, dtype: str, lanes: int) -> V:
    """The same bits as `lanes` elements of `dtype`."""
    stored = _stored_dtype(dtype)
    if lanes != bits.lanes or llvm_type(stored) != llvm_type(bits.dtype):
        text = f"bitcast {type_of(bits)} {bits.ref} to {llvm_type(stored, lanes)}"
        bits = f.op(text, stored, lanes, bits.depth)
    else:
        bits = ops.as_dtype(bits, stored)
    if dtype in NARROW:
        return ops.decode(f, bits, dtype)
    return ops.cast(f, "bool", bits) if dtype == "bool" else bits
