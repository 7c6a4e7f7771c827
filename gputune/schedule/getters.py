"""Primitives that only look: blocks, loops, and who depends on whom."""

from __future__ import annotations

from difflib import get_close_matches

from ..ir.nodes import Block
from .analysis import blocks_below, consumers, producers
from .handles import BlockRV, LoopRV
from .primitive import primitive
from .state import State, is_spelled
from .tree import Link


@primitive("GetSBlock", pure=True)
def get_block(s: State, name: str, func_name: str | None = None) -> BlockRV:
    """The block with a name; the outermost one of a function is "root".

    Args:
        name: the block's name, which must be unique in the function. Where no block is named just
            so, "_" stands for a dot: "A_shared_dyn" is the block "A_shared.dyn".
        func_name: the function; None: the one worked on, the only one, or "main".

    Raises:
        ScheduleError: no such function; no block or several blocks with the name.

    Example:
        >>> sch = demo_schedule(); sch.get(sch.get_block("B")).name
        'B'
    """
    func = _function(s, func_name)
    s.resolved["func_name"] = func
    root = s.mod.functions[func].body
    if name == root.name:
        return s.mint_block(root.key)
    every = [x.node for x in s.tree(func).links.values() if type(x.node) is Block]
    found = [b for b in every if b.name == name] or [b for b in every if is_spelled(b.name, name)]
    if not found:
        names = [b.name for b in every]
        near = get_close_matches(name, names, 3)
        s.fail(
            f"no block named {name!r} in function {func!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(names)}",
            code="no-block",
        )
    if len(found) > 1:
        s.fail(
            f"{len(found)} blocks are named {name!r} in function {func!r}",
            hint="get it through get_child_blocks, or rename one",
            code="block-name",
            at=found,
        )
    return s.mint_block(found[0].key)


def _function(s: State, func_name: str | None) -> str:
    functions = s.mod.functions
    if func_name is None:
        func_name = s.func_working_on
    if func_name is None:
        func_name = next(iter(functions)) if len(functions) == 1 else "main"
    if func_name not in functions:
        s.fail(
            f"no function named {func_name!r} in the module",
            hint=f"it has: {', '.join(functions)}",
            code="no-function",
        )
    return func_name


@primitive("GetLoops", inputs=("block",), pure=True)
def get_loops(s: State, block: BlockRV | str) -> list[LoopRV]:
    """The loops above a block, up to its scope block, outermost first.

    Example:
        >>> sch = demo_schedule(); len(sch.get_loops(sch.get_block("B")))
        2
    """
    return [s.mint_loop(f.var) for f in s.block(block).loops()]


@primitive("GetChildBlocks", inputs=("block_or_loop",), positional=True, pure=True)
def get_child_blocks(s: State, block_or_loop: BlockRV | LoopRV) -> list[BlockRV]:
    """The outermost blocks below a block or loop, in program order.

    Example:
        >>> sch = demo_schedule(); len(sch.get_child_blocks(sch.get_block("root")))
        1
    """
    below = blocks_below(s.block_or_loop(block_or_loop))
    return [s.mint_block(x.block().key) for x in below]


@primitive("GetProducers", inputs=("block",), pure=True)
def get_producers(s: State, block: BlockRV | str) -> list[BlockRV]:
    """The blocks of the same scope that write what the block reads.

    Example:
        >>> sch = demo_schedule(); sch.get_producers(sch.get_block("B"))
        []
    """
    return [s.mint_block(x.block().key) for x in producers(s.block(block), s)]


@primitive("GetConsumers", inputs=("block",), pure=True)
def get_consumers(s: State, block: BlockRV | str) -> list[BlockRV]:
    """The blocks of the same scope that read what the block writes.

    Example:
        >>> sch = demo_schedule(); sch.get_consumers(sch.get_block("B"))
        []
    """
    return [s.mint_block(x.block().key) for x in consumers(s.block(block), s)]


@primitive("GetOutputBlocks", inputs=("scope_block",), pure=True)
def get_output_blocks(s: State, scope_block: BlockRV | str) -> list[BlockRV]:
    """The blocks in a scope that write a buffer which is not allocated in it.

    Example:
        >>> sch = demo_schedule(); len(sch.get_output_blocks(sch.get_block("root")))
        1
    """
    scope = s.block(scope_block)
    inside = set(scope.block().alloc_buffers)
    out: list[Link] = [
        x for x in blocks_below(scope) if any(w.buffer not in inside for w in x.block().writes)
    ]
    return [s.mint_block(x.block().key) for x in out]
