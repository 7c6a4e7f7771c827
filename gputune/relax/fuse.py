"""Which calls of tensor functions become one, so that what is between them need not be stored?

Within a dataflow block, by post-dominators: a call is joined with the call through which all of its
results flow, with everything on the ways there, if the patterns of all of them allow it
(`pattern.py`). A matmul or convolution takes in the elementwise calls behind it, elementwise calls
join each other and reductions, what is injective joins what is injective. A group has one result.

Fusing puts the blocks of the functions one after the other in one function, with what is between
them in buffers of its own; schedules then inline them (`AutoInline` does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..ir import build
from ..ir.equal import structural_hash
from ..ir.graph import (
    Binding,
    Call,
    Constant,
    DataflowBlock,
    Expr,
    Function,
    GlobalVar,
    TensorType,
    Var,
)
from ..ir.nodes import Block, Buffer, IRModule, PrimFunc, Stmt
from ..ir.nodes import Var as Handle
from ..ir.walk import blocks, map_stmt, rename_blocks, replace_buffers
from .pattern import Kind, Pattern, kind_of
from .rewrite import vars_of

_NAME = 60
"""Characters of the name of a fused function."""


class FuseOps:
    """A pass: calls of tensor functions that belong together become calls of one function.

    Args:
        max_depth: the most calls in a group.

    Example:
        >>> mod = relax.transform.FuseOps()(relax.transform.LegalizeOps()(mod))
    """

    def __init__(self, max_depth: int = 256) -> None:
        self.max_depth = max_depth

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with its calls fused; functions that nothing calls any more are left out."""
        made = _Made(mod)
        graphs = {name: self._fused(f, made) for name, f in mod.graphs.items()}
        called = {
            c.value.callee.name
            for f in graphs.values()
            for item in f.body
            for c in ([item] if isinstance(item, Binding) else item.bindings)
            if isinstance(c.value, Call) and isinstance(c.value.callee, GlobalVar)
        }
        kept = {k: f for k, f in mod.functions.items() if k in called or k not in made.taken_apart}
        return IRModule({**kept, **made.functions}, mod.attrs, graphs)

    def _fused(self, func: Function, made: _Made) -> Function:
        body = tuple([
            item if isinstance(item, Binding) else self._block(item, made) for item in func.body
        ])  # fmt: skip
        return Function(func.params, body, func.result, func.attrs)

    def _block(self, block: DataflowBlock, made: _Made) -> DataflowBlock:
        groups = _groups(block, made.kinds, self.max_depth)
        members: dict[int, list[int]] = {}
        for k, root in enumerate(groups):
            members.setdefault(root, []).append(k)
        out = []
        for k, b in enumerate(block.bindings):
            group = members.get(k)
            if group is None:
                continue  # it is part of what comes later
            if len(group) == 1:
                out.append(b)
            else:
                out.append(Binding(b.var, made.call([block.bindings[m] for m in group])))
        return DataflowBlock(tuple(out), block.outputs)


# ------------------------------------------------------------------------- what belongs together
@dataclass(slots=True)
class _Node:
    """A binding: its pattern, where its result goes, and through which binding all of that flows
    (`parent`, with the pattern of the way there), if there is one."""

    pattern: Pattern
    consumers: list[tuple[int, Pattern]]
    parent: int | None = None
    way: Pattern = Pattern.OPAQUE
    depth: int = 0


def _groups(
    block: DataflowBlock, kinds: Callable[[str], Kind], max_depth: int
) -> list[int]:  # fmt: skip
    """For each binding, the last one of its group."""
    nodes = _nodes(block, kinds)
    _post_dominators(nodes)
    groups = _Groups(nodes, max_depth)
    for phase in (0, 1):
        for k in range(len(nodes)):
            groups.consider(k, phase)
    return [groups.root(k) for k in range(len(nodes))]


def _nodes(block: DataflowBlock, kinds: Callable[[str], Kind]) -> list[_Node]:
    at = {b.var: k for k, b in enumerate(block.bindings)}
    nodes = []
    for k, b in enumerate(block.bindings):
        kind = _kind(b.value, kinds)
        pattern = Pattern.OPAQUE if kind is None else kind.pattern
        nodes.append(_Node(pattern, []))
        if kind is None or not isinstance(b.value, Call):
            for v in set(vars_of(b.value)) & at.keys():
                nodes[at[v]].consumers.append((k, Pattern.OPAQUE))
            continue
        for x, edge in zip(b.value.args, kind.arguments):
            if isinstance(x, Var) and x in at:
                nodes[at[x]].consumers.append((k, edge))
    for v in block.outputs:
        nodes[at[v]].consumers.append((-1, Pattern.OPAQUE))  # somebody outside
    return nodes


def _kind(e: Expr, kinds: Callable[[str], Kind]) -> Kind | None:
    """The kind of a call of a tensor function with one result; None of everything else."""
    if not isinstance(e, Call) or not isinstance(e.callee, GlobalVar):
        return None
    if not isinstance(e.type, TensorType) or any(
        not isinstance(x, (Var, Constant)) for x in e.args
    ):
        return None
    kind = kinds(e.callee.name)
    return kind if len(kind.arguments) == len(e.args) else None


def _post_dominators(nodes: list[_Node]) -> None:
    """From the last to the first: where all ways from a binding meet again."""

    def meet(a: int | None, b: int | None, way: Pattern) -> tuple[int | None, Pattern]:
        while a != b:
            if a is None or b is None:
                return None, Pattern.OPAQUE
            if nodes[a].depth < nodes[b].depth:
                a, b = b, a
            way = max(way, nodes[a].way)
            a = nodes[a].parent
        return a, way

    for node in reversed(nodes):
        found: int | None = None
        way = Pattern.ELEMENTWISE
        for n, (consumer, edge) in enumerate(node.consumers):
            at = None if consumer < 0 else consumer
            way = max(way, edge)
            found, way = (at, way) if n == 0 else meet(found, at, way)
        node.parent, node.way = found, way
        node.depth = 1 if found is None else nodes[found].depth + 1


class _Groups:
    """Which bindings are joined so far: each group is known by its last binding."""

    def __init__(self, nodes: list[_Node], max_depth: int) -> None:
        self.nodes = nodes
        self.max_depth = max_depth
        self.up = list(range(len(nodes)))
        self.size = [1] * len(nodes)
        self.pattern = [n.pattern for n in nodes]

    def root(self, k: int) -> int:
        while self.up[k] != k:
            k = self.up[k]
        return k

    def consider(self, k: int, phase: int) -> None:
        """Join a binding with where its result flows, if that is allowed in this phase."""
        node = self.nodes[k]
        sink = node.parent
        if sink is None or node.pattern == Pattern.OPAQUE or self.root(k) == self.root(sink):
            return
        between = self.between(k, sink)
        if self.size[self.root(k)] + self.size[self.root(sink)] + len(between) > self.max_depth:
            return
        inside = [self.pattern[self.root(m)] for m in between]
        last = self.pattern[self.root(sink)]
        if self.pattern[self.root(k)] == Pattern.OUT_FUSABLE or node.pattern == Pattern.OUT_FUSABLE:
            allowed = (
                phase == 0
                and node.way == Pattern.ELEMENTWISE
                and max([last, *inside]) <= Pattern.BROADCAST
            )
            if node.pattern != Pattern.OUT_FUSABLE:  # behind an anchor: as far as its own goes
                allowed = node.pattern <= Pattern.BROADCAST and allowed
        elif node.pattern <= Pattern.BROADCAST:
            allowed = (
                node.way <= Pattern.REDUCTION
                and all(p <= Pattern.INJECTIVE for p in inside)
                and last <= Pattern.OUT_FUSABLE
            )
        elif node.pattern == Pattern.INJECTIVE:
            allowed = phase == 1 and max([node.way, last, *inside]) <= Pattern.INJECTIVE
        else:
            allowed = False
        if allowed:
            self.join([k, *between], sink)

    def between(self, k: int, sink: int) -> list[int]:
        """The bindings on the ways from one to another, without these two."""
        found: set[int] = set()
        todo = [c for c, _ in self.nodes[k].consumers]
        while todo:
            m = todo.pop()
            if m != sink and m not in found:
                found.add(m)
                todo += [c for c, _ in self.nodes[m].consumers]
        return sorted(found)

    def join(self, these: Sequence[int], sink: int) -> None:
        """One group of these and that of the sink."""
        top = self.root(sink)
        for m in these:
            mine = self.root(m)
            if mine != top:
                self.up[mine] = top
                self.size[top] += self.size[mine]
                self.pattern[top] = max(self.pattern[top], self.pattern[mine])


# ----------------------------------------------------------------------------- one function of many
class _Made:
    """The functions that were made so far."""

    def __init__(self, mod: IRModule) -> None:
        self.mod = mod
        self.functions: dict[str, PrimFunc] = {}
        self.taken = set(mod)
        self.taken_apart: set[str] = set()
        self.known: dict[str, str] = {}
        self._kinds: dict[str, Kind] = {}

    def kinds(self, name: str) -> Kind:
        """How a function of the module computes."""
        if name not in self._kinds:
            self._kinds[name] = kind_of(self.mod.functions[name])
        return self._kinds[name]

    def call(self, group: Sequence[Binding]) -> Call:
        """A call that computes the last of these bindings."""
        calls = [b.value for b in group if isinstance(b.value, Call)]
        inner = {b.var for b in group}
        inputs = dict.fromkeys([x for c in calls for x in c.args if x not in inner])
        names = [c.callee.name for c in calls]
        self.taken_apart.update(names)
        func = _together(self.mod, group, list(inputs))
        digest = structural_hash(func)
        name = self.known.get(digest)
        if name is None:
            name = self.fresh("fused_" + "_".join(names))
            self.known[digest] = name
            self.functions[name] = func.with_attr("global_symbol", name)
        return Call(GlobalVar(name), tuple(inputs), calls[-1].type)

    def fresh(self, wanted: str) -> str:
        """A name that the module does not have."""
        base = wanted[:_NAME].rstrip("_")
        name, k = base, 1
        while name in self.taken:
            name = f"{base}_{k}"
            k += 1
        self.taken.add(name)
        return name


def _together(mod: IRModule, group: Sequence[Binding], inputs: Sequence[Expr]) -> PrimFunc:
    """The function that computes the last binding of a group from what comes from outside."""
    names: set[str] = set()
    where: dict[Expr, Buffer] = {}
    params: list[tuple[Handle, Buffer]] = []
    for x in inputs:
        assert isinstance(x.type, TensorType)
        params.append(_param(_fresh(names, "x"), x.type))
        where[x] = params[-1][1]
    temporaries: list[Buffer] = []
    stmts: list[Stmt] = []
    used: set[str] = {"root"}
    for b in group:
        call = b.value
        assert isinstance(call, Call)
        assert isinstance(call.type, TensorType)
        func = mod.functions[call.callee.name]
        if b is group[-1]:
            params.append(_param(_fresh(names, "y"), call.type))
            where[b.var] = params[-1][1]
        else:
            shape = tuple([build.expr(n) for n in call.type.shape])
            where[b.var] = Buffer(_fresh(names, call.callee.name), shape, call.type.dtype)
            temporaries.append(where[b.var])
        table = dict(zip(func.buffers, [*[where[x] for x in call.args], where[b.var]]))
        for old in func.body.alloc_buffers:
            table[old] = replace(old, name=_fresh(names, old.name))
            temporaries.append(table[old])
        body = replace_buffers(rename_blocks(func.body.body), table)
        stmts.append(_named_apart(body, used))
    attrs = (("global_symbol", "fused"), ("tir.noalias", True))
    root = build.root_block(build.seq(*stmts), temporaries)
    return PrimFunc(tuple([v for v, _ in params]), tuple(params), root, attrs)


def _param(name: str, t: TensorType) -> tuple[Handle, Buffer]:
    return build.buffer_param(name, t.shape, t.dtype)


def _fresh(taken: set[str], wanted: str) -> str:
    name, k = wanted, 1
    while name in taken:
        name = f"{wanted}_{k}"
        k += 1
    taken.add(name)
    return name


def _named_apart(s: Stmt, taken: set[str]) -> Stmt:
    """`s` with names of blocks that no other block has."""
    names = {b.key: _fresh(taken, b.name) for b in blocks(s)}

    def go(x: Stmt) -> Stmt:
        out = map_stmt(x, lambda e: e, go)
        assert out is not None  # go never deletes
        return replace(out, name=names[out.key]) if isinstance(out, Block) else out

    return go(s)
