"""What can be asked of a program? The analyses for users, importable from this one place.

    from gputune import analysis

Counting: `estimate_tir_flops`, `calculate_allocated_bytes`, `count_gpu_resources`,
`verify_gpu_code`, `gpu_code_faults`. Accesses: `get_sblock_access_region`, `find_out_of_bounds`,
`OOBChecker`, `check_in_bounds`. Blocks: `find_anchor_sblock`, `is_output_block`,
`is_trivial_binding`, `has_if_then_else`. Layouts and tensor intrinsics: `suggest_index_map`,
`get_tensorize_loop_mapping`, `get_auto_tensorize_mapping_info`.

Nothing is changed by asking. Names and arguments are those of TVM where it has them; what is only
gputune's own: `count_gpu_resources`, `gpu_code_faults`, `find_out_of_bounds`, `check_in_bounds`.
"""

from __future__ import annotations

from collections.abc import Mapping

from .errors import CheckError
from .gpu_resources import (
    CONSTRAINTS,
    GpuResources,
    count_gpu_resources,
    gpu_code_faults,
    verify_gpu_code,
)
from .ir import dtypes
from .ir.build import const_int, is_literal
from .ir.equal import find_anchor_block as find_anchor_sblock
from .ir.flops import estimate_flops as estimate_tir_flops
from .ir.in_bounds import check_in_bounds
from .ir.nodes import (
    Alloc,
    Block,
    Buffer,
    BufferRegion,
    Call,
    IfThenElse,
    IRModule,
    PrimFunc,
    Select,
    Stmt,
    Var,
)
from .ir.out_of_bounds import StrayAccess, find_out_of_bounds
from .ir.regions import access_regions
from .ir.walk import all_exprs, stmt_children, walk_expr, walk_stmt
from .schedule.dim import maximum
from .schedule.intrin_mapping import (
    AutoTensorizeMappingInfo,
    TensorizeInfo,
    get_auto_tensorize_mapping_info,
    get_tensorize_loop_mapping,
    is_output_block,
    is_trivial_binding,
)
from .schedule.suggest import suggest_index_map

__all__ = [
    "CONSTRAINTS",
    "AutoTensorizeMappingInfo",
    "GpuResources",
    "OOBChecker",
    "StrayAccess",
    "TensorizeInfo",
    "calculate_allocated_bytes",
    "check_in_bounds",
    "count_gpu_resources",
    "estimate_tir_flops",
    "find_anchor_sblock",
    "find_out_of_bounds",
    "get_auto_tensorize_mapping_info",
    "get_sblock_access_region",
    "get_tensorize_loop_mapping",
    "gpu_code_faults",
    "has_if_then_else",
    "is_output_block",
    "is_trivial_binding",
    "suggest_index_map",
    "verify_gpu_code",
]

Regions = tuple[BufferRegion, ...]


def get_sblock_access_region(
    block: Block, buffer_var_map: Mapping[Var, Buffer] | None = None
) -> tuple[Regions, Regions, Regions]:
    """What a block reads and writes, found from its body.

    A region has the iterators of the block, and whatever is outside it, in its bounds. It holds all
    that the block may touch of a buffer, as one box: conditions are not looked at, loops inside run
    their whole range. Buffers that live inside the block are left out; views count as what they are
    views of; in a block with an init, what the reduction reads of its own result is left out.

    Args:
        block: the block, such as `sch.get(rv)`.
        buffer_var_map: not needed, taken so that calls as TVM has them work: an access names its
            buffer here.

    Returns:
        (reads, writes, opaque). The last is always empty: there are no pointers.

    Raises:
        CheckError: `block` is no block.

    Example:
        of the block `C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]` with an init:
        ((A[vi, vk], B[vk, vj]), (C[vi, vj],), ())
    """
    if not isinstance(block, Block):
        raise CheckError(
            f"expected a block, found {type(block).__name__}",
            hint="sch.get(block_rv) is the block of a schedule",
            code="not-a-block",
        )
    reads, writes = access_regions(block)
    return reads, writes, ()


class OOBChecker:
    """A pass that refuses a program in which an access surely leaves its buffer.

    It is `find_out_of_bounds` for those who want TVM's name: what cannot be decided before the
    program runs passes.

    Example:
        `OOBChecker()(mod)` gives `mod`; of `B[vi] = A[vi + 1]` over all 8 elements it raises
        "block B of main reads A[vi + 1]: index 0 is 8 at i = 7; A has 8 elements along it".
    """

    def __call__(self, mod: IRModule | PrimFunc) -> IRModule | PrimFunc:
        """The program, as it is; CheckError with every such access, and a picture of the first."""
        found = [x for x in find_out_of_bounds(mod) if x.verdict == "outside"]
        if found:
            raise CheckError(
                "; ".join(x.message for x in found),
                draw=found[0].draw,
                code="out-of-bounds",
            )
        return mod


def has_if_then_else(stmt: Stmt) -> bool:
    """Does anything in a statement happen under a condition: an `if`, a predicate of a block, a
    select, `T.if_then_else`?

    Example:
        >>> has_if_then_else(relu.body), has_if_then_else(padded_copy.body)
        (False, True)
    """
    for s in walk_stmt(stmt):
        if type(s) is IfThenElse or (type(s) is Block and not is_literal(s.predicate, 1)):
            return True
    return any(
        type(x) is Select or (type(x) is Call and x.op == "if_then_else")
        for e in all_exprs(stmt)
        for x in walk_expr(e)
    )


def calculate_allocated_bytes(func_or_mod: PrimFunc | IRModule) -> dict[str, dict[str, int]]:
    """The most bytes that a function allocates at once, by memory scope.

    A buffer lives while the block that allocates it runs; buffers of blocks that run one after the
    other do not live together. What is counted is what the program says: a buffer of a scheduled
    function has its full shape until lowering makes it as small as what is used of it. Parameters
    are the caller's and count nothing.

    Args:
        func_or_mod: a function, which is called "main" in the result, or a module.

    Returns:
        function name -> scope -> bytes.

    Raises:
        CheckError: a buffer has no constant size.

    Example:
        of a function with a temporary of 16 x 16 float32 in shared memory:
        {'main': {'shared': 1024}}
    """
    if isinstance(func_or_mod, PrimFunc):
        return {"main": _allocated(func_or_mod.body)}
    return {name: _allocated(f.body) for name, f in func_or_mod.functions.items()}


def _allocated(s: Stmt) -> dict[str, int]:
    most: dict[str, int] = {}
    for x in stmt_children(s):
        for scope, n in _allocated(x).items():
            most[scope] = n if scope not in most else maximum(most[scope], n)
    own = s.alloc_buffers if type(s) is Block else (s.buffer,) if type(s) is Alloc else ()
    for b in own:
        most[b.scope] = most.get(b.scope, 0) + _size(b)
    return most


def _size(b: Buffer) -> int:
    """Bytes of a buffer; of a padded one, up to its last element."""
    elements = 1
    steps = b.strides or (None,) * len(b.shape)
    for n, step in zip(b.shape, steps, strict=True):
        size, stride = const_int(n), 1 if step is None else const_int(step)
        if size is None or stride is None:
            raise CheckError(
                f"buffer {b.name} has no constant size: its shape is "
                f"({', '.join(str(x) for x in b.shape)})",
                hint="give the symbolic sizes values first",
                code="dynamic-buffer",
            )
        elements = elements * size if step is None else elements + (size - 1) * stride
    return elements * dtypes.itemsize(b.dtype)
