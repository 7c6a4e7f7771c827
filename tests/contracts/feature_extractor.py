"""What every feature extractor keeps to. Inherit from `FeatureExtractorContract` and give
`extractor`."""

from __future__ import annotations

import numpy as np

from gputune import kernels
from gputune.meta_schedule import MeasureCandidate, TuneContext
from gputune.meta_schedule.feature_extractor import FeatureExtractor
from gputune.schedule import Schedule

NAMES = ("matmul", "softmax", "conv2d", "transpose", "row_sum")


def candidates_of(name: str) -> tuple[TuneContext, list[MeasureCandidate]]:
    """The default design spaces of a kernel at a small size, as they were drawn."""
    kernel = kernels.get(name)
    func = kernel.build(**kernel.check_shapes[0])
    context = TuneContext(
        func, target="llvm -num-cores 2", space_generator="post-order-apply", rand_state=5
    )
    spaces = context.generate_design_space()[:3]
    return context, [MeasureCandidate(s, []) for s in (Schedule(func), *spaces)]


class FeatureExtractorContract:
    """The tests. `repeatable`: do the same candidates always have the same features?"""

    repeatable = True

    def extractor(self) -> FeatureExtractor:
        """A new one; two of them are the same."""
        raise NotImplementedError

    def test_arrays_of_rows_of_one_width(self) -> None:
        widths = set()
        for name in NAMES:
            context, candidates = candidates_of(name)
            arrays = self.extractor().extract_from(context, candidates)
            assert len(arrays) == len(candidates)
            for x in arrays:
                assert x.ndim == 2
                assert len(x) >= 1
                assert np.issubdtype(x.dtype, np.floating)
                assert np.isfinite(x).all()
                widths.add(x.shape[1])
        assert len(widths) == 1

    def test_no_candidates(self) -> None:
        context, _ = candidates_of("matmul")
        assert self.extractor().extract_from(context, []) == []

    def test_two_of_a_kind_agree(self) -> None:
        context, candidates = candidates_of("matmul")
        a, b = (self.extractor().extract_from(context, candidates) for _ in range(2))
        assert all((x == y).all() for x, y in zip(a, b, strict=True))

    def test_the_same_candidate_has_the_same_features(self) -> None:
        if not self.repeatable:
            return
        context, candidates = candidates_of("softmax")
        extractor = self.extractor()
        together = extractor.extract_from(context, candidates)
        alone = [extractor.extract_from(context, [c])[0] for c in reversed(candidates)]
        assert all((x == y).all() for x, y in zip(together, reversed(alone), strict=True))

    def test_candidates_are_left_as_they_are(self) -> None:
        context, candidates = candidates_of("conv2d")
        before = [c.sch.mod.script() for c in candidates]
        self.extractor().extract_from(context, candidates)
        assert [c.sch.mod.script() for c in candidates] == before
