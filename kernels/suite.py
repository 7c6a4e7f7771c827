"""Which thirteen operators, at which sizes, is every tuner measured on?

The MetaSchedule suite under its own names.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import conv, conv_variants, dense, rows
from .kernel import Kernel, table

_C = conv.KERNELS
_V = conv_variants.KERNELS
_D = dense.KERNELS
_R = rows.KERNELS

_IMAGE = {"n": 1, "h": 224, "w": 224, "ci": 3, "co": 64, "kernel": 7, "stride": 2, "padding": 3}

KERNELS: Mapping[str, Kernel] = table(
    _C["conv1d"].with_shapes("C1D", n=1, w=256, ci=64, co=128, kernel=3, stride=2, padding=1),
    _C["conv2d"].with_shapes("C2D", **_IMAGE),
    _C["conv3d"].with_shapes("C3D", d=16, **_IMAGE),
    _V["conv2d_capsule"].with_shapes(
        "CAP", n=1, h=16, w=16, ci=32, co=32, kernel=3, stride=2, padding=1, capsule=4
    ),
    _V["depthwise_conv2d"].with_shapes(
        "DEP", n=1, h=112, w=112, c=32, factor=1, kernel=3, stride=1, padding=1
    ),
    _C["conv2d"].with_shapes("DIL", **_IMAGE, dilation=2),
    _D["matmul"].with_shapes("GMM", m=128, n=128, k=128),
    _C["conv2d"].with_shapes(
        "GRP", n=1, h=56, w=56, ci=64, co=128, kernel=3, stride=2, padding=1, groups=4
    ),
    _V["conv2d_transpose"].with_shapes(
        "T2D", n=1, h=4, w=4, ci=512, co=256, kernel=4, stride=2, padding=1
    ),
    _V["conv2d_bn_relu"].with_shapes("CBR", **_IMAGE),
    _D["transpose_batch_matmul"].with_shapes("TBG", batch=1, seq=128, heads=12, dim=64),
    _R["norm"].with_shapes("NRM", b=1, m=256, n=256),
    _R["softmax"].with_shapes("SFM", m=256, n=256),
)
