"""How is a program rearranged? Primitives, traces, schedules."""

from .dim import Dim
from .handles import BlockRV, ExprRV, LoopRV
from .intrin_mapping import (
    AutoTensorizeMappingInfo,
    TensorizeInfo,
    find_anchor_block,
    get_auto_tensorize_mapping_info,
    get_tensorize_loop_mapping,
    is_output_block,
    is_trivial_binding,
    tile_with_tensor_intrin,
)
from .primitive import KINDS, InstructionKind, primitive
from .reducers import register_reducer
from .schedule import Schedule
from .state import State
from .trace import Instruction, Trace
from .views import Dependency, DepKind, SBlockScope, ScheduleState, StmtSRef

__all__ = [
    "KINDS",
    "AutoTensorizeMappingInfo",
    "BlockRV",
    "DepKind",
    "Dependency",
    "Dim",
    "ExprRV",
    "Instruction",
    "InstructionKind",
    "LoopRV",
    "SBlockScope",
    "Schedule",
    "ScheduleState",
    "State",
    "StmtSRef",
    "TensorizeInfo",
    "Trace",
    "find_anchor_block",
    "get_auto_tensorize_mapping_info",
    "get_tensorize_loop_mapping",
    "is_output_block",
    "is_trivial_binding",
    "primitive",
    "register_reducer",
    "tile_with_tensor_intrin",
]
