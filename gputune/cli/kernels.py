"""`gputune kernels`: which operators does the library have, at which sizes?"""

from __future__ import annotations

import click

from gputune.kernels import KERNELS, SUITE

EXAMPLES = """\b
Examples:
  gputune kernels
  gputune kernels conv
"""


@click.command(epilog=EXAMPLES)
@click.argument("words", nargs=-1)
def kernels(words: tuple[str, ...]) -> None:
    """List the kernels that can be tuned by name, with their default sizes.

    With WORDS, only those whose name contains one of them.
    """
    from .display import console, table

    shown = {
        name: k
        for name, k in KERNELS.items()
        if not words or any(w.lower() in name.lower() for w in words)
    }
    rows = []
    for name, k in shown.items():
        mark = "suite" if name in SUITE else ""
        sizes = ", ".join(f"{p}={n}" for p, n in k.shapes.items())
        rows.append((name, sizes, f"{k.flops(**k.shapes) * 1e-6:,.1f}", mark))
    if not rows:
        raise click.UsageError(f"no kernel's name contains {' or '.join(words)}")
    console().print(table(("kernel", "default sizes", "MFLOP", ""), rows, right=(2,)))
