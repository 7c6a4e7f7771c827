"""What is a CUDA kernel called with while it is tuned? The caller's arrays and numbers, kept in a
file that workers read."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .codegen.cuda.raw import RawArgument
from .errors import RunError, UserError
from .ir import dtypes
from .meta_schedule.artifact import new_path
from .raw_kernel import CudaKernel
from .runtime.foreign import view
from .runtime.operations import parse_argument, random_values

Array = np.ndarray[Any, Any]
_ALIGN = 256


@dataclass(frozen=True, slots=True, eq=False)
class Arguments:
    """The arguments of one tuning.

    Attributes:
        kernel: whose they are.
        described: each of them, in the kernel's order.
        given: as the caller gave them.
        host: the arrays' contents on the host, by name, as they were then.
    """

    kernel: CudaKernel
    described: tuple[RawArgument, ...]
    given: tuple[Any, ...]
    host: Mapping[str, Array]

    @staticmethod
    def of(
        kernel: CudaKernel, args: Sequence[Any], reference: Callable[..., Any] | None = None
    ) -> Arguments:
        """Read the arguments of a call.

        Raises:
            UserError: one that a kernel cannot take; names it.
        """
        names = kernel.names(len(args), reference)
        written = {*kernel.outputs, *kernel.inout}
        described: list[RawArgument] = []
        host: dict[str, Array] = {}
        for name, x in zip(names, args):
            label = f"{kernel.name}: argument {name}"
            if _is_number(x):
                described.append(_number(label, name, x, name in written))
                continue
            array = to_host(x, label)
            if not array.flags.c_contiguous:
                raise UserError(
                    f"{label} is not contiguous: its strides are {array.strides}",
                    hint="a kernel gets a pointer: make a copy, such as np.ascontiguousarray(x)",
                    code="strides",
                )
            host[name] = array.copy()
            described.append(RawArgument(name, _dtype(label, array), array.shape, name in written))
        return Arguments(kernel, tuple(described), tuple(args), host)

    # ------------------------------------------------------------------ for workers
    @contextmanager
    def stored(self) -> Iterator[list[dict[str, Any]]]:
        """Descriptions of the arguments, as a worker's requests carry them; contents that matter
        lie in a file of this process's private folder until the end of the `with`."""
        path = new_path().with_suffix(".arguments")
        try:
            yield self._store(path)
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    def _store(self, path: Path) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        try:
            with path.open("wb") as f:
                for a in self.described:
                    spec: dict[str, Any] = {"name": a.name, "dtype": a.dtype}
                    if a.shape is None:
                        out.append({**spec, "kind": "scalar", "value": a.value})
                        continue
                    spec |= {"kind": "tensor", "shape": list(a.shape), "written": a.written}
                    if a.name not in self.kernel.outputs:
                        f.write(b"\0" * (-f.tell() % _ALIGN))
                        spec |= {"path": str(path), "offset": f.tell()}
                        f.write(self.host[a.name].tobytes())
                    out.append(spec)
        except OSError as e:
            raise UserError(
                f"{self.kernel.name}: cannot keep its arguments in {path}: {e.strerror or e}"
            ) from None
        return out

    # ------------------------------------------------------------------ the reference
    def expected(self, reference: Callable[..., Any], seed: int) -> dict[str, Array]:
        """What the reference says that the kernel writes, by name.

        It is called with fresh copies, of the caller's kind: outputs hold arbitrary values.

        Raises:
            UserError: it raised, or gave something else than all outputs.
        """
        name = self.kernel.name
        try:
            found = reference(*self.fresh(seed))
        except Exception as e:
            raise UserError(
                f"{name}: the reference raised {type(e).__name__}: {e}", code="reference"
            ) from e
        wanted = [a for a in self.described if a.written]
        if not isinstance(found, Mapping) and len(wanted) == 1:
            found = {wanted[0].name: found}
        if not isinstance(found, Mapping) or set(found) != {a.name for a in wanted}:
            keys = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
            raise UserError(
                f"{name}: the reference gave {keys}, the kernel writes "
                f"{', '.join(a.name for a in wanted)}",
                hint='return a dict of all outputs, such as {"c": a + b}',
                code="reference",
            )
        return {a.name: _fitting(name, a, found[a.name]) for a in wanted}

    def fresh(self, seed: int) -> list[Any]:
        """Copies of the arguments, of the caller's kind; outputs hold arbitrary values."""
        rng = np.random.default_rng(seed)
        out: list[Any] = []
        for a, x in zip(self.described, self.given):
            if a.shape is None:
                out.append(x)
                continue
            array = self.host[a.name].copy()
            if a.name in self.kernel.outputs:
                spec = {"kind": "tensor", "dtype": a.dtype, "shape": list(a.shape)}
                poison = parse_argument({**spec, "written": True}, 0)
                array.reshape(-1)[...] = random_values(rng, poison, array.size)
            out.append(like(x, array))
        return out


def _is_number(x: Any) -> bool:
    return isinstance(x, np.generic | int | float | complex)


def _number(label: str, name: str, x: Any, written: bool) -> RawArgument:
    if not isinstance(x, np.generic):
        raise UserError(
            f"{label} is the Python {type(x).__name__} {x!r}, whose size in C is not known",
            hint=f"say which: np.int32({x!r}), np.float32({x!r}), ...",
            code="scalar",
        )
    if written:
        raise UserError(f"{label} is a number, and cannot be an output", code="outputs")
    value = x.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{label} is {value}: numbers must be finite", code="scalar")
    return RawArgument(name, _dtype(label, np.asarray(x)), None, False, value)


def _dtype(label: str, array: Array) -> str:
    try:
        return dtypes.from_numpy(array.dtype)
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{label} has dtype {array.dtype}; known are {', '.join(dtypes.SCALARS)}", code="dtype"
        ) from None


def _fitting(kernel: str, a: RawArgument, x: Any) -> Array:
    """A reference's array with the argument's shape and dtype."""
    array = to_host(x, f"{kernel}: the reference's {a.name}")
    if array.shape != a.shape:
        raise UserError(
            f"{kernel}: the reference's {a.name} has shape {array.shape}, the argument {a.shape}",
            code="reference",
        )
    return np.ascontiguousarray(array.astype(dtypes.numpy_dtype(a.dtype), copy=False))


# ----------------------------------------------------------------------------- kinds of arrays
def to_host(x: Any, label: str) -> Array:
    """Any library's array as a NumPy array; without a copy where it lies in host memory.

    Raises:
        UserError: it is no array.
    """
    try:
        if _on_gpu(x):
            cupy: Any = importlib.import_module("cupy")
            return np.asarray(cupy.asnumpy(cupy.asarray(x)))
        return view(x, label) if not isinstance(x, list | tuple) else np.asarray(x)
    except (RunError, ImportError) as e:
        raise UserError(str(e) if isinstance(e, RunError) else f"{label}: {e}") from None


def _on_gpu(x: Any) -> bool:
    if isinstance(x, (np.ndarray, type)):
        return False
    try:
        return hasattr(x, "__cuda_array_interface__")
    except (AttributeError, RuntimeError):  # torch raises for tensors that need gradients
        return False


def like(original: Any, array: Array) -> Any:
    """A NumPy array as the kind that `original` is: on the GPU where that is."""
    if not _on_gpu(original):
        return array
    cupy: Any = importlib.import_module("cupy")
    on_device = cupy.asarray(array)
    if type(original).__module__.split(".")[0] == "torch":
        import torch

        return torch.from_dlpack(on_device)
    return on_device
