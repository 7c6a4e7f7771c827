"""Does every operator of the library compute what its NumPy reference says, and what it costs?"""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest

from gputune import kernels
from gputune.errors import UserError
from gputune.ir import dtypes, interp
from gputune.ir.equal import structural_equal
from gputune.ir.flops import estimate_flops
from gputune.ir.nodes import Block
from gputune.ir.walk import blocks
from gputune.kernels import KERNELS, SUITE, Kernel
from gputune.kernels.kernel import Shape, table
from gputune.script import from_source

GOLDEN_FLOPS = {
    "C1D": 6291456,
    "C2D": 236027904,
    "C3D": 13217562624,
    "CAP": 75497472,
    "DEP": 7225344,
    "DIL": 223552896,
    "GMM": 4194304,
    "GRP": 28901376,
    "T2D": 268435456,
    "CBR": 239239168,
    "TBG": 25165824,
    "NRM": 131072,
    "SFM": 262144,
}

ROUNDING = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}
"""Relative error that a handful of roundings in the narrowest dtype of a kernel may leave."""

OPERATORS = [n for n in KERNELS if n not in SUITE]  # the suite is operators at other sizes


CASES = [
    pytest.param(name, shape, id=f"{name}-{k}")
    for name in OPERATORS
    for k, shape in enumerate(KERNELS[name].check_shapes)
]


def check(kernel: Kernel, shape: Shape, dtype: str, exact: bool, **types: Any) -> None:
    """Run the interpreter on a kernel and compare with NumPy."""
    func = kernel.build(shape, dtype, **types)
    args = kernel.arguments(shape, dtype, seed=3, exact=exact, **types)
    expected = kernel.expected(args, shape, dtype)
    before = [a.copy() for a in args]
    interp.run(func, *args, check_regions=True)
    results = iter(expected)
    for buffer, array, old in zip(func.buffers, args, before):
        if buffer.name not in kernel.outputs:
            np.testing.assert_array_equal(array, old, err_msg=f"input {buffer.name} was written")
            continue
        want = next(results)
        assert want.shape == array.shape
        assert want.dtype == array.dtype
        if exact and kernel.exact:
            np.testing.assert_array_equal(array, want, err_msg=buffer.name)
        else:
            rtol = ROUNDING[buffer.dtype if dtypes.is_float(buffer.dtype) else dtype]
            scale = max(1.0, float(np.abs(want.astype(np.float64)).max()))
            np.testing.assert_allclose(
                array.astype(np.float64),
                want.astype(np.float64),
                rtol=rtol,
                atol=rtol * scale,
                err_msg=buffer.name,
            )


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_equals_numpy(name: str, shape: Shape) -> None:
    check(KERNELS[name], shape, "float32", exact=KERNELS[name].exact)


@pytest.mark.parametrize("name", OPERATORS)
def test_equals_numpy_in_every_dtype(name: str) -> None:
    kernel = KERNELS[name]
    shape = min(kernel.check_shapes, key=lambda s: kernel.flops(**kernel.shape(s)))
    for dtype in kernel.dtypes:
        check(kernel, shape, dtype, exact=kernel.exact)


@pytest.mark.parametrize("name", ["matmul", "conv2d", "argmax", "row_max", "jacobi2d"])
def test_equals_numpy_on_arbitrary_floats(name: str) -> None:
    kernel = KERNELS[name]
    check(kernel, kernel.check_shapes[1], "float64", exact=False)


@pytest.mark.parametrize(
    ("dtype", "accum", "out"),
    [
        ("float16", "float16", "float16"),
        ("float16", "float32", "float32"),
        ("bfloat16", "float64", "float32"),
        ("int8", "int32", "int8"),
        ("int8", "int64", "int32"),
        ("float8_e4m3", None, "bfloat16"),
    ],
)
@pytest.mark.parametrize("name", ["matmul", "conv1d", "transpose_batch_matmul"])
def test_accumulator_and_output_dtype(name: str, dtype: str, accum: str | None, out: str) -> None:
    kernel = KERNELS[name]
    types: dict[str, Any] = {"accum": accum, "out": out}
    func = kernel.build(kernel.check_shapes[0], dtype, **types)
    output = func.buffers[-1]
    assert output.dtype == out
    stored = {b.dtype for block in blocks(func.body) for b in written(block)}
    assert (accum or "float32") in stored
    check(kernel, kernel.check_shapes[0], dtype, True, **types)


def written(block: Block) -> list[Any]:
    return [region.buffer for region in block.writes]


@pytest.mark.parametrize(
    ("dtype", "accum", "out"),
    [
        ("float32", "float32", "float32"),
        ("float16", "float32", "float16"),
        ("bfloat16", "float32", "bfloat16"),
        ("float8_e5m2", "float32", "float32"),
        ("int8", "int32", "int32"),
        ("uint8", "int32", "int32"),
        ("int64", "int64", "int64"),
    ],
)
def test_default_accumulators(dtype: str, accum: str, out: str) -> None:
    func = kernels.get("matmul").build(dtype=dtype, m=4, n=4, k=4)
    assert [b.dtype for b in func.buffers] == [dtype, dtype, out]
    (product,) = [b for b in blocks(func.body) if b.name == "C"]
    assert [b.dtype for b in written(product)] == [accum]
    cast = [b for b in blocks(func.body) if b.name == "C_cast"]
    assert len(cast) == (accum != out)


@pytest.mark.parametrize("name", KERNELS)
def test_flops_agree_with_the_program(name: str) -> None:
    kernel = KERNELS[name]
    for shape in (kernel.shapes, *kernel.check_shapes):
        assert estimate_flops(kernel.build(shape)) == kernel.flops(**kernel.shape(shape)), shape


def test_suite_has_the_golden_flops() -> None:
    assert {n: estimate_flops(KERNELS[n].build()) for n in SUITE} == GOLDEN_FLOPS


@pytest.mark.parametrize("name", OPERATORS)
def test_prints_and_parses_back(name: str) -> None:
    func = KERNELS[name].build(dtype="float16")
    assert structural_equal(from_source(func.script()), func)


@pytest.mark.parametrize("name", KERNELS)
def test_declares_itself_fully(name: str) -> None:
    kernel = KERNELS[name]
    func = kernel.build(kernel.check_shapes[0])
    assert kernel.name == func.name == name
    buffers = [b.name for b in func.buffers]
    assert set(kernel.outputs) <= set(buffers)
    assert buffers[-len(kernel.outputs) :] == list(kernel.outputs), "outputs come last"
    assert len({b.name for b in blocks(func.body)}) == len(blocks(func.body)), "names are unique"
    for shape in kernel.check_shapes:
        assert list(shape) == [k for k in kernel.shapes if k in shape]
        kernel.shape(shape)
    sizes = {v for s in kernel.check_shapes for v in s.values()}
    assert {1, 33, 1000} <= sizes
    assert sizes & {5, 7, 11, 13, 17, 19, 23, 29, 31}, "a prime beside the vectors' widths"


def test_suite_names_and_order() -> None:
    assert tuple(GOLDEN_FLOPS) == SUITE


def test_an_ungrouped_convolution_has_plain_channel_indices() -> None:
    plain = KERNELS["conv2d"].build(h=8, w=8, ci=4, co=4).script()
    grouped = KERNELS["conv2d"].build(h=8, w=8, ci=4, co=4, groups=2).script()
    assert "//" not in plain
    assert "//" in grouped


# ----------------------------------------------------------------------------- arguments
def test_arguments_follow_the_program() -> None:
    a, b, c = kernels.get("matmul").arguments({"m": 3, "n": 5, "k": 7}, "float16")
    assert (a.shape, b.shape, c.shape) == ((3, 7), (7, 5), (3, 5))
    assert a.dtype == b.dtype == c.dtype == np.float16
    assert np.isnan(c).all(), "an output is poisoned"
    assert not np.isnan(a).any()


def test_integer_outputs_are_poisoned() -> None:
    *_, c = kernels.get("matmul").arguments({"m": 2, "n": 2, "k": 2}, "int8")
    assert c.dtype == np.int32
    assert (c == np.iinfo(np.int32).max).all()


def test_exact_arguments_are_small_integers() -> None:
    a, _, _ = kernels.get("matmul").arguments(None, exact=True)
    assert set(np.unique(a)) == set(range(-3, 4))
    a, _, _ = kernels.get("matmul").arguments(None)
    assert len(np.unique(a)) > 1000


def test_same_seed_same_arguments() -> None:
    kernel = kernels.get("row_sum")
    one, two, other = (kernel.arguments({"m": 4}, seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_reference_keeps_the_dtype_it_is_given() -> None:
    """A benchmark against NumPy must not measure float64."""
    for name in OPERATORS:
        kernel = KERNELS[name]
        shape = kernel.check_shapes[0]
        inputs = kernel.arguments(shape)[: -len(kernel.outputs)]
        for result, want in zip(
            kernel.reference(*inputs, **kernel.shape(shape)), kernel.outputs, strict=True
        ):
            expected = np.int32 if want == "index" else np.float32
            assert result.dtype == expected, name


# ----------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("matmul", {"l": 3}, "kernel matmul has no parameter 'l'\n  hint: it has: m, n, k"),
        ("conv2d", {"kernels": 3}, "hint: did you mean kernel?"),
        ("matmul", {"m": 0}, "m of kernel matmul is 0\n  hint: give an integer of at least 1"),
        ("matmul", {"m": -4}, "m of kernel matmul is -4"),
        ("matmul", {"m": 2.0}, "m of kernel matmul is 2.0"),
        ("matmul", {"m": True}, "m of kernel matmul is True"),
        ("matmul", {"m": "8"}, "m of kernel matmul is '8'"),
        ("conv2d", {"padding": -1}, "give an integer of at least 0"),
        ("conv2d", {"groups": 3}, "groups=3 does not divide ci=64"),
        ("conv1d", {"ci": 6, "co": 4, "groups": 3}, "groups=3 does not divide co=4"),
        (
            "conv1d",
            {"w": 2, "kernel": 5, "padding": 0},
            "a window of 5 (kernel 5, dilation 1) does ",
        ),
        ("conv2d", {"h": 4, "dilation": 4}, "does not fit into h=4 with padding 1"),
        ("conv3d", {"d": 1, "padding": 0}, "does not fit into d=1 with padding 0"),
        ("depthwise_conv2d", {"w": 1, "padding": 0}, "does not fit into w=1"),
        ("conv2d_transpose", {"padding": 4}, "padding 4 is more than kernel - 1 = 3"),
        ("conv2d_transpose", {"w": 1, "padding": 3}, "nothing is left of w=1 with padding 3"),
        ("max_pool2d", {"padding": 3}, "padding 3 is not less than kernel 3"),
        ("matmul", {"dtype": "float33"}, "kernel matmul is not defined for dtype 'float33'"),
        (
            "softmax",
            {"dtype": "int8"},
            "softmax is not defined for dtype 'int8'\n  hint: it takes: ",
        ),
        ("matmul", {"accum": "int32"}, "matmul of float32 cannot have accum='int32'"),
        ("matmul", {"dtype": "int8", "out": "float32"}, "of int8 cannot have out='float32'"),
        ("matmul", {"out": "nonsense"}, "cannot have out='nonsense'"),
        ("transpose", {"accum": "float64"}, "accum='float64' has no meaning"),
    ],
)
def test_wrong_parameters_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        kernels.get(name).build(**options)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("matmull", "no kernel is called 'matmull'\n  hint: did you mean matmul"),
        ("MATMUL", "did you mean matmul"),
        ("gmm", "did you mean GMM"),
        ("zzzzzz", "hint: known are: matmul, "),
    ],
)
def test_unknown_kernels_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        kernels.get(name)
    assert message in str(refused.value)


def test_wrong_number_of_arrays_is_refused() -> None:
    with pytest.raises(UserError, match="kernel matmul takes 3 arrays, got 2"):
        kernels.get("matmul").expected(kernels.get("matmul").arguments()[:2])


def test_tables_are_read_only_and_without_doubles() -> None:
    kernel = kernels.get("matmul")
    with pytest.raises(ValueError, match="two kernels are called matmul"):
        table(kernel, kernel)
    with pytest.raises(TypeError):
        KERNELS["mine"] = kernel  # type: ignore[index]  # that it is refused is the test
    with pytest.raises(TypeError):
        kernels.get("GMM").shapes["m"] = 2  # type: ignore[index]  # as above


def test_examples_in_docstrings_run() -> None:
    for module in (kernels, kernels.kernel):
        result = doctest.testmod(module, extraglobs={"get": kernels.get})
        assert result.attempted
        assert not result.failed
