"""Pooling: what is the greatest, or the mean, of every window of an image?"""

from __future__ import annotations

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import FLOATS, Array, Kernel, table
from .windows import check_window, out_size, pad_spatial, windows


def _max_pool2d(
    n: int,
    h: int,
    w: int,
    c: int,
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
    def max_pool2d(X: T.Buffer((n, h, w, c), dtype), Y: T.Buffer((n, oh, ow, c), dtype)):
        P = T.alloc_buffer((n, ph, pw, c), dtype)
        for b, y, x, k in T.grid(n, ph, pw, c):
            with T.block("P"):
                vb, vy, vx, vk = T.axis.remap("SSSS", [b, y, x, k])
                P[vb, vy, vx, vk] = T.if_then_else(
                    padding <= vy and vy < h + padding and padding <= vx and vx < w + padding,
                    X[vb, vy - padding, vx - padding, vk],
                    T.min_value(dtype),
                )
        for b, y, x, k, ry, rx in T.grid(n, oh, ow, c, kernel, kernel):
            with T.block("Y"):
                vb, vy, vx, vk, vry, vrx = T.axis.remap("SSSSRR", [b, y, x, k, ry, rx])
                with T.init():
                    Y[vb, vy, vx, vk] = T.min_value(dtype)
                Y[vb, vy, vx, vk] = T.max(
                    Y[vb, vy, vx, vk], P[vb, vy * stride + vry, vx * stride + vrx, vk]
                )

    return max_pool2d


def _avg_pool2d(
    n: int,
    h: int,
    w: int,
    c: int,
    kernel: int,
    stride: int,
    padding: int,
    dtype: str,
    acc: str,
    out: str,
) -> PrimFunc:
    oh, ow = out_size(h, kernel, stride, padding), out_size(w, kernel, stride, padding)
    ph, pw = h + 2 * padding, w + 2 * padding
    area = kernel * kernel  # zeros of the padding count, as in the frameworks' default

    @T.prim_func
    def avg_pool2d(X: T.Buffer((n, h, w, c), dtype), Y: T.Buffer((n, oh, ow, c), out)):
        P = T.alloc_buffer((n, ph, pw, c), dtype)
        S = T.alloc_buffer((n, oh, ow, c), acc)
        for b, y, x, k in T.grid(n, ph, pw, c):
            with T.block("P"):
                vb, vy, vx, vk = T.axis.remap("SSSS", [b, y, x, k])
                P[vb, vy, vx, vk] = T.if_then_else(
                    padding <= vy and vy < h + padding and padding <= vx and vx < w + padding,
                    X[vb, vy - padding, vx - padding, vk],
                    0,
                )
        for b, y, x, k, ry, rx in T.grid(n, oh, ow, c, kernel, kernel):
            with T.block("S"):
                vb, vy, vx, vk, vry, vrx = T.axis.remap("SSSSRR", [b, y, x, k, ry, rx])
                with T.init():
                    S[vb, vy, vx, vk] = 0
                S[vb, vy, vx, vk] = S[vb, vy, vx, vk] + T.Cast(
                    acc, P[vb, vy * stride + vry, vx * stride + vrx, vk]
                )
        for b, y, x, k in T.grid(n, oh, ow, c):
            with T.block("Y"):
                vb, vy, vx, vk = T.axis.remap("SSSS", [b, y, x, k])
                Y[vb, vy, vx, vk] = T.Cast(out, S[vb, vy, vx, vk] / area)

    return avg_pool2d


# ----------------------------------------------------------------------------- references
def _max_reference(
    x: Array, /, *, kernel: int, stride: int, padding: int, **_: int
) -> tuple[Array, ...]:
    low = x.min()  # no window lies in the padding alone, so this never wins
    return (windows(pad_spatial(x, padding, low), kernel, stride).max(axis=(-2, -1)),)


def _avg_reference(
    x: Array, /, *, kernel: int, stride: int, padding: int, **_: int
) -> tuple[Array, ...]:
    return (windows(pad_spatial(x, padding), kernel, stride).mean(axis=(-2, -1)),)


def _check(**shape: int) -> str | None:
    if shape["padding"] >= shape["kernel"]:
        return f"padding {shape['padding']} is not less than kernel {shape['kernel']}"
    return check_window(**shape)


def _places(n: int, h: int, w: int, c: int, kernel: int, stride: int, padding: int) -> int:
    return n * c * out_size(h, kernel, stride, padding) * out_size(w, kernel, stride, padding)


_SHAPE = {"n": 1, "h": 112, "w": 112, "c": 64, "kernel": 3, "stride": 2, "padding": 1}
_CHECKS = (
    {"n": 1, "h": 6, "w": 6, "c": 4, "kernel": 2, "stride": 2, "padding": 0},
    {"n": 2, "h": 7, "w": 5, "c": 3, "kernel": 3, "stride": 2, "padding": 1},
    {"n": 1, "h": 2, "w": 1000, "c": 1, "kernel": 2, "stride": 2, "padding": 0},
    {"n": 1, "h": 1, "w": 33, "c": 1, "kernel": 3, "stride": 1, "padding": 2},
)

KERNELS = table(
    Kernel("max_pool2d", _max_pool2d, _max_reference, ("Y",), _SHAPE, _CHECKS,
           lambda kernel, **s: _places(kernel=kernel, **s) * kernel**2,
           accumulates=False, check=_check, zeros=("padding",)),
    Kernel("avg_pool2d", _avg_pool2d, _avg_reference, ("Y",), _SHAPE, _CHECKS,
           lambda kernel, **s: _places(kernel=kernel, **s) * (kernel**2 + 1),
           dtypes=FLOATS, exact=False, check=_check, zeros=("padding",)),
)  # fmt: skip
