"""What do the records of `bench/libraries.py` show? Ratios, means, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
FAR = 0.8  # of the floor: below it an operator is listed

# heading, key of `figures`, digits; those in `_MEANS` have a geometric mean
_COLUMNS: dict[str, tuple[tuple[str, str, int], ...]] = {
    "libraries": (
        ("us", "us", 1), ("at 64", "us_64", 1), ("call", "call", 1), ("NumPy", "numpy", 1),
        ("torch", "torch", 1), ("compile", "compile", 1), ("TVM", "tvm", 1),
        ("x peer", "x_peer", 2), ("64 x p.", "x_peer_64", 2), ("x TVM", "x_tvm", 2),
        ("floor", "floor", 2), ("by", "by", 0), ("tuning s", "tuning", 1), ("64 s", "tuning_64", 1),
        ("TVM s", "tvm_tuning", 1), ("x TVM s", "x_tvm_tuning", 1),
    ),
    "sgemm": (
        ("us", "us", 1), ("at 64", "us_64", 1), ("NumPy", "numpy", 1), ("torch", "torch", 1),
        ("x NumPy", "x_numpy", 2), ("x torch", "x_torch", 2), ("GFLOP/s", "gflops", 1),
        ("of peak", "of_peak", 2), ("tuning s", "tuning", 1),
    ),
    "two cores": (
        ("1 core", "one", 1), ("2 cores", "two", 1), ("speedup", "speedup", 2),
        ("s (1)", "tuning_1", 1), ("s (2)", "tuning_2", 1),
    ),
}  # fmt: skip
_MEANS = (
    "x_peer", "x_peer_64", "x_tvm", "floor", "x_tvm_tuning", "x_numpy", "x_torch", "of_peak",
    "speedup",
)  # fmt: skip


def figures(record: Record) -> dict[str, Any]:
    """What a record shows; times in microseconds, what is not known is left out."""
    s: Mapping[str, float] = record["seconds"]

    def best(begin: str) -> float | None:
        return min((t for n, t in s.items() if n.startswith(begin)), default=None)

    out: dict[str, Any] = {
        "us": s.get("gputune"), "us_64": s.get("gputune at 64", s.get("gputune")),
        "call": s.get("call"), "numpy": s.get("NumPy"), "torch": best("torch "),
        "compile": best("torch.compile"), "tvm": s.get("TVM"), "one": s.get("cores 1"),
        "two": s.get("cores 2"),
    }  # fmt: skip
    out = {k: v * 1e6 for k, v in out.items() if v is not None}
    peers = [out[k] for k in ("numpy", "torch", "compile", "tvm") if k in out]
    ours, first, peer = out.get("us"), out.get("us_64"), min(peers, default=None)
    for key, top, bottom in (
        ("x_peer", peer, ours), ("x_peer_64", peer, first), ("x_tvm", out.get("tvm"), ours),
        ("x_numpy", out.get("numpy"), ours), ("x_torch", out.get("torch"), ours),
        ("speedup", out.get("one"), out.get("two")),
    ):  # fmt: skip
        if top and bottom:
            out[key] = top / bottom
    for key, name in (
        ("tuning", "tuning_s"), ("tuning_64", "tuning_s_64"), ("tuning_1", "tuning_s_1"),
        ("tuning_2", "tuning_s_2"),
    ):  # fmt: skip
        if name in record:
            out[key] = record[name]
    if "wall_s" in (tvm := record.get("tvm", {})):
        out["tvm_tuning"] = tvm["wall_s"]
        # of as many trials
        mine = record["tuning_s"] if tvm["trials"] == record["trials"] else record["tuning_s_64"]
        if tvm["trials"] in (record["trials"], 64):
            out["x_tvm_tuning"] = tvm["wall_s"] / mine
    if ours and "peak_flops" in record:
        flops_us = record["flops"] / record["peak_flops"] * 1e6
        stream_us = record["stream_s"] * 1e6
        out["floor"] = max(flops_us, stream_us) / ours
        out["by"] = "FMA" if flops_us > stream_us else "bytes"
        out["of_peak"] = flops_us / ours
        out["gflops"] = record["flops"] / ours * 1e-3
    return out


def columns(bench: str) -> str:
    """The heading."""
    return f"{'operator':17}" + "".join(f"{head:>9}" for head, _, _ in _COLUMNS[bench])


def line(record: Record) -> str:
    """A record as a line, and what failed in it."""
    found = figures(record)
    text = f"{record['operator']:17}" + "".join(
        f"{_cell(found, key, digits):>9}" for _, key, digits in _COLUMNS[record["bench"]]
    )
    return "\n".join([text, *(f"    {n}: {why}" for n, why in record["failed"].items())])


def summary(records: Sequence[Record]) -> str:
    """The means, and the operators that are far from the floor."""
    if not records:
        return ""
    bench = records[0]["bench"]
    found = means(records)
    lines = [
        f"{'geomean':17}"
        + "".join(f"{_cell(found, key, digits):>9}" for _, key, digits in _COLUMNS[bench])
    ]
    return "\n".join([*lines, *far(records)])


def means(records: Iterable[Record]) -> dict[str, float]:
    """Geometric means of the ratios, each over the operators that have it."""
    rows = [figures(r) for r in records]
    out = {}
    for key in _MEANS:
        values = [r[key] for r in rows if key in r]
        if values:
            out[key] = math.exp(sum(map(math.log, values)) / len(values))
    return out


def far(records: Iterable[Record]) -> list[str]:
    """The operators below 0.8 of the floor, the furthest first, with what makes their floor."""
    rows = [(figures(r), r["operator"]) for r in records if r["bench"] == "libraries"]
    below = sorted((f["floor"], name, f["by"]) for f, name in rows if f.get("floor", 1.0) < FAR)
    if not below:
        return []
    words = {"FMA": "the FMA peak", "bytes": "loads and stores"}
    return [
        f"below {FAR} of the floor:",
        *(f"  {name:10} {share:.2f}, floor by {words[by]}" for share, name, by in below),
    ]


def markdown(records: Sequence[Record]) -> str:
    """A table for each bench among the records; of an operator's records the last one counts."""
    parts = []
    for bench, heads in _COLUMNS.items():
        last = {r["operator"]: r for r in records if r["bench"] == bench}
        if not last:
            continue
        rows = [*last.values()]
        cells = [["operator", *(head for head, _, _ in heads)], ["---", *["---:"] * len(heads)]]
        for name, found in [*((r["operator"], figures(r)) for r in rows), ("geomean", means(rows))]:
            cells.append([name, *(_cell(found, key, digits) for _, key, digits in heads)])
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in cells))
        parts += ["\n".join(x)] if (x := far(rows)) else []
        wrong = [f"{r['operator']}: {n}: {why}" for r in rows for n, why in r["failed"].items()]
        parts += ["\n".join(["failed:", *wrong])] if wrong else []
    return "\n\n".join(parts)


def _cell(found: Mapping[str, Any], key: str, digits: int) -> str:
    value = found.get(key)
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.{digits}f}"
