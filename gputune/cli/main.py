"""What is the command `gputune`? A group of subcommands, and how errors leave it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import click

import gputune
from gputune.errors import GputuneError

from . import check, db, doctor, explain, kernels, primitives, tune, why

BAD_INPUT = 2
INTERRUPTED = 130

EXAMPLES = """\b
Examples:
  gputune tune matmul --seconds 20
  gputune tune conv2d --shape n=1,h=56,w=56,ci=64,co=64 --trials 64 --work-dir tuned
  gputune tune mykernel.py:layernorm --shape 512,768
  gputune db ls tuned
  gputune why tuned
  gputune explain tuned
  gputune check vadd.cu --grid 8 --block 128 c=float32[1000]:out a=float32[1000] n=int32:1000
  gputune kernels
  gputune primitives split
  gputune doctor
"""


class Program(click.Group):
    """The group; whatever goes wrong leaves it as one message, without a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn what the user can mend into a message on stderr and an exit code."""
        try:
            return super().main(*args, **kwargs)
        except GputuneError as e:
            complain(e.message, e.hint)
        except BrokenPipeError:  # `gputune db ls D | head`
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as e:
            where = f"{e.filename}: " if e.filename else ""
            complain(f"{where}{e.strerror or e}")
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(BAD_INPUT)


def complain(message: str, hint: str = "") -> None:
    """One message on stderr."""
    click.echo(f"gputune: error: {message}", err=True)
    if hint:
        click.echo(f"  hint: {hint}", err=True)


@click.group(cls=Program, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gputune.__version__, prog_name="gputune")
def main() -> None:
    """Tune tensor programs: find fast schedules for kernels, and keep them."""


for _command in (
    tune.tune, db.db, why.why, explain.explain, check.check, kernels.kernels,
    primitives.primitives, doctor.doctor,
):  # fmt: skip
    main.add_command(_command)


if __name__ == "__main__":
    main()
