"""Is tuned code as fast as the libraries, as TVM, and as the machine allows? For each operator.

    python bench/libraries.py [--only GMM,SFM] [--trials 256] [--tvm PYTHON] [--json FILE]
    python bench/libraries.py --sgemm       matrix products, odd ones too
    python bench/libraries.py --two-cores   what a second core gains, or costs
    python bench/libraries.py --table FILE  tables in Markdown, from the records of all shards

Each operator is tuned from an empty database on one core. Then all take turns on one core, medians:
the best of all trials, the best of the first 64, NumPy, torch eager and torch.compile (default and
max-autotune, the best counts; not with `--no-compile`), each on one thread; a loop of FMAs; and a
loop that loads and stores as many bytes as the operator must. These two give the floor. torch has
to be in the interpreter that runs this. With `--tvm PYTHON` (see tvm_peer.py) TVM is tuned on the
same operator; its best runs in a process of its own, in turns with the others. Before that every
result is compared with NumPy's in float64, outputs poisoned, with canaries around all arrays.

Times are microseconds: in the kernel for gputune and TVM, of a call for libraries; "call" is that
of gputune from Python. "x peer" is the speed beside the best of all the others. An operator is a
shard: `--only`. Exits with 1 if a result of gputune's is wrong.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before NumPy and torch come, and not where tests import this
    for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")  # tuned in this run
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from libraries_floor import fma, stream
from libraries_forms import (
    OPERATORS,
    SGEMM,
    TWO_CORES,
    numpy_call,
    torch_forms,
    traffic,
    useful_flops,
)
from libraries_table import columns, line, markdown, summary
from quality import best_of_first
from tvm_timer import Tvm, TvmLost

import gputune as gt
from gputune import meta_schedule as ms
from gputune.benchmark import Timing, in_turns
from gputune.kernels import Kernel
from gputune.meta_schedule.logging import quiet
from gputune.runtime.compare import compare
from gputune.runtime.evaluator import TimerConfig, measure
from gputune.runtime.function import BoundCall
from gputune.target.host import usable_cores

FIRST = 64  # trials that are reported beside all of them
OWN = ("gputune", "cores-1", "cores-2")  # folders of a bench's databases
GUARD = 4096  # bytes of canaries on each side of an array
Timer = Callable[[int], tuple[float, bool]]


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# ----------------------------------------------------------------------------- arrays
class Guarded:
    """A copy of an array at a cache line, between bytes of 0xFF: a float that is read there by
    mistake is NaN, and what is written there shows."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._raw = np.full(array.nbytes + 2 * GUARD + 64, 0xFF, np.uint8)
        self._start = GUARD + -(self._raw.ctypes.data + GUARD) % 64
        self._end = self._start + array.nbytes
        self.array = self._raw[self._start : self._end].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    @property
    def intact(self) -> bool:
        """Are the bytes around it as they were?"""
        return bool(
            (self._raw[: self._start] == 0xFF).all() and (self._raw[self._end :] == 0xFF).all()
        )


class Arguments:
    """Guarded arrays for a kernel, and what its outputs must be."""

    def __init__(self, kernel: Kernel, seed: int = 3) -> None:
        arrays = kernel.arguments(None, seed=seed)
        self.expected = kernel.expected(arrays)
        self.is_output = [b.name in kernel.outputs for b in kernel.build().buffers]
        self._originals = arrays
        self.guarded = [Guarded(a) for a in arrays]

    @property
    def arrays(self) -> list[Any]:
        return [g.array for g in self.guarded]

    @property
    def inputs(self) -> list[Any]:
        return [a for a, out in zip(self.arrays, self.is_output, strict=True) if not out]

    @property
    def outputs(self) -> list[Any]:
        return [a for a, out in zip(self.arrays, self.is_output, strict=True) if out]

    def poison(self) -> None:
        for out, at in zip(self.is_output, range(len(self.guarded)), strict=True):
            if out:
                self.guarded[at].array[...] = self._originals[at]  # NaN: see Kernel.arguments

    def problem(self) -> str | None:
        """What is wrong after a run of the kernel, or None."""
        for at, (g, out) in enumerate(zip(self.guarded, self.is_output, strict=True)):
            if not g.intact:
                return f"the bytes around argument {at} were overwritten"
            if not out and not np.array_equal(g.array, self._originals[at]):
                return f"input {at} was overwritten"
        return self.differs(self.outputs)

    def differs(self, found: Sequence[Any]) -> str | None:
        """How results differ from NumPy's in float64, or None."""
        for got, want in zip(found, self.expected, strict=True):
            difference = compare(np.ascontiguousarray(got), want)
            if not difference.ok:
                return str(difference)
        return None


# ----------------------------------------------------------------------------- timers
def kernel_timer(call: BoundCall) -> Timer:
    """Time in the kernel alone."""

    def timed(calls: int) -> tuple[float, bool]:
        found = measure(call, TimerConfig(number=calls, retries=0))
        return found.results[0] * calls, found.disturbed > 0

    return timed


def call_timer(call: Callable[[], Any]) -> Timer:
    """Time of calls from Python."""

    def timed(calls: int) -> tuple[float, bool]:
        call()  # the caches are those of the entry before
        cpu, start = time.thread_time(), time.perf_counter()
        for _ in range(calls):
            call()
        wall = time.perf_counter() - start
        return wall, wall - (time.thread_time() - cpu) > 0.05 * wall + 20e-6

    return timed


@contextmanager
def one_core() -> Iterator[int]:
    """This thread on one processor, whose number is given, and back where it was."""
    before = os.sched_getaffinity(0)
    cpu = max(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def keep_memory() -> None:
    """Tell the C library to keep what is freed, so that a library that allocates its results does
    not pay for fresh pages with every call."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


# ----------------------------------------------------------------------------- gputune
def tune(kernel: Kernel, folder: Path, trials: int, seed: int, cores: int = 1) -> dict[str, Any]:
    """One tuning from an empty database: the scheduled programs, wall clock, failures."""
    marks: dict[str, float] = {}

    def mark(now: ms.Progress) -> None:
        if now.trials >= FIRST:
            marks.setdefault("first", now.elapsed_s)
        marks["trials"], marks["failed"] = now.trials, sum(now.failures.values())

    start = time.perf_counter()
    target = f"llvm --num-cores={cores}"
    with quiet():
        result = ms.tune_tir(kernel.build(), target, folder, trials, seed=seed, on_progress=mark)
    wall = time.perf_counter() - start
    mods = {"gputune": result.mod}
    if trials > FIRST:
        mods["gputune at 64"] = best_of_first(folder, FIRST)
    else:
        marks["first"] = wall
    say(f"{kernel.name}: {trials} trials on {cores} core(s) in {wall:.1f} s")
    return {
        "mods": mods, "wall": wall, "first": marks.get("first", wall),
        "measured": marks.get("trials"), "failed": marks.get("failed"),
    }  # fmt: skip


def bound(mod: Any, args: Arguments, cores: int = 1) -> tuple[BoundCall, Callable[[], Any]]:
    """A program on these arguments, checked once: in the kernel alone, and called from Python."""
    function = next(iter(gt.build(mod, f"llvm --num-cores={cores}").functions.values()))
    arrays = args.arrays
    args.poison()
    function(*arrays)
    problem = args.problem()
    if problem:
        raise gt.WrongResult(problem)
    return function.bind(*arrays), lambda: function(*arrays)


# ----------------------------------------------------------------------------- peers
def torch_or_reason() -> tuple[Any, str]:
    """torch on one thread, or why not."""
    if not find_spec("torch"):
        return None, "torch is not installed in this interpreter"
    try:
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        warnings.filterwarnings("ignore", message="dynamo_pgo")  # its caches are off, it says
    except Exception as e:  # a broken installation is no reason not to measure the others
        return None, f"torch cannot be imported: {e}"
    return torch, ""


def torch_calls(
    torch: Any, kernel: Kernel, args: Arguments, compiled: bool, failed: dict[str, str]
) -> dict[str, Callable[[], Any]]:
    """Torch's forms of an operator whose results are right; of the others, the reason."""
    calls: dict[str, Callable[[], Any]] = {}

    def take(name: str, function: Callable[..., Any], tensors: tuple[Any, ...]) -> None:
        start = time.perf_counter()
        try:
            found = function(*tensors)
            problem = args.differs([found.numpy()])
        except Exception as e:  # whatever a peer does, the others are measured
            problem = f"{type(e).__name__}: {str(e).strip().splitlines()[:1]}"
        if problem:
            failed[name] = problem
            say(f"{name} failed: {problem}")
        else:
            calls[name] = lambda: function(*tensors)
            if name.startswith("torch.compile"):
                say(f"{name} in {time.perf_counter() - start:.1f} s")

    forms = torch_forms(torch, kernel, args.inputs)
    for layout, form in forms.items():
        take(f"torch {layout}", form.function, form.tensors)
    layouts = [n for n in calls if n != "torch out"]
    if compiled and layouts:
        fastest = min(layouts, key=lambda n: min(call_timer(calls[n])(2)[0] for _ in range(3)))
        layout = fastest.removeprefix("torch ")
        for mode in ("default", "max-autotune-no-cudagraphs"):
            torch.compiler.reset()
            function = torch.compile(forms[layout].function, mode=mode, dynamic=False)
            take(f"torch.compile {mode.split('-no')[0]}", function, forms[layout].tensors)
    return calls


# ----------------------------------------------------------------------------- an operator
def one(name: str, kernel: Kernel, given: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """The record of an operator."""
    args = Arguments(kernel)
    failed: dict[str, str] = {}
    record = head(name, kernel, given)
    flops, (read, written) = useful_flops(kernel), traffic(kernel)
    timers: dict[str, Timer] = {}
    with Tvm() as tvm:
        if given.tvm:
            say(f"{name}: TVM, {given.tvm_trials} trials")
            record["tvm"] = found = tvm.start(
                given.tvm, name, given.tvm_trials, keep / name / "tvm", args.inputs
            )
            if "error" not in found and (problem := args.differs([tvm.output()])):
                found["error"] = problem
            if "error" in found:
                failed["TVM"] = found["error"]
                say(f"TVM failed: {found['error']}")
            else:
                timers["TVM"] = tvm.timed
        tuned = tune(kernel, keep / name / "gputune", given.trials, given.seed)
        record["tuning_s"], record["tuning_s_64"] = tuned["wall"], tuned["first"]
        record["measured"], record["failed_trials"] = tuned["measured"], tuned["failed"]
        for label, mod in tuned["mods"].items():
            try:
                inside, outside = bound(mod, args)
            except gt.GputuneError as e:
                failed[label] = str(e)
                continue
            timers[label] = kernel_timer(inside)
            if label == "gputune":
                timers["call"] = call_timer(outside)
        in_numpy = numpy_call(kernel, args.inputs)
        if problem := args.differs([in_numpy()]):
            failed["NumPy"] = problem
        timers["NumPy"] = call_timer(in_numpy)
        torch, reason = torch_or_reason()
        if torch is None:
            failed["torch"] = reason
        else:
            record["torch"] = torch.__version__
            calls = torch_calls(torch, kernel, args, given.compile, failed)
            timers |= {n: call_timer(c) for n, c in calls.items()}
        peak, work = fma()
        timers["fma"] = kernel_timer(peak)
        timers["stream"] = kernel_timer(stream(read, written))
        with one_core() as cpu:
            if "TVM" in timers:
                tvm.pin(cpu)
            say(f"{name}: {len(timers)} in turns")
            try:
                found = in_turns(timers, given.seconds)
            except TvmLost as e:
                failed["TVM"] = str(e)
                del timers["TVM"]
                found = in_turns(timers, given.seconds)
        if "gputune" in timers and (problem := args.problem()):
            failed["gputune"] = problem  # after all the runs
    return record | measured(found) | {
        "failed": failed, "flops": flops, "bytes": [read, written],
        "peak_flops": work / found["fma"].median, "stream_s": found["stream"].median,
    }  # fmt: skip


def two_cores(name: str, kernel: Kernel, given: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """An operator tuned for one core and for two, timed in turns."""
    args = Arguments(kernel)
    record, failed, timers = head(name, kernel, given), {}, {}
    for cores in (1, 2):
        tuned = tune(kernel, keep / name / f"cores-{cores}", given.trials, given.seed, cores)
        record[f"tuning_s_{cores}"] = tuned["wall"]
        try:
            inside, _ = bound(tuned["mods"]["gputune"], args, cores)
        except gt.GputuneError as e:
            failed[f"cores {cores}"] = str(e)
        else:
            timers[f"cores {cores}"] = kernel_timer(inside)
    found = in_turns(timers, given.seconds)
    if problem := args.problem():
        failed["gputune"] = problem
    return record | measured(found) | {"failed": failed}


def head(name: str, kernel: Kernel, given: argparse.Namespace) -> dict[str, Any]:
    """What a record says of where it comes from."""
    target = gt.Target("llvm --num-cores=1")
    return {
        "bench": given.bench, "operator": name, "shape": kernel.shape(), "trials": given.trials,
        "seed": given.seed, "cpu": target.device_key, "gputune": gt.__version__,
        "numpy": np.__version__, "python": platform.python_version(),
    }  # fmt: skip


def measured(found: Mapping[str, Timing]) -> dict[str, Any]:
    """Medians and spreads of what took turns."""
    return {
        "seconds": {n: t.median for n, t in found.items()},
        "spread": {n: round(t.spread, 4) for n, t in found.items()},
        "repetitions": {n: len(t.results) for n, t in found.items()},
        "disturbed": {n: t.disturbed for n, t in found.items() if t.disturbed},
    }


# ----------------------------------------------------------------------------- the command
def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sgemm", action="store_true", help="matrix products")
    which.add_argument("--two-cores", action="store_true", help="one core beside two")
    which.add_argument("--table", type=Path, help="a file of records, to be printed as Markdown")
    parser.add_argument("--only", default="", help="operators, separated by commas")
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing, an operator")
    parser.add_argument("--tvm", help="a Python that has apache-tvm")
    parser.add_argument("--tvm-trials", type=int, help="default: those of --trials, at most 64")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--keep", type=Path, help="folder for the databases; TVM's is used again")
    parser.add_argument("--json", type=Path, help="file to append the records to")
    given = parser.parse_args(words)
    given.bench = "sgemm" if given.sgemm else "two cores" if given.two_cores else "libraries"
    table = SGEMM if given.sgemm else TWO_CORES if given.two_cores else OPERATORS
    names = [n for n in given.only.split(",") if n] or list(table)
    unknown = [n for n in names if n not in table]
    if unknown:
        parser.error(
            f"--only: no operator is called {', '.join(unknown)}; known: {', '.join(table)}"
        )
    given.operators = {n: table[n] for n in names}
    if given.trials < 1:
        parser.error(f"--trials: a count from 1, found {given.trials}")
    if given.seconds <= 0:
        parser.error(f"--seconds: a time above 0, found {given.seconds}")
    if given.tvm_trials is None:
        given.tvm_trials = min(given.trials, FIRST)
    if given.tvm_trials < 1:
        parser.error(f"--tvm-trials: a count from 1, found {given.tvm_trials}")
    if given.tvm and given.bench != "libraries":
        parser.error("--tvm: TVM is a peer in the table of operators only")
    if given.table and not given.table.is_file():
        parser.error(f"--table: there is no file {given.table}")
    if given.two_cores and usable_cores() < 2:
        parser.error(f"--two-cores: this process may use {usable_cores()} core")
    if given.sgemm:
        given.compile = False
    for name in names:
        for part in OWN if given.keep is not None and not given.table else ():
            if (given.keep / name / part).exists():
                parser.error(
                    f"--keep: {given.keep / name / part} exists; databases start empty here"
                )
    return given


def main() -> int:
    """Print a line an operator, then the means; 1 if a result of gputune's is wrong."""
    given = parse()
    if given.table:
        records = [json.loads(x) for x in given.table.read_text().splitlines() if x.strip()]
        print(markdown(records))
        return 0
    keep_memory()
    if not given.two_cores and not find_spec("torch"):
        say("torch is not installed in this interpreter: its columns stay empty")
    print(columns(given.bench), flush=True)
    run = two_cores if given.two_cores else one
    records, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name, kernel in given.operators.items():
            try:
                record = run(name, kernel, given, given.keep or Path(folder))
            except gt.GputuneError as e:
                record = head(name, kernel, given) | {"failed": {"gputune": str(e)}, "seconds": {}}
            wrong += any(n.startswith(("gputune", "cores")) for n in record["failed"])
            records.append(record)
            print(line(record), flush=True)
            if given.json:
                with given.json.open("a") as f:
                    f.write(json.dumps(record) + "\n")
    print(summary(records))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
