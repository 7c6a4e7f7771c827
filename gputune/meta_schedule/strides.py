"""How far apart in memory are the elements that neighbouring iterations of a loop touch?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ..ir.affine import Terms, add_term, linear, recombine
from ..ir.build import const_int
from ..ir.nodes import BinOp, Block, Buffer, BufferLoad, BufferStore, Expr, IntImm, Var
from ..ir.walk import expr_children, free_vars, stmt_children, stmt_exprs


@dataclass(frozen=True, slots=True)
class Access:
    """One access of a block.

    Attributes:
        address: the elements from the start of the buffer, as a sum over block iterators.
        is_store: is it written?
    """

    address: Terms
    is_store: bool


@dataclass(frozen=True, slots=True)
class Strides:
    """The accesses of a block.

    Attributes:
        accesses: all of them.
        binding: what each block iterator is bound to, as a sum over loops.
        offset: the constants of these sums.
        extent: of loops, as far as they are given: an inner one of few iterations does not change
            the quotient of an iterator (the group that a channel is in).
    """

    accesses: tuple[Access, ...]
    binding: Mapping[Var, Terms]
    offset: Mapping[Var, int] = field(default_factory=dict)
    extent: Mapping[Var, int] = field(default_factory=dict)

    def step(self, a: Access, loop: Var) -> int | None:
        """How many elements an access moves by when a loop advances by one; None where it does not
        move evenly along it."""
        out = 0
        for atom, factor in a.address.items():
            if type(atom) is not Var:
                used = any(loop in self._loops_in(v) for v in free_vars(atom))
                if used and not self._keeps(atom, loop):
                    return None
                continue
            # other variables are loops and lets inside the block: the same for all its iterations
            for part, by in self.binding.get(atom, {}).items():
                if part is loop:
                    more = factor * by
                    out = more if type(out) is int and out == 0 else out + more
                elif type(part) is not Var and loop in free_vars(part):
                    return None
        return out

    def _keeps(self, atom: Expr, loop: Var) -> bool:
        """Is the atom a quotient of an iterator that all iterations of the loop have in common?
        That is so where they are a part of as many as the divisor, which begins at a multiple of
        their number."""
        n = self.extent.get(loop)
        if n is None or type(atom) is not BinOp or atom.op != "//" or type(atom.a) is not Var:
            return False
        parts = self.binding.get(atom.a, {})
        if type(atom.b) is not IntImm or parts.get(loop) != 1:
            return False
        if any(part is not loop and loop in free_vars(part) for part in parts):
            return False
        steps = [by for part, by in parts.items() if part is not loop]
        return all(x % n == 0 for x in (atom.b.value, self.offset.get(atom.a, 0), *steps))

    def _loops_in(self, v: Var) -> set[Var]:
        if v not in self.binding:
            return {v}
        return {x for part in self.binding[v] for x in free_vars(part)}

    def is_unit(self, loop: Var) -> bool:
        """Does each store move by one element along the loop, each load by one or not at all?"""
        for a in self.accesses:
            step = self.step(a, loop)
            if step is None:
                return False
            if type(step) is int and step == 0 and not a.is_store:
                continue
            if step != 1:
                return False
        return True

    def gathers(self, loop: Var) -> bool:
        """Does each store stay where it is along the loop, and each load too, or move by one
        element?"""
        for a in self.accesses:
            step = self.step(a, loop)
            if step is None:
                return False
            if type(step) is int and step == 0:
                continue
            if a.is_store or step != 1:
                return False
        return True

    def continues(self, outer: Var, inner: Var, extent: int) -> bool:
        """Does an iteration of `outer` begin where `extent` iterations of `inner` end, in each
        access that moves at all? Then both are one loop, as far as memory is concerned."""
        pairs: list[tuple[int, int]] = []
        for a in self.accesses:
            far, near = self.step(a, outer), self.step(a, inner)
            if far is None or near is None:
                return False
            still = type(near) is int and near == 0
            if still != (type(far) is int and far == 0):
                return False  # asked of all before the first comparison of extents
            if not still:
                pairs.append((far, near))
        return all(far == near * extent for far, near in pairs)


def strides_of(
    block: Block, without: Collection[Buffer] = (), extent: Mapping[Var, int] | None = None
) -> Strides | None:
    """The strides of all loads and stores in a block, its init included, but for those of buffers
    `without`; None where they are not known (blocks inside, views, symbolic shapes). `extent`: of
    loops around it, see `Strides`."""
    found: list[tuple[Buffer, tuple[Expr, ...], bool]] = []
    if block.match_buffers or not _collect(block, found):
        return None
    out: list[Access] = []
    for buffer, indices, is_store in found:
        if buffer in without:
            continue
        address = _address(buffer, indices)
        if address is None:
            return None
        out.append(Access(address, is_store))
    bound = {
        iv.var: linear(value) for iv, value in zip(block.iter_vars, block.iter_values, strict=True)
    }
    binding = {v: terms for v, (terms, _) in bound.items()}
    offset = {v: start for v, (_, start) in bound.items()}
    return Strides(tuple(out), binding, offset, extent or {})


def _collect(block: Block, found: list[tuple[Buffer, tuple[Expr, ...], bool]]) -> bool:
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


@lru_cache(maxsize=1024)
def _address(buffer: Buffer, indices: tuple[Expr, ...]) -> Terms | None:
    """The address as a sum over block iterators; not to be changed. Most accesses of a block, and
    of its replays, have the same indices."""
    steps = _steps(buffer)
    if steps is None:
        return None
    terms: Terms = {}
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
