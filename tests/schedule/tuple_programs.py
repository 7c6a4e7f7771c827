"""Reductions of several values at once, in many spellings."""

from __future__ import annotations

from gputune.ir.nodes import PrimFunc
from gputune.script import from_source

LEAST = {"float32": "-inf", "int32": -(2**31), "int8": -128, "float64": "-inf", "uint8": 0}


def parsed(text: str) -> PrimFunc:
    func = from_source(text)
    assert isinstance(func, PrimFunc)
    return func


def picked(
    index: str, value: str, *, dtype: str = "float32", start: str = "-1",
    least: str = "T.min_value",
    payload: str = "vk", kind: str = "int32", m: int = 4, n: int = 13,
) -> PrimFunc:  # fmt: skip
    """An index and a value of each row; `{x}` is the new value, `{p}` the new index."""
    x, p = "X[vi, vk]", payload
    return parsed(
        f"""
@T.prim_func
def f(X: T.Buffer(({m}, {n}), "{dtype}"), P: T.Buffer(({m}, {n}), "{kind}"),
      J: T.Buffer(({m},), "{kind}"), V: T.Buffer(({m},), "{dtype}")):
    for i, k in T.grid({m}, {n}):
        with T.block("A"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                J[vi] = T.{kind}({start})
                V[vi] = {least}("{dtype}")
            j: T.{kind} = {index.format(x=x, p=p)}
            v: T.{dtype} = {value.format(x=x, p=p)}
            J[vi] = j
            V[vi] = v
"""
    )


GREATER = "T.max_value"
SPELLINGS: dict[str, PrimFunc] = {
    "argmax": picked(
        "T.Select(V[vi] >= {x}, J[vi], {p})", "T.Select(V[vi] >= {x}, V[vi], {x})"
    ),
    "argmax of the smaller index": picked(
        "T.Select(V[vi] > {x} or (V[vi] == {x} and J[vi] < {p}), J[vi], {p})",
        "T.Select(V[vi] > {x}, V[vi], {x})",
    ),
    "argmin": picked(
        "T.Select(V[vi] <= {x}, J[vi], {p})", "T.Select(V[vi] <= {x}, V[vi], {x})",
        least=GREATER,
    ),
    "argmin of the smaller index": picked(
        "T.Select(V[vi] < {x} or (V[vi] == {x} and J[vi] < {p}), J[vi], {p})",
        "T.Select(V[vi] < {x}, V[vi], {x})", least=GREATER,
    ),
    "new value first": picked("T.Select({x} > V[vi], {p}, J[vi])", "T.max({x}, V[vi])"),
    "not": picked(
        "T.Select(not ({x} > V[vi]), J[vi], {p})", "T.if_then_else({x} <= V[vi], V[vi], {x})"
    ),
    "last of equals": picked(
        "T.Select(V[vi] > {x}, J[vi], {p})", "T.Select(V[vi] > {x}, V[vi], {x})"
    ),
    "last argmin": picked("T.if_then_else({x} <= V[vi], {p}, J[vi])", "T.min(V[vi], {x})",
                          least=GREATER),
    "larger index": picked(
        "T.Select({x} > V[vi] or ({x} == V[vi] and {p} > J[vi]), {p}, J[vi])", "T.max(V[vi], {x})"
    ),
    "three ways": picked(
        "T.Select({x} == V[vi], T.min(J[vi], {p}), T.Select({x} < V[vi], J[vi], {p}))",
        "T.max(V[vi], {x})", start="1000",
    ),
    "bytes": picked(
        "T.Select(V[vi] >= {x}, J[vi], {p})", "T.max(V[vi], {x})", dtype="int8", kind="int64",
        payload='T.Cast("int64", vk)',
    ),
    "offset index": picked(
        "T.Select(V[vi] >= {x}, J[vi], {p})", "T.max(V[vi], {x})", payload="vk * 3 + 5", start="5"
    ),
}  # fmt: skip


def payload_given(tie: bool = False) -> PrimFunc:
    """The payload is data, so it says nothing about the order."""
    cond = "V[vi] >= {x}"
    if tie:
        cond = "V[vi] > {x} or (V[vi] == {x} and J[vi] < {p})"
    return picked(f"T.Select({cond}, J[vi], {{p}})", "T.max(V[vi], {x})", payload="P[vi, vk]")


def two_sums(n: int = 13, dtype: str = "float32") -> PrimFunc:
    """The sum and the sum of squares, as for a variance."""
    return parsed(
        f"""
@T.prim_func
def f(X: T.Buffer((4, {n}), "{dtype}"), S: T.Buffer((4,), "{dtype}"), Q: T.Buffer((4,), "{dtype}")):
    for i, k in T.grid(4, {n}):
        with T.block("S"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                S[vi] = T.{dtype}(0)
                Q[vi] = T.{dtype}(2)
            s: T.{dtype} = S[vi] + X[vi, vk]
            q: T.{dtype} = X[vi, vk] * X[vi, vk] + Q[vi]
            S[vi] = s
            Q[vi] = q
"""
    )


def spread() -> PrimFunc:
    """Minimum, maximum, sum and product at once, without variables."""
    return parsed(
        """
@T.prim_func
def f(X: T.Buffer((3, 7), "int32"), A: T.Buffer((3,), "int32"), B: T.Buffer((3,), "int32"),
      C: T.Buffer((3,), "int32"), D: T.Buffer((3,), "int32")):
    for i, k in T.grid(3, 7):
        with T.block("R"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                A[vi] = 100
                B[vi] = -100
                C[vi] = 0
                D[vi] = 1
            A[vi] = T.min(A[vi], X[vi, vk])
            B[vi] = T.max(X[vi, vk], B[vi])
            C[vi] = C[vi] + X[vi, vk]
            D[vi] = D[vi] * X[vi, vk]
"""
    )


def plane_argmax() -> PrimFunc:
    """The greatest element of each image, with row and column: the position is told by both."""
    return parsed(
        """
@T.prim_func
def f(X: T.Buffer((2, 5, 6), "float32"), P: T.Buffer((2,), "int32"), C: T.Buffer((2,), "int32"),
      V: T.Buffer((2,), "float32")):
    for i, h, w in T.grid(2, 5, 6):
        with T.block("A"):
            vi, vh, vw = T.axis.remap("SRR", [i, h, w])
            with T.init():
                P[vi] = -1
                C[vi] = -1
                V[vi] = T.min_value("float32")
            p: T.int32 = T.Select(X[vi, vh, vw] > V[vi], vh * 6 + vw, P[vi])
            c: T.int32 = T.Select(X[vi, vh, vw] > V[vi], vw, C[vi])
            V[vi] = T.max(V[vi], X[vi, vh, vw])
            P[vi] = p
            C[vi] = c
"""
    )


def plane_ties(
    position: str = "vh * 6 + vw", start: str = "1000", before: str = "<"
) -> PrimFunc:  # fmt: skip
    """The same, with the tie decided by the position; equal positions would leave it open."""
    cond = f"X[vi, vh, vw] > V[vi] or (X[vi, vh, vw] == V[vi] and {position} {before} P[vi])"
    return parsed(
        f"""
@T.prim_func
def f(X: T.Buffer((2, 5, 6), "float32"), P: T.Buffer((2,), "int32"), C: T.Buffer((2,), "int32"),
      V: T.Buffer((2,), "float32")):
    for i, h, w in T.grid(2, 5, 6):
        with T.block("A"):
            vi, vh, vw = T.axis.remap("SRR", [i, h, w])
            with T.init():
                P[vi] = {start}
                C[vi] = 7
                V[vi] = T.min_value("float32")
            better: T.bool = {cond}
            p: T.int32 = T.Select(better, {position}, P[vi])
            c: T.int32 = T.Select(better, vw, C[vi])
            v: T.float32 = T.Select(better, X[vi, vh, vw], V[vi])
            P[vi] = p
            C[vi] = c
            V[vi] = v
"""
    )


def welford(count: str = "float32", n: int = 13) -> PrimFunc:
    """Count, mean and sum of squared deviations, in one pass."""
    total = "c" if count == "float32" else 'T.Cast("float32", c)'
    return parsed(
        f"""
@T.prim_func
def f(X: T.Buffer((4, {n}), "float32"), M: T.Buffer((4,), "float32"), N: T.Buffer((4,), "{count}"),
      Q: T.Buffer((4,), "float32")):
    for i, k in T.grid(4, {n}):
        with T.block("W"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                M[vi] = 0.0
                N[vi] = T.{count}(0)
                Q[vi] = 0.0
            c: T.{count} = N[vi] + T.{count}(1)
            m: T.float32 = M[vi] + (X[vi, vk] - M[vi]) / {total}
            q: T.float32 = Q[vi] + (X[vi, vk] - m) * (X[vi, vk] - M[vi])
            N[vi] = c
            M[vi] = m
            Q[vi] = q
"""
    )


def online_softmax(exp: str = "exp", n: int = 13) -> PrimFunc:
    """The maximum of each row, and the sum of powers relative to it."""
    return parsed(
        f"""
@T.prim_func
def f(X: T.Buffer((4, {n}), "float32"), M: T.Buffer((4,), "float32"),
      S: T.Buffer((4,), "float32")):
    for i, k in T.grid(4, {n}):
        with T.block("L"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                M[vi] = T.min_value("float32")
                S[vi] = 0.0
            m: T.float32 = T.max(M[vi], X[vi, vk])
            s: T.float32 = S[vi] * T.{exp}(M[vi] - m) + T.{exp}(X[vi, vk] - m)
            M[vi] = m
            S[vi] = s
"""
    )


def block(init: str, body: str, *, shape: str = "(4,)", at: str = "vi") -> PrimFunc:
    """A reduction of X into A and B by the given statements."""

    def lines(text: str, depth: int) -> str:
        return "\n".join(" " * depth + x for x in text.strip().splitlines())

    return parsed(
        f"""
@T.prim_func
def f(X: T.Buffer((4, 7), "float32"), A: T.Buffer((4,), "float32"),
      B: T.Buffer({shape}, "float32")):
    for i, k in T.grid(4, 7):
        with T.block("R"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
{lines(init, 16)}
{lines(body, 12)}
"""
    )


def plane_axes() -> PrimFunc:
    """Argmax along the last axis of three."""
    return parsed(
        """
@T.prim_func
def f(X: T.Buffer((2, 3, 7), "float32"), J: T.Buffer((2, 3), "int32"),
      V: T.Buffer((2, 3), "float32")):
    for i, j, k in T.grid(2, 3, 7):
        with T.block("A"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                J[vi, vj] = -1
                V[vi, vj] = T.min_value("float32")
            w: T.bool = V[vi, vj] >= X[vi, vj, vk]
            p: T.int32 = T.Select(w, J[vi, vj], vk)
            V[vi, vj] = T.Select(w, V[vi, vj], X[vi, vj, vk])
            J[vi, vj] = p
"""
    )
