"""How does a PyTorch model become a module? `torch.export` gives its graph, which is translated
node by node into operators; torch is imported only when that is asked for.

`torch_ops.py` is the table of what is translated how. An operator that is not there is taken apart
by torch's own decompositions, if it has one; what is left then is reported, all of it at once, with
the places in the model.
"""

from __future__ import annotations

import operator as python_operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import BuildError, CheckError, UserError
from ...ir import dtypes
from ...ir.graph import Constant, Expr, TensorType, Tuple, TupleType, Var, constant
from ...ir.graph_builder import GraphBuilder
from ...ir.nodes import IRModule
from ...ir.operators.operator import closest
from ...ir.show_graph import type_text
from .torch_ops import ATEN, Unsupported, Values

_ROUNDS = 5  # of decomposition: an operator may become others that are taken apart in turn


def from_exported_program(
    exported_program: Any,
    *,
    keep_params_as_input: bool = False,
    unwrap_unit_return_tuple: bool = False,
) -> IRModule:
    """The module of a model, with the graph function "main".

    Its parameters are the model's inputs, in the order of `torch.export`, which flattens lists and
    dicts; its result is a tuple of all outputs. Weights and buffers are constants.

    Args:
        exported_program: what `torch.export.export(model.eval(), args)` gave, of constant shapes.
        keep_params_as_input: make weights and buffers parameters behind the inputs; the attribute
            "num_input" says how many come before them, `params_of` gives their values.
        unwrap_unit_return_tuple: of a single output, return it rather than a tuple of one.

    Raises:
        UserError: no exported program; a shape that is not constant.
        BuildError: operators that cannot be translated, with their places in the model.

    Example:
        >>> mod = from_exported_program(torch.export.export(model.eval(), (x,)))
        >>> ex = relax.build(relax.transform.LegalizeOps()(mod), "llvm")
        >>> relax.VirtualMachine(ex)["main"](x)
    """
    _check(exported_program)
    program = _taken_apart(exported_program)
    return _Importer(program, keep_params_as_input, unwrap_unit_return_tuple).module()


def params_of(exported_program: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Weights and buffers by the names of the parameters that `keep_params_as_input` makes of them,
    in their order; for `BindParams`.

    Raises:
        UserError: no exported program.
    """
    _check(exported_program)
    program = _taken_apart(exported_program)
    return {
        spec.arg.name: _numpy(_tensor_of(program, spec))
        for spec in program.graph_signature.input_specs
        if _is_weight(spec)
    }


def _check(exported_program: Any) -> None:
    try:
        from torch.export import ExportedProgram
    except ImportError as e:
        raise UserError(
            "from_exported_program needs torch, which is not installed",
            hint="pip install torch",
            code="import",
        ) from e
    if not isinstance(exported_program, ExportedProgram):
        raise UserError(
            f"from_exported_program: expected an ExportedProgram, found "
            f"{type(exported_program).__name__}",
            hint="torch.export.export(model.eval(), args) makes one",
        )


def _taken_apart(program: Any) -> Any:
    """The program without writes in place, and without operators that the table does not have, as
    far as torch can take them apart."""
    from torch.export import default_decompositions

    known: Mapping[Any, Callable[..., Any]] = default_decompositions()
    wanted: dict[Any, Callable[..., Any]] = {}
    program = program.run_decompositions({})
    for _ in range(_ROUNDS):
        missing = {n.target for n in program.graph.nodes if _is_missing(n)}
        more = {t: known[t] for t in missing if t in known and t not in wanted}
        if not more:
            break
        wanted.update(more)
        program = program.run_decompositions(dict(wanted))
    return program


def _is_missing(node: Any) -> bool:
    return node.op == "call_function" and _translation(node.target) is None


def _translation(target: Any) -> Callable[..., Any] | None:
    """What translates an operator: of this overload, or of all of its overloads."""
    if target is python_operator.getitem:
        return lambda _, values, index: values[index]
    name = str(target)  # aten.add.Tensor
    return ATEN.get(name) or ATEN.get(name.rpartition(".")[0])


# ----------------------------------------------------------------------------- weights
def _is_weight(spec: Any) -> bool:
    return spec.kind.name in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR")


def _tensor_of(program: Any, spec: Any) -> Any:
    for source in (program.state_dict, program.constants):
        if spec.target in source:
            return source[spec.target]
    raise UserError(f"from_exported_program: the program does not hold its tensor {spec.target!r}")


def _numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor as an array; NumPy has no bfloat16 and float8 of its own."""
    import torch

    t = tensor.detach().cpu().contiguous()
    wanted = dtypes.numpy_dtype(dtype_name(t.dtype, "a weight"))
    if wanted.kind == "V" or t.dtype in (torch.bfloat16,) or "float8" in str(t.dtype):
        raw = t.reshape(-1).view(torch.uint8).numpy()
        array: np.ndarray[Any, Any] = raw.view(wanted).reshape(tuple(t.shape))
        return array
    return np.asarray(t.numpy())


def dtype_name(dtype: Any, what: str) -> str:
    """The dtype of a torch dtype; UserError if gputune does not have it."""
    name = str(dtype).removeprefix("torch.")
    name = {"float8_e4m3fn": "float8_e4m3"}.get(name, name)
    if name not in dtypes.SCALARS:
        near = closest(name, dtypes.SCALARS)
        raise UserError(f"from_exported_program: {what} has the dtype {name}", hint=near)
    return name


# ----------------------------------------------------------------------------- the graph
class _Importer:
    """One program while it is translated."""

    def __init__(self, program: Any, keep_params: bool, unwrap: bool) -> None:
        self.program = program
        self.keep_params = keep_params
        self.unwrap = unwrap
        self.builder = GraphBuilder()
        self.values: dict[Any, Any] = {}
        self.missing: list[str] = []
        self.constants: dict[Any, Constant] = {}

    def module(self) -> IRModule:
        params, weights = self.inputs()
        result: list[Expr] = []
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.values[node] = self.call(node)
            elif node.op == "get_attr":
                self.values[node] = self.attribute(node)
            elif node.op == "output":
                result = self.outputs(node)
        if self.missing:
            raise BuildError(
                f"from_exported_program: {len(self.missing)} operators cannot be translated:\n  "
                + "\n  ".join(self.missing),
                hint="write these parts of the model with other operators",
                code="operator",
            )
        whole = result[0] if self.unwrap and len(result) == 1 else Tuple(tuple(result))
        attrs = (("num_input", len(params)),) if self.keep_params else ()
        func = self.builder.function([*params, *weights], whole, "main", attrs)
        return IRModule({"main": func})

    # ------------------------------------------------------------------ ends
    def inputs(self) -> tuple[list[Var], list[Var]]:
        """Parameters for the inputs, and for weights if these are kept; gives every placeholder its
        value."""
        nodes = {n.name: n for n in self.program.graph.nodes if n.op == "placeholder"}
        params: list[Var] = []
        weights: list[Var] = []
        for spec in self.program.graph_signature.input_specs:
            node = nodes[spec.arg.name]
            if _is_weight(spec):
                if self.keep_params:
                    weights.append(Var(node.name, self.type_of(node.meta["val"], node.name)))
                    self.values[node] = weights[-1]
                else:
                    self.values[node] = self.constant(_tensor_of(self.program, spec))
            elif spec.kind.name == "USER_INPUT" and hasattr(spec.arg, "value"):
                self.values[node] = spec.arg.value  # a Python number, or None
            elif spec.kind.name == "USER_INPUT":
                params.append(Var(node.name, self.type_of(node.meta["val"], node.name)))
                self.values[node] = params[-1]
            else:
                raise UserError(
                    f"from_exported_program: input {node.name} is a {spec.kind.name}, not a tensor"
                )
        return params, weights

    def outputs(self, node: Any) -> list[Expr]:
        """The values that are returned."""
        found: list[Expr] = []
        for spec, arg in zip(self.program.graph_signature.output_specs, node.args[0], strict=True):
            if spec.kind.name != "USER_OUTPUT":
                what = spec.target or spec.arg.name
                self.missing.append(
                    f"{spec.kind.name.lower().replace('_', ' ')} of {what!r}: a model gets its "
                    "state as inputs, and gives it back as outputs"
                )
                continue
            value = self.values.get(arg, arg)
            if isinstance(value, (bool, int, float)):
                value = constant(np.asarray(value))
            if not isinstance(value, (Var, Constant)):
                raise UserError(f"from_exported_program: an output is {value!r:.40}, not a tensor")
            found.append(value)
        return found

    def attribute(self, node: Any) -> Expr:
        """A tensor that the graph holds."""
        import torch

        value = getattr(self.program.graph_module, node.target, None)
        if not isinstance(value, torch.Tensor):
            self.missing.append(f"get_attr of {type(value).__name__} at {self.place(node)}")
            return constant(0.0, "float32")
        return self.constant(value)

    def constant(self, tensor: Any) -> Constant:
        """A constant; one for all names of the same memory."""
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
        if key not in self.constants or not tensor.numel():
            self.constants[key] = constant(_numpy(tensor))
        return self.constants[key]

    def type_of(self, value: Any, name: str) -> TensorType:
        """The type of a tensor of the graph."""
        sizes = []
        for k, n in enumerate(value.shape):
            if not isinstance(n, int):
                raise UserError(
                    f"from_exported_program: {name} has the size {n} in dimension {k}, which is "
                    "not constant",
                    hint="export without dynamic_shapes",
                    code="shape",
                )
            sizes.append(int(n))
        return TensorType(tuple(sizes), dtype_name(value.dtype, name))

    # ------------------------------------------------------------------ nodes
    def call(self, node: Any) -> Any:
        """The value of a call: an expression, a list of them, or a Python value."""
        translate = _translation(node.target)
        if translate is None:
            self.missing.append(f"{node.target} at {self.place(node)}")
            return self.unknown(node)
        args = [self.value(a) for a in node.args]
        kwargs = {k: self.value(a) for k, a in node.kwargs.items()}
        outs = node.meta.get("val")
        before = len(self.builder.bindings)
        try:
            found = translate(Values(self.builder, self.types(outs, node)), *args, **kwargs)
        except Unsupported as e:
            self.missing.append(f"{node.target} at {self.place(node)}: {e}")
            return self.unknown(node)
        except (CheckError, TypeError, IndexError) as e:
            raise BuildError(
                f"from_exported_program: {node.target} at {self.place(node)}: {e}", code="operator"
            ) from e
        if isinstance(found, (Var, Constant)):
            new = self.builder.bindings[before:]
            if new and new[-1].var is found:
                found = self.named(node.name)
            self.agrees(found, outs, node)
        return found

    def named(self, name: str) -> Var:
        """The variable that was bound last, by another name."""
        last = self.builder.bindings.pop()
        return self.builder.bind(last.value, name)

    def agrees(self, found: Expr, outs: Any, node: Any) -> None:
        """Our type rules and torch's give one type."""
        (wanted,) = self.types(outs, node) or (found.type,)
        if wanted != found.type:
            raise BuildError(
                f"from_exported_program: {node.target} at {self.place(node)} is "
                f"{type_text(found.type)}, and torch says {type_text(wanted)}",
                code="operator",
            )

    def types(self, outs: Any, node: Any) -> list[TensorType]:
        """The types of the results, as torch has them."""
        items: Sequence[Any] = outs if isinstance(outs, (tuple, list)) else [outs]
        return [self.type_of(x, node.name) for x in items if hasattr(x, "shape")]

    def unknown(self, node: Any) -> Any:
        """Stands for what could not be translated, so that the rest is looked at too."""
        outs = node.meta.get("val")
        types = self.types(outs, node)
        if isinstance(outs, (tuple, list)):
            return [Var(f"{node.name}_{k}", t) for k, t in enumerate(types)]
        return Var(node.name, types[0] if types else TupleType(()))

    def value(self, arg: Any) -> Any:
        """An argument: of a node its value, in lists too."""
        if isinstance(arg, (list, tuple)):
            return [self.value(a) for a in arg]
        if isinstance(arg, slice):
            return arg
        return self.values[arg] if _is_node(arg) else arg

    def place(self, node: Any) -> str:
        """Where in the model: the node, and the module that it comes from."""
        stack = node.meta.get("nn_module_stack") or {}
        if not stack:
            return f"node {node.name}"
        path, kind = list(stack.values())[-1]
        kind = kind if isinstance(kind, str) else getattr(kind, "__qualname__", str(kind))
        path = path.removeprefix("L['self']").lstrip(".") or "the model itself"
        return f"node {node.name} (in {path}, {kind.rpartition('.')[2]})"


def _is_node(x: Any) -> bool:
    return hasattr(x, "op") and hasattr(x, "meta") and hasattr(x, "users")
