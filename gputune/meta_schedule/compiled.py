"""What does the compiler tell of a candidate? Facts of its cubin, as columns of features.

The search ranks candidates before they are compiled; then the columns are zeros, and the first one
says so. Once a candidate is built they are filled in: the cost model learns from both forms of each
row (see `cost_model.xgb_model`), and can rank again what is built and not measured yet.

>>> found = Compiled({"k": {"registers": 40, "instructions": 64, "mix": {"FFMA": 32}}})
>>> row = found.columns()
>>> row[COMPILED.index("known")], row[COMPILED.index("registers")], row[COMPILED.index("fma")]
(1.0, 40.0, 32.0)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from ..codegen.cuda.cubin import code_digest
from ..errors import GputuneError
from .artifact import Artifact

# Instructions by what they keep busy. What is in none of these is counted in "instructions" alone.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "fma": ("FFMA", "FFMA2", "DFMA", "HFMA2"),
    "float": (
        "FADD", "FADD2", "FMUL", "FMUL2", "FMNMX", "FMNMX3", "DADD", "DMUL", "HADD2", "HMUL2",
        "HMNMX2",
    ),
    "special": ("MUFU",),
    "tensor": ("HMMA", "IMMA", "BMMA", "DMMA", "QMMA", "HGMMA", "IGMMA", "QGMMA", "UTCHMMA"),
    "integer": (
        "IADD", "IADD3", "IMAD", "IDP", "LEA", "LOP3", "SHF", "IMNMX", "VIADD", "VIMNMX", "PRMT",
        "SGXT", "UIADD3", "UIMAD", "ULEA", "ULOP3", "USHF",
    ),
    "convert": ("F2F", "F2FP", "F2I", "I2F", "I2FP", "FRND"),
    "compare": ("FSETP", "DSETP", "HSETP2", "ISETP", "PLOP3", "UISETP", "FSEL", "SEL", "USEL"),
    "global_loads": ("LDG", "LD", "LDGSTS"),
    "global_stores": ("STG", "ST"),
    "shared_loads": ("LDS", "LDSM"),
    "shared_stores": ("STS", "STSM"),
    "local": ("LDL", "STL"),
    "constants": ("LDC", "LDCU", "ULDC"),
    "atomics": ("ATOM", "ATOMG", "ATOMS", "RED"),
    "shuffles": ("SHFL", "REDUX", "VOTE", "MATCH"),
    "barriers": ("BAR", "WARPSYNC", "DEPBAR"),
    "branches": ("BRA", "BRX", "BSSY", "BSYNC", "BREAK", "CALL", "RET"),
    "moves": ("MOV", "UMOV", "R2UR", "S2R", "S2UR"),
}  # fmt: skip
_MOST = ("registers", "stack_bytes", "shared_bytes")  # of the most demanding kernel
_SUMS = ("spill_loads", "spill_stores", "code_bytes", "instructions")  # of all kernels
COMPILED = ("known", "kernels", "occupancy", *_MOST, *_SUMS, *_KINDS)
"""What the columns are, in order."""
_LARGEST = 1 << 40


@dataclass(frozen=True, slots=True)
class Compiled:
    """What is known of a program once it is compiled for a GPU.

    Attributes:
        facts: of each kernel by its name, as `KernelFacts` has them, and "occupancy". They may come
            from a file of records: what is no number counts as 0.
        code: a digest of machine code and launches; programs with equal ones are the same to the
            GPU. "": not known, or nobody's affair: what the parameters of a kernel that is CUDA
            source mean, its author knows.
    """

    facts: Mapping[str, Mapping[str, Any]]
    code: str = ""

    @staticmethod
    def of(artifact: Artifact) -> Compiled | None:
        """What a built program tells; None where it is not for a GPU, or tells nothing."""
        facts = facts_in(artifact.cuda)
        if not facts:
            return None
        generated = artifact.cuda.get("prelude") is not False
        return Compiled(facts, _code_of(artifact) if generated else "")

    @property
    def local_bytes(self) -> int:
        """Local memory of a thread: spilled registers, and arrays that found no registers."""
        return max((int(_number(f.get("stack_bytes"))) for f in self.facts.values()), default=0)

    def columns(self) -> list[float]:
        """The values of `COMPILED`."""
        kernels = list(self.facts.values())
        found: dict[str, float] = {"known": 1.0, "kernels": float(len(kernels))}
        shares = [_number(f.get("occupancy")) for f in kernels]
        found["occupancy"] = min(shares, default=0.0)
        for name in _MOST:
            found[name] = max((_number(f.get(name)) for f in kernels), default=0.0)
        for name in _SUMS:
            found[name] = sum(_number(f.get(name)) for f in kernels)
        mixes = [m for f in kernels if isinstance(m := f.get("mix"), Mapping)]
        for name, mnemonics in _KINDS.items():
            found[name] = sum(_number(m.get(x)) for m in mixes for x in mnemonics)
        return [found[name] for name in COMPILED]


def facts_in(told: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The facts of kernels under "facts", in an artifact or in a record's extras; those that are
    none are left out."""
    found = told.get("facts")
    if not isinstance(found, Mapping):
        return {}
    return {str(name): f for name, f in found.items() if isinstance(f, Mapping)}


def told(
    features: npt.NDArray[np.float32], compiled: Sequence[Compiled | None]
) -> npt.NDArray[np.float32]:
    """Rows of sketch features with the columns of `COMPILED` behind them, as log2(1 + x).

    Args:
        features: (candidates, features).
        compiled: what is known of each candidate; None: nothing, its columns are zeros.
    """
    more = np.zeros((len(features), len(COMPILED)), np.float32)
    for k, found in enumerate(compiled):
        if found is not None:
            more[k] = np.log2(np.array(found.columns()) + 1.0)
    return np.concatenate([features, more], axis=1)


def _number(x: Any) -> float:
    """A count, or 0 for what is none."""
    if isinstance(x, bool) or not isinstance(x, int | float):
        return 0.0
    return float(x) if 0 <= x < _LARGEST and math.isfinite(x) else 0.0


def _code_of(artifact: Artifact) -> str:
    """What two programs have in common that are the same to the GPU."""
    try:
        cubin = code_digest(artifact.code)
    except GputuneError:
        return ""
    told = [artifact.cuda.get("host"), artifact.arguments]
    text = cubin + json.dumps(told, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()
