"""What is measured on a GPU? Cells (an operator, its sizes, its dtype), in shards by family.

Sizes are those of the public tables: square, language-model and skinny products, those with a long
reduction, batches; all convolutions of the MetaSchedule suite in its four sizes and ResNet-50's;
rows of softmax, losses and norms; reductions, transposes, chains. Everything for which gputune has
no tensor cores yet is in float32, TF32 off. Within a shard the cells that matter most come first:
those that time does not reach are the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gputune.kernels import KERNELS, Kernel

DEFAULT = "default"
AUTOTUNE = "max-autotune"
SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One operator at one size.

    Attributes:
        family: the line of the summary that it counts in.
        kernel: of the operator library.
        shape: its sizes; the others are the kernel's own.
        dtype: of the inputs.
        compiled: modes of torch.compile that are tried. Where they would call the same library as
            torch itself, or cost half a minute, few cells have them.
        weight: of the tuning time, relative to the other cells of a shard.
        label: its name; default: the kernel and its sizes.
    """

    family: str
    kernel: str
    shape: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "float32"
    compiled: tuple[str, ...] = ()
    weight: float = 1.0
    label: str = ""

    @property
    def name(self) -> str:
        """Unique over all shards: records are known by it."""
        if self.label:
            return f"{self.label} {SHORT[self.dtype]}"
        sizes = "x".join(str(self.full[p]) for p in self.full)
        return f"{self.kernel} {sizes} {SHORT[self.dtype]}"

    @property
    def operator(self) -> Kernel:
        """With this cell's sizes as its own."""
        return KERNELS[self.kernel].with_shapes(self.kernel, **self.shape)

    @property
    def full(self) -> dict[str, int]:
        """All sizes."""
        return KERNELS[self.kernel].shape(self.shape)

    def small(self) -> Cell:
        """The same operator at the first of its test sizes, and nothing for torch.compile to do."""
        shape = dict(KERNELS[self.kernel].check_shapes[0])
        return Cell(self.family, self.kernel, shape, self.dtype, label=self.label)


# ----------------------------------------------------------------------------- products
def _product(
    family: str, m: int, n: int, k: int, weight: float = 1.0, compiled: tuple[str, ...] = (),
    kernel: str = "matmul",
) -> Cell:  # fmt: skip
    shape = {"m": m, "n": n, "k": k}
    return Cell(family, kernel, shape, compiled=compiled, weight=weight)


def _square() -> Iterator[Cell]:
    for n in (1024, 2048, 4096):
        yield _product("GEMM square", n, n, n, 4.0, (AUTOTUNE,) if n == 2048 else ())


def _gemm() -> Iterator[Cell]:
    yield from _square()
    # weights as torch keeps them, (n, k): what language models multiply by
    for n, k in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)):
        yield _product("GEMM LLM", 4096, n, k, 1.5, kernel="linear")
    for n in (512, 8192):
        yield _product("GEMM square", n, n, n)
    yield _product("GEMM square", 4096, 64, 4096)
    yield _product("GEMM LLM", 4096, 18944, 3584, kernel="linear")
    yield _product("GEMM LLM", 512, 128256, 4096, kernel="linear")


def _skinny() -> Iterator[Cell]:
    for n, k in ((6144, 4096), (28672, 4096), (4096, 14336)):
        for m in (1, 16, 128, 8, 64):
            compiled = (AUTOTUNE,) if (m, n) in ((1, 6144), (16, 6144)) else ()
            yield _product("GEMM skinny", m, n, k, compiled=compiled, kernel="linear")
    yield Cell("GEMM skinny", "gemv", {"m": 128256, "k": 4096}, compiled=(DEFAULT,))


def _batched() -> Iterator[Cell]:
    for b, m, n, k in ((96, 128, 128, 64), (32, 512, 512, 64), (16, 1024, 1024, 128),
                       (256, 64, 64, 64)):  # fmt: skip
        shape = {"b": b, "m": m, "n": n, "k": k}
        compiled = (AUTOTUNE,) if b == 96 else ()
        yield Cell("GEMM batched", "batch_matmul", shape, compiled=compiled)
    for heads in (12, 16):
        shape = {"batch": 1, "seq": 128, "heads": heads, "dim": 64}
        yield Cell("GEMM batched", "transpose_batch_matmul", shape, compiled=(DEFAULT,))
    for m, n, k in ((256, 256, 65536), (512, 512, 16384), (64, 2112, 7168), (64, 7168, 16384),
                    (4096, 7168, 2048)):  # fmt: skip
        compiled = (AUTOTUNE,) if k == 65536 else ()
        yield _product("GEMM long sums", m, n, k, 1.5, compiled)


# ----------------------------------------------------------------------------- convolutions
def _image(h: int, ci: int, co: int, kernel: int, stride: int, padding: int) -> dict[str, int]:
    return {"n": 1, "h": h, "w": h, "ci": ci, "co": co, "kernel": kernel, "stride": stride,
            "padding": padding}  # fmt: skip


_IMAGES = (
    _image(224, 3, 64, 7, 2, 3), _image(56, 64, 64, 1, 1, 0), _image(14, 256, 256, 3, 1, 1),
    _image(7, 512, 512, 3, 1, 1),
)  # fmt: skip
_GROUPED = (_image(56, 64, 128, 3, 2, 1), *_IMAGES[1:])
_ROWS = ((256, 64, 128, 3, 2, 1), (128, 128, 256, 1, 2, 0), (64, 256, 256, 5, 1, 2),
         (32, 512, 512, 3, 1, 1))  # fmt: skip
_DEPTHWISE = ((112, 32, 1), (112, 64, 2), (14, 512, 2), (7, 1024, 1))
_GROWING = ((4, 512, 256), (8, 256, 128), (16, 128, 64), (32, 64, 3))
_CAPSULES = ((16, 32, 32, 2), (8, 32, 32, 1), (16, 8, 16, 2), (8, 16, 16, 1))


def _suite_shapes() -> dict[str, tuple[str, str, tuple[dict[str, int], ...]]]:
    """Family, kernel and the four sizes of each convolution of the suite, by its name there."""
    rows = tuple(
        {"n": 1, "w": w, "ci": ci, "co": co, "kernel": k, "stride": s, "padding": p}
        for w, ci, co, k, s, p in _ROWS
    )
    depthwise = tuple(
        {"n": 1, "h": h, "w": h, "c": c, "factor": 1, "kernel": 3, "stride": s, "padding": 1}
        for h, c, s in _DEPTHWISE
    )
    growing = tuple(_image(h, ci, co, 4, 2, 1) for h, ci, co in _GROWING)
    capsules = tuple(_image(h, ci, co, 3, s, 1) | {"capsule": 4} for h, ci, co, s in _CAPSULES)
    return {
        "C1D": ("conv 1-D", "conv1d", rows),
        "C2D": ("conv 2-D", "conv2d", _IMAGES),
        "C3D": ("conv 3-D", "conv3d", tuple(x | {"d": 16} for x in _IMAGES)),
        "CAP": ("conv capsule", "conv2d_capsule", capsules),
        "DEP": ("conv depthwise", "depthwise_conv2d", depthwise),
        "DIL": ("conv dilated", "conv2d", tuple(x | {"dilation": 2} for x in _IMAGES)),
        "GRP": ("conv grouped", "conv2d", tuple(x | {"groups": 4} for x in _GROUPED)),
        "T2D": ("conv transposed", "conv2d_transpose", growing),
        "CBR": ("conv bias norm relu", "conv2d_bn_relu", _IMAGES),
    }


def _suite(at: int) -> Iterator[Cell]:
    for name, (family, kernel, shapes) in _suite_shapes().items():
        compiled = (DEFAULT,) if name in ("CBR", "DEP") else ()
        yield Cell(family, kernel, shapes[at], compiled=compiled, label=f"{name}-{at}")


def _resnet() -> Iterator[Cell]:
    for n in (16, 1, 128):
        for h, ci, co, k, stride, padding in (
            (56, 64, 256, 1, 1, 0), (28, 128, 128, 3, 1, 1), (14, 256, 256, 3, 1, 1),
            (7, 512, 512, 3, 1, 1), (224, 3, 64, 7, 2, 3), (56, 256, 512, 1, 2, 0),
        ):  # fmt: skip
            shape = _image(h, ci, co, k, stride, padding) | {"n": n}
            label = f"resnet b{n} {k}x{k} {ci}-{co} @{h}"
            yield Cell(f"conv ResNet b{n}", "conv2d", shape, label=label)


# ----------------------------------------------------------------------------- memory
_WIDTHS = ((32768, 4096), (32768, 16384), (32768, 1024), (32768, 256), (32768, 65536),
           (8192, 262144))  # fmt: skip
_NORMS = ((16384, 4096), (16384, 8192), (2048, 8192), (16384, 1024), (16384, 16384))


def _rows(kernels: Mapping[str, str], sizes: tuple[tuple[int, int], ...], dtype: str
          ) -> Iterator[Cell]:  # fmt: skip
    for m, n in sizes:
        for kernel, family in kernels.items():
            yield Cell(family, kernel, {"m": m, "n": n}, dtype, (DEFAULT,))


_SOFTMAX = {"softmax": "softmax", "log_softmax": "log-softmax", "cross_entropy": "cross-entropy"}
_NORM = {"layernorm": "layer norm", "rmsnorm": "RMS norm"}


def _norms() -> Iterator[Cell]:
    for dtype in ("float32", "bfloat16"):
        yield from _rows(_NORM, _NORMS[:3], dtype)
    yield Cell("RMS norm", "add_rmsnorm", {"m": 16384, "n": 4096}, "bfloat16", (DEFAULT,))
    yield Cell("RMS norm", "add_rmsnorm", {"m": 16384, "n": 4096}, "float32", (DEFAULT,))
    for dtype in ("float32", "bfloat16"):
        yield from _rows(_NORM, _NORMS[3:], dtype)


def _reduce() -> Iterator[Cell]:
    square = {"m": 4096, "n": 4096}
    around = {"outer": 1024, "size": 8, "inner": 289}
    both = (DEFAULT,)
    yield Cell("reduction", "total_sum", {"m": 16384, "n": 16384}, compiled=both)
    yield Cell("argmax", "argmax", {"m": 4096, "n": 128256}, compiled=both)
    yield Cell("reduction", "row_sum", {"m": 16384, "n": 16384}, compiled=both)
    yield Cell("reduction", "column_sum", {"m": 16384, "n": 16384}, compiled=both)
    yield Cell("reduction", "axis_sum", {"outer": 64, "size": 1024, "inner": 1024}, compiled=both)
    yield Cell("argmax", "axis_argmax", {"outer": 64, "size": 1024, "inner": 1024}, compiled=both)
    yield Cell("reduction", "row_sum", square, compiled=both)
    yield Cell("reduction", "column_sum", square, compiled=both)
    yield Cell("reduction", "axis_sum", around, compiled=both)
    yield Cell("reduction", "row_max", square, compiled=both)
    yield Cell("reduction", "column_max", square, compiled=both)
    yield Cell("reduction", "axis_max", around, compiled=both)
    yield Cell("reduction", "total_mean", square, compiled=both)
    yield Cell("argmax", "axis_argmax", around, compiled=both)


def _elementwise() -> Iterator[Cell]:
    large, both = {"m": 8192, "n": 8192}, (DEFAULT,)
    chain = {"m": 16384, "n": 14336}
    planes = {"b": 64, "m": 256, "n": 3136}
    for dtype in ("float32", "bfloat16"):
        yield Cell("transpose", "transpose", large, dtype, both)
        yield Cell("elementwise", "silu_mul", chain, dtype, both)
        yield Cell("elementwise", "bias_gelu_mask", chain, dtype, both)
    yield Cell("transpose", "batch_transpose", planes, compiled=both, label="NCHW to NHWC")
    back = {"b": 64, "m": 3136, "n": 256}
    yield Cell("transpose", "batch_transpose", back, compiled=both, label="NHWC to NCHW")
    yield Cell("elementwise", "add_mul", large, compiled=both)
    yield Cell("elementwise", "gelu", large, compiled=both)
    yield Cell("elementwise", "bias_relu", large, compiled=both)
    yield Cell("elementwise", "jacobi2d", large, compiled=both)


def _gate() -> Iterator[Cell]:
    """What issue "CUDA in full" asks of a GPU, line 4, but for the convolutions, which are `conv`:
    three products and large rows."""
    yield from _square()
    yield from _rows(_SOFTMAX | _NORM, ((16384, 4096),), "float32")
    yield Cell("reduction", "row_sum", {"m": 16384, "n": 16384}, compiled=(DEFAULT,))
    yield Cell("transpose", "transpose", {"m": 8192, "n": 8192}, compiled=(DEFAULT,))


CELLS: Mapping[str, tuple[Cell, ...]] = {
    "gate": tuple(_gate()),
    "gemm": tuple(_gemm()),
    "skinny": tuple(_skinny()),
    "batched": tuple(_batched()),
    "conv": tuple(_suite(0)),
    "conv1": tuple(_suite(1)),
    "conv2": tuple(_suite(2)),
    "conv3": tuple(_suite(3)),
    "resnet": tuple(_resnet()),
    "softmax": tuple(_rows(_SOFTMAX, _WIDTHS, "float32")),
    "softmax16": tuple(_rows(_SOFTMAX, _WIDTHS, "bfloat16")),
    "norms": tuple(_norms()),
    "reduce": tuple(_reduce()),
    "elementwise": tuple(_elementwise()),
}
"""The cells by shard. A cell may be in two: it is measured in the first that comes to it."""

EVERY: Mapping[str, Cell] = {c.name: c for cells in CELLS.values() for c in cells}
"""All cells by name."""
