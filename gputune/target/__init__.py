"""What machine is a program compiled for?"""

from __future__ import annotations

from .target import Target

__all__ = ["Target"]
