"""What does lowering need to know about the processor?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CpuLimits:
    """Sizes that steer vectors, register tiles and threads.

    vector_bytes: bytes of a vector register; num_registers: vector registers of a core;
    num_cores: threads that a parallel loop may use; statements: of a kernel, written-out loops
    counted in full, before unrolling stops.
    """

    vector_bytes: int = 64
    num_registers: int = 32
    num_cores: int = 1
    statements: int = 400

    @staticmethod
    def of(target: Any) -> CpuLimits:
        """The limits of anything with `vector_bytes`, `num_vector_registers` and `num_cores`."""
        return CpuLimits(target.vector_bytes, target.num_vector_registers, target.num_cores)

    @property
    def tile_registers(self) -> int:
        """Vector registers that an accumulator tile may take; the rest hold operands."""
        return self.num_registers - 4
