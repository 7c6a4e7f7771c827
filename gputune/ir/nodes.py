"""What is a program made of? Every node of tensor programs, on one page; `graph.py` is the other.

A program is an `IRModule` of `PrimFunc`s, and of graph functions that call them (`graph.py`). A
`PrimFunc` is a tree of statements (`Stmt`) over expressions (`Expr`). Nodes are frozen: a change
makes a new tree that shares what did not change.
They compare by identity; `structural_equal` compares meaning. A loop is identified by its `Var`
object and a block by its `BlockKey` object; both survive rewrites.

Integers inside nodes (`IntImm.value`, and so loop extents) may be instances of a *subclass* of int
that carries an expression over sampled decisions (`gputune.schedule.dim.Dim`). Code in this room
never needs to know, but must keep one rule: only a value with `type(v) is int` may steer a
simplification such as `x * 1 -> x`, because anything else may differ from candidate to candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from . import dtypes

BinaryOp: TypeAlias = Literal[
    # arithmetic; "/" is floating division, or truncating division on integers like C
    "+", "-", "*", "/", "//", "%", "truncmod", "min", "max",
    # bits
    "&", "|", "^", "<<", ">>",
    # comparison: result dtype is bool
    "==", "!=", "<", "<=", ">", ">=",
    # logic on bool
    "and", "or",
]  # fmt: skip
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
LOGIC = frozenset({"and", "or"})

ForKind: TypeAlias = Literal["serial", "parallel", "vectorized", "unrolled", "thread_binding"]
IterKind: TypeAlias = Literal["spatial", "reduce", "scan", "opaque"]
Annotations: TypeAlias = tuple[tuple[str, Any], ...]


class _Ops:
    """Python operators on expressions, as the script and index maps use them."""

    __slots__ = ()

    def __add__(self, o: Any) -> Expr:
        return build.add(self, o)

    def __radd__(self, o: Any) -> Expr:
        return build.add(o, self)

    def __sub__(self, o: Any) -> Expr:
        return build.sub(self, o)

    def __rsub__(self, o: Any) -> Expr:
        return build.sub(o, self)

    def __mul__(self, o: Any) -> Expr:
        return build.mul(self, o)

    def __rmul__(self, o: Any) -> Expr:
        return build.mul(o, self)

    def __truediv__(self, o: Any) -> Expr:
        return build.div(self, o)

    def __rtruediv__(self, o: Any) -> Expr:
        return build.div(o, self)

    def __floordiv__(self, o: Any) -> Expr:
        return build.floordiv(self, o)

    def __rfloordiv__(self, o: Any) -> Expr:
        return build.floordiv(o, self)

    def __mod__(self, o: Any) -> Expr:
        return build.floormod(self, o)

    def __rmod__(self, o: Any) -> Expr:
        return build.floormod(o, self)

    def __and__(self, o: Any) -> Expr:
        return build.bitand(self, o)

    def __rand__(self, o: Any) -> Expr:
        return build.bitand(o, self)

    def __or__(self, o: Any) -> Expr:
        return build.bitor(self, o)

    def __ror__(self, o: Any) -> Expr:
        return build.bitor(o, self)

    def __xor__(self, o: Any) -> Expr:
        return build.bitxor(self, o)

    def __rxor__(self, o: Any) -> Expr:
        return build.bitxor(o, self)

    def __lshift__(self, o: Any) -> Expr:
        return build.shl(self, o)

    def __rlshift__(self, o: Any) -> Expr:
        return build.shl(o, self)

    def __rshift__(self, o: Any) -> Expr:
        return build.shr(self, o)

    def __rrshift__(self, o: Any) -> Expr:
        return build.shr(o, self)

    def __neg__(self) -> Expr:
        return build.neg(self)

    def __invert__(self) -> Expr:
        return build.invert(self)

    def __lt__(self, o: Any) -> Expr:
        return build.lt(self, o)

    def __le__(self, o: Any) -> Expr:
        return build.le(self, o)

    def __gt__(self, o: Any) -> Expr:
        return build.gt(self, o)

    def __ge__(self, o: Any) -> Expr:
        return build.ge(self, o)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "the truth of an expression is not known while a program is being written; "
            "use T.if_then_else, T.Select, or `if` inside the script"
        )

    def astype(self, dtype: str) -> Expr:
        """This expression converted to `dtype`."""
        return build.cast(dtype, self)

    def __str__(self) -> str:
        from .show import show

        return show(self)


# ----------------------------------------------------------------------------- expressions
@dataclass(frozen=True, slots=True, eq=False)
class Var(_Ops):
    """A scalar variable; two Vars are the same variable only if they are the same object."""

    name: str
    dtype: str = "int32"

    def __init__(self, name: str, dtype: str = "int32") -> None:
        _var_name(self, name)
        _var_dtype(self, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class IntImm(_Ops):
    """An integer or bool constant (`dtype` "bool": value 0 or 1)."""

    value: int
    dtype: str = "int32"

    def __init__(self, value: int, dtype: str = "int32") -> None:
        _int_value(self, value)
        _int_dtype(self, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class FloatImm(_Ops):
    value: float
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class StringImm(_Ops):
    value: str

    @property
    def dtype(self) -> str:
        return "handle"


@dataclass(frozen=True, slots=True, eq=False)
class Cast(_Ops):
    dtype: str
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class BinOp(_Ops):
    """`a op b`; both sides have one dtype (lanes included), `dtype` is that of the result."""

    op: BinaryOp
    a: Expr
    b: Expr
    dtype: str

    def __init__(
        self,
        op: BinaryOp,
        a: Expr,
        b: Expr,
        dtype: str,
    ) -> None:
        _binop_op(self, op)
        _binop_a(self, a)
        _binop_b(self, b)
        _binop_dtype(self, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Not(_Ops):
    a: Expr

    @property
    def dtype(self) -> str:
        return self.a.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Select(_Ops):
    """`a` where `cond`, else `b`; both may be evaluated (`Call("if_then_else")` evaluates one)."""

    cond: Expr
    a: Expr
    b: Expr

    @property
    def dtype(self) -> str:
        return self.a.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Call(_Ops):
    """An intrinsic by name: "exp", "if_then_else", "call_extern", "likely", "assume", ..."""

    op: str
    args: tuple[Expr, ...]
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class BufferLoad(_Ops):
    """`buffer[indices]`; a vector when the last index is a `Ramp`; lanes may be masked."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    predicate: Expr | None = None

    @property
    def dtype(self) -> str:
        return dtypes.access_dtype(self.buffer.dtype, self.indices)


@dataclass(frozen=True, slots=True, eq=False)
class Ramp(_Ops):
    """The vector base, base + stride, ... of `lanes` elements."""

    base: Expr
    stride: Expr
    lanes: int

    @property
    def dtype(self) -> str:
        return dtypes.with_lanes(self.base.dtype, self.lanes)


@dataclass(frozen=True, slots=True, eq=False)
class Broadcast(_Ops):
    value: Expr
    lanes: int

    @property
    def dtype(self) -> str:
        return dtypes.with_lanes(self.value.dtype, self.lanes)


@dataclass(frozen=True, slots=True, eq=False)
class Shuffle(_Ops):
    """The elements `indices` of the concatenation of `vectors`."""

    vectors: tuple[Expr, ...]
    indices: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return dtypes.with_lanes(dtypes.scalar(self.vectors[0].dtype), len(self.indices))


@dataclass(frozen=True, slots=True, eq=False)
class Let(_Ops):
    """`body` with `var` bound to `value`."""

    var: Var
    value: Expr
    body: Expr

    @property
    def dtype(self) -> str:
        return self.body.dtype


Expr: TypeAlias = (
    Var | IntImm | FloatImm | StringImm | Cast | BinOp | Not | Select | Call | BufferLoad
    | Ramp | Broadcast | Shuffle | Let
)  # fmt: skip
EXPR_CLASSES = (
    Var, IntImm, FloatImm, StringImm, Cast, BinOp, Not, Select, Call, BufferLoad,
    Ramp, Broadcast, Shuffle, Let,
)  # fmt: skip


# ----------------------------------------------------------------------------- buffers
@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A named tensor in memory; identified by the object, not by the name.

    `strides` is None for row-major; `elem_offset` is None for zero (both in elements);
    `align` is the alignment in bytes that the data pointer promises (0: that of the dtype).
    `swizzle`, of lowered code only: pieces of 16 bytes change places within rows of so many bytes,
    32, 64 or 128, by bits 7 to 9 of their address (0: they do not). It is applied where addresses
    are written, so that no analysis of indices meets it.
    """

    name: str
    shape: tuple[Expr, ...]
    dtype: str = "float32"
    scope: str = "global"
    strides: tuple[Expr, ...] | None = None
    elem_offset: Expr | None = None
    align: int = 0
    swizzle: int = 0

    def __getitem__(self, indices: Any) -> Expr:
        """A load, for index maps and hand-built programs: `A[i, j]`."""
        return build.load(self, indices)


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """The half-open interval [min, min + extent)."""

    min: Expr
    extent: Expr

    def __init__(self, min: Expr, extent: Expr) -> None:
        _range_min(self, min)
        _range_extent(self, extent)


@dataclass(frozen=True, slots=True, eq=False)
class BufferRegion:
    buffer: Buffer
    region: tuple[Range, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MatchBuffer:
    """Inside a block: `buffer` is a view of `source`."""

    buffer: Buffer
    source: BufferRegion


@dataclass(frozen=True, slots=True, eq=False)
class IterVar:
    """A block iterator: `var` runs over `dom`; what it means is its kind."""

    var: Var
    dom: Range
    kind: IterKind


# ----------------------------------------------------------------------------- statements
@dataclass(frozen=True, slots=True, eq=False)
class BufferStore:
    buffer: Buffer
    value: Expr
    indices: tuple[Expr, ...]
    predicate: Expr | None = None


@dataclass(frozen=True, slots=True, eq=False)
class For:
    """A loop: `var` takes min, min + 1, ..., `extent` times. `thread` names a thread axis, such as
    "threadIdx.x", exactly when `kind` is "thread_binding"."""

    var: Var
    min: Expr
    extent: Expr
    kind: ForKind
    body: Stmt
    thread: str | None = None
    annotations: Annotations = ()

    def __init__(
        self,
        var: Var,
        min: Expr,
        extent: Expr,
        kind: ForKind,
        body: Stmt,
        thread: str | None = None,
        annotations: Annotations = (),
    ) -> None:
        _for_var(self, var)
        _for_min(self, min)
        _for_extent(self, extent)
        _for_kind(self, kind)
        _for_body(self, body)
        _for_thread(self, thread)
        _for_annotations(self, annotations)


class BlockKey:
    """The identity of a block; survives rewrites and `Schedule.copy`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A unit of computation together with the point of the loop nest at which it is run.

    `iter_values` bind `iter_vars` to the enclosing loops (same length); the block runs where
    `predicate` holds. `init`, if any, runs before `body` whenever every reduce iterator is at its
    minimum. `alloc_buffers` live inside the block. The outermost block of a function is named
    "root" and has no iterators.
    """

    key: BlockKey
    name: str
    iter_vars: tuple[IterVar, ...]
    iter_values: tuple[Expr, ...]
    predicate: Expr
    reads: tuple[BufferRegion, ...]
    writes: tuple[BufferRegion, ...]
    body: Stmt
    init: Stmt | None = None
    alloc_buffers: tuple[Buffer, ...] = ()
    match_buffers: tuple[MatchBuffer, ...] = ()
    annotations: Annotations = ()

    def __init__(
        self,
        key: BlockKey,
        name: str,
        iter_vars: tuple[IterVar, ...],
        iter_values: tuple[Expr, ...],
        predicate: Expr,
        reads: tuple[BufferRegion, ...],
        writes: tuple[BufferRegion, ...],
        body: Stmt,
        init: Stmt | None = None,
        alloc_buffers: tuple[Buffer, ...] = (),
        match_buffers: tuple[MatchBuffer, ...] = (),
        annotations: Annotations = (),
    ) -> None:
        _block_key(self, key)
        _block_name(self, name)
        _block_iter_vars(self, iter_vars)
        _block_iter_values(self, iter_values)
        _block_predicate(self, predicate)
        _block_reads(self, reads)
        _block_writes(self, writes)
        _block_body(self, body)
        _block_init(self, init)
        _block_alloc_buffers(self, alloc_buffers)
        _block_match_buffers(self, match_buffers)
        _block_annotations(self, annotations)


@dataclass(frozen=True, slots=True, eq=False)
class Seq:
    """Statements one after the other: at least two, none of them a Seq (see `build.seq`)."""

    items: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, eq=False)
class IfThenElse:
    cond: Expr
    then: Stmt
    orelse: Stmt | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LetStmt:
    """`body` with `var` bound to `value`."""

    var: Var
    value: Expr
    body: Stmt


@dataclass(frozen=True, slots=True, eq=False)
class Evaluate:
    """An expression for its effect: `T.evaluate(...)`, `T.assume(...)`."""

    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Alloc:
    """`buffer` lives during `body` (lowered code only: blocks hold allocations before that)."""

    buffer: Buffer
    body: Stmt


Stmt: TypeAlias = (
    BufferStore | For | Block | Seq | IfThenElse | LetStmt | Evaluate | Alloc
)  # fmt: skip
STMT_CLASSES = (BufferStore, For, Block, Seq, IfThenElse, LetStmt, Evaluate, Alloc)
Node: TypeAlias = Expr | Stmt | Buffer | Range | BufferRegion | MatchBuffer | IterVar


# ----------------------------------------------------------------------------- construction
# A schedule replay makes hundreds of these. Filling the slots through their descriptors takes half
# the time of the __init__ that dataclass writes for a frozen class.
def _setters(cls: type) -> list[Callable[[Any, Any], None]]:
    return [cls.__dict__[name].__set__ for name in cls.__slots__]  # type: ignore[attr-defined]  # slots=True made them


(_var_name, _var_dtype) = _setters(Var)
(_int_value, _int_dtype) = _setters(IntImm)
(_binop_op, _binop_a, _binop_b, _binop_dtype) = _setters(BinOp)
(_range_min, _range_extent) = _setters(Range)
(_for_var, _for_min, _for_extent, _for_kind, _for_body, _for_thread, _for_annotations) = _setters(
    For
)
(
    _block_key,
    _block_name,
    _block_iter_vars,
    _block_iter_values,
    _block_predicate,
    _block_reads,
    _block_writes,
    _block_body,
    _block_init,
    _block_alloc_buffers,
    _block_match_buffers,
    _block_annotations,
) = _setters(Block)


# ----------------------------------------------------------------------------- functions
class _Scripted:
    """What can be printed whole."""

    __slots__ = ()

    def script(self, *, show_data: bool = True) -> str:
        """The program as script text; parsing it gives a structurally equal program back.

        Args:
            show_data: False leaves out the elements of large constants: shorter, but that text is
                for reading only.
        """
        from .show import script

        assert isinstance(self, (PrimFunc, IRModule, graph.Function))
        return script(self, show_data)

    def show(self) -> None:
        """Print the script, without the elements of large constants."""
        print(self.script(show_data=False))

    def __str__(self) -> str:
        return self.script()

    def _repr_html_(self) -> str:
        from .show import html

        return html(self.script(show_data=False))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PrimFunc(_Scripted):
    """A kernel. A parameter is a scalar `Var` or a handle `Var` that `buffer_map` makes a buffer.

    `body` is always the root block. `attrs` holds function attributes such as "global_symbol".
    """

    params: tuple[Var, ...]
    buffer_map: tuple[tuple[Var, Buffer], ...]
    body: Block
    attrs: Annotations = ()

    def __init__(
        self,
        params: tuple[Var, ...],
        buffer_map: tuple[tuple[Var, Buffer], ...],
        body: Block,
        attrs: Annotations = (),
    ) -> None:
        _func_params(self, params)
        _func_buffer_map(self, buffer_map)
        _func_body(self, body)
        _func_attrs(self, attrs)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The parameter buffers, in parameter order."""
        table = dict(self.buffer_map)
        return tuple(table[p] for p in self.params if p in table)

    @property
    def name(self) -> str:
        """The global symbol, or "main"."""
        return str(dict(self.attrs).get("global_symbol", "main"))

    def with_attr(self, key: str, value: Any) -> PrimFunc:
        """A copy with one attribute set."""
        attrs = (*((k, v) for k, v in self.attrs if k != key), (key, value))
        return PrimFunc(self.params, self.buffer_map, self.body, attrs)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IRModule(_Scripted):
    """Functions by name: tensor functions in `functions`, graph functions in `graphs`.

    No name stands for two functions. `functions` may be given both kinds: what is a graph function
    is put into `graphs`.
    """

    functions: Mapping[str, PrimFunc]
    attrs: Annotations
    graphs: Mapping[str, graph.Function]

    def __init__(
        self,
        functions: Mapping[str, PrimFunc | graph.Function] | None = None,
        attrs: Annotations = (),
        graphs: Mapping[str, graph.Function] | None = None,
    ) -> None:
        tensor: Mapping[str, Any] = {} if functions is None else functions
        graphs = {} if graphs is None else graphs
        if any([isinstance(f, graph.Function) for f in tensor.values()]):
            more = {k: f for k, f in tensor.items() if isinstance(f, graph.Function)}
            tensor = {k: f for k, f in tensor.items() if k not in more}
            graphs = {**graphs, **more}
        _module_functions(self, tensor)
        _module_attrs(self, attrs)
        _module_graphs(self, graphs)

    def __getitem__(self, name: str | graph.GlobalVar) -> Any:
        """The function of that name: a `PrimFunc`, or a graph `Function`; KeyError if none."""
        key = name.name if isinstance(name, graph.GlobalVar) else name
        found: PrimFunc | graph.Function | None = self.functions.get(key)
        if found is None:
            found = self.graphs.get(key)
        if found is None:
            known = ", ".join(self) or "none"
            raise KeyError(f"no function named {key!r} in this module (it has: {known})")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.functions or name in self.graphs

    def __iter__(self) -> Iterator[str]:
        yield from self.functions
        yield from self.graphs

    def get_global_var(self, name: str) -> graph.GlobalVar:
        """What stands for the function of that name in calls, and for `update_func`; KeyError if
        there is none."""
        _ = self[name]
        return graph.GlobalVar(name)

    def update_func(self, var: str | graph.GlobalVar, func: PrimFunc | graph.Function) -> None:
        """Put a function under a name, in the place of the one that is there, if any.

        The one change that is made in place: all who hold this module see it.

        Example:
            >>> mod.update_func(mod.get_global_var("linear0"), tuned)
        """
        key = var.name if isinstance(var, graph.GlobalVar) else var
        if not isinstance(key, str) or not key:
            raise TypeError(f"a function has a name, got {key!r}")
        if not isinstance(func, (PrimFunc, graph.Function)):
            raise TypeError(f"{key!r} is to be a function of the script, got {type(func).__name__}")
        is_graph = isinstance(func, graph.Function)
        functions: dict[str, Any] = dict(self.functions)
        graphs: dict[str, Any] = dict(self.graphs)
        (functions if is_graph else graphs).pop(key, None)
        (graphs if is_graph else functions)[key] = func
        _module_functions(self, functions)
        _module_graphs(self, graphs)

    @staticmethod
    def from_expr(func: PrimFunc | graph.Function) -> IRModule:
        """A module of one function, under its global symbol (or "main")."""
        return IRModule({func.name: func})


(_func_params, _func_buffer_map, _func_body, _func_attrs) = _setters(PrimFunc)
(_module_functions, _module_attrs, _module_graphs) = _setters(IRModule)

# Operators on expressions fold through `build`, and modules hold graph functions; both need
# classes from above: hence down here.
from . import build, graph  # noqa: E402
