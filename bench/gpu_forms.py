"""How are the operators of the GPU bench written in torch and in CuPy? What must they give?

Each form is a function of tensors; what has to be arranged for it (channels first, labels as torch
wants them) is arranged beforehand and outside the timing. References are computed in float64 on the
device by torch's form; that the forms say what the operators of the library say is tested, against
NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import libraries_forms
from gpu_cells import Cell
from libraries_forms import TorchForm

from gputune.ir.build import const_int
from gputune.kernels.fused import KEPT
from gputune.kernels.rows import EPSILON

PRODUCTS = ("matmul", "linear", "gemv", "batch_matmul", "transpose_batch_matmul")
SUMS = ("row_sum", "column_sum", "total_sum", "axis_sum")
MOVES = ("transpose", "batch_transpose", "row_max", "column_max", "axis_max")
ARGMAX = ("argmax", "axis_argmax")
_BY_ROWS = (
    "softmax", "log_softmax", "cross_entropy", "layernorm", "rmsnorm", "add_rmsnorm", "silu_mul",
    "bias_gelu_mask", "gelu", "add_mul", "bias_relu", "row_sum", "row_max", "argmax", "axis_sum",
    "axis_max", "axis_argmax", "batch_transpose", "batch_matmul",
)  # fmt: skip
"""What may be checked some rows at a time: every input but `_WHOLE` has as many."""
_WHOLE = ("gamma", "beta", "b")
_CHUNK = 1 << 26  # elements of a tensor that are checked at a time
_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_ACC_EPS = 2.0**-23


# ----------------------------------------------------------------------------- torch
def torch_forms(torch: Any, cell: Cell, x: Sequence[Any]) -> dict[str, TorchForm]:
    """The operator in torch, by the name of the layout ("plain" where there is one only).

    Args:
        x: the inputs in the kernel's order and layout.
    """
    simple = _simple(torch, cell)
    if simple is None:
        return libraries_forms.torch_forms(torch, cell.operator, x)
    if cell.kernel == "cross_entropy":
        x = (x[0], x[1].long())
    return {"plain": TorchForm(simple, tuple(x))}


def _simple(torch: Any, cell: Cell) -> Callable[..., Any] | None:
    f = torch.nn.functional
    size = (cell.full.get("n", 0),)
    relu, gelu = torch.relu, f.gelu
    table: dict[str, Callable[..., Any]] = {
        "matmul": lambda a, b: torch.mm(a, b),
        "linear": lambda a, w: f.linear(a, w),
        "gemv": lambda a, v: torch.mv(a, v),
        "batch_matmul": lambda a, b: torch.bmm(a, b),
        "softmax": lambda a: torch.softmax(a, 1),
        "log_softmax": lambda a: torch.log_softmax(a, 1),
        "cross_entropy": lambda a, label: f.cross_entropy(a, label, reduction="none"),
        "layernorm": lambda a, g, b: f.layer_norm(a, size, g, b, eps=EPSILON),
        "rmsnorm": lambda a, g: f.rms_norm(a, size, g, eps=EPSILON),
        "add_rmsnorm": lambda a, r, g: (s := a + r, f.rms_norm(s, size, g, eps=EPSILON)),
        "row_sum": lambda a: a.sum(1),
        "column_sum": lambda a: a.sum(0),
        "total_sum": lambda a: a.sum().reshape(1),
        "total_mean": lambda a: a.mean().reshape(1),
        "row_max": lambda a: a.amax(1),
        "column_max": lambda a: a.amax(0),
        "axis_sum": lambda a: a.sum(1),
        "axis_max": lambda a: a.amax(1),
        "argmax": lambda a: a.max(1)[::-1],
        "axis_argmax": lambda a: a.max(1)[::-1],
        "transpose": lambda a: a.t().contiguous(),
        "batch_transpose": lambda a: a.transpose(1, 2).contiguous(),
        "silu_mul": lambda a, z: f.silu(a) * z,
        "bias_gelu_mask": lambda a, b, m: torch.where(
            m != 0, gelu(a + b, approximate="tanh") * (1.0 / KEPT), 0.0
        ),
        "gelu": lambda a: gelu(a, approximate="tanh"),
        "add_mul": lambda a, b, c: (a + b) * c - a,
        "bias_relu": lambda a, b: relu(a + b),
        "jacobi2d": lambda a: (
            0.25 * (a[:-2, 1:-1] + a[2:, 1:-1] + a[1:-1, :-2] + a[1:-1, 2:])
        ),
    }  # fmt: skip
    return table.get(cell.kernel)


# ----------------------------------------------------------------------------- CuPy
def cupy_calls(xp: Any, cell: Cell, x: Sequence[Any], out: Any) -> Iterator[Callable[[], Any]]:
    """The operator in CuPy, writing to `out`; nothing where CuPy has no function for it.

    Args:
        xp: CuPy; NumPy will do for what is no kernel of one's own.
        x: the inputs as its arrays.
    """
    match cell.kernel:
        case "matmul" | "batch_matmul" | "gemv":
            yield lambda: xp.matmul(x[0], x[1], out=out)
        case "linear":
            yield lambda: xp.matmul(x[0], x[1].T, out=out)
        case "row_sum" | "axis_sum":
            yield lambda: xp.sum(x[0], axis=1, out=out)
        case "column_sum":
            yield lambda: xp.sum(x[0], axis=0, out=out)
        case "total_sum":
            yield lambda: xp.sum(x[0], out=out.reshape(()))
        case "row_max" | "axis_max":
            yield lambda: xp.max(x[0], axis=1, out=out)
        case "column_max":
            yield lambda: xp.max(x[0], axis=0, out=out)
        case "transpose":
            yield lambda: xp.copyto(out, x[0].T)
        case "batch_transpose":
            yield lambda: xp.copyto(out, x[0].transpose(0, 2, 1))
        case "add_mul" if hasattr(xp, "ElementwiseKernel"):
            chain = xp.ElementwiseKernel("T a, T b, T c", "T y", "y = (a + b) * c - a", "add_mul")
            yield lambda: chain(x[0], x[1], x[2], out)
        case "silu_mul" if hasattr(xp, "ElementwiseKernel"):
            gate = xp.ElementwiseKernel("T a, T z", "T y", "y = a / (1 + exp(-a)) * z", "silu_mul")
            yield lambda: gate(x[0], x[1], out)


# ----------------------------------------------------------------------------- inputs
def fresh(torch: Any, cell: Cell, place: str, seed: int) -> list[Any]:
    """A tensor for each parameter: inputs uniform in [-1, 1] (never zeros, which cost less power),
    labels among the columns, masks of 0 and 1; outputs poisoned."""
    generator = torch.Generator(device=place).manual_seed(seed)
    out = []
    kernel = cell.operator
    for buffer in kernel.build(dtype=cell.dtype).buffers:
        size = [const_int(n) or 0 for n in buffer.shape]
        x = torch.empty(size, dtype=getattr(torch, buffer.dtype), device=place)
        if buffer.name in kernel.outputs:
            poison(torch, x)
        elif buffer.name == "label":
            x.random_(0, cell.full["n"], generator=generator)
        elif not x.is_floating_point():
            x.random_(0, 2, generator=generator)
        else:
            x.uniform_(-1, 1, generator=generator)
        out.append(x)
    return out


def poison(torch: Any, x: Any) -> None:
    """Fill with what nothing computes."""
    x.fill_(math.nan if x.is_floating_point() else torch.iinfo(x.dtype).max)


def is_output(cell: Cell) -> list[bool]:
    """For each parameter."""
    kernel = cell.operator
    return [b.name in kernel.outputs for b in kernel.build(dtype=cell.dtype).buffers]


def traffic(cell: Cell) -> tuple[int, int]:
    """Bytes that must be read and written at least once."""
    from gputune.ir import dtypes

    read = written = 0
    kernel = cell.operator
    for b in kernel.build(dtype=cell.dtype).buffers:
        size = math.prod(const_int(n) or 0 for n in b.shape) * dtypes.itemsize(b.dtype)
        if b.name in kernel.outputs:
            written += size
        else:
            read += size
    return read, written


# ----------------------------------------------------------------------------- what is right
class Oracle:
    """What the outputs of a cell must be, in float64, and how far from it they may lie.

    Args:
        tensors: for each parameter; only inputs are read. Checks compute the reference again, some
            rows at a time where it is large.
    """

    def __init__(self, torch: Any, cell: Cell, tensors: Sequence[Any]) -> None:
        self.torch, self.cell = torch, cell
        kernel = cell.operator
        buffers = kernel.build(dtype=cell.dtype).buffers
        self._names = [b.name for b in buffers if b.name not in kernel.outputs]
        self._inputs = [
            x for x, b in zip(tensors, buffers, strict=True) if b.name not in kernel.outputs
        ]
        self._shapes = [
            tuple(const_int(n) or 0 for n in b.shape) for b in buffers if b.name in kernel.outputs
        ]
        self._terms = terms(cell)

    def problem(self, outputs: Sequence[Any]) -> str | None:
        """What is wrong with outputs, or None."""
        if len(outputs) != len(self._shapes):
            return f"{len(outputs)} outputs, not {len(self._shapes)}"
        for got, shape in zip(outputs, self._shapes, strict=True):
            if tuple(got.shape) != shape:
                return f"an output of shape {tuple(got.shape)}, not {shape}"
        for rows in self._chunks():
            inputs = [
                x if rows is None or n in _WHOLE else x[rows]
                for n, x in zip(self._names, self._inputs)
            ]
            found = [x if rows is None else x[rows] for x in outputs]
            problem = self._wrong(inputs, found)
            if problem is not None:
                return problem if rows is None else f"rows from {rows.start}: {problem}"
        return None

    def _chunks(self) -> list[slice | None]:
        largest = max(x.numel() for x in self._inputs)
        if self.cell.kernel not in _BY_ROWS or largest <= _CHUNK:
            return [None]
        rows = self._inputs[0].shape[0]
        step = max(1, rows * _CHUNK // largest)
        return [slice(at, min(rows, at + step)) for at in range(0, rows, step)]

    def _wrong(self, inputs: Sequence[Any], found: Sequence[Any]) -> str | None:
        torch, kernel = self.torch, self.cell.kernel
        if kernel in ARGMAX:
            return self._wrong_place(inputs[0], *found)
        wide = [x.double() if x.is_floating_point() else x for x in inputs]
        form = next(iter(torch_forms(torch, self.cell, wide).values()))
        searched, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        try:
            expected = form.function(*form.tensors)
        finally:
            torch.backends.cudnn.benchmark = searched
        for got, want in zip(found, expected if isinstance(expected, tuple) else (expected,)):
            error = (got.double() - want).abs()
            bad = ~(error <= self._allowed(got, want))  # NaN is not below anything
            count = int(bad.sum())
            if count:
                at = int(torch.where(bad, error.nan_to_num(math.inf), -1.0).argmax())
                return (
                    f"{count} of {bad.numel()} elements differ, worst: found "
                    f"{float(got.reshape(-1)[at]):.6g}, expected {float(want.reshape(-1)[at]):.6g}"
                )
        return None

    def _allowed(self, got: Any, want: Any) -> Any:
        """Errors of rounding: of the result, and of the sums it comes from."""
        if self.cell.kernel in MOVES:
            return want.new_zeros(())
        eps = _EPS[str(got.dtype).removeprefix("torch.")]
        rms = float((want * want).mean().sqrt())
        usual = 0.3 * math.sqrt(self._terms) if self.cell.kernel in (*PRODUCTS, *SUMS) else 0.0
        of_sums = 8 * _ACC_EPS * math.sqrt(self._terms) * max(rms, usual)
        return 4 * eps * (want.abs() + rms) + of_sums

    def _wrong_place(self, x: Any, index: Any, value: Any) -> str | None:
        """Any place that holds the maximum is right: ties may be broken in any way."""
        best = x.amax(1)
        if not bool((value == best).all()):
            return f"{int((value != best).sum())} maxima differ"
        inside = (index >= 0) & (index < x.shape[1])
        at = self.torch.where(inside, index, 0).long()
        there = x.gather(1, at.unsqueeze(1)).squeeze(1)
        wrong = ~inside | (there != best)
        return f"{int(wrong.sum())} indices hold no maximum" if bool(wrong.any()) else None


def terms(cell: Cell) -> int:
    """How many terms the longest sum of the operator has: its errors grow with the square root."""
    s = cell.full
    if cell.kernel in PRODUCTS:
        return s["k"] if "k" in s else s["dim"]
    if "kernel" in s:
        kernel = cell.operator
        (output,) = [b for b in kernel.build().buffers if b.name in kernel.outputs]
        results = math.prod(const_int(n) or 0 for n in output.shape)
        return max(1, kernel.flops(**s) // (2 * results))
    lengths: Mapping[str, int] = {
        "column_sum": s.get("m", 1), "total_sum": s.get("m", 1) * s.get("n", 1),
        "total_mean": s.get("m", 1) * s.get("n", 1),
    }  # fmt: skip
    if cell.kernel in lengths:
        return lengths[cell.kernel]
    return s.get("size", s.get("n", 1))
