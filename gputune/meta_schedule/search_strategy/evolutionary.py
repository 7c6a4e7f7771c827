"""Which candidates are likely to be fast? Evolution on matrices of decisions, ranked by the cost
model.

One round: the best measured candidates and fresh ones are varied for a few generations, thousands
of rows at a time; verdicts and features come from `population`, scores from the cost model (before
it knows anything, from the analytic one). At the end the best few climb: each goes on to its best
neighbour a few times. A batch is taken from all that was seen: the best by score, kept apart from
each other, neighbours of the best measured ones, and a few at random. Where rounds bring nothing
better, half of the parents are drawn by chance.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...errors import RecordError, ScheduleError, UserError
from ...ir.equal import structural_hash
from ...schedule.trace import Trace
from ..compiled import Compiled, facts_in, told
from ..cost_model.cost_model import seconds_of
from ..decisions import IntArray, row_numbers
from ..measure_candidate import MeasureCandidate
from ..postproc.postproc import choices_of
from ..profiler import Profiler
from ..ranking import weight_of
from ..record import Workload
from .search_strategy import (
    Search,
    SearchCounts,
    SearchStrategy,
    begun,
    callers,
    context_of,
    postprocs_of,
    refuse_second,
)
from .selection import Scores, Spread, parents, ranking
from .spaces import REPLAYED, Space, make_space

if TYPE_CHECKING:
    from ...schedule import Schedule
    from ..cost_model import CostModel
    from ..database import Database
    from ..record import TuningRecord
    from ..runner import RunnerResult
    from ..tune_context import TuneContext
    from ..watched import Maker

_EMPTY_ROUNDS = 5  # the fifth round in a row without a new candidate ends the search
_ENUMERATE = 2048  # spaces of at most so many rows are looked at whole
_MATRIX = 8192  # rows of a generation on matrices, over all design spaces
_CROSSED, _FRESH = 0.25, 0.15  # shares of a generation
_NEW_CLASSES = 64  # structure classes that a round may add: each costs a replay
_ISLANDS = 9  # design spaces that a round looks at: a program of several blocks may have a hundred
_GOOD_ISLANDS, _OTHER_ISLANDS = 3, 2  # once some are known to be good
_DOUBTED_FIRST, _DOUBTED = 0.7, 0.35  # shares of a batch for which scores are doubted
_DOUBT_FIRST, _DOUBT = 0.3, 0.08  # by how much: of log2 of the time; then of the best speed
_CLIMBERS, _CLIMBS = 12, 3  # rows that climb at the end of a round, and their steps
_STALE = 3  # rounds without a better time, after which parents are drawn more freely
_SPARED = 0.02  # of a batch: refused by a rule that is a judgement, and measured all the same


@dataclass(slots=True, eq=False)
class _Island:
    """One design space and what is known of it."""

    space: Space
    rows: dict[bytes, float] = field(default_factory=dict)  # measured: seconds
    compiled: dict[bytes, Compiled] = field(default_factory=dict)  # of those that records tell of
    all_rows: IntArray | None = None  # every row, where there are few


class _Pool:
    """Legal rows seen in a round, with their scores.

    Attributes:
        islands: the design space of each.
        at: its place among the rows of that space.
        scores: what the model says.
        local: is it a neighbour of one of the best measured rows?
    """

    def __init__(self, islands: Sequence[_Island]) -> None:
        self.islands = np.empty(0, np.int64)
        self.at = np.empty(0, np.int64)
        self.scores: Scores = np.empty(0)
        self.local = np.empty(0, bool)
        self._rows: list[IntArray | None] = [None] * len(islands)
        self._seen = [
            np.unique(row_numbers(_matrix(list(i.rows)))) if i.rows else np.empty(0, np.int64)
            for i in islands
        ]

    def __len__(self) -> int:
        return len(self.scores)

    def unseen(self, k: int, rows: IntArray) -> IntArray:
        """Those of the rows that this round has not met and that were not measured, each once."""
        new, first = np.unique(row_numbers(rows), return_index=True)
        where = np.searchsorted(self._seen[k], new)
        where[where == len(self._seen[k])] = 0
        fresh = np.ones(len(new), bool)
        if len(self._seen[k]):
            fresh = self._seen[k][where] != new
        self._seen[k] = np.sort(np.concatenate([self._seen[k], new[fresh]]), kind="stable")
        return rows[np.sort(first[fresh])]

    def add(self, k: int, rows: IntArray, scores: Scores, local: bool) -> None:
        """Take up legal rows of one design space."""
        mine = self._rows[k]
        start = 0 if mine is None else len(mine)
        self._rows[k] = rows if mine is None else np.concatenate([mine, rows])
        self.islands = np.concatenate([self.islands, np.full(len(rows), k)])
        self.at = np.concatenate([self.at, np.arange(start, start + len(rows))])
        self.scores = np.concatenate([self.scores, scores])
        self.local = np.concatenate([self.local, np.full(len(rows), local)])

    def rows(self, k: int, which: IntArray) -> IntArray:
        """The rows at some positions, all of one design space."""
        mine = self._rows[k]
        assert mine is not None
        return mine[self.at[which]]

    def row(self, x: int) -> IntArray:
        """The row at one position."""
        mine = self._rows[int(self.islands[x])]
        assert mine is not None
        found: IntArray = mine[self.at[x]]
        return found


class EvolutionarySearch(SearchStrategy):
    """The default strategy.

    Args:
        population_size: candidates that survive a generation (and the least that one has).
        init_measured_ratio: at most this share of the first generation are measured ones.
        init_min_unmeasured: at least so many of it are new.
        max_fail_count: attempts to draw legal ones before the round gives up.
        genetic_num_iters: generations.
        genetic_mutate_prob: share of children that are mutated.
        genetic_max_fail_count: attempts to vary a row into one that was not seen.
        eps_greedy: share of a batch that is drawn at random.

    Raises:
        UserError: a parameter that makes no sense.
    """

    def __init__(
        self,
        *,
        population_size: int = 512,
        init_measured_ratio: float = 0.2,
        init_min_unmeasured: int = 50,
        max_fail_count: int = 5,
        genetic_num_iters: int = 4,
        genetic_mutate_prob: float = 0.85,
        genetic_max_fail_count: int = 10,
        eps_greedy: float = 0.05,
    ) -> None:
        for name, n in (
            ("population_size", population_size),
            ("max_fail_count", max_fail_count),
            ("genetic_max_fail_count", genetic_max_fail_count),
        ):
            if n < 1:
                raise UserError(f"{name} is a count from 1, found {n}")
        for name, n in (
            ("init_min_unmeasured", init_min_unmeasured),
            ("genetic_num_iters", genetic_num_iters),
        ):
            if n < 0:
                raise UserError(f"{name} is not negative, found {n}")
        for name, x in (
            ("init_measured_ratio", init_measured_ratio),
            ("genetic_mutate_prob", genetic_mutate_prob),
            ("eps_greedy", eps_greedy),
        ):
            if not 0.0 <= x <= 1.0:
                raise UserError(f"{name} is a share from 0 to 1, found {x}")
        self.population_size = population_size
        self.init_measured_ratio = init_measured_ratio
        self.init_min_unmeasured = init_min_unmeasured
        self.max_fail_count = max_fail_count
        self.genetic_num_iters = genetic_num_iters
        self.genetic_mutate_prob = genetic_mutate_prob
        self.genetic_max_fail_count = genetic_max_fail_count
        self.eps_greedy = eps_greedy
        self._context: TuneContext | None = None
        self._state: _Evolution | None = None

    def initialize_with_tune_context(self, context: TuneContext) -> None:
        """Learn what is tuned and for which machine."""
        self._context = context

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: list[Schedule],
        database: Database | None = None,
        cost_model: CostModel | None = None,
    ) -> None:
        """Begin: sketches are read, and what the database knows of the workload is taken up."""
        refuse_second(self._state, self)
        context = context_of(self._context, self)
        search = Search(context, max_trials, num_trials_per_iter, design_spaces)
        self._state = _Evolution(self, search, design_spaces, cost_model)
        if database is not None:
            self._state.remember(database)

    def post_tuning(self) -> None:
        """End."""
        begun(self._state, self)
        self._state = None

    def generate_measure_candidates(
        self, limit: int | None = None
    ) -> list[MeasureCandidate] | None:
        """The next candidates; see `SearchStrategy`. The fifth empty batch in a row is None."""
        state: _Evolution = begun(self._state, self)
        with Profiler.timeit("EvoSearch/GenerateMeasureCandidates"):
            return state.generate(limit)

    def notify_runner_results(
        self, measure_candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
    ) -> None:
        """Remember the times."""
        begun(self._state, self).notify(measure_candidates, results)

    def best_candidates(self, count: int) -> list[MeasureCandidate]:
        """The candidates of the best score that a round of search finds; see `SearchStrategy`."""
        state: _Evolution = begun(self._state, self)
        return state.best(count)

    def counts(self) -> SearchCounts | None:
        """What was looked at since `pre_tuning`."""
        return None if self._state is None else self._state.search.counts()

    def clone(self) -> SearchStrategy:
        """A strategy of its own with the same settings, not begun."""
        other = copy.copy(self)
        other._context, other._state = None, None
        return other


def _checked(model: CostModel, said: object, count: int) -> Scores:
    """What a model said, which must be a number for each candidate."""
    try:
        scores: Scores = np.asarray(said, np.float64)
    except (TypeError, ValueError):
        scores = np.empty(())
    if scores.shape != (count,):
        raise UserError(
            f"{type(model).__name__} gave {said!r:.60} as the scores of {count} candidates",
            hint="predict returns an array of one number for each candidate; higher is better",
            code="scores",
        )
    return scores


class _Evolution:
    """A search under way."""

    def __init__(
        self,
        settings: EvolutionarySearch,
        search: Search,
        design_spaces: list[Schedule],
        cost_model: CostModel | None,
    ) -> None:
        self.settings = settings
        self.search = search
        self.model = cost_model
        self.rng = np.random.default_rng(search.context.fork_seed())
        spaces = _once(search.context, _different(design_spaces))
        share = max(settings.population_size, _MATRIX // min(len(spaces), _ISLANDS))
        self.islands = [_Island(make_space(search.context, s, share, maker)) for s, maker in spaces]
        for island in self.islands:
            island.all_rows = island.space.enumerate(_ENUMERATE)
        self.empty = 0
        self._choices = choices_of(postprocs_of(search.context))
        self._refused: dict[str, tuple[int, IntArray]] = {}  # of each judgement, a row
        self._stale = 0  # rounds since a better time was seen
        self._best = math.inf
        self._where: dict[str, tuple[int, IntArray]] = {}
        self._weightless: set[bytes] = set()  # rows whose times a model does not learn from

    # ------------------------------------------------------------------ what is known
    def remember(self, database: Database) -> None:
        """Take up the records of this workload: never measure them again, start from the best."""
        context = self.search.context
        if not database.has_workload(context.mod):
            return
        key = structural_hash(context.mod)
        device = context.target.device_key
        same: dict[int, bool] = {}  # a database that looks at anchor blocks knows siblings as well
        for record in database.get_records(Workload(context.mod)):
            workload = record.workload
            if workload.shash != key or record.extras.get("device", device) != device:
                continue
            if id(workload) not in same:
                same[id(workload)] = structural_hash(workload.mod) == key
            if same[id(workload)]:
                self._take_up(record)
        self._teach(key)

    def _take_up(self, record: TuningRecord) -> None:
        if record.unranked:
            return  # to be measured again, where that counts
        digest = record.program
        try:
            trace = record.trace
            if not digest:
                digest = record.as_measure_candidate().digest
        except (RecordError, ScheduleError):
            return  # of another version: nothing to learn from it
        self.search.measured.add(digest)
        for k, island in enumerate(self.islands):
            row = island.space.row_of(trace)
            if row is not None:
                island.rows[row.tobytes()] = record.seconds
                if weight_of(record.extras) == 0:
                    self._weightless.add(row.tobytes())
                facts = facts_in(record.extras)
                if facts:
                    island.compiled[row.tobytes()] = Compiled(facts)
                self._where[digest] = (k, row)
                return

    def _teach(self, workload: str) -> None:
        """Let a model that has not seen this workload learn from the records."""
        model = self.model
        if model is None or not model.takes_features or model.knows(workload):
            return
        for island in self.islands:
            if island.rows:
                rows = _matrix(list(island.rows))
                found = island.space.evaluate(rows)
                counts = found.valid & self._counting(island.rows)
                seconds = np.array(list(island.rows.values()))[counts]
                features = found.features[counts]
                if island.compiled and getattr(model, "takes_compiled", False):
                    valid = [key for key, good in zip(island.rows, counts) if good]
                    features = told(features, [island.compiled.get(key) for key in valid])
                model.update_features(workload, features, seconds.tolist())

    def _counting(self, rows: Mapping[bytes, float]) -> npt.NDArray[np.bool_]:
        """Which rows a model learns from: not from what was measured while the GPU was slowed,
        unless there is nothing else."""
        out = np.array([key not in self._weightless for key in rows])
        ran = np.isfinite(list(rows.values()))
        return out if (out & ran).any() else np.ones(len(out), bool)

    def notify(
        self, candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
    ) -> None:
        """Remember the times."""
        self.search.settle(candidates, results)
        for c, r in zip(candidates, results):
            where = self._where.get(c.digest)
            if where is not None and not (r.problem is not None and r.problem.infrastructure):
                island, row = where
                self.islands[island].rows[row.tobytes()] = seconds_of(r)

    # ------------------------------------------------------------------ a round
    def generate(self, limit: int | None) -> list[MeasureCandidate] | None:
        """The next batch."""
        wanted = self.search.count(limit)
        if wanted <= 0 or self.empty >= _EMPTY_ROUNDS:
            return None
        pool = self._search()
        batch = self._pick(pool, wanted)
        if batch:
            self.empty = 0
            return batch
        self.empty += 1
        if self.empty < _EMPTY_ROUNDS:
            return []
        log = self.search.context.logger
        log.info("the search space of %s is exhausted", self.search.context.task_name)
        for reason, n in self.search.refusals.most_common(3):
            log.info("refused: %d rows: %s", n, reason)
        return None

    def best(self, count: int) -> list[MeasureCandidate]:
        """The best by score, different programs all; none counts as measured."""
        pool = self._search()
        out: dict[str, MeasureCandidate] = {}
        for x in ranking(pool.scores).tolist():
            if len(out) >= count:
                break
            try:
                sch = self.islands[int(pool.islands[x])].space.materialise(pool.row(x))
            except ScheduleError as e:
                self.search.refusals[e.message] += 1
                continue
            new = MeasureCandidate.of(sch)
            new.score = float(pool.scores[x])
            out.setdefault(new.digest, new)
        return list(out.values())

    def _search(self) -> _Pool:
        """Every legal row that a few generations come across, scored."""
        best = self._best_measured(3)
        seconds = min((t for i in self.islands for t in i.rows.values()), default=math.inf)
        self._stale = 0 if seconds < self._best else self._stale + 1
        self._best = min(self._best, seconds)
        pool = _Pool(self.islands)
        chosen = self._chosen()
        for k in chosen:
            island = self.islands[k]
            if island.all_rows is not None:
                classes = None if len(chosen) == 1 else _NEW_CLASSES
                self._add(pool, k, island.all_rows, False, classes)
        for k, rows in _by_island(best):
            around = [self.islands[k].space.neighbours(row) for row in rows]
            self._add(pool, k, np.concatenate(around), True, _NEW_CLASSES)
        if all(self.islands[k].all_rows is not None for k in chosen):
            return pool
        share = max(1, _NEW_CLASSES // (2 * len(chosen)))
        for k in chosen:
            if self.islands[k].all_rows is None:
                self._first_generation(pool, k, self.islands[k], share)
        for _ in range(self.settings.genetic_num_iters):
            share = _NEW_CLASSES // (2 * self.settings.genetic_num_iters * len(chosen))
            self._next_generation(pool, chosen, max(1, share))
        self._climb(pool)
        return pool

    def _chosen(self) -> list[int]:
        """The design spaces of this round: those of the best measured candidates and others by
        chance, so that all have their turn; at first as many as may be."""
        best = list(dict.fromkeys(k for k, _ in self._best_measured(_ISLANDS)))[:_GOOD_ISLANDS]
        most = _ISLANDS if not best else max(_GOOD_ISLANDS, len(best)) + _OTHER_ISLANDS
        if len(self.islands) <= most:
            return list(range(len(self.islands)))
        others = [k for k in self.rng.permutation(len(self.islands)).tolist() if k not in best]
        return sorted([*best, *others][:most])

    def _first_generation(self, pool: _Pool, k: int, island: _Island, classes: int) -> None:
        """Fresh rows, and mutants of the best measured ones."""
        s = self.settings
        size = island.space.generation
        known = sorted((x for x in island.rows.items() if x[1] < math.inf), key=lambda x: x[1])
        most = max(0, min(int(size * s.init_measured_ratio), size - s.init_min_unmeasured))
        if known and most:
            top = _matrix([key for key, _ in known[: max(1, min(most // 8, 64))]])
            varied = island.space.mutate(np.resize(top, (most, top.shape[1])), self.rng)
            self._add(pool, k, varied, False, classes)
        enough = size // 2 if size > REPLAYED else min(s.init_min_unmeasured, size)
        got = 0
        for _ in range(s.max_fail_count):
            fresh = island.space.sample(size, self.rng)
            # classes are spent once: further attempts look for rows of those that are known
            new = self._add(pool, k, fresh, False, classes if got == 0 else 0)
            got += new
            if got >= enough or 0 < new < size // 64:
                break

    def _next_generation(self, pool: _Pool, chosen: Sequence[int], classes: int) -> None:
        """Children of the best rows of all spaces: better spaces have more of them."""
        if len(pool) == 0:
            return
        s = self.settings
        top = ranking(pool.scores)[: s.population_size]
        count = max((i.space.generation for i in self.islands if i.all_rows is None), default=0)
        mothers = top[parents(pool.scores[top], count, self.rng)]
        if self._stale >= _STALE:  # the best ones lead nowhere: half of the parents by chance
            mothers[::2] = self.rng.integers(0, len(pool), len(mothers[::2]))
        for k in chosen:
            island = self.islands[k]
            if island.all_rows is not None:
                continue
            mine = mothers[pool.islands[mothers] == k][: island.space.generation]
            parts = [island.space.sample(max(1, int(len(mine) * _FRESH)), self.rng)]
            if len(mine):
                rows = pool.rows(k, mine)
                others = rows[self.rng.permutation(len(rows))]
                crossed = self.rng.random(len(rows)) < _CROSSED
                rows[crossed] = island.space.cross(rows[crossed], others[crossed], self.rng)
                changed = (self.rng.random(len(rows)) < s.genetic_mutate_prob) | ~crossed
                parts.append(rows[~changed])
                parts.append(island.space.mutate(rows[changed], self.rng))
            self._add(pool, k, np.concatenate(parts), False, classes)

    def _climb(self, pool: _Pool) -> None:
        """From the best rows, go on to their best neighbours a few times."""
        for _ in range(_CLIMBS):
            if len(pool) == 0:
                return
            before = len(pool)
            top = ranking(pool.scores)[:_CLIMBERS]
            for k in np.unique(pool.islands[top]).tolist():
                island = self.islands[k]
                if island.all_rows is not None or island.space.generation <= REPLAYED:
                    continue
                mine = pool.rows(k, top[pool.islands[top] == k])
                around = [island.space.neighbours(row) for row in mine]
                self._add(pool, k, np.concatenate(around), False, 2)
            if len(pool) == before or set(ranking(pool.scores)[:_CLIMBERS]) <= set(top):
                return

    def _add(self, pool: _Pool, k: int, rows: IntArray, local: bool, classes: int | None) -> int:
        """Look at rows that are new in this round and were not measured; how many are legal?"""
        if len(rows) == 0:
            return 0
        rows = pool.unseen(k, rows)
        found = self.islands[k].space.evaluate(rows, classes)
        self.search.refusals.update(found.refusals)
        for reason in self._choices & found.examples.keys():
            self._refused[reason] = k, rows[found.examples[reason]]
        self.search.sampled += int((found.classes != -2).sum())  # -2: not looked at
        rows = rows[found.valid]
        if len(rows) == 0:
            return 0
        scores = self._scores(k, rows, found.features[found.valid], found.score[found.valid])
        pool.add(k, rows, scores, local)
        return len(rows)

    def _scores(
        self, k: int, rows: IntArray, features: npt.NDArray[np.float32], analytic: Scores
    ) -> Scores:
        model = self.model
        if model is None:
            return analytic
        if model.takes_features:
            return _checked(model, model.predict_features(features), len(rows))
        # A model that only knows schedules is asked about those that the analytic score likes.
        out = np.full(len(rows), -np.inf)
        space = self.islands[k].space
        asked = ranking(analytic)[: self.search.batch]
        candidates = [MeasureCandidate.of(space.materialise(rows[j])) for j in asked]
        said = model.predict(self.search.context, candidates)
        out[asked] = _checked(model, said, len(candidates))
        return out

    def _best_measured(self, count: int) -> list[tuple[int, IntArray]]:
        """The fastest rows so far, one after the other."""
        found = [
            (seconds, k, key)
            for k, island in enumerate(self.islands)
            for key, seconds in island.rows.items()
            if seconds < math.inf
        ]
        found.sort(key=lambda x: x[0])
        return [(k, np.frombuffer(key, np.int64)) for _, k, key in found[:count]]

    # ------------------------------------------------------------------ a batch
    def _pick(self, pool: _Pool, wanted: int) -> list[MeasureCandidate]:
        """A batch from the pool."""
        if len(pool) == 0:
            return []
        batch = _Batch(self, pool, wanted)
        order = ranking(pool.scores)
        measured = sum(len(i.rows) for i in self.islands)
        by_chance = self.settings.eps_greedy
        self._spare(batch, wanted)
        if measured == 0:
            # nothing is known: some of each space, and a part from the upper half by chance
            for k in range(len(self.islands)):
                mine = order[pool.islands[order] == k]
                batch.take(mine, max(1, wanted // (4 * len(self.islands))), apart=True)
            by_chance = max(by_chance, 0.25)
        else:
            late = self.search.trials >= 0.7 * self.search.max_trials
            batch.take(order[pool.local[order]], int(wanted * (0.4 if late else 0.2)), apart=False)
        if any(island.space.kind for island in self.islands):
            share, doubt = (_DOUBTED, _DOUBT) if measured else (_DOUBTED_FIRST, _DOUBT_FIRST)
            batch.take(self._doubted(pool, doubt), int(wanted * share), apart=True)
        chance = round(by_chance * wanted)
        left = wanted - len(batch.out)
        batch.take(order, max(left - chance, 0), apart=True)
        upper = order[: max(len(order) // 2, 1)] if measured == 0 else order
        batch.take(self.rng.permutation(upper), wanted - len(batch.out), apart=True)
        batch.take(order, wanted - len(batch.out), apart=False)
        self._describe(batch.out)
        return batch.out

    def _spare(self, batch: _Batch, wanted: int) -> None:
        """Now and then one that a judgement refuses, so that it is known whether it is right."""
        for reason, (k, row) in list(self._refused.items()):
            if wanted > 1 and self.rng.random() < min(_SPARED * wanted, 0.5):
                del self._refused[reason]
                new = self.claim(k, row, reason)
                if new is not None:
                    batch.out.append(new)

    def _doubted(self, pool: _Pool, doubt: float) -> IntArray:
        """Positions by score as it might be: what a model gets wrong it gets wrong for all programs
        of a kind, so each kind is given an error of its own."""
        errors = np.empty(len(pool))
        for k, island in enumerate(self.islands):
            mine = np.flatnonzero(pool.islands == k)
            if len(mine):
                kinds = row_numbers(pool.rows(k, mine)[:, list(island.space.kind)])
                _, of = np.unique(kinds, return_inverse=True)
                errors[mine] = self.rng.normal(0.0, doubt, int(of.max()) + 1)[of]
        return ranking(pool.scores + errors)

    def _describe(self, batch: Sequence[MeasureCandidate]) -> None:
        """Tell the candidates their features, which the model wants again when it learns."""
        if self.model is None or not self.model.takes_features:
            return
        where = [self._where[c.digest] for c in batch]
        for k in dict.fromkeys(k for k, _ in where):
            mine = [
                (c, row) for c, (i, row) in zip(batch, where) if i == k and not c.excused
            ]  # fmt: skip
            if not mine:
                continue
            found = self.islands[k].space.evaluate(np.array([row for _, row in mine]))
            for (c, _), valid, features in zip(mine, found.valid, found.features):
                c.features = features if valid else None

    def claim(self, k: int, row: IntArray, excused: str = "") -> MeasureCandidate | None:
        """The candidate of a row, if it can be made and its program is new."""
        try:
            sch = self.islands[k].space.materialise(row, excused)
        except ScheduleError as e:
            self.search.refusals[e.message] += 1
            self.islands[k].rows[row.tobytes()] = math.inf
            return None
        new = self.search.candidate(sch)
        if new is None:  # another row gives the same program
            self.islands[k].rows.setdefault(row.tobytes(), math.inf)
            return None
        new.excused = excused
        self._where[new.digest] = (k, row)
        return new


class _Batch:
    """A batch being put together."""

    def __init__(self, evolution: _Evolution, pool: _Pool, wanted: int) -> None:
        self.out: list[MeasureCandidate] = []
        self._evolution = evolution
        self._pool = pool
        self._wanted = wanted
        self._tried = np.zeros(len(pool), bool)
        self._spread = Spread([i.space.sites for i in evolution.islands])

    def take(self, order: IntArray, count: int, apart: bool) -> None:
        """Up to `count` more, in this order; `apart`: none that is much like one already taken."""
        goal = min(self._wanted, len(self.out) + count)
        pool = self._pool
        for x in order.tolist():
            if len(self.out) >= goal:
                return
            if self._tried[x]:
                continue
            k, row = int(pool.islands[x]), pool.row(x)
            if apart and self._spread.near(k, row):
                continue
            self._tried[x] = True
            new = self._evolution.claim(k, row)
            if new is not None:
                new.score = float(pool.scores[x])
                self._spread.add(k, row)
                self.out.append(new)


def _by_island(found: Sequence[tuple[int, IntArray]]) -> list[tuple[int, list[IntArray]]]:
    """Rows with their design spaces, one entry a design space."""
    out: dict[int, list[IntArray]] = {}
    for k, row in found:
        out.setdefault(k, []).append(row)
    return list(out.items())


def _matrix(keys: Sequence[bytes]) -> IntArray:
    """Rows from their keys."""
    return np.array([np.frombuffer(k, np.int64) for k in keys])


def _different(design_spaces: list[Schedule]) -> list[Schedule]:
    """The design spaces less those whose traces say what an earlier one says."""
    out: dict[str, Schedule] = {}
    for sch in design_spaces:
        bare = Trace(sch.trace.insts)
        out.setdefault("\n".join(bare.as_python(remove_postproc=True)), sch)
    return list(out.values())


def _once(context: TuneContext, spaces: Sequence[Schedule]) -> list[tuple[Schedule, Maker | None]]:
    """The design spaces with who must be called for their candidates, if anyone; what one maker
    makes is one space."""
    out: list[tuple[Schedule, Maker | None]] = []
    for sch, maker in zip(spaces, callers(context, spaces)):
        if maker is None or all(maker is not m for _, m in out):
            out.append((sch, maker))
    return out
