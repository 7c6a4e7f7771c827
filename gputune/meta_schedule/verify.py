"""Are a candidate's numbers right? It is run against the unscheduled program on fresh inputs.

Speed without this check means nothing: the fastest kernel is the one that leaves work out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import CheckError, GputuneError, TimeoutExpired
from ..ir.flops import estimate_flops
from ..ir.nodes import IRModule
from ..runtime.process import Reply, Worker
from ..target import Target
from .artifact import Artifact
from .builder import artifact_of, build_args
from .failures import Failure
from .logging import console

_EAGER_SECONDS = 0.2
_UNSCHEDULED_FLOPS = 0.7e9  # operations a second of a plain loop nest, on the safe side
_PATIENCE_SECONDS = 60.0

Outcome = Literal["right", "wrong", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    Attributes:
        outcome: "unknown" where the unscheduled program itself cannot be run.
        failure: why it is wrong.
    """

    outcome: Outcome
    failure: Failure | None = None


class Verifier:
    """Checks scheduled programs of one workload.

    Args:
        mod: the unscheduled program.
        target: what it is tuned for.
        worker: where kernels are run; the one that measures, normally.
        seed: of the inputs; every check has fresh ones.

    Attributes:
        checks: how many were made.
    """

    def __init__(self, mod: IRModule, target: Target, worker: Worker, seed: int = 1) -> None:
        self.mod = mod
        self.target = target
        self.worker = worker
        self.checks = 0
        self._seed = seed
        self._reference: Artifact | None = None
        self._problem: GputuneError | None = None
        self._trusted = False
        try:
            self._seconds = estimate_flops(mod) / _UNSCHEDULED_FLOPS
        except CheckError:
            self._seconds = 0.0

    @property
    def eager(self) -> bool:
        """Is a check so cheap that every new best can have one at once? Otherwise the best of
        each round has one."""
        return self._seconds <= _EAGER_SECONDS

    def check_program(self, scheduled: IRModule) -> Verdict:
        """Compile a scheduled program and check it."""
        args = build_args(scheduled, self.target)
        try:
            reply = self.worker.request("build", args, timeout_s=self._timeout)
            return self.check(artifact_of(args, reply))
        except GputuneError as e:
            failure = Failure.of(e, "build")
            return Verdict("unknown") if failure.infrastructure else Verdict("wrong", failure)

    def check(self, artifact: Artifact) -> Verdict:
        """Check a compiled kernel."""
        reference = self._built()
        if reference is None:
            return Verdict("unknown")
        self.checks += 1
        try:
            reply = self._compare(artifact, reference)
        except GputuneError as e:
            if not Failure.of(e, "check").infrastructure and self._reference_runs(reference):
                return Verdict("wrong", Failure("check", _WRONG, f"it does not run: {e.message}"))
            return Verdict("unknown")
        self._trusted = True
        self._seconds = reply.seconds / 2
        if reply.data["ok"]:
            return Verdict("right")
        reason = str(reply.data["reason"])
        return Verdict("wrong", Failure("check", _WRONG, reason))

    @property
    def _timeout(self) -> float:
        return _PATIENCE_SECONDS + 20 * self._seconds

    def _built(self) -> Artifact | None:
        """The unscheduled program, compiled once."""
        if self._reference is None and self._problem is None:
            # one core: it is to be simple, not fast
            options = {**self.target.export(), "num-cores": 1}
            args = build_args(self.mod, Target(options, trusted=True))
            try:
                reply = self.worker.request("build", args, timeout_s=self._timeout)
                self._reference = artifact_of(args, reply)
            except GputuneError as e:
                self._give_up(e)
        return None if self._problem is not None else self._reference

    def _compare(self, artifact: Artifact, reference: Artifact) -> Reply:
        self._seed += 1
        args = {
            "symbol": artifact.symbol,
            "reference_symbol": reference.symbol,
            "arguments": reference.arguments,
            "num_threads": artifact.num_threads,
            "seed": self._seed,
        }
        return self.worker.request("check", args, (artifact.code, reference.code), self._timeout)

    def _reference_runs(self, reference: Artifact) -> bool:
        """Is it the candidate's fault that a check failed? So it is if the reference runs."""
        if not self._trusted:
            try:
                self._compare(reference, reference)
                self._trusted = True
            except GputuneError as e:
                self._give_up(e)
        return self._trusted

    def _give_up(self, e: GputuneError) -> None:
        self._problem = e
        what = "takes too long" if isinstance(e, TimeoutExpired) else "cannot be run"
        console().warning(
            "Results cannot be verified: the unscheduled program %s (%s)", what, e.message
        )


_WRONG = "wrong_result"
