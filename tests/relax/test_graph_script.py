"""What may be written as a graph function, and how is a mistake reported?"""

# ruff: noqa: F821, UP037, RET504 (scripts are no Python: `Tensor`, `T.Buffer[shape, "float32"]`)
from __future__ import annotations

import numpy as np
import pytest

from gputune.errors import ScriptError
from gputune.ir.equal import structural_equal
from gputune.ir.graph import (
    Call,
    Constant,
    DataflowBlock,
    ExternFunc,
    Function,
    GlobalVar,
    Op,
    TensorType,
    Tuple,
    TupleGetItem,
    TupleType,
    bindings,
)
from gputune.ir.nodes import IRModule
from gputune.script import from_source
from gputune.script import ir as I
from gputune.script import relax as R
from gputune.script import tir as T

N = 8
WEIGHTS = np.arange(N, dtype=np.float32)
ROW = R.Tensor((N,), "float32")


@I.ir_module
class Mixed:
    @T.prim_func
    def double(A: T.Buffer[(8,), "float32"], B: T.Buffer[(8,), "float32"]):
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = A[vi] * 2.0

    @R.function
    def main(x: Tensor((8,), "float32")):
        with R.dataflow():
            lv0 = R.call_tir(double, (x,), (8,), dtype="float32")
            out = R.call_tir("env.relu", (lv0,), (8,), dtype="float32")
            R.output(out)
        return out


MODERN = """
@I.ir_module
class Any:
    @R.function
    def main(x: R.Tensor((8,), dtype="float32")) -> R.Tensor((8,), dtype="float32"):
        cls = Any
        with R.dataflow():
            lv0 = R.call_tir(cls.double, (x,), out_sinfo=R.Tensor((8,), dtype="float32"))
            gv = R.call_dps_packed("env.relu", (lv0,), out_sinfo=R.Tensor((8,), dtype="float32"))
            R.output(gv)
        return gv

    @T.prim_func
    def double(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = A[vi] * T.float32(2)
"""


def values(func: Function) -> list[object]:
    return [b.value for b in bindings(func)]


def test_the_old_and_the_new_spelling_are_one_program() -> None:
    assert structural_equal(Mixed, from_source(MODERN))
    main = Mixed["main"]
    assert isinstance(main, Function)
    (block,) = main.body
    assert isinstance(block, DataflowBlock)
    assert [v.name for v in block.outputs] == ["out"]
    first, second = values(main)
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    assert first.callee == GlobalVar("double")
    assert second.callee == ExternFunc("env.relu")
    assert main.ret_type == TensorType((8,))


def test_quoted_annotations_captured_values_and_nested_calls() -> None:
    @R.function
    def main(x: "R.Tensor((N,), 'float32')", t: R.Tuple(ROW, ROW)) -> R.Tensor(ndim=1):
        w = R.const(WEIGHTS)
        y: R.Tensor((N,)) = R.call_tir("env.add", (R.call_tir("env.f", x, ROW), t[1]), ROW)
        n = N * 2
        z = R.call_tir("env.cat", (y, w), (n,), dtype="float32")
        return z

    w, inner, y, z = values(main)
    assert isinstance(w, Constant)
    np.testing.assert_array_equal(w.data, WEIGHTS)
    assert isinstance(y, Call)
    assert isinstance(y.args[1], TupleGetItem)
    assert isinstance(inner, Call)
    assert inner.args == (main.params[0],)
    assert main.params[1].type == TupleType((ROW, ROW))
    assert isinstance(z, Call)
    assert z.type == TensorType((16,))


def test_several_results_and_tuples() -> None:
    @R.function
    def main(x: R.Tensor((4,), "int32")):
        both = R.call_tir("env.split", (x,), [(2,), (2,)], dtype=["int32", "float32"])
        one = R.call_tir("env.one", both, out_sinfo=R.Tensor((), "bool"))
        pair = (both[0], both[-1])
        none = R.call_dps_packed("env.zero", (), R.Tuple(R.Tensor((1,)), R.Tensor((2,))))
        return (one, pair, R.tuple(), none)

    both, one, pair, none = values(main)
    assert isinstance(both, Call)
    assert both.type == TupleType((TensorType((2,), "int32"), TensorType((2,))))
    assert isinstance(one, Call)
    assert [a.index for a in one.args] == [0, 1]
    assert isinstance(pair, Tuple)
    assert isinstance(none, Call)
    assert none.args == ()
    assert main.ret_type.fields[2] == TupleType(())
    again = from_source(main.script())
    assert structural_equal(again["main"], main)


def test_operators_have_attributes() -> None:
    @R.function(private=True)
    def main(x: R.Tensor((4,), "float32")):
        R.func_attr({"num_input": 1})
        y = R.call_op("my.sum", (x,), R.Tensor((), "float32"), attrs={"axis": [0], "keep": False})
        return y

    (call,) = values(main)
    assert isinstance(call, Call)
    assert call.callee == Op("my.sum")
    assert dict(call.attrs) == {"axis": [0], "keep": False}
    assert main.attrs == (("num_input", 1),)


def test_the_words_outside_of_a_script() -> None:
    assert R.Tensor((2, 3)) == TensorType((2, 3), "float32")
    assert R.Tensor(3, "int8") == TensorType((3,), "int8")
    assert R.Tuple(R.Tensor(())) == TupleType((TensorType(()),))
    assert R.const(1).type == TensorType((), "int32")
    assert R.const([[True]]).type == TensorType((1, 1), "bool")
    assert R.const(np.zeros(2, np.int8)).type == TensorType((2,), "int8")
    for call in (
        lambda: R.call_tir("f", (), ()),
        lambda: R.Tensor((-1,)),
        lambda: R.Tensor((1,), "float31"),
        lambda: R.Tuple(3),
        lambda: R.const([[1], [1, 2]]),
        lambda: R.const("text"),
    ):
        with pytest.raises(ScriptError):
            call()


# ----------------------------------------------------------------------------- mistakes
def body(*lines: str, params: str = 'x: R.Tensor((4,), "float32")', returns: str = "") -> str:
    inside = "\n".join(f"        {line}" for line in lines)
    head = f"@I.ir_module\nclass Module:\n    @R.function\n    def main({params}){returns}:"
    return f"{head}\n{inside}\n"


CALL = 'R.call_tir("f", (x,), (4,), dtype="float32")'
MISTAKES = {
    "undefined": (body("return y"), "name 'y' is not bound"),
    "no result": (body("y = x"), "ends without a result"),
    "no annotation": (body("return x", params="x"), "has no annotation"),
    "no shape": (
        body("return x", params='x: R.Tensor(ndim=2, dtype="float32")'), "without a shape"),
    "no shape in a tuple": (
        body("return x", params='x: R.Tuple(R.Tensor(dtype="int8"))'), "without a shape"),
    "no type": (body("return x", params="x: 3"), "expected the type of a tensor"),
    "two names": (
        body("return x", params="x: R.Tensor((1,)), x: R.Tensor((1,))"),
        "two parameters are named"),
    "default": (body("return x", params="x: R.Tensor((1,)) = 3"), "plain names"),
    "negative size": (body("return x", params="x: R.Tensor((-1,))"), "negative: -1"),
    "symbolic size": (body("return x", params='x: R.Tensor(("n",))'), "must be a constant integer"),
    "float size": (body("return x", params="x: R.Tensor((1.5,))"), "must be a constant integer"),
    "dtype": (body("return x", params='x: R.Tensor((1,), "float31")'), "unknown dtype 'float31'"),
    "vector dtype": (body("return x", params='x: R.Tensor((1,), "float32x4")'), "scalar dtype"),
    "ndim": (body("return x", params="x: R.Tensor((1,), ndim=2)"), "ndim=2"),
    "return type": (body("return x", returns=" -> R.Tensor((5,))"), "the result has another type"),
    "return dtype": (body("return x", returns=' -> R.Tensor(dtype="int8")'), "another type"),
    "return tuple": (body("return x", returns=" -> R.Tuple()"), "another type"),
    "annotation": (body("y: R.Tensor((5,)) = x", "return y"), "y has another type"),
    "annotated number": (body("y: R.Tensor((5,)) = 3", "return x"), "has the type of a tensor"),
    "no dtype": (body('y = R.call_tir("f", (x,), (4,))', "return y"), "no dtype"),
    "two dtypes": (
        body('y = R.call_tir("f", (x,), R.Tensor((4,)), dtype="int8")', "return y"),
        "a dtype beside it"),
    "dtypes": (
        body('y = R.call_tir("f", (x,), [(4,), (4,)], dtype=["int8"])', "return y"),
        "2 shapes and 1 dtypes"),
    "missing": (body('y = R.call_tir("f", (x,))', "return y"), "misses argument 'out_sinfo'"),
    "unknown word": (body("y = R.call_tr(x)", "return y"), "did you mean 'call_tir'"),
    "operator": (body("y = x + x", "return y"), "is not defined on a Var"),
    "number": (body("y = R.call_tir(\"f\", (x, 1), (4,), dtype='int8')", "return y"),
               "expected a tensor or a tuple of them, got 1"),
    "callee": (body("y = R.call_tir(x, (x,), (4,), dtype='int8')", "return y"),
               "a function of the module, or a string"),
    "packed callee": (
        body("cls = Module", "y = R.call_dps_packed(cls.main, (x,), R.Tensor((4,)))", "return y"),
        "an external function by its name"),
    "unknown function": (
        body("cls = Module", "y = R.call_tir(cls.f, (x,), R.Tensor((4,)))", "return y"),
        "tensor function 'f' is called, and the module has no such function"),
    "graph function": (
        body("y = R.call_tir(main, (x,), R.Tensor((4,)))", "return y"),
        "which is a graph function"),
    "no item": (body("t = (x, x)", "return t[2]"), "has no item 2"),
    "item of a tensor": (body("return x[0]"), "items are taken of tuples"),
    "leak": (body("with R.dataflow():", f"    y = {CALL}", "    R.output()", "return y"),
             "'y' belongs to its dataflow block"),
    "no output": (body("with R.dataflow():", f"    y = {CALL}", "return x"), "without R.output"),
    "output of another": (
        body("with R.dataflow():", f"    y = {CALL}", "    R.output(x)", "return x"),
        "variables that are bound in its block"),
    "output twice": (
        body("with R.dataflow():", f"    y = {CALL}", "    R.output(y, y)", "return x"), "twice"),
    "output outside": (body("R.output(x)", "return x"), "at the end of a `with R.dataflow"),
    "nested dataflow": (
        body("with R.dataflow():", "    with R.dataflow():", "        R.output()",
             "    R.output()", "return x"), "stands in another"),
    "early return": (body("return x", "return x"), "at the end of the function"),
    "loop": (body("for i in range(3):", "    pass", "return x"), "For is not part of"),
    "unpacking": (body("a, b = (x, x)", "return a"), "Assign is not part of"),
    "constant": (body('return R.const("@@@", R.Tensor((1,)))'), "not in base64"),
    "constant's size": (body('return R.const("AAAA", R.Tensor((1,)))'), "are 4 bytes, got 3"),
    "constant's type": (body('return R.const("AAAA", "float32")'), "need a type"),
    "constant's bool": (body('return R.const("Ag==", R.Tensor((1,), "bool"))'), "0 or 1"),
    "constant's numbers": (body('return R.const([1, "a"], "int8")'), "made of numbers"),
    "constant's range": (body('return R.const(300, "int8")'), "make no tensor"),
    "constant's kind": (body('return R.const([1, 1.5], "int8")'), "1.5 is no int8"),
    "constant's truth": (body('return R.const(2, "bool")'), "2 is no bool"),
    "attribute": (body('R.func_attr({"a": [x]})', "return x"), "an attribute is a number"),
    "constant's float range": (body('return R.const(1e39, "float32")'), "does not fit"),
    "constant's shape": (body("return R.const([1], R.Tensor((2,), 'int8'))"), "numbers of (1,)"),
    "ragged": (body('return R.const([[1], [1, 2]], "int8")'), "make no tensor"),
    "no constant": (body("c: R.Constant = x", "return x"), "is to be a constant"),
    "attributes": (body('R.func_attr({"a": 1})', 'R.func_attr({"a": 2})', "return x"), "twice"),
    "options": (
        "@I.ir_module\nclass M:\n    @R.function(True)\n    def f():\n        return R.tuple()",
        "R.function takes its options by name"),
    "decorator": (
        "@I.ir_module\nclass M:\n    @R.func\n    def f(): pass", "@T.prim_func or @R.function"),
    "two functions": (
        body("return x") + '\n    @R.function(name="main")\n    def g():\n        return R.tuple()',
        "two functions named 'main'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported(name: str) -> None:
    text, message = MISTAKES[name]
    with pytest.raises(ScriptError) as refused:
        from_source(text)
    assert message in str(refused.value)


def test_hostile_nesting_is_refused() -> None:
    deep = "(" * 5000 + "x" + ",)" * 5000
    with pytest.raises(ScriptError):
        from_source(body(f"return {deep}"))


def test_a_function_below_needs_the_module() -> None:
    with pytest.raises(ScriptError, match="no function 'below' stands above") as refused:

        @R.function
        def main(x: R.Tensor((4,), "float32")):
            y = R.call_tir(below, (x,), R.Tensor((4,)))
            return y

    assert "cls.below" in str(refused.value)


def test_a_class_whose_call_does_not_fit_is_refused() -> None:
    with pytest.raises(ScriptError, match=r"argument 0 of double has the shape \(4,\)"):

        @I.ir_module
        class Wrong:
            @T.prim_func
            def double(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
                for i in range(8):
                    B[i] = A[i] * 2.0

            @R.function
            def main(x: R.Tensor((4,), "float32")):
                y = R.call_tir(double, (x,), R.Tensor((8,)))
                return y


def test_names_that_python_does_not_know() -> None:
    @I.ir_module
    class Odd:
        @T.prim_func(name="a-b")
        def f(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
            for i in range(8):
                B[i] = A[i] * 2.0

        @R.function(name="the graph")
        def main(x: R.Tensor((8,), "float32")):
            cls = Odd
            y = R.call_tir(f, (x,), R.Tensor((8,)))
            z = R.call_tir(cls.f, (y,), R.Tensor((8,)))
            u = R.call_tir(cls["a-b"], (z,), R.Tensor((8,)))
            return u

    assert {c.callee for c in values(Odd["the graph"])} == {GlobalVar("a-b")}
    assert structural_equal(from_source(Odd.script()), Odd)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(ScriptError, match=r"@R\.function stands before a function"):
        R.function(3)  # type: ignore[call-overload]
    assert R.function(Mixed["main"]) is Mixed["main"]


# ----------------------------------------------------------------------------- modules
def test_functions_of_a_module() -> None:
    mod = IRModule(dict(Mixed.functions), (), Mixed.graphs)
    assert list(mod) == ["double", "main"]
    assert "main" in mod
    assert mod[mod.get_global_var("main")] is Mixed["main"]
    with pytest.raises(KeyError, match="no function named 'relu'"):
        mod.get_global_var("relu")
    other = Mixed["double"].with_attr("k", 1)
    mod.update_func(mod.get_global_var("double"), other)
    assert mod["double"] is other
    assert Mixed["double"] is not other  # the mapping is no longer shared
    mod.update_func("main", other)
    assert not mod.graphs
    mod.update_func("new", Mixed["main"])
    assert list(mod.graphs) == ["new"]
    with pytest.raises(TypeError, match="a function of the script"):
        mod.update_func("main", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has a name"):
        mod.update_func("", other)
    alone = IRModule.from_expr(Mixed["main"].with_attr("global_symbol", "f"))
    assert list(alone.graphs) == ["f"]
    both = IRModule({"a": Mixed["double"], "b": Mixed["main"]})
    assert list(both.functions) == ["a"]
    assert list(both.graphs) == ["b"]


def test_a_schedule_keeps_the_graphs() -> None:
    from gputune.schedule import Schedule

    sch = Schedule(Mixed)
    (i,) = sch.get_loops(sch.get_block("B", "double"))
    sch.split(i, [2, None])
    assert sch.mod.graphs == Mixed.graphs
    assert not structural_equal(sch.mod["double"], Mixed["double"])
