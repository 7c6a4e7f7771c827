"""How do threads of a warp come to each other's registers, and which threads share a warp?

Warps are cut from the threads of a block in their linear order, threadIdx.x running fastest. Where
a reduction is shared by threads, the thread axes fall into *runs*: neighbouring axes that all
reduce, or all do not. What is said about runs here works on sampled sizes as well: the search asks
it before a program is lowered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..ir import walk
from ..ir.nodes import Block, BufferLoad, Call, Expr, For, IfThenElse, IntImm, LetStmt, Var
from ..schedule.dim import maximum, minimum
from ..schedule.tree import Link
from .tiles import WARP

SHUFFLE, SHUFFLE_XOR = "warp_shuffle", "warp_shuffle_xor"
"""`warp_shuffle(value, lane)` is the value that a lane (modulo 32) of the own warp gives to the
same call; `warp_shuffle_xor(value, n)` that of the lane whose number differs from the own in the
bits of n. In lowered code only, and there only as the whole value of a `LetStmt` to which all
threads of the warp come; the lanes that a last, shorter warp lacks are never asked."""
SHUFFLES = (SHUFFLE, SHUFFLE_XOR)


def shuffle(value: Expr, lane: Expr) -> Expr:
    """The value of another lane."""
    return Call(SHUFFLE, (value, lane), value.dtype)


def shuffle_xor(value: Expr, bits: int) -> Expr:
    """The value of the lane across."""
    return Call(SHUFFLE_XOR, (value, IntImm(bits)), value.dtype)


def is_shuffle(e: Expr) -> bool:
    """Is it one of the two?"""
    return type(e) is Call and e.op in SHUFFLES


# ----------------------------------------------------------------------------- runs of threads
def runs_of(axes: Iterable[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """Lengths of the runs, fastest first.

    Args:
        axes: of threadIdx.x, y, z, those that there are: the length, and whether it reduces.
    """
    out: list[tuple[int, bool]] = []
    for n, reduces in axes:
        if out and out[-1][1] == reduces:
            out[-1] = (out[-1][0] * n, reduces)
        else:
            out.append((n, reduces))
    return out


def are_even(runs: Sequence[tuple[int, bool]]) -> int:
    """1 if each run that reduces begins and ends where warps do or where equal parts of warps do,
    else 0."""
    out, size = 1, 1
    for k, (n, reduces) in enumerate(runs):
        size = size * n
        if reduces or k + 1 < len(runs):
            out = out * (1 - minimum(minimum(WARP % size, size % WARP), 1))
    return out


def within_warp(runs: Sequence[tuple[int, bool]]) -> list[int]:
    """How many steps of each run lie within one warp, where runs are even."""
    out: list[int] = []
    size = 1
    for n, _ in runs:
        before, size = size, size * n
        out.append(minimum(size, WARP) // minimum(before, WARP))
    return out


AT_ONCE = 4
"""Results of a thread whose combination waits for one barrier; of more, each for its own."""


def at_once_of(results: int) -> int:
    """How many of a thread's results are combined at a time."""
    few = minimum(maximum(AT_ONCE + 1 - results, 0), 1)
    return few * results + (1 - few)


def exchanged(axes: Sequence[tuple[int, bool]], results: int = 1) -> int:
    """Elements of shared memory that the threads of a block need to combine so many values each.

    None where the threads of a row lie within one warp; else one for each row and warp, if whole
    warps or equal parts of them make up the rows (for each of those that are combined at a time);
    else one for each thread.
    """
    runs = runs_of(axes)
    total, width, lanes = 1, 1, 1
    for (n, reduces), inside in zip(runs, within_warp(runs), strict=True):
        total = total * n
        if reduces:
            width, lanes = width * n, lanes * inside
    even, at_once = are_even(runs), at_once_of(results)
    by_warps = minimum(width // lanes - 1, 1) * (total // lanes) * at_once
    several = minimum(total // width - 1, 1)  # rows, not one
    uneven = several * total + (1 - several) * ((width + WARP - 1) // WARP) * at_once
    beyond = minimum(maximum(total - WARP, 0), 1)  # more than one warp
    return minimum(width - 1, 1) * (even * by_warps + (1 - even) * beyond * uneven)


# ----------------------------------------------------------------------------- who comes by
def loops_of(link: Link) -> list[For]:
    """The loops around a block that each thread runs by itself, outermost first."""
    return [
        f for f in link.loops()
        if f.kind != "thread_binding" or (f.thread or "").startswith("vthread")
    ]  # fmt: skip


def outermost_step(link: Link) -> Link:
    """The link of the outermost of these loops that takes the reduction of the block on; that of
    the block if there is none."""
    first = next((f for f in loops_of(link) if _steps(f, link)), None)
    return link if first is None else next(x for x in link.above() if x.node is first)


def spatial_inside(link: Link) -> list[For]:
    """Those of the loops inside that one that do not: they go through results of a thread."""
    loops = loops_of(link)
    first = next((k for k, f in enumerate(loops) if _steps(f, link)), len(loops))
    return [f for f in loops[first:] if not _steps(f, link)]


def _steps(f: For, link: Link) -> bool:
    b = link.block()
    return any(
        iv.kind == "reduce" and walk.uses_var(v, f.var)
        for iv, v in zip(b.iter_vars, b.iter_values, strict=True)
    )


def come_together(link: Link, threads: Iterable[Var]) -> bool:
    """Do all threads of a block come to a place of the program, the same number of times?

    Args:
        threads: variables that differ from thread to thread.
    """
    own = set(threads)
    for x in reversed(list(link.above())):
        match x.node:
            case Block():
                if x.up is not None:
                    return False
            case For() if x.node.kind != "thread_binding":
                if _differ(own, x.node.min, x.node.extent):
                    return False
            case IfThenElse():
                if _differ(own, x.node.cond):
                    return False
            case LetStmt():
                if _differ(own, x.node.value):
                    own.add(x.node.var)
            case _:
                pass
    return True


def _differ(own: set[Var], *exprs: Expr) -> bool:
    """May threads find different values?"""
    return any(type(x) is BufferLoad or x in own for e in exprs for x in walk.walk_expr(e))
