"""What do the declarations inside a block say? Iterators, regions, attributes, buffers."""

from __future__ import annotations

import ast
from typing import Any

from ..ir import build, dtypes
from ..ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferRegion,
    Expr,
    IntImm,
    IterKind,
    IterVar,
    MatchBuffer,
    Range,
    Stmt,
    Var,
)
from .buffers import BUFFER_ARGS, buffer_from
from .calls import bind_args, no_keywords
from .context import BlockParts, Context, as_pairs, closest
from .expressions import (
    evaluate,
    index_nodes,
    region_of,
)
from .intervals import extent_of, interval
from .values import (
    condition,
    describe,
    dtype_of,
    is_expr,
    to_expr,
)

_AXES: dict[str, IterKind] = {
    "spatial": "spatial", "S": "spatial", "reduce": "reduce", "R": "reduce",
    "scan": "scan", "opaque": "opaque",
}  # fmt: skip

_REMAP: dict[str, IterKind] = {"S": "spatial", "R": "reduce", "N": "scan", "O": "opaque"}


def finish_block(ctx: Context, node: ast.AST, parts: BlockParts, inside: Stmt) -> Block:
    """A block from its parts; regions that the script does not state are found."""
    reads, writes = parts.reads, parts.writes
    block = Block(
        BlockKey(), parts.name, tuple(parts.iters), tuple(parts.values),
        build.TRUE if parts.where is None else parts.where, reads or (), writes or (), inside,
        parts.init, tuple(parts.allocs), tuple(parts.matches), parts.attrs or (),
    )  # fmt: skip
    if parts.is_root or (reads is not None and writes is not None):
        return block
    from ..ir.regions import access_regions

    bare = with_regions(block, (), ())
    found_reads, found_writes = access_regions(bare)
    return with_regions(
        block,
        tuple(found_reads) if reads is None else reads,
        tuple(found_writes) if writes is None else writes,
    )


def with_regions(
    b: Block, reads: tuple[BufferRegion, ...], writes: tuple[BufferRegion, ...]
) -> Block:  # fmt: skip
    """`b` with other regions."""
    return Block(
        b.key, b.name, b.iter_vars, b.iter_values, b.predicate, reads, writes, b.body, b.init,
        b.alloc_buffers, b.match_buffers, b.annotations,
    )  # fmt: skip


def declares(ctx: Context, node: ast.AST, what: str) -> BlockParts:
    """The block being read, if `node` stands directly in it; refused inside loops and branches."""
    if ctx.block.nested:
        ctx.fail(node, f"{what} stands directly in a block, not in a loop or branch inside it")
    return ctx.block


# ----------------------------------------------------------------------------- iterators
def axis(ctx: Context, target: ast.expr, call: ast.Call, word: str) -> None:
    """`vi = T.axis.spatial(extent, binding)` and the like."""
    parts = declares(ctx, call, f"T.axis.{word}")
    if parts.is_root:
        ctx.fail(call, f"T.axis.{word} stands in a block", "open one with T.block")
    if word == "remap":
        _remap(ctx, target, call, parts)
        return
    kind = _AXES.get(word)
    if kind is None:
        near = closest(word, (*_AXES, "remap"))
        hint = f"did you mean {near}?" if near else "spatial, reduce, scan, opaque or remap"
        ctx.fail(call, f"T.axis has no {word!r}", hint, "script-name")
    if type(target) is not ast.Name:
        ctx.fail(target, f"T.axis.{word} makes one iterator")
    args = bind_args(ctx, call, f"T.axis.{word}", ("dom", "binding", "dtype"), 1)
    if "binding" not in args:
        ctx.fail(
            call, f"iterator {target.id!r} of block {parts.name!r} is bound to no loop",
            f"write T.axis.{word}(extent, loop_variable)", "script-binding",
        )  # fmt: skip
    value = evaluate(ctx, args["binding"])
    dom = _domain(ctx, args["dom"], value)
    dtype = dom.extent.dtype
    if "dtype" in args:
        dtype = dtype_of(ctx, evaluate(ctx, args["dtype"]), args["dtype"])
    binding = to_expr(ctx, value, args["binding"], dom.extent.dtype)
    _integer(ctx, binding, args["binding"], "a binding")
    _iterator(ctx, parts, Var(target.id, dtype), dom, kind, binding, call)


def _remap(ctx: Context, target: ast.expr, call: ast.Call, parts: BlockParts) -> None:
    args = bind_args(ctx, call, "T.axis.remap", ("kinds", "bindings"), 2)
    kinds, values = evaluate(ctx, args["kinds"]), evaluate(ctx, args["bindings"])
    if not isinstance(kinds, str) or not isinstance(values, (list, tuple)):
        ctx.fail(call, 'expected T.axis.remap("SSR", [i, j, k])')
    targets = index_nodes(target)
    if not len(kinds) == len(values) == len(targets):
        ctx.fail(
            call, f"T.axis.remap has {len(targets)} names, {len(kinds)} kinds and "
            f"{len(values)} bindings",
        )  # fmt: skip
    for t, kind, v in zip(targets, kinds, values):
        if type(t) is not ast.Name:
            ctx.fail(t, "an iterator is a name")
        if kind not in _REMAP:
            ctx.fail(args["kinds"], f"T.axis.remap has no kind {kind!r}", "S is spatial, R reduce")
        loop = ctx.loops.get(v) if isinstance(v, Var) else None
        if loop is None:
            ctx.fail(
                args["bindings"], f"T.axis.remap binds loop variables, got {describe(v)}",
                "use T.axis.spatial(extent, expression)", "script-binding",
            )  # fmt: skip
        _iterator(ctx, parts, Var(t.id, v.dtype), loop, _REMAP[kind], v, call)


def _domain(ctx: Context, node: ast.expr, binding: Any) -> Range:
    value = evaluate(ctx, node)
    dtype = binding.dtype if is_expr(binding) else None
    if isinstance(value, Range):
        return value
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            ctx.fail(node, f"a domain is an extent or (begin, end), got {len(value)} items")
        lo, hi = value
        if dtype is not None and not is_expr(lo) and not is_expr(hi):
            lo, hi = to_expr(ctx, lo, node, dtype), to_expr(ctx, hi, node, dtype)
        return interval(ctx, lo, hi, node)
    extent = to_expr(ctx, value, node, dtype if isinstance(value, int) else None)
    return Range(IntImm(0, extent.dtype), extent_of(ctx, extent, node))


def _iterator(
    ctx: Context, parts: BlockParts, var: Var, dom: Range, kind: IterKind, value: Expr,
    node: ast.AST,
) -> None:  # fmt: skip
    if parts.reads is not None or parts.writes is not None or parts.init is not None:
        ctx.fail(node, "iterators stand before T.reads, T.writes and T.init")
    parts.iters.append(IterVar(var, dom, kind))
    parts.values.append(value)
    ctx.bind(var.name, var)


def _integer(ctx: Context, e: Expr, node: ast.AST, what: str) -> None:
    if not dtypes.is_int(e.dtype):
        ctx.fail(node, f"{what} is an integer, got {e.dtype}")


# ----------------------------------------------------------------------------- regions, attributes
def _regions(ctx: Context, call: ast.Call, what: str) -> tuple[BufferRegion, ...]:
    no_keywords(ctx, call, what)
    nodes: list[ast.expr] = []
    for a in call.args:
        nodes += a.elts if isinstance(a, (ast.List, ast.Tuple)) else [a]
    return tuple([region_of(ctx, a) for a in nodes])


def regions_word(ctx: Context, call: ast.Call, word: str) -> None:
    """`T.reads(...)` and `T.writes(...)`."""
    parts = declares(ctx, call, f"T.{word}")
    if parts.is_root and not parts.name:
        ctx.fail(call, f"T.{word} stands in a block", "open one with T.block")
    if (parts.reads if word == "reads" else parts.writes) is not None:
        ctx.fail(call, f"block {parts.name!r} has a second T.{word}")
    found = _regions(ctx, call, f"T.{word}")
    if word == "reads":
        parts.reads = found
    else:
        parts.writes = found


def where_word(ctx: Context, call: ast.Call, word: str) -> None:
    """`T.where(predicate)`."""
    parts = declares(ctx, call, "T.where")
    if parts.is_root and not parts.name:
        ctx.fail(call, "T.where stands in a block", "open one with T.block")
    args = bind_args(ctx, call, "T.where", ("predicate",), 1)
    if parts.where is not None:
        ctx.fail(call, f"block {parts.name!r} has a second T.where")
    value = evaluate(ctx, args["predicate"])
    parts.where = condition(ctx, value, args["predicate"])


def block_attr(ctx: Context, call: ast.Call, word: str) -> None:
    """`T.block_attr({...})`."""
    parts = declares(ctx, call, "T.block_attr")
    args = bind_args(ctx, call, "T.block_attr", ("attrs",), 1)
    parts.attrs = merged(ctx, call, parts.attrs, annotations_of(ctx, args["attrs"]))


def annotations_of(ctx: Context, node: ast.AST) -> tuple[tuple[str, Any], ...]:
    """A dict of annotations, with its values as they are."""
    value = evaluate(ctx, node)
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        ctx.fail(node, f"annotations are a dict with string keys, got {describe(value)}")
    return as_pairs(value)


def merged(
    ctx: Context, node: ast.AST, old: tuple[tuple[str, Any], ...] | None,
    new: tuple[tuple[str, Any], ...],
) -> tuple[tuple[str, Any], ...]:  # fmt: skip
    """Two sets of attributes as one; refused where they share a key."""
    for key in dict(old or ()).keys() & dict(new).keys():
        ctx.fail(node, f"attribute {key!r} is given twice")
    return (*(old or ()), *new)


# ----------------------------------------------------------------------------- buffers
def alloc_buffer(ctx: Context, node: ast.Assign, name: str, call: ast.Call) -> None:
    """`B = T.alloc_buffer(...)`: it belongs to the enclosing block."""
    args = bind_args(ctx, call, "T.alloc_buffer", BUFFER_ARGS, 1)
    buffer = buffer_from(ctx, name, args, call, allocated=True)
    ctx.block.allocs.append(buffer)
    ctx.bind(name, buffer)


def match_buffer(ctx: Context, node: ast.Assign, name: str, call: ast.Call) -> None:
    """`A = T.match_buffer(...)`: of a handle parameter, or of a region inside a block."""
    args = bind_args(ctx, call, "T.match_buffer", ("source", *BUFFER_ARGS), 1)
    source_node = args.pop("source")
    source = evaluate(ctx, source_node) if type(source_node) is ast.Name else None
    if isinstance(source, Var):
        _match_param(ctx, name, source, source_node, args, call)
        return
    parts = declares(ctx, call, "T.match_buffer")
    region = region_of(ctx, source_node)
    if parts.is_root and not parts.name:
        ctx.fail(source_node, "T.match_buffer of a region stands in a block")
    b = region.buffer
    shape = tuple([r.extent for r in region.region])
    buffer = buffer_from(ctx, name, args, call, shape, b.dtype, b.scope)
    _check_view(ctx, call, buffer, region)
    parts.matches.append(MatchBuffer(buffer, region))
    ctx.bind(name, buffer)


def _match_param(
    ctx: Context, name: str, source: Var, source_node: ast.AST, args: dict[str, ast.expr],
    call: ast.Call,
) -> None:  # fmt: skip
    if source not in ctx.func.params or source.dtype != "handle":
        hint = "declare it as a parameter: a: T.handle"
        ctx.fail(source_node, f"{source.name} is not a handle parameter", hint)
    if source in ctx.func.buffers:
        ctx.fail(source_node, f"handle {source.name} is matched twice")
    if "shape" not in args:
        ctx.fail(call, "T.match_buffer misses argument 'shape'")
    buffer = buffer_from(ctx, name, args, call)
    ctx.func.buffers[source] = buffer
    ctx.bind(name, buffer)


def _check_view(ctx: Context, call: ast.Call, view: Buffer, region: BufferRegion) -> None:
    b = region.buffer
    if view.dtype != b.dtype:
        ctx.fail(
            call, f"view {view.name} has dtype {view.dtype}, its source {b.name} {b.dtype}",
            code="script-dtype",
        )  # fmt: skip
    extents = [build.const_int(r.extent) for r in region.region]
    shape = [build.const_int(s) for s in view.shape]
    lead = len(extents) - len(shape)
    fits = lead >= 0 and all(e in (None, 1) for e in extents[:lead])
    if fits:
        fits = all(None in (e, s) or e == s for e, s in zip(extents[lead:], shape))
    if not fits:
        got = ", ".join(str(s) for s in view.shape)
        want = ", ".join(str(r.extent) for r in region.region)
        ctx.fail(
            call, f"view {view.name} has shape ({got}), the region of {b.name} has ({want})",
            "the last dimensions must agree, those before must be 1", "script-shape",
        )  # fmt: skip
