"""What to try next? The tuner in MetaSchedule's words: `import gputune.meta_schedule as ms`."""

from __future__ import annotations

from ..runtime.observe import Observer
from . import (
    arg_info,
    builder,
    cost_model,
    database,
    feature_extractor,
    logging,
    measure_callback,
    measure_candidate,
    mutator,
    post_optimization,
    postproc,
    profiler,
    relax_integration,
    rpc,
    runner,
    schedule_rule,
    search_strategy,
    space_generator,
    task_scheduler,
    testing,
    tir_integration,
    trace_apply,
)
from . import counts_and_seeds as utils
from .arg_info import ArgInfo, ScalarInfo, TensorInfo
from .builder import Builder, BuilderInput, BuilderResult, LocalBuilder, PyBuilder
from .cluster import DaskCluster
from .cost_model import CostModel, PyCostModel, RandomModel, XGBConfig, XGBModel
from .database import (
    Database,
    MemoryDatabase,
    OrderedUnionDatabase,
    PyDatabase,
    ScheduleFnDatabase,
    UnionDatabase,
)
from .database_address import open_database
from .database_check import Problem, verify_database
from .database_copy import Copied, export_database, import_database, merge_databases
from .derived import derived_object
from .failures import Failure
from .feature_extractor import FeatureExtractor, PyFeatureExtractor
from .json_database import JSONDatabase
from .measure_callback import (
    AddToDatabase,
    MeasureCallback,
    PyMeasureCallback,
    RemoveBuildArtifact,
    UpdateCostModel,
)
from .measure_candidate import MeasureCandidate
from .module_equality import ModuleEquality
from .mutator import Mutator, PyMutator
from .on_dask import DaskBuilder, DaskRunner
from .postproc import Postproc, PyPostproc
from .profiler import Profiler
from .record import TuningRecord, Workload
from .relax_integration import compile_relax, extract_tasks, tune_relax
from .rpc import RPCConfig, RPCRunner
from .runner import (
    EvaluatorConfig,
    LocalRunner,
    PyRunner,
    PyRunnerFuture,
    Runner,
    RunnerFuture,
    RunnerInput,
    RunnerResult,
)
from .schedule_rule import PyScheduleRule, ScheduleRule
from .search_strategy import (
    EvolutionarySearch,
    PySearchStrategy,
    ReplayFunc,
    ReplayTrace,
    SearchStrategy,
)
from .space_generator import (
    PostOrderApply,
    PySpaceGenerator,
    ScheduleFn,
    SpaceGenerator,
    SpaceGeneratorUnion,
)
from .task_record import Progress, TaskRecord
from .task_scheduler import GradientBased, PyTaskScheduler, RoundRobin, TaskScheduler
from .tir_integration import compile_tir
from .tune import ExtractedTask, TuneConfig, tune_tasks, tune_tir
from .tune_context import TuneContext
from .tune_result import TuneResult
from .tvm_records import import_tvm_records
from .verify import Verifier
from .why import Why

__all__ = [
    "AddToDatabase",
    "ArgInfo",
    "Builder",
    "BuilderInput",
    "BuilderResult",
    "Copied",
    "CostModel",
    "DaskBuilder",
    "DaskCluster",
    "DaskRunner",
    "Database",
    "EvaluatorConfig",
    "EvolutionarySearch",
    "ExtractedTask",
    "Failure",
    "FeatureExtractor",
    "GradientBased",
    "JSONDatabase",
    "LocalBuilder",
    "LocalRunner",
    "MeasureCallback",
    "MeasureCandidate",
    "MemoryDatabase",
    "ModuleEquality",
    "Mutator",
    "Observer",
    "OrderedUnionDatabase",
    "PostOrderApply",
    "Postproc",
    "Problem",
    "Profiler",
    "Progress",
    "PyBuilder",
    "PyCostModel",
    "PyDatabase",
    "PyFeatureExtractor",
    "PyMeasureCallback",
    "PyMutator",
    "PyPostproc",
    "PyRunner",
    "PyRunnerFuture",
    "PyScheduleRule",
    "PySearchStrategy",
    "PySpaceGenerator",
    "PyTaskScheduler",
    "RPCConfig",
    "RPCRunner",
    "RandomModel",
    "RemoveBuildArtifact",
    "ReplayFunc",
    "ReplayTrace",
    "RoundRobin",
    "Runner",
    "RunnerFuture",
    "RunnerInput",
    "RunnerResult",
    "ScalarInfo",
    "ScheduleFn",
    "ScheduleFnDatabase",
    "ScheduleRule",
    "SearchStrategy",
    "SpaceGenerator",
    "SpaceGeneratorUnion",
    "TaskRecord",
    "TaskScheduler",
    "TensorInfo",
    "TuneConfig",
    "TuneContext",
    "TuneResult",
    "TuningRecord",
    "UnionDatabase",
    "UpdateCostModel",
    "Verifier",
    "Why",
    "Workload",
    "XGBConfig",
    "XGBModel",
    "arg_info",
    "builder",
    "compile_relax",
    "compile_tir",
    "cost_model",
    "database",
    "derived_object",
    "export_database",
    "extract_tasks",
    "feature_extractor",
    "import_database",
    "import_tvm_records",
    "logging",
    "measure_callback",
    "measure_candidate",
    "merge_databases",
    "mutator",
    "open_database",
    "post_optimization",
    "postproc",
    "profiler",
    "relax_integration",
    "rpc",
    "runner",
    "schedule_rule",
    "search_strategy",
    "space_generator",
    "task_scheduler",
    "testing",
    "tir_integration",
    "trace_apply",
    "tune_relax",
    "tune_tasks",
    "tune_tir",
    "utils",
    "verify_database",
]
