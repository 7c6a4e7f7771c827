"""Kernels written by hand in LLVM IR, and programs whose signatures they have."""

from __future__ import annotations

from gputune.codegen import llvm
from gputune.ir import build
from gputune.ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferRegion,
    BufferStore,
    Evaluate,
    Expr,
    PrimFunc,
    Range,
    Var,
)
from gputune.runtime.function import Function
from gputune.runtime.native import assemble
from gputune.runtime.signature import signature

# slot i of the arguments
SLOT = """
define internal i64 @slot(ptr %args, i64 %i) alwaysinline {
  %p = getelementptr i64, ptr %args, i64 %i
  %v = load i64, ptr %p
  ret i64 %v
}
"""

# third[i] = first[i] + second[i] for i < count
ADD = (
    SLOT
    + """
define i32 @add(ptr %args, ptr %pool) {
entry:
  %a0 = call i64 @slot(ptr %args, i64 0)
  %b0 = call i64 @slot(ptr %args, i64 1)
  %c0 = call i64 @slot(ptr %args, i64 2)
  %a = inttoptr i64 %a0 to ptr
  %b = inttoptr i64 %b0 to ptr
  %c = inttoptr i64 %c0 to ptr
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %pa = getelementptr float, ptr %a, i64 %i
  %pb = getelementptr float, ptr %b, i64 %i
  %pc = getelementptr float, ptr %c, i64 %i
  %x = load float, ptr %pa
  %y = load float, ptr %pb
  %z = fOP float %x, %y
  store float %z, ptr %pc
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, COUNT
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
"""
)

FOREVER = """
@sink = global i64 0
define i32 @forever(ptr %args, ptr %pool) {
entry:
  br label %loop
loop:
  %v = load volatile i64, ptr @sink
  %w = add i64 %v, 1
  store volatile i64 %w, ptr @sink
  br label %loop
}
"""

CRASH = """
define i32 @crash(ptr %args, ptr %pool) {
  store volatile i32 1, ptr inttoptr (i64 16 to ptr)
  ret i32 0
}
"""

FAILS = """
define i32 @fails(ptr %args, ptr %pool) {
  ret i32 7
}
"""

# Prints to stdout: the protocol must not notice.
CHATTY = """
@text = constant [15 x i8] c"noise on stdout"
declare i64 @write(i32, ptr, i64)
define i32 @chatty(ptr %args, ptr %pool) {
  %n = call i64 @write(i32 1, ptr @text, i64 15)
  ret i32 0
}
"""

# first[i] = second (float32 slot) * third (int64 slot), fourth slot is the symbolic size
SCALE = (
    SLOT
    + """
define i32 @scale(ptr %args, ptr %pool) {
entry:
  %a0 = call i64 @slot(ptr %args, i64 0)
  %s0 = call i64 @slot(ptr %args, i64 1)
  %k = call i64 @slot(ptr %args, i64 2)
  %n = call i64 @slot(ptr %args, i64 3)
  %a = inttoptr i64 %a0 to ptr
  %s1 = trunc i64 %s0 to i32
  %s = bitcast i32 %s1 to float
  %kf = sitofp i64 %k to float
  %v = fmul float %s, %kf
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %p = getelementptr float, ptr %a, i64 %i
  store float %v, ptr %p
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
"""
)


def add_code(count: int, op: str = "add") -> bytes:
    """Object code of `c = a op b` over `count` floats; its symbol is "add"."""
    return assemble(ADD.replace("COUNT", str(count)).replace("fOP", f"f{op}"))


def elementwise(*buffers: Buffer, writes: int = 1, scalars: tuple[Var, ...] = ()) -> PrimFunc:
    """A program that is only a signature: its root block declares that the last `writes` buffers
    are written."""
    handles = [Var(b.name + "_handle", "handle") for b in buffers]
    written = buffers[len(buffers) - writes :]
    regions = tuple(
        BufferRegion(b, tuple(Range(build.const(0), build.expr(n)) for n in b.shape))
        for b in written
    )
    body = Evaluate(build.const(0))
    root = Block(BlockKey(), "root", (), (), build.TRUE, (), regions, body)
    params = (*handles, *scalars)
    return PrimFunc(params, tuple(zip(handles, buffers)), root, (("global_symbol", "add"),))


def stores(buffer: Buffer, value: Expr) -> BufferStore:
    """A store of `value` to the first element."""
    return BufferStore(buffer, value, tuple(build.const(0) for _ in buffer.shape))


def dims(*sizes: int | Expr) -> tuple[Expr, ...]:
    return tuple(build.expr(n) for n in sizes)


def add_function(m: int = 4, n: int = 8, align: int = 0) -> Function:
    """A callable `add(A, B, C)` of (m, n) float32 arrays."""
    a, b, c = (Buffer(x, dims(m, n), align=align) for x in "ABC")
    loaded = llvm.load(add_code(m * n), "add")
    return Function(signature(elementwise(a, b, c), "add"), loaded.address, loaded)
