"""How do candidates become kernels? Builders; the local one compiles in worker processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import BuildError, GputuneError, UserError
from ..ir.nodes import IRModule
from ..lower.layout_preproc import as_measured
from ..runtime.cuda_build import CudaCode, described_arguments
from ..runtime.interruption import held
from ..runtime.operations import packing_code
from ..runtime.pool import WorkerPool
from ..runtime.process import Outcome, Reply, Request
from ..runtime.signature import concrete_arguments
from ..target import Target
from ..target import host as machine
from .arg_info import entry_func
from .artifact import Artifact, new_path
from .derived import left_open
from .failures import Failure
from .module_equality import as_module


@dataclass(frozen=True, slots=True, eq=False)
class BuilderInput:
    """A program to compile.

    Attributes:
        mod: the scheduled program.
        target: the machine to compile for.
        params: accepted for compatibility.
    """

    mod: IRModule
    target: Target
    params: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mod", as_module(self.mod))
        object.__setattr__(self, "target", Target(self.target))


@dataclass(frozen=True, slots=True)
class BuilderResult:
    """What became of it: a path, or why there is none.

    Attributes:
        artifact_path: of the compiled kernel, or None.
        error_msg: why it failed, or None.
        failure: the same, taken apart; a builder of one's own may leave it out.
    """

    artifact_path: str | None
    error_msg: str | None = None
    failure: Failure | None = None

    @property
    def problem(self) -> Failure | None:
        """Why it failed, or None."""
        if self.failure is not None:
            return self.failure
        if self.error_msg is None and self.artifact_path is not None:
            return None
        return Failure("build", "error", self.error_msg or "the builder gave no artifact")


class Builder(ABC):
    """Base class of builders; write your own by inheriting from it."""

    @abstractmethod
    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """Compile programs: one result each, in their order. A failure is a result, never an
        exception."""

    def start(self) -> None:  # noqa: B027  # most builders have nothing to do
        """Get ready in the background, where there is something to get ready."""

    @staticmethod
    def create(kind: str | Builder = "local", *args: Any, **kwargs: Any) -> Builder:
        """A builder by kind: "local", or "dask" (on the machines of a cluster, `DaskBuilder`).
        ValueError for another."""
        if isinstance(kind, Builder):
            return kind
        if kind == "local":
            return LocalBuilder(*args, **kwargs)
        if kind == "dask":
            from .on_dask import DaskBuilder

            return DaskBuilder(*args, **kwargs)
        raise UserError(f"unknown kind of builder {kind!r}; known are: local, dask")


@left_open
class PyBuilder(Builder):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


@cache
def shared_pool(max_workers: int) -> WorkerPool:
    """The process's pool of build workers: they stay warm from one tuning to the next."""
    return WorkerPool(max_workers)


class LocalBuilder(Builder):
    """Compiles in worker processes of this machine.

    Args:
        max_workers: how many at a time; default: the cores that this process may use.
        timeout_sec: for one program, from when its worker begins on it.
        f_build: `(mod, target, params) -> Module` in place of `gputune.build`. It runs in this
            process, one program after the other, without a time limit. A program that packs
            constant arguments comes to it without the packing.
        f_export: `(Module) -> path` of the artifact; default: a file that `LocalRunner` reads.
        initializer: called once in this process before the first program is built.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        timeout_sec: float = 30.0,
        f_build: Callable[..., Any] | None = None,
        f_export: Callable[[Any], str] | None = None,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        if max_workers is not None and (type(max_workers) is not int or max_workers < 1):
            raise UserError(f"LocalBuilder: max_workers is a count from 1, found {max_workers!r}")
        if not timeout_sec > 0:
            raise UserError(f"LocalBuilder: timeout_sec must be positive, found {timeout_sec!r}")
        self.max_workers = max_workers or machine.usable_cores()
        self.timeout_sec = float(timeout_sec)
        self.f_build = f_build
        self.f_export = f_export
        self.initializer = initializer
        self._initialized = initializer is None

    def start(self) -> None:
        """Start the workers in the background."""
        if not self._in_parent:
            shared_pool(self.max_workers).start()

    @property
    def _in_parent(self) -> bool:
        return self.f_build is not None or self.f_export is not None

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """Compile programs, equal ones once."""
        try:
            self._initialize()
        except Exception as e:  # whatever the user's function raises fails what it was to serve
            why = Failure("build", type(e).__name__, f"initializer: {e}")
            return [_failed(why) for _ in build_inputs]
        if self._in_parent:
            return [self._build_here(x) for x in build_inputs]
        pool = shared_pool(self.max_workers)
        return build_with(lambda requests: pool.map(requests), build_inputs, self.timeout_sec)

    def _initialize(self) -> None:
        if not self._initialized and self.initializer is not None:
            self.initializer()
            self._initialized = True

    # ------------------------------------------------------------------ with the user's functions
    def _build_here(self, x: BuilderInput) -> BuilderResult:
        from ..runtime.module import build

        try:
            f_build = self.f_build or (lambda mod, target, params: build(mod, target))
            module = f_build(as_measured(x.mod), x.target, x.params)
            if self.f_export is not None:
                return BuilderResult(str(self.f_export(module)))
            return _saved(_artifact_of_module(module, x))
        except GputuneError as e:
            return _failed(Failure.of(e, "build"))
        except Exception as e:  # whatever the user's function raises is this candidate's failure
            return _failed(Failure("build", type(e).__name__, str(e) or type(e).__name__))


def build_with(
    carry_out: Callable[[list[Request]], Sequence[Outcome]],
    build_inputs: Sequence[BuilderInput],
    timeout_sec: float,
) -> list[BuilderResult]:
    """Compile programs, equal ones once.

    Args:
        carry_out: has workers carry out requests; their outcomes in order.
        timeout_sec: for one program.
    """
    requests: list[Request] = []
    place: dict[tuple[str, str], int] = {}
    where: list[int | BuilderResult] = []
    for x in build_inputs:
        try:
            request = Request("build", build_args(x.mod, x.target), timeout_s=timeout_sec)
        except GputuneError as e:
            where.append(_failed(Failure.of(e, "build")))
            continue
        key = (request.args["script"], str(x.target.export()))
        if key not in place:
            place[key] = len(requests)
            requests.append(request)
        where.append(place[key])
    outcomes = carry_out(requests) if requests else []
    with held():  # files that nobody knows would stay as long as this process
        results = [_result(r, o) for r, o in zip(requests, outcomes)]
    return [results[w] if isinstance(w, int) else w for w in where]


def _result(request: Request, outcome: Outcome) -> BuilderResult:
    if isinstance(outcome, GputuneError):
        return _failed(Failure.of(outcome, "build"))
    try:
        return _saved(artifact_of(request.args, outcome))
    except GputuneError as e:
        return _failed(Failure.of(e, "build"))


def _saved(artifact: Artifact) -> BuilderResult:
    try:
        path = new_path()
        artifact.save(path)
    except OSError as e:
        where = e.filename or "the cache folder"
        return _failed(
            Failure("start", "disk", f"cannot write an artifact to {where}: {e.strerror or e}")
        )
    return BuilderResult(str(path))


def build_args(mod: IRModule, target: Target) -> dict[str, Any]:
    """The arguments of a worker's request to compile the entry function of a program."""
    entry = entry_func(mod)
    name = next(k for k, f in mod.functions.items() if f is entry)
    return {"script": mod.script(), "target": target.export(), "name": name}


def artifact_of(args: Mapping[str, Any], reply: Reply) -> Artifact:
    """What a worker built for these arguments."""
    return Artifact.of_reply(reply.data, reply.blobs, args["script"], args["target"])


def _artifact_of_module(module: Any, x: BuilderInput) -> Artifact:
    entry = entry_func(x.mod)
    name = next(k for k, f in x.mod.functions.items() if f is entry)
    try:
        kernel, function = module.kernels[name], module.functions[name]
        code, symbol = kernel.object_code, kernel.symbol
    except (AttributeError, KeyError, TypeError):
        raise BuildError(
            f"f_build gave a {type(module).__name__} without the function {name}",
            hint="return what gputune.build returns, or give f_export too",
            code="f-build",
        ) from None
    if isinstance(kernel, CudaCode):
        arguments = described_arguments(entry)
        told = kernel.as_json()
        export = x.target.export()
        return Artifact(symbol, arguments, 1, x.mod.script(), export, code, told)
    arguments = concrete_arguments(function.sig)
    threads = x.target.num_cores
    packing, packer = packing_code(entry, x.target)
    return Artifact(
        symbol, arguments, threads, x.mod.script(), x.target.export(), code, {}, packing, packer
    )


def _failed(failure: Failure) -> BuilderResult:
    return BuilderResult(None, str(failure), failure)


def as_builder(kind: str | Builder, max_workers: int | None = None) -> Builder:
    """A builder from what `tune_*` accepts."""
    if isinstance(kind, Builder):
        return kind
    if kind == "local":
        return LocalBuilder(max_workers)
    return Builder.create(kind)


def same_order(
    results: Sequence[BuilderResult], inputs: Sequence[object]
) -> Sequence[BuilderResult]:
    """The results of any builder, of which there must be one for each input."""
    listed = isinstance(results, Sequence) and all(isinstance(r, BuilderResult) for r in results)
    if not listed or len(results) != len(inputs):
        given = f"{len(results)} results" if listed else f"{results!r:.60}"
        raise UserError(
            f"the builder gave {given} for {len(inputs)} programs",
            hint="return one BuilderResult for each BuilderInput, in their order",
            code="builder",
        )
    return results


create = Builder.create
