"""Which second spellings does gputune have, and for whom?

They exist so that a MetaSchedule tutorial runs with `import gputune as tvm`, and nowhere else does
a thing have two names. An alias is a namespace or a name; what it stands for is imported
when used. `INSIDE` holds those that stand in rooms of gputune which TVM has too (`tvm.ir`,
`tvm.runtime`): the rooms ask for them when they are asked for a name that they do not have.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

ALIASES: dict[str, str | dict[str, str]] = {
    "tir": {
        "Schedule": "schedule:Schedule",
        "PrimFunc": "ir.nodes:PrimFunc",
        "Var": "ir.nodes:Var",
        "BlockRV": "schedule:BlockRV",
        "ScheduleError": "errors:ScheduleError",
        "schedule.Trace": "schedule:Trace",
        "schedule.BlockRV": "schedule:BlockRV",
        "schedule.LoopRV": "schedule:LoopRV",
        "schedule.Instruction": "schedule:Instruction",
        "schedule.InstructionKind": "schedule:InstructionKind",
        "schedule.ScheduleError": "errors:ScheduleError",
        "schedule.ScheduleState": "schedule:ScheduleState",
        "schedule.StmtSRef": "schedule:StmtSRef",
        "schedule.BlockScope": "schedule:SBlockScope",
        "schedule.SBlockScope": "schedule:SBlockScope",
        "schedule.Dependency": "schedule:Dependency",
        "schedule.DepKind": "schedule:DepKind",
        "TensorIntrin": "target.intrin:TensorIntrin",
        "ScheduleState": "schedule:ScheduleState",
        "StmtSRef": "schedule:StmtSRef",
        "analysis.estimate_tir_flops": "analysis:estimate_tir_flops",
        "analysis.find_anchor_block": "analysis:find_anchor_sblock",
        "analysis.find_anchor_sblock": "analysis:find_anchor_sblock",
        "analysis.calculate_allocated_bytes": "analysis:calculate_allocated_bytes",
        "analysis.verify_gpu_code": "analysis:verify_gpu_code",
        "analysis.has_if_then_else": "analysis:has_if_then_else",
        "analysis.get_block_access_region": "analysis:get_sblock_access_region",
        "analysis.get_sblock_access_region": "analysis:get_sblock_access_region",
        "schedule.analysis.suggest_index_map": "analysis:suggest_index_map",
        "schedule.analysis.get_tensorize_loop_mapping": "analysis:get_tensorize_loop_mapping",
        "schedule.analysis.get_auto_tensorize_mapping_info": (
            "analysis:get_auto_tensorize_mapping_info"
        ),
        "schedule.analysis.is_output_block": "analysis:is_output_block",
        "schedule.analysis.is_trivial_binding": "analysis:is_trivial_binding",
    },
    "s_tir": {"Schedule": "schedule:Schedule", "Trace": "schedule:Trace"},
    "nd": {
        "array": "runtime.ndarray:array",
        "empty": "runtime.ndarray:empty",
        "NDArray": "runtime.ndarray:NDArray",
        "cpu": "runtime.ndarray:cpu",
    },
    "cpu": "runtime.ndarray:cpu",
    "cuda": "runtime.ndarray:cuda",
    "compile": "runtime.module:build",
    "TVMError": "errors:GputuneError",
}
INSIDE: dict[str, dict[str, str]] = {
    "ir": {"module.IRModule": "ir.nodes:IRModule"},
    "runtime": {
        "tensor": "runtime.ndarray:array",
        "NDArray": "runtime.ndarray:NDArray",
        "Module": "runtime.module:Module",
    },
}


def _load(spec: str) -> Any:
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)


class _Namespace(SimpleNamespace):
    """The names of an alias that is a namespace, each imported when first used."""

    def __getattr__(self, name: str) -> Any:
        table: dict[str, str] = self.__dict__["_table"]
        if name in table:
            value = _load(table[name])
        else:
            inner = {k[len(name) + 1 :]: v for k, v in table.items() if k.startswith(name + ".")}
            if not inner:
                raise AttributeError(f"this alias has no name {name!r}; it has {sorted(table)}")
            value = _Namespace(_table=inner)
        self.__dict__[name] = value
        return value


def inside(room: str, name: str) -> Any:
    """What the alias `name` in a room stands for; AttributeError if the room has none such."""
    try:
        return getattr(_Namespace(_table=INSIDE[room]), name)
    except AttributeError:
        message = f"module '{__package__}.{room}' has no attribute {name!r}"
        raise AttributeError(message) from None


def resolve(name: str) -> Any:
    """What an alias stands for."""
    entry = ALIASES[name]
    return _load(entry) if isinstance(entry, str) else _Namespace(_table=entry)
