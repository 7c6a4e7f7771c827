"""Which candidates are likely to be fast? Evolution on matrices of decisions, ranked by the cost
model.

One round: the best measured candidates and fresh ones are varied for a few generations, thousands
of rows at a time; verdicts and features come from `population`, scores from the cost model (before
it knows anything, from the analytic one). A batch is taken from all that was seen: the best by
score, kept apart from each other, neighbours of the best measured ones, and a few at random.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...errors import RecordError, ScheduleError, UserError
from ...ir.equal import structural_hash
from ...schedule.trace import Trace
from ..cost_model.cost_model import seconds_of
from ..decisions import IntArray, distinct, row_keys
from ..measure_candidate import MeasureCandidate
from ..profiler import Profiler
from .search_strategy import (
    Search,
    SearchStrategy,
    begun,
    callers,
    context_of,
    refuse_second,
)
from .selection import Scores, Spread, parents, ranking
from .spaces import Space, make_space

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
_MATRIX = 2048  # rows of a generation on a matrix, where population_size is less
_CROSSED, _FRESH = 0.25, 0.15  # shares of a generation
_NEW_CLASSES = 96  # structure classes that a round may add: each costs a replay
_ISLANDS = 9  # design spaces that a round looks at: a program of several blocks may have a hundred


@dataclass(slots=True, eq=False)
class _Island:
    """One design space and what is known of it."""

    space: Space
    rows: dict[bytes, float] = field(default_factory=dict)  # measured: seconds
    all_rows: IntArray | None = None  # every row, where there are few


@dataclass(slots=True, eq=False)
class _Pool:
    """Legal rows seen in this round, with their scores."""

    islands: npt.NDArray[np.int64]
    rows: list[IntArray]
    scores: Scores
    local: npt.NDArray[np.bool_]  # neighbours of the best measured rows

    def __len__(self) -> int:
        return len(self.rows)


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

    def clone(self) -> SearchStrategy:
        """A strategy of its own with the same settings, not begun."""
        other = copy.copy(self)
        other._context, other._state = None, None
        return other


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
        share = max(settings.population_size, _MATRIX // len(design_spaces))
        self.islands = [
            _Island(make_space(search.context, s, share, maker))
            for s, maker in _once(search.context, _different(design_spaces))
        ]
        for island in self.islands:
            island.all_rows = island.space.enumerate(_ENUMERATE)
        self.empty = 0
        self._where: dict[str, tuple[int, IntArray]] = {}

    # ------------------------------------------------------------------ what is known
    def remember(self, database: Database) -> None:
        """Take up the records of this workload: never measure them again, start from the best."""
        context = self.search.context
        if not database.has_workload(context.mod):
            return
        key = structural_hash(context.mod)
        device = context.target.device_key
        for record in database.get_all_tuning_records():
            if record.workload.shash == key and record.extras.get("device", device) == device:
                self._take_up(record)
        self._teach(key)

    def _take_up(self, record: TuningRecord) -> None:
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
                seconds = np.array(list(island.rows.values()))[found.valid]
                model.update_features(workload, found.features[found.valid], seconds.tolist())

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

    def _search(self) -> _Pool:
        """Every legal row that a few generations come across, scored."""
        best = self._best_measured(3)
        pool = _Pool(np.empty(0, np.int64), [], np.empty(0), np.empty(0, bool))
        seen: list[set[bytes]] = [set() for _ in self.islands]
        chosen = self._chosen(best)
        for k in chosen:
            island = self.islands[k]
            if island.all_rows is not None:
                classes = None if len(chosen) == 1 else _NEW_CLASSES
                self._add(pool, k, island.all_rows, seen[k], False, classes)
        for k, row in best:
            self._add(pool, k, self.islands[k].space.neighbours(row), seen[k], True, _NEW_CLASSES)
        if all(self.islands[k].all_rows is not None for k in chosen):
            return pool
        share = max(1, _NEW_CLASSES // (2 * len(chosen)))
        for k in chosen:
            if self.islands[k].all_rows is None:
                self._first_generation(pool, k, self.islands[k], seen[k], share)
        for _ in range(self.settings.genetic_num_iters):
            share = _NEW_CLASSES // (2 * self.settings.genetic_num_iters * len(chosen))
            self._next_generation(pool, chosen, seen, max(1, share))
        return pool

    def _chosen(self, best: Sequence[tuple[int, IntArray]]) -> list[int]:
        """The design spaces of this round: all if they are few, else those of the best measured
        candidates and others by chance, so that all have their turn."""
        if len(self.islands) <= _ISLANDS:
            return list(range(len(self.islands)))
        good = list(dict.fromkeys(k for k, _ in best))
        others = [k for k in self.rng.permutation(len(self.islands)).tolist() if k not in good]
        return sorted([*good, *others][:_ISLANDS])

    def _first_generation(
        self, pool: _Pool, k: int, island: _Island, seen: set[bytes], classes: int
    ) -> None:
        """Fresh rows, and mutants of the best measured ones."""
        s = self.settings
        size = island.space.generation
        known = sorted((x for x in island.rows.items() if x[1] < math.inf), key=lambda x: x[1])
        most = max(0, min(int(size * s.init_measured_ratio), size - s.init_min_unmeasured))
        if known and most:
            top = _matrix([key for key, _ in known[: max(1, most // 8)]])
            varied = island.space.mutate(np.repeat(top, 8, axis=0)[:most], self.rng)
            self._add(pool, k, varied, seen, False, classes)
        enough = min(s.init_min_unmeasured, size)
        got = 0
        for attempt in range(s.max_fail_count):
            fresh = island.space.sample(size - got, self.rng)
            # classes are spent once: further attempts look for rows of those that are known
            got += self._add(pool, k, fresh, seen, False, classes if got == 0 else 0)
            if got >= enough or (got and attempt):
                break

    def _next_generation(
        self, pool: _Pool, chosen: Sequence[int], seen: list[set[bytes]], classes: int
    ) -> None:
        """Children of the best rows of all spaces: better spaces have more of them."""
        if len(pool) == 0:
            return
        s = self.settings
        top = ranking(pool.scores)[: s.population_size]
        count = max((i.space.generation for i in self.islands if i.all_rows is None), default=0)
        mothers = top[parents(pool.scores[top], count, self.rng)]
        for k in chosen:
            island = self.islands[k]
            if island.all_rows is not None:
                continue
            mine = mothers[pool.islands[mothers] == k][: island.space.generation]
            parts = [island.space.sample(max(1, int(len(mine) * _FRESH)), self.rng)]
            if len(mine):
                rows = np.array([pool.rows[x] for x in mine])
                others = rows[self.rng.permutation(len(rows))]
                crossed = self.rng.random(len(rows)) < _CROSSED
                rows[crossed] = island.space.cross(rows[crossed], others[crossed], self.rng)
                changed = (self.rng.random(len(rows)) < s.genetic_mutate_prob) | ~crossed
                parts.append(rows[~changed])
                parts.append(island.space.mutate(rows[changed], self.rng))
            self._add(pool, k, np.concatenate(parts), seen[k], False, classes)

    def _add(
        self,
        pool: _Pool,
        k: int,
        rows: IntArray,
        seen: set[bytes],
        local: bool,
        classes: int | None,
    ) -> int:
        """Look at rows that are new in this round and were not measured; how many are legal?"""
        if len(rows) == 0:
            return 0
        rows = rows[distinct(rows)]
        measured = self.islands[k].rows
        keys = row_keys(rows)
        new = [j for j, key in enumerate(keys) if key not in seen and key not in measured]
        seen.update(keys)
        rows = rows[new]
        found = self.islands[k].space.evaluate(rows, classes)
        self.search.refusals.update(found.refusals)
        rows = rows[found.valid]
        if len(rows) == 0:
            return 0
        scores = self._scores(k, rows, found.features[found.valid], found.score[found.valid])
        pool.islands = np.concatenate([pool.islands, np.full(len(rows), k)])
        pool.rows.extend(rows)
        pool.scores = np.concatenate([pool.scores, scores])
        pool.local = np.concatenate([pool.local, np.full(len(rows), local)])
        return len(rows)

    def _scores(
        self, k: int, rows: IntArray, features: npt.NDArray[np.float32], analytic: Scores
    ) -> Scores:
        model = self.model
        if model is None:
            return analytic
        if model.takes_features:
            return np.asarray(model.predict_features(features), np.float64)
        # A model that only knows schedules is asked about those that the analytic score likes.
        out = np.full(len(rows), -np.inf)
        space = self.islands[k].space
        asked = ranking(analytic)[: self.search.batch]
        candidates = [
            MeasureCandidate(space.materialise(rows[j]), self.search.args_info) for j in asked
        ]
        out[asked] = model.predict(self.search.context, candidates)
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
        if measured == 0:
            # nothing is known: some of each space, and a part from the upper half by chance
            for k in range(len(self.islands)):
                mine = order[pool.islands[order] == k]
                batch.take(mine, max(1, wanted // (4 * len(self.islands))), apart=True)
            by_chance = max(by_chance, 0.25)
        else:
            late = self.search.trials >= 0.7 * self.search.max_trials
            batch.take(order[pool.local[order]], int(wanted * (0.4 if late else 0.2)), apart=False)
        chance = round(by_chance * wanted)
        left = wanted - len(batch.out)
        batch.take(order, max(left - chance, 0), apart=True)
        upper = order[: max(len(order) // 2, 1)] if measured == 0 else order
        batch.take(self.rng.permutation(upper), wanted - len(batch.out), apart=True)
        batch.take(order, wanted - len(batch.out), apart=False)
        return batch.out

    def claim(self, k: int, row: IntArray) -> MeasureCandidate | None:
        """The candidate of a row, if it can be made and its program is new."""
        try:
            sch = self.islands[k].space.materialise(row)
        except ScheduleError as e:
            self.search.refusals[e.message] += 1
            self.islands[k].rows[row.tobytes()] = math.inf
            return None
        new = self.search.candidate(sch)
        if new is None:  # another row gives the same program
            self.islands[k].rows.setdefault(row.tobytes(), math.inf)
            return None
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
            k, row = int(pool.islands[x]), pool.rows[x]
            if apart and self._spread.near(k, row):
                continue
            self._tried[x] = True
            new = self._evolution.claim(k, row)
            if new is not None:
                self._spread.add(k, row)
                self.out.append(new)


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
