"""How does a program become something that can be called? build -> Module -> Function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gputune.codegen import llvm
from gputune.errors import BuildError, RunError
from gputune.ir.in_bounds import check_in_bounds
from gputune.ir.nodes import For, IRModule, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.lower.pipeline import too_deep
from gputune.target import Target
from gputune.target.target import BUILDABLE, TargetLike

from .cuda_function import CudaFunction
from .devices import Device, cpu_only
from .evaluator import TimeEvaluator, TimerConfig
from .function import Function, thread_pool
from .signature import signature

if TYPE_CHECKING:
    from gputune.codegen.cuda.cubin import KernelFacts

    from .cuda_build import CudaCode
    from .cuda_timer import CudaTimeEvaluator

SourceFormat = Literal["ll", "asm", "cuda"]
AnyFunction: TypeAlias = "Function | CudaFunction"
AnyCode: TypeAlias = "llvm.LlvmKernel | CudaCode"


class Module:
    """Compiled functions by name.

    Example:
        >>> lib = gputune.build(mod, "llvm")
        >>> lib["main"](a, b, c)                     # c is written
        >>> lib.time_evaluator("main", cpu())(a, b, c).mean

    For a cuda target it is made without a GPU; calling a function needs one.
    """

    def __init__(
        self, functions: dict[str, AnyFunction], kernels: dict[str, AnyCode], target: Target
    ):
        self.functions = functions
        self.kernels = kernels
        self.target = target

    def __getitem__(self, name: str) -> AnyFunction:
        """The function of that name; "main" is also the only function of a module."""
        if name in self.functions:
            return self.functions[name]
        if name == "main" and len(self.functions) == 1:
            return self._only("main")
        known = ", ".join(self.functions)
        raise RunError(
            f"no function named {name!r} in this module (it has: {known})", code="function"
        )

    get_function = __getitem__

    def __contains__(self, name: object) -> bool:
        return name in self.functions

    def __iter__(self) -> Iterator[str]:
        return iter(self.functions)

    def __call__(self, *args: Any) -> None:
        """Call the only function; RunError if there are several."""
        self._only("calling a module")(*args)

    def _only(self, what: str) -> AnyFunction:
        if len(self.functions) != 1:
            names = ", ".join(self.functions)
            raise RunError(
                f"{what} needs a module of one function, this one has: {names}",
                hint=f'lib["{next(iter(self.functions))}"](...)',
                code="function",
            )
        return next(iter(self.functions.values()))

    def time_evaluator(
        self,
        name: str,
        dev: Device | None = None,
        *,
        number: int = 10,
        repeat: int = 1,
        min_repeat_ms: float = 0,
        cooldown_interval_ms: float = 0,
        flush_cache: bool = False,
    ) -> TimeEvaluator | CudaTimeEvaluator:
        """What times the function `name`: call it with the kernel's arguments.

        Args:
            name: of the function.
            dev: where to run; the cpu, or the GPU of the arguments for a cuda target.
            number: calls in a repeat, to begin with.
            repeat: repeats; each gives one entry of `.results`.
            min_repeat_ms: `number` is raised until a repeat lasts that long.
            cooldown_interval_ms: pause between repeats.
            flush_cache: drop the arguments from the caches before every call.

        Returns:
            An evaluator whose call gives a `BenchmarkResult` (`.mean`, `.median`, `.results`, ...
            in seconds a call).

        Raises:
            RunError: no such function or device, or a value that makes no sense.
        """
        function = self[name]
        if isinstance(function, Function):
            cpu_only(dev, "time_evaluator")
        config = TimerConfig(
            number=number,
            repeat=repeat,
            min_repeat_ms=min_repeat_ms,
            cooldown_ms=cooldown_interval_ms,
            flush_cache=flush_cache,
        )
        if isinstance(function, Function):
            return TimeEvaluator(function, config)
        from .cuda_timer import CudaTimeEvaluator

        if dev is not None and (not isinstance(dev, Device) or dev.kind != "cuda"):
            raise RunError(f"time_evaluator: {name} runs on cuda devices, not on {dev!r}")
        return CudaTimeEvaluator(function, config)

    def inspect_source(self, fmt: SourceFormat | None = None) -> str:
        """The generated code of all functions: LLVM IR ("ll", the default for llvm) or assembly
        ("asm"); CUDA C++ ("cuda") for a cuda target."""
        known = ("cuda",) if self.target.kind == "cuda" else ("ll", "asm")
        chosen = known[0] if fmt is None else fmt
        if chosen not in known:
            wanted = " or ".join(map(repr, known))
            raise RunError(
                f"inspect_source: expected {wanted} for {self.target.kind}, found {fmt!r}"
            )
        return "\n".join(_text(k, chosen) for k in self.kernels.values())

    get_source = inspect_source

    @property
    def facts(self) -> Mapping[str, KernelFacts]:
        """What each CUDA kernel uses, by its name: registers, spills, shared memory, instructions;
        {} for other targets."""
        codes = [k for k in self.kernels.values() if not isinstance(k, llvm.LlvmKernel)]
        return {name: found for k in codes for name, found in k.binary.facts.items()}

    @property
    def occupancy(self) -> Mapping[str, float]:
        """The share of a multiprocessor's warps that each CUDA kernel can keep there, by its name;
        {} for other targets."""
        codes = [k for k in self.kernels.values() if not isinstance(k, llvm.LlvmKernel)]
        return {name: share for k in codes for name, share in k.occupancy.items()}

    def __repr__(self) -> str:
        return f"Module({'; '.join(str(f.sig) for f in self.functions.values())})"


def build(mod: Any, target: TargetLike | None = None, *, name: str | None = None) -> Module:
    """Compile a program for `target` and load it.

    Args:
        mod: a PrimFunc, an IRModule, or anything with a `.mod`, such as a Schedule.
        target: what `Target` accepts; default: the current target, else "llvm".
        name: the name of a lone function; default: its global symbol, or "main".

    Raises:
        BuildError: nothing to compile, or a target without code generation.
        UserError: the program surely accesses what lies outside a buffer.
        LowerError: the program cannot be brought to plain loops, or is not bound to the threads
            of a GPU.

    Example:
        >>> gputune.build(matmul, "llvm -num-cores 1")["main"](a, b, c)
        >>> gputune.build(scheduled, "cuda")["main"](a, b, c)  # arrays of CuPy, torch, ...
    """
    functions = _functions(mod, name)
    chosen = resolve_target(target)
    callables: dict[str, AnyFunction] = {}
    kernels: dict[str, AnyCode] = {}
    for key, func in functions.items():
        try:
            check_in_bounds(func)
            if chosen.kind == "cuda":
                from .cuda_build import compile_function

                code = compile_function(func, chosen, key)
                callables[key], kernels[key] = code.function(key), code
                continue
            kernel = llvm.compile(func, chosen, key)
            callables[key] = load_function(func, key, kernel, chosen)
        except RecursionError:
            raise too_deep(key) from None
        kernels[key] = kernel
    return Module(callables, kernels, chosen)


def _text(code: AnyCode, fmt: str) -> str:
    if isinstance(code, llvm.LlvmKernel):
        return code.ir if fmt == "ll" else code.asm()
    return code.source.text


def resolve_target(target: TargetLike | None) -> Target:
    """The target meant: given, current, or llvm; BuildError if there is no code generation."""
    chosen = Target.current() or Target("llvm") if target is None else Target(target)
    check_buildable(chosen)
    return chosen


def check_buildable(target: Target) -> None:
    """BuildError if there is no code generation for the target."""
    if target.kind not in BUILDABLE:
        raise BuildError(
            f"cannot build for target {target}: {target.kind} code generation is not part of "
            "gputune",
            hint='use target "llvm" or "cuda"',
        )


def load_function(func: PrimFunc, name: str, kernel: llvm.LlvmKernel, target: Target) -> Function:
    """A callable for a compiled kernel (object code and symbol) of `func`."""
    loaded = llvm.load(kernel.object_code, kernel.symbol)
    pool = thread_pool(target.num_cores) if is_parallel(func) else None
    return Function(signature(func, name, kernel.shape_vars), loaded.address, loaded, pool)


def is_parallel(func: PrimFunc) -> bool:
    """Does the function have a loop that may run on several threads?"""
    return any(type(s) is For and s.kind == "parallel" for s in walk_stmt(func.body))


def _functions(mod: Any, name: str | None) -> dict[str, PrimFunc]:
    found = mod if isinstance(mod, PrimFunc | IRModule) else getattr(mod, "mod", None)
    if isinstance(found, PrimFunc):
        return {name or found.name: found}
    if not isinstance(found, IRModule):
        raise BuildError(
            f"build: expected a PrimFunc, an IRModule or a Schedule, found {type(mod).__name__}"
        )
    if found.graphs:
        raise BuildError(
            f"build: the module has graph functions: {', '.join(found.graphs)}",
            hint="gputune.compile(mod, target), or relax.build, makes an executable of it",
            code="graph",
        )
    if not found.functions:
        raise BuildError("build: the module has no functions")
    if name is not None and len(found.functions) > 1:
        raise BuildError(
            f"build: name={name!r} is for one function, the module has: "
            + ", ".join(found.functions)
        )
    return {name or key: f for key, f in found.functions.items()}
