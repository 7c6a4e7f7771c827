"""How far apart in memory are the elements that neighbouring iterations of a loop touch?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.affine import add_term, linear, recombine
from ..ir.build import const_int
from ..ir.nodes import Block, Buffer, BufferLoad, BufferStore, Expr, Var
from ..ir.walk import expr_children, free_vars, stmt_children, stmt_exprs


@dataclass(frozen=True)
class Access:
    """One access of a block as a sum over its loops.

    Attributes:
        factors: elements that the address moves when a loop advances by one.
        irregular: the loops along which it does not move evenly.
        is_store: is it written?
    """

    factors: dict[Var, int]
    irregular: frozenset[Var]
    is_store: bool


@dataclass(frozen=True)
class Strides:
    """The accesses of a block."""

    accesses: tuple[Access, ...]

    def is_unit(self, loop: Var) -> bool:
        """Does each store move by one element along the loop, each load by one or not at all?"""
        for a in self.accesses:
            if loop in a.irregular:
                return False
            step = a.factors.get(loop, 0)
            if type(step) is int and step == 0 and not a.is_store:
                continue
            if step != 1:
                return False
        return True

    def continues(self, outer: Var, inner: Var, extent: int) -> bool:
        """Does an iteration of `outer` begin where `extent` iterations of `inner` end, in each
        access that moves at all? Then both are one loop, as far as memory is concerned."""
        pairs: list[tuple[int, int]] = []
        for a in self.accesses:
            if outer in a.irregular or inner in a.irregular:
                return False
            far, near = a.factors.get(outer, 0), a.factors.get(inner, 0)
            still = type(near) is int and near == 0
            if still != (type(far) is int and far == 0):
                return False  # asked of all before the first comparison of extents
            if not still:
                pairs.append((far, near))
        return all(far == near * extent for far, near in pairs)


def strides_of(block: Block) -> Strides | None:
    """The strides of all loads and stores in a block, its init included; None where they are not
    known (blocks inside, views, symbolic shapes)."""
    found: list[tuple[Buffer, Sequence[Expr], bool]] = []
    if block.match_buffers or not _collect(block, found):
        return None
    binding = {
        iv.var: linear(value) for iv, value in zip(block.iter_vars, block.iter_values, strict=True)
    }
    out: list[Access] = []
    for buffer, indices, is_store in found:
        address = _address(buffer, indices)
        if address is None:
            return None
        out.append(_access(address, binding, is_store))
    return Strides(tuple(out))


def _collect(block: Block, found: list[tuple[Buffer, Sequence[Expr], bool]]) -> bool:
    """Gather the accesses; False where there is a block inside."""
    statements = [block.body] if block.init is None else [block.init, block.body]
    while statements:
        s = statements.pop()
        if type(s) is Block:
            return False
        if type(s) is BufferStore:
            found.append((s.buffer, s.indices, True))
        expressions = list(stmt_exprs(s))
        while expressions:
            e = expressions.pop()
            if type(e) is BufferLoad:
                found.append((e.buffer, e.indices, False))
            expressions.extend(expr_children(e))
        statements.extend(stmt_children(s))
    return True


def _address(buffer: Buffer, indices: Sequence[Expr]) -> dict[Expr, int] | None:
    """The address as a sum over block iterators."""
    steps = _steps(buffer)
    if steps is None:
        return None
    terms: dict[Expr, int] = {}
    for index, step in zip(indices, steps, strict=True):
        for atom, factor in linear(index)[0].items():
            add_term(terms, atom, factor * step)
    if any(type(atom) is not Var for atom in terms):
        recombine(terms)
    return terms


def _steps(buffer: Buffer) -> list[int] | None:
    """Elements between neighbours in each dimension."""
    if buffer.strides is not None:
        given = [const_int(x) for x in buffer.strides]
        return None if any(x is None for x in given) else [x for x in given if x is not None]
    out: list[int] = []
    step = 1
    for x in reversed(buffer.shape):
        out.append(step)
        n = const_int(x)
        if n is None:
            return None if len(out) < len(buffer.shape) else out[::-1]
        step *= n
    return out[::-1]


def _access(
    address: dict[Expr, int], binding: dict[Var, tuple[dict[Expr, int], int]], is_store: bool
) -> Access:
    factors: dict[Var, int] = {}
    irregular: set[Var] = set()
    for atom, factor in address.items():
        if type(atom) is not Var:
            for v in free_vars(atom):
                irregular |= _loops_in(binding, v)
            continue
        if atom not in binding:
            continue  # a loop or let inside the block: the same for all its iterations
        for part, by in binding[atom][0].items():
            if type(part) is Var:
                step = factor * by
                factors[part] = factors[part] + step if part in factors else step
            else:
                irregular |= free_vars(part)
    return Access(factors, frozenset(irregular), is_store)


def _loops_in(binding: dict[Var, tuple[dict[Expr, int], int]], v: Var) -> set[Var]:
    if v not in binding:
        return {v}
    return {x for part in binding[v][0] for x in free_vars(part)}
