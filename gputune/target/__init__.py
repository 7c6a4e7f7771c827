"""What machine is a program compiled for?"""

from __future__ import annotations

from .gpu import GpuLimits, limits_of, occupancy
from .target import Target

__all__ = ["GpuLimits", "Target", "limits_of", "occupancy"]
