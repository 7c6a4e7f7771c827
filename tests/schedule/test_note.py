"""annotate, unannotate, enter_postproc."""

from __future__ import annotations

from typing import Any

import pytest

from gputune.schedule import Schedule

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, replays, scheduled


def test_annotations_print_on_loops_and_blocks() -> None:
    sch = scheduled(programs.row_sum())
    sch.annotate(loops(sch, "Y")[0], "pragma_auto_unroll_max_step", 16)
    sch.annotate(sch.get_block("Y"), "meta_schedule.tiling_structure", "SSRSRS")
    prints(
        sch,
        """
        for i in T.serial(4, annotations={"pragma_auto_unroll_max_step": 16}):
            for k in range(7):
                with T.block("Y"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    T.reads(X[vi, vk])
                    T.writes(Y[vi])
                    T.block_attr({"meta_schedule.tiling_structure": "SSRSRS"})
                    with T.init():
                        Y[vi] = T.float32(0)
                    Y[vi] = Y[vi] + X[vi, vk]
    """,
    )


@pytest.mark.parametrize(
    "value", ["text", 'a "quoted" \\ one', 7, -1, 2.5, True, None, [1, [2, "x"]], {"k": [1]}, "v1"]
)
def test_annotation_values_survive_traces(value: Any) -> None:
    func = programs.row_sum()
    sch = scheduled(func)
    sch.annotate(loops(sch, "Y")[0], "key", value)
    replays(func, sch)


def test_annotate_takes_sampled_values_and_arithmetic() -> None:
    def do(s: Schedule) -> None:
        v = s.sample_categorical([4, 8], [0.5, 0.5], decision=1)
        i, _ = loops(s, "Y")
        s.annotate(i, "twice", v * 2 + 1)
        s.annotate(i, "list", [v, 3])

    sch = keeps(programs.row_sum(), do)
    notes = dict(sch.get(loops(sch, "Y")[0]).annotations)
    assert notes == {"twice": 17, "list": (8, 3)}


def test_annotate_refuses() -> None:
    sch = scheduled(programs.row_sum())
    i, _ = loops(sch, "Y")
    sch.annotate(i, "key", 1)
    e = refuses(sch, "annotation-exists", lambda: sch.annotate(i, "key", 2), names="'key'")
    assert "unannotate" in e.hint
    refuses(sch, "annotation-value", lambda: sch.annotate(i, "other", object()), names="'other'")
    refuses(sch, "annotation-value", lambda: sch.annotate(i, "other", {1: 2}), names="'other'")
    refuses(sch, "argument", lambda: sch.annotate(i, 3, 2), names="ann_key")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "not-a-handle", lambda: sch.annotate(3, "k", 2), names="int 3")  # type: ignore[arg-type]  # wrong on purpose


def test_unannotate() -> None:
    sch = scheduled(programs.row_sum())
    i, _ = loops(sch, "Y")
    sch.annotate(i, "key", 1)
    e = refuses(sch, "annotation-missing", lambda: sch.unannotate(i, "nokey"), names="'nokey'")
    assert "key" in e.hint
    sch.unannotate(i, "key")
    assert sch.get(i).annotations == ()
    sch.annotate(i, "key", 2)


def test_enter_postproc_marks_what_can_be_left_out() -> None:
    sch = scheduled(programs.row_sum())
    i, _ = loops(sch, "Y")
    sch.enter_postproc()
    sch.parallel(i)
    assert [x.kind.name for x in sch.trace.insts[-2:]] == ["EnterPostproc", "Parallel"]
    assert sch.trace.as_python(remove_postproc=True) == sch.trace.as_python()[:2]
    again = scheduled(programs.row_sum())
    sch.trace.apply_to_schedule(again, remove_postproc=True)
    assert again.get(loops(again, "Y")[0]).kind == "serial"
    refuses(sch, "argument", lambda: sch.unannotate(i, 0))  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="enter_postproc"):
        sch.enter_postproc(1)  # type: ignore[call-arg]  # wrong on purpose
