"""Do tensor cores' intrinsics as they are written for TVM give the kernels that gputune's give?"""

from __future__ import annotations

import pytest
from wmma_programs import Product

from gputune.codegen.cuda.kernel import generate
from gputune.errors import UserError
from gputune.ir.nodes import PrimFunc
from gputune.script import from_source
from gputune.target.intrin import TensorIntrin

FRAGMENT = 'align=64, offset_factor=16, scope="wmma.{}"'
BY_TVM = {
    "load_a": ("matrix_a", "float16", "T.tvm_load_matrix_sync(C.data, 16, 16, 16, C.elem_offset "
               '// 256, A.access_ptr("r"), s1, "row_major", dtype="handle")'),
    "load_b": ("matrix_b", "float16", "T.tvm_load_matrix_sync(C.data, 16, 16, 16, C.elem_offset "
               '// 256, A.access_ptr("r"), A.strides[0], "row_major", dtype="handle")'),
    "store": ("accumulator", "float32", "T.tvm_store_matrix_sync(A.data, 16, 16, 16, "
              'A.elem_offset // 256, C.access_ptr("w"), s1, "row_major", dtype="handle")'),
}  # fmt: skip
"""Block -> (held in, dtype, implementation) of tiles that are moved."""


def _moved(which: str) -> tuple[PrimFunc, PrimFunc]:
    """Description and implementation, with pointers and strides as TVM's have them."""
    held, dtype, move = BY_TVM[which]
    memory = 'offset_factor=16, scope="shared.dyn"'
    scopes = [memory, FRAGMENT.format(held)]
    if which == "store":
        scopes.reverse()
    pair = []
    for name, body, strides in (
        ("desc", "for i, j in T.grid(16, 16):\n            with T.block('copy'):\n"
         "                vi, vj = T.axis.remap('SS', [i, j])\n"
         "                C[vi, vj] = A[vi, vj]", ""),
        ("impl", f"T.evaluate({move})", ", strides=[s1, s0]"),
    ):  # fmt: skip
        words = [s + (strides if s == memory else "") for s in scopes]
        func = from_source(f"""
@T.prim_func
def {name}(a: T.handle, c: T.handle):
    s1 = T.int32()
    s0 = T.int32()
    A = T.match_buffer(a, (16, 16), "{dtype}", {words[0]})
    C = T.match_buffer(c, (16, 16), "{dtype}", {words[1]})
    with T.block("root"):
        T.reads(A[0:16, 0:16])
        T.writes(C[0:16, 0:16])
        {body}
""")
        assert isinstance(func, PrimFunc)
        pair.append(func)
    return pair[0], pair[1]


def _computed(which: str, trans: bool = False) -> tuple[PrimFunc, PrimFunc]:
    """The same of a product ("sync") and of zeros ("fill")."""
    holds = [("A", "float16", "matrix_a"), ("B", "float16", "matrix_b")] * (which == "sync")
    holds.append(("C", "float32", "accumulator"))
    params = ", ".join(f"{x.lower()}: T.handle" for x, _, _ in holds)
    matches = "\n".join(
        f'    {x} = T.match_buffer({x.lower()}, (16, 16), "{dtype}", {FRAGMENT.format(held)})'
        for x, dtype, held in holds
    )
    b = "B[vj, vk]" if trans else "B[vk, vj]"
    if which == "sync":
        loop, kinds = (
            "for i, j, k in T.grid(16, 16, 16):",
            "vi, vj, vk = T.axis.remap('SSR', [i, j, k])",
        )
        value = f'C[vi, vj] + T.cast(A[vi, vk], "float32") * T.cast({b}, "float32")'
        call = "T.tvm_mma_sync(" + ", ".join(f"{x}.data, {x}.elem_offset // 256" for x in "CABC")
    else:
        loop, kinds = "for i, j in T.grid(16, 16):", "vi, vj = T.axis.remap('SS', [i, j])"
        value = "T.float32(0)"
        call = "T.tvm_fill_fragment(C.data, 16, 16, 16, C.elem_offset // 256, T.float32(0)"
    pair = []
    for name, body in (
        (
            "desc",
            f"{loop}\n        with T.block('one'):\n            {kinds}\n"
            f"            C[vi, vj] = {value}",
        ),
        ("impl", f'T.evaluate({call}, dtype="handle"))'),
    ):
        func = from_source(f"@T.prim_func\ndef {name}({params}):\n{matches}\n    {body}\n")
        assert isinstance(func, PrimFunc)
        pair.append(func)
    return pair[0], pair[1]


def test_tiles_moved_through_pointers_give_the_same_kernel() -> None:
    """Intrinsics as they are written for TVM give the text of those that gputune has."""
    names: dict[str, str | None] = {}
    for which in ("load_a", "load_b", "fill", "sync", "store"):
        names[which] = f"test.tvm_{which}"
        pair = _moved(which) if which in BY_TVM else _computed(which)
        TensorIntrin.register(f"test.tvm_{which}", *pair, override=True)
    func = Product().tensorized(**names)
    assert generate(func).text == generate(Product().tensorized()).text


def test_a_product_of_tiles_that_lie_the_other_way_is_refused() -> None:
    """tvm_mma_sync does not say how B lies; taking it for A @ B would give wrong numbers."""
    with pytest.raises(UserError, match="impl gives C") as caught:
        TensorIntrin.register("test.tvm_trans", *_computed("sync", trans=True))
    assert "wmma.mma_trans.f16f16f32" in caught.value.hint
