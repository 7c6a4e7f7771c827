"""How is a compiled model called? `VirtualMachine(executable, device)["main"](...)`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import RunError, UserError
from ..ir import dtypes
from ..ir.graph import GlobalVar, TensorType
from ..runtime.devices import Device, cpu_only
from ..runtime.evaluator import BenchmarkResult, TimerConfig
from ..runtime.external import get_global_func
from ..runtime.ndarray import NDArray, aligned, host_view
from .executable import Executable
from .executable import build as build  # relax.vm.build, as tutorials call it
from .plan import Plan, Tree, leaves

Run = Callable[..., Any]


class VirtualMachine:
    """An executable that is ready to be called.

    The external functions that it calls are looked up once, here. Calls from several threads, and
    from within external functions, each have memory of their own.

    Args:
        executable: what `relax.build` gave.
        device: where to run; the cpu.

    Raises:
        UserError: an external function is not registered.
        RunError: another device.

    Example:
        >>> vm = VirtualMachine(relax.build(mod, "llvm"), gputune.cpu())
        >>> vm["main"](x).numpy()
    """

    def __init__(self, executable: Executable, device: Device | str | None = None) -> None:
        if not isinstance(executable, Executable):
            raise UserError(
                f"VirtualMachine: expected an executable, found {type(executable).__name__}",
                hint="relax.build(mod, target) makes one",
            )
        self.executable = executable
        self.device = cpu_only(device, "VirtualMachine")
        self.functions: Mapping[str, GraphFunction] = {
            name: GraphFunction(p, executable, self.device) for name, p in executable.plans.items()
        }

    def __getitem__(self, name: str) -> GraphFunction:
        """The graph function of that name; RunError if there is none."""
        found = self.functions.get(name)
        if found is None:
            raise RunError(
                f"no graph function named {name!r} in this executable (it has: "
                f"{', '.join(self.functions)})",
                code="function",
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.functions

    def __iter__(self) -> Iterator[str]:
        return iter(self.functions)

    @property
    def module(self) -> VirtualMachine:
        """This; tutorials ask the module of a virtual machine for `time_evaluator`."""
        return self

    def time_evaluator(
        self,
        name: str,
        dev: Device | None = None,
        *,
        number: int = 10,
        repeat: int = 1,
        min_repeat_ms: float = 0,
        cooldown_interval_ms: float = 0,
    ) -> Callable[..., BenchmarkResult]:
        """What times the function `name`, as called from Python: call it with its arguments.

        Args:
            name: of the graph function.
            dev: the device of this virtual machine.
            number: calls in a repeat, to begin with.
            repeat: repeats; each gives one entry of `.results`.
            min_repeat_ms: `number` is raised until a repeat lasts that long.
            cooldown_interval_ms: pause between repeats.

        Returns:
            A function whose call gives a `BenchmarkResult`, in seconds a call.

        Example:
            >>> vm.time_evaluator("main", gputune.cpu(), number=100)(x).mean
        """
        function = self[name]
        cpu_only(dev, "time_evaluator")
        config = TimerConfig(
            number=number,
            repeat=repeat,
            min_repeat_ms=min_repeat_ms,
            cooldown_ms=cooldown_interval_ms,
        )
        return lambda *args: _measure(lambda: function(*args), config)


class GraphFunction:
    """One graph function, callable with arrays and tuples of them; gives `NDArray`s in memory of
    their own, in a tuple where the function has several results."""

    def __init__(self, plan: Plan, executable: Executable, device: Device) -> None:
        self.plan = plan
        self.device = device
        self._runs: list[Run] = []
        for step in plan.steps:
            if isinstance(step.callee, GlobalVar):
                self._runs.append(executable.kernels[step.callee.name])
            else:
                found = get_global_func(step.callee.name)
                assert found is not None
                self._runs.append(found)
        self._constants = {
            k: NDArray(_copied(t.data), device)
            for k, t in enumerate(plan.tensors)
            if t.data is not None
        }
        self._outputs = [k for k, t in enumerate(plan.tensors) if t.place == "output"]
        self._of_callers = [*self._outputs, *[k for tree in plan.params for k in leaves(tree)]]
        self._frames: list[_Frame] = []  # those that no call is using

    @property
    def name(self) -> str:
        """The function's name in its module."""
        return self.plan.name

    def __call__(self, *args: Any) -> Any:
        """Run it.

        Raises:
            RunError: an argument does not fit; a kernel reports an error.
        """
        plan = self.plan
        if len(args) != len(plan.params):
            names = ", ".join(plan.param_names)
            raise RunError(
                f"{self.name} takes {len(plan.params)} arguments ({names}), found {len(args)}",
                code="argument-count",
            )
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = _Frame(self.plan, self._runs, self._constants, self.device)
        arrays = frame.arrays
        try:
            for name, tree, arg in zip(plan.param_names, plan.params, args):
                self._take(arrays, f"{self.name}: argument {name!r}", tree, arg)
            for k in self._outputs:
                arrays[k] = self._empty(plan.tensors[k].type)
            for run, numbers in frame.steps:
                run(*[arrays[k] for k in numbers])
            return self._result(arrays, plan.result)
        finally:
            for k in self._of_callers:
                arrays[k] = None
            self._frames.append(frame)

    def _take(self, arrays: list[Any], what: str, tree: Tree, arg: Any) -> None:
        """Put an argument where the plan wants it."""
        if isinstance(tree, int):
            arrays[tree] = self._array(what, self.plan.tensors[tree].type, arg)
            return
        if not isinstance(arg, (tuple, list)) or len(arg) != len(tree):
            found = f"{len(arg)}" if isinstance(arg, (tuple, list)) else f"a {type(arg).__name__}"
            raise RunError(f"{what}: expected a tuple of {len(tree)}, found {found}", code="tuple")
        for k, (part, item) in enumerate(zip(tree, arg)):
            self._take(arrays, f"{what}, item {k}", part, item)

    def _array(self, what: str, t: TensorType, arg: Any) -> NDArray:
        """An argument as an NDArray: on its memory, or on a copy if that is of no use."""
        array = host_view(arg, what)
        if array.dtype != dtypes.numpy_dtype(t.dtype):
            raise RunError(
                f"{what}: expected dtype {t.dtype}, found {array.dtype}",
                hint=f"x.astype({t.dtype!r}) makes a copy of that dtype",
                code="dtype",
            )
        if array.shape != t.shape:
            raise RunError(f"{what}: expected shape {t.shape}, found {array.shape}", code="shape")
        flags = array.flags
        if not (flags.c_contiguous and flags.aligned and flags.writeable):
            return NDArray(_copied(array), self.device)
        return arg if isinstance(arg, NDArray) else NDArray(array, self.device)

    def _empty(self, t: TensorType) -> NDArray:
        return NDArray(aligned(t.shape, dtypes.numpy_dtype(t.dtype)), self.device)

    def _result(self, arrays: list[Any], tree: Tree) -> Any:
        if not isinstance(tree, int):
            return tuple([self._result(arrays, x) for x in tree])
        found: NDArray = arrays[tree]
        if self.plan.tensors[tree].place == "output":
            return found
        return NDArray(_copied(found.data), self.device)  # arguments and constants stay ours

    def __repr__(self) -> str:
        names = ", ".join(self.plan.param_names)
        return f"GraphFunction({self.name}({names}); {len(self.plan.steps)} steps)"


class _Frame:
    """The memory of one running call. Where all arguments of a kernel lie in the arena, or are
    constants, they are checked and bound once, here."""

    __slots__ = ("arena", "arrays", "steps")

    def __init__(
        self, plan: Plan, runs: list[Run], constants: Mapping[int, NDArray], device: Device
    ) -> None:
        self.arena = aligned((plan.arena_bytes,), np.dtype(np.uint8))
        self.arrays: list[Any] = [None] * len(plan.tensors)
        for k, t in enumerate(plan.tensors):
            if t.place == "constant":
                self.arrays[k] = constants[k]
            elif t.place == "arena":
                raw = self.arena[t.offset : t.offset + t.type.nbytes]
                data = raw.view(dtypes.numpy_dtype(t.type.dtype)).reshape(t.type.shape)
                self.arrays[k] = NDArray(data, device)
        self.steps: list[tuple[Run, tuple[int, ...]]] = []
        for step, run in zip(plan.steps, runs):
            fixed = [self.arrays[k] for k in step.args]
            if isinstance(step.callee, GlobalVar) and all(x is not None for x in fixed):
                self.steps.append((run.bind(*fixed), ()))  # type: ignore[attr-defined]  # a kernel
            else:
                self.steps.append((run, step.args))


def _copied(array: Any) -> np.ndarray[Any, Any]:
    """A copy that any function can use: aligned, contiguous, writable."""
    out = aligned(array.shape, array.dtype)
    out[...] = array
    return out


def _measure(call: Callable[[], Any], config: TimerConfig) -> BenchmarkResult:
    """Time calls from Python; the first, which makes memory and wakes threads, does not count."""
    call()
    number = config.number
    wanted = config.min_repeat_ms * 1e-3
    while wanted > 0:
        seconds = _batch(call, number)
        if seconds >= wanted:
            break
        number = max(number + 1, min(number * 1000, math.ceil(1.05 * number * wanted / seconds)))
    results = []
    for k in range(config.repeat):
        if k and config.cooldown_ms:
            time.sleep(config.cooldown_ms * 1e-3)
        results.append(_batch(call, number) / number)
    return BenchmarkResult(tuple(results), number)


def _batch(call: Callable[[], Any], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return max(time.perf_counter() - start, 1e-9)
