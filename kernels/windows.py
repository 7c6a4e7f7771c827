"""What do sliding windows cover, and what does NumPy say a convolution is?"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .kernel import Array


def out_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Positions that a window takes along one axis of `size` elements."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def pad_spatial(x: Array, padding: int, value: float = 0) -> Array:
    """(n, ..., c) with `padding` elements of `value` on both ends of every inner axis."""
    width = [(0, 0), *[(padding, padding)] * (x.ndim - 2), (0, 0)]
    return np.pad(x, width, constant_values=value) if padding else x


def windows(x: Array, kernel: int, stride: int, dilation: int = 1) -> Array:
    """A view (n, ..., c, kernel, ...) of (n, ..., c): the window at every position."""
    spatial = range(1, x.ndim - 1)
    span = dilation * (kernel - 1) + 1
    view = sliding_window_view(x, [span] * len(spatial), axis=tuple(spatial))
    places = (slice(None), *[slice(None, None, stride)] * len(spatial), slice(None))
    return view[(*places, *[slice(None, None, dilation)] * len(spatial))]


def conv_reference(
    x: Array,
    w: Array,
    /,
    *,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    **_: int,
) -> tuple[Array, ...]:
    """Convolution over every inner axis: windows laid out as a matrix, one product a group."""
    dims = x.ndim - 2
    view = windows(pad_spatial(x, padding), kernel, stride, dilation)
    axes_of_view = [*range(dims + 2, 2 * dims + 2), dims + 1]  # window, then channel: as in w
    axes_of_w = list(range(dims + 1))
    cg, fg = x.shape[-1] // groups, w.shape[-1] // groups
    parts = []
    for g in range(groups):
        channels = (*[slice(None)] * (dims + 1), slice(g * cg, (g + 1) * cg))
        part = np.tensordot(
            view[channels], w[..., g * fg : (g + 1) * fg], axes=(axes_of_view, axes_of_w)
        )
        parts.append(part)
    return (parts[0] if groups == 1 else np.concatenate(parts, axis=-1),)


def check_window(
    *, kernel: int, stride: int, padding: int, dilation: int = 1, **shape: int
) -> str | None:
    """Do the windows fit into the padded data? A message if not."""
    for axis in ("d", "h", "w"):
        if axis in shape and out_size(shape[axis], kernel, stride, padding, dilation) < 1:
            span = dilation * (kernel - 1) + 1
            return (
                f"a window of {span} (kernel {kernel}, dilation {dilation}) does not fit into "
                f"{axis}={shape[axis]} with padding {padding}"
            )
    return None


def check_conv(**shape: int) -> str | None:
    """Do the sizes of a convolution fit together? A message if not."""
    for channels in ("ci", "co"):
        if shape[channels] % shape["groups"]:
            return f"groups={shape['groups']} does not divide {channels}={shape[channels]}"
    return check_window(**shape)
