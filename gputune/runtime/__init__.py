"""How are kernels run and observed? Arrays, calls, timing, and worker processes."""

from __future__ import annotations

from typing import Any

from ..aliases import inside


def __getattr__(name: str) -> Any:
    return inside("runtime", name)
