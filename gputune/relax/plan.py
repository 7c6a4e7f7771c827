"""In which steps does a graph function run, and where do its tensors lie meanwhile?

A plan numbers the tensors of the function. Tuples and second names vanish: they are other ways to
say the same numbers. A step calls one function on some of the tensors. What no result needs lies
in one arena, where tensors that are not needed at the same time share memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, assert_never

import numpy as np

from ..errors import BuildError
from ..ir.graph import (
    Call,
    Constant,
    Expr,
    ExternFunc,
    Function,
    GlobalVar,
    Op,
    TensorType,
    Tuple,
    TupleGetItem,
    Type,
    Var,
    bindings,
    tensors_of,
)
from .memory import Lifetime, place

Place: TypeAlias = Literal["param", "constant", "arena", "output"]
Tree: TypeAlias = "int | tuple[Tree, ...]"
"""The number of a tensor, or the trees of a tuple's fields."""


@dataclass(slots=True)
class Tensor:
    """One tensor of a plan: its type, and where it lies (`offset` in bytes, in the arena)."""

    type: TensorType
    place: Place
    offset: int = 0
    data: np.ndarray[Any, Any] | None = None  # of a constant


@dataclass(frozen=True, slots=True)
class Step:
    """A call: `args` are the tensors that the function gets, those that it fills last."""

    callee: GlobalVar | ExternFunc
    args: tuple[int, ...]
    outputs: int  # how many it fills


@dataclass(frozen=True, slots=True)
class Plan:
    """How a graph function runs.

    Attributes:
        name: of the function, for messages.
        param_names: of its parameters.
        params: which tensors they are.
        tensors: all tensors, by number.
        steps: what is called, in order.
        result: which tensors are the result.
        arena_bytes: the size of the memory that intermediate tensors share.
    """

    name: str
    param_names: tuple[str, ...]
    params: tuple[Tree, ...]
    tensors: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    result: Tree
    arena_bytes: int

    @property
    def unshared_bytes(self) -> int:
        """What the intermediate tensors would take if each had memory of its own."""
        return sum(t.type.nbytes for t in self.tensors if t.place == "arena")


def plan(func: Function, name: str) -> Plan:
    """The plan of a graph function that is well formed.

    Raises:
        BuildError: it has an operator, which no function stands for yet.
    """
    p = _Planner(name)
    params = tuple([p.new(v.type, "param") for v in func.params])
    p.values.update(zip(func.params, params))
    for b in bindings(func):
        value = b.value
        p.values[b.var] = p.call(value) if isinstance(value, Call) else p.tree(value)
    result = p.tree(func.result)
    for k in leaves(result):
        if p.tensors[k].place == "arena":
            p.tensors[k].place = "output"
    size = _place_in_arena(p.tensors, p.steps)
    names = tuple([v.name for v in func.params])
    return Plan(name, names, params, tuple(p.tensors), tuple(p.steps), result, size)


def leaves(tree: Tree) -> list[int]:
    """The numbers in a tree, from left to right."""
    return [tree] if isinstance(tree, int) else [k for x in tree for k in leaves(x)]


class _Planner:
    """The tensors and steps so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tensors: list[Tensor] = []
        self.steps: list[Step] = []
        self.values: dict[Var, Tree] = {}
        self.constants: dict[Constant, int] = {}

    def new(self, t: Type, place: Place) -> Tree:
        """Numbers for a value of that type."""
        if not isinstance(t, TensorType):
            return tuple([self.new(x, place) for x in t.fields])
        self.tensors.append(Tensor(t, place))
        return len(self.tensors) - 1

    def tree(self, e: Expr) -> Tree:
        """The numbers that a value which is no call stands for."""
        match e:
            case Var():
                return self.values[e]
            case Constant():
                if e not in self.constants:
                    self.constants[e] = len(self.tensors)
                    self.tensors.append(Tensor(e.type, "constant", data=e.data))
                return self.constants[e]
            case Tuple():
                return tuple([self.tree(x) for x in e.fields])
            case TupleGetItem():
                whole = self.tree(e.value)
                assert not isinstance(whole, int)
                return whole[e.index]
            case Call():
                raise AssertionError("a call that no binding names")
            case _:
                assert_never(e)

    def call(self, e: Call) -> Tree:
        """Append the step of a call; the numbers of its result."""
        if isinstance(e.callee, Op):
            raise BuildError(
                f"graph function {self.name!r} has the operator {e.callee.name!r}, which no tensor "
                "function computes",
                hint="call a tensor function (R.call_tir) or an external one in its place",
                code="operator",
            )
        ins = [k for x in e.args for k in leaves(self.tree(x))]
        result = self.new(e.type, "arena")
        outs = leaves(result)
        assert len(outs) == len(tensors_of(e.type))
        self.steps.append(Step(e.callee, (*ins, *outs), len(outs)))
        return result


def _place_in_arena(tensors: list[Tensor], steps: list[Step]) -> int:
    """Give the intermediate tensors their offsets; the size of the arena."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, step in enumerate(steps):
        for k in step.args:
            first.setdefault(k, at)
            last[k] = at
    inner = [k for k in first if tensors[k].place == "arena"]
    lives = [Lifetime(tensors[k].type.nbytes, first[k], last[k]) for k in inner]
    offsets, size = place(lives)
    for k, offset in zip(inner, offsets):
        tensors[k].offset = offset
    return size
