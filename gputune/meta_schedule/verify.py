"""Are a candidate's numbers right? It is run against the unscheduled program (or a function of the
user's) on fresh inputs, its outputs poisoned, with margins around every array.

Speed without this check means nothing: the fastest kernel is the one that leaves work out. Programs
that come from files are foreign: they are compiled and run in a worker process under limits before
this process runs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from ..errors import BuildError, CheckError, GputuneError, LowerError, TimeoutExpired
from ..ir.equal import structural_hash
from ..ir.flops import estimate_flops
from ..ir.nodes import IRModule, PrimFunc, Var
from ..ir.walk import walk_expr
from ..runtime.process import Reply
from ..runtime.signature import concrete_arguments, signature
from ..target import Target
from .arg_info import entry_func
from .artifact import Artifact
from .builder import artifact_of, build_args
from .failures import Failure
from .logging import console
from .reference import Reference

_EAGER_SECONDS = 0.2
_UNSCHEDULED_FLOPS = 0.7e9  # operations a second of a plain loop nest, on the safe side
# What candidates have as well (`LocalBuilder.timeout_sec`, `LocalRunner.timeout_sec`):
_BUILD_SECONDS = 30.0
_PATIENCE_SECONDS = 30.0
_ON_A_CORE = 5.0
"""Seconds that the reference of a GPU kernel may take on a core of the processor."""
_HOST_SECONDS = 120.0
"""For compiling a CUDA program for the processor, and running it there with all checks."""
_SETS = 4
_OTHER_INPUTS = 2  # that must be right where an error is slight
# Symbolic sizes take these values, each one more than the one before.
_SIZES = (16, 37)

Outcome = Literal["right", "wrong", "ran", "unknown"]
_Arguments: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    Attributes:
        outcome: "unknown" where the unscheduled program itself cannot be run, or no worker could
            be had; "ran" where the program was run by itself, with nothing to compare it with.
        failure: why it is wrong.
    """

    outcome: Outcome
    failure: Failure | None = None


class Checker(Protocol):
    """What decides whether the numbers of one workload's candidates are right."""

    @property
    def eager(self) -> bool:
        """Is a check so cheap that every new best can have one at once?"""

    def check(self, artifact: Artifact) -> Verdict:
        """Check a compiled kernel."""

    def check_program(self, scheduled: IRModule) -> Verdict:
        """Compile a scheduled program and check it."""


class Asked(Protocol):
    """What carries out a worker's requests: a `Worker`, or those of other machines."""

    def request(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        blobs: tuple[bytes, ...] = (),
        timeout_s: float = 30.0,
    ) -> Reply:
        """Send a request and wait for the answer; GputuneError as of `Worker.request`."""


class Verifier:
    """Checks scheduled programs of one workload.

    Args:
        mod: the unscheduled program.
        target: what it is tuned for.
        worker: where kernels are run; the one that measures, normally.
        seed: of the inputs; every check has fresh ones.
        longest_s: where the unscheduled program would take longer than that, it is not run, and the
            outcome is "unknown".
        on_host: run CUDA programs on the processor (`runtime.host_execution`).
        reference: a function that says what is right in place of the unscheduled program; see
            `reference.Reference`.

    Attributes:
        checks: how many were made.
        by_user: does a function of the user's say what is right?

    Raises:
        UserError: `reference` is no function, or gives something else than all that is written.
    """

    def __init__(
        self,
        mod: IRModule,
        target: Target,
        worker: Asked,
        seed: int = 1,
        longest_s: float = math.inf,
        on_host: bool = False,
        reference: Callable[..., Any] | None = None,
    ) -> None:
        self.mod = mod
        self.target = target
        self.worker = worker
        self.checks = 0
        self._seed = seed
        self._longest_s = longest_s
        self._on_host = on_host
        self._reference: Artifact | None = None
        self._problem: GputuneError | None = None
        self._trusted = False
        try:
            self._seconds = estimate_flops(mod) / _UNSCHEDULED_FLOPS
        except CheckError:
            self._seconds = 0.0
        self._right: set[str] = set()
        self._own = None if reference is None else Reference(entry_func(mod), reference)
        if self._own is not None:  # what is wrong with it shows before anything is tuned
            for arguments in self._described():
                self._own.expected(arguments, self._seed + 1)
            self._seconds = self._own.seconds
            self._trusted = True

    @property
    def by_user(self) -> bool:
        """Does a function of the user's say what is right?"""
        return self._own is not None

    def _described(self) -> list[_Arguments]:
        """The program's arguments: one list, or some where sizes are symbolic."""
        from ..codegen.llvm.kernel import shape_vars

        func = entry_func(self.mod)
        sizes = shape_vars(func)
        if sizes:
            return [_with_sizes(func, size) for size in _SIZES]
        return [concrete_arguments(signature(func, func.name, sizes))]

    @property
    def eager(self) -> bool:
        """Is a check so cheap that every new best can have one at once? Otherwise the best of
        each round has one."""
        return self._seconds <= _EAGER_SECONDS

    def check_program(self, scheduled: IRModule) -> Verdict:
        """Compile a scheduled program and check it."""
        if self._own is None and self._built() is None:
            return Verdict("unknown")
        if self._own is not None and structural_hash(scheduled) in self._right:
            return Verdict("right")
        built = self._candidate(scheduled)
        verdict = built if isinstance(built, Verdict) else self.check(built)
        if verdict.outcome == "right":
            self.remember(scheduled)
        return verdict

    def remember(self, scheduled: IRModule) -> None:
        """A scheduled program was right by the user's function: it need not be checked again. (What
        was right by the unscheduled program is known elsewhere, see `proofs`.)"""
        if self._own is not None:
            self._right.add(structural_hash(scheduled))

    def run_program(self, scheduled: IRModule) -> Verdict:
        """Compile a scheduled program and run it, with nothing to compare it with: it must end in
        time, twice with the same numbers, and write only where it may.

        Returns:
            "ran", "wrong", or "unknown" where it cannot be run at all.
        """
        built = self._candidate(scheduled)
        if isinstance(built, Verdict):
            return built
        self.checks += 1
        try:
            for arguments in self._arguments(built):
                verdict = _verdict(self._compare(built, built, arguments, _PATIENCE_SECONDS))
                if verdict.outcome == "wrong":
                    return verdict
        except GputuneError as e:
            failure = Failure.of(e, "check")
            if failure.infrastructure or isinstance(e, BuildError):
                return Verdict("unknown", failure)
            return Verdict("wrong", failure)
        return Verdict("ran")

    def check(self, artifact: Artifact) -> Verdict:
        """Check a compiled kernel."""
        reference = artifact if self._own is not None else self._built()
        if reference is None:
            return Verdict("unknown")
        self.checks += 1
        try:
            for arguments in self._arguments(reference):
                reply = self._compare(artifact, reference, arguments)
                self._trusted = True
                # elsewhere the reference's part is not known: it may be kept
                if not artifact.cuda and self._own is None:
                    self._seconds = reply.seconds / 2
                verdict = _verdict(reply)
                if reply.data.get("slight") and self._right_elsewhere(
                    artifact, reference, arguments
                ):
                    verdict = Verdict("right")
                if verdict.outcome == "wrong":
                    break
        except GputuneError as e:
            if e.code == "reference":  # the user's function is at fault, not the candidate
                raise
            if not Failure.of(e, "check").infrastructure and self._reference_runs(reference):
                return Verdict("wrong", Failure("check", _WRONG, f"it does not run: {e.message}"))
            return Verdict("unknown")
        return verdict

    @property
    def _timeout(self) -> float:
        return _PATIENCE_SECONDS + 20 * self._seconds

    def _candidate(self, scheduled: IRModule) -> Artifact | Verdict:
        """A scheduled program, compiled; or what follows from that it cannot be."""
        try:
            return self._build(scheduled, self.target)
        except GputuneError as e:
            failure = Failure.of(e, "build")
            return Verdict("unknown" if failure.infrastructure else "wrong", failure)

    def _build(self, mod: IRModule, target: Target) -> Artifact:
        try:
            args = build_args(mod, target)
        except RecursionError:
            raise LowerError("the program is nested too deeply", code="too-deep") from None
        reply = self.worker.request("build", args, timeout_s=_BUILD_SECONDS)
        if reply.data["arguments"] is None:  # symbolic sizes get their values for each run
            reply.data["arguments"] = []
        return artifact_of(args, reply)

    def _built(self) -> Artifact | None:
        """The unscheduled program, compiled once."""
        if self._reference is None and self._problem is None:
            try:
                if self._seconds > self._longest_s:
                    raise TimeoutExpired(f"about {self._seconds:.0f} s")
                self._reference = self._build(*self._reference_program())
            except GputuneError as e:
                self._give_up(e)
        return None if self._problem is not None else self._reference

    def _reference_program(self) -> tuple[IRModule, Target]:
        """The unscheduled program and what it is compiled for: one core, since it is to be simple,
        not fast; for a GPU, where a core would take too long, the default schedule."""
        if self.target.kind == "llvm":
            options = {**self.target.export(), "num-cores": 1}
            return self.mod, Target(options, trusted=True)
        if self._seconds > _ON_A_CORE and not self._on_host:
            from ..default_gpu_schedule import default_gpu_schedule

            return default_gpu_schedule(self.mod, self.target).mod, self.target
        return self.mod, Target("llvm -num-cores=1")

    def _arguments(self, artifact: Artifact) -> list[_Arguments]:
        """The arguments to run with: one list, or some where sizes are symbolic."""
        if artifact.arguments:
            return [artifact.arguments]
        func = entry_func(self.mod)
        return [_with_sizes(func, size) for size in _SIZES]

    def _compare(
        self,
        artifact: Artifact,
        reference: Artifact,
        arguments: _Arguments,
        timeout_s: float | None = None,
    ) -> Reply:
        self._seed += 1
        limit = self._timeout if timeout_s is None else timeout_s
        if self._own is not None and timeout_s is None:
            return self._compare_with_own(self._own, artifact, arguments, limit)
        if artifact.cuda:
            # On a core the reference takes its time: a few sets of inputs then do for all.
            seed = self._seed if self._seconds < _EAGER_SECONDS else 1 + self._seed % _SETS
            told = {"cuda": reference.cuda} if reference.cuda else {"symbol": reference.symbol}
            args: dict[str, Any] = {
                "cuda": artifact.cuda,
                "reference": told,
                "arguments": arguments,
                "seed": seed,
            }
            blobs = (artifact.code, reference.code)
            if self._on_host:
                return self.worker.request("check_host", args, blobs, limit + _HOST_SECONDS)
            return self.worker.request("check_cuda", args, blobs, limit)
        args = {
            "symbol": artifact.symbol,
            "reference_symbol": reference.symbol,
            "arguments": arguments,
            "num_threads": artifact.num_threads,
            "seed": self._seed,
        }
        code: tuple[bytes, ...] = (artifact.code, reference.code)
        if artifact.packing:
            args["packing"] = artifact.packing
            args["reference_packed"] = reference is artifact
            args["arguments"] = _unpacked(arguments, artifact.packing)
            code = (*code, artifact.packer)
        return self.worker.request("check", args, code, limit)

    def _compare_with_own(
        self, own: Reference, artifact: Artifact, arguments: _Arguments, limit: float
    ) -> Reply:
        """Run a candidate, and compare what it writes with what the user's function says."""
        seed = self._seed if own.seconds < _EAGER_SECONDS else 1 + self._seed % _SETS
        if artifact.packing:
            arguments = _unpacked(arguments, artifact.packing)
        positions, arrays = own.expected(arguments, seed)
        args: dict[str, Any] = {
            "symbol": artifact.symbol,
            "arguments": arguments,
            "num_threads": artifact.num_threads,
            "seed": seed,
            "expected": positions,
        }
        blobs = (artifact.code, *(x.tobytes() for x in arrays))
        op = "check"
        if artifact.cuda:
            args["cuda"] = artifact.cuda
            op = "check_host" if self._on_host else "check_cuda"
            limit += _HOST_SECONDS if self._on_host else 0.0
        if artifact.packing:
            args["packing"] = artifact.packing
            blobs = (*blobs, artifact.packer)
        return self.worker.request(op, args, blobs, limit)

    def _right_elsewhere(
        self, artifact: Artifact, reference: Artifact, arguments: _Arguments
    ) -> bool:
        """Are the results right for all of some other inputs? A long sum that comes near zero
        differs by more than the tolerance in any other order; a fault is there again."""
        return all(
            self._compare(artifact, reference, arguments).data["ok"] for _ in range(_OTHER_INPUTS)
        )

    def _reference_runs(self, reference: Artifact) -> bool:
        """Is it the candidate's fault that a check failed? So it is if the reference runs."""
        if not self._trusted:
            try:
                for arguments in self._arguments(reference):
                    self._compare(reference, reference, arguments)
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


def _verdict(reply: Reply) -> Verdict:
    if reply.data["ok"]:
        return Verdict("right")
    return Verdict("wrong", Failure("check", _WRONG, str(reply.data["reason"])))


def _unpacked(arguments: _Arguments, packing: Mapping[str, Any]) -> _Arguments:
    """The arguments of a kernel as they are before some are packed."""
    out = list(arguments)
    for at, given in zip(packing["positions"], packing["arguments"]):
        out[at] = given
    return out


def _with_sizes(func: PrimFunc, size: int) -> _Arguments:
    """The arguments of a function of symbolic sizes for values of these near `size`; BuildError
    where the values of its strides are open."""
    from ..codegen.llvm.kernel import shape_vars

    sizes: dict[Var, int] = {}
    for b in func.buffers:
        for e in b.shape:
            for x in walk_expr(e):
                if type(x) is Var and x not in sizes:
                    sizes[x] = size + len(sizes)
    for b in func.buffers:
        if type(b.elem_offset) is Var:
            sizes.setdefault(b.elem_offset, 0)
    return concrete_arguments(signature(func, func.name, shape_vars(func)), sizes)
