"""What does the evolutionary search move in? Matrices of decisions, or traces where users' parts
ask for them; both look the same to it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...errors import ScheduleError, UserError
from ...ir.nodes import IRModule
from ...schedule import Schedule
from ...schedule.trace import Trace
from ..decisions import Category, IntArray, Tile
from ..population import Evaluation, Sketch, Unsupported
from ..postproc import Postproc, postprocess
from ..postproc.postproc import lenient
from ..sketch_feature import FEATURE_COUNT, Machine, features_of
from ..watched import Maker, is_ours

if TYPE_CHECKING:
    from ..mutator import Mutator
    from ..tune_context import TuneContext

REPLAYED = 96  # rows that a generation has where each is replayed


class Space(Protocol):
    """A design space whose candidates are rows of integers."""

    @property
    def generation(self) -> int:
        """How many rows a generation should have."""

    @property
    def sites(self) -> Sequence[slice]:
        """The columns of each decision: how far apart two rows are is counted in these."""

    @property
    def kind(self) -> Sequence[int]:
        """The columns that make the kind of a program: what the innermost tiles are, and where
        blocks are computed."""

    def sample(self, count: int, rng: np.random.Generator) -> IntArray:
        """Rows drawn at random."""

    def mutate(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """Each row with something changed."""

    def cross(self, a: IntArray, b: IntArray, rng: np.random.Generator) -> IntArray:
        """Children of pairs of rows."""

    def neighbours(self, row: IntArray) -> IntArray:
        """Rows that differ in one small thing."""

    def enumerate(self, limit: int) -> IntArray | None:
        """All rows, if there are at most `limit`."""

    def evaluate(self, rows: IntArray, new_classes: int | None = None) -> Evaluation:
        """Verdicts and features; see `Sketch.evaluate`."""

    def materialise(self, row: IntArray, excused: str = "") -> Schedule:
        """The finished schedule of a row; ScheduleError if it is refused, and not for what is
        excused (see `Postproc.choices`)."""

    def row_of(self, trace: Trace) -> IntArray | None:
        """The row of a recorded trace, if it is one of this space."""


class MatrixSpace:
    """A sketch."""

    def __init__(self, sketch: Sketch, generation: int) -> None:
        self.sketch = sketch
        self._full = generation
        d = sketch.decisions
        self.sites = [
            slice(s.at, s.at + s.n) if hasattr(s, "n") else slice(s.at, s.at + 1) for s in d.sites
        ]
        self.kind = [
            s.at + s.n - 1 if isinstance(s, Tile) else s.at
            for s in d.sites
            if not isinstance(s, Category)
        ]
        self.sample = d.sample
        self.mutate = d.mutate
        self.cross = d.cross
        self.neighbours = d.neighbours
        self.enumerate = d.enumerate
        self.evaluate = sketch.evaluate
        self.materialise = sketch.materialise
        self.row_of = sketch.row_of

    @property
    def generation(self) -> int:
        """Fewer rows where each needs a replay of its own."""
        return REPLAYED if self.sketch.by_replay else self._full


class TraceSpace:
    """Traces, changed by mutators and replayed one by one.

    A row is one number: the place of a trace in a list. Traces that say the same have one place.
    """

    def __init__(
        self,
        mod: IRModule,
        trace: Trace,
        postprocs: Sequence[Postproc],
        mutators: Mapping[Mutator, float],
        machine: Machine,
        rows: Sketch | None,
    ) -> None:
        self.mod = mod
        self.machine = machine
        self.postprocs = list(postprocs)
        self.mutators = list(mutators)
        self.weights = list(mutators.values())
        self.sites = [slice(0, 1)]
        self.kind: list[int] = []  # all of one kind
        self.generation = REPLAYED
        self._rows = rows  # the same space as a matrix, where it has one
        self._open = _until_postproc(trace)
        self._traces: list[Trace] = []
        self._places: dict[str, int] = {}
        self._known: dict[int, tuple[str | None, np.ndarray, float]] = {}

    def _place(self, trace: Trace) -> int:
        key = json.dumps(trace.as_json(remove_postproc=True))
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = len(self._traces)
            self._traces.append(_until_postproc(trace))
        return found

    def _settle(self, trace: Trace, seed: int) -> int | None:
        """The place of a trace, its open decisions drawn; None if it does not replay."""
        if all(trace.decisions.get(i) is not None for i in trace.insts if i.kind.samples):
            return self._place(trace)
        sch = Schedule(self.mod, seed=seed, error_render_level="none")
        try:
            trace.apply_to_schedule(sch, remove_postproc=True)
        except ScheduleError:
            return None
        return self._place(sch.trace)

    def sample(self, count: int, rng: np.random.Generator) -> IntArray:
        """Replays with new decisions."""
        bare = Trace(self._open.insts)
        found = [self._settle(bare, int(rng.integers(1, 2**31 - 1))) for _ in range(count)]
        return _column(found)

    def mutate(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """What the mutators make of the traces; a trace that none of them changes stays."""
        if not self.mutators or not sum(self.weights) > 0:
            return self.sample(len(rows), rng)
        choose = random.Random(int(rng.integers(2**31)))
        out: list[int | None] = []
        for k in rows[:, 0].tolist():
            (mutator,) = choose.choices(self.mutators, self.weights)
            changed = mutated(mutator, self._traces[k])
            if changed is None:
                out.append(k)
            else:
                out.append(self._settle(_until_postproc(changed), choose.randint(1, 2**31 - 1)))
        return _column(out)

    def cross(self, a: IntArray, b: IntArray, rng: np.random.Generator) -> IntArray:
        """Traces are not crossed: mutants of the first parents, and some of those where mutants
        are refused."""
        children = self.mutate(a, rng)
        return np.concatenate([children, a[len(children) :]])

    def neighbours(self, row: IntArray) -> IntArray:
        """A few mutants."""
        return self.mutate(np.repeat(row[None], 16, axis=0), np.random.default_rng(int(row[0])))

    def enumerate(self, limit: int) -> IntArray | None:
        """All candidates, where the decisions have columns and mutators change nothing else."""
        rows = None if self._rows is None else self._rows.decisions.enumerate(limit)
        if rows is None or self._rows is None:
            return None
        return _column([self._place(self._rows.trace_of(row)) for row in rows])

    def evaluate(self, rows: IntArray, new_classes: int | None = None) -> Evaluation:
        """Plain replay of each row that is new; there are no classes."""
        count = len(rows)
        out = Evaluation(
            np.zeros(count, bool),
            np.zeros((count, FEATURE_COUNT), np.float32),
            np.full(count, -np.inf),
            np.full(count, -1, np.int64),
            {},
        )
        for k, place in enumerate(rows[:, 0].tolist()):
            if place not in self._known:
                self._known[place] = self._look(place)
            refusal, x, score = self._known[place]
            if refusal is None:
                out.valid[k], out.features[k], out.score[k] = True, x, score
            else:
                out.refusals[refusal] = out.refusals.get(refusal, 0) + 1
                out.examples[refusal] = k
        return out

    def _look(self, place: int) -> tuple[str | None, np.ndarray, float]:
        try:
            x, score = features_of(self._schedule(place).mod, self.machine)
        except ScheduleError as e:
            return e.code or e.message, np.zeros(FEATURE_COUNT, np.float32), -np.inf
        except Exception as e:  # a user's part failed on this candidate; the reason is counted
            return f"{type(e).__name__}: {e}", np.zeros(FEATURE_COUNT, np.float32), -np.inf
        return None, x, score

    def _schedule(self, place: int, excused: str = "") -> Schedule:
        sch = Schedule(self.mod, seed=1, error_render_level="none")
        self._traces[place].apply_to_schedule(sch)
        error = postprocess(sch, lenient(self.postprocs, excused))
        if error is not None:
            raise error
        return sch

    def materialise(self, row: IntArray, excused: str = "") -> Schedule:
        """The finished schedule of a row; ScheduleError if it is refused, and not for what is
        excused."""
        return self._schedule(int(row[0]), excused)

    def row_of(self, trace: Trace) -> IntArray | None:
        """The row of a trace that this space could have made."""
        kinds = [i.kind for i in _until_postproc(trace).insts]
        if kinds != [i.kind for i in self._open.insts]:
            return None
        return np.array([self._place(trace)], np.int64)


def mutated(mutator: Mutator, trace: Trace) -> Trace | None:
    """What a mutator makes of a trace; None if it changes nothing."""
    found: object = mutator.apply(trace)
    if found is None or isinstance(found, Trace):
        return found
    raise UserError(
        f"the mutator {type(mutator).__name__} returned {found!r:.60}",
        hint="apply returns a Trace, or None where there is nothing to mutate",
        code="mutator",
    )


def _until_postproc(trace: Trace) -> Trace:
    insts = trace.insts
    for k, inst in enumerate(insts):
        if inst.kind.name == "EnterPostproc":
            insts = insts[:k]
            break
    return Trace(insts, {i: trace.decisions[i] for i in insts if i in trace.decisions})


def _column(found: Sequence[int | None]) -> IntArray:
    return np.array([k for k in found if k is not None], np.int64).reshape(-1, 1)


def make_space(
    context: TuneContext, sch: Schedule, generation: int, maker: Maker | None = None
) -> Space:
    """The space of one design space schedule; `maker`: who must be called for its candidates."""
    generator = context.space_generator
    postprocs = [] if generator is None else generator.postprocs
    mutators = {} if generator is None else generator.mutator_probs
    if isinstance(postprocs, str) or isinstance(mutators, str):
        raise UserError(
            "postprocs and mutators are not settled yet",
            hint="make the TuneContext with a program and a target",
            code="not-initialised",
        )
    machine = Machine.of(context.target)
    if maker is not None:
        from .called_space import CalledSpace

        return CalledSpace(maker, context.mod, sch.trace, postprocs, mutators, machine)
    by_replay = not all(is_ours(p) for p in postprocs)
    sketch: Sketch | None = None
    try:
        sketch = Sketch(context.mod, sch.trace, postprocs, machine, by_replay=by_replay)
    except Unsupported:
        sketch = None
    if sketch is not None and all(is_ours(m) for m in mutators):
        return MatrixSpace(sketch, generation)
    return TraceSpace(context.mod, sch.trace, postprocs, mutators, machine, sketch)
