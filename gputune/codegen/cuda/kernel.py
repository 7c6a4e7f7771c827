"""From a scheduled program to CUDA C++ and the host's steps around it: `generate`."""

from __future__ import annotations

from math import prod

from ...errors import BuildError, GputuneError
from ...ir import dtypes, walk
from ...ir.nodes import Buffer, BufferStore, For, IntImm, PrimFunc, Var
from ...lower.gpu import GpuProgram, lower_gpu
from ...lower.kernels import GpuKernel, inner
from ...lower.shared_memory import ALIGN, SharedLayout, shared_layout
from .expr import HELPERS, Scope
from .names import NARROW, Names, stored_type
from .program import CudaSource, HostProgram, Launch, Param, Workspace
from .stmt import Body


def generate(func: PrimFunc, name: str | None = None) -> CudaSource:
    """The CUDA program of a scheduled function.

    Args:
        func: every statement of its root block bound to blockIdx or threadIdx; constant sizes.
        name: of the program; default: the function's.

    Raises:
        LowerError: the schedule cannot run on a GPU; says what to change.
        BuildError: a construct without CUDA code.

    Example:
        >>> source = generate(scheduled)
        >>> print(source.text); source.host.launches[0].grid
    """
    if name is not None and name != func.name:
        func = func.with_attr("global_symbol", name)
    _check_static(func)
    return generate_lowered(func, lower_gpu(func))


def generate_lowered(func: PrimFunc, program: GpuProgram) -> CudaSource:
    """The CUDA program of the kernels that a scheduled function was lowered to.

    Raises:
        BuildError: a construct without CUDA code.
    """
    names = Names()
    host_names: dict[Buffer | Var, str] = {}
    params = _params(func, names, host_names)
    for b in program.workspaces:
        host_names[b] = names.fresh(b.name)
    texts: list[str] = []
    helpers: set[str] = set()
    launches: list[Launch] = []
    aligned: dict[str, int] = {}
    for kernel in program.kernels:
        done = _Kernel(kernel, func, host_names)
        texts.append(done.text)
        helpers |= done.helpers
        launches.append(done.launch)
        for key, align in done.aligned.items():
            aligned[key] = max(aligned.get(key, 1), align)
    written = _written(program)
    host = HostProgram(
        func.name,
        tuple(
            [
                Param(
                    p.name,
                    p.dtype,
                    p.elements,
                    key in written,
                    max(aligned.get(p.name, 1), p.align),
                )
                for key, p in params
            ]
        ),
        tuple(launches),
        tuple([Workspace(host_names[b], b.dtype, _count(b)) for b in program.workspaces]),
    )
    head = [HELPERS[h] for h in HELPERS if h in helpers]
    return CudaSource("\n".join([*head, *texts]), host)


def _check_static(func: PrimFunc) -> None:
    for b in func.buffers:
        layout = (
            *b.shape,
            *(b.strides or ()),
            *(() if b.elem_offset is None else (b.elem_offset,)),
        )
        if any(type(e) is not IntImm for e in layout):
            raise BuildError(
                f"{func.name}: buffer {b.name} has a symbolic size; CUDA code is made for one "
                "shape",
                hint="build the kernel with numbers for its sizes",
            )


def _count(b: Buffer) -> int:
    """Elements from the start of the buffer to its end."""
    sizes = [int(n.value) for n in b.shape if type(n) is IntImm]
    start = int(b.elem_offset.value) if type(b.elem_offset) is IntImm else 0
    if b.strides is None:
        return start + prod(sizes)
    steps = [int(n.value) for n in b.strides if type(n) is IntImm]
    if any(n == 0 for n in sizes):
        return start
    return start + 1 + sum((n - 1) * k for n, k in zip(sizes, steps, strict=True))


def _params(
    func: PrimFunc, names: Names, host_names: dict[Buffer | Var, str]
) -> list[tuple[Buffer | Var, Param]]:
    table = dict(func.buffer_map)
    out: list[tuple[Buffer | Var, Param]] = []
    for p in func.params:
        b = table.get(p)
        key: Buffer | Var = p if b is None else b
        host_names[key] = names.fresh(p.name if b is None else b.name)
        if b is None:
            out.append((key, Param(host_names[key], p.dtype)))
        else:
            align = max(b.align, dtypes.itemsize(b.dtype))
            out.append((key, Param(host_names[key], b.dtype, _count(b), align=align)))
    return out


def _written(program: GpuProgram) -> set[Buffer | Var]:
    return {
        s.buffer
        for k in program.kernels
        for s in walk.walk_stmt(k.func.body)
        if type(s) is BufferStore
    }


class _Kernel:
    """The text and the launch of one kernel."""

    def __init__(
        self, kernel: GpuKernel, func: PrimFunc, host_names: dict[Buffer | Var, str]
    ) -> None:
        axes, body = inner(kernel.func)
        names = Names()
        changed = {s.buffer for s in walk.walk_stmt(func.body) if type(s) is BufferStore}
        changed |= {m.source.buffer for b in walk.blocks(func.body) for m in b.match_buffers}
        scope = Scope(
            names, {}, inputs=frozenset(func.buffers) - changed,
            outside=frozenset(kernel.func.buffers),
        )  # fmt: skip
        out = Body(scope)
        self.func = func
        self.names = names
        signature, arguments = self._signature(kernel, host_names, out)
        for a in axes:
            self._axis(a, out)
        try:
            out.emit(body)
        except GputuneError as e:
            raise BuildError(f"{kernel.name}: {e.message}", hint=e.hint) from None
        layout = shared_layout(kernel.func)
        bounds = f"{kernel.threads}, {kernel.min_blocks}" if kernel.min_blocks else kernel.threads
        self.text = "\n".join([
            f'extern "C" __global__ void __launch_bounds__({bounds}) {kernel.name}(',
            "    " + ",\n    ".join(signature) + ") {",
            *_shared_lines(out, layout),
            *out.lines,
            "}",
            "",
        ])  # fmt: skip
        self.helpers = scope.helpers
        self.aligned = {
            host_names[b]: scope.aligned[b] for _, b in kernel.func.buffer_map if b in scope.aligned
        }
        self.launch = Launch(
            kernel.name,
            kernel.grid,
            kernel.block,
            tuple(arguments),
            layout.dynamic_bytes,
        )

    def _signature(
        self, kernel: GpuKernel, host_names: dict[Buffer | Var, str], out: Body
    ) -> tuple[list[str], list[str]]:
        attrs = dict(self.func.attrs)
        alias = not attrs.get("tir.noalias", attrs.get("tirx.noalias", True))
        out.scope.alias = alias
        written = {s.buffer for s in walk.walk_stmt(kernel.func.body) if type(s) is BufferStore}
        table = dict(kernel.func.buffer_map)
        signature: list[str] = []
        arguments: list[str] = []
        for p in kernel.func.params:
            b = table.get(p)
            if b is None:
                signature.append(self._number(p, out))
                arguments.append(host_names[p])
                continue
            const = "" if b in written else "const "
            restrict = "" if alias else " __restrict__"
            name = self.names.of(b, b.name)
            signature.append(f"{const}{stored_type(b.dtype)}*{restrict} {name}")
            arguments.append(host_names[b])
        return signature, arguments

    def _number(self, p: Var, out: Body) -> str:
        """A parameter passed by value; narrow floats become `float` first thing."""
        kind = stored_type(p.dtype)
        if p.dtype not in NARROW:
            return f"{kind} {self.names.of(p, p.name)}"
        raw = self.names.fresh(f"{p.name}_bits")
        out.line(f"const float {self.names.of(p, p.name)} = gt_to_float({raw});")
        return f"{kind} {raw}"

    def _axis(self, a: For, out: Body) -> None:
        assert type(a.extent) is IntImm
        out.scope.dom[a.var] = (0, int(a.extent.value) - 1)
        out.line(f"const int {self.names.of(a.var, a.var.name)} = {a.thread};")


def _shared_lines(out: Body, layout: SharedLayout) -> list[str]:
    """The declarations of shared memory: arrays, and parts of one array that the launch sizes."""
    lines: list[str] = []
    if layout.dynamic_bytes:
        lines.append(
            f"  extern __shared__ __align__({layout.align}) unsigned char gt_shared[];"
        )  # fmt: skip
    for b, name, kind, count in out.shared:
        at = layout.at.get(b)
        if at is None:
            lines.append(f"  __shared__ __align__({max(ALIGN, b.align)}) {kind} {name}[{count}];")
        else:
            lines.append(f"  {kind}* {name} = ({kind}*)(gt_shared + {at});")
    return lines
