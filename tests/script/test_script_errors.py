"""Is every mistake refused with a message that names it, where it is, and what would work?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScriptError
from gputune.script import from_source
from gputune.script import ir as I
from gputune.script import tir as T

# ast.parse warns about some of the odd text before it refuses it
pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")

HEAD = """\
@T.prim_func
def f(A: T.Buffer((8, 8), "float32"), B: T.Buffer((8,), "int32"), n: T.int32, a: T.handle, \
U: T.Buffer((8,), "uint8")):
"""


def read(text: str) -> Any:
    """The program, or None where it is refused; whatever is read must round-trip."""
    try:
        func = from_source(text)
    except ScriptError as e:
        refusal = str(e)
    else:
        assert from_source(func.script()).script() == func.script()
        return func
    assert refusal
    return None


def error(*lines: str) -> str:
    """The message for a function with these lines."""
    text = HEAD + "".join(f"    {line}\n" for line in lines)
    with pytest.raises(ScriptError) as caught:
        from_source(text)
    return str(caught.value)


def in_block(*lines: str) -> str:
    return error(
        "for i, j in T.grid(8, 8):", "    with T.block('C'):", *["        " + x for x in lines]
    )


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("B[0] = K", "name 'K' is not bound", "sees only its own variables"),
        ("B[0] = nn", "name 'nn' is not bound", "did you mean 'n'"),
        ("B[0] = T.expp(n)", "T has no 'expp'", "did you mean 'exp'"),
        ("B[0] = T.flaot32", "T has no 'flaot32'", "float32"),
        ("A[0] = 0.0", "buffer A has 2 dimensions, got 1 index", "its shape is (8, 8)"),
        ("B[0, 1] = 0", "buffer B has 1 dimension, got 2 indices", "(8)"),
        ("B[A[0, 0]] = 0", "index 0 of buffer B has dtype float32", "T.cast"),
        ("A[0, 0] = n", "cannot store a int32 into buffer A of float32", 'T.cast(..., "float32")'),
        ("B[0] = 0.5", "constant 0.5 is not of dtype int32", "T.cast"),
        ("B[0] = 2 ** 40", "constant 1099511627776 does not fit into int32", "2147483647"),
        ("B[0] = A", "buffer A is used as a value", "A[...]"),
        ("B[0] = None", "expected an expression, got None", ""),
        ("B[0] = n / 2", "operator '/' on int32 is ambiguous", "T.truncdiv"),
        ("B[0] = A[0, 0] // 2.0", "'//' is integer division, got float32", "T.floor"),
        ("B[0] = A[0, 0] & 1", "operator '&' needs integers, got float32", ""),
        ("B[0] = n and n", "'and' needs bool operands, got int32", "compare first"),
        ("B[0] = not n", "'not' needs a bool, got int32", "compare first"),
        ("B[0] = n ** 2", "operator '**' is not defined on expressions", "T.pow"),
        ("B[0] = n @ n", "operator MatMult is not part of the script language", ""),
        ("B[0] = n is 1", "comparison Is is not part", "use == or !="),
        ("B[0] = T.exp(n)", "T.exp needs a float, got int32", "T.cast"),
        ("B[0] = T.exp(1.0, 2.0)", "T.exp takes 1 argument, got 2", ""),
        ("B[0] = T.Cast('float31', n)", "unknown dtype 'float31'", ""),
        ("B[0] = T.Select(n, 1, 2)", "a condition is bool, got int32", "compare first"),
        ("B[0] = T.Select(n < 1, 1)", "T.Select misses argument 'false_value'", ""),
        ("B[0] = T.grid(4)", "T.grid is a statement, not a value", ""),
        ("B[0] = foo(n)", "name 'foo' is not bound", ""),
        ("B[0] = A.shap[0]", "a buffer has no attribute 'shap'", "it has shape"),
        ("B[0] = n.x", "an expression has no attribute 'x'", "astype"),
        ("B[0] = [i for i in n]", "ListComp is not part of the script language", ""),
        ("B[0] = (lambda: 1)()", "not a function that a script can call", ""),
        ("B[0] = n[0]", "an expression of dtype int32 cannot be indexed", ""),
        ("B[0] = 1 << 99", "shift by 99 is out of range", ""),
        ("B[0] = 1 // 0", "cannot compute 1 // 0", ""),
        ("B[0] = 10 ** 30", "integer is too large", "64 bits"),
        ("B[0] = T.int8(300)", "constant 300 does not fit into int8", "-128 to 127"),
        ("B[0] = T.float32('x')", "T.float32 cannot hold 'x'", '"inf"'),
        ("B[0] = B[0:n]", "has no constant positive length", ""),
        ("B[0] = B[:4]", "needs begin and end", ""),
        ("n = n + 1; for_ = 3", "nothing follows in the scope", ""),
        ("n[0] = 1", "cannot store into an expression of dtype int32", "only buffers"),
        ("n += 1", "only buffer elements can be updated in place", ""),
        ("x, y = 1, 2", "cannot assign to this", ""),
        ("x: T.int64 = n", "x has dtype int64, its value int32", "T.cast it"),
        ("n", "this expression has no effect", "T.evaluate"),
        ("T.alloc_buffer((4,))", "T.alloc_buffer must be assigned to a name", ""),
        ("T.block('x')", "T.block opens a scope", "with T.block"),
        ("return", "Return is not part of the script language", "buffer parameters"),
        ("while n < 1: pass", "While is not part of the script language", "extents"),
        ("assert n < 1", "Assert is not part of the script language", "T.assume"),
        ("import os", "Import is not part of the script language", ""),
        ("for i in B: pass", "cannot loop over this", "T.grid"),
        ("for i in range(2.5): pass", "a loop extent is an integer, got 2.5", "//"),
        ("for i in range(-4): pass", "a loop extent is not negative, got -4", ""),
        ("for i in range(0, 8, 2): pass", "a loop has step 1", ""),
        ("for i, j in T.grid(4): pass", "T.grid has 1 extents for 2 variables", ""),
        ("for i in T.serial(4, foo=1): pass", "T.serial has no argument 'foo'", ""),
        ("for i in T.thread_binding(4): pass", "needs a thread", "" ),
        ("for i in T.serial(4, annotations=3): pass", "annotations are a dict", ""),
        ("for i in range(4): T.reads(B)", "T.reads stands directly in a block", ""),
        ("T.reads(B)", "T.reads stands in a block", "T.block"),
        ("vi = T.axis.spatial(8, n)", "T.axis.spatial stands in a block", ""),
        ("with n: pass", "cannot open this with `with`", "T.block"),
        ("with T.block(3): pass", "a block name is a string, got 3", ""),
        ("X = T.alloc_buffer((4, -1))", "dimension 1 of a shape is negative: -1", ""),
        ("X = T.alloc_buffer((4.5,))", "dimension 0 of a shape is an integer, got 4.5", ""),
        ("X = T.alloc_buffer((4,), 'floa32')", "unknown dtype 'floa32'", "did you mean 'float32'"),
        ("X = T.alloc_buffer((4,), strides=(1, 2))", "1 dimensions and 2 strides", ""),
        ("X = T.alloc_buffer((4,), scop='x')", "has no argument 'scop'", "did you mean 'scope'"),
        ("X = T.match_buffer(n, (4,))", "n is not a handle parameter", "T.handle"),
        ("X = T.match_buffer(a, (4,)); Y = T.match_buffer(a, (4,))", "matched twice", ""),
        ("T.func_attr({'a': 1}); T.func_attr({'a': 1})", "attribute 'a' is given twice", ""),
        ("T.func_attr({1: 1})", "annotations are a dict with string keys", ""),
        ("x = T.int32()", "does nothing", "pass"),
    ],
)  # fmt: skip
def test_mistakes(line: str, message: str, hint: str) -> None:
    text = error(line)
    assert message in text
    assert hint in text
    first = text.splitlines()[0]
    assert first.startswith("<script>:")
    assert text.splitlines()[-1].strip() == "^"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["vi = T.axis.spatial(8)"], "iterator 'vi' of block 'C' is bound to no loop"),
        (["vi = T.axis.spatal(8, i)"], "did you mean 'spatial'"),
        (["T.axis.spatial(8, i)"], "T.axis.spatial must be assigned"),
        (["vi = T.axis.remap('SR', [i, j])"], "has 1 names, 2 kinds and 2 bindings"),
        (["vi, vj = T.axis.remap('SX', [i, j])"], "T.axis.remap has no kind 'X'"),
        (["vi = T.axis.remap('S', [i + 1])"], "T.axis.remap binds loop variables"),
        (["vi = T.axis.spatial((1, 2, 3), i)"], "a domain is an extent or (begin, end)"),
        (["vi = T.axis.spatial(8, 0.5)"], "constant 0.5 is not of dtype int32"),
        (["T.reads()", "vi = T.axis.spatial(8, i)"], "iterators stand before T.reads"),
        (["T.reads()", "T.reads()"], "block 'C' has a second T.reads"),
        (["T.where(i)"], "a condition is bool, got int32"),
        (["T.reads(n)"], "expected a buffer region such as A[i, 0:4]"),
        (["T.reads(A[0])"], "buffer A has 2 dimensions, got 1 index"),
        (
            ["V = T.match_buffer(A[0, 0:8], (4,))"],
            "view V has shape (4), the region of A has (1, 8)",
        ),
        (["V = T.match_buffer(A[0:2, 0:8], (8,))"], "view V has shape (8)"),
        (["V = T.match_buffer(A[0, 0:8], (8,), 'int8')"], "view V has dtype int8, its source A"),
        (["with T.init():", "    B[i] = 0", "with T.init():", "    B[i] = 0"], "a second T.init"),
        (["T.reads()", "T.writes()"], "block 'C' does nothing"),
        (["T.func_attr({})"], "T.func_attr stands at the top of the function"),
        (["x = 1", "for k in range(4):", "    x = 2"], "'x' is bound outside of this suite"),
    ],
)
def test_mistakes_in_blocks(lines: list[str], message: str) -> None:
    assert message in in_block(*lines)


def test_the_picture_points_at_the_place() -> None:
    lines = error("for i in range(8):", "    B[i + len('é')] = KK").splitlines()
    assert lines[0] == "<script>:4:27: name 'KK' is not bound"
    assert lines[-2][4:] == "        B[i + len('é')] = KK"
    assert lines[-1].index("^") == lines[-2].index("KK")


def test_an_error_in_a_file_names_file_and_line() -> None:
    with pytest.raises(ScriptError) as caught:

        @T.prim_func
        def f(A: T.Buffer((8,), "float32")):
            for i in range(8):
                A[i] = misspelled  # noqa: F821

    text = str(caught.value)
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = 1 + next(k for k, x in enumerate(source) if x.strip().startswith("A[i] = misspelled"))
    assert text.startswith(f"{__file__}:{line}:24: name 'misspelled' is not bound")
    assert "                A[i] = misspelled" in text


def test_parameters() -> None:
    def header(params: str) -> str:
        with pytest.raises(ScriptError) as caught:
            from_source(f"@T.prim_func\ndef f({params}):\n    pass\n")
        return str(caught.value)

    assert "parameter 'x' has no annotation" in header("x")
    assert "plain names with annotations" in header("x: T.int32 = 3")
    assert "plain names with annotations" in header("*x: T.int32")
    assert "two parameters are named 'x'" in header("x: T.int32, x: T.int64")
    assert "name 'int33' is not bound" in header("x: 'int33'")
    assert "T has no 'int33'" in header("x: T.int33")
    assert "is not an expression" in header("x: 'int 33'")
    assert "misses argument 'shape'" in header("x: T.Buffer()")


def test_from_source_itself() -> None:
    cases: list[tuple[Any, str]] = [
        ("", "no program in this text"),
        ("x = 1", "Assign has no place beside functions and modules"),
        ("def f(): pass", "has 0 decorators"),
        ("@evil\ndef f(): pass", "this decorator is not @T.prim_func"),
        ("@T.prim_func(evil())\ndef f(): pass", "name 'evil' is not"),
        ("@I.ir_module\nclass M:\n    x = 1", "Assign has no place in a module"),
        ("@I.ir_module\nclass M:\n    def f(): pass", "has 0 decorators"),
        ("@T.prim_func\ndef f(:", "not Python"),
        ("a\0b", "null bytes"),
        ("x = '\ud800'", "not Python"),
        (3, "a script is text, got int"),
        ("#" * 16_000_001, "is too long"),
    ]
    for text, message in cases:
        with pytest.raises(ScriptError) as caught:
            from_source(text)
        assert message in str(caught.value)


HOSTILE = [
    "B[0] = " + "-" * 200_000 + "1",
    "B[0] = " + "(" * 300 + "1" + ")" * 300,
    "B[0] = " + "(1 + " * 190 + "n" + ")" * 190,
    "B[0] = " + "1 + " * 50_000 + "n",
    "B[0] = " + "T.min(1, " * 190 + "n" + ")" * 190,
    "B[0] = A" + ".x" * 100_000,
    "B[0] = 9" + "9" * 5_000,
    "B[0] = 2 ** 64 ** 9",
    "B[0] = 1 << 2 ** 60",
    "B[0] = A.__class__.__mro__[1].__subclasses__()",
    "B[0] = T.__builtins__",
    "B[0] = T.axis.__class__",
    "B[0] = T._NAMES",
    "B[0] = I.sys.modules",
    "B[0] = __import__('os').system('true')",
    "exec('1')",
    "B[0] = open('/etc/passwd')",
    "B[0] = f'{n.__class__}'",
    "B[0] = f'{1:999999999}'",
    "B[0] = (1,) * 10 ** 9",
    "B[0] = 'a' * 10 ** 9",
    "for i in T.vectorized(2 ** 70): pass",
    "B[0:2 ** 40] = 0",
    "B[0] = B[T.Ramp(0, 1, 2 ** 40)]",
    "X = T.alloc_buffer((" + "1," * 100 + "))",
    "if n < 1: " + "pass;" * 10 + "del n",
    "global n",
    "async def g(): pass",
    "B[0] = yield",
    "B[0] = (x := 3)",
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text(line: str) -> None:
    start = time.perf_counter()
    error(line)
    assert time.perf_counter() - start < 5


def test_hostile_growth_of_constants() -> None:
    lines = ["x = (1, 2)", *["x = x + x"] * 40, "B[0] = x[0]"]
    assert "is too long" in error(*lines)


@given(st.text(max_size=60))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    read(text)
    read(HEAD + "    " + text + "\n")


TOKENS = (
    "T", ".", "(", ")", "[", "]", "A", "B", "n", "0", "1.5", "=", "+", ",", ":", "for ", "in ",
    "if ", "with ", "block", "grid", "axis", "reads", "'x'", "float32", "Let", "where", "{", "}",
    "-", "not ", "and ", "match_buffer", "a", "range", "\n    ", "\n        ", "*", "Ramp",
    "init", "Cast", "as x",
)  # fmt: skip


@given(st.lists(st.sampled_from(TOKENS), max_size=24))
@settings(derandomize=True, deadline=None, max_examples=700)
def test_any_tokens_are_read_or_refused(tokens: list[str]) -> None:
    read(HEAD + "    " + "".join(tokens) + "\n")


CALLS = [
    "T.Select", "T.if_then_else", "T.Cast", "T.cast", "T.Let", "T.Ramp", "T.Broadcast",
    "T.Shuffle", "T.call_extern", "T.call_intrin", "T.reinterpret", "T.likely", "T.Not",
    "T.bitwise_not", "T.max", "T.ceildiv", "T.min_value", "T.infinity", "T.Range", "T.StringImm",
    "T.exp", "T.pow", "T.int64", "T.float32", "T.handle", "T.floordiv", "T.truncdiv", "A.vload",
    "B.vstore", "len", "min", "float", "n.astype", "T.alloc_buffer", "T.decl_buffer",
    "T.match_buffer", "T.launch_thread", "T.let", "T.var", "T.axis.spatial", "T.axis.remap",
    "T.func_attr", "T.block_attr", "T.evaluate", "T.where", "T.reads", "T.int32", "T.Buffer",
    "T.prim_func", "T.popcount", "T.float32x4", "T.bool", "sum",
]  # fmt: skip
ARGS = [
    "", "n", "1", "-1", "0.5", "'float32'", "None", "A", "A[0, 0]", "n < 1", "[n]", "(1, 2)",
    "{'a': 1}", "'x', 4", "(8,)", "a", "T.Ramp(0, 1, 4)", "B[0:4]", "U[0:4]", "where={x: 1}",
    "[0, 0], n", "'S', [n]", "*A", "n, n", "n, 0.5", "True", "[B[0:2]], [1]", "'nan'", "T", "I",
    "'float32', n", "4, 0", "2 ** 63",
]  # fmt: skip
STATEMENTS: list[Callable[[str], str]] = [
    lambda e: f"T.evaluate({e})",
    lambda e: f"x = {e}\n    pass",
    lambda e: e,
    lambda e: f"with {e} as x:\n        pass",
    lambda e: f"B[{e}] = 1",
    lambda e: f"A[0, 0] += {e}",
    lambda e: f"for i in {e}:\n        pass",
    lambda e: f"if {e}:\n        pass",
    lambda e: f"with T.block('b'):\n        v = {e}\n        T.where({e})\n        pass",
]


@pytest.mark.parametrize("call", CALLS)
def test_calls_with_odd_arguments_are_read_or_refused(call: str) -> None:
    for args in ARGS:
        for statement in STATEMENTS:
            read(HEAD + "    " + statement(f"{call}({args})") + "\n")


# ----------------------------------------------------------------------------- decorators
def test_no_source_text() -> None:
    space: dict[str, Any] = {"T": T}
    code = compile("def f(A: T.Buffer((4,), 'float32')):\n    A[0] = 0.0\n", "<nowhere>", "exec")
    exec(code, space)
    with pytest.raises(ScriptError, match="no source text for function 'f'") as caught:
        T.prim_func(space["f"])
    assert "from_source" in str(caught.value)


def test_text_known_to_linecache_is_enough() -> None:
    import linecache

    text = "def f(A: T.Buffer((4,), 'float32')):\n    A[0] = 0.0\n"
    linecache.cache["<cell 1>"] = (len(text), None, text.splitlines(True), "<cell 1>")
    space: dict[str, Any] = {"T": T}
    exec(compile(text, "<cell 1>", "exec"), space)
    assert T.prim_func(space["f"]).name == "f"


def test_what_is_no_function() -> None:
    wrong: Any = 3
    with pytest.raises(ScriptError, match="stands before a function, got int"):
        T.prim_func(wrong)
    with pytest.raises(ScriptError, match="stands before a class, got int"):
        I.ir_module(wrong)
    with pytest.raises(ScriptError, match="not defined by `def`"):
        T.prim_func(lambda A: 0)


def test_plain_function_in_a_module() -> None:
    with pytest.raises(ScriptError, match="'helper' in module class Module is not a kernel"):

        @I.ir_module
        class Module:
            def helper(self) -> None: ...


def test_module_attributes_outside_a_class() -> None:
    with pytest.raises(ScriptError, match="stands in the body of a class"):
        I.module_attrs({})


def test_captured_values_that_are_no_constants() -> None:
    thing, wrong = object(), complex(1)
    with pytest.raises(ScriptError, match="got a object"):

        @T.prim_func
        def f(A: T.Buffer((4,), "float32")):
            A[0] = thing

    with pytest.raises(ScriptError, match="complex"):

        @T.prim_func
        def g(A: T.Buffer((4,), "float32")):
            A[0] = A[0] + wrong
