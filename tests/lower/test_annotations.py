"""Annotations: the table of those that mean something, that each of them changes what it says, what
has no effect is warned of once, and values that make no sense are refused."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gputune as gt
import gputune.meta_schedule as ms
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.errors import LowerError, ScheduleError
from gputune.ir.known_annotations import FORMS, KNOWN, fault
from gputune.ir.nodes import Block, For, IntImm, PrimFunc, Stmt, StringImm
from gputune.ir.walk import map_stmt, walk_stmt
from gputune.lower.gpu import lower_gpu
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.meta_schedule import analysis
from gputune.meta_schedule.postproc import (
    DisallowAsyncStridedMemCopy,
    Postproc,
    RewriteParallelVectorizeUnroll,
    postprocess,
)
from gputune.schedule import Schedule
from gputune.schedule.tree import block_with
from gputune.script import from_source
from gputune.script import tir as T

PACKAGE = Path(gt.__file__).parent
STEPS, EXPLICIT = "pragma_auto_unroll_max_step", "pragma_unroll_explicit"
IGNORED = sorted(k for k, a in KNOWN.items() if not a.reader)
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process of its own, as far as warnings go."""
    monkeypatch.setattr("gputune.ir.known_annotations._said", set())


@T.prim_func
def sums(A: T.Buffer((64, 96), "float32"), B: T.Buffer((64,), "float32")):
    for i, k in T.grid(64, 96):
        with T.block("B"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                B[vi] = T.float32(0)
            B[vi] = B[vi] + A[vi, vk]


def noted(note: Callable[[Schedule], None], func: PrimFunc = sums) -> PrimFunc:
    sch = Schedule(func)
    note(sch)
    (out,) = sch.mod.functions.values()
    assert isinstance(out, PrimFunc)
    return out


def on_loop(**notes: Any) -> Callable[[Schedule], None]:
    def note(sch: Schedule) -> None:
        loop = sch.get_loops(sch.get_block("B"))[0]
        for key, value in notes.items():
            sch.annotate(loop, key, value)

    return note


def plain(func: PrimFunc) -> PrimFunc:
    return lower(func, CpuLimits())


def kinds(func: PrimFunc) -> set[str]:
    """Of the loops over `k`, once lowered."""
    loops = [s for s in walk_stmt(plain(func).body) if type(s) is For]
    return {f.kind for f in loops if f.var.name.startswith("k")}


# ----------------------------------------------------------------------------- the table
def test_the_names_that_rules_use_are_in_the_table() -> None:
    spelled = {
        v for k, v in vars(analysis).items()
        if k.isupper() and isinstance(v, str) and not k.startswith("_")
    }  # fmt: skip
    assert len(spelled) > 15
    assert spelled <= set(KNOWN)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_table_says_who_reads(name: str) -> None:
    """What has a reader stands in the source of a room that acts, what has none does not stand in
    lowering and code generation."""
    known = KNOWN[name]
    assert known.value in FORMS
    assert known.effect
    constants = [k for k, v in vars(analysis).items() if k.isupper() and v == name]
    word = re.compile("|".join([f'"{re.escape(name)}"', *[rf"\b{k}\b" for k in constants]]))
    rooms = ("ir", "schedule", "lower", "codegen", "meta_schedule") if known.reader else (
        "lower", "codegen")  # fmt: skip
    files = [f for r in rooms for f in (PACKAGE / r).rglob("*.py")]
    skipped = {PACKAGE / "ir" / "known_annotations.py", PACKAGE / "meta_schedule" / "analysis.py"}
    said = [f for f in files if f not in skipped and word.search(f.read_text(encoding="utf-8"))]
    assert bool(said) == bool(known.reader)


def test_values_and_their_forms() -> None:
    good: dict[str, list[Any]] = {
        STEPS: [0, 16, True, IntImm(4)], EXPLICIT: [0, 1, False],
        "buffer_dim_align": [((0, 0, 32, 8),), [[0, 1, 16, 4]], ()],
        "meta_schedule.parallel": [-1, 8], "meta_schedule.cooperative_fetch": [1, 4],
        "meta_schedule.write_cache_level": [(1, 2), [2]],
        "meta_schedule.auto_tensorize": ["", "dot_16x4_vnni", StringImm("x")],
        "a note of mine": [object()],
    }  # fmt: skip
    bad: dict[str, list[Any]] = {
        STEPS: [-1, "x", None, 2.5], EXPLICIT: [2, "yes", -1],
        "buffer_dim_align": [3, ((0, 0, 32),), "x"],
        "meta_schedule.parallel": ["all"], "meta_schedule.cooperative_fetch": [0, "x", (4,)],
        "meta_schedule.write_cache_level": [2, ("x",)], "meta_schedule.auto_tensorize": [0, True],
    }  # fmt: skip
    for name, values in good.items():
        assert [fault(name, v) for v in values] == [""] * len(values), name
    for name, values in bad.items():
        assert all(fault(name, v).startswith("expected ") for v in values), name
    assert fault(EXPLICIT, "yes") == "expected 0 or 1, found 'yes'"


# ----------------------------------------------------------------------------- no effect
@pytest.mark.parametrize("name", IGNORED)
def test_what_has_no_effect_is_said_once(name: str) -> None:
    on = KNOWN[name].on

    def note(sch: Schedule) -> None:
        block = sch.get_block("B")
        sch.annotate(sch.get_loops(block)[1] if on.startswith("loop") else block, name, [0, 1])

    func = noted(note)
    place = "loop k" if on.startswith("loop") else "block B"
    with pytest.warns(UserWarning, match=f"'{name}' of {place} in sums has no effect") as said:
        plain(func)
    assert KNOWN[name].effect in str(said[0].message)
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(func)


def test_each_name_is_said_for_itself_and_unknown_ones_are_not() -> None:
    func = noted(on_loop(buffer_bound=[0], hand_threaded=1,
                         **{"mine": 3, "meta_schedule.mine": 4}))  # fmt: skip
    with pytest.warns(UserWarning, match="has no effect") as said:
        plain(func)
    assert [re.findall("'(.*?)'", str(w.message))[0] for w in said] == [
        "buffer_bound", "hand_threaded",
    ]  # fmt: skip


INNER = 12
"""Iterations of the innermost loop on a GPU; there are eight times as many in all."""


def bound(sch: Schedule, steps: int = 32) -> None:
    i, k = sch.get_loops(sch.get_block("B"))
    sch.split(k, [None, INNER])
    grid, thread = sch.split(i, [None, steps])
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")


def test_lowering_for_a_gpu_says_it_too() -> None:
    def note(sch: Schedule) -> None:
        bound(sch)
        sch.annotate(sch.get_block("B"), "double_buffer_scope", 0)

    with pytest.warns(UserWarning, match="'double_buffer_scope' of block B"):
        lower_gpu(noted(note))


def test_tuning_says_it_where_the_user_sees_it() -> None:
    """Candidates are lowered in workers, whose warnings nobody reads."""
    func = noted(on_loop(hand_threaded=1))
    context = ms.TuneContext(func, target="llvm", space_generator="post-order-apply", rand_state=1)
    with pytest.warns(UserWarning, match="hand_threaded") as said:
        context.generate_design_space()
    assert len(said) == 1


# ----------------------------------------------------------------------------- unrolling on a CPU
def built(func: PrimFunc) -> tuple[str, str]:
    """LLVM text and assembly; what it computes is right."""
    lib = gt.build(func, "llvm -num-cores=1")
    a = np.random.default_rng(0).integers(0, 9, (64, 96)).astype(np.float32)
    b = np.full(64, np.nan, np.float32)
    lib["main"](a, b)
    np.testing.assert_array_equal(b, a.sum(1))
    return lib.inspect_source("ll"), lib.inspect_source("asm")


def test_who_unrolls() -> None:
    """The generator, or LLVM, which gets a loop and a hint; the machine code is unrolled in both
    cases."""
    texts = {e: built(noted(on_loop(**{STEPS: 128, EXPLICIT: e}))) for e in (0, 1)}
    rolled, by_default = built(sums), built(noted(on_loop(**{STEPS: 128})))
    assert by_default == texts[1]
    hint = "llvm.loop.unroll.full"
    assert [hint in text for text, _ in (rolled, texts[1], texts[0])] == [False, False, True]
    adds = [text.count("fadd") for text, _ in (rolled, texts[1], texts[0])]
    assert adds[0] < 10
    assert adds[1:] == [96, 1]
    codes = [len(asm) for _, asm in (rolled, texts[1], texts[0])]
    assert codes[1] > 2 * codes[0]
    assert codes[2] > 2 * codes[0]


def test_the_limit_holds_for_what_llvm_unrolls_too() -> None:
    text, _ = built(noted(on_loop(**{STEPS: 95, EXPLICIT: 0})))
    assert "llvm.loop" not in text


def test_an_inner_note_replaces_an_outer_one() -> None:
    def note(sch: Schedule) -> None:
        i, k = sch.get_loops(sch.get_block("B"))
        sch.annotate(i, STEPS, 512)
        sch.annotate(k, STEPS, 0)

    assert kinds(noted(on_loop(**{STEPS: 512}))) == {"unrolled"}
    assert "serial" in kinds(noted(note))


@pytest.mark.parametrize("where", ["block", "root"])
def test_pragmas_of_blocks_are_for_the_loops_inside(where: str) -> None:
    """They were ignored."""

    def note(sch: Schedule) -> None:
        outer = sch.blockize(sch.get_loops(sch.get_block("B"))[1])
        sch.annotate(outer if where == "block" else sch.get_block("root"), STEPS, 128)

    assert kinds(noted(note)) == {"unrolled"}
    assert "serial" in kinds(sums)


def test_the_pragma_of_a_block_inside_replaces_that_of_the_loop_around() -> None:
    def note(sch: Schedule) -> None:
        i, k = sch.get_loops(sch.get_block("B"))
        sch.annotate(i, STEPS, 512)
        sch.annotate(sch.blockize(k), STEPS, 0)

    assert "serial" in kinds(noted(note))


# ----------------------------------------------------------------------------- ... and on a GPU
def gpu(*notes: tuple[str, Any], on: str = "thread") -> PrimFunc:
    def note(sch: Schedule) -> None:
        bound(sch)
        block = sch.get_block("B")
        _, thread, k, _ = sch.get_loops(block)
        place: Any = thread
        if on == "block":
            place = sch.blockize(k)
        elif on == "root":
            place = sch.get_block("root")
        for key, value in notes:
            sch.annotate(place, key, value)

    return noted(note)


@pytest.mark.parametrize("on", ["thread", "block", "root"])
def test_who_unrolls_on_a_gpu(on: str) -> None:
    def pragmas_and_sums(*notes: tuple[str, Any]) -> tuple[int, int]:
        text = generate(gpu(*notes, on=on)).text
        return text.count("#pragma unroll"), text.count(" + A[")

    assert pragmas_and_sums() == (0, 1)
    assert pragmas_and_sums((STEPS, 96)) == (2, 1)
    assert pragmas_and_sums((STEPS, 96), (EXPLICIT, 0)) == (2, 1)
    assert pragmas_and_sums((STEPS, 95), (EXPLICIT, 0)) == (1, 1)
    assert pragmas_and_sums((STEPS, 95), (EXPLICIT, 1)) == (0, INNER)
    assert pragmas_and_sums((STEPS, 96), (EXPLICIT, 1)) == (1, INNER)  # 96 would be too many lines
    assert pragmas_and_sums((STEPS, 11), (EXPLICIT, 1)) == (0, 1)


LOCALS = """
@T.prim_func
def main(A: T.Buffer((4, 8), "float32"), B: T.Buffer((4, 8), "float32")):
    for b in T.thread_binding(1, thread="blockIdx.x", annotations={"pragma_auto_unroll_max_step": \
64, "pragma_unroll_explicit": 1}):
        for t in T.thread_binding(8, thread="threadIdx.x"):
            for i in range(4):
                with T.block("out"):
                    vi = T.axis.spatial(4, i)
                    vt = T.axis.spatial(8, t)
                    C = T.alloc_buffer((8,), scope=SCOPE)
                    with T.block("C"):
                        C[vt] = A[vi, vt] + T.float32(1)
                    with T.block("B"):
                        B[vi, vt] = C[WHERE] * T.float32(2)
"""


@needs_compiler
@pytest.mark.parametrize(("scope", "where"), [("local", "vt"), ("shared", "7 - vt")])
def test_copies_have_memory_of_their_own_or_are_one_loop(scope: str, where: str) -> None:
    """Registers are declared in each copy; shared memory is one for all, so the loop stays."""
    func = from_source(LOCALS.replace("SCOPE", f'"{scope}"').replace("WHERE", where))
    assert isinstance(func, PrimFunc)
    source = generate(func)
    assert source.text.count("+ 1.0f") == (4 if scope == "local" else 1)
    a = np.arange(32, dtype=np.float32)
    report = host_run(host_compile(source), {"A": a, "B": None}, order="random", seed=1)
    assert not report.findings
    got = report.outputs["B"].reshape(4, 8)
    wanted = (a.reshape(4, 8) + 1) * 2
    np.testing.assert_array_equal(got, wanted if scope == "local" else wanted[:, ::-1])


# ----------------------------------------------------------------------------- other effects
def test_alignment_and_copies_change_the_lowered_program() -> None:
    def copy(sch: Schedule) -> None:
        block = sch.get_block("B")
        fetched = sch.read_at(sch.get_loops(block)[0], block, 0, "global")
        assert dict(sch.get(fetched).annotations) == {"auto_copy": 1}

    def scalar(sch: Schedule) -> None:
        copy(sch)
        sch.unannotate(sch.get_block("A_global"), "auto_copy")

    def whole(sch: Schedule) -> None:
        sch.cache_read(sch.get_block("B"), 0, "global")

    def aligned(sch: Schedule) -> None:
        sch.annotate(sch.cache_read(sch.get_block("B"), 0, "global"), "buffer_dim_align",
                     [[0, 0, 64, 8]])  # fmt: skip

    texts = {f: str(plain(noted(f))) for f in (copy, scalar, whole, aligned)}
    assert texts[copy] != texts[scalar]
    assert texts[aligned] != texts[whole]
    for f in texts:
        built(noted(f))


# ----------------------------------------------------------------------------- bad values
def by_hand(name: str, value: Any, on: str = "block") -> Schedule:
    """A schedule of a program with a note that nobody looked at before."""

    def go(s: Stmt) -> Stmt:
        if type(s) is Block and on == ("block" if s.iter_vars else "root"):
            return block_with(s, annotations=((name, value),))
        out = map_stmt(s, lambda e: e, go)
        assert out is not None
        if type(out) is For and on == "loop":
            f = out
            return For(f.var, f.min, f.extent, f.kind, f.body, f.thread, ((name, value),))
        return out

    body = go(sums.body)
    assert type(body) is Block
    return Schedule(PrimFunc(sums.params, sums.buffer_map, body, sums.attrs))


READ_ON_BLOCKS = sorted(
    v for k, v in vars(analysis).items()
    if k.isupper() and isinstance(v, str) and KNOWN[v].value != "anything"
)  # fmt: skip


@pytest.mark.parametrize("value", [2, "yes", (1,)])
def test_lowering_refuses_values_that_make_no_sense(value: Any) -> None:
    (func,) = by_hand(EXPLICIT, value, "loop").mod.functions.values()
    with pytest.raises(LowerError, match=f"'{EXPLICIT}' of loop .*expected 0 or 1") as e:
        plain(func)  # type: ignore[arg-type]  # a function of tensors
    assert e.value.code == "annotation-value"


@pytest.mark.parametrize("name", READ_ON_BLOCKS)
def test_rules_and_postprocs_refuse_values_that_make_no_sense(name: str) -> None:
    """All of them ask `annotation`."""
    sch = by_hand(name, 2.5)
    with pytest.raises(ScheduleError, match=r"of block B: expected .*, found 2\.5") as e:
        analysis.annotation(sch.get(sch.get_block("B")), name)
    assert name in e.value.message
    assert e.value.code == "annotation-value"


@pytest.mark.parametrize(
    ("place", "name", "value", "postproc"),
    [
        ("root", "meta_schedule.parallel", "all", RewriteParallelVectorizeUnroll()),
        ("root", "meta_schedule.vectorize", [16], RewriteParallelVectorizeUnroll()),
        ("root", "meta_schedule.unroll_explicit", -1, RewriteParallelVectorizeUnroll()),
        ("root", "meta_schedule.unroll_implicit", "x", RewriteParallelVectorizeUnroll()),
        ("loop", "software_pipeline_async_stages", 3, DisallowAsyncStridedMemCopy()),
    ],
)
def test_a_postproc_says_which_value_is_wrong(
    place: str, name: str, value: Any, postproc: Postproc
) -> None:
    error = postprocess(by_hand(name, value, place), [postproc])
    assert error is not None
    assert error.code == "annotation-value"
    assert name in error.message
    assert "expected " in error.message
