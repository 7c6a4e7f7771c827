"""Which registers hold the tiles of AMX, and may this process use them?

A buffer in the scope `amx.tmm` is an array of tiles. Each tile gets one of the eight registers of a
core when it is first used and keeps it until the buffer goes. The registers are named by number in
LLVM's instructions (`llvm.x86.tdpbf16ps`, not the `.internal` ones, which leave the choice to
LLVM): so no tile is ever moved or spilled unasked.

A function that uses tiles sets all registers to 16 rows of 64 bytes when it begins, and gives them
back when it ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from dataclasses import dataclass, field
from functools import cache

from ...errors import BuildError
from ...ir.nodes import Buffer
from ...ir.ops import AMX, TILE
from ...target import host

REGISTERS = 8
ROW_BYTES = 64
CONFIG = "gputune.amx"
"""The constant with the shapes of the registers; a kernel that has it needs `refusal() == ""`."""

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64


@dataclass(slots=True)
class Tiles:
    """The registers of one function.

    Attributes:
        used: whether there are any in the function.
        free: numbers of those that hold nothing.
        held: for each buffer, (first element, elements from a row to the next, columns) of a tile
            -> number.
    """

    used: bool = False
    free: list[int] = field(default_factory=lambda: list(range(REGISTERS)))
    held: dict[Buffer, dict[tuple[int, int, int], int]] = field(default_factory=dict)

    def enter(self, b: Buffer) -> None:
        """Room for the tiles of a buffer, from now on."""
        self.used = True
        self.held[b] = {}

    def leave(self, b: Buffer) -> None:
        """The buffer goes."""
        self.free = sorted([*self.free, *self.held.pop(b).values()])

    def number(self, b: Buffer, tile: tuple[int, int, int]) -> int:
        """The register of a tile."""
        mine = self.held.get(b)
        if mine is None:
            raise BuildError(
                f"buffer {b.name} is in {AMX} memory, but not allocated by the kernel, or outside "
                "a parallel loop that uses it",
                hint="load tiles inside the innermost parallel loop, from a buffer in memory",
            )
        found = mine.get(tile)
        if found is not None:
            return found
        elements = _elements(tile)
        if any(elements & _elements(other) for other in mine):
            raise BuildError(
                f"two tiles of buffer {b.name} overlap",
                hint="let all instructions on it use the same tiles",
            )
        if not self.free:
            count = ", ".join(f"{x.name} {len(t)}" for x, t in self.held.items() if t)
            raise BuildError(
                f"buffer {b.name} needs one more AMX tile, and all {REGISTERS} are in use: {count}",
                hint="make the tile of sums smaller, such as 2 x 2, and compute_at the loads of "
                "operands under the reduction loop",
            )
        mine[tile] = self.free.pop(0)
        return mine[tile]


def _elements(tile: tuple[int, int, int]) -> set[int]:
    first, stride, width = tile
    return {first + r * stride + c for r in range(TILE) for c in range(width)}


def is_tiles(b: Buffer) -> bool:
    """Does the buffer lie in tile registers?"""
    return b.scope == AMX


# ----------------------------------------------------------------------------- the text
def constant() -> str:
    """The shapes of the registers, for `ldtilecfg`: palette 1, bytes of a row, rows."""
    config = bytearray(64)
    config[0] = 1
    for k in range(REGISTERS):
        config[16 + 2 * k] = ROW_BYTES
        config[48 + k] = TILE
    text = "".join(f"\\{b:02X}" for b in config)
    return f'@{CONFIG} = internal constant [64 x i8] c"{text}", align 64'


DECLARES = {
    "llvm.x86.ldtilecfg": "declare void @llvm.x86.ldtilecfg(ptr)",
    "llvm.x86.tilerelease": "declare void @llvm.x86.tilerelease()",
}
BEGIN = f"  call void @llvm.x86.ldtilecfg(ptr @{CONFIG})"
"""What a function that uses tiles does first."""
END = "  call void @llvm.x86.tilerelease()"
"""And what it does last."""


# ----------------------------------------------------------------------------- permission
@cache
def refusal() -> str:
    """Why this process cannot use AMX tiles; "" if it can. The system is asked once: Linux gives
    the 8 KiB of a thread's tiles only to processes that ask for them, for good."""
    if not host.features().get("amx-tile", False):
        return "the processor has no amx-tile, or the system does not save it"
    if not sys.platform.startswith("linux"):
        return f"how to ask for them is not known on {sys.platform}"
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    done = syscall(*[ctypes.c_long(x) for x in (_ARCH_PRCTL, _REQUEST, _TILE_DATA)])
    if done == 0:
        return ""
    code = ctypes.get_errno()
    name = errno.errorcode.get(code, str(code))
    return f"arch_prctl(ARCH_REQ_XCOMP_PERM) failed with {name}, {os.strerror(code).lower()}"


def check_permission(object_code: bytes) -> None:
    """Ask for the tiles if a kernel uses them.

    Raises:
        BuildError: the system or the processor does not give them.
    """
    if CONFIG.encode() not in object_code:
        return
    reason = refusal()
    if reason:
        raise BuildError(
            f"the kernel uses AMX tiles, which this process cannot have: {reason}",
            hint="compile for a target without them (-mattr=-amx-tile), or tensorize with vector "
            "intrinsics such as dot_16x4_vnni",
            code="amx",
        )
