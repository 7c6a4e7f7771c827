"""How is a program written? As Python text that is parsed, never run.

`from gputune.script import tir as T, relax as R, ir as I` gives the language; `from_source` reads
the text that `PrimFunc.script()` and `IRModule.script()` print, and runs nothing of it.

Graph functions (`@R.function`) are what `graphs.py` reads. Everything else is TVMScript's tensor
language. Forms that gputune prints beside it:
`T.Range(min, extent)` for a region or domain whose end would not give the extent back exactly;
`T.serial(begin, extent=n, dtype="int64")` likewise for loops; `A.vload([i], predicate=mask)` and
`A.vstore([i], value, predicate=mask)` for masked accesses; `T.Let(body, where={x: value})` in
expressions, `x: T.int32 = value` (to the end of the suite) or `with T.LetStmt(value) as x:` among
statements; `B = T.decl_buffer(...)` or `with T.decl_buffer(...) as B:` for allocations of lowered
code; `T.call_intrin("dtype", "name", ...)` for any other intrinsic; `T.prim_func(private=True)` for
a function without the attribute "global_symbol".

Numbers spelled out are kept (`x * 1` stays a product); captured Python values fold.
"""

from __future__ import annotations

from . import ir, relax, tir
from .ir import ir_module
from .parser import from_source
from .tir import prim_func

__all__ = ["from_source", "ir", "ir_module", "prim_func", "relax", "tir"]
