"""Convolutions of other kinds: depthwise, transposed, capsule, and one with an epilogue."""

from __future__ import annotations

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import FLOATS, PRODUCTS, Array, Kernel, table
from .narrow import narrow
from .windows import check_window, conv_reference, out_size, pad_spatial, windows


def _depthwise(
    n: int,
    h: int,
    w: int,
    c: int,
    factor: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    dtype: str,
    acc: str,
    out: str,
) -> PrimFunc:
    oh = out_size(h, kernel, stride, padding, dilation)
    ow = out_size(w, kernel, stride, padding, dilation)
    ph, pw = h + 2 * padding, w + 2 * padding
    co = c * factor

    @T.prim_func
    def depthwise_conv2d(
        X: T.Buffer((n, h, w, c), dtype),
        W: T.Buffer((kernel, kernel, c, factor), dtype),
        Y: T.Buffer((n, oh, ow, co), acc),
    ):
        P = T.alloc_buffer((n, ph, pw, c), dtype)
        for b, y, x, k in T.grid(n, ph, pw, c):
            with T.block("P"):
                vb, vy, vx, vk = T.axis.remap("SSSS", [b, y, x, k])
                P[vb, vy, vx, vk] = T.if_then_else(
                    padding <= vy and vy < h + padding and padding <= vx and vx < w + padding,
                    X[vb, vy - padding, vx - padding, vk],
                    0,
                )
        for b, y, x, f, ry, rx in T.grid(n, oh, ow, co, kernel, kernel):
            with T.block("Y"):
                vb, vy, vx, vf, vry, vrx = T.axis.remap("SSSSRR", [b, y, x, f, ry, rx])
                with T.init():
                    Y[vb, vy, vx, vf] = 0
                Y[vb, vy, vx, vf] = Y[vb, vy, vx, vf] + T.Cast(
                    acc,
                    P[vb, vy * stride + vry * dilation, vx * stride + vrx * dilation, vf // factor],
                ) * T.Cast(acc, W[vry, vrx, vf // factor, vf % factor])

    return narrow(depthwise_conv2d, "Y", out)


def _transposed(
    n: int,
    h: int,
    w: int,
    ci: int,
    co: int,
    kernel: int,
    stride: int,
    padding: int,
    dtype: str,
    acc: str,
    out: str,
) -> PrimFunc:
    oh, ow = _grown(h, kernel, stride, padding), _grown(w, kernel, stride, padding)
    # zeros between the elements and around them, so that a plain convolution with the flipped
    # kernel gives the result; lowering folds the conditions and skips the zeros
    edge = kernel - 1 - padding
    ph, pw = oh + kernel - 1, ow + kernel - 1
    last = kernel - 1

    @T.prim_func
    def conv2d_transpose(
        X: T.Buffer((n, h, w, ci), dtype),
        W: T.Buffer((kernel, kernel, ci, co), dtype),
        Y: T.Buffer((n, oh, ow, co), acc),
    ):
        P = T.alloc_buffer((n, ph, pw, ci), dtype)
        for b, y, x, c in T.grid(n, ph, pw, ci):
            with T.block("P"):
                vb, vy, vx, vc = T.axis.remap("SSSS", [b, y, x, c])
                P[vb, vy, vx, vc] = T.if_then_else(
                    edge <= vy
                    and vy < edge + (h - 1) * stride + 1
                    and (vy - edge) % stride == 0
                    and edge <= vx
                    and vx < edge + (w - 1) * stride + 1
                    and (vx - edge) % stride == 0,
                    X[vb, (vy - edge) // stride, (vx - edge) // stride, vc],
                    0,
                )
        for b, y, x, f, ry, rx, rc in T.grid(n, oh, ow, co, kernel, kernel, ci):
            with T.block("Y"):
                vb, vy, vx, vf, vry, vrx, vrc = T.axis.remap("SSSSRRR", [b, y, x, f, ry, rx, rc])
                with T.init():
                    Y[vb, vy, vx, vf] = 0
                Y[vb, vy, vx, vf] = Y[vb, vy, vx, vf] + T.Cast(
                    acc, P[vb, vy + vry, vx + vrx, vrc]
                ) * T.Cast(acc, W[last - vry, last - vrx, vrc, vf])

    return narrow(conv2d_transpose, "Y", out)


def _capsule(
    n: int,
    h: int,
    w: int,
    ci: int,
    co: int,
    kernel: int,
    stride: int,
    padding: int,
    capsule: int,
    dtype: str,
    acc: str,
    out: str,
) -> PrimFunc:
    oh, ow = out_size(h, kernel, stride, padding), out_size(w, kernel, stride, padding)
    ph, pw = h + 2 * padding, w + 2 * padding
    q = capsule

    @T.prim_func
    def conv2d_capsule(
        X: T.Buffer((n, h, w, q, q, ci), dtype),
        W: T.Buffer((kernel, kernel, q, q, ci, co), dtype),
        Y: T.Buffer((n, oh, ow, q, q, co), acc),
    ):
        P = T.alloc_buffer((n, ph, pw, q, q, ci), dtype)
        for b, y, x, i, j, c in T.grid(n, ph, pw, q, q, ci):
            with T.block("P"):
                vb, vy, vx, vi, vj, vc = T.axis.remap("SSSSSS", [b, y, x, i, j, c])
                P[vb, vy, vx, vi, vj, vc] = T.if_then_else(
                    padding <= vy and vy < h + padding and padding <= vx and vx < w + padding,
                    X[vb, vy - padding, vx - padding, vi, vj, vc],
                    0,
                )
        for b, y, x, i, j, f, ry, rx, rq, rc in T.grid(n, oh, ow, q, q, co, kernel, kernel, q, ci):
            with T.block("Y"):
                vb, vy, vx, vi, vj, vf, vry, vrx, vrq, vrc = T.axis.remap(
                    "SSSSSSRRRR", [b, y, x, i, j, f, ry, rx, rq, rc]
                )
                with T.init():
                    Y[vb, vy, vx, vi, vj, vf] = 0
                Y[vb, vy, vx, vi, vj, vf] = Y[vb, vy, vx, vi, vj, vf] + T.Cast(
                    acc, P[vb, vy * stride + vry, vx * stride + vrx, vi, vrq, vrc]
                ) * T.Cast(acc, W[vry, vrx, vrq, vj, vrc, vf])

    return narrow(conv2d_capsule, "Y", out)


def _bn_relu(
    n: int,
    h: int,
    w: int,
    ci: int,
    co: int,
    kernel: int,
    stride: int,
    padding: int,
    dtype: str,
    acc: str,
    out: str,
) -> PrimFunc:
    oh, ow = out_size(h, kernel, stride, padding), out_size(w, kernel, stride, padding)
    ph, pw = h + 2 * padding, w + 2 * padding

    @T.prim_func
    def conv2d_bn_relu(
        X: T.Buffer((n, h, w, ci), dtype),
        W: T.Buffer((kernel, kernel, ci, co), dtype),
        bias: T.Buffer((co,), dtype),
        scale: T.Buffer((co,), dtype),
        shift: T.Buffer((co,), dtype),
        Z: T.Buffer((n, oh, ow, co), out),
    ):
        P = T.alloc_buffer((n, ph, pw, ci), dtype)
        Y = T.alloc_buffer((n, oh, ow, co), acc)
        for b, y, x, c in T.grid(n, ph, pw, ci):
            with T.block("P"):
                vb, vy, vx, vc = T.axis.remap("SSSS", [b, y, x, c])
                P[vb, vy, vx, vc] = T.if_then_else(
                    padding <= vy and vy < h + padding and padding <= vx and vx < w + padding,
                    X[vb, vy - padding, vx - padding, vc],
                    0,
                )
        for b, y, x, f, ry, rx, rc in T.grid(n, oh, ow, co, kernel, kernel, ci):
            with T.block("Y"):
                vb, vy, vx, vf, vry, vrx, vrc = T.axis.remap("SSSSRRR", [b, y, x, f, ry, rx, rc])
                with T.init():
                    Y[vb, vy, vx, vf] = 0
                Y[vb, vy, vx, vf] = Y[vb, vy, vx, vf] + T.Cast(
                    acc, P[vb, vy * stride + vry, vx * stride + vrx, vrc]
                ) * T.Cast(acc, W[vry, vrx, vrc, vf])
        for b, y, x, f in T.grid(n, oh, ow, co):
            with T.block("Z"):
                vb, vy, vx, vf = T.axis.remap("SSSS", [b, y, x, f])
                Z[vb, vy, vx, vf] = T.Cast(
                    out,
                    T.max(
                        (Y[vb, vy, vx, vf] + T.Cast(acc, bias[vf])) * T.Cast(acc, scale[vf])
                        + T.Cast(acc, shift[vf]),
                        0,
                    ),
                )

    return conv2d_bn_relu


def _grown(size: int, kernel: int, stride: int, padding: int) -> int:
    """Positions of a transposed convolution along one axis."""
    return (size - 1) * stride - 2 * padding + kernel


# ----------------------------------------------------------------------------- references
def _depthwise_reference(
    x: Array, w: Array, /, *, kernel: int, stride: int, padding: int, dilation: int, **_: int
) -> tuple[Array, ...]:
    view = windows(
        pad_spatial(x, padding), kernel, stride, dilation
    )  # n, oh, ow, c, kernel, kernel
    y = np.zeros((*view.shape[:4], w.shape[3]), x.dtype)
    for i, j in np.ndindex(kernel, kernel):
        y += view[..., i, j, None] * w[i, j]
    return (y.reshape(*view.shape[:3], -1),)


def _transposed_reference(
    x: Array, w: Array, /, *, kernel: int, stride: int, padding: int, **_: int
) -> tuple[Array, ...]:
    n, h, width, _ci = x.shape
    full = np.zeros(
        (n, (h - 1) * stride + kernel, (width - 1) * stride + kernel, w.shape[3]), x.dtype
    )
    for i, j in np.ndindex(kernel, kernel):  # every element spreads the kernel over the result
        rows = slice(i, i + (h - 1) * stride + 1, stride)
        columns = slice(j, j + (width - 1) * stride + 1, stride)
        full[:, rows, columns] += x @ w[i, j]
    return (full[:, padding : full.shape[1] - padding, padding : full.shape[2] - padding],)


def _capsule_reference(
    x: Array, w: Array, /, *, kernel: int, stride: int, padding: int, **_: int
) -> tuple[Array, ...]:
    padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding), *[(0, 0)] * 3])
    oh, ow = (out_size(s, kernel, stride, padding) for s in x.shape[1:3])
    y: Array | None = None
    for i, j in np.ndindex(kernel, kernel):
        part = padded[:, i::stride, j::stride][:, :oh, :ow]  # n, oh, ow, i, q, c
        term = np.tensordot(part, w[i, j], axes=([4, 5], [0, 2]))  # w[i, j]: q, j, c, f
        y = term if y is None else y + term
    assert y is not None  # kernel >= 1
    return (y,)


def _bn_relu_reference(
    x: Array, w: Array, bias: Array, scale: Array, shift: Array, /, **shape: int
) -> tuple[Array, ...]:
    (y,) = conv_reference(x, w, **shape, dilation=1, groups=1)
    y = (y + bias) * scale + shift
    return (np.maximum(y, 0),)


# ----------------------------------------------------------------------------- sizes
def _check_transposed(kernel: int, stride: int, padding: int, **shape: int) -> str | None:
    if padding > kernel - 1:
        return f"padding {padding} is more than kernel - 1 = {kernel - 1}"
    for axis in ("h", "w"):
        if _grown(shape[axis], kernel, stride, padding) < 1:
            return f"nothing is left of {axis}={shape[axis]} with padding {padding}"
    return None


def _depthwise_flops(
    n: int,
    h: int,
    w: int,
    c: int,
    factor: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
) -> int:
    places = out_size(h, kernel, stride, padding, dilation)
    places *= out_size(w, kernel, stride, padding, dilation)
    return 2 * n * places * c * factor * kernel * kernel


def _transposed_flops(
    n: int, h: int, w: int, ci: int, co: int, kernel: int, stride: int, padding: int
) -> int:
    places = _grown(h, kernel, stride, padding) * _grown(w, kernel, stride, padding)
    return 2 * n * places * co * ci * kernel * kernel


def _capsule_flops(
    n: int, h: int, w: int, ci: int, co: int, kernel: int, stride: int, padding: int, capsule: int
) -> int:
    places = out_size(h, kernel, stride, padding) * out_size(w, kernel, stride, padding)
    return 2 * n * places * capsule**3 * co * ci * kernel * kernel


def _bn_relu_flops(
    n: int, h: int, w: int, ci: int, co: int, kernel: int, stride: int, padding: int
) -> int:
    places = out_size(h, kernel, stride, padding) * out_size(w, kernel, stride, padding)
    return n * places * co * (2 * ci * kernel * kernel + 4)


KERNELS = table(
    Kernel(
        "depthwise_conv2d",
        _depthwise,
        _depthwise_reference,
        outputs=("Y",),
        shapes={"n": 1, "h": 112, "w": 112, "c": 32, "factor": 1, "kernel": 3, "stride": 1,
                "padding": 1, "dilation": 1},
        check_shapes=(
            {"n": 1, "h": 6, "w": 6, "c": 4, "factor": 1, "kernel": 3, "stride": 1,
             "padding": 1, "dilation": 1},
            {"n": 2, "h": 7, "w": 9, "c": 3, "factor": 2, "kernel": 3, "stride": 2,
             "padding": 1, "dilation": 1},
            {"n": 1, "h": 33, "w": 1, "c": 2, "factor": 1, "kernel": 1, "stride": 1,
             "padding": 0, "dilation": 1},
            {"n": 1, "h": 1, "w": 1000, "c": 1, "factor": 2, "kernel": 3, "stride": 3,
             "padding": 1, "dilation": 1},
            {"n": 1, "h": 11, "w": 5, "c": 1, "factor": 3, "kernel": 2, "stride": 1,
             "padding": 1, "dilation": 3},
        ),
        flops=_depthwise_flops,
        dtypes=PRODUCTS,
        check=check_window,
        zeros=("padding",),
    ),
    Kernel(
        "conv2d_transpose",
        _transposed,
        _transposed_reference,
        outputs=("Y",),
        shapes={"n": 1, "h": 4, "w": 4, "ci": 512, "co": 256, "kernel": 4, "stride": 2,
                "padding": 1},
        check_shapes=(
            {"n": 1, "h": 3, "w": 3, "ci": 2, "co": 3, "kernel": 4, "stride": 2, "padding": 1},
            {"n": 2, "h": 5, "w": 1, "ci": 3, "co": 1, "kernel": 3, "stride": 3, "padding": 0},
            {"n": 1, "h": 33, "w": 1, "ci": 1, "co": 2, "kernel": 2, "stride": 2, "padding": 0},
            {"n": 1, "h": 1, "w": 1000, "ci": 1, "co": 1, "kernel": 2, "stride": 1, "padding": 0},
            {"n": 1, "h": 4, "w": 7, "ci": 1, "co": 2, "kernel": 3, "stride": 1, "padding": 2},
        ),
        flops=_transposed_flops,
        dtypes=PRODUCTS,
        check=_check_transposed,
        zeros=("padding",),
    ),
    Kernel(
        "conv2d_capsule",
        _capsule,
        _capsule_reference,
        outputs=("Y",),
        shapes={"n": 1, "h": 16, "w": 16, "ci": 32, "co": 32, "kernel": 3, "stride": 2,
                "padding": 1, "capsule": 4},
        check_shapes=(
            {"n": 1, "h": 4, "w": 4, "ci": 2, "co": 2, "kernel": 3, "stride": 2, "padding": 1,
             "capsule": 2},
            {"n": 1, "h": 1, "w": 33, "ci": 1, "co": 2, "kernel": 1, "stride": 1, "padding": 0,
             "capsule": 2},
            {"n": 1, "h": 1, "w": 1000, "ci": 1, "co": 1, "kernel": 3, "stride": 3, "padding": 1,
             "capsule": 1},
            {"n": 1, "h": 3, "w": 5, "ci": 1, "co": 3, "kernel": 2, "stride": 1, "padding": 0,
             "capsule": 3},
        ),
        flops=_capsule_flops,
        dtypes=PRODUCTS,
        check=check_window,
        zeros=("padding",),
    ),
    Kernel(
        "conv2d_bn_relu",
        _bn_relu,
        _bn_relu_reference,
        outputs=("Z",),
        shapes={"n": 1, "h": 56, "w": 56, "ci": 64, "co": 64, "kernel": 3, "stride": 1,
                "padding": 1},
        check_shapes=(
            {"n": 1, "h": 6, "w": 6, "ci": 2, "co": 3, "kernel": 3, "stride": 2, "padding": 1},
            {"n": 1, "h": 33, "w": 1, "ci": 1, "co": 2, "kernel": 1, "stride": 1, "padding": 0},
            {"n": 1, "h": 1, "w": 1000, "ci": 1, "co": 2, "kernel": 3, "stride": 3, "padding": 1},
            {"n": 2, "h": 5, "w": 7, "ci": 3, "co": 1, "kernel": 2, "stride": 1, "padding": 0},
        ),
        flops=_bn_relu_flops,
        dtypes=FLOATS,
        check=check_window,
        zeros=("padding",),
    ),
)  # fmt: skip
