"""Which annotations mean something: under which name, where, with what value, and to whom?

Whatever reads an annotation asks `fault` about its value, or `listed` for it. What MetaSchedule
knows and nothing here reads has no reader in the table: lowering warns of it, once a process (see
`lower.ignored`). A name that is not in the table is the user's own, and means nothing to anybody.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..errors import ScheduleError
from .nodes import Annotations, FloatImm, IntImm, StringImm


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotation of a loop, a block or a function.

    Attributes:
        name: under which it is written.
        on: what it is written on.
        value: the form of its value, one of `FORMS`.
        reader: who acts upon it; "" where nobody does.
        effect: what it brings about; without a reader: what happens all the same.
    """

    name: str
    on: str
    value: str
    reader: str
    effect: str


def _whole(x: Any) -> bool:
    return isinstance(x, int)


def _not_negative(x: Any) -> bool:
    return _whole(x) and (type(x) is not int or x >= 0)  # (of a sampled value nothing is asked)


def _positive(x: Any) -> bool:
    return _whole(x) and (type(x) is not int or x > 0)


def _flag(x: Any) -> bool:
    return _whole(x) and (type(x) is not int or x in (0, 1))


def _several(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(_whole(plain(y)) for y in x)


def _aligned(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(
        _several(y) and len(y) == 4 and _positive(plain(y[2])) for y in x
    )


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, str) and x in names


FORMS: Mapping[str, Callable[[Any], bool]] = {
    "a whole number": _whole,
    "a whole number from 0 on": _not_negative,
    "a positive whole number": _positive,
    "0 or 1": _flag,
    "a list of whole numbers": _several,
    "a list of [buffer, axis, factor, offset]": _aligned,
    'one of "streaming", "read_only", "no_allocate"': _one_of(
        "streaming", "read_only", "no_allocate"
    ),
    '"streaming"': _one_of("streaming"),
    "32, 64 or 128": lambda x: _whole(x) and plain(x) in (32, 64, 128),
    "a name": lambda x: isinstance(x, str),
    "anything": lambda x: True,
}
"""What a value may be, in words, and the test of it."""

_NUMBER, _NATURAL, _POSITIVE, _FLAG, _LIST, _ALIGN, _LOADS, _STORES, _SPAN, _NAME, _ANY = FORMS
_MS = "meta_schedule."
_LOWERING = "lowering"
_NO_ASYNC = "which copies run in the background, and who waits, follows from software_pipeline_*"
_PLAIN_FRAGMENT = "fragments have the form that the intrinsic's scopes give them"

_ROWS: tuple[tuple[str, str, str, str, str], ...] = (
    # what lowering and code generation act upon
    ("pragma_auto_unroll_max_step", "loop, block", _NATURAL, _LOWERING,
     "loops inside that make at most so many statements are unrolled; an inner note replaces an "
     "outer one"),
    ("pragma_unroll_explicit", "loop, block", _FLAG, _LOWERING,
     "who unrolls: 1 the code generator (in CUDA up to 16 statements), 0 the compiler behind it, "
     "by a hint; without this note the generator on a CPU, the compiler on a GPU"),
    ("buffer_dim_align", "block", _ALIGN, _LOWERING,
     "strides of what the block writes; made by storage_align"),
    ("shared_swizzle", "block", _SPAN, _LOWERING,
     "in the shared memory that the block writes, pieces of 16 bytes change places within rows of "
     "so many bytes, so that eight rows lie in different banks without padding"),
    ("auto_copy", "block", _FLAG, _LOWERING,
     "the threads of a GPU share the copy, a CPU copies vectors; made by read_at and write_at"),
    ("load_hint", "block", _LOADS, _LOWERING,
     "how caches of a GPU take what the block loads from global memory: streaming (to be used "
     "once), read_only (nothing in the kernel writes it), no_allocate (read only, past the first "
     "cache); on a CPU it means nothing"),
    ("store_hint", "block", _STORES, _LOWERING,
     "how caches of a GPU take what the block stores to global memory: streaming (not to be used "
     "soon); on a CPU it means nothing"),
    ("min_blocks_per_multiprocessor", "loop, block", _POSITIVE, _LOWERING,
     "registers are given out such that so many blocks of the kernel fit a multiprocessor of a "
     "GPU; of several notes in a kernel the greatest holds"),
    ("software_pipeline_stage", "loop", _LIST, _LOWERING,
     "a stage for each statement of the loop: on a GPU those of stage s run s turns after those of "
     "stage 0, beside them; a CPU runs them one after the other"),
    ("software_pipeline_order", "loop", _LIST, _LOWERING,
     "in which order the statements of one turn of a pipeline run"),
    ("software_pipeline_async_stages", "loop", _LIST, _LOWERING,
     "stages of software_pipeline_stage whose copies from global to shared memory a GPU makes in "
     "the background, with no registers in between; a CPU copies as ever"),
    ("explicit_read_region", "block", _LIST, "regions",
     "reads that stay as they are stated; made by annotate_buffer_access"),
    ("explicit_write_region", "block", _LIST, "regions",
     "writes that stay as they are stated; made by annotate_buffer_access"),
    ("layout_free_buffers", "function", _ANY, "RewriteLayout",
     "arguments, by name or position, that may be packed anew"),
    # what rules and postprocs tell each other
    ("schedule_rule", "block", _NAME, "ApplyCustomRule",
     'the function that schedules the block, no other rule does; "None": nobody does'),
    (_MS + "tiling_structure", "block", _NAME, "MultiLevelTiling and the rules after it",
     "the block is tiled already"),
    (_MS + "cooperative_fetch", "block", _POSITIVE, "RewriteCooperativeFetch",
     "threads share the copy to shared memory, each moves so many elements at once; a thread alone "
     "does so with a copy to global memory"),
    (_MS + "thread_extent_low_inclusive", "block", _NUMBER, "VerifyGPUCode",
     "the fewest threads of a block of the grid"),
    (_MS + "thread_extent_high_inclusive", "block", _NUMBER, "VerifyGPUCode",
     "the most threads of a block of the grid"),
    (_MS + "random_compute_producer", "block", _FLAG, "RandomComputeLocation",
     "the block's producers may move"),
    (_MS + "parallel", "root block", _NUMBER, "RewriteParallelVectorizeUnroll",
     "how long parallel loops may get; -1: none"),
    (_MS + "vectorize", "root block", _NUMBER, "RewriteParallelVectorizeUnroll",
     "how long vectors may get; -1: none"),
    (_MS + "unroll_explicit", "root block", _NATURAL, "RewriteParallelVectorizeUnroll",
     "becomes pragma_auto_unroll_max_step, with pragma_unroll_explicit 1"),
    (_MS + "unroll_implicit", "root block", _NATURAL, "RewriteParallelVectorizeUnroll",
     "becomes pragma_auto_unroll_max_step, with pragma_unroll_explicit 0"),
    (_MS + "auto_tensorize", "block", _NAME, "RewriteTensorize",
     'the intrinsic that computes the block; "": none shall'),
    (_MS + "auto_tensorize_init", "block", _NAME, "RewriteTensorize",
     'the intrinsic that sets what the block adds to; "": none shall'),
    (_MS + "layout_rewrite_preproc", "block", _ANY, "split_layout_preproc",
     "the block packs an argument, which a caller can do once"),
    (_MS + "inline_rule", "block", _NAME, "AutoInline", '"disable": the block is not inlined'),
    (_MS + "write_cache_level", "block", _LIST, "MultiLevelTiling",
     "tile levels at which the write cache is emptied"),
    ("warp_execution", "block", _FLAG, "RewriteCooperativeFetch, VerifyGPUCode",
     "whole warps run the block: threadIdx.x counts the threads of a warp"),
    # what nothing reads
    ("async_scope", "block", _ANY, "", _NO_ASYNC),
    ("async_commit_queue_scope", "block", _ANY, "", _NO_ASYNC),
    ("async_wait_queue_scope", "block", _ANY, "", _NO_ASYNC),
    ("async_wait_inflight_count", "block", _ANY, "", _NO_ASYNC),
    ("double_buffer_scope", "block", _ANY, "",
     "how often what a block writes is kept follows from the stages of software_pipeline_stage"),
    ("manifest_shared_memory_local_stage", "block", _ANY, "",
     "a fetch of an early stage of a pipeline goes through registers, any other does not"),
    ("permuted_layout", "block", _ANY, "",
     "shared_swizzle and storage_align say how rows lie in shared memory"),
    ("vector_bytes", "block", _ANY, "", "how much a copy moves at once follows from its accesses"),
    ("fragment_shape", "block", _ANY, "", _PLAIN_FRAGMENT),
    ("fragment_layout", "block", _ANY, "", _PLAIN_FRAGMENT),
    ("buffer_bound", "loop, block", _ANY, "",
     "accesses are shown to be inside their buffers before the program is built"),
    ("hand_threaded", "loop, block", _ANY, "", "threads are those of the loops bound to them"),
    ("require_bound_predicate", "block", _ANY, "",
     "the block runs where its T.where allows, whatever the extents of its iterators"),
)  # fmt: skip

KNOWN: Mapping[str, Annotation] = {row[0]: Annotation(*row) for row in _ROWS}
"""All annotations that MetaSchedule's parts exchange, by name."""


def plain(value: Any) -> Any:
    """The value of an annotation without the node around it."""
    return value.value if isinstance(value, IntImm | FloatImm | StringImm) else value


def fault(name: str, value: Any) -> str:
    """What is wrong with the value of a known annotation, "" if nothing: "expected 0 or 1, found
    'yes'"."""
    known = KNOWN.get(name)
    if known is None or FORMS[known.value](plain(value)):
        return ""
    return f"expected {known.value}, found {value!r:.60}"


def listed(notes: Annotations, name: str, at: str) -> tuple[Any, ...]:
    """The value of an annotation that is a list, () where there is none.

    Args:
        at: whose annotations they are, such as "block B".

    Raises:
        ScheduleError: a value that an annotation of that name cannot have.
    """
    for key, value in notes:
        if key == name:
            if wrong := fault(name, value):
                raise ScheduleError(
                    f"the annotation {name!r} of {at}: {wrong}",
                    hint="unannotate it, and annotate it with such a value",
                    code="annotation-value",
                )
            return tuple([
                tuple([plain(y) for y in x]) if isinstance(x, list | tuple) else plain(x)
                for x in value
            ])  # fmt: skip
    return ()


_said: set[str] = set()
_lock = threading.Lock()


def warn_once(key: str, message: str) -> None:
    """Warn, but of each key only once a process, however many candidates there are. The warning
    stands at the line that called this package.

    Args:
        key: what the warning is about.
        message: the warning.
    """
    with _lock:
        if key in _said:
            return
        _said.add(key)
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("gputune."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
