"""How fast are matmuls of bytes and bfloat16 through the processor's dot products, beside torch?

    python bench/intrinsics.py --torch PYTHON [--size 1024] [--trials 64] [--seeds 1,2,3]
                               [--json FILE]

Default space of "llvm --num-cores=1", an empty database for each program, one core. PYTHON is one
that has torch (default: this one); torch runs there, with one thread, and takes turns with the
tuned kernel: medians of the rounds. Results are compared with NumPy first. `peak` is the speed of
sixteen independent chains of the instruction alone, measured in the same run; bf16 is torch.matmul,
whose result is bfloat16, the others are torch._int_mm (torch has no unsigned one: u8s8 is compared
with its s8s8). Prints a line for each program and seed, and of several seeds the median and the
worst ratio; `--json` keeps the raw records. A size that no tile divides (`--size 1001`) is padded;
results are compared all the same.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ml_dtypes
import numpy as np

import gputune as gt
from gputune import meta_schedule as ms
from gputune.codegen.llvm import jit
from gputune.ir.nodes import PrimFunc
from gputune.ir.ops import VECTOR
from gputune.runtime import ndarray
from gputune.runtime.module import build

TARGET = "llvm --num-cores=1"
PROGRAMS = {
    "u8s8": ("uint8", "int8", "int32", "x86.vpdpbusd"),
    "s8s8": ("int8", "int8", "int32", "x86.vpdpbusd"),
    "bf16": ("bfloat16", "bfloat16", "float32", "x86.vdpbf16ps"),
}
_CHAINS, _STEPS = 16, 200_000

_PEER = """
import json, sys, time, torch
torch.set_num_threads(1)
size, kind = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
if kind == "bf16":
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    f = torch.matmul
else:
    a, b = (torch.randint(-128, 128, (size, size), dtype=torch.int8) for _ in range(2))
    f = torch._int_mm
    assert torch.equal(f(a, b).double(), a.double() @ b.double())
f(a, b)
print(json.dumps(torch.__version__), flush=True)
for line in sys.stdin:
    f(a, b)
    times = []
    for _ in range(int(line)):
        start = time.perf_counter()
        f(a, b)
        times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)
"""


def matmul(size: int, kind: str) -> PrimFunc:
    """C = A @ B, all of them square."""
    a, b, c, _ = PROGRAMS[kind]
    from gputune.script import from_source

    shape = f"({size}, {size})"
    func = from_source(f"""
@T.prim_func
def matmul(A: T.Buffer({shape}, "{a}"), B: T.Buffer({shape}, "{b}"), C: T.Buffer({shape}, "{c}")):
    for i, j, k in T.grid({size}, {size}, {size}):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.cast(0, "{c}")
            C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "{c}") * T.cast(B[vk, vj], "{c}")
""")
    assert isinstance(func, PrimFunc)
    return func


def peak(name: str) -> float:
    """Operations a second of one instruction, nothing else in the way."""
    op = VECTOR[name]
    kinds = {"int32": "i32", "float32": "float", "uint8": "i8", "int8": "i8", "bfloat16": "bfloat"}

    def kind(dtype: str) -> str:
        element, _, lanes = dtype.partition("x")
        return f"<{lanes} x {kinds[element]}>"

    c, a, b = (kind(x) for x in op.args)
    add = "fadd" if "float" in c else "add"
    chains = range(_CHAINS)
    text = [f"declare {c} @{op.llvm}({c}, {a}, {b})", "define void @f(ptr %p) {", "entry:"]
    text += [f"%x = load {a}, ptr %p, align 64", f"%y = load {b}, ptr %p, align 64", "br label %l"]
    text += ["l:", "%i = phi i64 [0, %entry], [%j, %l]"]
    text += [f"%a{k} = phi {c} [zeroinitializer, %entry], [%n{k}, %l]" for k in chains]
    text += [f"%n{k} = call {c} @{op.llvm}({c} %a{k}, {a} %x, {b} %y)" for k in chains]
    text += ["%j = add i64 %i, 1", f"%go = icmp ult i64 %j, {_STEPS}"]
    text += ["br i1 %go, label %l, label %out", "out:"]
    text += [f"%s0 = {add} {c} %n0, zeroinitializer"]
    text += [f"%s{k} = {add} {c} %s{k - 1}, %n{k}" for k in chains[1:]]
    text += [f"store {c} %s{_CHAINS - 1}, ptr %p", "ret void", "}"]
    llvm = jit.binding()
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=1
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly("\n".join(text)), machine)
    engine.finalize_object()
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("f"))
    data = np.asarray(ndarray.array(np.zeros(4096, np.uint8)))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        run(data.ctypes.data)
        times.append(time.perf_counter() - start)
    products = int(op.args[1].partition("x")[2])
    return 2.0 * products * _CHAINS * _STEPS / min(times)


def arguments(size: int, kind: str) -> list[Any]:
    """Operands, and the product as NumPy has it."""
    rng = np.random.default_rng(0)
    out = []
    for dtype in PROGRAMS[kind][:2]:
        if dtype == "bfloat16":
            out.append(rng.standard_normal((size, size)).astype(ml_dtypes.bfloat16))
        else:
            lo, hi = np.iinfo(dtype).min, np.iinfo(dtype).max
            out.append(rng.integers(lo, hi, (size, size), endpoint=True).astype(dtype))
    want = out[0].astype(np.float64) @ out[1].astype(np.float64)
    return [*[ndarray.array(x) for x in out], want]


class Torch:
    """torch in a process of its own, which runs when it is asked to."""

    def __init__(self, python: str, size: int, kind: str) -> None:
        self.process = subprocess.Popen(
            [python, "-c", _PEER, str(size), kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.version = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("bench/intrinsics.py: the peer ended; --torch names a Python with it")
        return json.loads(line)

    def times(self, count: int) -> list[float]:
        """Seconds of so many calls, after one that is not counted."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        found: list[float] = self._answer()
        return found

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def one(kind: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """All figures of one program, tuned from one seed."""
    func = matmul(given.size, kind)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = ms.tune_tir(func, TARGET, folder, given.trials, num_trials_per_iter=16, seed=seed)
        tuning = time.perf_counter() - start
    kernel = build(result.mod, TARGET)["matmul"]
    a, b, want = arguments(given.size, kind)
    c = ndarray.array(np.zeros((given.size, given.size), PROGRAMS[kind][2]))
    kernel(a, b, c)
    near = 1e-5 * np.sqrt(given.size) * np.abs(want).max() if kind == "bf16" else 0.0
    assert np.abs(np.asarray(c) - want).max() <= near
    peer = Torch(given.torch, given.size, kind)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(given.rounds):
        kernel(a, b, c)
        for _ in range(8):
            start = time.perf_counter()
            kernel(a, b, c)
            ours.append(time.perf_counter() - start)
        theirs += peer.times(8)
    peer.close()
    flops = 2.0 * given.size**3
    return {
        "bench": "intrinsics", "program": kind, "size": given.size, "trials": given.trials,
        "seed": seed, "seconds": median(ours), "torch_s": median(theirs),
        "peak": peak(PROGRAMS[kind][3]), "flops": flops, "tuning_s": tuning,
        "instruction": PROGRAMS[kind][3] in result.mod.script(),
        "cpu": gt.Target(TARGET).device_key, "torch": peer.version, "gputune": gt.__version__,
    }  # fmt: skip


def main() -> int:
    """Print a line for each program and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--only", default="")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(
        "program seed tuned ms  torch ms  torch/tuned  of peak  instruction  tuning s", flush=True
    )
    for kind in [x for x in given.only.split(",") if x] or list(PROGRAMS):
        ratios = []
        for seed in map(int, given.seeds.split(",")):
            r = one(kind, seed, given)
            ratios.append(r["torch_s"] / r["seconds"])
            share = r["flops"] / r["seconds"] / r["peak"]
            print(
                f"{kind:7}{seed:5}{r['seconds'] * 1e3:9.2f}{r['torch_s'] * 1e3:10.2f}"
                f"{ratios[-1]:13.2f}{share:9.2f}"
                f"{'yes' if r['instruction'] else 'no':>13}{r['tuning_s']:10.1f}",
                flush=True,
            )
            if given.json:
                with given.json.open("a") as f:
                    f.write(json.dumps(r) + "\n")
        if len(ratios) > 1:
            print(f"{kind:7}median {median(ratios):.2f}, worst {min(ratios):.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
