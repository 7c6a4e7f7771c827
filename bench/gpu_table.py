"""What do the records of the GPU bench show? Tables in Markdown, by family, and means.

Ratios are speeds: the best peer's time over gputune's, above 1 where gputune is faster. A cell in
which gputune is wrong, or has no result, counts as 0.05 in every mean: no cell is left out because
it is bad. Cells that no implementation needs 4 us for are a family of their own, since there the
launch is what is measured. "of ceiling" is the time of the loop that moves as many bytes, or does
as many multiply-adds, whichever takes longer, over gputune's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_cell import DEFAULT, FMA, OURS, STREAM, TUNED
from gpu_cells import CELLS, EVERY
from gpu_plan import done

Record = Mapping[str, Any]
LOST = 0.05
LAUNCH_BOUND = 4e-6
_HEAD = (
    "cell", "us", "p10-p90", "default", "torch", "compile", "CuPy", "Triton", "best peer", "ratio",
    "of ceiling", "by", "rate", "trials", "s", "s to 95 %", "trials to 95 %",
)  # fmt: skip
_LIBRARIES = ("torch", "CuPy")  # cuBLAS and cuDNN: everything of torch's but what it compiles


def last_of_each(records: Iterable[Record]) -> list[Record]:
    """The last record of each cell, a tuned one before one that is not; in the order of `EVERY`."""
    found: dict[str, Record] = {}
    for r in records:
        if "lost" in r:
            continue
        old = found.get(r["cell"])
        if old is None or r.get("tuned") or not old.get("tuned"):
            found[r["cell"]] = r
    order = {name: at for at, name in enumerate(EVERY)}
    return sorted(found.values(), key=lambda r: order.get(r["cell"], len(order)))


# ----------------------------------------------------------------------------- figures
def figures(record: Record) -> dict[str, Any]:
    """What a record shows; seconds and shares. What is not known is left out."""
    s: Mapping[str, float] = record["seconds"]
    ours = s.get(TUNED) if record.get("tuned") else s.get(DEFAULT)
    peers = {n: t for n, t in s.items() if n not in OURS and not n.startswith("ceiling")}
    out: dict[str, Any] = {}
    groups = {
        "torch": [n for n in peers if n.startswith("torch") and "compile" not in n],
        "compile": [n for n in peers if "compile" in n],
        "CuPy": [n for n in peers if n == "CuPy"], "Triton": [n for n in peers if n == "Triton"],
        "library": [n for n in peers if n.startswith(_LIBRARIES) and "compile" not in n],
    }  # fmt: skip
    for key, names in groups.items():
        if names:
            out[key] = min(peers[n] for n in names)
            out[f"x {key}"] = out[key] / ours if ours else LOST
    if peers:
        out["best peer"] = min(peers, key=lambda n: peers[n])
        out["ratio"] = peers[out["best peer"]] / ours if ours else LOST
    out["launch bound"] = bool(ours) and max([ours, *peers.values()]) < LAUNCH_BOUND
    if DEFAULT in s:
        out["default"] = s[DEFAULT]
    if not ours:
        return out
    out["seconds"] = ours
    rounds = record["timed"][TUNED if record.get("tuned") else DEFAULT]["rounds"]
    if len(rounds) >= 2:
        tenths = statistics.quantiles(rounds, n=10, method="inclusive")
        out["p10"], out["p90"] = tenths[0], tenths[-1]
    floors = {}
    if STREAM in s:
        floors["bytes"] = s[STREAM]
    if FMA in s and record.get("fma_flops"):
        floors["FMA"] = record["flops"] / (record["fma_flops"] / s[FMA])
    if floors:
        out["by"] = max(floors, key=lambda n: floors[n])
        out["of ceiling"] = floors[out["by"]] / ours
    if "bytes" in floors:
        out["of bytes"] = floors["bytes"] / ours
    moved = sum(record["bytes"])
    out["rate"] = record["flops"] / ours if out.get("by") == "FMA" else moved / ours
    return out


def geomean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    kept = list(values)
    return math.exp(sum(map(math.log, kept)) / len(kept)) if kept else None


def family(record: Record) -> str:
    """In which line of the summary a record counts."""
    return "launch-bound" if figures(record)["launch bound"] else str(record["family"])


# ----------------------------------------------------------------------------- Markdown
def markdown(records: Iterable[Record], heads: Sequence[Record] = ()) -> str:
    """All tables.

    Args:
        records: of cells.
        heads: of the shards' beginnings: what was measured of the machine.
    """
    cells = last_of_each(records)
    if not cells:
        return "no records"
    groups = _families(cells)
    parts = [_machine(cells, heads), _summary(groups), _asked(cells)]
    for name, members in groups.items():
        parts += [f"### {name}", _rows(_HEAD, [_row(r) for r in members])]
    parts += [_failures(cells), _not_run(cells)]
    return "\n\n".join(p for p in parts if p)


def short(records: Iterable[Record]) -> str:
    """The means alone, and what the issue asks."""
    cells = last_of_each(records)
    return f"{_summary(_families(cells))}\n\n{_asked(cells)}".strip() if cells else "no records"


def _families(cells: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for r in cells:
        groups.setdefault(family(r), []).append(r)
    return groups


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(x.replace("|", "\\|") for x in row) + " |" for row in lines)


def _row(record: Record) -> list[str]:
    f, tuning = figures(record), record.get("tuning", {})

    def us(key: str) -> str:
        return f"{f[key] * 1e6:.1f}" if key in f else "-"

    def share(key: str) -> str:
        return f"{f[key]:.2f}" if key in f else "-"

    spread = f"{f['p10'] * 1e6:.1f}-{f['p90'] * 1e6:.1f}" if "p10" in f else "-"
    unit = "TFLOP/s" if f.get("by") == "FMA" else "GB/s"
    rate = f"{f['rate'] * (1e-12 if unit[0] == 'T' else 1e-9):.4g} {unit}" if "rate" in f else "-"

    def told(key: str, digits: int) -> str:
        return f"{tuning[key]:.{digits}f}" if tuning.get(key) is not None else "-"

    return [
        record["cell"], us("seconds"), spread, us("default"), us("torch"), us("compile"),
        us("CuPy"), us("Triton"), f.get("best peer", "-"), share("ratio"), share("of ceiling"),
        f.get("by", "-"), rate, told("trials", 0), told("wall_s", 1), told("to_95_s", 1),
        told("to_95_trials", 0),
    ]  # fmt: skip


def _machine(cells: Sequence[Record], heads: Sequence[Record]) -> str:
    lines = []
    for r in (*heads, *[c for c in cells if "gpu" in c][-1:]):
        gpu, nvml = r.get("gpu", {}), r.get("nvml_about", {})
        driver = nvml.get("driver", "?") if isinstance(nvml, dict) else "?"
        lines.append(
            f"{gpu.get('name', '?')}, driver {driver}, "
            + ", ".join(f"{n} {v}" for n, v in r.get("versions", {}).items() if v)
            + f", gputune at {r.get('commit', '?')}, {r.get('at', '?')[:10]}"
        )
    clocks = [t["nvml"]["sm_mhz"] for r in cells for t in r["timed"].values() if t.get("nvml")]
    known = [c for c in clocks if c]
    if known:
        lines.append(f"multiprocessor clock while timed: {min(known):.0f} to {max(known):.0f} MHz")
    for h in heads:
        if c := h.get("ceilings"):
            lines.append(
                f"ceilings: clone {c['clone_bytes_s'] * 1e-9:.0f} GB/s, copy "
                f"{c['copy_bytes_s'] * 1e-9:.0f}, read only {c['read_bytes_s'] * 1e-9:.0f}, "
                f"multiply-adds {c['fma_flops_s'] * 1e-12:.1f} TFLOP/s"
            )
    return "\n".join(f"- {x}" for x in dict.fromkeys(lines))


def _summary(groups: Mapping[str, Sequence[Record]]) -> str:
    rows, means = [], []
    every: list[tuple[float, str]] = []
    for name, members in groups.items():
        found = [figures(r) for r in members]
        ratios = [f["ratio"] for f in found if "ratio" in f]
        every += [(f["ratio"], r["cell"]) for f, r in zip(found, members) if "ratio" in f]
        mean = geomean(ratios)
        if mean is not None and name != "launch-bound":
            means.append(mean)
        rows.append([
            name, str(len(members)), _two(mean),
            *(_two(geomean(f[k] for f in found if k in f))
              for k in ("x library", "x compile", "x Triton", "of ceiling")),
            _two(min(ratios, default=None)),
        ])  # fmt: skip
    head = ("family", "cells", "x best peer", "x library", "x torch.compile", "x Triton",
            "of ceiling", "worst")  # fmt: skip
    every.sort()
    below, above = sum(r < 0.9 for r, _ in every), sum(r >= 1 for r, _ in every)
    worst = "; ".join(f"{n} {r:.2f}" for r, n in every[:5])
    return "\n\n".join([
        "Geometric means of speed ratios:", _rows(head, rows),
        f"Mean of the families' means {_two(geomean(means))}; {len(every)} cells with a peer: "
        f"{above} at 1.00 and above, {below} below 0.90. Worst: {worst}.",
    ])  # fmt: skip


def _asked(cells: Sequence[Record]) -> str:
    """The gates of issue "CUDA in full" on a GPU."""
    lines = []
    for r in cells:
        if r["cell"] in {f"matmul {n}x{n}x{n} f32" for n in (1024, 2048, 4096)}:
            f, trials = figures(r), r.get("tuning", {}).get("trials", 0)
            lines.append(
                f"{r['cell']}: {_two(f.get('x library'))} of cuBLAS (0.90 is asked) after "
                f"{trials} trials (256 at most)"
            )
    large = [figures(r) for r in cells if _large_rows(r)]
    if large:
        bytes_ = geomean(f.get("of bytes", LOST) for f in large)
        compiled = geomean(f["x compile"] for f in large if "x compile" in f)
        lines.append(
            f"memory-bound on large rows, {len(large)} cells: {_two(bytes_)} of the copying loop "
            f"(0.88 is asked), {_two(compiled)} x torch.compile (1.00 is asked)"
        )
    convs = [figures(r) for r in cells if r["cell"].split("-")[0] in _SUITE]
    if convs:
        mean = geomean(f["x library"] for f in convs if "x library" in f)
        lines.append(
            f"convolutions of the suite, {len(convs)} cells: {_two(mean)} x cuDNN (1.00 is asked)"
        )
    return "\n".join(["What the issue asks:", "", *(f"- {x}" for x in lines)]) if lines else ""


_SUITE = ("C1D", "C2D", "C3D", "CAP", "DEP", "DIL", "GRP", "T2D", "CBR")
_BY_ROWS = ("softmax", "log-softmax", "cross-entropy", "layer norm", "RMS norm")


def _large_rows(record: Record) -> bool:
    return record["family"] in _BY_ROWS and record["shape"].get("n", 0) >= 4096


def _failures(cells: Sequence[Record]) -> str:
    lines = [f"- {r['cell']}: {n}: {why}" for r in cells for n, why in r["failed"].items()]
    return "\n".join(["Without a time:", "", *lines]) if lines else ""


def _not_run(cells: Sequence[Record]) -> str:
    have = done(cells, tuned=True)
    rest = {s: [c.name for c in group if c.name not in have] for s, group in CELLS.items()}
    lines = [f"- {s}: {', '.join(names)}" for s, names in rest.items() if names]
    return "\n".join(["Not run (tuned):", "", *lines]) if lines else ""


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
