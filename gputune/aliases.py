"""Which second spellings does gputune have, and for whom?

They exist so that a MetaSchedule tutorial runs with `import gputune as tvm`, and nowhere else does
a thing have two names. An alias is a namespace or a name; what it stands for is imported
when used. `INSIDE` holds those that stand in rooms of gputune which TVM has too (`tvm.ir`,
`tvm.runtime`): the rooms ask for them when they are asked for a name that they do not have.

A namespace is a module to Python: `import gputune.tir.analysis`, `from gputune.s_tir import
Schedule`. `MODULES` holds those that are whole modules of gputune under a second name.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


def _under(prefix: str, *tables: dict[str, str]) -> dict[str, str]:
    """The names of some tables as names of an inner namespace."""
    return {f"{prefix}.{name}": spec for table in tables for name, spec in table.items()}


_SCHEDULE = {
    "Schedule": "schedule:Schedule",
    "Trace": "schedule:Trace",
    "Instruction": "schedule:Instruction",
    "InstructionKind": "schedule:InstructionKind",
    "ScheduleError": "errors:ScheduleError",
    "ScheduleState": "schedule:ScheduleState",
    "StmtSRef": "schedule:StmtSRef",
    "BlockScope": "schedule:SBlockScope",
    "SBlockScope": "schedule:SBlockScope",
    "Dependency": "schedule:Dependency",
    "DepKind": "schedule:DepKind",
    "BlockRV": "schedule:BlockRV",
    "SBlockRV": "schedule:BlockRV",
    "LoopRV": "schedule:LoopRV",
    "ExprRV": "schedule:ExprRV",
}
_OF_PROGRAMS = {
    "OOBChecker": "analysis:OOBChecker",
    "estimate_tir_flops": "analysis:estimate_tir_flops",
    "find_anchor_block": "analysis:find_anchor_sblock",
    "find_anchor_sblock": "analysis:find_anchor_sblock",
    "calculate_allocated_bytes": "analysis:calculate_allocated_bytes",
    "verify_gpu_code": "analysis:verify_gpu_code",
    "has_if_then_else": "analysis:has_if_then_else",
    "get_block_access_region": "analysis:get_sblock_access_region",
    "get_sblock_access_region": "analysis:get_sblock_access_region",
    "check_in_bounds": "analysis:check_in_bounds",
    "find_out_of_bounds": "analysis:find_out_of_bounds",
    "is_output_block": "analysis:is_output_block",
    "is_trivial_binding": "analysis:is_trivial_binding",
}
_OF_SCHEDULES = {
    "suggest_index_map": "analysis:suggest_index_map",
    "get_tensorize_loop_mapping": "analysis:get_tensorize_loop_mapping",
    "get_auto_tensorize_mapping_info": "analysis:get_auto_tensorize_mapping_info",
    "TensorizeInfo": "analysis:TensorizeInfo",
    "AutoTensorizeMappingInfo": "analysis:AutoTensorizeMappingInfo",
    "is_output_block": "analysis:is_output_block",
    "is_trivial_binding": "analysis:is_trivial_binding",
}
_NODES = {
    **{
        name: f"ir.nodes:{name}"
        for name in (
            "Broadcast", "Buffer", "BufferLoad", "BufferRegion", "BufferStore", "Call", "Cast",
            "Evaluate", "FloatImm", "For", "IfThenElse", "IntImm", "IterVar", "Let", "LetStmt",
            "Not", "PrimFunc", "Ramp", "Select", "Shuffle", "StringImm", "Var",
        )
    },
    "Block": "ir.nodes:Block",
    "SBlock": "ir.nodes:Block",
    "MatchBufferRegion": "ir.nodes:MatchBuffer",
    **{
        name: f"script.tir:{name}"
        for name in (
            "ceildiv", "floordiv", "floormod", "if_then_else", "indexdiv", "indexmod", "max_value",
            "min_value", "truncdiv", "truncmod",
        )
    },
}  # fmt: skip
_INTRINS = {
    "x86.VNNI_DOT_16x4_INTRIN": "=dot_16x4_vnni",
    "x86.AVX512_DOT_16x4_INTRIN": "=dot_16x4_avx512",
    "arm_cpu.ARM_DOT_4x4_i8_NEON_INTRIN": "=dot_4x4_i8i8s32_neon",
    "arm_cpu.ARM_DOT_4x4_i8_SDOT_INTRIN": "=dot_4x4_i8i8s32_sdot",
    "arm_cpu.ARM_DOT_4x4_u8_UDOT_INTRIN": "=dot_4x4_u8u8u32_udot",
    "arm_cpu.ARM_DOT_4x4_u8_HDOT_INTRIN": "=dot_4x4_u8u8i32_hdot",
}


def _wmma() -> dict[str, str]:
    """The constants that hold the names of WMMA's intrinsics."""
    out = {}
    for short in ("f16", "s8"):
        for operand in ("a", "b", "b_trans"):
            for scope, word in (("shared", ""), ("shared_dyn", "_DYN")):
                constant = f"WMMA_LOAD_16x16x16_{short}_{operand}{word}_INTRIN".upper()
                out[constant] = f"=wmma_load_16x16x16_{short}_{operand}_{scope}"
    for short in ("f32", "f16", "s32"):
        out[f"WMMA_FILL_16x16x16_{short}_INTRIN".upper()] = f"=wmma_fill_16x16x16_{short}"
        for scope in ("shared", "shared_dyn", "global"):
            constant = f"WMMA_STORE_16x16x16_{short}_{scope}_INTRIN".upper()
            out[constant] = f"=wmma_store_16x16x16_{short}_{scope}"
    out = {name.replace("16X16X16", "16x16x16"): spec for name, spec in out.items()}
    for kind in ("f16f16f32", "f16f16f16", "s8s8s32"):
        for tail, word in (("", ""), ("_trans", "_TRANS")):
            constant = f"WMMA_SYNC_16x16x16_{kind}{word}_INTRIN"
            out[constant] = f"=wmma_sync_16x16x16_{kind}{tail}"
    return _under("cuda", out)


# TVM has moved what is about schedules from tir to s_tir, and what is about loops to tirx: a
# program may name either.
_TIR: dict[str, str] = {
    **_SCHEDULE,
    **_NODES,
    "IndexMap": "ir.index_map:IndexMap",
    "TensorIntrin": "target.intrin:TensorIntrin",
    **_under("schedule", _SCHEDULE),
    **_under("schedule.schedule", _SCHEDULE),
    **_under("schedule.analysis", _OF_PROGRAMS, _OF_SCHEDULES),
    "schedule.trace.Trace": "schedule:Trace",
    "schedule.state.ScheduleState": "schedule:ScheduleState",
    "schedule.instruction.Instruction": "schedule:Instruction",
    "schedule.instruction.InstructionKind": "schedule:InstructionKind",
    **_under("analysis", _OF_PROGRAMS, _OF_SCHEDULES),
    **_under("tensor_intrin", _INTRINS, _wmma()),
    "transform.DefaultGPUSchedule": "default_gpu_schedule:DefaultGPUSchedule",
}

ALIASES: dict[str, str | dict[str, str]] = {
    "tir": _TIR,
    "s_tir": _TIR,
    "tirx": _TIR,
    "nd": {
        "array": "runtime.ndarray:array",
        "empty": "runtime.ndarray:empty",
        "NDArray": "runtime.ndarray:NDArray",
        "cpu": "runtime.ndarray:cpu",
    },
    "cpu": "runtime.ndarray:cpu",
    "cuda": "runtime.ndarray:cuda",
    "compile": "relax.executable:compile",
    "get_global_func": "runtime.external:get_global_func",
    "register_global_func": "runtime.external:register_func",
    "TVMError": "errors:GputuneError",
}
INSIDE: dict[str, dict[str, str]] = {
    "ir": {
        "GlobalVar": "ir.graph:GlobalVar",
        "module.IRModule": "ir.nodes:IRModule",
    },
    "runtime": {
        "tensor": "runtime.ndarray:array",
        "NDArray": "runtime.ndarray:NDArray",
        "Module": "runtime.module:Module",
    },
}
MODULES = {"s_tir.meta_schedule": "meta_schedule", "script.tirx": "script.tir"}
"""Modules under a second name, with all that is in them."""


def _load(spec: str) -> Any:
    """What "module:name" stands for; "=text" is that text."""
    if spec.startswith("="):
        return spec[1:]
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)


def _inner(table: dict[str, str], name: str) -> dict[str, str]:
    """The table of the namespace `name` in that of another; empty if there is none."""
    start = name + "."
    return {k[len(start) :]: v for k, v in table.items() if k.startswith(start)}


class _Namespace(ModuleType):
    """The names of an alias that is a namespace, each imported when first used."""

    def __init__(self, name: str, table: dict[str, str], modules: Sequence[str] = ()) -> None:
        super().__init__(name, f"What TVM has under {name.partition('.')[2]}, by its names there.")
        self.__dict__["_table"] = table
        self.__dict__["__all__"] = sorted({k.partition(".")[0] for k in table} | {*modules})

    def __getattr__(self, name: str) -> Any:
        table: dict[str, str] = self.__dict__["_table"]
        if name in table:
            value = _load(table[name])
        elif name in self.__dict__["__all__"]:
            value = importlib.import_module(f"{self.__name__}.{name}")
        else:
            known = ", ".join(self.__dict__["__all__"])
            raise AttributeError(
                f"module {self.__name__!r} has no attribute {name!r}; it has {known}"
            )
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__["__all__"], *self.__dict__})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the namespaces and the modules of the tables here."""

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module of that name, if it is one of ours."""
        package, _, rest = name.partition(".")
        if package != __package__ or not (_module_of(rest) or _table_of(rest)):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """An empty module, or the namespace."""
        name = spec.name.partition(".")[2]
        modules = [k[len(name) + 1 :] for k in MODULES if k.startswith(name + ".")]
        return _Namespace(spec.name, _table_of(name), modules)

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module that an alias of one stands for in its place."""
        real = _module_of(module.__name__.partition(".")[2])
        if real:
            sys.modules[module.__name__] = importlib.import_module(f".{real}", __package__)


def _module_of(name: str) -> str:
    """The module that `name` is an alias of, or ""."""
    for alias, real in MODULES.items():
        if name == alias or name.startswith(alias + "."):
            return real + name[len(alias) :]
    return ""


def _table_of(name: str) -> dict[str, str]:
    """The table of a namespace such as "tir.schedule"; empty if it is none."""
    first, _, rest = name.partition(".")
    table = ALIASES.get(first, INSIDE.get(first, {}))
    if isinstance(table, str) or (not rest and first in INSIDE):
        return {}
    return _inner(table, rest) if rest else table


def install() -> None:
    """Make `import gputune.tir` and the like work."""
    if not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # before files: an alias of a module is that module


def inside(room: str, name: str) -> Any:
    """What the alias `name` in a room stands for; AttributeError if the room has none such."""
    if name in INSIDE[room]:
        return _load(INSIDE[room][name])
    if _table_of(f"{room}.{name}"):
        return importlib.import_module(f"{__package__}.{room}.{name}")
    raise AttributeError(f"module '{__package__}.{room}' has no attribute {name!r}")


def resolve(name: str) -> Any:
    """What an alias stands for."""
    entry = ALIASES[name]
    return (
        _load(entry) if isinstance(entry, str) else importlib.import_module(f".{name}", __package__)
    )
