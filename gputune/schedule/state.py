"""What does a schedule hold, and what happens around every primitive?

`State` is the machinery that primitives are written against: resolve handles, look at the program,
replace parts of it, refuse with a picture. `Schedule` adds the primitives as methods.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias

from ..errors import ScheduleError
from ..ir import build
from ..ir.check import check
from ..ir.index_map import IndexMap
from ..ir.nodes import (
    EXPR_CLASSES,
    BinOp,
    Block,
    BlockKey,
    Buffer,
    Expr,
    For,
    IntImm,
    IRModule,
    PrimFunc,
    Stmt,
    Var,
)
from ..ir.walk import substitute
from .handles import RV, BlockRV, ExprRV, LoopRV, shown
from .picture import Picture, under
from .primitive import InstructionKind
from .trace import Instruction, Trace
from .tree import Key, Link, Tree, graft
from .views import ScheduleState, StmtSRef

DebugMask: TypeAlias = Literal["none", "all"]
RenderLevel: TypeAlias = Literal["detail", "fast", "none"]


class State:
    """A program under transformation, with its trace.

    Args:
        mod: a PrimFunc (taken as a module of one function under its name) or an IRModule.
        seed: of the sampling; None or -1 draws one.
        debug_mask: "all" checks well-formedness and the cached facts after every primitive.
        error_render_level: "detail" draws the program in errors, "fast" and "none" do not.
        enable_check: False skips the checks that only protect against wrong results.
    """

    def __init__(
        self,
        mod: PrimFunc | IRModule,
        *,
        seed: int | None = None,
        debug_mask: DebugMask | int = "none",
        error_render_level: RenderLevel = "detail",
        enable_check: bool = True,
    ) -> None:
        if isinstance(mod, PrimFunc):
            mod = IRModule.from_expr(mod)
        if not isinstance(mod, IRModule):
            raise ScheduleError(
                f"a schedule needs a PrimFunc or an IRModule, got {type(mod).__name__}",
                hint="decorate the kernel with @T.prim_func",
                code="not-a-program",
            )
        if debug_mask not in ("none", "all", 0, -1):
            raise ScheduleError(
                f"debug_mask is 'none' or 'all', got {shown(debug_mask)}",
                hint='give "none", or "all" to check the program after every primitive',
                code="option",
            )
        if error_render_level not in ("detail", "fast", "none"):
            raise ScheduleError(
                "error_render_level is 'detail', 'fast' or 'none', got "
                f"{shown(error_render_level)}",
                hint='give "detail" to see the program in errors',
                code="option",
            )
        self._mod = mod
        self._original = mod
        self._only = next(iter(mod.functions)) if len(mod.functions) == 1 else None
        self._trees: dict[str, Tree] = {}
        self._latest: Tree | None = None  # the last one that was looked at, if it still holds
        self._values: dict[RV, Key | int] = {}
        # bindings known to be bijective and affine: are they known to reach the whole domain?
        self.affine: dict[tuple[Expr, ...], bool] = {}
        self._pipelines: dict[BlockKey, str] = {}  # scope -> why it is no stage pipeline, or ""
        self.debug_mask: DebugMask = "all" if debug_mask in ("all", -1) else "none"
        self.error_render_level: RenderLevel = error_render_level
        self.enable_check = enable_check
        self.trace = Trace()
        self.func_working_on: str | None = None
        self.decision: Any = None  # what the running sampling primitive decided
        self.resolved: dict[str, Any] = {}  # arguments that it filled in, to be recorded
        self._depth = 0  # of primitives running inside one another
        self.seed(seed)

    # ------------------------------------------------------------------ looking
    @property
    def mod(self) -> IRModule:
        """The program as it stands."""
        return self._mod

    @property
    def state(self) -> ScheduleState:
        """What there is to know about the program: references, dependencies, facts; see `views`."""
        return ScheduleState(self)

    def get_sref(self, rv_or_stmt: BlockRV | LoopRV | Block | For) -> StmtSRef:
        """The reference to a block or loop, from a handle or the statement itself."""
        if isinstance(rv_or_stmt, BlockRV | LoopRV):
            rv_or_stmt = self.get(rv_or_stmt)
        return self.state.get_sref(rv_or_stmt)  # type: ignore[arg-type]  # a handle was resolved

    def seed(self, seed: int | None = None) -> None:
        """Restart sampling from `seed` (1 to 2**31 - 1; None or -1: a new one is drawn)."""
        if seed is None or seed == -1:
            seed = random.SystemRandom().randint(1, 2**31 - 1)
        try:
            seed = operator.index(seed)
        except TypeError:
            raise ScheduleError(
                f"a seed is an integer in [1, 2**31 - 1], got {_describe(seed)}",
                hint="give None to have one drawn",
                code="seed",
            ) from None
        if not 0 <= seed < 2**31:
            raise ScheduleError(
                f"seed {seed} is not in [1, 2**31 - 1]",
                hint="give None to have one drawn",
                code="seed",
            )
        self.rng = random.Random(seed)

    def fork_seed(self) -> int:
        """A seed drawn from this schedule's generator, for another one."""
        return self.rng.randint(1, 2**31 - 1)

    def get(self, rv: RV | StmtSRef | int | Expr) -> Any:
        """What a handle or reference stands for: a `Block`, a `For`, or an int for a sampled value
        (also for arithmetic over sampled values; a plain int is refused)."""
        if isinstance(rv, BlockRV):
            return self.block(rv).node
        if isinstance(rv, LoopRV):
            return self.loop(rv).node
        if isinstance(rv, StmtSRef):
            return rv.stmt
        if not isinstance(rv, EXPR_CLASSES):
            self.fail(
                f"expected a block, a loop or a sampled value, got {_describe(rv)}",
                hint="the handles are what primitives return; get_block gives that of a name",
                code="not-a-handle",
            )
        return self.integer(rv)

    def remove_rv(self, rv: RV) -> None:
        """Forget a handle."""
        if rv not in self._values:
            self.fail(
                f"{shown(rv)} is not known here: it is no handle of this schedule",
                hint="handles come from this schedule, or from the one it was copied from",
                code="unknown-handle",
            )
        del self._values[rv]

    def tree(self, func: str) -> Tree:
        """The index of a function."""
        root = self._mod.functions[func].body
        tree = self._trees.get(func)
        if tree is None or tree.root is not root:
            tree = self._trees[func] = Tree(root)
        self._latest = tree
        return tree

    def find(self, key: Key) -> tuple[str, Link] | None:
        """The function and link of a loop variable or block key."""
        for name, func in self._mod.functions.items():
            if func.body.key is key:  # notes on the root block need no index
                return name, Link(func.body, None)
        for name, func in self._mod.functions.items():
            tree = self._trees.get(name)
            if tree is None or tree.root is not func.body:
                tree = self.tree(name)
            link = tree.find(key)
            if link is not None:
                return name, link
        return None

    def _resolve(self, rv: BlockRV | LoopRV, what: str) -> Link:
        key = self._values.get(rv)
        if key is None:
            self.fail(
                f"this {what} handle is not one of this schedule",
                hint="handles come from this schedule, or from the one it was copied from",
                code="unknown-handle",
            )
        assert not isinstance(key, int)
        if self._latest is not None:  # most often it is where the one before it was
            link = self._latest.find(key)
            if link is not None:
                return link
        found = self.find(key)
        if found is None:
            self.fail(
                f"this {what} is gone from the program: a later primitive replaced it",
                hint=f"get it again with get_{'block' if what == 'block' else 'loops'}",
                code="block-gone" if what == "block" else "loop-gone",
            )
        return found[1]

    def loop(self, rv: object) -> Link:
        """The link of a loop handle."""
        if not isinstance(rv, LoopRV):
            self.fail(
                f"expected a loop, got {_describe(rv)}",
                hint="get_loops gives those of a block",
                code="not-a-loop",
            )
        return self._resolve(rv, "loop")

    def block(self, rv: object) -> Link:
        """The link of a block handle."""
        if not isinstance(rv, BlockRV):
            self.fail(
                f"expected a block, got {_describe(rv)}",
                hint="get_block gives the block of a name",
                code="not-a-block",
            )
        return self._resolve(rv, "block")

    def block_or_loop(self, rv: object) -> Link:
        """The link of a block or loop handle."""
        if isinstance(rv, LoopRV):
            return self._resolve(rv, "loop")
        if isinstance(rv, BlockRV):
            return self._resolve(rv, "block")
        self.fail(
            f"expected a block or a loop, got {_describe(rv)}",
            hint="get_block and get_loops give handles",
            code="not-a-handle",
        )

    def func_of(self, key: Key) -> str:
        """The name of the function that holds a loop or block."""
        if self._only is not None:
            return self._only
        found = self.find(key)
        assert found is not None
        return found[0]

    def integer(self, x: Any) -> int:
        """An int, sampled value, or expression over sampled values as an int (or Dim)."""
        if type(x) is Var:
            value = self._values.get(x)
            if not isinstance(value, int):
                self.fail(
                    f"{x.name!r} is not a sampled value of this schedule",
                    hint="sampled values come from this schedule, or from the one it was "
                    "copied from",
                    code="unknown-value",
                )
            return value
        if type(x) is int:
            return x
        if isinstance(x, bool) or not isinstance(x, (int, *EXPR_CLASSES)):
            self.fail(
                f"expected an integer or a sampled value, got {_describe(x)}",
                hint="give an int, or what sampling returned",
                code="not-an-int",
            )
        if isinstance(x, int):
            return x
        if not _is_arithmetic(x):
            self.fail(
                f"{x} is no arithmetic over sampled values",
                hint="a trace keeps +, -, *, //, %, min and max of them",
                code="not-an-int",
            )
        table: dict[Var, Expr] = {
            v: IntImm(n, v.dtype)
            for v, n in self._values.items()
            if type(v) is Var and isinstance(n, int)
        }
        e = substitute(x, table)
        if type(e) is not IntImm:
            self.fail(
                f"{x} is not an integer over sampled values",
                hint="a trace keeps +, -, *, //, %, min and max of sampled values of this schedule",
                code="not-an-int",
            )
        return e.value

    # ------------------------------------------------------------------ minting
    def mint_block(self, key: BlockKey) -> BlockRV:
        """A handle for a block."""
        rv = BlockRV()
        self._values[rv] = key
        return rv

    def mint_loop(self, var: Var) -> LoopRV:
        """A handle for a loop."""
        rv = LoopRV()
        self._values[rv] = var
        return rv

    def mint_value(self, value: int) -> ExprRV:
        """A handle for a sampled value."""
        rv = Var("v")
        self._values[rv] = value
        return rv

    # ------------------------------------------------------------------ changing
    def set_root(self, func: str, root: Block) -> None:
        """Give a function another root block."""
        self.set_func(func, build.replace_body(self._mod.functions[func], root))

    def set_func(self, func: str, new: PrimFunc) -> None:
        """Put another function in the place of one, under its name."""
        mod = self._mod
        functions = {func: new} if self._only else {**mod.functions, func: new}
        self._mod = IRModule(functions, mod.attrs, mod.graphs)
        self._latest = None

    def replace(self, link: Link, new: Stmt | None) -> None:
        """Put `new` where the node of `link` is (None: remove it)."""
        root = graft(link, new)
        self.set_root(self.func_of(root.key), root)

    def refresh(self, link: Link) -> Link:
        """The link, after a change, of the loop or block that `link` was."""
        node = link.node
        key: Key = node.key if type(node) is Block else link.loop().var
        found = self.find(key)
        assert found is not None
        return found[1]

    # ------------------------------------------------------------------ refusing
    def fail(
        self, message: str, *, code: str, hint: str = "", at: object | Sequence[object] = ()
    ) -> NoReturn:
        """Refuse: raise a ScheduleError whose picture marks `at` (nodes, loop variables, keys)."""
        raise self.error(message, code=code, hint=hint, at=at)

    def error(
        self, message: str, *, code: str, hint: str = "", at: object | Sequence[object] = ()
    ) -> ScheduleError:
        """The error that `fail` raises."""
        marks = list(at) if isinstance(at, (list, tuple)) else [at]
        draw = Picture(self._mod, marks) if self.error_render_level == "detail" and marks else None
        if self.error_render_level == "none":
            hint = ""
        return ScheduleError(message, hint=hint, code=code, draw=draw)

    def explain_refusal(
        self, e: ScheduleError, kind: InstructionKind, values: Mapping[str, Any], mod: IRModule
    ) -> None:
        """Put the call, and a picture if there is none yet, under the message of an error."""
        level = self.error_render_level
        if level == "none":
            e.hint = ""
        else:
            e.draw = under(e.draw, kind, values, self._values, mod, level == "detail")

    # ------------------------------------------------------------------ running
    def run(self, kind: InstructionKind, values: dict[str, Any]) -> Any:
        """Run a primitive: it succeeds whole and is recorded, or leaves no mark."""
        mod, trees = self._mod, self._trees
        length = len(self.trace.insts)
        known = len(self._values)
        outer = self.decision, self.resolved  # of a primitive that calls this one
        self._depth += 1
        try:
            for name in kind.blocks:
                given = values[name]
                if isinstance(given, str):
                    values[name] = self._block_named(given)
                elif isinstance(given, (list, tuple)):
                    values[name] = [
                        self._block_named(b) if isinstance(b, str) else b for b in given
                    ]
            self.decision, self.resolved = None, {}
            looked_up = len(self.trace.insts)
            if kind.variadic:
                rest = values.copy()
                out = kind.fn(self, *rest.pop(kind.variadic), **rest)
            else:
                out = kind.fn(self, **values)
            if len(self.trace.insts) > looked_up:
                self._forget_calls(looked_up)
            if self.debug_mask == "all":
                check(self._mod)
        except ScheduleError as e:
            if self._depth == 1:  # the call that the user made
                # a map that was read is shown as a trace has it, in each process alike
                maps = {n: m for n, m in self.resolved.items() if isinstance(m, IndexMap)}
                self.explain_refusal(e, kind, values | maps, mod)
            self._undo(mod, trees, length, known)
            if e.message and not e.message.startswith(f"{kind.method}: "):
                e.message = f"{kind.method}: {e.message}"
            raise
        except RecursionError:
            self._undo(mod, trees, length, known)
            raise ScheduleError(
                f"{kind.method}: the program is nested too deeply",
                hint="programs may be nested some hundred levels deep",
                code="too-deep",
            ) from None
        except BaseException:
            self._undo(mod, trees, length, known)
            raise
        finally:
            self._depth -= 1
            decision, resolved = self.decision, self.resolved
            self.decision, self.resolved = outer
        if resolved:
            values |= resolved
        self.trace.append(Instruction.record(kind, values, out), decision)
        return out

    def _forget_calls(self, first: int) -> None:
        """Remove what primitives called by a primitive recorded: its own instruction stands for
        them when it is replayed."""
        inner = self.trace.insts[first:]
        drawn = next((x.kind for x in inner if x.kind.samples), None)
        if drawn is not None:
            self.fail(
                f"it calls {drawn.method}, whose decision no trace would hold",
                hint="sample outside, and give the primitive what was sampled as an argument",
                code="sampling-inside",
            )
        while len(self.trace.insts) > first:
            self.trace.pop()

    def _block_named(self, name: str) -> BlockRV:
        """The block that a primitive was given by name, through a recorded GetSBlock."""
        rv = self.run(InstructionKind.get("GetSBlock"), {"name": name, "func_name": None})
        assert isinstance(rv, BlockRV)
        return rv

    def _undo(self, mod: IRModule, trees: dict[str, Tree], length: int, known: int) -> None:
        self._mod, self._trees = mod, trees
        self._latest = None
        while len(self.trace.insts) > length:
            self.trace.pop()
        for rv in list(self._values)[known:]:
            del self._values[rv]

    # ------------------------------------------------------------------ facts kept across steps
    def pipeline_fault(self, scope: Link) -> str:
        """Why the scope is not a stage pipeline, or "". Primitives keep the property, so it is
        found once, in the program that the schedule began with: what is accepted then depends on
        the trace alone, not on what was refused in between."""
        from .analysis import first_pipeline_fault, pipeline_fault

        key = scope.block().key
        fault = self._pipelines.get(key)
        if fault is None:
            for func in self._original.functions.values():
                fault = first_pipeline_fault(func.body, key)
                if fault is not None:
                    break
            else:
                fault = pipeline_fault(scope)
            self._pipelines[key] = fault
        return fault

    def break_pipeline(self, scope: Link, why: str) -> None:
        """A primitive that gives up the property says so, having changed the program."""
        self._pipelines[scope.block().key] = why


def _describe(x: object) -> str:
    if isinstance(x, (BlockRV, LoopRV)) or type(x) is Var:
        return shown(x)
    return f"{type(x).__name__} {shown(x)}"


_ARITHMETIC = frozenset({"+", "-", "*", "//", "%", "min", "max"})


def _is_arithmetic(x: Expr) -> bool:
    """Is it made of integers and variables by what a trace can write?"""
    if type(x) is BinOp:
        return x.op in _ARITHMETIC and _is_arithmetic(x.a) and _is_arithmetic(x.b)
    return type(x) is IntImm or type(x) is Var


def is_spelled(name: str, given: str) -> bool:
    """Is a name meant by how it is written in a printed program, with "_" for dots?"""
    return name == given or name.replace(".", "_") == given.replace(".", "_")


def buffer_at(regions: Sequence[Any], index: int, what: str, s: State, at: object) -> Buffer:
    """The buffer of region `index`."""
    if not 0 <= index < len(regions):
        s.fail(
            f"buffer index {index} is out of range: the block has {len(regions)} {what}(s)",
            hint=f"give a position from 0 to {len(regions) - 1}, or the name of a buffer",
            code="buffer-index",
            at=at,
        )
    buffer: Buffer = regions[index].buffer
    return buffer
