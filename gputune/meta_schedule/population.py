"""Which of a thousand candidates are legal, and what are their features? All of them at once.

A population is a matrix of decisions, one row a candidate of a `Sketch`. One replay of the sketch
with `Dim` decisions gives verdict and features as expressions, and the comparisons it made as
guards: every row for which the guards come out the same is of the same *structure class* and shares
the replay. Classes are kept, so most rows are never replayed at all.

Where that cannot work (a postproc that a user wrote, far too many classes), rows are replayed one
by one, with the same results. The first classes, and some of the later ones, are checked on some of
their rows by plain replay: where one does not agree (code that lost the expression of a sampled
value, or arithmetic that only plain numbers simplify) it is replayed row by row, too, and all that
follow are checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ScheduleError
from ..ir.build import const_int
from ..ir.nodes import IRModule
from ..schedule import Schedule
from ..schedule.dim import Dim, Guard, Sym, SymTable, expr_of, recording
from ..schedule.sampling import compute_locations
from ..schedule.tilings import RULES, Covering, most_covered
from ..schedule.trace import Instruction, Trace
from .decisions import Category, Decisions, IntArray, Location, Site, Tile
from .polynomials import Literal, Polynomials, Range, Values
from .postproc import Postproc, postprocess
from .postproc.postproc import lenient
from .sketch_feature import (
    FEATURE_COUNT,
    Features,
    Floats,
    Machine,
    Rows,
    features,
    features_of,
)
from .sketch_layout import Layout, Part, describe, parts_of

Bools: TypeAlias = npt.NDArray[np.bool_]

MAX_CLASSES = 4096
"""Structure classes of one sketch, beyond which rows are replayed one by one."""

_CHUNK = 1024  # rows whose features are computed at a time: the arrays stay in the cache
_CHECKED = 16  # so many classes are compared with plain replay, then every so many-th:
_CHECKED_LEGAL = 8  # of legal ones fewer, a comparison costs as much as the class
_MANY = 2**40  # more than any factor
_MOST_PLAIN = 64  # rows of a class that are replayed where not all are wanted
SAMPLING = frozenset({*RULES, "SampleCategorical", "SampleComputeLocation"})


class Unsupported(Exception):
    """The sketch takes a kind of decision that has no columns."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known about the rows of a matrix.

    Attributes:
        valid: may the candidate be measured?
        features: (rows, FEATURE_COUNT); zeros where it is not valid.
        score: what the analytic model thinks (higher is better); -inf where it is not valid.
        classes: number of the structure class; -1 where the row was replayed by itself, -2 where it
            was not looked at because its class is new and no more were wanted.
        refusals: why rows are not valid, counted.
        examples: of each of these reasons, where a row is that was refused for it.
    """

    valid: Bools
    features: Features
    score: Floats
    classes: npt.NDArray[np.int64]
    refusals: dict[str, int]
    examples: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Part:
    """A block of a layout, as it is in any class: features are computed for all of them at once.

    Attributes:
        slot: its place in the layout.
        facts: polynomials.
    """

    slot: int
    what: Part
    facts: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Class:
    """Rows that share one replay."""

    number: int
    care: npt.NDArray[np.uint8]  # which literals of the group matter, one bit each
    value: npt.NDArray[np.uint8]  # how they come out
    refusal: str | None
    layout: Layout | None
    facts: tuple[int, ...]  # polynomials
    parts: tuple[int, ...]  # what the layout consists of
    rows: int = 0
    trusted: bool = True


@dataclass(slots=True, eq=False)
class _Group:
    """The classes of all rows with the same locations; they share their literals."""

    literals: dict[Literal, int] = field(default_factory=dict)
    classes: list[_Class] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Waiting:
    """The rows of one group while their classes are being found."""

    group: _Group
    at: IntArray
    values: Values
    members: list[tuple[_Class, IntArray]]
    left: IntArray


_Users: TypeAlias = dict[int, list[IntArray]]  # number of a part: the rows that have it


class Sketch:
    """A program, a trace with open decisions, and the postprocs that finish a schedule.

    Args:
        mod: the program before any primitive.
        trace: instructions up to `enter_postproc` (what follows is left out), each sampling one
            with a decision.
        postprocs: applied in order after the trace.
        machine: what the features are about.
        by_replay: replay every row by itself, as a space with user-written parts needs.

    Raises:
        Unsupported: the trace samples in a way that has no columns.
        ScheduleError: the trace does not replay on the program.
    """

    def __init__(
        self,
        mod: IRModule,
        trace: Trace,
        postprocs: Sequence[Postproc],
        machine: Machine | None = None,
        *,
        by_replay: bool = False,
    ) -> None:
        self.mod = mod
        insts = trace.insts
        for k, inst in enumerate(insts):
            if inst.kind.name == "EnterPostproc":
                insts = insts[:k]
                break
        self.trace = Trace(insts, {i: trace.decisions[i] for i in insts if i in trace.decisions})
        self.postprocs = tuple(postprocs)
        self.machine = machine or Machine()
        self.by_replay = by_replay
        self._groups: dict[tuple[int, ...], _Group] = {}
        self._count = 0
        self.fallbacks: Counter[str] = Counter()
        """Why rows had to be replayed one by one, counted: classes of which plain replay says
        something else ("disagrees"), or what replay with Dims raised."""
        self._replayed: dict[bytes, tuple[str | None, Features, float]] = {}
        self._tile_extents: dict[Instruction, int] = {}
        self._syms: SymTable = {}  # the expressions of all replays, with the polynomials they are
        self._numbers: dict[Sym, int] = {}
        self._literals: dict[Guard, tuple[Literal, bool] | None] = {}
        self._parts: list[_Part] = []
        self._part_numbers: dict[_Part, int] = {}
        self._beginning: tuple[Schedule, dict[Any, Any]] | None = None
        samples = [i.kind.samples for i in insts]
        self._undecided = samples.index(True) if True in samples else len(insts)
        """How many instructions come before the first decision."""
        self._read_sites()

    @property
    def class_count(self) -> int:
        """How many structure classes are known."""
        return self._count

    # ------------------------------------------------------------------ columns
    def _read_sites(self) -> None:
        places: dict[Instruction, int] = {}
        width = 0
        names: list[str] = []
        for inst in self.trace.insts:
            if not inst.kind.samples:
                continue
            if inst.kind.name not in SAMPLING:
                raise Unsupported(f"{inst.kind.method} takes decisions that have no columns")
            n = _width(inst)
            places[inst] = width
            names += [f"d{width + k}" for k in range(n)]
            width += n
        self._places = places
        self._names = tuple(names)
        self.table = Polynomials(names)
        first = self._first_row(width)
        extents = self._extents(first)
        sites: list[Site] = []
        for inst, at in places.items():
            if inst.kind.name in RULES:
                rule = RULES[inst.kind.name](*[int(x) for x in inst.attrs])
                sites.append(Tile(inst, at, rule, extents[inst]))
            elif inst.kind.name == "SampleCategorical":
                sites.append(Category(inst, at, tuple([float(p) for p in inst.attrs[1]])))
            else:
                sites.append(Location(inst, at))
        self.decisions = Decisions(sites, width, self._legal_locations)
        self._location_columns = [s.at for s in sites if type(s) is Location]
        self._ranges = [r for s in sites for r in _ranges(s)]
        self.table.restrict(self._ranges)

    def _first_row(self, width: int) -> IntArray:
        trace = self.trace
        if any(trace.decisions.get(i) is None for i in self._places):
            sch = Schedule(self.mod, seed=1, error_render_level="none")
            trace.apply_to_schedule(sch)
            trace = sch.trace
        row = self.row_of(trace)
        assert row is not None
        assert len(row) == width
        return row

    def _extents(self, row: IntArray) -> dict[Instruction, Callable[[IntArray], IntArray | int]]:
        """The extent of each tiled loop, as a function of the rows."""
        found: dict[Instruction, int] = {}
        sch = self._blank()
        decide = self._decider(row, dims=True)

        def provide(inst: Instruction, inputs: list[Any], attrs: list[Any], old: Any) -> Any:
            if inst.kind.name in RULES:
                n = const_int(sch.loop(inputs[0]).loop().extent)
                if n is None:
                    raise Unsupported("a loop of symbolic extent is tiled")
                found[inst] = self.table.number(expr_of(n))
            return decide(inst, inputs, attrs, old)

        with recording():
            try:
                self.trace.apply_to_schedule(sch, decision_provider=provide)
            except ScheduleError as e:  # plain replay of the row goes through
                raise Unsupported(f"replay with Dims is refused: {e.message}") from None
        return {inst: self._extent_function(number) for inst, number in found.items()}

    def _extent_function(self, number: int) -> Callable[[IntArray], IntArray | int]:
        constant = self.table.constant(number)
        if constant is not None:
            return lambda rows: constant
        # it comes out below 1 where a step before refuses the row: the rest of a loop too short
        return lambda rows: np.maximum(Values(self.table, rows).of(number), 1)

    def row_of(self, trace: Trace) -> IntArray | None:
        """The decisions of a trace of this sketch (the same instructions) as a row, else None."""
        if trace.insts is self.trace.insts:
            return self._row(self.trace.insts, trace.decisions)
        theirs = [i for i in trace.insts]
        for k, inst in enumerate(theirs):
            if inst.kind.name == "EnterPostproc":
                theirs = theirs[:k]
                break
        if len(theirs) != len(self.trace.insts):
            return None
        for a, b in zip(theirs, self.trace.insts):
            if a is not b and (a.kind is not b.kind or not _same_arguments(a, b)):
                return None
        return self._row(theirs, trace.decisions)

    def _row(
        self, insts: Sequence[Instruction], decisions: Mapping[Instruction, Any]
    ) -> IntArray | None:
        out: list[int] = []
        for mine, theirs in zip(self.trace.insts, insts):
            if mine not in self._places:
                continue
            decision = decisions.get(theirs)
            if decision is None:
                return None
            values = decision if isinstance(decision, (list, tuple)) else [decision]
            if len(values) != _width(mine):
                return None
            out += [int(x) for x in values]
        return np.array(out, np.int64)

    def trace_of(self, row: IntArray) -> Trace:
        """The trace with the decisions of a row."""
        values = row.tolist()
        decisions: dict[Instruction, Any] = {}
        for inst, at in self._places.items():
            if inst.kind.name in RULES:
                decisions[inst] = values[at : at + _width(inst)]
            else:
                decisions[inst] = values[at]
        return Trace(self.trace.insts, decisions)

    def _blank(self) -> Schedule:
        return Schedule(self.mod, seed=1, error_render_level="none")

    def _begun(self) -> tuple[Schedule, dict[Any, Any]]:
        """A schedule after the instructions that come before the first decision, which do the same
        in every row, with what their handles are in it."""
        if self._beginning is None:
            table: dict[Any, Any] = {}
            sch = self._blank()
            self.trace.continue_on(sch, table, self.trace.insts[: self._undecided])
            self._beginning = sch, table
        sch, table = self._beginning
        return sch.copy(), dict(table)

    def _decider(
        self, row: IntArray, dims: bool = False
    ) -> Callable[[Instruction, list[Any], list[Any], Any], Any]:
        """The decision of each sampling instruction for one row."""
        values = row.tolist()
        names = self._names

        def decide(inst: Instruction, inputs: list[Any], attrs: list[Any], old: Any) -> Any:
            at = self._places[inst]
            name = inst.kind.name
            if name in RULES:
                where = range(at, at + _width(inst))
                return [Dim(values[k], names[k]) if dims else values[k] for k in where]
            if name == "SampleCategorical" and dims:
                return Dim(values[at], names[at])
            return values[at]

        return decide

    def _legal_locations(self, site: Location, row: IntArray) -> list[int]:
        """What `sample_compute_location` would choose from, given the decisions before it."""
        sch = self._blank()
        decide = self._decider(row)
        found: list[int] = []

        def provide(inst: Instruction, inputs: list[Any], attrs: list[Any], old: Any) -> Any:
            if inst is site.inst:
                found.extend(compute_locations(sch, sch.block(inputs[0])))
                raise _Found
            return decide(inst, inputs, attrs, old)

        # a refusal before it: replay of the row will say so
        with suppress(_Found, ScheduleError):
            self.trace.apply_to_schedule(sch, decision_provider=provide)
        return found

    # ------------------------------------------------------------------ one row
    def schedule(self, row: IntArray, excused: str = "") -> tuple[Schedule, str | None]:
        """The schedule of a row after the postprocs, and why it is refused (None if it is not)."""
        return self._replay(self._decider(row), excused)

    def materialise(self, row: IntArray, excused: str = "") -> Schedule:
        """The finished schedule of a legal row.

        Args:
            row: of a candidate.
            excused: a refusal that is a judgement, which is passed over; see `Postproc.choices`.

        Raises:
            ScheduleError: the row is refused.
        """
        sch, refusal = self.schedule(row, excused)
        if refusal is not None:
            raise ScheduleError(f"the candidate is refused: {refusal}", code="refused")
        return sch

    def _replay(
        self, decide: Callable[[Instruction, list[Any], list[Any], Any], Any], excused: str = ""
    ) -> tuple[Schedule, str | None]:
        sch, table = self._begun()
        try:
            self.trace.continue_on(sch, table, self.trace.insts[self._undecided :], decide)
        except ScheduleError as e:
            return sch, _reason(e)
        error = postprocess(sch, lenient(self.postprocs, excused))
        return sch, None if error is None else _reason(error)

    # ------------------------------------------------------------------ many rows
    def evaluate(self, rows: IntArray, new_classes: int | None = None) -> Evaluation:
        """Verdict and features of every row of a matrix.

        Args:
            rows: (rows, columns).
            new_classes: stop replaying after so many new structure classes; rows that belong to
                yet another one are not looked at. The classes that many rows belong to come first.
        """
        count = len(rows)
        out = Evaluation(
            np.zeros(count, bool),
            np.zeros((count, FEATURE_COUNT), np.float32),
            np.full(count, -np.inf),
            np.full(count, -1, np.int64),
            {},
        )
        if count == 0:
            return out
        everything = np.arange(count)
        if self.by_replay:
            self._one_by_one(rows, everything, out)
            return out
        odd = np.flatnonzero(~self._in_range(rows))
        if len(odd):  # such as a record's tile above the limit: classes are about other rows
            self._one_by_one(rows, odd, out)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            most = None if new_classes is None else self._count + new_classes
            waiting: list[_Waiting] = []
            users: _Users = {}
            for key, at in _by_columns(rows, self._location_columns, odd):
                group = self._groups.setdefault(key, _Group())
                waiting.append(self._known_classes(group, rows, at))
            # the largest remainder first: with few classes to spend, they should cover many rows
            for w in sorted(waiting, key=lambda w: -len(w.left)):
                self._new_classes(w, rows, out, most)
                self._fill(w, rows, out, None if new_classes is None else _MOST_PLAIN, users)
            self._features(rows, users, out)
        return out

    def verdicts(self, rows: IntArray) -> Bools:
        """Is each row legal? `evaluate` without the features."""
        out = np.zeros(len(rows), bool)
        odd = np.flatnonzero(~self._in_range(rows))
        if len(odd):
            out[odd] = self.evaluate(rows[odd]).valid
        for key, at in _by_columns(rows, self._location_columns, odd):
            group = self._groups.setdefault(key, _Group())
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                w = self._known_classes(group, rows, at)
            left = [w.left] if len(w.left) else []
            for c, local in w.members:
                if c.trusted:
                    out[at[local]] = c.layout is not None
                else:
                    left.append(local)
            if left:  # new classes, and those that need a replay
                rest = at[np.concatenate(left)]
                out[rest] = self.evaluate(rows[rest]).valid
        return out

    def _in_range(self, rows: IntArray) -> Bools:
        """Does each row keep what the decisions promise?"""
        out = np.ones(len(rows), bool)
        for r in self._ranges:
            product = None
            for c, high in zip(r.columns, r.highest):
                x = rows[:, c]
                out &= (x >= r.lowest) & (x <= high)
                product = x if product is None else product * x
            if len(r.columns) > 1:
                assert product is not None
                out &= (product >= r.product[0]) & (product <= r.product[1])
        return out

    def _known_classes(self, group: _Group, rows: IntArray, at: IntArray) -> _Waiting:
        """Find the class of each of the rows at `at`, as far as it is known."""
        values = Values(self.table, rows[at])
        left = np.arange(len(at))
        bits = _pack(values, group.literals, len(at))
        members: list[tuple[_Class, IntArray]] = []
        for c in sorted(group.classes, key=lambda c: -c.rows):
            if len(left) == 0:
                break
            match = _matches(c, bits[:, left])
            if match.any():
                members.append((c, left[match]))
                left = left[~match]
        return _Waiting(group, at, values, members, left)

    def _new_classes(self, w: _Waiting, rows: IntArray, out: Evaluation, most: int | None) -> None:
        """Replay a row of each class that is not known yet, up to `most` classes in all."""
        left, at = w.left, w.at
        bits: npt.NDArray[np.uint8] = np.empty((0, len(at)), np.uint8)
        packed = -1
        while len(left):
            if self._count >= MAX_CLASSES:
                self._one_by_one(rows, at[left], out)
                break
            if most is not None and self._count >= most:
                out.classes[at[left]] = -2
                break
            new = self._new_class(w.group, rows[at[left[0]]])
            if new is None:  # this row cannot be replayed with Dims
                self._one_by_one(rows, at[left[:1]], out)
                left = left[1:]
                continue
            if len(w.group.literals) > packed:  # the class asks what none before it asked
                packed = len(w.group.literals)
                bits = _pack(w.values, w.group.literals, len(at))
            match = _matches(new, bits[:, left])
            match[0] = True  # it is this row's own replay
            first = _CHECKED if new.layout is None else _CHECKED_LEGAL
            if new.number < first or new.number % _CHECKED == 0 or self.fallbacks:
                self._check_some(new, w, rows[at], left[match])
            w.members.append((new, left[match]))
            left = left[~match]

    def _check_some(self, c: _Class, w: _Waiting, rows: IntArray, members: IntArray) -> None:
        """Compare the last row, which is not the one that the class is from, with plain replay, and
        those with the most and the fewest ones: where a factor is 1, there is more to simplify. If
        they are said to be illegal also the first: with numbers there is more to prove."""
        ones = (rows[members] == 1).sum(axis=1)
        asked = [len(ones) - 1, int(ones.argmax()), int(ones.argmin())]
        if c.layout is None:
            asked.append(0)
        for k in dict.fromkeys(asked):
            if c.trusted:
                self._check(c, w, rows, int(members[k]))

    def _check(self, c: _Class, w: _Waiting, rows: IntArray, k: int) -> None:
        """Does plain replay of row `k` say what the class says of it?"""
        refusal, features_, _ = self._remembered(rows[k])
        if refusal is not None or c.layout is None:
            c.trusted = refusal is not None and c.layout is None
        else:
            known = [w.values.of(n) for n in c.facts]
            table = np.array([[v if isinstance(v, int) else v[k]] for v in known], np.float64)
            row, _ = features(c.layout, table, self.machine)
            c.trusted = bool((row[0] == features_).all())
        if not c.trusted:
            self.fallbacks["disagrees"] += 1

    def _new_class(self, group: _Group, row: IntArray) -> _Class | None:
        """The class of a row, from a replay with Dims."""
        with recording(self._syms) as guards:
            try:
                sch, refusal = self._replay(self._decider(row, dims=True))
                layout, facts = describe(sch.mod) if refusal is None else (None, [])
            except Exception as e:
                # Either user code that does not accept Dims, or a fault that plain replay has too:
                # plain replay of this row decides, and reports it.
                self.fallbacks[f"{type(e).__name__}: {e}"] += 1
                return None
            return self._make_class(group, guards, refusal, layout, facts)

    def _make_class(
        self,
        group: _Group,
        guards: list[Guard],
        refusal: str | None,
        layout: Layout | None,
        facts: list[int],
    ) -> _Class:
        wanted: dict[int, bool] = {}
        for guard in dict.fromkeys(guards):
            if guard not in self._literals:
                self._literals[guard] = self.table.literal(guard, self._numbers)
            found = self._literals[guard]
            if found is not None:
                literal, outcome = found
                wanted[group.literals.setdefault(literal, len(group.literals))] = outcome
        size = -(-max(len(group.literals), 1) // 8)
        care = np.zeros(size * 8, np.uint8)
        value = np.zeros(size * 8, np.uint8)
        for k, outcome in wanted.items():
            care[k], value[k] = 1, outcome
        numbers = tuple([self.table.number(expr_of(x), self._numbers) for x in facts])
        parts = []
        for slot, (what, places) in enumerate(
            parts_of(layout, len(numbers)) if layout is not None else []
        ):
            part = _Part(slot, what, tuple([numbers[k] for k in places]))
            parts.append(self._part_numbers.setdefault(part, len(self._parts)))
            if parts[-1] == len(self._parts):
                self._parts.append(part)
        c = _Class(
            self._count,
            np.packbits(care),
            np.packbits(value),
            refusal,
            layout,
            numbers,
            tuple(parts),
        )
        self._count += 1
        group.classes.append(c)
        return c

    def _fill(
        self, w: _Waiting, rows: IntArray, out: Evaluation, most: int | None, users: _Users
    ) -> None:
        """Verdicts of the rows whose class is known; `users` learns which parts they have."""
        at = w.at
        for c, local in w.members:
            c.rows += len(local)
            if not c.trusted:
                self._one_by_one(rows, at[local], out, most)
                continue
            out.classes[at[local]] = c.number
            if c.layout is None:
                reason = str(c.refusal)
                out.refusals[reason] = out.refusals.get(reason, 0) + len(local)
                if len(local):
                    out.examples[reason] = int(at[local[-1]])
                continue
            out.valid[at[local]] = True
            for part in c.parts:
                users.setdefault(part, []).append(at[local])

    def _features(self, rows: IntArray, users: _Users, out: Evaluation) -> None:
        """Features and scores, part by part."""
        table = Rows(out.features, self.machine)
        parts = [(self._parts[k], everyone) for k, everyone in users.items()]
        for part, everyone in sorted(parts, key=lambda x: x[0].slot):
            whole = np.concatenate(everyone)
            for start in range(0, len(whole), _CHUNK):
                at = whole[start : start + _CHUNK]
                values = Values(self.table, rows[at])
                facts = np.empty((len(part.facts), len(at)))
                for k, number in enumerate(part.facts):
                    facts[k] = values.of(number)
                table.add(part.slot, part.what, facts, at)
        valid = np.flatnonzero(out.valid & (out.classes >= 0))
        out.score[valid] = table.finish(valid)

    def _one_by_one(
        self, rows: IntArray, at: IntArray, out: Evaluation, most: int | None = None
    ) -> None:
        """Plain replay of (the first `most`) rows at `at`."""
        if most is not None:
            out.classes[at[most:]] = -2
            at = at[:most]
        for k in at.tolist():
            refusal, row, score = self._remembered(rows[k])
            if refusal is not None:
                out.refusals[refusal] = out.refusals.get(refusal, 0) + 1
                out.examples[refusal] = k
                continue
            out.valid[k] = True
            out.features[k] = row
            out.score[k] = score

    def _remembered(self, row: IntArray) -> tuple[str | None, Features, float]:
        """Plain replay of a row; what was replayed before is remembered."""
        key = row.tobytes()
        found = self._replayed.get(key)
        if found is None:
            found = self._replayed[key] = self._plain(row)
        return found

    def _plain(self, row: IntArray) -> tuple[str | None, Features, float]:
        try:
            sch, refusal = self.schedule(row)
            if refusal is None:
                return None, *features_of(sch.mod, self.machine)
        except Exception as e:  # a candidate can fail, the search cannot; the reason is counted
            refusal = f"{type(e).__name__}: {e}"
        return refusal, np.zeros(FEATURE_COUNT, np.float32), -np.inf


def _width(inst: Instruction) -> int:
    """How many columns the decision of a sampling instruction takes."""
    return int(inst.attrs[0]) if inst.kind.name in RULES else 1


class _Found(Exception):
    """Replay has come to the instruction that was looked for."""


def _reason(e: ScheduleError) -> str:
    """What refusals are counted by: without the numbers of the candidate."""
    return e.code or e.message


def _same_arguments(a: Instruction, b: Instruction) -> bool:
    """Do two instructions have the same attributes and plain inputs? Handles are not compared:
    instructions of one kind in the same place take corresponding ones."""
    if _plain(a.attrs) != _plain(b.attrs) or len(a.inputs) != len(b.inputs):
        return False
    return all(
        x == y
        for x, y in zip(a.inputs, b.inputs)
        if isinstance(x, (int, str, float)) or isinstance(y, (int, str, float))
    )


def _plain(x: Any) -> Any:
    """Lists for tuples: a trace read from a file has lists."""
    return [_plain(y) for y in x] if isinstance(x, (list, tuple)) else x


def _ranges(site: Site) -> list[Range]:
    """What the columns of a site keep to."""
    if type(site) is Category:
        most = len(site.weights) - 1
        return [Range((site.at,), (most,), (0, most), lowest=0)]
    if type(site) is not Tile:
        return []
    columns = tuple(range(site.at, site.at + site.n))
    extent = site.extent(np.empty((0, site.at + site.n), np.int64))
    if not isinstance(extent, int):  # it follows from earlier decisions
        return [Range(columns, (*[_MANY] * (site.n - 1), site.limit), (1, _MANY))]
    most = most_covered(extent) if type(site.rule) is Covering else extent
    highest = (*[most] * (site.n - 1), min(site.limit, most))
    return [Range(columns, highest, (extent, most))]


def _by_columns(
    rows: IntArray, which: list[int], without: IntArray
) -> list[tuple[tuple[int, ...], IntArray]]:
    """The rows split by the values of some columns, less those at `without`."""
    everything = np.arange(len(rows))
    if len(without):
        kept = np.delete(everything, without)
        return [(key, kept[at]) for key, at in _by_columns(rows[kept], which, without[:0])]
    if not which:
        return [((), everything)]
    keys, inverse = np.unique(rows[:, which], axis=0, return_inverse=True)
    inverse = inverse.ravel()
    return [(tuple(key.tolist()), everything[inverse == k]) for k, key in enumerate(keys)]


def _pack(values: Values, literals: Mapping[Literal, int], count: int) -> npt.NDArray[np.uint8]:
    """How the literals come out, (bytes, rows), eight literals to a byte."""
    size = -(-max(len(literals), 1) // 8)
    table = np.zeros((size * 8, count), bool)
    for literal, k in literals.items():
        table[k] = values.holds(literal)
    return np.packbits(table, axis=0)


def _matches(c: _Class, bits: npt.NDArray[np.uint8]) -> Bools:
    n = len(c.care)  # literals that came later do not matter to it
    wrong = (bits[:n] ^ c.value[:, None]) & c.care[:, None]
    return np.asarray(~wrong.any(axis=0), bool)
