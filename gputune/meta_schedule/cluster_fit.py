"""What must a worker of a cluster offer, and why is one of no use?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.cuda_device import runs_on
from ..target import Target, host
from .remote import BUILD, GPU


@dataclass(frozen=True, slots=True)
class Need:
    """What a worker must offer.

    Attributes:
        place: one of `remote`'s: beside others, alone on the processor, alone on a GPU.
        target: what programs are compiled for.
        resource: of Dask, of which a request takes one; "": none.
        mixed: unequal processors or GPUs will do, as long as the code runs there.
        priority: requests with a larger one are served first.
    """

    place: str
    target: Target
    resource: str = ""
    mixed: bool = False
    priority: int = 0


def models(facts: Mapping[str, Any]) -> list[str]:
    """The models of the GPUs of a machine (`remote.describe`)."""
    return [g["name"] for g in facts["gpus"]]


def unfit(facts: Mapping[str, Any], resources: Mapping[str, float], need: Need) -> str:
    """Why a worker cannot do it, or "".

    Args:
        facts: what it says of itself.
        resources: what it announces to Dask.
    """
    if need.resource and resources.get(need.resource, 0) < 1:
        offer = f'dask worker --resources "{need.resource}=1"'
        return f"it announces no resource {need.resource} ({offer})"
    if need.place == BUILD:
        return _unfit_to_build(facts, need.target)
    if need.place == GPU:
        return _unfit_gpu(facts, need)
    return _unfit_processor(facts, need)


def _unfit_to_build(facts: Mapping[str, Any], target: Target) -> str:
    if facts["triple"] != host.triple():
        return f"it compiles for {facts['triple']}, this machine for {host.triple()}"
    if target.kind == "cuda" and not facts["cuda_compiler"]:
        return "it has neither NVRTC nor nvcc"
    return ""


def _unfit_processor(facts: Mapping[str, Any], need: Need) -> str:
    target = need.target
    if target.kind != "llvm":
        return ""  # host execution: any will do
    wanted = {w[1:] for w in target.mattr.split(",") if w.startswith("+")}
    missing = sorted((wanted | host.enabled(target.mcpu, target.mattr)) - set(facts["features"]))
    if missing:
        more = ", ..." if len(missing) > 4 else ""
        return f"its processor ({facts['cpu']}) lacks {', '.join(missing[:4])}{more} of the target"
    if facts["device"] != target.device_key and not need.mixed:
        return (
            f"its processor is another model ({facts['device']}), whose times do not rank with "
            f"those of {target.device_key} (mixed=True)"
        )
    return ""


def _unfit_gpu(facts: Mapping[str, Any], need: Need) -> str:
    gpus = facts["gpus"]
    if not gpus:
        return f"it has no GPU to use: {facts['gpu_problem']}"
    for g in gpus:
        if not runs_on(need.target.arch, g["arch"]):
            return f"its {g['name']} ({g['arch']}) does not run code for {need.target.arch}"
    names = list(dict.fromkeys(models(facts)))
    if len(names) > 1 and not need.mixed:
        return f"its GPUs are of different models ({', '.join(names)}), which do not rank together"
    return ""
