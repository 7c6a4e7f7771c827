"""What comes out of tuning? A kernel that can be called, asked about, and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .calling import Convention, finish, random_inputs
from .errors import CheckError, UserError
from .figures import duration, plain, rate, three, times
from .ir.flops import estimate_flops
from .ir.nodes import IRModule, PrimFunc
from .packing import Packer
from .runtime.function import BoundCall
from .runtime.module import AnyFunction, Module, build
from .schedule import Schedule, Trace
from .target import Target

if TYPE_CHECKING:
    from .meta_schedule.predicted import Predicted
    from .meta_schedule.record import TuningRecord
    from .meta_schedule.why import Why
    from .runtime.cuda_program import CudaCall
    from .schedule.explain import Explanation

# A plain loop nest does at least this many operations a second: how long the unscheduled program
# takes is estimated before it is run.
_UNSCHEDULED_FLOPS = 0.5e9
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a tuning run did.

    Attributes:
        trials: candidates measured, failed ones included.
        seconds: how long it took.
        failures: failed candidates by reason.
        interrupted: was it ended by Ctrl-C, or by SIGTERM?
        why: where its candidates went.
    """

    trials: int = 0
    seconds: float = 0.0
    failures: Mapping[str, int] = field(default_factory=dict)
    interrupted: bool = False
    why: Why | None = field(default=None, repr=False, compare=False)

    def wrong_results(self) -> list[str]:
        """What was found wrong with candidates whose numbers were not the program's: how many of
        each task, and what the check said of the last."""
        if self.why is None:
            return []
        return [
            f"{n} candidate{'s' * (n != 1)} rejected: {said}"
            for task in self.why.tasks
            for reason, n, said in task.reasons()
            if reason == "check wrong_result"
        ]

    def __str__(self) -> str:
        text = f"{self.trials} trials in {self.seconds:.1f} s"
        if self.failures:
            most = Counter(dict(self.failures)).most_common()
            reasons = ", ".join(f"{n} {plain(reason)}" for reason, n in most)
            text += f", {sum(self.failures.values())} failed ({reasons})"
        else:
            text += ", none failed"
        return text + (", interrupted" if self.interrupted else "")


class TunedKernel:
    """A compiled, scheduled program with what is known about it; made by `gputune.tune`,
    `gputune.load` and kernels of `gputune.jit`.

    Args:
        schedule: of a program with one function.
        target: what it is compiled for.
        workload: the unscheduled function.
        record: the measurement that chose this schedule, if there was one.
        summary: of the tuning run, if there was one.
        module: the compiled schedule, if it was compiled already.
        verified: its numbers were compared with the unscheduled function's (True, too, if the
            record says that this process did so).
        predicted: how the schedule was chosen, where nothing was measured.

    Attributes:
        mod: the scheduled program; where it packs arguments whose layout is free, `function` and
            `module` are compiled without that.
        packer: what packs those, see `pack`.

    Example:
        >>> f = gputune.tune(matmul, seconds=20)
        >>> c = f(a, b)                 # allocates c as a and b are: NumPy, torch, ...
        >>> f(a, b, out=c)              # writes into c
        >>> f(a, b, c)                  # TVM's way: outputs are arguments, nothing is returned
    """

    def __init__(
        self,
        schedule: Schedule,
        target: Target,
        *,
        workload: PrimFunc,
        record: TuningRecord | None = None,
        summary: Summary | None = None,
        module: Module | None = None,
        verified: bool = False,
        predicted: Predicted | None = None,
    ) -> None:
        self.schedule = schedule
        self.target = target
        self.workload = workload
        self.record = record
        self.summary = summary
        self.predicted = predicted
        self.verified = verified or (record is not None and record.verified)
        ((name, scheduled),) = schedule.mod.functions.items()
        self.packer = Packer(workload, scheduled, target)
        if module is None:
            module = build(IRModule({name: self.packer.kernel}), target)
        self.module = module
        self.function: AnyFunction = next(iter(self.module.functions.values()))
        self.convention = Convention.of(workload)

    # ------------------------------------------------------------------ calling
    def __call__(self, *args: Any, out: Any = None) -> Any:
        """Run the kernel.

        Args:
            args: the inputs in the order of the parameters, or all arguments.
            out: an array (or a tuple of arrays) to write to; default: allocated, zeroed, of the
                kind of the first input.

        Returns:
            The output, or a tuple of the outputs; None if all arguments were given.

        Raises:
            RunError: an argument does not fit; names it, what was expected and what was found.
        """
        whole, result = self.convention.complete(args, out)
        if self.packer.positions:
            whole = self.packer.place(whole)
        self.function(*whole)
        return finish(result)

    def bind(self, *args: Any, out: Any = None) -> BoundKernel:
        """Check the arguments once; calling the result runs the kernel on them again and again.

        Example:
            >>> step = f.bind(a, b)
            >>> c = step()              # the same array every time

        An argument whose layout is free is packed now, if it is not yet.
        """
        whole, result = self.convention.complete(args, out)
        whole = self.place(whole)
        return BoundKernel(self.function.bind(*whole), finish(result))

    def place(self, args: Sequence[Any]) -> list[Any]:
        """All arguments as `self.function` takes them: those whose layout is free, packed."""
        return self.packer.place(args, note=False) if self.packer.positions else list(args)

    def pack(self, **arrays: Any) -> Any:
        """Rearrange arguments whose layout is free (`layout_free=` of `gputune.tune`) as the kernel
        reads them. That is done once; calls then take the result in the place of the argument. An
        argument that is not packed is packed at every call.

        Args:
            arrays: by name of the argument. They are copied: later changes are not seen.

        Returns:
            A `PackedArray`, or a tuple of them where several were given.

        Raises:
            UserError: no such argument, or its layout is not free.
            RunError: an array does not fit its argument.

        Example:
            >>> f = gputune.tune(dense, layout_free=("W",))
            >>> packed = f.pack(W=w)
            >>> y = f(x, packed)
        """
        if not arrays:
            raise UserError("pack: there is nothing to pack", hint="kernel.pack(W=w)")
        packed = tuple([self.packer.pack(name, x) for name, x in arrays.items()])
        return packed[0] if len(packed) == 1 else packed

    @property
    def layouts(self) -> Mapping[str, str]:
        """How each argument whose layout is free lies in memory, by name."""
        return dict(zip(self.packer.names, self.packer.layouts.values(), strict=True))

    # ------------------------------------------------------------------ what is known
    @property
    def mod(self) -> IRModule:
        """The scheduled program."""
        return self.schedule.mod

    @property
    def trace(self) -> Trace:
        """What was done to the program; replays with `trace.apply_to_schedule`."""
        return self.schedule.trace

    @property
    def source(self) -> str:
        """The generated code as text: LLVM IR, or CUDA C++."""
        return self.module.inspect_source()

    @property
    def seconds(self) -> float | None:
        """The time of a call as tuning measured it (median); None if it was never measured."""
        if self.record is None or not self.record.is_valid:
            return None
        return self.record.seconds

    @cached_property
    def flops(self) -> float | None:
        """Operations of one call of the unscheduled program; None where sizes are symbolic."""
        try:
            return estimate_flops(self.workload)
        except CheckError:
            return None

    @cached_property
    def speedup(self) -> float | None:
        """How many times as fast as the unscheduled program, measured now, in turns; None where
        that would take long, sizes are symbolic, or the unscheduled program does not run: on a GPU
        it is not bound to threads."""
        if (
            self.target.kind != "llvm"
            or self.flops is None
            or self.flops / _UNSCHEDULED_FLOPS > _PATIENCE_SECONDS
        ):
            return None
        from .benchmark import bench

        # Times alone are of interest here: tuning has compared the results.
        found = bench(
            {"unscheduled": self.workload, "tuned": self},
            random_inputs(self.convention),
            seconds=0.3,
            check=False,
            target=self.target,
        )
        return found.ratio("tuned")

    def report(self) -> str:
        """What was tuned, how it went, how fast the best is, and its trace, as text."""
        from .meta_schedule.ranking import joules_of

        lines = [str(self.convention), f"  target   {self.target}"]
        seconds = self.seconds
        if seconds is None:
            lines.append(f"  time     {self.predicted or 'not measured'}")
        else:
            assert self.record is not None
            facts = [f"median of {len(self.record.run_secs or ())}"]
            facts.append("numbers verified" if self.verified else "numbers not verified")
            speed = rate(self.flops, seconds)
            text = duration(seconds) + (f", {speed} GFLOP/s" if speed != "-" else "")
            lines.append(f"  time     {text} ({', '.join(facts)})")
            if (joules := joules_of(self.record.extras)) is not None:
                lines.append(f"  energy   {three(joules * 1e3)} mJ a call")
            device = plain(str(self.record.extras.get("device", "")))
            if device and device != self.target.device_key:
                lines.append(f"           measured on {device}, which is not this machine")
        for name, layout in self.layouts.items():
            lines.append(f"  packed   {name}: {layout}")
        if self.summary is not None:
            lines.append(f"  tuning   {self.summary}")
            lines += [f"  wrong    {plain(said)}" for said in self.summary.wrong_results()]
        if self.speedup is None:
            reason = "it would take long"
            if self.target.kind != "llvm":
                reason = "unscheduled programs do not run on a GPU"
            elif self.flops is None:
                reason = "its sizes are open"
            lines.append(f"  untuned  not measured: {reason}")
        else:
            lines.append(f"  speed    {times(self.speedup)} the unscheduled program's")
        trace = str(self.trace).rstrip() or "(nothing: the program as it was written)"
        return "\n".join([*lines, "", *("  " + x for x in trace.splitlines())])

    def why(self) -> Why:
        """Where the candidates of its tuning went, and how well the model ranked them; prints as
        tables. Empty for a kernel that was not tuned by this process.

        Example:
            >>> print(f.why())
        """
        from .meta_schedule.why import Why

        found = None if self.summary is None else self.summary.why
        return Why.of(()) if found is None else found

    def explain(self, postproc: bool = False) -> Explanation:
        """What each instruction of its trace did to the program; see `Schedule.explain`."""
        return self.schedule.explain(postproc)

    # ------------------------------------------------------------------ keeping
    def export(self, folder: str | Path) -> Path:
        """Write the kernel to a folder, which `gputune.load` reads: see `saved_kernel`.

        Returns:
            The folder.

        Raises:
            UserError: no path, or one that cannot be written.
        """
        from .saved_kernel import folder_path, save

        return save(self, folder_path(folder, "export"))

    def __repr__(self) -> str:
        seconds = self.seconds
        how = "not measured" if seconds is None else duration(seconds)
        return f"TunedKernel({self.convention}; {self.target}; {how})"


class BoundKernel:
    """A kernel with its arguments: `f()` runs it and gives the outputs. Made by
    `TunedKernel.bind`."""

    __slots__ = ("call", "outputs")

    def __init__(self, call: BoundCall | CudaCall, outputs: Any) -> None:
        self.call = call
        self.outputs = outputs

    def __call__(self) -> Any:
        """Run the kernel; the same output arrays every time."""
        self.call()
        return self.outputs


def single_function(func: Any, what: str) -> tuple[str, PrimFunc]:
    """The name and the function of a PrimFunc or of a module of one; UserError otherwise."""
    if isinstance(func, Schedule):
        raise UserError(
            f"{what}: expected a program, found a Schedule",
            hint="give the PrimFunc or IRModule that it was made from; space=... gives choices",
        )
    if isinstance(func, PrimFunc):
        return func.name, func
    if not isinstance(func, IRModule):
        raise UserError(
            f"{what}: expected a PrimFunc or an IRModule, found {type(func).__name__}",
            hint="write the kernel with @T.prim_func",
        )
    if len(func.functions) != 1:
        names = ", ".join(func.functions) or "none"
        raise UserError(
            f"{what}: expected a module of one function, found {len(func.functions)} ({names})",
            hint='mod["name"] is one of them; ms.tune_tir tunes all',
        )
    return next(iter(func.functions.items()))
