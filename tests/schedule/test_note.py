"""annotate, unannotate, enter_postproc."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gputune.errors import RecordError
from gputune.ir.nodes import Var
from gputune.schedule import Schedule, Trace

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
    "value",
    [
        "text", 'a "quoted" \\ one', "\x00 é \u2028 \U0001f600", 7, -1, 2.5, True, None,
        [1, [2, "x"]], {"k": [1]}, "v1", {"v1": "v1", "\U0001f600": {"None": "_"}},
        float("inf"), float("-inf"), [float("inf"), {"k": float("-inf")}], -0.0, [], {},
    ],
)  # fmt: skip
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


def test_annotate_keeps_nan_in_traces() -> None:
    func = programs.row_sum()
    sch = scheduled(func)
    sch.annotate(loops(sch, "Y")[0], "key", [float("nan")])
    text = str(sch.trace)
    assert 'ann_val=[float("nan")]' in text
    as_json = json.dumps(sch.trace.as_json(), allow_nan=False)
    for trace in (Trace.from_python(text), Trace.from_json(as_json)):
        again = scheduled(func)
        trace.apply_to_schedule(again)
        ((_, (value,)),) = again.get(loops(again, "Y")[0]).annotations
        assert math.isnan(value)


@pytest.mark.parametrize("value", [{"a": "x"}, {"a": 1}])
def test_json_texts_that_call_are_not_read(value: dict[str, Any]) -> None:
    sch = scheduled(programs.row_sum())
    sch.annotate(loops(sch, "Y")[0], "key", value)
    text = json.dumps(sch.trace.as_json())
    for bad in ('float(\\"1\\")', "float(1)", 'open(\\"inf\\")', 'float(\\"inf\\", x=1)'):
        hostile = re.sub(r'\{"a": .*?\}', lambda _: f'{{"a": "{bad}"}}', text)  # noqa: B023
        assert hostile != text
        with pytest.raises(RecordError, match="literal"):
            Trace.from_json(hostile)


def test_annotate_takes_sampled_values_in_dicts() -> None:
    def do(s: Schedule) -> None:
        v, w = (s.sample_categorical([4, 8], [0.5, 0.5], decision=k) for k in (0, 1))
        note = {"x": v, "deep": [{"y": w * 2}, v], "plain": 1}
        s.annotate(loops(s, "Y")[0], "dict", note)

    sch = keeps(programs.row_sum(), do)
    expected = {"x": 4, "deep": ({"y": 16}, 4), "plain": 1}
    assert dict(sch.get(loops(sch, "Y")[0]).annotations) == {"dict": expected}
    simple = sch.trace.simplified()
    assert [x.kind.name for x in simple.insts].count("SampleCategorical") == 2
    changed = simple.with_decision(
        next(x for x in simple.insts if x.kind.name == "SampleCategorical"), 1
    )
    again = scheduled(programs.row_sum())
    changed.apply_to_schedule(again)
    assert again.get(loops(again, "Y")[0]).annotations[0][1]["x"] == 8


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        (np.float32(2.5), 2.5),
        (np.float64(0.1), 0.1),
        (np.bool_(True), True),
        (np.str_("s"), "s"),
        ([np.int8(1), {"k": np.float16(0.5)}], (1, {"k": 0.5})),
    ],
)
def test_annotate_takes_numbers_of_numpy(value: Any, plain: Any) -> None:
    func = programs.row_sum()
    sch = scheduled(func)
    sch.annotate(loops(sch, "Y")[0], "key", value)
    ((_, kept),) = sch.get(loops(sch, "Y")[0]).annotations
    assert kept == plain
    assert type(kept) is type(plain)
    assert "np." not in str(sch.trace)
    replays(func, sch)


def test_annotations_do_not_change_with_what_was_given() -> None:
    func = programs.row_sum()
    sch = scheduled(func)
    note: dict[str, Any] = {"k": [1, 2]}
    sch.annotate(loops(sch, "Y")[0], "key", note)
    note["k"].append(3)
    note["other"] = 4
    assert 'ann_val={"k": [1, 2]}' in str(sch.trace)
    replays(func, sch)


@pytest.mark.parametrize("make", [lambda v: v < 3, lambda v: v & 1, lambda v: [v << 1]])
def test_annotate_refuses_expressions_that_no_trace_can_hold(make: Callable[[Var], Any]) -> None:
    sch = scheduled(programs.row_sum())
    v = sch.sample_categorical([4], [1.0])
    i, _ = loops(sch, "Y")
    e = refuses(sch, "not-an-int", lambda: sch.annotate(i, "k", make(v)), names="no arithmetic")
    assert "//" in e.hint


def test_annotate_refuses() -> None:
    sch = scheduled(programs.row_sum())
    i, _ = loops(sch, "Y")
    sch.annotate(i, "key", 1)
    e = refuses(sch, "annotation-exists", lambda: sch.annotate(i, "key", 2), names="'key'")
    assert "unannotate" in e.hint
    refuses(sch, "annotation-value", lambda: sch.annotate(i, "other", object()), names="'other'")
    refuses(sch, "annotation-value", lambda: sch.annotate(i, "other", {1: 2}), names="'other'")
    refuses(sch, "annotation-value", lambda: sch.annotate(i, "other", np.ones(2)), names="ndarray")
    refuses(sch, "annotation-value", lambda: sch.annotate(i, "other", [b"x"]), names="bytes")
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
