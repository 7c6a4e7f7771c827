"""What every cost model keeps to. Inherit from `CostModelContract` and give `model`."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest

from gputune import kernels
from gputune.errors import RecordError
from gputune.meta_schedule import MeasureCandidate, RunnerResult, TuneContext
from gputune.meta_schedule.cost_model import CostModel
from gputune.meta_schedule.failures import Failure
from gputune.schedule import Schedule


def some_context() -> TuneContext:
    func = kernels.get("matmul").build(m=32, n=32, k=32)
    return TuneContext(func, target="llvm -num-cores 2", rand_state=5)


def some_candidates(context: TuneContext, count: int) -> list[MeasureCandidate]:
    """Different programs of one workload."""
    out = []
    for seed in range(1, count + 1):
        sch = Schedule(context.mod, seed=seed)
        loops = sch.get_loops(sch.get_block("C"))
        tiles = [sch.split(x, sch.sample_perfect_tile(x, n=2)) for x in loops]
        sch.reorder(*[t[0] for t in tiles], *[t[1] for t in tiles])
        out.append(MeasureCandidate(sch, []))
    return out


def some_results(count: int) -> list[RunnerResult]:
    """Times from fast to slow; every seventh failed."""
    failed = RunnerResult.failed(Failure("run", "timeout", "too slow"))
    return [failed if k % 7 == 6 else RunnerResult([1e-3 * (k + 1)], None) for k in range(count)]


class CostModelContract:
    """The tests; `learns`: does a measurement change anything?"""

    learns = True

    def model(self) -> CostModel:
        """A new one, quick to train; two of them are the same."""
        raise NotImplementedError

    def test_it_scores_before_it_learns(self) -> None:
        context = some_context()
        scores = self.model().predict(context, some_candidates(context, 5))
        assert scores.shape == (5,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()

    def test_no_candidates_are_no_fault(self) -> None:
        model, context = self.model(), some_context()
        model.update(context, [], [])
        assert len(model.predict(context, [])) == 0

    def test_it_scores_after_it_learned(self) -> None:
        model, context = self.model(), some_context()
        candidates = some_candidates(context, 24)
        model.update(context, candidates, some_results(24))
        scores = model.predict(context, candidates)
        assert scores.shape == (24,)
        assert np.isfinite(scores).all()
        if self.learns:
            assert scores[:8].mean() > scores[-8:].mean()

    def test_failures_alone_are_no_fault(self) -> None:
        model, context = self.model(), some_context()
        candidates = some_candidates(context, 12)
        failed = RunnerResult.failed(Failure("build", "compile", "no"))
        model.update(context, candidates, [failed] * 12)
        assert np.isfinite(model.predict(context, candidates)).all()

    def test_what_it_learned_is_kept_in_a_file(self, tmp_path: Path) -> None:
        model, context = self.model(), some_context()
        candidates = some_candidates(context, 24)
        model.update(context, candidates, some_results(24))
        path = str(tmp_path / "model")
        model.save(path)
        other = self.model()
        other.load(path)
        assert (other.predict(context, candidates) == model.predict(context, candidates)).all()

    def test_a_model_that_never_learned_is_kept(self, tmp_path: Path) -> None:
        path = str(tmp_path / "model")
        self.model().save(path)
        model, context = self.model(), some_context()
        model.load(path)
        assert np.isfinite(model.predict(context, some_candidates(context, 3))).all()

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 torn", None])
    def test_what_is_no_model_is_refused(self, content: bytes | None, tmp_path: Path) -> None:
        path = tmp_path / "model"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RecordError, match="not a saved"):
            self.model().load(str(path))

    def test_a_damaged_file_is_refused_or_read(self, tmp_path: Path) -> None:
        path = tmp_path / "model"
        model, context = self.model(), some_context()
        candidates = some_candidates(context, 12)
        model.update(context, candidates, some_results(12))
        model.save(str(path))
        good = path.read_bytes()
        rng = np.random.default_rng(3)
        for _ in range(40):
            bad = bytearray(good)
            for at in rng.integers(0, len(bad), 3):
                bad[at] = int(rng.integers(256))
            path.write_bytes(bytes(bad[: rng.integers(len(bad) // 2, len(bad) + 1)]))
            other = self.model()
            with contextlib.suppress(RecordError):  # nothing else may be raised
                other.load(str(path))
            assert not math.isnan(float(other.predict(context, candidates)[0]))

    def test_it_never_changes_what_it_is_asked_about(self) -> None:
        model, context = self.model(), some_context()
        candidates = some_candidates(context, 9)
        before = [c.digest for c in candidates]
        model.update(context, candidates, some_results(9))
        model.predict(context, candidates)
        assert [MeasureCandidate(c.sch, []).digest for c in candidates] == before
