"""How does the packing of constant arguments get out of a kernel? split_layout_preproc.

What is searched, recorded and replayed is a whole program, which packs such an argument and then
computes with it. What is built for measuring, and for `gputune.tune`'s caller, are its two halves:
the packing, which runs once, and the kernel, which takes what was packed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError
from ..ir import build
from ..ir.index_map import IndexMap
from ..ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    IRModule,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import blocks, rename_blocks, substitute, walk_stmt

LAYOUT_FREE = "layout_free_buffers"
"""The function attribute that lists which parameters may be packed anew: by position, or name."""

LAYOUT_REWRITE = "meta_schedule.layout_rewrite_preproc"
"""The annotation of a block that packs one."""


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """How one argument is packed.

    Attributes:
        position: of the parameter.
        given, packed: the argument as it was written, and as the kernel reads it.
        nest: what fills the one from the other.
    """

    position: int
    given: Buffer
    packed: Buffer
    nest: Stmt

    def function(self, func: PrimFunc) -> PrimFunc:
        """The packing as a function of the argument and of what it fills."""
        return _prepack(func, [self], f"{func.name}_pack_{self.given.name}")

    @property
    def index_map(self) -> IndexMap:
        """Where each element goes."""
        (store,) = (x for x in walk_stmt(self.nest) if isinstance(x, BufferStore))
        assert isinstance(store.value, BufferLoad)
        names = [Var(f"i{k}") for k in range(len(store.value.indices))]
        table: dict[Var, Expr] = {
            v: x for v, x in zip(store.value.indices, names, strict=True) if isinstance(v, Var)
        }
        return IndexMap(tuple(names), tuple([substitute(e, table) for e in store.indices]))


def free_positions(func: PrimFunc) -> tuple[int, ...]:
    """The positions of the parameters that the attribute of a function lists; what it lists that is
    no array argument means nothing."""
    listed = dict(func.attrs).get(LAYOUT_FREE, ())
    out: set[int] = set()
    for x in _several(listed):
        with suppress(UserError):
            out.update(positions_of(func, x, LAYOUT_FREE))
    return tuple(sorted(out))


def positions_of(func: PrimFunc, listed: Any, what: str) -> tuple[int, ...]:
    """The positions of the array parameters that names and positions mean.

    Args:
        func: the function.
        listed: a name or a position, or several.
        what: for error messages.

    Raises:
        UserError: no such parameter, or one that is a number.
    """
    table = dict(func.buffer_map)
    names = [table[p].name if p in table else p.name for p in func.params]
    hint = f"its arguments are {', '.join(n for p, n in zip(func.params, names) if p in table)}"
    out = set()
    for item in _several(listed):
        x = getattr(item, "value", item)
        if isinstance(x, str):
            if names.count(x) != 1:
                found = "has no argument" if x not in names else "has several arguments"
                raise UserError(f"{what}: {func.name} {found} {x!r}", hint=hint, code="layout-free")
            at = names.index(x)
        elif isinstance(x, int) and not isinstance(x, bool) and 0 <= x < len(names):
            at = int(x)
        else:
            raise UserError(
                f"{what}: expected names or positions of arguments, found {x!r}",
                hint=hint,
                code="layout-free",
            )
        if func.params[at] not in table:
            raise UserError(
                f"{what}: {names[at]} is a number, which has no layout",
                hint=hint,
                code="layout-free",
            )
        out.add(at)
    return tuple(sorted(out))


def _several(listed: Any) -> Iterable[Any]:
    return (listed,) if isinstance(listed, str) or not isinstance(listed, Iterable) else listed


def packings_of(func: PrimFunc) -> list[Packing]:
    """The packings that RewriteLayout put into a function and that can be taken out: what they
    pack is used by nothing else."""
    items = _items(func)
    place = {b: func.params.index(p) for p, b in func.buffer_map}
    out = []
    for x in items:
        found = _pack(func, x)
        if found is not None and not any(_uses(y, found[0]) for y in items if y is not x):
            out.append(Packing(place[found[0]], *found, x))
    return [] if len(out) == len(items) else out


def split_layout_preproc(func: PrimFunc) -> tuple[PrimFunc | None, PrimFunc]:
    """The blocks that RewriteLayout made as a function of their own, and the rest.

    As it is scheduled, a kernel packs its constant arguments at every call. Whoever knows that they
    stay the same calls the first function once, and then only the second.

    Args:
        func: a scheduled function.

    Returns:
        `<name>_weight_prepack`, which takes the arguments and then the packed buffers that it
        fills, and `<name>_prepacked`, in which each packed buffer stands in the place of the
        argument. None and the function itself if there is nothing to take out: no block is
        annotated `meta_schedule.layout_rewrite_preproc`, or what it packs is used otherwise too.
    """
    packings = packings_of(func)
    if not packings:
        return None, func
    prepack = _prepack(func, packings, f"{func.name}_weight_prepack")
    return prepack, without_packings(func, packings).with_attr(
        "global_symbol", f"{func.name}_prepacked"
    )


def without_packings(func: PrimFunc, packings: list[Packing] | None = None) -> PrimFunc:
    """A function that takes the packed arguments in the place of those it packs; itself if it packs
    none."""
    packings = packings_of(func) if packings is None else packings
    if not packings:
        return func
    into = {p.given: p.packed for p in packings}
    nests = [p.nest for p in packings]
    body = replace(
        func.body,
        body=build.seq(*[x for x in _items(func) if not any(x is n for n in nests)]),
        alloc_buffers=tuple([b for b in func.body.alloc_buffers if b not in into.values()]),
    )
    table = tuple([(p, into.get(b, b)) for p, b in func.buffer_map])
    out = replace(func, buffer_map=table, body=body)
    if LAYOUT_FREE not in dict(func.attrs):
        return out
    taken = {p.position for p in packings}
    return out.with_attr(LAYOUT_FREE, tuple([k for k in free_positions(func) if k not in taken]))


def as_measured(mod: IRModule) -> IRModule:
    """A scheduled program as it runs once its constant arguments are packed."""
    functions = {name: without_packings(f) for name, f in mod.functions.items()}
    if all(f is mod[name] for name, f in functions.items()):
        return mod
    return replace(mod, functions=functions)


def _prepack(func: PrimFunc, packings: list[Packing], name: str) -> PrimFunc:
    """A function of arguments, and of the packed buffers that it fills."""
    handles = [func.params[p.position] for p in packings]
    outputs = [Var(f"{p.packed.name}_handle", "handle") for p in packings]
    return PrimFunc(
        (*handles, *outputs),
        (
            *[(h, p.given) for h, p in zip(handles, packings, strict=True)],
            *[(h, p.packed) for h, p in zip(outputs, packings, strict=True)],
        ),
        build.root_block(build.seq(*[rename_blocks(p.nest) for p in packings])),
    ).with_attr("global_symbol", name)


def _items(func: PrimFunc) -> list[Stmt]:
    body = func.body.body
    return list(body.items) if type(body) is Seq else [body]


def _pack(func: PrimFunc, x: Stmt) -> tuple[Buffer, Buffer] | None:
    """What a nest packs, and into what, if it does just that."""
    b = x
    while type(b) is For:
        b = b.body
    if type(b) is not Block or b is x or not any(k == LAYOUT_REWRITE for k, _ in b.annotations):
        return None
    store = b.body
    if type(store) is not BufferStore or type(store.value) is not BufferLoad:
        return None
    given, packed = store.value.buffer, store.buffer
    known = given in func.buffers and packed in func.body.alloc_buffers
    return (given, packed) if known else None


def _uses(x: Stmt, buffer: Buffer) -> bool:
    """Does a statement touch a buffer, by what its blocks say?"""
    return any(r.buffer is buffer for b in blocks(x) for r in (*b.reads, *b.writes))
