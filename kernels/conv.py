"""Convolutions over one, two and three dimensions, channels last, of every kind.

Data is (n, [d,] [h,] w, ci), weight (kernel, ..., ci / groups, co). Padding is a block of its own,
which schedules inline or cache. Conditions on sizes alone are decided when the script is parsed, so
that an ungrouped convolution has plain channel indices.
"""

from __future__ import annotations

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import PRODUCTS, Kernel, table
from .narrow import narrow
from .windows import check_conv, conv_reference, out_size


def _conv1d(
    n: int,
    w: int,
    ci: int,
    co: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    dtype: str,
    acc: str,
    out: str,
) -> PrimFunc:
    ow = out_size(w, kernel, stride, padding, dilation)
    pw = w + 2 * padding
    cg, fg = ci // groups, co // groups

    @T.prim_func
    def conv1d(
        X: T.Buffer((n, w, ci), dtype),
        W: T.Buffer((kernel, cg, co), dtype),
        Y: T.Buffer((n, ow, co), acc),
    ):
        P = T.alloc_buffer((n, pw, ci), dtype)
        for b, x, c in T.grid(n, pw, ci):
            with T.block("P"):
                vb, vx, vc = T.axis.remap("SSS", [b, x, c])
                P[vb, vx, vc] = T.if_then_else(
                    padding <= vx and vx < w + padding, X[vb, vx - padding, vc], 0
                )
        for b, x, f, rx, rc in T.grid(n, ow, co, kernel, cg):
            with T.block("Y"):
                vb, vx, vf, vrx, vrc = T.axis.remap("SSSRR", [b, x, f, rx, rc])
                with T.init():
                    Y[vb, vx, vf] = 0
                Y[vb, vx, vf] = Y[vb, vx, vf] + T.Cast(
                    acc,
                    P[
                        vb,
                        vx * stride + vrx * dilation,
                        vrc if groups == 1 else vf // fg * cg + vrc,
                    ],
                ) * T.Cast(acc, W[vrx, vrc, vf])

    return narrow(conv1d, "Y", out)


def _conv2d(
    n: int,
    h: int,
    w: int,
    ci: int,
    co: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    dtype: str,
    acc: str,
    out: str,
) -> PrimFunc:
    oh = out_size(h, kernel, stride, padding, dilation)
    ow = out_size(w, kernel, stride, padding, dilation)
    ph, pw = h + 2 * padding, w + 2 * padding
    cg, fg = ci // groups, co // groups

    @T.prim_func
    def conv2d(
        X: T.Buffer((n, h, w, ci), dtype),
        W: T.Buffer((kernel, kernel, cg, co), dtype),
        Y: T.Buffer((n, oh, ow, co), acc),
    ):
        P = T.alloc_buffer((n, ph, pw, ci), dtype)
        for b, y, x, c in T.grid(n, ph, pw, ci):
            with T.block("P"):
                vb, vy, vx, vc = T.axis.remap("SSSS", [b, y, x, c])
                P[vb, vy, vx, vc] = T.if_then_else(
                    padding <= vy and vy < h + padding and padding <= vx and vx < w + padding,
                    X[vb, vy - padding, vx - padding, vc],
                    0,
                )
        for b, y, x, f, ry, rx, rc in T.grid(n, oh, ow, co, kernel, kernel, cg):
            with T.block("Y"):
                vb, vy, vx, vf, vry, vrx, vrc = T.axis.remap("SSSSRRR", [b, y, x, f, ry, rx, rc])
                with T.init():
                    Y[vb, vy, vx, vf] = 0
                Y[vb, vy, vx, vf] = Y[vb, vy, vx, vf] + T.Cast(
                    acc,
                    P[
                        vb,
                        vy * stride + vry * dilation,
                        vx * stride + vrx * dilation,
                        vrc if groups == 1 else vf // fg * cg + vrc,
                    ],
                ) * T.Cast(acc, W[vry, vrx, vrc, vf])

    return narrow(conv2d, "Y", out)


def _conv3d(
    n: int,
    d: int,
    h: int,
    w: int,
    ci: int,
    co: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    dtype: str,
    acc: str,
    out: str,
) -> PrimFunc:
    od = out_size(d, kernel, stride, padding, dilation)
    oh = out_size(h, kernel, stride, padding, dilation)
    ow = out_size(w, kernel, stride, padding, dilation)
    pd, ph, pw = d + 2 * padding, h + 2 * padding, w + 2 * padding
    cg, fg = ci // groups, co // groups

    @T.prim_func
    def conv3d(
        X: T.Buffer((n, d, h, w, ci), dtype),
        W: T.Buffer((kernel, kernel, kernel, cg, co), dtype),
        Y: T.Buffer((n, od, oh, ow, co), acc),
    ):
        P = T.alloc_buffer((n, pd, ph, pw, ci), dtype)
        for b, z, y, x, c in T.grid(n, pd, ph, pw, ci):
            with T.block("P"):
                vb, vz, vy, vx, vc = T.axis.remap("SSSSS", [b, z, y, x, c])
                P[vb, vz, vy, vx, vc] = T.if_then_else(
                    padding <= vz
                    and vz < d + padding
                    and padding <= vy
                    and vy < h + padding
                    and padding <= vx
                    and vx < w + padding,
                    X[vb, vz - padding, vy - padding, vx - padding, vc],
                    0,
                )
        for b, z, y, x, f, rz, ry, rx, rc in T.grid(n, od, oh, ow, co, kernel, kernel, kernel, cg):
            with T.block("Y"):
                vb, vz, vy, vx, vf, vrz, vry, vrx, vrc = T.axis.remap(
                    "SSSSSRRRR", [b, z, y, x, f, rz, ry, rx, rc]
                )
                with T.init():
                    Y[vb, vz, vy, vx, vf] = 0
                Y[vb, vz, vy, vx, vf] = Y[vb, vz, vy, vx, vf] + T.Cast(
                    acc,
                    P[
                        vb,
                        vz * stride + vrz * dilation,
                        vy * stride + vry * dilation,
                        vx * stride + vrx * dilation,
                        vrc if groups == 1 else vf // fg * cg + vrc,
                    ],
                ) * T.Cast(acc, W[vrz, vry, vrx, vrc, vf])

    return narrow(conv3d, "Y", out)


def _flops(
    n: int,
    ci: int,
    co: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    **sizes: int,
) -> int:
    total = 2 * n * co * (ci // groups)
    for size in sizes.values():
        total *= kernel * out_size(size, kernel, stride, padding, dilation)
    return total


_PLAIN = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}

KERNELS = table(
    Kernel(
        "conv1d",
        _conv1d,
        conv_reference,
        outputs=("Y",),
        shapes={"n": 1, "w": 256, "ci": 64, "co": 128, "kernel": 3, **_PLAIN, "padding": 1},
        check_shapes=(
            {"n": 1, "w": 8, "ci": 4, "co": 4, "kernel": 3, **_PLAIN, "padding": 1},
            {"n": 2, "w": 33, "ci": 3, "co": 5, "kernel": 5, **_PLAIN, "stride": 2, "padding": 2},
            {"n": 1, "w": 13, "ci": 4, "co": 6, "kernel": 3, "stride": 3, "padding": 1,
             "dilation": 2, "groups": 2},
            {"n": 1, "w": 1000, "ci": 1, "co": 2, "kernel": 3, **_PLAIN, "stride": 3, "padding": 1},
            {"n": 1, "w": 1, "ci": 1, "co": 1, "kernel": 1, **_PLAIN},
        ),
        flops=_flops,
        dtypes=PRODUCTS,
        check=check_conv,
        zeros=("padding",),
    ),
    Kernel(
        "conv2d",
        _conv2d,
        conv_reference,
        outputs=("Y",),
        shapes={"n": 1, "h": 56, "w": 56, "ci": 64, "co": 64, "kernel": 3, **_PLAIN, "padding": 1},
        check_shapes=(
            {"n": 1, "h": 6, "w": 6, "ci": 2, "co": 4, "kernel": 3, **_PLAIN, "padding": 1},
            {"n": 2, "h": 7, "w": 5, "ci": 3, "co": 3, "kernel": 3, **_PLAIN, "stride": 2,
             "padding": 1},
            {"n": 1, "h": 9, "w": 11, "ci": 4, "co": 6, "kernel": 3, "stride": 1, "padding": 2,
             "dilation": 2, "groups": 2},
            {"n": 1, "h": 1, "w": 1000, "ci": 1, "co": 2, "kernel": 3, **_PLAIN, "stride": 3,
             "padding": 1},
            {"n": 1, "h": 33, "w": 1, "ci": 5, "co": 1, "kernel": 1, **_PLAIN, "stride": 2},
        ),
        flops=_flops,
        dtypes=PRODUCTS,
        check=check_conv,
        zeros=("padding",),
    ),
    Kernel(
        "conv3d",
        _conv3d,
        conv_reference,
        outputs=("Y",),
        shapes={"n": 1, "d": 8, "h": 28, "w": 28, "ci": 16, "co": 32, "kernel": 3, **_PLAIN,
                "padding": 1},
        check_shapes=(
            {"n": 1, "d": 3, "h": 4, "w": 4, "ci": 2, "co": 2, "kernel": 3, **_PLAIN,
             "padding": 1},
            {"n": 1, "d": 5, "h": 3, "w": 7, "ci": 1, "co": 3, "kernel": 2, **_PLAIN,
             "stride": 2, "padding": 1},
            {"n": 1, "d": 1, "h": 33, "w": 1, "ci": 2, "co": 3, "kernel": 1, **_PLAIN},
            {"n": 1, "d": 2, "h": 2, "w": 1000, "ci": 1, "co": 1, "kernel": 2, **_PLAIN,
             "stride": 2},
            {"n": 1, "d": 4, "h": 5, "w": 3, "ci": 2, "co": 4, "kernel": 2, "stride": 1,
             "padding": 1, "dilation": 2, "groups": 2},
        ),
        flops=_flops,
        dtypes=PRODUCTS,
        check=check_conv,
        zeros=("padding",),
    ),
)  # fmt: skip
