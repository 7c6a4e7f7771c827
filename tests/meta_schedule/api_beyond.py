"""Reference 1.2: names beyond the numbered rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from api_components import context, filled, two_tiles
from api_rows import refuses, row
from api_search import matmul_and
from ms_fakes import TARGET, FakeBuilder, FakeRunner, matmul, record_of, split_j

import gputune as gt
from gputune import meta_schedule as ms
from gputune.errors import ScheduleError, UserError
from gputune.ir import graph
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import IRModule
from gputune.schedule import Instruction, InstructionKind, Schedule, Trace
from gputune.target import Target


# ----------------------------------------------------------------------------- bases
def left_open(number: int, cls: type, base: type, methods: str) -> None:
    """A row for a `Py` class: each of its methods is missed by name when it is called."""

    @row(f"1.2.{number}", cls.__name__, does="inherit from it; a method that is left out raises "
         f"NotImplementedError when it is called: {methods.replace(' ', ', ')}")  # fmt: skip
    def _(tmp: Path) -> None:
        assert issubclass(cls, base)
        empty = type("Empty", (cls,), {})()
        for name in methods.split():
            call = getattr(empty, name)
            needed = [
                p for p in _parameters(call) if p.default is p.empty and p.kind != p.VAR_POSITIONAL
            ]
            refuses(
                RuntimeError, f"Empty: {name} is not implemented",
                lambda call=call, needed=needed: call(*[None] * len(needed)),
            )  # fmt: skip


def _parameters(call: Callable[..., Any]) -> list[Any]:
    import inspect

    return list(inspect.signature(call).parameters.values())


for n, (cls, base, methods) in enumerate(
    [
        (ms.PyBuilder, ms.Builder, "build"),
        (ms.PyRunner, ms.Runner, "run"),
        (ms.PyDatabase, ms.Database, "has_workload commit_workload commit_tuning_record get_top_k "
                                     "get_all_tuning_records"),
        (ms.PyCostModel, ms.CostModel, "load save update predict"),
        (ms.PyFeatureExtractor, ms.FeatureExtractor, "extract_from"),
        (ms.PyMeasureCallback, ms.MeasureCallback, "apply"),
        (ms.PyMutator, ms.Mutator, "apply"),
        (ms.PyPostproc, ms.Postproc, "apply"),
        (ms.PyScheduleRule, ms.ScheduleRule, "apply"),
        (ms.PySearchStrategy, ms.SearchStrategy, "pre_tuning post_tuning "
                                                 "generate_measure_candidates "
                                                 "notify_runner_results"),
        (ms.PySpaceGenerator, ms.SpaceGenerator, "generate_design_space"),
        (ms.PyTaskScheduler, ms.TaskScheduler, "next_task_id"),
    ],
    1,
):  # fmt: skip
    left_open(n, cls, base, methods)


@row("1.2.13", "PyRunnerFuture", does="inherit from it and give it `done` and `result`")
def _(tmp: Path) -> None:
    class Now(ms.PyRunnerFuture):
        def done(self) -> bool:
            return True

        def result(self) -> ms.RunnerResult:
            return ms.RunnerResult([2.0])

    assert Now().result().run_secs == [2.0]
    refuses(RuntimeError, "done() is not implemented", ms.PyRunnerFuture().done)
    refuses(RuntimeError, "result() is not implemented", ms.PyRunnerFuture().result)


# ----------------------------------------------------------------------------- data
@row("1.2.14", "BuilderInput", "(mod, target, params=None)", of=ms.BuilderInput,
     does="a program to compile")  # fmt: skip
def _(tmp: Path) -> None:
    x = ms.BuilderInput(matmul()["main"], TARGET)  # type: ignore[arg-type]  # what tune_tir takes
    assert isinstance(x.mod, IRModule)
    assert isinstance(x.target, Target)
    assert x.params is None


@row("1.2.15", "BuilderResult", "(artifact_path, error_msg)", of=ms.BuilderResult,
     does="a path, or why there is none")  # fmt: skip
def _(tmp: Path) -> None:
    assert ms.BuilderResult("x", None).problem is None
    assert "bad" in str(ms.BuilderResult(None, "bad").problem)


@row("1.2.16", "RunnerInput", "(artifact_path, device_type, args_info)", of=ms.RunnerInput,
     does="a kernel to time")  # fmt: skip
def _(tmp: Path) -> None:
    x = ms.RunnerInput("path", "cpu", [])
    assert (x.artifact_path, x.device_type, list(x.args_info)) == ("path", "cpu", [])


@row("1.2.17", "RunnerResult", "(run_secs, error_msg)", of=ms.RunnerResult,
     does="times, or why there are none")  # fmt: skip
def _(tmp: Path) -> None:
    assert ms.RunnerResult([1.0, 5.0, 2.0], None).seconds == 2.0
    assert ms.RunnerResult(None, "slow").seconds == float("inf")


@row("1.2.18", "RunnerFuture", "(f_done, f_result)", of=ms.RunnerFuture,
     does="a result that may come later")  # fmt: skip
def _(tmp: Path) -> None:
    ready = [False]
    future = ms.RunnerFuture(f_done=lambda: ready[0], f_result=lambda: ms.RunnerResult([1.0]))
    assert not future.done()
    ready[0] = True
    assert future.done()
    assert future.result().run_secs == [1.0]


@row("1.2.19", "Workload", "(mod)", of=ms.Workload,
     does="a program; `as_json` and `from_json` are each other's inverses",
     differs="the JSON form holds the program's text, which is parsed and never run")  # fmt: skip
def _(tmp: Path) -> None:
    one = ms.Workload(matmul())
    again = ms.Workload.from_json(one.as_json())
    assert structural_equal(one.mod, again.mod)
    assert again.as_json() == one.as_json()
    refuses(ValueError, "workload", lambda: ms.Workload.from_json([1]))


@row(
    "1.2.20",
    "TuningRecord",
    "(trace, workload, run_secs=None, target=None, args_info=None)",
    of=ms.TuningRecord,
    does="a measured schedule; JSON both ways; `as_measure_candidate` replays it",
    differs="a fifth JSON element holds more facts and a checksum; four-element records are read",
)
def _(tmp: Path) -> None:
    workload = ms.Workload(matmul())
    one = record_of(workload, [1.0, 2.0], 8)
    again = ms.TuningRecord.from_json(one.as_json(), workload)
    assert again.run_secs == [1.0, 2.0]
    assert again.target == Target(TARGET)
    mod = again.as_measure_candidate().sch.mod
    assert structural_equal(mod, split_j(matmul(), 8).mod)
    old = ms.TuningRecord.from_json(one.as_json()[:4], workload)
    assert str(old.trace) == str(one.trace)
    untuned = ms.TuningRecord(Trace(), workload)
    assert (untuned.run_secs, untuned.target, untuned.args_info) == (None, None, None)
    refuses(ValueError, "tuning record", lambda: ms.TuningRecord.from_json({}, workload))


@row("1.2.21", "ArgInfo", does="`as_json`, `from_json`, `from_prim_func`, `from_entry_func(mod, "
                               "remove_preproc=True)`",
     differs="numbers passed by value have a ScalarInfo")  # fmt: skip
def _(tmp: Path) -> None:
    infos = ms.ArgInfo.from_prim_func(matmul()["main"])
    assert [ms.ArgInfo.from_json(i.as_json()) for i in infos] == infos
    packs = packing()
    given, _ = ms.ArgInfo.from_entry_func(packs, remove_preproc=False)
    packed, _ = ms.ArgInfo.from_entry_func(packs)
    assert given == ms.TensorInfo("float32", (8, 6))
    assert packed == ms.TensorInfo("float32", (2, 6, 4))


def packing() -> IRModule:
    """A program that packs its argument ahead of the work."""
    from gputune.script import from_source

    return ms.module_equality.as_module(
        from_source("""
@T.prim_func
def main(A: T.Buffer((8, 6), "float32"), B: T.Buffer((8, 6), "float32")):
    P = T.alloc_buffer((2, 6, 4), "float32")
    for i, j in T.grid(8, 6):
        with T.block("P"):
            vi, vj = T.axis.remap("SS", [i, j])
            T.block_attr({"meta_schedule.layout_rewrite_preproc": True})
            P[vi // 4, vj, vi % 4] = A[vi, vj]
    for i, j in T.grid(8, 6):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = P[vi // 4, vj, vi % 4] + T.float32(1)
""")
    )  # type: ignore[arg-type]  # one function


@row("1.2.22", "TensorInfo", "(dtype, shape)", of=ms.TensorInfo, does="an array")
def _(tmp: Path) -> None:
    assert ms.TensorInfo("float16", [2, 3]).as_json() == ["TENSOR", "float16", [2, 3]]


@row("1.2.23", "TaskRecord",
     "(ctx, task_weight, flop, is_terminated, build_error_count, run_error_count, latency_ms, "
     "measure_candidates, builder_results, runner_futures)", of=ms.TaskRecord,
     does="a task and its state")  # fmt: skip
def _(tmp: Path) -> None:
    fails = {0: "no"}
    ctx = context(space_generator=two_tiles, search_strategy="replay-trace")
    scheduler = ms.RoundRobin()
    runner = FakeRunner(lambda i: "it fell over" if i == 1 else 2e-3)
    scheduler.tune(
        [ctx], [3.0], 4, 4, 4, FakeBuilder(lambda i: fails.get(i)), runner, [], None, None,
        verify=False,
    )  # fmt: skip
    (found,) = scheduler.tasks
    assert (found.ctx, found.task_weight, found.flop) == (ctx, 3.0, 2 * 16**3)
    assert (found.build_error_count, found.run_error_count) == (1, 1)
    assert found.latency_ms == [1e9, 1e9, 2.0, 2.0]
    assert found.is_terminated
    assert found.measure_candidates is found.builder_results is found.runner_futures is None


# ----------------------------------------------------------------------------- settings
@row(
    "1.2.24",
    "EvaluatorConfig",
    "(number=3, repeat=1, min_repeat_ms=100, enable_cpu_cache_flush=False)",
    of=ms.EvaluatorConfig,
    does="how a candidate is timed",
    differs="`adaptive=True` (what gputune does where no config is given) shortens repeats; "
    "`regime` (of the caches), `correct_drift`, `cut`, `retries` and `graph` besides",
)
def _(tmp: Path) -> None:
    config = ms.EvaluatorConfig()
    assert (config.number, config.repeat, config.min_repeat_ms) == (3, 1, 100)
    assert not config.enable_cpu_cache_flush
    assert ms.LocalRunner().evaluator_config.adaptive
    refuses(UserError, "number", lambda: ms.EvaluatorConfig(number=0))
    built = ms.LocalBuilder(1).build([ms.BuilderInput(matmul(), Target(TARGET))])
    runner = ms.LocalRunner(
        evaluator_config=ms.EvaluatorConfig(number=2, repeat=3, min_repeat_ms=1)
    )
    args = ms.ArgInfo.from_entry_func(matmul())
    (future,) = runner.run([ms.RunnerInput(str(built[0].artifact_path), "cpu", args)])
    assert len(future.result().run_secs or ()) == 3


ENVIRONMENT = {
    "TVM_TRACKER_HOST": "farm", "TVM_TRACKER_PORT": "9190", "TVM_TRACKER_KEY": "board",
}  # fmt: skip


@row("1.2.25", "RPCConfig",
     "(tracker_host=None, tracker_port=None, tracker_key=None, session_priority=1, "
     "session_timeout_sec=10)", of=ms.RPCConfig,
     does="`_normalized` fills in what TVM_TRACKER_HOST, _PORT and _KEY say; "
          "`count_num_servers` counts the workers that announce the key",
     differs="the tracker is a Dask scheduler (by TLS, unless on this machine), the key a resource "
             "of its workers; `connect_tracker` gives a `DaskCluster`, and `connect_server` says "
             "that there are no sessions")  # fmt: skip
def _(tmp: Path) -> None:
    with mock.patch.dict(os.environ, ENVIRONMENT):
        assert ms.RPCConfig._normalized(None) == ms.RPCConfig("farm", 9190, "board", 1, 10)
        own = ms.RPCConfig(tracker_host="here", tracker_port=1)
        assert ms.RPCConfig._normalized(own) == ms.RPCConfig("here", 1, "board")
        os.environ["TVM_TRACKER_PORT"] = "ninety"
        refuses(UserError, "'ninety'", lambda: ms.RPCConfig._normalized(None))
        del os.environ["TVM_TRACKER_KEY"]
        refuses(UserError, "TVM_TRACKER_KEY", lambda: ms.RPCConfig._normalized(own))
    config = ms.RPCConfig("farm", 9190, "board")
    assert config.scheduler() == "tls://farm:9190"
    refuses(UserError, "no sessions", config.connect_server)
    for call in (config.connect_tracker, config.count_num_servers):
        refuses(UserError, "tls://farm:9190 needs certificates", call)
    refuses(UserError, "tracker_port", lambda: ms.RPCConfig(tracker_port=0))
    refuses(UserError, "session_timeout_sec", lambda: ms.RPCConfig(session_timeout_sec=0))


@row("1.2.26", "RPCRunner",
     "(rpc_config=None, evaluator_config=None, cooldown_sec=0.0, alloc_repeat=1, "
     "max_workers=None, initializer=None, **options)", of=ms.RPCRunner,
     does="measures on the workers of a Dask cluster that announce the key",
     differs="functions of the user's do not go there")  # fmt: skip
def _(tmp: Path) -> None:
    config = ms.RPCConfig("farm", 1, "board")
    refuses(UserError, "tls://farm:1 needs certificates", lambda: ms.RPCRunner(config))
    refuses(UserError, "f_cleanup: functions of yours",
            lambda: ms.RPCRunner(config, f_cleanup=print))  # fmt: skip


@row("1.2.27", "XGBConfig", does="parameters of the trees, XGBoost's names",
     differs="for its own features XGBModel has others (32 bins, fewer columns)")  # fmt: skip
def _(tmp: Path) -> None:
    assert ms.XGBConfig().seed == 43
    assert ms.XGBConfig(max_depth=4).max_depth == 4
    for name in ("gamma", "min_child_weight", "eta", "nthread", "tree_method"):
        assert hasattr(ms.XGBConfig(), name)


@row("1.2.28", "LocalBuilder",
     "(max_workers=None, timeout_sec=30, f_build=None, f_export=None, initializer=None)",
     of=ms.LocalBuilder, does="compiles in worker processes, which stay warm",
     differs="given functions run in the calling process: they need not be importable")  # fmt: skip
def _(tmp: Path) -> None:
    seen: list[str] = []

    def f_build(mod: IRModule, target: Target, params: object) -> object:
        seen.append("build")
        return gt.build(mod, target)

    def f_export(module: object) -> str:
        seen.append("export")
        return "there"

    builder = ms.LocalBuilder(
        f_build=f_build, f_export=f_export, initializer=lambda: seen.append("init")
    )
    inputs = [ms.BuilderInput(matmul(), Target(TARGET))] * 2
    assert [r.artifact_path for r in builder.build(inputs)] == ["there", "there"]
    assert seen == ["init", "build", "export", "build", "export"]


@row("1.2.29", "LocalRunner",
     "(timeout_sec=30, evaluator_config=None, cooldown_sec=0, alloc_repeat=1, "
     "f_alloc_argument=None, f_run_evaluator=None, f_cleanup=None, initializer=None)",
     of=ms.LocalRunner, does="one long-lived worker process; `cooldown_sec` is really waited",
     differs="given functions run in the calling process")  # fmt: skip
def _(tmp: Path) -> None:
    seen: list[Any] = []
    (built,) = ms.LocalBuilder(1).build([ms.BuilderInput(matmul(), Target(TARGET))])
    args = ms.ArgInfo.from_entry_func(matmul())

    def allocate(device: str, infos: Any, repeat: int) -> list[list[Any]]:
        seen.append(("alloc", device, len(infos), repeat))
        return [[np.ones(i.shape, i.dtype) for i in infos] for _ in range(repeat)]

    def evaluate(module: Any, device: Any, config: Any, repeated: Any) -> list[float]:
        seen.append(("run", config.number, len(repeated)))
        for arguments in repeated:
            module["main"](*arguments)
            assert (arguments[2] == 16).all()
        return [0.25] * len(repeated)

    runner = ms.LocalRunner(
        10, ms.EvaluatorConfig(number=7), 0.05, 2, allocate, evaluate,
        lambda: seen.append("clean"), lambda: seen.append("init"),
    )  # fmt: skip
    with mock.patch("time.sleep", lambda s: seen.append(("sleep", s))):
        results = [
            f.result()
            for f in runner.run([ms.RunnerInput(str(built.artifact_path), "cpu", args)] * 2)
        ]
    assert [r.run_secs for r in results] == [[0.25, 0.25]] * 2
    each = [("sleep", 0.05), ("alloc", "cpu", 3, 2), ("run", 7, 2), "clean"]
    assert seen == ["init", *each, *each]


# ----------------------------------------------------------------------------- helpers
@row("1.2.30", "tir_integration.compile_tir", "(database, mod, target) -> Schedule",
     of=ms.tir_integration.compile_tir, does="the best schedule, or None",
     differs="its program is compiled, run and compared in a worker first; `verify=True` gives "
     "only what could be compared, `reference` says with what")  # fmt: skip
def _(tmp: Path) -> None:
    sch = ms.compile_tir(filled(), matmul(), TARGET)
    assert sch is not None
    assert structural_equal(sch.mod, split_j(matmul(), 8).mod)
    assert ms.compile_tir(filled(), matmul(32), TARGET) is None


def many() -> IRModule:
    two = matmul_and("T.float32(1)")["main"]
    return IRModule({"f": matmul()["main"], "g": two, "h": matmul()["main"]})


@row("1.2.31", "relax_integration.extract_tasks",
     '(mod, target, params=None, *, module_equality="structural")',
     of=ms.relax_integration.extract_tasks,
     does="a task for each tensor function that is called; equal ones are one of greater weight",
     differs="a module without graph functions gives all its functions")  # fmt: skip
def _(tmp: Path) -> None:
    tasks = ms.extract_tasks(many(), TARGET)
    assert [(t.task_name, t.weight) for t in tasks] == [("f", 2), ("g", 1)]
    assert [list(t.dispatched[0]) for t in tasks] == [["main"]] * 2
    merged = ms.extract_tasks(many(), TARGET, module_equality="anchor-block")
    assert [(t.task_name, t.weight) for t in merged] == [("f", 3)]
    done = matmul()["main"].with_attr("tir.is_scheduled", True)
    assert ms.extract_tasks(IRModule({"f": done}), TARGET) == []
    refuses(UserError, "graph", lambda: ms.extract_tasks(many(), TARGET, {"w": 1}))
    shape = graph.TensorType((16, 16))
    a, b, c = (graph.Var(name, shape) for name in "abc")
    call = graph.Call(graph.GlobalVar("h"), (a, b), shape)
    again = graph.Call(graph.GlobalVar("h"), (c, b), shape)
    d = graph.Var("d", shape)
    main = graph.Function((a, b), (graph.Binding(c, call), graph.Binding(d, again)), d)
    whole = IRModule({**many().functions, "main": main})
    found = ms.extract_tasks(whole, TARGET, {"a": 1})
    assert [(t.task_name, t.weight) for t in found] == [("h", 2)]
    refuses(UserError, "none such: w", lambda: ms.extract_tasks(whole, TARGET, {"w": 1}))
    refuses(UserError, "gputune.compile", lambda: ms.compile_relax(
        filled(), whole, TARGET))  # fmt: skip
    refuses(UserError, "found str", lambda: ms.extract_tasks("f", TARGET))  # type: ignore[arg-type]


@row("1.2.32", "relax_integration.extracted_tasks_to_tune_contexts",
     '(extracted_tasks, work_dir, space="post-order-apply", strategy="evolutionary", '
     'num_tuning_cores="physical", seed=None)',
     of=ms.relax_integration.extracted_tasks_to_tune_contexts,
     does="contexts and weights for `tune_tasks`")  # fmt: skip
def _(tmp: Path) -> None:
    tasks = ms.extract_tasks(many(), TARGET)
    to_contexts = ms.relax_integration.extracted_tasks_to_tune_contexts
    contexts, weights = to_contexts(tasks, tmp, two_tiles, "replay-trace", 1, seed=3)
    assert weights == [2.0, 1.0]
    assert [c.task_name for c in contexts] == ["f", "g"]
    assert contexts[0].rand_state != contexts[1].rand_state
    again, _ = to_contexts(tasks, tmp, two_tiles, "replay-trace", 1, seed=3)
    assert [c.rand_state for c in again] == [c.rand_state for c in contexts]
    assert sorted(p.name for p in (tmp / "logs").iterdir())


@row(
    "1.2.33",
    "relax_integration.tune_relax",
    "(mod, params, target, work_dir, max_trials_global, *, max_trials_per_task=None, "
    'op_names=None, num_trials_per_iter=64, builder="local", runner="local", database="json", '
    'cost_model="xgb", measure_callbacks="default", task_scheduler="gradient", '
    'space="post-order-apply", strategy="evolutionary", seed=None, '
    'module_equality="structural")',
    of=ms.relax_integration.tune_relax,
    does="tunes the functions of a module; `op_names`: those whose name holds one of them",
)
def _(tmp: Path) -> None:
    runner = FakeRunner(lambda i: 1e-3)
    database = ms.tune_relax(
        many(), None, TARGET, tmp, 3, op_names=["g"], builder=FakeBuilder(), runner=runner,
        cost_model="random", strategy="replay-trace", space=two_tiles, verify=False, seed=1,
    )  # fmt: skip
    assert [t.task_name for t in database.tasks] == ["g"]
    assert runner.measured == 3
    refuses(ValueError, "nothing to tune", lambda: ms.tune_relax(
        many(), None, TARGET, tmp, 3, op_names=["conv"]))  # fmt: skip


@row("1.2.34", "relax_integration.compile_relax",
     "(database, mod, target, params=None, enable_warning=False)",
     of=ms.relax_integration.compile_relax,
     does="compiles a module, each function with its best schedule",
     differs="gives a Module of functions; the reference a whole model's executable")  # fmt: skip
def _(tmp: Path) -> None:
    def halves(task: ms.ExtractedTask, sch: Schedule) -> bool:
        if task.task_name != "f":
            return False
        i, _, _ = sch.get_loops(sch.get_block("C"))
        sch.split(i, [2, None])
        return True

    database = ms.testing.apply_fixed_schedules(many(), TARGET, None, halves)
    compiled = ms.compile_relax(database, many(), TARGET, enable_warning=True)
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 16, 16), np.float32)
    for name, expected in (("f", a @ b), ("g", a @ b + 1), ("h", a @ b)):
        c = np.zeros((16, 16), np.float32)
        compiled[name](a, b, c)
        np.testing.assert_allclose(c, expected, rtol=1e-5)
    refuses(UserError, "graph", lambda: ms.compile_relax(database, many(), TARGET, {"w": 1}))


@row("1.2.35", "trace_apply.schedule_using_anchor_trace", "(sch, anchor_trace, target)",
     of=ms.trace_apply.schedule_using_anchor_trace,
     does="does to a program's anchor block what a trace did to another's; the rest is inlined, "
          "or gets loops of its own")  # fmt: skip
def _(tmp: Path) -> None:
    trace = split_j(matmul(), 8).trace
    sch = Schedule(matmul_and("T.float32(1)"))
    ms.trace_apply.schedule_using_anchor_trace(sch, trace, TARGET)
    text = sch.mod.script()
    assert "in T.grid(16, 2, 16, 8)" in text  # the anchor block, as in the trace
    assert "T.parallel" in text  # the addition that follows
    refuses(
        ScheduleError,
        "does nothing to the block",
        lambda: ms.trace_apply.schedule_using_anchor_trace(Schedule(matmul()), Trace(), TARGET),
    )


@row(
    "1.2.36",
    "logging.get_loggers_from_work_dir",
    "(work_dir, task_names)",
    of=ms.logging.get_loggers_from_work_dir,
    does="a log file for each task, in `work_dir/logs`",
)
def _(tmp: Path) -> None:
    (one,) = ms.logging.get_loggers_from_work_dir(tmp, ["task_0_main"])
    one.info("hello")
    (path,) = (tmp / "logs").glob("*task_0_main.log")
    assert "INFO hello" in path.read_text()


@row("1.2.37", "logging.create_loggers", "(log_dir, names)", of=ms.logging.create_loggers,
     does="loggers that write to files", differs="the two further settings of the reference are "
     "Python's own: `logging.Logger` objects")  # fmt: skip
def _(tmp: Path) -> None:
    a, b = ms.logging.create_loggers(tmp, ["a", "b"])
    assert a is not b
    assert len(list(tmp.glob("*.log"))) == 2


@row("1.2.38", "utils.cpu_count", "(logical=True) -> int", of=ms.utils.cpu_count,
     does="processors that this process may use")  # fmt: skip
def _(tmp: Path) -> None:
    assert 1 <= ms.utils.cpu_count(logical=False) <= ms.utils.cpu_count() <= (os.cpu_count() or 1)


@row("1.2.39", "utils.fork_seed", "(seed, n)", of=ms.utils.fork_seed, does="`n` seeds of one")
def _(tmp: Path) -> None:
    found = ms.utils.fork_seed(5, 4)
    assert len(set(found)) == 4
    assert found == ms.utils.fork_seed(5, 4) != ms.utils.fork_seed(6, 4)
    assert ms.utils.fork_seed(None, 0) == []
    refuses(UserError, "count", lambda: ms.utils.fork_seed(5, -1))


@row("1.2.40", "utils.shash2hex", "(mod) -> str", of=ms.utils.shash2hex,
     does="the structural hash in hexadecimal digits")  # fmt: skip
def _(tmp: Path) -> None:
    found = ms.utils.shash2hex(matmul())
    assert int(found, 16) >= 0
    assert found == ms.utils.shash2hex(matmul()) != ms.utils.shash2hex(matmul(32))


@row("1.2.41", "profiler.Profiler", does="the class of rows 38 to 42")
def _(tmp: Path) -> None:
    assert ms.profiler.Profiler is ms.Profiler


@row("1.2.42", "testing.generate_design_space", "(kind, mod, target, types, sch_rules=None)",
     of=ms.testing.generate_design_space, does="the sketches that some rules make",
     differs="workloads to test with are `gputune.kernels`")  # fmt: skip
def _(tmp: Path) -> None:
    tiling = ms.schedule_rule.MultiLevelTiling
    (sch, *_) = ms.testing.generate_design_space("llvm", matmul(64), TARGET, tiling)
    assert "sample_perfect_tile" in str(sch.trace)
    none = ms.testing.generate_design_space("llvm", matmul(64), TARGET, (), sch_rules=[])
    assert [str(s.trace) for s in none] == [""]
    refuses(UserError, "none of", lambda: ms.testing.generate_design_space(
        "llvm", matmul(), TARGET, Trace))  # fmt: skip
    refuses(UserError, "not both", lambda: ms.testing.generate_design_space(
        "llvm", matmul(), TARGET, tiling, sch_rules=[]))  # fmt: skip


@row(
    "1.2.43",
    "testing.check_sketches",
    "(mod, sketches, expected_mods, expected_decisions, *, debug_mask='all')",
    of=ms.testing.check_sketches,
    does="are sketches the expected ones, in any order?",
)
def _(tmp: Path) -> None:
    sketches = context(space_generator=two_tiles).generate_design_space()

    def tiled(i: int, j: int) -> IRModule:
        sch = Schedule(matmul())
        a, b, k = sch.get_loops(sch.get_block("C"))
        i0, i1 = sch.split(a, [None, i])
        j0, j1 = sch.split(b, [None, j])
        sch.reorder(i0, j0, i1, j1, k)
        return sch.mod

    tiles = [("SamplePerfectTile", [8, 2]), ("SamplePerfectTile", [4, 4])]
    check = ms.testing.check_sketches
    check(matmul(), sketches, [tiled(2, 4)], [tiles])
    refuses(AssertionError, "program 0", lambda: check(matmul(), sketches, [tiled(4, 2)], [tiles]))
    refuses(
        AssertionError, "program 0", lambda: check(matmul(), sketches, [tiled(2, 4)], [tiles[:1]])
    )
    refuses(AssertionError, "1 sketches", lambda: check(matmul(), sketches, [], []))


@row(
    "1.2.44",
    "testing.apply_fixed_schedules",
    "(mod, target, params, schedule_fn)",
    of=ms.testing.apply_fixed_schedules,
    does="a database of schedules made by a function",
)
def _(tmp: Path) -> None:
    def some(task: ms.ExtractedTask, sch: Schedule) -> bool:
        sch.parallel(sch.get_loops(sch.get_block("C"))[0])
        return task.task_name == "g"

    database = ms.testing.apply_fixed_schedules(many(), TARGET, None, some)
    (record,) = database.get_all_tuning_records()
    assert record.run_secs == [0.0]
    assert "sch.parallel" in str(record.trace)


# ----------------------------------------------------------------------------- schedules
@row("1.2.45", "Schedule",
     '(mod, *, seed=None, debug_mask="none", error_render_level="detail", enable_check=True)',
     of=Schedule, does="reference 1.3.1: `.mod`, `.state`, `.trace`, `.func_working_on`, "
                       "`work_on`, `copy`, `seed`, `fork_seed`, `show`, `get`, `get_sref`, "
                       "`remove_rv`")  # fmt: skip
def _(tmp: Path) -> None:
    sch = Schedule(matmul(), seed=3)
    block = sch.get_block("C")
    assert sch.func_working_on is None
    sch.work_on("main")
    assert sch.func_working_on == "main"
    twin = sch.copy()
    twin.parallel(twin.get_loops(block)[0])
    assert structural_equal(sch.mod, matmul())
    assert not structural_equal(twin.mod, matmul())
    assert sch.get(sch.get_sref(block)) is sch.get(block)
    assert Schedule(matmul(), seed=3).fork_seed() == Schedule(matmul(), seed=3).fork_seed()
    sch.remove_rv(block)
    refuses(ScheduleError, "handle", lambda: sch.get(block))
    assert sch.mod is sch.state.mod


@row("1.2.46", "Trace", "(insts=(), decisions=None)", of=Trace,
     does="reference 1.3.7, every method; JSON and Python text both ways")  # fmt: skip
def _(tmp: Path) -> None:
    trace = context(space_generator=two_tiles).generate_design_space()[0].trace
    sampling = [i for i in trace.insts if i.kind.samples]
    assert [trace.get_decision(i) for i in sampling] == [trace.decisions[i] for i in sampling]
    other = trace.with_decision(sampling[0], [8, 2], remove_postproc=True)
    assert other.get_decision(sampling[0]) == [8, 2]
    sch = Schedule(matmul())
    Trace.apply_json_to_schedule(other.as_json(), sch)
    assert other.as_python() == sch.trace.as_python()
    provided = Schedule(matmul())
    trace.apply_to_schedule(provided, False, lambda inst, inputs, attrs, old: [4, 4])
    assert list(provided.trace.decisions.values()) == [[4, 4], [4, 4]]
    count = len(trace.insts)
    copy = Trace(trace.insts, trace.decisions)
    last = copy.pop()
    assert isinstance(last, Instruction)
    copy.append(last)
    assert len(copy.insts) == count
    assert Trace().pop() is None
    unused = Trace([i for i in trace.insts if i.kind.is_pure])
    assert unused.simplified(remove_postproc=True).insts == []
    assert str(Trace()) == ""


@row("1.2.47", "Instruction", "(kind, inputs, attrs, outputs)", of=Instruction,
     does="one call of a primitive")  # fmt: skip
def _(tmp: Path) -> None:
    made = Instruction(InstructionKind.get("EnterPostproc"), [], [], [])
    assert Trace([made]).as_json() == [[["EnterPostproc", [], [], []]], []]


@row("1.2.48", "InstructionKind", does="`get(name)`, `is_pure`; an unknown name is an error")
def _(tmp: Path) -> None:
    assert InstructionKind.get("GetSBlock") is InstructionKind.get("GetBlock")
    assert InstructionKind.get("SamplePerfectTile").is_pure
    assert not InstructionKind.get("Split").is_pure
    refuses(ScheduleError, "'Splitt'", lambda: InstructionKind.get("Splitt"))


@row("1.2.49", "ScheduleState", "(mod, *, debug_mask='none', enable_check=True)",
     of=gt.tir.ScheduleState,
     does="`mod`, `get_sref`, `get_block_scope` (`get_sblock_scope`), `get_cached_flags`",
     differs="a view of the schedule: nothing can be changed through it")  # fmt: skip
def _(tmp: Path) -> None:
    sch = Schedule(matmul_and("T.float32(1)"))
    state = sch.state
    c = state.get_sref(sch.get(sch.get_block("C")))
    flags = state.get_cached_flags(c)
    assert (flags.affine_binding, flags.region_cover, flags.stage_pipeline) == (True, True, True)
    own = gt.tir.ScheduleState(matmul())
    assert structural_equal(own.mod, matmul())
    assert (own.debug_mask, own.enable_check) == ("none", True)
    refuses(ScheduleError, "not in the program", lambda: own.get_sref(c.stmt))
    refuses(ScheduleError, "expected a block", lambda: state.get_block_scope(c.parent))
    refuses(ScheduleError, "PrimFunc", lambda: own.get_sref(matmul()["main"]))


@row("1.2.50", "StmtSRef", does="`stmt` and `parent` of a loop or block, through changes")
def _(tmp: Path) -> None:
    sch = Schedule(matmul())
    block = sch.get_block("C")
    i, _, k = sch.get_loops(block)
    at_i, at_c = sch.get_sref(i), sch.get_sref(block)
    assert at_c.parent == sch.get_sref(k)
    assert at_i.parent is not None
    assert at_i.parent.stmt is sch.mod["main"].body
    assert at_i.parent.parent is None
    sch.vectorize(sch.get_loops(block)[1])
    assert at_c.stmt is sch.get(block)
    sch.split(i, [4, None])
    refuses(ScheduleError, "gone", lambda: at_i.stmt)


@row("1.2.51", "SBlockScope", does="`get_deps_by_src` and `get_deps_by_dst` of a block")
def _(tmp: Path) -> None:
    sch = Schedule(matmul_and("T.float32(1)"))
    scope = sch.state.get_block_scope(sch.get_sref(sch.get_block("root")))
    c, d = (sch.get_sref(sch.get_block(n)) for n in "CD")
    (dep,) = scope.get_deps_by_src(c)
    assert scope.get_deps_by_dst(d) == [dep]
    assert scope.get_deps_by_src(d) == scope.get_deps_by_dst(c) == []


@row("1.2.52", "Dependency", does="`src`, `dst` and `kind`: RAW, WAW, WAR (OPAQUE never occurs)")
def _(tmp: Path) -> None:
    from gputune.schedule import DepKind

    assert [k.name for k in DepKind] == ["RAW", "WAW", "WAR", "OPAQUE"]
    sch = Schedule(matmul_and("T.float32(1)"))
    (dep,) = sch.state.get_block_scope(sch.get_sref(sch.get_block("root"))).deps
    assert (dep.kind, dep.src.stmt.name, dep.dst.stmt.name) == (DepKind.RAW, "C", "D")
    k = sch.get_loops(sch.get_block("C"))[2]
    sch.decompose_reduction(sch.get_block("C"), k)
    kinds = {
        (d.src.stmt.name, d.dst.stmt.name, d.kind.name)
        for d in sch.state.get_block_scope(sch.get_sref(sch.get_block("root"))).deps
    }
    assert kinds == {
        ("C_init", "C_update", "RAW"), ("C_init", "C_update", "WAW"), ("C_init", "D", "RAW"),
        ("C_update", "D", "RAW"),
    }  # fmt: skip


@row("1.2.53", "TensorIntrin", does="`register(name, desc, impl, override=False)` and `get(name, "
     "allow_missing=False)`; gputune's own are known without an import")  # fmt: skip
def _(tmp: Path) -> None:
    intrin = gt.tir.TensorIntrin
    own = intrin.get("dot_16x4_vnni")
    assert own is not None
    assert own.desc.name
    intrin.register("test.copy", own.desc, own.impl, override=True)
    copied = intrin.get("test.copy")
    assert copied is not None
    assert structural_equal(copied.impl, own.impl)
    refuses(UserError, "already", lambda: intrin.register("test.copy", own.desc, own.impl))
    assert intrin.get("no_such", allow_missing=True) is None
    refuses(UserError, "'no_such'", lambda: intrin.get("no_such"))


@row("1.2.54", "analysis.estimate_tir_flops", does="operations of one run, counted as the "
     "reference counts")  # fmt: skip
def _(tmp: Path) -> None:
    assert gt.tir.analysis.estimate_tir_flops(matmul(128)) == 4194304
    marked = matmul()["main"].with_attr("estimated_flops", 7)
    assert gt.tir.analysis.estimate_tir_flops(marked) == 7


@row("1.2.55", "analysis.find_anchor_sblock", "(mod)", of=gt.tir.analysis.find_anchor_sblock,
     does="the block that does most of the work, or None")  # fmt: skip
def _(tmp: Path) -> None:
    assert gt.tir.analysis.find_anchor_sblock(matmul_and("T.float32(1)")).name == "C"
