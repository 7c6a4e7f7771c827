"""How are things called in CUDA C++? Types, and names that are unique and legal."""

from __future__ import annotations

import re
from collections.abc import Hashable

from ...errors import BuildError

TYPES = {
    "float64": "double", "float32": "float", "float16": "gt_half", "bfloat16": "gt_bfloat16",
    "float8_e4m3": "gt_e4m3", "float8_e5m2": "gt_e5m2", "int8": "signed char", "int16": "short",
    "int32": "int", "int64": "long long", "uint8": "unsigned char", "uint16": "unsigned short",
    "uint32": "unsigned int", "uint64": "unsigned long long", "bool": "bool",
}  # fmt: skip
"""The type of an element in memory."""

NARROW = {
    "float16": "gt_to_half", "bfloat16": "gt_to_bfloat16", "float8_e4m3": "gt_to_e4m3",
    "float8_e5m2": "gt_to_e5m2",
}  # fmt: skip
"""Floats that are computed in `float`, and the prelude's function that rounds to them."""

_WORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
char32_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
constinit continue decltype default delete do double dynamic_cast else enum explicit export extern
false float for friend goto if inline int long main mutable namespace new noexcept not not_eq
nullptr operator or or_eq private protected public register reinterpret_cast requires restrict
return short signed sizeof static static_assert static_cast struct switch template this
thread_local throw true try typedef typeid typename typeof union unsigned using virtual void
volatile wchar_t while xor xor_eq NULL threadIdx blockIdx blockDim gridDim warpSize half printf
max min gamma y0 y1 j0 j1 yn jn isnan isinf isfinite
"""
_FUNCTIONS = """
abs acos asin atan atan2 ceil copysign cos cosh erf exp exp10 exp2 fabs floor fmod hypot log log10
log1p log2 pow rint round rsqrt sin sinh sqrt tan tanh trunc
"""
_TAKEN = frozenset([
    *_WORDS.split(), *_FUNCTIONS.split(), *[f"{name}f" for name in _FUNCTIONS.split()]
])  # fmt: skip
"""Words of C++, and functions that generated text calls."""


def compute_type(dtype: str) -> str:
    """The type in which a scalar value is computed."""
    return "float" if dtype in NARROW else stored_type(dtype)


def stored_type(dtype: str) -> str:
    """The type of an element in memory; BuildError for what CUDA has no type for."""
    found = TYPES.get(dtype)
    if found is None:
        raise BuildError(f"{dtype} has no type in CUDA", hint=f"known are: {', '.join(TYPES)}")
    return found


class Names:
    """C names for variables, buffers and functions; no name is given twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._of: dict[Hashable, str] = {}

    def fresh(self, wanted: str) -> str:
        """A new name like `wanted`."""
        base = re.sub(r"\W", "_", wanted, flags=re.ASCII) or "v"
        if base[0].isdigit() or base in _TAKEN or base.startswith(("gt_", "__")):
            base = f"v_{base.lstrip('_')}"
        name, k = base, 1
        while name in self._taken:
            name, k = f"{base}_{k}", k + 1
        self._taken.add(name)
        return name

    def of(self, thing: Hashable, wanted: str) -> str:
        """The name of a variable or buffer, given at the first question."""
        if thing not in self._of:
            self._of[thing] = self.fresh(wanted)
        return self._of[thing]

    def rename(self, thing: Hashable, name: str) -> None:
        """Call a thing `name` from here on (a loop that is written a second time)."""
        self._of[thing] = name

    def knows(self, thing: Hashable) -> bool:
        """Has it got a name?"""
        return thing in self._of
