"""What is the best configuration of a CUDA kernel, and what can be done with it?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .codegen.cuda.raw import LAUNCH, Configuration, RawArgument, raw_module, raw_source
from .errors import RunError, ScheduleError, UserError
from .figures import duration, plain
from .ir.nodes import IRModule
from .meta_schedule.ranking import figure_of, joules_of, unranked
from .meta_schedule.record import TuningRecord
from .raw_arguments import Arguments
from .raw_kernel import Params
from .runtime.cuda_function import CudaFunction
from .runtime.signature import signature
from .schedule import Schedule
from .target import Target
from .target.host import cuda_problem

if TYPE_CHECKING:
    from .codegen.cuda.compile import CudaBinary

_KEPT = 64  # sizes of arguments for which the compiled kernel is kept


@dataclass(frozen=True, slots=True)
class Measured:
    """One configuration and what became of it; what `metrics` are computed from.

    Attributes:
        params: the values of the parameters.
        seconds: a call (median, at the GPU's reference clock); infinite where it failed or does
            not rank.
        error: phase, kind and message of its failure, or None.
        verified: its outputs were compared with the reference's.
        facts: registers, spills, shared memory, occupancy as the compiler leaves them; {} where it
            did not compile. Numbers only.
        extras: all else that the record holds.
    """

    params: Params
    seconds: float
    error: Mapping[str, str] | None
    verified: bool
    facts: Mapping[str, Any]
    extras: Mapping[str, Any]

    @property
    def joules(self) -> float | None:
        """The energy of a call; None where it was not measured."""
        return joules_of(self.extras)

    def figure(self, objective: str) -> float:
        """What an objective ranks by; infinite where that is not known."""
        return figure_of(self.seconds, self.extras, objective)

    @property
    def status(self) -> str:
        """In a word or two: "verified", "not checked", "shared GPU" for what does not rank, or how
        it failed."""
        if self.error is not None:
            return plain(f"{self.error.get('phase')} {self.error.get('kind')}", 40)
        if unranked(self.extras):
            return "shared GPU"
        return "verified" if self.verified else "not checked"

    @staticmethod
    def of(record: TuningRecord, params: Params, kernel: str) -> Measured:
        """What a record says of a configuration."""
        facts = record.extras.get("facts")
        own = facts.get(kernel) if isinstance(facts, dict) else None
        # out of a file: numbers alone are kept, since text might say anything to a terminal
        told = own.items() if isinstance(own, dict) else ()
        found = {str(k): v for k, v in told if isinstance(v, int | float)}
        error = record.error
        if error is not None:
            error = {str(k): str(v) for k, v in error.items()}
        checked = record.verified or record.extras.get("verified") is True
        return Measured(params, record.seconds, error, checked, found, dict(record.extras))


class TunedCudaKernel:
    """A CUDA kernel in its best configuration: `r.best`.

    Args:
        measured: what is known of it.
        configuration: how it is compiled and launched.
        mod: the configured program.
        arguments: what it was tuned with.
        target: what it was tuned for.

    Attributes:
        params: the values of the parameters.
        seconds: a call, as tuning measured it (median).
        nvml: clocks, power and temperature while it was measured; None where NVML was not there.
        nvml_problem: why `nvml` is None, else "".
    """

    def __init__(
        self,
        measured: Measured,
        configuration: Configuration,
        mod: IRModule,
        arguments: Arguments,
        target: Target,
    ) -> None:
        self.measured = measured
        self.configuration = configuration
        self.mod = mod
        self.arguments = arguments
        self.target = target
        self._functions: dict[str, CudaFunction] = {}
        self._binary: CudaBinary | None = None

    @property
    def params(self) -> Params:
        """The values of the parameters."""
        return self.measured.params

    @property
    def seconds(self) -> float:
        """The median time of a call as tuning measured it."""
        return self.measured.seconds

    @property
    def nvml(self) -> Mapping[str, Any] | None:
        """Clocks, power, temperature while it was measured, or None."""
        found = self.measured.extras.get("nvml")
        return found if isinstance(found, dict) else None

    @property
    def nvml_problem(self) -> str:
        """Why there are no readings of NVML; "" if there are."""
        if self.nvml is not None:
            return ""
        if "clock" in self.measured.extras:
            return f"timed by {plain(str(self.measured.extras['clock']))}, not on a GPU"
        told = self.measured.extras.get("nvml_problem")
        return plain(str(told)) if told else cuda_problem() or "the record holds none"

    @property
    def facts(self) -> Mapping[str, Any]:
        """Registers, spills, shared memory and occupancy of the compiled kernel."""
        return self.measured.facts

    @property
    def source(self) -> str:
        """The CUDA C++ with this configuration's #defines."""
        name = self.arguments.kernel.name
        found = raw_source(self.mod[name])
        assert found is not None
        return found.text

    # ------------------------------------------------------------------ running
    def __call__(self, *args: Any) -> None:
        """Run the kernel on the GPU, on the caller's current stream, without waiting; outputs are
        written in place.

        Args:
            args: all arguments: arrays on one GPU (CuPy, torch, anything with
                `__cuda_array_interface__` or DLPack) and numbers, of the dtypes it was tuned with.
                Other sizes are launched as the kernel's `grid` says for them.

        Raises:
            RunError: there is no GPU, an argument does not fit, or the launch is refused.
        """
        problem = cuda_problem()
        name = self.arguments.kernel.name
        if problem is not None:
            raise RunError(
                f"{name} runs on an NVIDIA GPU, and there is none to use: {problem}",
                hint="r.best.export(folder) writes what another machine needs",
                code="no-gpu",
            )
        self.function_for(args)(*args)

    def function_for(self, args: Sequence[Any]) -> CudaFunction:
        """The compiled kernel, launched as these arguments need it. No GPU is needed for that.

        Raises:
            RunError: there are too few or too many, or the kernel refuses them.
        """
        described, kernel = self.arguments.described, self.arguments.kernel
        if len(args) != len(described):
            wanted = ", ".join(a.name for a in described)
            raise RunError(
                f"{kernel.name} takes the arguments {wanted}; found {len(args)}", code="count"
            )
        try:
            config = kernel.configure(self.params, args)
        except ScheduleError as e:
            raise RunError(f"{kernel.name}: these arguments are refused: {e.message}") from None
        shapes = [
            None if a.shape is None else tuple(getattr(x, "shape", a.shape))
            for a, x in zip(described, args)
        ]
        key = repr((config.grid, config.block, config.smem, shapes))
        found = self._functions.get(key)
        if found is None:
            if len(self._functions) >= _KEPT:
                self._functions.clear()
            sized = [replace(a, shape=shape) for a, shape in zip(described, shapes)]
            found = self._functions[key] = self._compiled(config, sized)
        return found

    def _compiled(self, config: Configuration, sized: Sequence[RawArgument]) -> CudaFunction:
        kernel = self.arguments.kernel
        text = kernel.source if isinstance(kernel.source, str) else ""
        sch = Schedule(raw_module(kernel.name, sized, text, kernel.options))
        sch.annotate(sch.get_block(kernel.name, func_name=kernel.name), LAUNCH, config.annotation())
        func = sch.mod[kernel.name]
        source = raw_source(func)
        assert source is not None
        if self._binary is None:
            from .codegen.cuda.compile import compile_cuda

            self._binary = compile_cuda(source, self.target.arch)
        return CudaFunction(signature(func, kernel.name), source, self._binary)

    # ------------------------------------------------------------------ keeping
    def export(self, folder: str | Path) -> Path:
        """Write the kernel to a folder: its source with the #defines, `launch.json`, and a README
        that says how to call it with CuPy.

        Returns:
            The folder.

        Raises:
            UserError: it cannot be written.
        """
        path, name = Path(folder), self.arguments.kernel.name
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{name}.cu").write_text(self.source, encoding="utf-8")
            (path / "launch.json").write_text(
                json.dumps(self.launch(), indent=2) + "\n", encoding="utf-8"
            )
            (path / "README.md").write_text(self._readme(), encoding="utf-8")
        except OSError as e:
            raise UserError(f"cannot export {name} to {path}: {e.strerror or e}") from None
        return path

    def launch(self) -> dict[str, Any]:
        """How the kernel is compiled and launched, as JSON-able values."""
        c = self.configuration
        return {
            "kernel": self.arguments.kernel.name,
            "params": dict(self.params),
            "grid": list(c.grid),
            "block": list(c.block),
            "shared_bytes": c.smem,
            "options": list(self.arguments.kernel.options),
            "arch": self.target.arch,
            "arguments": [
                {
                    "name": a.name,
                    "dtype": a.dtype,
                    "shape": None if a.shape is None else list(a.shape),
                    "value": a.value,
                    "written": a.written,
                }
                for a in self.arguments.described
            ],
            "seconds": self.seconds,
            "verified": self.measured.verified,
            "clock": self.measured.extras.get("clock", "gpu"),
        }

    def _readme(self) -> str:
        name, c = self.arguments.kernel.name, self.configuration
        values = [
            f"np.{a.dtype}({a.value!r})" if a.shape is None else a.name
            for a in self.arguments.described
        ]
        options = self.arguments.kernel.options
        return _README.format(
            name=name,
            params=", ".join(f"{k} = {v}" for k, v in self.params.items()) or "none",
            options=options if options else "()",
            grid=c.grid,
            block=c.block,
            args=", ".join(values),
            smem=c.smem,
        )

    def __repr__(self) -> str:
        return f"TunedCudaKernel({self.arguments.kernel.name}; {self.params!r}; " + (
            f"{duration(self.seconds)})"
        )


_README = """\
# {name}

Tuned by gputune. Parameters: {params} (the `#define` lines of `{name}.cu`); `launch.json` has the
launch, the arguments it was tuned with, and what it was tuned for.

```python
import cupy as cp
import numpy as np

kernel = cp.RawKernel(open("{name}.cu").read(), "{name}", options={options})
kernel({grid}, {block}, ({args},), shared_mem={smem})
```

The grid is that for the sizes in `launch.json`: other sizes need their own. Dynamic shared memory
above 48 KiB has to be asked for: `kernel.max_dynamic_shared_size_bytes = {smem}`.
"""
