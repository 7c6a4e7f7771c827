"""What do the runners of CUDA programs make of a worker's answers? The same, whether a GPU ran the
program or the processor did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import GputuneError
from ..ir import dtypes
from ..runtime.process import Reply
from .artifact import Artifact
from .compiled import facts_in
from .failures import Failure
from .runner import RunnerFuture, RunnerInput, RunnerResult


class WhenAsked(RunnerFuture):
    """Measures a candidate when it is first asked.

    Args:
        measure: runs a candidate and gives its result.
        x: the candidate.
    """

    def __init__(self, measure: Callable[[RunnerInput], RunnerResult], x: RunnerInput) -> None:
        super().__init__()
        self._measure = measure
        self._input = x
        self._found: RunnerResult | None = None

    def done(self) -> bool:
        """Always, once it was asked."""
        self.result()
        return True

    def result(self) -> RunnerResult:
        """Measure, the first time."""
        if self._found is None:
            self._found = self._measure(self._input)
        return self._found


def arrays_of(reply: Reply) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays that a worker sent back, by name."""
    return {
        spec["name"]: np.frombuffer(blob, dtypes.numpy_dtype(spec["dtype"])).reshape(spec["shape"])
        for spec, blob in zip(reply.data["outputs"], reply.blobs, strict=True)
    }


def told(artifact: Artifact) -> dict[str, Any]:
    """What records keep of a compiled CUDA program: the facts of its kernels."""
    facts = facts_in(artifact.cuda)
    return {"facts": facts} if facts else {}


def failure_of(e: GputuneError) -> Failure:
    """The failure of a run. What a worker raised is known by its class; errors of CUDA and findings
    of the checks say their kind by the error's code; a lost worker ("crash", "timeout") has its
    own."""
    found = Failure.of(e, "run")
    if found.infrastructure:
        return found
    own = found.kind == type(e).__name__ and e.code
    return replace(found, phase="run", kind=e.code if own else found.kind)
