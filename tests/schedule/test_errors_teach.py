"""Does every refusal say what was asked, what was found and what would work, in each process alike?

The first half reads the source; the second provokes refusals by the hundred and looks at them.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gputune.errors import RecordError, ScheduleError
from gputune.ir.index_map import IndexMap
from gputune.ir.nodes import PrimFunc
from gputune.runtime.process import Worker
from gputune.schedule import KINDS, Instruction, InstructionKind, Schedule, Trace
from gputune.schedule.codes import ALWAYS, FORWARDED, SHARED, Site, all_sites, codes_of, sites
from gputune.schedule.demo import demo_schedule
from gputune.script import from_source
from tests.properties.moves import MOVES

from . import schedule_programs as programs

COMPUTED = {
    ("state", "fail"): "hands on what it is given",
    ("state", "error"): "hands on what it is given",
}
"""Places without a code or hint of their own, with the reason."""


# ----------------------------------------------------------------------------- the source
def shown(found: list[Site]) -> str:
    return "\n".join(f"{s.module}.py:{s.line} {s.function}: {s.message!r}" for s in found)


def own_sites() -> list[Site]:
    return [s for s in all_sites() if (s.module, s.function) not in COMPUTED]


def test_every_refusal_has_a_code_and_a_hint() -> None:
    assert len(own_sites()) > 200
    lacking = [s for s in own_sites() if not (s.has_code and s.has_hint)]
    assert not lacking, f"give these a hint= (what would work) and a code=:\n{shown(lacking)}"
    empty = [s for s in own_sites() if s.has_hint and s.hint == "" and s.message == ""]
    assert len(empty) < 10, shown(empty)  # both computed: what another function found


def test_exemptions_are_needed() -> None:
    found = {(s.module, s.function) for s in all_sites()}
    assert set(COMPUTED) <= found
    assert set(FORWARDED) <= found


def test_codes_are_words_and_written_where_they_are_raised() -> None:
    dynamic = [s for s in own_sites() if not s.codes and (s.module, s.function) not in FORWARDED]
    assert not dynamic, f"a code= must be a literal, or listed in FORWARDED:\n{shown(dynamic)}"
    for s in own_sites():
        for code in s.codes:
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code), shown([s])


def test_a_code_means_one_thing() -> None:
    """A code belongs to one file, or its meaning is written down in SHARED."""
    files: dict[str, set[str]] = {}
    for s in all_sites():
        for code in s.codes:
            files.setdefault(code, set()).add(s.module)
    loose = {c: sorted(m) for c, m in files.items() if len(m) > 1 and c not in SHARED}
    assert not loose, f"say in codes.SHARED what these mean, or rename them: {loose}"
    assert not set(SHARED) - set(files), "nothing raises these: take them out of SHARED"


def test_codes_stand_in_the_reference() -> None:
    page = (Path(__file__).parents[2] / "docs" / "primitives.md").read_text()
    missing = {c for s in all_sites() for c in s.codes if f"**`{c}`**" not in page}
    assert not missing, "gputune primitives --markdown > docs/primitives.md"


def test_no_refusal_shows_an_address() -> None:
    """`{handle!r}` would be another text in each process; `handles.shown` is for that."""
    package = Path(sys.modules[Schedule.__module__].__file__ or "").parent
    for file in sorted(package.glob("*.py")):
        for found in re.findall(r"\{(?:block|loop|rv|link|sref|handle)\w*!r\}", file.read_text()):
            # names of blocks are strings there
            assert (file.name, found) in {("padding_parts.py", "{block!r}")}, file.name


def test_the_reader_of_sources_finds_what_lacks() -> None:
    (a, b, c) = sites(
        'def f(s):\n    s.fail(f"x {s} is {s}{s}", code="a-b")\n'
        '    raise ScheduleError("y", hint="z" if s else "w", code="c" if s else "d")\n'
        'def g(s, e):\n    s.fail(e.message, hint=e.hint, code=e.code)\n', "m",
    )  # fmt: skip
    assert (a.function, a.message, a.has_hint, a.codes) == ("f", "x ... is ...", False, ("a-b",))
    assert (b.hint, b.codes, b.has_hint) == ("z / w", ("c", "d"), True)
    assert (c.function, c.codes, c.has_code) == ("g", (), True)


# ----------------------------------------------------------------------------- refusals
class Refusal(NamedTuple):
    """A refused call: the program, what was done before, the call, and the error's text."""

    program: str
    trace: Any
    method: str
    code: str
    text: str
    message: str
    undrawn: str


class Recording(Schedule):
    """Keeps the refusals of calls from outside."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refusals: list[Refusal] = []
        (func,) = self._original.functions.values()
        self.program = func.script()

    def run(self, kind: InstructionKind, values: dict[str, Any]) -> Any:
        before, outside = dict(values), self._depth == 0
        try:
            return super().run(kind, values)
        except ScheduleError as e:
            if outside:
                self.keep(kind, before, e)
            raise

    def keep(self, kind: InstructionKind, values: dict[str, Any], e: ScheduleError) -> None:
        decision = values.pop("decision", None)
        call = Instruction.record(kind, values, None)
        trace = self.trace.copy()
        trace.append(call, decision)
        try:
            written = json.loads(json.dumps(trace.as_json()))
            Trace.from_json(written)
        except (ScheduleError, RecordError, TypeError, ValueError):  # an object, a wrong type
            return
        undrawn = GetText.of(e)
        self.refusals.append(
            Refusal(self.program, written, kind.method, e.code, str(e), e.message, undrawn)
        )


class GetText:
    """The text of an error without its picture."""

    @staticmethod
    def of(e: ScheduleError) -> str:
        return f"{e.message}\n  hint: {e.hint}"


@cache
def refusals() -> list[Refusal]:
    """Refusals of random calls on awkward programs, one of each (method, code)."""
    out: dict[tuple[str, str], Refusal] = {}
    for p in programs.ALL:
        for seed in range(1, 7):
            for r in attempt(p(), seed):
                out.setdefault((r.method, r.code), r)
    return list(out.values())


def attempt(func: PrimFunc, seed: int) -> list[Refusal]:
    rng = random.Random(seed)
    # as text gives it, whose names are its own: a parameter I is I_ there, for I is the language
    func = from_source(func.script())
    sch = Recording(func, seed=seed)
    for _ in range(10):
        try:
            rng.choice(MOVES)[1](sch, rng)
        except ScheduleError:
            continue
    return sch.refusals


def test_there_are_enough_refusals_to_mean_something() -> None:
    assert len(refusals()) > 60
    assert len({r.code for r in refusals()}) > 35
    assert len({r.method for r in refusals()}) > 18


def test_every_refusal_names_primitive_call_and_remedy_and_draws() -> None:
    for r in refusals():
        first, *rest = r.text.splitlines()
        assert first.startswith(f"{r.method}: "), r.text
        assert len(first) > len(r.method) + 10, r.text
        hint = [x for x in rest if x.startswith("  hint: ")]
        assert len(hint) == 1, r.text
        assert len(hint[0]) > 14, r.text
        (call,) = [x for x in rest if x.startswith("  call: ")]
        assert call.startswith(f"  call: {r.method}("), r.text
        assert "def " in r.text, r.text
        given = re.search(r"\b[bl]\d+\b", json.dumps(r.trace[0][-1][1]))  # a block or loop
        named = re.search(r'"\\"\w', json.dumps(r.trace[0][-1][1])) and r.code != "no-block"
        assert any(x.startswith(">") for x in rest) or not (given or named), r.text
        assert " object at 0x" not in r.text, r.text


def test_the_codes_of_the_reference_are_those_that_are_met() -> None:
    kinds = {k.method: k for k in KINDS.values()}
    for r in refusals():
        assert r.code in codes_of(kinds[r.method]), (r.method, r.code)


def replayed(r: Refusal, level: Any = "detail") -> ScheduleError:
    sch = Schedule(from_source(r.program), error_render_level=level)
    with pytest.raises(ScheduleError) as caught:
        Trace.from_json(r.trace).apply_to_schedule(sch)
    return caught.value


def test_a_replay_says_the_same() -> None:
    for r in refusals():
        e = replayed(r)
        assert (e.code, str(e)) == (r.code, r.text)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setenv("PYTHONHASHSEED", "12345")  # sets there have another order than here
    script = Path(__file__).with_name("replaying_worker.py")
    with Worker([sys.executable, "-P", str(script)]) as w:
        yield w


def test_a_worker_says_the_same(worker: Worker) -> None:
    """The same class, code and text, picture and all."""
    for r in refusals():
        with pytest.raises(ScheduleError) as caught:
            worker.request("replay", {"script": r.program, "trace": r.trace})
        e = caught.value
        assert (type(e), e.code, str(e)) == (ScheduleError, r.code, r.text)
    assert worker.starts == 1


def test_levels() -> None:
    """ "fast" leaves out the program, "none" all but what was found: search counts by code."""
    for r in refusals()[::5]:
        fast, none = replayed(r, "fast"), replayed(r, "none")
        assert str(fast) == "\n".join(r.text.splitlines()[: len(str(fast).splitlines())])
        assert "  call: " in str(fast)
        assert "def " not in str(fast)
        assert (str(none), none.code) == (r.message, r.code)
        assert GetText.of(fast) == r.undrawn


# ----------------------------------------------------------------------------- single texts
def test_the_whole_of_one_error() -> None:
    sch = demo_schedule()
    i, _ = sch.get_loops(sch.get_block("B"))
    with pytest.raises(ScheduleError) as caught:
        sch.split(i, [None, None])
    assert (
        str(caught.value)
        == """\
split: only one factor can be None, got 2 in [None, None]
  hint: give all but one as integers
  call: split(loop=i, factors=[None, None])
  @T.prim_func(private=True)
  def main(A: T.Buffer((8, 8), "float32"), B: T.Buffer((8, 8), "float32")):
      # with T.block("root"):
>     for i in range(8):
          for j in range(8):
              with T.block("B"):
                  vi, vj = T.axis.remap("SS", [i, j])
                  T.reads(A[vi, vj])
                  T.writes(B[vi, vj])
                  B[vi, vj] = A[vi, vj] * T.float32(2)"""
    )


def test_arguments_of_a_wrong_kind_are_shown_in_their_call() -> None:
    sch = demo_schedule()
    b = sch.get_block("B")
    i, j = sch.get_loops(b)
    with pytest.raises(ScheduleError) as caught:
        sch.split(i, object())
    text = str(caught.value)
    assert "factors must be a list" in text
    assert "call: split(loop=i, factors=<object object>)" in text
    assert "0x" not in text
    assert ">     for i in range(8):" in text
    with pytest.raises(ScheduleError) as caught:
        sch.reorder(b, j)
    text = str(caught.value)
    assert text.startswith("reorder: expected a loop, got a block\n  hint: get_loops")
    assert "call: reorder(B, j)" in text
    with pytest.raises(ScheduleError) as caught:
        sch.transform_layout(b, ("read", 0), lambda i: i, pad_value=[i])
    assert "0x" not in str(caught.value)


def test_a_map_is_shown_as_a_trace_has_it() -> None:
    """A function of this process and the map that a worker reads give the same text."""
    pairs: list[tuple[Any, str]] = [
        (lambda i, j: (j, i // 3, i % 3), "lambda i, j: (j, i // 3, i % 3,)"),
        (lambda i: (i // 2, i % 2), "lambda i: (i // 2, i % 2,)"),
    ]
    for function, text in pairs:
        said = []
        for m in (function, IndexMap.from_text(text)):
            sch = demo_schedule()
            with pytest.raises(ScheduleError) as caught:
                sch.transform_block_layout("B", m)
            said.append(str(caught.value))
        assert f"call: transform_block_layout(block=B, index_map={text})" in said[0]
        assert said[0] == said[1]


@pytest.mark.parametrize(
    ("m", "remedy"),
    [
        (lambda i: i, "let the map take 2 indices"),
        (lambda i, j: "x", "such as lambda i, j: "),
        (lambda i, j: (), "such as lambda i, j: "),
        (lambda i, *, j: i, "such as lambda i, j: "),
        (lambda i, j: (i - 4, j), "i in place of i - 4"),
        (lambda i, j: (i // 3, i % 3, j), "numbers that divide"),
        (lambda i, j: (i // 2, j), "also i % 4"),
    ],
)
def test_a_refused_map_says_what_would_work(m: Any, remedy: str) -> None:
    sch = demo_schedule()
    with pytest.raises(ScheduleError) as caught:
        sch.transform_block_layout("B", m)
    assert remedy in caught.value.hint
    assert '>         with T.block("B"):' in str(caught.value)


@pytest.mark.parametrize("method", ["pad_einsum", "unsafe_set_dtype", "annotate", "cache_write"])
def test_a_block_given_by_name_is_marked(method: str) -> None:
    """Also where an argument is refused before the block is looked up."""
    args = {"pad_einsum": ["x"], "unsafe_set_dtype": [0, 3], "annotate": [3, 4]}
    texts = []
    for named in (True, False):
        sch = demo_schedule()
        with pytest.raises(ScheduleError) as caught:
            getattr(sch, method)("B" if named else sch.get_block("B"), *args.get(method, [0, 3]))
        assert caught.value.code == "argument"
        texts.append(str(caught.value))
    assert '>         with T.block("B"):' in texts[0]
    assert texts[0] == texts[1]


def test_handles_that_stand_for_nothing_are_shown_as_such() -> None:
    sch, other = demo_schedule(), demo_schedule()
    i, j = sch.get_loops(sch.get_block("B"))
    sch.fuse(i, j)
    with pytest.raises(ScheduleError, match=r"call: split\(loop=i, factors=\[2, 4\]\)"):
        sch.split(i, [2, 4])
    stranger = other.get_loops(other.get_block("B"))[0]
    with pytest.raises(ScheduleError, match=r"call: split\(loop=\(a loop of another schedule\)"):
        sch.split(stranger, [2, 4])
    sampled = demo_schedule()
    i, j = sampled.get_loops(sampled.get_block("B"))
    factors = sampled.sample_perfect_tile(j, 2, decision=[4, 2])
    sampled.vectorize(i)
    with pytest.raises(ScheduleError, match=r"call: split\(loop=i, factors=\[4, 2\]\)"):
        sampled.split(i, factors)


def test_every_primitive_may_refuse_its_arguments() -> None:
    for kind in KINDS.values():
        assert set(ALWAYS) <= set(codes_of(kind))


def test_a_primitive_cannot_hide_a_decision() -> None:
    from gputune.schedule import State

    def draws(s: State, loop: Any) -> None:
        Schedule.sample_perfect_tile(s, loop, 2)

    sch = demo_schedule()
    i, _ = sch.get_loops(sch.get_block("B"))
    before = str(sch.trace)
    kind = InstructionKind(
        name="Draws", method="draws", params=("loop",), inputs=("loop",), blocks=(), attrs=(),
        defaults={}, quiet=frozenset(), positional=False, variadic="", flat="", is_pure=False,
        samples=False, forms={}, fn=draws,
    )  # fmt: skip
    with pytest.raises(ScheduleError, match="draws: it calls sample_perfect_tile") as caught:
        sch.run(kind, {"loop": i})
    assert caught.value.code == "sampling-inside"
    assert str(sch.trace) == before
