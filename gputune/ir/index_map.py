"""What is an index map: a rule that says at which new indices the element of an old index lies?

`lambda i, j: (i // 16, j // 16, i % 16, j % 16)` tiles a matrix. A map prints as such a text and is
read back from it through `ast`; nothing is evaluated as Python. Its constants may be sampled values
(variables that are not parameters of the lambda, bound before the map is asked anything).

Maps are understood as digits of the old indices (see iter_map.py): then they have an inverse, and
what of the new shape holds no old element (the padding) is a condition.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import GputuneError, UserError
from . import build
from .arith import Domain, bounds, simplify
from .boxes import Ranges, relax, relax_exact
from .build import const_int
from .dtypes import SCALARS
from .iter_map import IterSum, detect_iter_map, inverse_affine
from .nodes import EXPR_CLASSES, BinOp, Expr, FloatImm, IntImm, Range, Var
from .walk import substitute

MOST_INDICES = 64
"""More dimensions than any buffer has; a bound for hostile files."""
MOST_POINTS = 1 << 22
"""How many elements are looked at one by one, at the most, to see whether a map is injective."""

_FORM = (
    "an index map is a function that takes the old indices and gives the new ones, such as "
    "lambda i, j: (i // 4, j, i % 4)"
)

Integers: TypeAlias = npt.NDArray[np.int64]


class AxisSeparator:
    """What stands between final indices that belong to different axes of physical memory. Memory is
    flat here, so it is kept and printed, and has no other effect."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "IndexMap.AXIS_SEPARATOR"


@dataclass(frozen=True, slots=True, eq=False)
class IndexMap:
    """New indices in terms of old ones.

    Attributes:
        initial_indices: a variable for each old index.
        final_indices: arithmetic (`+ - * // % min max`) over them, integers and sampled values.
        axis_separators: before which final indices a separator stands, ascending.

    Example:
        >>> m = IndexMap.from_func(lambda i, j: (i // 4, j, i % 4))
        >>> print(m)
        lambda i, j: (i // 4, j, i % 4,)
        >>> m.map_shape([8, 6])
        (2, 6, 4)
        >>> print(m.inverse([8, 6]))
        lambda i0, i1, i2: (i0 * 4 + i2, i1,)
    """

    initial_indices: tuple[Var, ...]
    final_indices: tuple[Expr, ...]
    axis_separators: tuple[int, ...] = ()

    AXIS_SEPARATOR: ClassVar[AxisSeparator] = AxisSeparator()

    # ------------------------------------------------------------------ making
    @staticmethod
    def from_func(mapping_function: Callable[..., Any], ndim: int | None = None) -> IndexMap:
        """The map of a function that takes old indices and returns the new ones (or one of them).

        Args:
            mapping_function: of as many arguments as there are old indices; `*args` stands for as
                many as are left of `ndim`. It may return `IndexMap.AXIS_SEPARATOR` among the rest.
            ndim: how many old indices there are; None where the arguments say so.

        Raises:
            UserError: it takes another number of arguments, or what it returns is no arithmetic.
        """
        initial = tuple([Var(name) for name in _parameters(mapping_function, ndim)])
        got = mapping_function(*initial)
        return IndexMap._of(initial, got if isinstance(got, (list, tuple)) else [got])

    @staticmethod
    def _of(initial: tuple[Var, ...], items: Sequence[Any]) -> IndexMap:
        final: list[Expr] = []
        separators: list[int] = []
        for x in items:
            if isinstance(x, AxisSeparator):
                separators.append(len(final))
                continue
            if isinstance(x, bool) or not isinstance(x, (int, float, *EXPR_CLASSES)):
                _refuse(f"a final index must be integer arithmetic, got {x!r}")
            e = build.expr(x)
            _check_arithmetic(e)
            final.append(e)
        if len(final) > MOST_INDICES or len(initial) > MOST_INDICES:
            _refuse(f"an index map has at most {MOST_INDICES} indices")
        if not final:
            _refuse("an index map needs at least one final index")
        return IndexMap(initial, tuple(final), tuple(separators))

    @staticmethod
    def from_text(text: str) -> IndexMap:
        """The map of a printed text without sampled values; UserError if it is none.

        Example:
            >>> IndexMap.from_text("lambda i: (i // 4, i % 4)").map_shape([10])
            (3, 4)
        """
        try:
            node = ast.parse(text, mode="eval").body
            if not isinstance(node, ast.Lambda):
                _refuse(f"expected a lambda, found {text[:60]!r}")
            return IndexMap.from_ast(node, {})
        except GputuneError:
            raise  # which may be a ValueError
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            _refuse(f"cannot read {text[:60]!r}")

    @staticmethod
    def from_ast(node: ast.Lambda, outer: Mapping[str, Any]) -> IndexMap:
        """The map of a parsed lambda; `outer` holds the sampled values by name."""
        a = node.args
        if a.posonlyargs or a.vararg or a.kwonlyargs or a.kwarg or a.defaults:
            _refuse("the lambda of an index map takes plain parameters only")
        names = [x.arg for x in a.args]
        if len(set(names)) != len(names):
            _refuse(f"parameters of the same name: {', '.join(names)}")
        initial = tuple([Var(name) for name in names])
        scope: dict[str, Any] = {**outer, **dict(zip(names, initial, strict=True))}
        body = node.body
        items = body.elts if isinstance(body, (ast.Tuple, ast.List)) else [body]
        return IndexMap._of(initial, [_read(x, scope) for x in items])

    @staticmethod
    def identity(ndim: int) -> IndexMap:
        """The map that leaves every index as it is."""
        initial = tuple([Var(f"i{k}") for k in range(ndim)])
        return IndexMap(initial, initial)

    # ------------------------------------------------------------------ printing
    def text(self, names: Mapping[Var, str] | None = None) -> str:
        """The map as a Python lambda.

        Args:
            names: what the sampled values in it are called; without, by their own names.
        """
        called: dict[Var, str] = {}
        for v in self.free_vars():
            called[v] = (names or {}).get(v, v.name)
        taken = set(called.values()) | _RESERVED
        params = []
        for k, v in enumerate(self.initial_indices):
            name = v.name if v.name.isidentifier() and v.name.isascii() else f"i{k}"
            while name in taken or keyword.iskeyword(name):
                name += "_"
            taken.add(name)
            called[v] = name
            params.append(name)
        parts = [_show(e, called, 0) for e in self.final_indices]
        for k in reversed(self.axis_separators):
            parts.insert(k, repr(IndexMap.AXIS_SEPARATOR))
        head = f"lambda {', '.join(params)}:" if params else "lambda:"
        return f"{head} ({' '.join(p + ',' for p in parts)})"

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"IndexMap({self.text()})"

    # ------------------------------------------------------------------ sampled values
    def free_vars(self) -> list[Var]:
        """The sampled values in the map, in order of first appearance."""
        out: dict[Var, None] = {}
        mine = set(self.initial_indices)
        for e in self.final_indices:
            stack = [e]
            while stack:
                x = stack.pop()
                if type(x) is Var and x not in mine:
                    out[x] = None
                elif type(x) is BinOp:
                    stack += (x.b, x.a)
        return list(out)

    def bind(self, table: Mapping[Var, Expr]) -> IndexMap:
        """The map with sampled values replaced."""
        final = tuple([substitute(e, table) for e in self.final_indices])
        return IndexMap(self.initial_indices, final, self.axis_separators)

    def settled(self, shape: Sequence[int | None]) -> IndexMap:
        """The map without what divides nothing on a shape: `i // 4` is 0 where i is below 4.

        What a digit of an index that has one value only is taken for decides over the structure of
        a program. Here it is asked of sampled values as well (which records guards), so that these
        make of it what plain numbers make.
        """
        dom = {
            v: (0, n - 1) for v, n in zip(self.initial_indices, shape, strict=True) if n is not None
        }
        final = tuple([_settled(e, dom) for e in self.final_indices])
        if all(x is y for x, y in zip(final, self.final_indices, strict=True)):
            return self
        return IndexMap(self.initial_indices, final, self.axis_separators)

    # ------------------------------------------------------------------ applying
    def map_indices(self, indices: Sequence[Any]) -> tuple[Expr, ...]:
        """The new indices of old ones.

        Raises:
            UserError: another number of indices than the map takes.
        """
        if len(indices) != len(self.initial_indices):
            _refuse(
                f"the map takes {len(self.initial_indices)} indices, got {len(indices)}: {self}"
            )
        table = dict(zip(self.initial_indices, map(build.expr, indices), strict=True))
        return tuple([substitute(e, table) for e in self.final_indices])

    def map_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The extents of the new indices when the old ones run over a shape.

        Raises:
            UserError: an index may be negative, or has no constant bound.
        """
        self._check_rank(shape)
        sums = self.digits(shape)
        if sums is not None:
            out = tuple([_extent(x) for x in sums])
            if all(x.base >= 0 for x in sums):
                return out
        dom = {v: (0, n - 1) for v, n in zip(self.initial_indices, shape, strict=True)}
        extents = []
        for e in self.final_indices:
            lo, hi = bounds(e, dom)
            if lo is None or hi is None or lo < 0:
                _refuse(
                    f"index {_show(e, {}, 0)} is not always in a range from 0: it is from {lo} to "
                    f"{hi} for the shape {_ints(shape)}",
                    "let each index start at 0, such as i in place of i - 4",
                )
            extents.append(hi + 1)
        return tuple(extents)

    def map_ranges(self, ranges: Sequence[Range], *, exact: bool = False) -> Ranges | None:
        """The box that holds the new indices of a box of old ones.

        With `exact`, None unless each point of the new box comes from one of the old box.
        """
        table: dict[Var, Expr] = {}
        loops: dict[Var, tuple[int, int]] = {}
        for v, r in zip(self.initial_indices, ranges, strict=True):
            n = const_int(r.extent)
            if n is None:
                return None
            if type(n) is int and n == 1:
                table[v] = r.min
                continue
            step = Var(v.name, r.min.dtype)
            loops[step] = (0, n)
            table[v] = build.add(r.min, step)
        dom = {v: (0, n - 1) for v, (_, n) in loops.items()}
        final = [simplify(e, dom, keep_unit_vars=True) for e in self._at(table)]
        points = [Range(e, IntImm(1, e.dtype)) for e in final]
        if not loops:
            return tuple(points)
        return relax_exact(points, loops) if exact else relax(points, loops)

    def _at(self, table: Mapping[Var, Expr]) -> list[Expr]:
        return [substitute(e, table) for e in self.final_indices]

    # ------------------------------------------------------------------ understanding
    def digits(self, shape: Sequence[int]) -> tuple[IterSum, ...] | None:
        """The new indices as digits of the old ones, if different elements of the shape have
        different new indices and that can be seen; else None."""
        self._check_rank(shape)
        return detect_iter_map(
            self.final_indices,
            {v: (0, n) for v, n in zip(self.initial_indices, shape, strict=True)},
        )

    def is_surjective(self, shape: Sequence[int]) -> bool:
        """For a map that is injective on the shape: does every point of the new shape hold one of
        its elements?"""
        return bool(_product(self.map_shape(shape)) == _product(shape))

    def is_injective(self, shape: Sequence[int]) -> bool | None:
        """Do different elements of a shape get different indices? Found by analysis, or for small
        constant shapes by looking at all of them; None if neither answers."""
        if self.digits(shape) is not None:
            return True
        if any(type(n) is not int for n in shape) or not self._is_plain():
            return None
        if math.prod(shape) > MOST_POINTS:
            return None
        grid = np.indices(tuple(shape), dtype=np.int64).reshape(len(shape), -1)
        env = dict(zip(self.initial_indices, grid, strict=True))
        try:
            rows = [np.broadcast_to(_numbers(e, env), grid.shape[1:]) for e in self.final_indices]
        except ZeroDivisionError:
            return None
        return len(np.unique(np.stack(rows), axis=1).T) == grid.shape[1]

    def _is_plain(self) -> bool:
        return not self.free_vars() and all(
            type(x.value) is int
            for e in self.final_indices
            for x in _leaves(e)
            if type(x) is IntImm
        )

    def inverse(self, shape: Sequence[int]) -> IndexMap:
        """The map back, from the new shape.

        Raises:
            UserError: the map is no bijection of the shape onto the new shape, as far as can be
                seen.
        """
        back, padding = self.non_surjective_inverse(shape)
        if not build.is_literal(padding, 0):
            _refuse(
                f"{self} is not a bijection on the shape {_ints(shape)}: some of the new shape "
                f"{_ints(self.map_shape(shape))} holds no element",
                "split indices by numbers that divide their extents",
            )
        return back

    def non_surjective_inverse(self, shape: Sequence[int]) -> tuple[IndexMap, Expr]:
        """The map back, and where in the new shape there is nothing to go back to.

        Returns:
            the inverse, and a condition over its `initial_indices` that holds at the padding
            (the constant False if there is none).

        Raises:
            UserError: the map is not injective on the shape, as far as can be seen.

        Example:
            >>> m = IndexMap.from_func(lambda i: (i // 4, i % 4))
            >>> back, padding = m.non_surjective_inverse([10])
            >>> print(back, padding)
            lambda i0, i1: (i0 * 4 + i1,) i0 * 4 + i1 >= 10
        """
        if self.digits(shape) is None:
            _refuse(
                f"{self} is not seen to be injective on the shape {_ints(shape)}: two elements may "
                "get the same indices",
                "keep all of each index: with i // 4 also i % 4",
            )
        at = tuple([Var(f"i{k}", e.dtype) for k, e in enumerate(self.final_indices)])
        iters = dict(zip(self.initial_indices, shape, strict=True))
        found = inverse_affine(self.final_indices, iters, at)
        if found is None:
            _refuse(
                f"{self} cannot be inverted on the shape {_ints(shape)}",
                "keep all of each index: with i // 4 also i % 4",
            )
        new = self.map_shape(shape)
        dom = {v: (0, n - 1) for v, n in zip(at, new, strict=True)}
        back = IndexMap(at, tuple([simplify(found[v], dom) for v in self.initial_indices]))
        if _product(new) == _product(shape):
            return back, build.FALSE
        missing: list[Expr] = []
        for e, n in zip(back.final_indices, shape, strict=True):
            lo, hi = bounds(e, dom)
            if lo is None or lo < 0:
                missing.append(build.lt(e, 0))
            if hi is None or hi >= n:
                missing.append(build.ge(e, IntImm(n, e.dtype)))
        for e, o in zip(self.map_indices(back.final_indices), at, strict=True):
            off = simplify(build.sub(e, o), dom)
            if not build.is_literal(off, 0):
                missing.append(build.ne(off, 0))
        return back, build.logical_or(*missing)

    def _check_rank(self, shape: Sequence[int]) -> None:
        if len(shape) != len(self.initial_indices):
            _refuse(
                f"the map takes {len(self.initial_indices)} indices, and there are {len(shape)}: "
                f"{self}",
                f"let it take {len(shape)} indices",
            )


def _settled(e: Expr, dom: Domain) -> Expr:
    if type(e) is not BinOp:
        return e
    a, b = _settled(e.a, dom), _settled(e.b, dom)
    n = const_int(b)
    if e.op in ("//", "%") and n is not None:
        if n == 1:
            return a if e.op == "//" else IntImm(0, e.dtype)
        lo, hi = bounds(a, dom)
        if lo is not None and hi is not None and lo >= 0 and hi < n:
            return a if e.op == "%" else IntImm(0, e.dtype)
    return e if a is e.a and b is e.b else build.binary(e.op, a, b)


# ----------------------------------------------------------------------------- from functions
_RESERVED = frozenset({"min", "max", "IndexMap"})


def _parameters(f: Callable[..., Any], ndim: int | None) -> list[str]:
    try:
        params = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        _refuse(f"an index map is a function of indices, got {f!r}")
    names: list[str] = []
    rest = False
    for p in params:
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
        elif p.kind is p.VAR_POSITIONAL:
            rest = True
        elif p.default is p.empty and p.kind is p.KEYWORD_ONLY:
            _refuse(f"the function of an index map has the keyword-only argument {p.name!r}")
    if rest and ndim is None:
        _refuse("a function with *args does not say how many indices there are", "give ndim")
    if rest and ndim is not None:
        names += [f"i{k}" for k in range(len(names), ndim)]
    if ndim is not None and len(names) != ndim:
        optional = [p for p in params if p.default is not p.empty and p.name in names]
        if len(names) - len(optional) <= ndim < len(names):
            return names[:ndim]
        _refuse(
            f"the function takes {len(names)} indices, and there are {ndim}",
            f"let it take {ndim} indices",
        )
    return names


def _check_arithmetic(e: Expr) -> None:
    if type(e) is FloatImm:  # a map that gives a value, for padding
        return
    for x in _leaves(e):
        if type(x) is IntImm and x.dtype != "bool":
            continue
        if type(x) is not Var:
            _refuse(
                f"{x} in {e} is no integer arithmetic",
                "an index map may use + - * // % min and max of indices, integers and sampled "
                "values",
            )


def _leaves(e: Expr) -> list[Expr]:
    """What `e` is computed from; nodes that are no index arithmetic count as leaves."""
    out: list[Expr] = []
    stack = [e]
    while stack:
        x = stack.pop()
        if type(x) is BinOp and x.op in _ARITHMETIC:
            stack += (x.b, x.a)
        else:
            out.append(x)
    return out


# ----------------------------------------------------------------------------- text
_ARITHMETIC = {"+": 1, "-": 1, "*": 2, "//": 2, "%": 2, "min": 4, "max": 4}
_AST_OPS: dict[type[ast.operator], Any] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}


def _show(e: Expr, names: Mapping[Var, str], outer: int) -> str:
    if type(e) is Var:
        return names.get(e, e.name)
    if type(e) is IntImm:
        text = str(int(e.value))
        return f"({text})" if e.value < 0 and outer else text
    if type(e) is FloatImm:
        return repr(float(e.value)) if math.isfinite(e.value) else f'float("{float(e.value)}")'
    if type(e) is not BinOp:
        return str(e)
    level = _ARITHMETIC.get(e.op, 0)
    if level == 4:
        return f"{e.op}({_show(e.a, names, 0)}, {_show(e.b, names, 0)})"
    text = f"{_show(e.a, names, level)} {e.op} {_show(e.b, names, level + 1)}"
    return f"({text})" if level < outer else text


def _read(node: ast.expr, scope: Mapping[str, Any]) -> Any:
    """A final index of a parsed lambda."""
    match node:
        case ast.Constant(value=v) if type(v) is int or type(v) is float:
            return v
        case ast.Name(id=name):
            v = scope.get(name)
            if type(v) is not Var:
                _refuse(f"{name!r} is neither an index nor a sampled value")
            return v
        case ast.Attribute(value=ast.Name(id="IndexMap"), attr="AXIS_SEPARATOR"):
            return IndexMap.AXIS_SEPARATOR
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            v = _read(operand, scope)
            if isinstance(v, (int, float)):
                return -v
            return build.neg(_integer(v, node))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _AST_OPS:
            a, b = _integer(_read(left, scope), left), _integer(_read(right, scope), right)
            if isinstance(op, (ast.FloorDiv, ast.Mod)) and const_int(b) == 0:
                _refuse(f"division by zero in {ast.unparse(node)[:60]}")
            return build.binary(_AST_OPS[type(op)], a, b)
        case ast.Call(func=ast.Name(id="min" | "max" as f), args=[x, y], keywords=[]):
            return build.binary(
                "min" if f == "min" else "max",
                _integer(_read(x, scope), x),
                _integer(_read(y, scope), y),
            )
        case ast.Call(
            func=ast.Name(id="float"),
            args=[ast.Constant(value="inf" | "-inf" | "nan" as text)],
            keywords=[],
        ):
            return float(text)
        case ast.Call(  # as TVM prints a constant
            func=ast.Attribute(value=ast.Name(id="T"), attr=dtype), args=[x], keywords=[]
        ) if dtype in SCALARS:
            v = _read(x, scope)
            if type(v) is int or type(v) is float:
                return v
    _refuse(f"{ast.unparse(node)[:60]!r} is no index arithmetic")


def _integer(x: Any, node: ast.expr) -> Expr:
    if isinstance(x, (float, AxisSeparator)):
        _refuse(f"{ast.unparse(node)[:60]!r} is no integer")
    return build.expr(x)


# ----------------------------------------------------------------------------- numbers
_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": np.minimum,
    "max": np.maximum,
}


def _numbers(e: Expr, env: Mapping[Var, Integers]) -> Any:
    """The values of an index at many points."""
    if type(e) is Var:
        return env[e]
    if type(e) is IntImm:
        return e.value
    assert type(e) is BinOp, "checked when the map was made"
    a, b = _numbers(e.a, env), _numbers(e.b, env)
    if e.op in ("//", "%") and not np.all(b):
        raise ZeroDivisionError
    return _FOLD[e.op](a, b)


def _extent(x: IterSum) -> int:
    """One more than the largest value of a sum of digits."""
    if not x.args:
        return x.base + 1
    need = x.args[-1].scale
    gapless = type(need) is int and need == 1
    for d in reversed(x.args):
        gapless = gapless and bool(d.scale == need)
        need = d.extent if type(d.scale) is int and d.scale == 1 else d.scale * d.extent
    if not gapless:
        need = 1
        for d in x.args:
            need = need + (d.extent - 1) * d.scale
    return need if type(x.base) is int and x.base == 0 else need + x.base


def _product(shape: Sequence[int]) -> int:
    out = 1
    for n in shape:
        out = n if type(out) is int and out == 1 else out * n
    return out


def _ints(shape: Sequence[int]) -> list[int]:
    return [int(n) for n in shape]


def _refuse(message: str, hint: str = _FORM) -> NoReturn:
    raise UserError(f"index map: {message}", hint=hint, code="index-map")
