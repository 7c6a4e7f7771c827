"""Does a compiled graph program compute what it says, in the memory that was planned?"""

# ruff: noqa: F821 (a graph function names the tensor functions of its class)
from __future__ import annotations

import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gputune as gt
from gputune import relax
from gputune.errors import BuildError, CheckError, RunError, UserError
from gputune.ir.graph import (
    Binding,
    Call,
    Constant,
    DataflowBlock,
    Expr,
    ExternFunc,
    Function,
    GlobalVar,
    TensorType,
    Tuple,
    TupleGetItem,
    TupleType,
    Var,
    bindings,
    constant,
)
from gputune.ir.nodes import IRModule
from gputune.relax.executable import is_plain
from gputune.relax.plan import plan
from gputune.runtime.external import get_global_func, register_func, remove_global_func
from gputune.runtime.ndarray import NDArray
from gputune.schedule import Schedule
from gputune.script import ir as I
from gputune.script import relax as R
from gputune.script import tir as T

TARGET = "llvm -num-cores=1"
ROW = TensorType((8,))


def _sum(x: NDArray, y: NDArray, out: NDArray) -> None:
    np.add(np.asarray(x), np.asarray(y), out=np.asarray(out))


def _twist(x: NDArray, sums: NDArray, turned: NDArray) -> None:
    """Two results; writes the first before it reads its argument for the second."""
    np.cumsum(np.asarray(x), out=np.asarray(sums))
    np.asarray(turned)[:] = np.asarray(x)[::-1] * 3


EXTERNAL = {"t.sum": _sum, "t.twist": _twist}


@pytest.fixture(autouse=True)
def _external() -> Iterator[None]:
    for name, f in EXTERNAL.items():
        register_func(name, f)
    yield
    for name in EXTERNAL:
        remove_global_func(name)


@I.ir_module
class Small:
    @T.prim_func
    def double(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = A[vi] * 2.0

    @T.prim_func
    def halves(A: T.Buffer((8,), "float32"), B: T.Buffer((4,), "float32"),
               C: T.Buffer((4,), "float32")):  # fmt: skip
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                B[vi] = A[vi]
        for i in range(4):
            with T.block("C"):
                vi = T.axis.spatial(4, i)
                C[vi] = A[vi + 4]

    @T.prim_func
    def again(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                Y[vi] = X[vi] * 2.0

    @R.function
    def main(x: R.Tensor((8,), "float32"), t: R.Tuple(R.Tensor((8,)), R.Tensor((4,)))):
        w = R.const([1, 2, 3, 4, 5, 6, 7, 8], "float32")
        with R.dataflow():
            a = R.call_tir(double, (x,), (8,), dtype="float32")
            b = R.call_dps_packed("t.sum", (a, w), R.Tensor((8,)))
            c = R.call_tir(again, (b,), (8,), dtype="float32")
            d = R.call_tir(double, (c,), (8,), dtype="float32")
            both = R.call_tir(halves, (d,), [(4,), (4,)], dtype="float32")
            e = R.call_tir("t.sum", (both[1], t[1]), (4,), dtype="float32")
            R.output(both, e, c)
        return (e, (both[0], x), w, c, e)


def machine(mod: IRModule) -> relax.VirtualMachine:
    return relax.VirtualMachine(relax.build(mod, TARGET), gt.cpu())


def test_tuples_constants_and_several_results() -> None:
    vm = machine(Small)
    x = np.arange(8, dtype=np.float32)
    t = (np.zeros(8, np.float32), np.full(4, 100, np.float32))
    e, (first, same), w, c, e2 = vm["main"](x, t)
    weights = np.arange(1, 9, dtype=np.float32)
    expected_c = (x * 2 + weights) * 2
    np.testing.assert_array_equal(c.numpy(), expected_c)
    np.testing.assert_array_equal(e.numpy(), (expected_c * 2)[4:] + 100)
    np.testing.assert_array_equal(first.numpy(), (expected_c * 2)[:4])
    np.testing.assert_array_equal(w.numpy(), weights)
    np.testing.assert_array_equal(same.numpy(), x)
    assert e2 is e
    # results are the caller's: neither arguments nor constants change through them
    same.data[:] = -1
    w.data[:] = -1
    assert x[1] == 1
    np.testing.assert_array_equal(vm["main"](x, t)[2].numpy(), weights)
    np.testing.assert_array_equal(c.numpy(), expected_c)


def test_equal_tensor_functions_are_compiled_once() -> None:
    ex = relax.build(Small, TARGET)
    assert set(ex.kernels) == {"double", "again", "halves"}
    assert ex.kernels["double"] is ex.kernels["again"]
    assert ex.external_functions == ("t.sum",)
    assert "3 tensor functions" in repr(ex)


def test_kernels_between_fixed_places_are_bound_once() -> None:
    ex = relax.build(Small, TARGET)
    main = relax.VirtualMachine(ex)["main"]
    main(np.zeros(8, np.float32), (np.zeros(8, np.float32), np.zeros(4, np.float32)))
    (frame,) = main._frames
    # all of its kernels read an argument, or write or read a result
    assert [bool(n) for _, n in frame.steps] == [True] * 6
    chain = chained(4)
    inner = machine(IRModule(Small.functions, (), {"main": chain}))["main"]
    inner(np.zeros(8, np.float32))
    (frame,) = inner._frames
    assert [bool(n) for _, n in frame.steps] == [True, False, False, True]


def chained(length: int) -> Function:
    """double(double(...(x)))."""
    x = Var("x", ROW)
    out: list[Binding] = []
    for k in range(length):
        value = out[-1].var if out else x
        out.append(Binding(Var(f"v{k}", ROW), Call(GlobalVar("double"), (value,), ROW)))
    return Function((x,), tuple(out), out[-1].var)


def test_a_chain_shares_two_places() -> None:
    made = plan(chained(12), "main")
    assert made.arena_bytes == 64 + 32  # 32 bytes each, on 64-byte boundaries
    assert made.unshared_bytes == 11 * 32
    vm = machine(IRModule(Small.functions, (), {"main": chained(12)}))
    x = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(vm["main"](x).numpy(), x * 4096)


# ----------------------------------------------------------------------------- random programs
class Programs:
    """Random graphs of `t.sum` and `t.twist`."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def value(self, scope: list[Expr]) -> Expr:
        e = self.rng.choice(scope)
        if isinstance(e.type, TupleType):
            return TupleGetItem(e, self.rng.randrange(2))
        if self.rng.random() < 0.1:
            data = [float(self.rng.randint(-3, 3)) for _ in range(8)]
            return constant(np.array(data, np.float32))
        return e

    def binding(self, scope: list[Expr]) -> Binding:
        kind = self.rng.randint(0, 5)
        value: Expr
        if kind <= 2:
            value = Call(ExternFunc("t.sum"), (self.value(scope), self.value(scope)), ROW)
        elif kind == 3:
            both = TupleType((ROW, ROW))
            value = Call(ExternFunc("t.twist"), (self.value(scope),), both)
        elif kind == 4:
            value = Tuple((self.value(scope), self.value(scope)))
        else:
            value = self.value(scope)
        b = Binding(Var("v", value.type), value)
        scope.append(b.var)
        return b

    def function(self) -> Function:
        params = (Var("x", ROW), Var("t", TupleType((ROW, ROW))))
        scope: list[Expr] = list(params)
        items: list[Binding | DataflowBlock] = []
        for _ in range(self.rng.randint(0, 4)):
            if self.rng.random() < 0.5:
                items += [self.binding(scope) for _ in range(self.rng.randint(0, 4))]
                continue
            inside = list(scope)
            found = [self.binding(inside) for _ in range(self.rng.randint(0, 6))]
            outputs = tuple(b.var for b in found if self.rng.random() < 0.6)
            items.append(DataflowBlock(tuple(found), outputs))
            scope += outputs
        result = Tuple((self.value(scope), Tuple((self.value(scope),)), self.value(scope)))
        return Function(params, tuple(items), result)


def meaning(func: Function, x: Any, t: Any) -> Any:
    """What a graph of these functions computes, each value in memory of its own."""
    values: dict[Var, Any] = dict(zip(func.params, (x, t)))

    def value(e: Expr) -> Any:
        match e:
            case Var():
                return values[e]
            case Constant():
                return e.data
            case Tuple():
                return tuple(value(f) for f in e.fields)
            case TupleGetItem():
                return value(e.value)[e.index]
        args = [value(a) for a in e.args]
        if e.callee == ExternFunc("t.sum"):
            return args[0] + args[1]
        return np.cumsum(args[0], dtype=np.float32), args[0][::-1] * 3

    for b in bindings(func):
        values[b.var] = value(b.value)
    return value(func.result)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_sharing_memory_changes_no_number(seed: int) -> None:
    rng = Random(seed)
    func = Programs(rng).function()
    x, a, b = (np.array([rng.randint(-4, 4) for _ in range(8)], np.float32) for _ in range(3))
    vm = machine(IRModule({"main": func}))
    with np.errstate(all="ignore"):  # long programs overflow, here as there
        for _ in range(2):  # the second call finds the memory of the first
            one, (two,), three = vm["main"](x, [a, b])
            e1, (e2,), e3 = meaning(func, x, (a, b))
            for found, expected in ((one, e1), (two, e2), (three, e3)):
                np.testing.assert_array_equal(found.numpy(), expected)
    made = plan(func, "main")
    assert made.arena_bytes <= 2 * made.unshared_bytes  # 32-byte tensors on 64-byte boundaries


# ----------------------------------------------------------------------------- external functions
def test_external_functions_write_where_they_are_told() -> None:
    seen: list[NDArray] = []

    def spy(x: NDArray, out: NDArray) -> None:
        seen[:] = [x, out]
        for array in (x, out):
            assert isinstance(array, NDArray)
            assert array.__dlpack_device__() == (1, 0)
            data = np.from_dlpack(array)
            assert data.flags.c_contiguous
            assert np.asarray(array).flags.writeable
            assert np.asarray(array).ctypes.data % 4 == 0
        np.asarray(out)[:] = np.asarray(x) + 1

    register_func("t.spy", spy, override=True)
    x = Var("x", ROW)
    y, z = Var("y", ROW), Var("z", ROW)
    body = (Binding(y, Call(ExternFunc("t.spy"), (x,), ROW)),
            Binding(z, Call(ExternFunc("t.spy"), (y,), ROW)))  # fmt: skip
    vm = machine(IRModule({"main": Function((x,), body, z)}))
    data = np.arange(16, dtype=np.float32)[::2]  # in steps
    np.testing.assert_array_equal(vm["main"](data).numpy(), data + 2)
    fixed = np.arange(8, dtype=np.float32)
    fixed.setflags(write=False)
    np.testing.assert_array_equal(vm["main"](fixed).numpy(), fixed + 2)
    given = gt.nd.array(fixed)
    np.testing.assert_array_equal(vm["main"](given).numpy(), fixed + 2)
    remove_global_func("t.spy")


def test_calls_at_the_same_time_have_memory_of_their_own() -> None:
    """Each is held up in an external function until the other is there too."""
    meet = threading.Barrier(2)

    def wait(x: NDArray, out: NDArray) -> None:
        meet.wait(10)
        np.asarray(out)[:] = np.asarray(x)

    register_func("t.wait", wait, override=True)
    x, y, z = Var("x", ROW), Var("y", ROW), Var("z", ROW)
    u = Var("u", ROW)
    body = (Binding(y, Call(ExternFunc("t.sum"), (x, x), ROW)),
            Binding(z, Call(ExternFunc("t.wait"), (y,), ROW)),
            Binding(u, Call(ExternFunc("t.sum"), (z, y), ROW)))  # fmt: skip
    main = machine(IRModule({"main": Function((x,), body, u)}))["main"]
    found: dict[int, Any] = {}

    def call(k: int) -> None:
        found[k] = main(np.full(8, k, np.float32)).numpy()

    threads = [threading.Thread(target=call, args=(k,)) for k in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for k in (1, 2):
        np.testing.assert_array_equal(found[k], np.full(8, 4 * k, np.float32))
    assert len(main._frames) == 2
    remove_global_func("t.wait")


def test_an_error_in_an_external_function_is_the_callers() -> None:
    def bad(x: NDArray, out: NDArray) -> None:
        raise ZeroDivisionError("mine")

    register_func("t.bad", bad, override=True)
    x, y = Var("x", ROW), Var("y", ROW)
    func = Function((x,), (Binding(y, Call(ExternFunc("t.bad"), (x,), ROW)),), y)
    main = machine(IRModule({"main": func}))["main"]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="mine"):
            main(np.zeros(8, np.float32))
    assert len(main._frames) == 1
    remove_global_func("t.bad")


def test_the_table_of_external_functions() -> None:
    with pytest.raises(UserError, match=r"'t\.sum' is registered already"):
        register_func("t.sum", _sum)
    with pytest.raises(UserError, match=r"under 't\.nothing'"):
        get_global_func("t.nothing")
    assert get_global_func("t.nothing", allow_missing=True) is None
    with pytest.raises(UserError, match="expected a name and a function"):
        register_func("t.three", 3)  # type: ignore[call-overload]

    @gt.register_func
    def t_alone(out: NDArray) -> None: ...

    assert get_global_func("t_alone") is t_alone
    remove_global_func("t_alone")
    with pytest.raises(UserError, match="t_alone"):
        remove_global_func("t_alone")
    assert gt.get_global_func("t.sum") is _sum
    assert gt.register_global_func is gt.register_func


# ----------------------------------------------------------------------------- refusals
def test_what_does_not_fit_is_refused() -> None:
    vm = machine(Small)
    x, t = np.zeros(8, np.float32), (np.zeros(8, np.float32), np.zeros(4, np.float32))
    for args, message in (
        ((x,), r"main takes 2 arguments \(x, t\), found 1"),
        ((x.astype(np.float64), t), "main: argument 'x': expected dtype float32, found float64"),
        ((x[:4], t), r"argument 'x': expected shape \(8,\), found \(4,\)"),
        ((x, x), "argument 't': expected a tuple of 2, found a ndarray"),
        ((x, (x,)), "expected a tuple of 2, found 1"),
        ((x, (x, x)), r"argument 't', item 1: expected shape \(4,\)"),
        (("text", t), "argument 'x': expected an array, found str"),
    ):
        with pytest.raises(RunError, match=message):
            vm["main"](*args)
    with pytest.raises(RunError, match=r"no graph function named 'f' .*main"):
        vm["f"]
    assert "main" in vm
    assert list(vm) == ["main"]
    with pytest.raises(RunError, match="VirtualMachine"):
        relax.VirtualMachine(relax.build(Small, TARGET), gt.cuda())
    with pytest.raises(UserError, match="expected an executable, found IRModule"):
        relax.VirtualMachine(Small)  # type: ignore[arg-type]


def test_a_missing_external_function_is_named_before_any_call() -> None:
    x = Var("x", ROW)
    func = Function((x,), (Binding(y := Var("y", ROW), Call(ExternFunc("t.no"), (x,), ROW)),), y)
    ex = relax.build(IRModule({"main": func}), TARGET)
    with pytest.raises(UserError, match=r"no external function is registered under 't\.no'"):
        relax.VirtualMachine(ex)


def test_what_cannot_be_built() -> None:
    x, y = Var("x", ROW), Var("y", ROW)
    with pytest.raises(BuildError, match="expected an IRModule, found PrimFunc"):
        relax.build(Small["double"], TARGET)
    with pytest.raises(BuildError, match="no graph function; it has: double"):
        relax.build(IRModule({"double": Small["double"]}), TARGET)
    with pytest.raises(BuildError, match="not on cuda"):
        relax.build(Small, "cuda -arch=sm_90a")
    with pytest.raises(BuildError, match="has graph functions: main") as refused:
        gt.build(Small, TARGET)
    assert "gputune.compile" in str(refused.value)
    call = Call(relax.Op("relu"), (x,), ROW)
    with pytest.raises(BuildError, match="operator 'relu', which no tensor function computes"):
        relax.build(IRModule({"main": Function((x,), (Binding(y, call),), y)}), TARGET)
    with pytest.raises(CheckError, match="y is used before it is bound"):
        relax.build(IRModule({"main": Function((x,), (), y)}), TARGET)


def test_a_function_that_writes_to_its_argument_is_refused() -> None:
    @T.prim_func
    def clobber(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                A[vi] = 0.0
                B[vi] = 1.0

    x, y = Var("x", ROW), Var("y", ROW)
    main = Function((x,), (Binding(y, Call(GlobalVar("clobber"), (x,), ROW)),), y)
    with pytest.raises(BuildError, match="clobber writes to its parameter A"):
        relax.build(IRModule({"clobber": clobber, "main": main}), TARGET)


# ----------------------------------------------------------------------------- compiling
def test_scheduled_functions_are_compiled_as_they_are() -> None:
    double = Small["double"]
    assert is_plain(double)
    assert not is_plain(double.with_attr("tir.is_scheduled", True))

    def changed(change: Any) -> Any:
        sch = Schedule(double)
        change(sch, *sch.get_loops(sch.get_block("B")))
        return sch.mod["double"]

    assert not is_plain(changed(lambda s, i: s.split(i, [2, None])))
    assert not is_plain(changed(lambda s, i: s.vectorize(i)))
    assert not is_plain(changed(lambda s, i: s.annotate(i, "pragma_unroll_explicit", 1)))
    assert not is_plain(changed(lambda s, i: s.annotate(s.get_block("B"), "k", 1)))


def test_compile_takes_either_kind_of_module() -> None:
    assert isinstance(gt.compile(Small, TARGET), relax.Executable)
    a, b = np.ones(8, np.float32), np.zeros(8, np.float32)
    gt.compile(Small["double"], TARGET)["main"](a, b)
    assert b.sum() == 16


def test_later_changes_of_the_module_come_too_late() -> None:
    mod = IRModule(Small.functions, (), Small.graphs)
    ex = relax.build(mod, TARGET)
    mod.update_func("double", Small["halves"])
    assert ex.mod["double"] is Small["double"]


def test_times_are_seconds_a_call() -> None:
    vm = machine(IRModule(Small.functions, (), {"main": chained(2)}))
    x = np.zeros(8, np.float32)
    found = vm.module.time_evaluator("main", gt.cpu(), number=3, repeat=2)(x)
    assert len(found.results) == 2
    assert found.number == 3
    assert found.mean > 0
    longer = vm.module.time_evaluator("main", min_repeat_ms=1, cooldown_interval_ms=0.1, repeat=2)
    assert len(longer(x).results) == 2
    with pytest.raises(RunError, match="number must be"):
        vm.module.time_evaluator("main", number=0)
    with pytest.raises(RunError, match="time_evaluator"):
        vm.module.time_evaluator("main", gt.cuda())
