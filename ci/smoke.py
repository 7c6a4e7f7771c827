"""Is the installed gputune whole? Run outside the checkout, its path as argument."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path


def main() -> None:
    """Import gputune, see that it is not the checkout's, and build a kernel of the library."""
    import gputune
    import gputune.kernels
    from gputune.ir.flops import estimate_flops

    checkout = Path(sys.argv[1]).resolve()
    here = Path(str(gputune.__file__)).resolve()
    if checkout in here.parents:
        sys.exit(f"smoke: gputune was imported from the checkout ({here}), not from the wheel")
    if not resources.files("gputune").joinpath("py.typed").is_file():
        sys.exit("smoke: the wheel lacks gputune/py.typed")
    for name, kernel in gputune.kernels.KERNELS.items():
        shape = kernel.check_shapes[0]
        if estimate_flops(kernel.build(shape)) != kernel.flops(**kernel.shape(shape)):
            sys.exit(f"smoke: kernel {name} does not do the operations that it states")
    print(f"{len(gputune.kernels.KERNELS)} kernels from {here.parent}")


if __name__ == "__main__":
    main()
