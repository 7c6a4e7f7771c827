"""What can a schedule do? One line a primitive: the contents page of the language."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from ..ir.nodes import IRModule
from . import (
    access_notes,
    block_layout,
    blockize,
    cache_index,
    cache_inplace,
    copy_at,
    epilogue,
    getters,
    inline,
    layout,
    loops,
    memory,
    merge,
    note,
    offset,
    padding,
    padding_parts,
    partition,
    place,
    reduce,
    reindex,
    reindex_cache,
    rfactor,
    rolling,
    sampling,
    set_dtype,
    tensorize,
)
from .explain import explain_schedule
from .extensions import missing_method
from .state import State
from .trace import show_python


class Schedule(State):
    """A program under transformation.

    Args:
        mod: a PrimFunc or an IRModule.
        seed: of the sampling; None or -1 draws one.
        debug_mask: "all" checks the program after every primitive.
        error_render_level: "detail" draws the program in errors; "fast" and "none" do not.
        enable_check: False skips the checks that only protect against wrong results.

    Example:
        >>> sch = demo_schedule()
        >>> i, j = sch.get_loops(sch.get_block("B"))
        >>> i0, i1 = sch.split(i, [None, 4])
        >>> sch.vectorize(j)
        >>> len(sch.trace.insts)
        4
    """

    # getters
    get_block = getters.get_block
    get_sblock = getters.get_block  # as TVM calls it now; traces print get_block
    get_loops = getters.get_loops
    get_child_blocks = getters.get_child_blocks
    get_producers = getters.get_producers
    get_consumers = getters.get_consumers
    get_output_blocks = getters.get_output_blocks
    # sampling
    sample_perfect_tile = sampling.sample_perfect_tile
    sample_tile = sampling.sample_tile
    sample_partitioned_tile = sampling.sample_partitioned_tile
    sample_categorical = sampling.sample_categorical
    sample_compute_location = sampling.sample_compute_location
    # loops
    split = loops.split
    loop_partition = partition.loop_partition
    fuse = loops.fuse
    merge = merge.merge
    reorder = loops.reorder
    add_unit_loop = loops.add_unit_loop
    parallel = loops.parallel
    vectorize = loops.vectorize
    unroll = loops.unroll
    bind = loops.bind
    # data movement
    cache_read = memory.cache_read
    cache_write = memory.cache_write
    cache_inplace = cache_inplace.cache_inplace
    cache_index = cache_index.cache_index
    set_scope = memory.set_scope
    storage_align = memory.storage_align
    unsafe_set_dtype = set_dtype.unsafe_set_dtype
    reindex = reindex.reindex
    reindex_cache_read = reindex_cache.reindex_cache_read
    reindex_cache_write = reindex_cache.reindex_cache_write
    read_at = copy_at.read_at
    write_at = copy_at.write_at
    # layouts
    transform_layout = layout.transform_layout
    transform_block_layout = block_layout.transform_block_layout
    reorder_block_iter_var = block_layout.reorder_block_iter_var
    offset_operand = offset.offset_operand
    pad_einsum = padding.pad_einsum
    decompose_padding = padding_parts.decompose_padding
    can_decompose_padding = padding_parts.can_decompose_padding
    # placement
    compute_at = place.compute_at
    reverse_compute_at = place.reverse_compute_at
    rolling_buffer = rolling.rolling_buffer
    compute_inline = inline.compute_inline
    reverse_compute_inline = inline.reverse_compute_inline
    # reductions
    decompose_reduction = reduce.decompose_reduction
    rfactor = rfactor.rfactor
    fuse_reduction_epilogue = epilogue.fuse_reduction_epilogue
    # tensor intrinsics
    blockize = blockize.blockize
    tensorize = tensorize.tensorize
    # notes
    annotate = note.annotate
    unannotate = note.unannotate
    annotate_buffer_access = access_notes.annotate_buffer_access
    unsafe_hide_buffer_access = access_notes.unsafe_hide_buffer_access
    enter_postproc = note.enter_postproc

    def copy(self) -> Schedule:
        """A schedule that goes its own way from here: handles are valid in both, and the copy's
        generator is seeded from this one's."""
        other = type(self)(
            self._mod,
            seed=self.fork_seed(),
            debug_mask=self.debug_mask,
            error_render_level=self.error_render_level,
            enable_check=self.enable_check,
        )
        other._original = self._original
        other._trees = {name: t.whole() for name, t in self._trees.items()}
        other._values = dict(self._values)
        other.affine = dict(self.affine)
        other._pipelines = dict(self._pipelines)
        other.trace = self.trace.copy()
        other.func_working_on = self.func_working_on
        return other

    def work_on(self, func_name: str) -> None:
        """Let `get_block` look in this function unless told otherwise.

        Raises:
            ScheduleError: the module has no function of that name.

        Example:
            >>> sch = demo_schedule(); sch.work_on("main"); _ = sch.get_block("B")
            >>> print(sch.trace)
            b0 = sch.get_block(name="B", func_name="main")
        """
        if func_name not in self._mod.functions:
            self.fail(
                f"work_on: no function named {func_name!r} in the module",
                hint=f"it has: {', '.join(self._mod.functions)}",
                code="no-function",
            )
        self.func_working_on = func_name

    def show(self, style: str | None = None, black_format: bool = False) -> None:
        """Print the program and the trace; highlighted on a terminal that can.

        Args:
            style: the name of a Pygments style; None suits dark terminals.
            black_format: accepted and without effect: programs and traces print in one form.
        """
        show_python(self.mod.script(), style)
        self.trace.show(style, black_format)

    def diff(self, other: Schedule | IRModule | None = None) -> str:
        """A unified diff of two programs' text.

        Args:
            other: what to compare with; None is the program before any primitive.
        """
        if other is None:
            before, name = self._original, "before"
        elif isinstance(other, Schedule):
            before, name = other.mod, "other"
        else:
            before, name = other, "other"
        lines = difflib.unified_diff(
            before.script().splitlines(), self.mod.script().splitlines(), name, "now", lineterm=""
        )
        return "\n".join(lines)

    explain = explain_schedule

    if not TYPE_CHECKING:  # there, a method that does not exist stays an error

        def __getattr__(self, name: str) -> Any:
            return missing_method(self, name)

    def _repr_html_(self) -> str:
        return self.mod._repr_html_() + self.trace._repr_html_()
