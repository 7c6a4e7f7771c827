"""How is a program rearranged? Primitives, traces, schedules."""

from .dim import Dim
from .handles import BlockRV, ExprRV, LoopRV
from .primitive import KINDS, InstructionKind, primitive
from .schedule import Schedule
from .trace import Instruction, Trace

__all__ = [
    "KINDS",
    "BlockRV",
    "Dim",
    "ExprRV",
    "Instruction",
    "InstructionKind",
    "LoopRV",
    "Schedule",
    "Trace",
    "primitive",
]
