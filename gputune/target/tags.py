"""Which machine is "nvidia/geforce-rtx-3090"? Names of devices as TVM has them, each a target.

A GPU is its architecture: threads, registers and shared memory follow from that (see `gpu.py`; TVM
gives all of them 48 KiB of shared memory, whatever they have). Architectures are those of NVIDIA's
list "CUDA GPU Compute Capability"; from sm_90 on with the features of that very architecture.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ..errors import TargetError

_GPUS: dict[str, str] = {
    "sm_75": (
        "geforce-gtx-1650 geforce-gtx-1660 geforce-gtx-1660-ti geforce-rtx-2060 geforce-rtx-2070 "
        "geforce-rtx-2080 geforce-rtx-2080-ti nvidia-t4 nvidia-titan-rtx quadro-rtx-4000 "
        "quadro-rtx-5000 quadro-rtx-6000 quadro-rtx-8000 rtx-3000 rtx-4000 rtx-5000 t1000 t2000"
    ),
    "sm_80": "nvidia-a100 nvidia-a30",
    "sm_86": (
        "geforce-rtx-3050 geforce-rtx-3060 geforce-rtx-3060-ti geforce-rtx-3070 "
        "geforce-rtx-3070-ti geforce-rtx-3080 geforce-rtx-3080-ti geforce-rtx-3090 "
        "geforce-rtx-3090-ti nvidia-a10 nvidia-a10g nvidia-a16 nvidia-a2 nvidia-a40 rtx-a2000 "
        "rtx-a4000 rtx-a4500 rtx-a5000 rtx-a6000"
    ),
    "sm_87": "jetson-agx-orin-32gb jetson-agx-orin-64gb jetson-orin-nano jetson-orin-nx",
    "sm_89": (
        "geforce-rtx-4050 geforce-rtx-4060 geforce-rtx-4060-ti geforce-rtx-4070 "
        "geforce-rtx-4070-ti geforce-rtx-4080 geforce-rtx-4090 nvidia-l4 nvidia-l40 nvidia-l40s "
        "rtx-4000-ada rtx-5000-ada rtx-6000-ada"
    ),
    "sm_90a": "nvidia-gh200 nvidia-h100 nvidia-h200",
    "sm_100a": "nvidia-b100 nvidia-b200 nvidia-gb200",
    "sm_103a": "nvidia-b300 nvidia-gb300",
    "sm_110a": "jetson-agx-thor",
    "sm_120a": (
        "geforce-rtx-5050 geforce-rtx-5060 geforce-rtx-5060-ti geforce-rtx-5070 "
        "geforce-rtx-5070-ti geforce-rtx-5080 geforce-rtx-5090"
    ),
    "sm_121a": "nvidia-gb10",
}
"""Architecture: the GPUs that have it."""

_OLDER: dict[str, str] = {
    "sm_53": "jetson-nano jetson-tx1 tegra-x1",
    "sm_60": "quadro-gp100 tesla-p100",
    "sm_61": (
        "geforce-gtx-1050 geforce-gtx-1060 geforce-gtx-1070 geforce-gtx-1070-ti geforce-gtx-1080 "
        "geforce-gtx-1080-ti nvidia-titan-x nvidia-titan-xp quadro-p6000 tesla-p4 tesla-p40"
    ),
    "sm_62": "jetson-tx2",
    "sm_70": "nvidia-titan-v nvidia-v100 quadro-gv100",
    "sm_72": "jetson-agx-xavier",
}
"""The same of GPUs that code is not generated for."""

_CPUS: dict[str, tuple[str, int]] = {
    "c5.large": ("skylake-avx512", 1),
    "c5.xlarge": ("skylake-avx512", 2),
    "c5.2xlarge": ("skylake-avx512", 4),
    "c5.4xlarge": ("skylake-avx512", 8),
    "c5.9xlarge": ("skylake-avx512", 18),
    "c5.12xlarge": ("cascadelake", 24),
    "c5.18xlarge": ("skylake-avx512", 36),
    "c5.24xlarge": ("cascadelake", 48),
}
"""Machines of AWS: processor, and cores."""

TAGS: Mapping[str, Mapping[str, Any]] = {
    **{
        f"nvidia/{name}": {"kind": "cuda", "arch": arch}
        for arch, names in _GPUS.items()
        for name in names.split()
    },
    **{
        f"aws/cpu/{name}": {"kind": "llvm", "mcpu": mcpu, "num-cores": cores}
        for name, (mcpu, cores) in _CPUS.items()
    },
}
"""What each tag stands for."""


def tagged(name: str) -> tuple[str, dict[str, Any]]:
    """Kind and options of a tag.

    Raises:
        TargetError: there is no such tag, names the nearest; or the GPU is older than what code is
            generated for.

    Example:
        >>> tagged("nvidia/nvidia-a100")
        ('cuda', {'arch': 'sm_80'})
    """
    found = TAGS.get(name)
    if found is None:
        raise _unknown(name)
    return str(found["kind"]), {k: v for k, v in found.items() if k != "kind"}


def holding(name: str) -> list[str]:
    """Tags in whose device that of a name is, as "a100" in "nvidia/nvidia-a100"; three at most."""
    device = name.rpartition("/")[2]
    return [tag for tag in TAGS if len(device) > 1 and device in tag.rpartition("/")[2]][:3]


def _unknown(name: str) -> TargetError:
    for arch, names in _OLDER.items():
        if name.removeprefix("nvidia/") in names.split():
            return TargetError(
                f"target tag {name!r}: that GPU is of {arch}, for which no code is generated",
                hint=f"the oldest architecture is {next(iter(_GPUS))}",
                code="target-tag",
            )
    near = holding(name) or difflib.get_close_matches(name, TAGS, n=3, cutoff=0.5)
    hint = 'or name the architecture: "cuda -arch=sm_86"'
    if near:
        hint = f"did you mean {' or '.join(near)}? {hint}"
    return TargetError(f"unknown target tag {name!r}", hint=hint, code="target-tag")
