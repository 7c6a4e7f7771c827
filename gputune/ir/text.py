"""What does an expression, a region or an annotation look like as script text?"""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, assert_never

from . import dtypes, ops, walk
from .nodes import (
    EXPR_CLASSES,
    Annotations,
    BinOp,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferRegion,
    Call,
    Cast,
    Expr,
    FloatImm,
    IntImm,
    Let,
    Not,
    Ramp,
    Range,
    Select,
    Shuffle,
    StringImm,
    Var,
)

_RESERVED = frozenset({*keyword.kwlist, "T", "I", "R", "tvm", "range", "float", "__debug__"})

_LEVEL = {
    "or": 1, "and": 2, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4, "|": 5, "^": 6, "&": 7,
    "<<": 8, ">>": 8, "+": 9, "-": 9, "*": 10, "/": 10, "//": 10, "%": 10,
}  # fmt: skip

_NOT_LEVEL = 3

_COMPARE_LEVEL = 4

_ADD_LEVEL = 9

_CALLED = {"min": "T.min", "max": "T.max", "truncmod": "T.truncmod"}

_BITS_ON_BOOL = {"&": "T.bitwise_and", "|": "T.bitwise_or"}


# ----------------------------------------------------------------------------- literals
@lru_cache(maxsize=4096)
def legal_name(name: str) -> str:
    """`name` as an ASCII Python identifier that clashes with nothing the parser knows."""
    if not (name.isascii() and name.isidentifier()):
        name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
        if not name or name[0].isdigit():
            name = "v" + name
    return name + "_" if name in _RESERVED else name


def string_literal(text: str) -> str:
    """A Python string literal, in double quotes where that needs no extra escapes."""
    return repr(text) if '"' in text else '"' + repr("'" + text)[2:]


def _float(value: float) -> str:
    """The shortest literal that gives `value` back exactly (a string for inf and nan)."""
    if not math.isfinite(value):
        return f'"{value}"'
    if value == int(value) and abs(value) < 1e15 and (value or math.copysign(1, value) > 0):
        return str(int(value))
    return repr(value)


def _int_text(value: int, dtype: str) -> str:
    value = int(value)  # a sampled value is printed, never compared
    if dtype == "int32" and -(2**31) <= value < 2**31:
        return str(value)
    if dtype == "bool":
        return "T.bool(True)" if value else "T.bool(False)"
    return f"T.{dtype}({value})"


def typed(e: Expr, text: str) -> str:
    """`text` of `e`, with the dtype spelled out where `e` is a plain int32 constant."""
    return f"T.int32({text})" if type(e) is IntImm and e.dtype == "int32" else text


def is_zero(e: Expr, dtype: str) -> bool:
    """Is `e` the constant 0 of `dtype`?"""
    return type(e) is IntImm and e.dtype == dtype and int(e.value) == 0


def tuple_text(items: Sequence[str]) -> str:
    """Items as a Python tuple."""
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


class Writer:
    """Names in use, and the text of everything that is no statement."""

    __slots__ = ("active", "lenient", "names", "next", "scope")

    def __init__(self, lenient: bool = False) -> None:
        self.names: dict[Var | Buffer, str] = {}
        self.active: set[str] = set()
        self.next: dict[str, int] = {}  # where to look for the next free suffix of a name
        self.scope: list[Var | Buffer] = []
        self.lenient = lenient  # print what no script can express

    def bind(self, x: Var | Buffer, name: str = "") -> str:
        """Give `x` a name that is free here; it stays until the scope is released."""
        self.scope.append(x)
        return self._take(x, name or x.name)

    def _take(self, x: Var | Buffer, wanted: str) -> str:
        name = base = legal_name(wanted)
        if name in self.active:
            k = self.next.get(base, 1)
            while f"{base}_{k}" in self.active:
                k += 1
            self.next[base] = k + 1
            name = f"{base}_{k}"
        self.active.add(name)
        self.names[x] = name
        return name

    def name(self, x: Var | Buffer) -> str:
        """The name of `x`; one that nothing binds gets a name for good."""
        return self.names.get(x) or self._take(x, x.name)

    def release(self, mark: int) -> None:
        """Forget the names bound since `mark = len(self.scope)`."""
        scope = self.scope
        while len(scope) > mark:
            x = scope.pop()
            name = self.names.pop(x, None)
            if name is not None:
                self.active.discard(name)
                self.next.pop(legal_name(x.name), None)

    # -- buffers
    def dom(self, r: Range) -> str:
        """The domain of an iterator: an extent, or (begin, end)."""
        if is_zero(r.min, r.extent.dtype):
            return self.expr(r.extent)
        bounds = self.bounds(r.min, r.extent)
        return self.exact_range(r) if bounds is None else f"({bounds[0]}, {bounds[1]})"

    def buffer_args(self, b: Buffer, dtype_always: bool = False) -> str:
        """The arguments of `T.Buffer`, `T.alloc_buffer` and their like."""
        args = [tuple_text([self.expr(s) for s in b.shape])]
        if dtype_always or b.dtype != "float32":
            args.append(string_literal(b.dtype))
        if b.scope != "global":
            args.append(f"scope={string_literal(b.scope)}")
        if b.strides is not None:
            args.append(f"strides={tuple_text([self.expr(s) for s in b.strides])}")
        if b.elem_offset is not None:
            args.append(f"elem_offset={self.expr(b.elem_offset)}")
        if b.align:
            args.append(f"align={int(b.align)}")
        return ", ".join(args)

    def region(self, r: BufferRegion) -> str:
        """`A[i, 0:4]`."""
        ranges = ", ".join([self.range_text(x) for x in r.region])
        return f"{self.name(r.buffer)}[{ranges or '()'}]"

    def range_text(self, r: Range) -> str:
        """One dimension of a region: a point, `begin:end`, or the exact form."""
        extent = r.extent
        if type(extent) is IntImm and int(extent.value) == 1 and extent.dtype == r.min.dtype:
            return self.expr(r.min)
        bounds = self.bounds(r.min, extent)
        return self.exact_range(r) if bounds is None else f"{bounds[0]}:{bounds[1]}"

    def exact_range(self, r: Range) -> str:
        """The form that keeps everything: minimum and extent as they are."""
        return f"T.Range({self.expr(r.min)}, {self.expr(r.extent)})"

    def bounds(self, lo: Expr, extent: Expr) -> tuple[str, str] | None:
        """Begin and end as text, or None if the parser could not get the extent back from them."""
        dtype = lo.dtype
        if dtype != extent.dtype:
            return None
        if type(lo) is IntImm and type(extent) is IntImm:
            end = int(lo.value) + int(extent.value)
            if not dtypes.is_int(dtype) or not -(2**31) <= end < 2**31:
                return None
            return _int_text(lo.value, dtype), _int_text(end, dtype)
        if is_zero(lo, dtype):
            return self.expr(lo), self.expr(extent)
        if any(type(x) is Let for x in walk.walk_expr(lo)):
            return None
        return self.expr(lo), f"{self.expr(lo, _ADD_LEVEL)} + {self.expr(extent, _ADD_LEVEL + 1)}"

    def indices(self, items: Iterable[Expr]) -> str:
        """The inside of the brackets of an access."""
        return ", ".join([self.expr(i) for i in items]) or "()"

    # -- expressions
    def expr(self, e: Expr, level: int = 0) -> str:
        """`e` as text, in parentheses if it binds less tightly than `level`."""
        t = type(e)
        if t is Var:
            return self.names.get(e) or self.name(e)  # type: ignore[arg-type]  # t is Var
        if t is IntImm:
            return _int_text(e.value, e.dtype)  # type: ignore[union-attr,arg-type]  # t is IntImm
        if t is BinOp:
            return self.binary(e, level)  # type: ignore[arg-type]  # t is BinOp
        match e:
            case FloatImm():
                return f"T.{e.dtype}({_float(e.value)})"
            case StringImm():
                return string_literal(e.value)
            case BufferLoad():
                return self.load(e)
            case Cast():
                return f"T.Cast({string_literal(e.dtype)}, {self.expr(e.value)})"
            case Not():
                text = f"not {self.expr(e.a, _NOT_LEVEL)}"
                return f"({text})" if level > _NOT_LEVEL else text
            case Select():
                return f"T.Select({self.expr(e.cond)}, {self.expr(e.a)}, {self.expr(e.b)})"
            case Call():
                return self.call(e)
            case Ramp():
                return f"T.Ramp({self.expr(e.base)}, {self.expr(e.stride)}, {int(e.lanes)})"
            case Broadcast():
                return f"T.Broadcast({self.expr(e.value)}, {int(e.lanes)})"
            case Shuffle():
                vectors = ", ".join([self.expr(v) for v in e.vectors])
                return f"T.Shuffle([{vectors}], {[int(i) for i in e.indices]})"
            case Let():
                value, mark = self.expr(e.value), len(self.scope)
                name = self.bind(e.var)
                text = f"T.Let({self.expr(e.body)}, where={{{name}: {value}}})"
                self.release(mark)
                return text
            case Var() | IntImm() | BinOp():
                raise AssertionError("handled above")
            case _:
                assert_never(e)

    def binary(self, e: BinOp, level: int) -> str:
        """Infix along the left spine without recursion, so that long sums cost what they are."""
        spine: list[tuple[BinOp, str, int]] = []
        x: Expr = e
        while type(x) is BinOp and (infix := _infix(x)):
            spine.append((x, infix, _LEVEL[infix]))
            x = x.a
        if not spine:
            return self.call_binary(e)
        first = spine[-1]
        needed = first[2] + (first[2] == _COMPARE_LEVEL)
        text = self.expr(x, needed)
        if type(first[0].b) is IntImm:
            text = typed(x, text)  # two bare literals would fold
        parts, opened = [text], 0
        own = 0
        for node, infix, at in reversed(spine):
            if own and own < at + (at == _COMPARE_LEVEL):
                parts.append(")")
                opened += 1
            right = self.expr(node.b, at + 1)
            parts.append(f" {infix} {right}")
            own = at
        if own < level:
            parts.append(")")
            opened += 1
        return "(" * opened + "".join(parts)

    def call_binary(self, e: BinOp) -> str:
        """What Python has no operator for."""
        a, b = self.expr(e.a), self.expr(e.b)
        if type(e.b) is IntImm:
            a = typed(e.a, a)
        if e.op in _CALLED:
            name = _CALLED[e.op]
        elif e.op == "/":
            name = "T.truncdiv"
        else:
            name = _BITS_ON_BOOL[e.op]
        return f"{name}({a}, {b})"

    def load(self, e: BufferLoad) -> str:
        """`A[i]`, or `A.vload([i], predicate=mask)`."""
        if e.predicate is None:
            return f"{self.name(e.buffer)}[{self.indices(e.indices)}]"
        where = f"[{', '.join([self.expr(i) for i in e.indices])}]"
        return f"{self.name(e.buffer)}.vload({where}, predicate={self.expr(e.predicate)})"

    def call(self, e: Call) -> str:
        """An intrinsic; `T.call_intrin` where its usual form would lose the dtype."""
        args, op = e.args, e.op
        math_op = ops.MATH.get(op)
        if math_op is not None and len(args) == math_op.arity:
            same = all([a.dtype == args[0].dtype for a in args])
            result = _result_dtype(op, args[0].dtype)
            if same and result == e.dtype:
                return f"T.{op}({', '.join([typed(a, self.expr(a)) for a in args])})"
        elif op == "if_then_else" and len(args) == 3 and e.dtype == args[1].dtype == args[2].dtype:
            return f"T.if_then_else({', '.join([self.expr(a) for a in args])})"
        elif op in ("likely", "assume") and len(args) == 1 and e.dtype == args[0].dtype:
            return f"T.{op}({self.expr(args[0])})"
        elif op == "call_extern" and args and type(args[0]) is StringImm:
            inner = ", ".join([self.expr(a) for a in args])
            return f"T.call_extern({inner}, dtype={string_literal(e.dtype)})"
        elif op == "reinterpret" and len(args) == 1:
            return f"T.reinterpret({string_literal(e.dtype)}, {self.expr(args[0])})"
        items = [string_literal(e.dtype), string_literal(op), *[self.expr(a) for a in args]]
        return f"T.call_intrin({', '.join(items)})"

    # -- annotations
    def annotations(self, pairs: Annotations) -> str:
        """Annotations as a dict."""
        return f"{{{', '.join([f'{string_literal(k)}: {self.value(v, k)}' for k, v in pairs])}}}"

    def value(self, v: Any, key: str) -> str:
        """An annotation value: a Python value stays one, an expression keeps its dtype."""
        if v is None or isinstance(v, bool):
            return repr(v)
        if isinstance(v, str):
            return string_literal(str(v))
        if isinstance(v, int):
            return str(int(v))
        if isinstance(v, float):
            return repr(float(v)) if math.isfinite(v) else f'float("{float(v)}")'
        if isinstance(v, list):
            return f"[{', '.join([self.value(x, key) for x in v])}]"
        if isinstance(v, tuple):
            return tuple_text([self.value(x, key) for x in v])
        if isinstance(v, dict):
            items = [f"{self.value(k, key)}: {self.value(x, key)}" for k, x in v.items()]
            return f"{{{', '.join(items)}}}"
        if isinstance(v, StringImm):
            return f"T.StringImm({string_literal(v.value)})"
        if isinstance(v, EXPR_CLASSES):
            return typed(v, self.expr(v))
        if isinstance(v, Buffer):
            return self.name(v)
        item: Callable[[], Any] | None = getattr(v, "item", None)
        if item is not None and getattr(v, "ndim", None) == 0:  # a NumPy scalar
            return self.value(item(), key)
        if self.lenient:
            return f"<{type(v).__name__}>"
        raise TypeError(
            f"annotation {key!r} holds a {type(v).__name__}, which no script can express; "
            "use None, bool, int, float, str, list, tuple, dict or an expression"
        )


def _result_dtype(op: str, first: str) -> str:
    """The dtype of math intrinsic `op` on a first argument of dtype `first`."""
    return dtypes.with_lanes("bool", dtypes.lanes(first)) if ops.MATH[op].to_bool else first


def _infix(e: BinOp) -> str:
    """The Python operator for `e`, or "" if it is written as a call."""
    op = e.op
    if op not in _LEVEL:
        return ""
    if op == "/":
        return op if dtypes.is_float(e.dtype) else ""
    if op in _BITS_ON_BOOL and dtypes.is_bool(e.dtype):
        return ""
    return op
