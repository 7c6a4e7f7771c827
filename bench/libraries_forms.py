"""How does one write the operators of `bench/libraries.py` in NumPy and torch? What must they do?

Inputs have the kernel's layout (channels last). Torch gets each convolution in both layouts that it
knows, data and weights arranged beforehand and outside the timing; the faster one counts. Weights
are arguments, as in the kernel: nothing is folded or packed for a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gputune.kernels import KERNELS, SUITE, Kernel
from gputune.kernels.rows import EPSILON
from gputune.kernels.windows import out_size

Call = Callable[[], Any]

OPERATORS: Mapping[str, Kernel] = {
    **{name: KERNELS[name] for name in SUITE},
    "mm1024": KERNELS["matmul"].with_shapes("mm1024", m=1024, n=1024, k=1024),
    "dense": KERNELS["dense_bias_relu"].with_shapes("dense", m=1, n=128, k=784),
    "softmax": KERNELS["softmax"].with_shapes("softmax", m=1024, n=1024),
    "layernorm": KERNELS["layernorm"].with_shapes("layernorm", m=512, n=768),
}
"""The table of the bench: the suite, and what it lacks."""


def _square(m: int, n: int, k: int, name: str) -> Kernel:
    return KERNELS["matmul"].with_shapes(name, m=m, n=n, k=k)


SGEMM: Mapping[str, Kernel] = {
    **{f"mm{n}": _square(n, n, n, f"mm{n}") for n in (128, 256, 512, 1024, 127, 333)},
    "mm1000x1001x1003": _square(1000, 1001, 1003, "mm1000x1001x1003"),
}
"""Matrix products, among them odd ones."""

TWO_CORES: Mapping[str, Kernel] = {
    n: OPERATORS[n] for n in ("mm1024", "C2D", "GMM", "NRM", "dense", "SFM", "C1D")
}
"""Two that should gain from a second core, and small ones, which should not lose."""


def kind(kernel: Kernel) -> str:
    """The library's name of an operator that goes by another one here."""
    return next(n for n, k in KERNELS.items() if k.make is kernel.make and n not in SUITE)


# ----------------------------------------------------------------------------- what must be done
def _taps(size: int, positions: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Pairs of a position and a place of the window that lies inside the data."""
    return sum(
        0 <= p * stride + k * dilation - padding < size
        for p in range(positions)
        for k in range(kernel)
    )


def useful_flops(kernel: Kernel) -> int:
    """Operations of a run, without those on zeros that padding and transposition put in."""
    s = kernel.shape()
    total = kernel.flops(**s)
    if "kernel" not in s:
        return total
    k, stride, padding, dilation = s["kernel"], s["stride"], s["padding"], s.get("dilation", 1)
    for axis in ("d", "h", "w"):
        if axis not in s:
            continue
        if kind(kernel) == "conv2d_transpose":
            grown = (s[axis] - 1) * stride - 2 * padding + k
            share = _taps(grown, s[axis], k, stride, padding, 1) / (grown * k)
        else:
            out = out_size(s[axis], k, stride, padding, dilation)
            share = _taps(s[axis], out, k, stride, padding, dilation) / (out * k)
        total = round(total * share)
    return total


def traffic(kernel: Kernel) -> tuple[int, int]:
    """Bytes that must be read and written at least once."""
    read = written = 0
    for buffer, array in zip(kernel.build().buffers, kernel.arguments(), strict=True):
        if buffer.name in kernel.outputs:
            written += array.nbytes
        else:
            read += array.nbytes
    return read, written


# ----------------------------------------------------------------------------- NumPy
def numpy_call(kernel: Kernel, inputs: Sequence[Any]) -> Call:
    """The operator in NumPy, on float32."""
    if kind(kernel) == "matmul":
        a, b = inputs
        out = np.empty((a.shape[0], b.shape[1]), a.dtype)  # as the kernel has it: not allocated
        return lambda: np.matmul(a, b, out=out)
    if kind(kernel) == "norm":  # one BLAS product a matrix
        flat = inputs[0].reshape(len(inputs[0]), 1, -1)
        return lambda: np.sqrt(flat @ flat.transpose(0, 2, 1)).reshape(-1)
    shape = kernel.shape()
    return lambda: kernel.reference(*inputs, **shape)[0]


# ----------------------------------------------------------------------------- torch
@dataclass(frozen=True)
class TorchForm:
    """One way to write an operator: a function of tensors, whose result has the kernel's shape."""

    function: Callable[..., Any]
    tensors: tuple[Any, ...]


def torch_forms(torch: Any, kernel: Kernel, inputs: Sequence[Any]) -> dict[str, TorchForm]:
    """The operator in torch, by the name of the layout; "out" is not for torch.compile.

    Args:
        inputs: NumPy's arrays, or tensors wherever they are.
    """
    f = torch.nn.functional
    x = tuple(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in inputs)
    s = kernel.shape()
    match kind(kernel):
        case "matmul":
            out = torch.empty(s["m"], s["n"])
            # the result's memory is given, as the kernel has it; compiled code makes its own
            return _plain(torch.mm, x) | {"out": TorchForm(lambda a, b: torch.mm(a, b, out=out), x)}
        case "transpose_batch_matmul":
            return _plain(lambda q, k: q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1), x)
        case "norm":
            return _plain(lambda a: torch.linalg.vector_norm(a, dim=(1, 2)), x)
        case "softmax":
            return _plain(lambda a: torch.softmax(a, 1), x)
        case "dense_bias_relu":
            return _plain(lambda a, w, b: torch.relu(f.linear(a, w, b)), x)
        case "layernorm":
            size = (s["n"],)
            return _plain(lambda a, g, b: f.layer_norm(a, size, g, b, eps=EPSILON), x)
        case "conv2d_capsule":
            return {"plain": _capsule(torch, s, *x)}
        case "conv1d" | "conv2d" | "conv3d":
            window = {n: s[n] for n in ("stride", "padding", "dilation", "groups")}
            return _convs(torch, len(x[0].shape) - 2, x, window, lambda y: y, "conv")
        case "depthwise_conv2d":
            data, weight = x
            k = s["kernel"]
            window = {n: s[n] for n in ("stride", "padding", "dilation")}
            window["groups"] = s["c"]
            weight = weight.reshape(k, k, 1, -1)
            return _convs(torch, 2, (data, weight), window, lambda y: y, "conv")
        case "conv2d_bn_relu":
            data, weight, bias, scale, shift = x
            by_channel = (1, -1, 1, 1)
            scale, shift = scale.reshape(by_channel), shift.reshape(by_channel)
            window = {n: s[n] for n in ("stride", "padding")}
            return _convs(
                torch, 2, (data, weight, bias, scale, shift), window,
                lambda y, scale, shift: torch.relu(y * scale + shift), "conv",
            )  # fmt: skip
        case "conv2d_transpose":
            window = {n: s[n] for n in ("stride", "padding")}
            return _convs(torch, 2, x, window, lambda y: y, "conv_transpose")
    raise ValueError(f"kernel {kernel.name} has no form in torch here")


def _plain(function: Callable[..., Any], tensors: tuple[Any, ...]) -> dict[str, TorchForm]:
    return {"plain": TorchForm(function, tensors)}


def _convs(
    torch: Any,
    dims: int,
    x: tuple[Any, ...],
    window: Mapping[str, int],
    after: Callable[..., Any],
    word: str,
) -> dict[str, TorchForm]:
    """A convolution in torch's own layout and with channels last, then `after`.

    Args:
        x: data, weight as the kernel has them, perhaps a bias, and what `after` takes.
    """
    data, weight, *rest = x
    first = (0, dims + 1, *range(1, dims + 1))
    last = (0, *range(2, dims + 2), 1)
    spatial = range(dims)
    filters = weight.permute(
        (dims, dims + 1, *spatial) if word == "conv_transpose" else (dims + 1, dims, *spatial)
    )
    conv = getattr(torch.nn.functional, f"{word}{dims}d")

    def run(data: Any, filters: Any, *rest: Any) -> Any:
        bias = rest[0] if rest else None
        return after(conv(data, filters, bias, **window), *rest[1:]).permute(last)

    forms = {
        "channels first": TorchForm(
            run, (data.permute(first).contiguous(), filters.contiguous(), *rest)
        )
    }
    if dims == 1:  # torch has channels last for images only: an image of one row
        flat = {"stride": (1, window["stride"]), "padding": (0, window["padding"])}
        flat |= {"dilation": (1, window["dilation"]), "groups": window["groups"]}
        conv2d = torch.nn.functional.conv2d
        image = data.permute(first).unsqueeze(2)
        filters = filters.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        forms["channels last"] = TorchForm(
            lambda d, w: conv2d(d, w, None, **flat).squeeze(2).permute(last), (image, filters)
        )
        return forms
    memory = torch.channels_last if dims == 2 else torch.channels_last_3d
    forms["channels last"] = TorchForm(
        run, (data.permute(first), filters.contiguous(memory_format=memory), *rest)
    )
    return forms


def _capsule(torch: Any, s: Mapping[str, int], data: Any, weight: Any) -> TorchForm:
    """Rows of the capsules are images of a batch; their columns, channels."""
    q, k = s["capsule"], s["kernel"]
    conv2d = torch.nn.functional.conv2d
    filters = weight.permute(3, 5, 2, 4, 0, 1).reshape(q * s["co"], q * s["ci"], k, k)
    filters = filters.contiguous(memory_format=torch.channels_last)

    def run(data: Any, filters: Any) -> Any:
        n, h, w, rows, columns, ci = data.shape
        images = data.permute(0, 3, 4, 5, 1, 2).reshape(n * rows, columns * ci, h, w)
        y = conv2d(images, filters, None, s["stride"], s["padding"])
        y = y.reshape(n, rows, q, s["co"], *y.shape[2:])
        return y.permute(0, 4, 5, 1, 2, 3)

    return TorchForm(run, (data, filters))
