"""Do other machines build and measure as this one does, and does a lost one lose nothing?

The cluster is real: a scheduler and workers in processes of their own, on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_processes import Processes
from ms_fakes import TARGET, matmul

import gputune as gt
from gputune import meta_schedule as ms
from gputune.codegen.cuda import nvrtc
from gputune.errors import RunError, UserError
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.meta_schedule.artifact import Artifact
from gputune.meta_schedule.cluster_batch import Batch
from gputune.meta_schedule.cluster_fit import Need
from gputune.meta_schedule.remote import BUILD, CPU, describe_frame
from gputune.meta_schedule.runner import EvaluatorConfig
from gputune.script import from_source
from gputune.target import Target
from tests.contracts.builder import LLVM, BuilderContract, scale
from tests.contracts.runner import RunnerContract, built

needs_nvrtc = pytest.mark.skipif(nvrtc.load() is None, reason="NVRTC is not installed")
SM90 = Target("cuda -arch=sm_90")
ADD = """
@T.prim_func
def add(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32"),
        C: T.Buffer((64,), "float32")):
    for i in T.thread_binding(2, "blockIdx.x"):
        for j in T.thread_binding(32, "threadIdx.x"):
            with T.block("C"):
                v = T.axis.spatial(64, i * 32 + j)
                C[v] = A[v] + B[v]
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    found = Processes(tmp_path_factory.mktemp("dask"))
    try:
        found.worker("usual", "CPU=1 first=1 board=1", threads=2)
        found.worker("victim", "first=1", "dies")
        found.worker("stranger", "CPU=1", "other_version")
        found.worker("old", "CPU=1", "old_processor")
        found.worker("gpus", "GPU=2", "gpus", threads=2)
        assert found.address.startswith("tcp://127.0.0.1:")
        found.joined("usual", "victim", "stranger", "old", "gpus")
        yield found
    finally:
        found.end()


@pytest.fixture(scope="module")
def cluster(processes: Processes) -> Iterator[ms.DaskCluster]:
    found = ms.DaskCluster(processes.address)
    yield found
    found.close()


# ----------------------------------------------------------------------------- contracts
class TestDaskBuilder(BuilderContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: ms.DaskCluster) -> None:
        self.cluster = cluster

    def builder(self, timeout_sec: float = 30.0) -> ms.Builder:
        return ms.Builder.create("dask", self.cluster, timeout_sec)


class TestDaskRunner(RunnerContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: ms.DaskCluster) -> None:
        self.cluster = cluster

    def runner(
        self, timeout_sec: float = 30.0, evaluator_config: EvaluatorConfig | None = None
    ) -> ms.Runner:
        return ms.Runner.create("dask", self.cluster, timeout_sec, evaluator_config)

    def test_nothing_is_sent_before_it_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[bytes] = []
        submit = self.cluster.submit
        monkeypatch.setattr(
            self.cluster,
            "submit",
            lambda frame, *a, **k: sent.append(frame) or submit(frame, *a, **k),
        )
        inputs = [ms.RunnerInput(built(scale()), "cpu", ms.ArgInfo.from_entry_func(scale()))] * 9
        futures = self.runner().run(inputs)
        assert sent == []
        assert futures[0].result().problem is None
        assert 1 <= len(sent) <= 3  # one worker with one slot: one under way, one that waits
        assert futures[8].result().problem is None
        assert len(sent) == 9


# ----------------------------------------------------------------------------- who is used
def test_strangers_are_refused_and_said(
    processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = ms.DaskCluster(processes.address)
    try:
        need = ms.DaskRunner(cluster).need(LLVM)
        names = [x.resources for x in cluster.usable(need)]
        assert names == [{"CPU": 1.0, "first": 1.0, "board": 1.0}]
        said = capsys.readouterr().err
        version = f"is not used: it has gputune 0.0.9, and this is {gt.__version__}"
        assert re.search(rf"tcp://127\.0\.0\.1:\d+ on \S+ {re.escape(version)}", said)
        assert "is not used: its processor (An old one) lacks " in said
        assert "no resource" not in said  # who announces nothing has other plans
    finally:
        cluster.close()


def test_a_request_of_another_version_is_refused_there(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a worker that was replaced after it was looked at, as it were."""
    builder = ms.DaskBuilder(processes.address, resource="board", patience_sec=0.1)
    assert builder.build([ms.BuilderInput(scale(76), LLVM)])[0].problem is None
    have = gt.__version__
    monkeypatch.setattr(gt, "__version__", "9.9")
    (result,) = builder.build([ms.BuilderInput(scale(77), LLVM)])
    assert result.problem is not None
    assert result.problem.infrastructure
    assert f"it has gputune {have}, and this is 9.9" in result.problem.message
    builder.cluster.close()


def test_what_nobody_offers_ends_with_a_reason(processes: Processes) -> None:
    runner = ms.DaskRunner(processes.address, resource="moon", patience_sec=0.2)
    path = built(scale())
    futures = runner.run([ms.RunnerInput(path, "cpu", ms.ArgInfo.from_entry_func(scale()))] * 2)
    for future in futures:
        result = future.result()
        assert result.is_lost
        said = str(result.problem)
        assert "for 0.2 s no Dask worker of tcp://127.0.0.1:" in said
        assert 'it announces no resource moon (dask worker --resources "moon=1")' in said
    again = runner.run([ms.RunnerInput(path, "cpu", [])])
    assert again[0].result().is_lost  # and at once
    runner.cluster.close()


# ----------------------------------------------------------------------------- whole runs
def test_a_whole_tuning(cluster: ms.DaskCluster, tmp_path: Path) -> None:
    result = ms.tune_tir(
        matmul(32), TARGET, tmp_path, 10, num_trials_per_iter=8, seed=3,
        builder=ms.DaskBuilder(cluster), runner=ms.DaskRunner(cluster),
    )  # fmt: skip
    records = ms.JSONDatabase(work_dir=tmp_path).get_all_tuning_records()
    assert len(records) == 10
    for r in records:
        assert r.extras["measured_on"]["host"] == os.uname().nodename
        assert r.extras["measured_on"]["device"] == "cpu"
        assert r.extras["device"] == Target(TARGET).device_key
    assert result.record is not None
    assert result.record.is_valid
    assert not (tmp_path / "failures.jsonl").exists()


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(
    processes: Processes, cluster: ms.DaskCluster, tmp_path: Path
) -> None:
    ms.tune_tir(
        matmul(32), TARGET, tmp_path, 16, num_trials_per_iter=16, seed=4,
        builder=ms.DaskBuilder(cluster), runner=ms.DaskRunner(cluster, resource="first"),
    )  # fmt: skip
    assert processes.processes["victim"].wait(60) == -signal.SIGKILL
    records = ms.JSONDatabase(work_dir=tmp_path).get_all_tuning_records()
    assert len(records) == 16
    assert all(r.is_valid for r in records)
    assert len({r.program for r in records}) == 16
    assert not (tmp_path / "failures.jsonl").exists()


def test_gt_tune_with_a_scheduler(cluster: ms.DaskCluster) -> None:
    kernel = gt.tune(matmul(16), TARGET, trials=4, scheduler=cluster, seed=1)
    assert kernel.seconds is not None
    with pytest.raises(UserError, match='the runner is "local" or "host", found'):
        gt.tune(matmul(16), TARGET, trials=1, scheduler=cluster, runner=ms.LocalRunner())


# ----------------------------------------------------------------------------- GPUs
UNBOUND = """
@T.prim_func
def add(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32"),
        C: T.Buffer((64,), "float32")):
    for i in range(64):
        with T.block("C"):
            v = T.axis.spatial(64, i)
            C[v] = A[v] + B[v]
"""


def add(script: str = ADD) -> IRModule:
    func = from_source(script)
    assert isinstance(func, PrimFunc)
    return IRModule({"add": func})


@needs_nvrtc
def test_workers_announce_their_gpus(cluster: ms.DaskCluster) -> None:
    """Two GPUs, one worker of Dask's: each measures alone."""
    (made,) = ms.DaskBuilder(cluster).build([ms.BuilderInput(add(), SM90)])
    assert made.artifact_path is not None, made.error_msg
    runner = ms.DaskRunner(cluster)
    inputs = [ms.RunnerInput(made.artifact_path, "cuda", []) for _ in range(12)]
    results = [f.result() for f in runner.run(inputs)]
    assert [r.problem for r in results] == [None] * 12
    assert {r.extras["measured_on"]["device"] for r in results} == {"cuda:0", "cuda:1"}
    assert {r.extras["measured_on"]["name"] for r in results} == {"Fake H100"}
    for r in results:
        index = r.extras["measured_on"]["device"][-1]
        assert r.extras["gpu"]["pci_bus_id"] == f"0000:0{index}:00.0"
    verifier = runner.verifier(add(UNBOUND), SM90, 1)
    assert verifier is not None
    assert verifier.check(Artifact.load(made.artifact_path)).outcome == "right"


@needs_nvrtc
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_host_execution_elsewhere(cluster: ms.DaskCluster) -> None:
    runner = ms.Runner.create("dask", cluster, runner="host")
    assert isinstance(runner, ms.DaskRunner)
    (made,) = ms.DaskBuilder(cluster).build([ms.BuilderInput(add(), SM90)])
    (future,) = runner.run([ms.RunnerInput(str(made.artifact_path), "cuda", [])])
    result = future.result()
    assert result.problem is None
    assert result.extras["clock"] == "host execution"
    assert result.extras["measured_on"]["device"] == "cpu"


# ----------------------------------------------------------------------------- in other words
def test_rpc_is_this(processes: Processes) -> None:
    host, port = processes.address.removeprefix("tcp://").split(":")
    config = ms.RPCConfig(host, int(port), "board", session_priority=2, session_timeout_sec=20)
    assert config.count_num_servers() == 1
    assert ms.RPCConfig(host, int(port), "moon").count_num_servers() == 0
    with pytest.raises(RunError, match=r"no worker of .* announces moon"):
        ms.RPCConfig(host, int(port), "moon").count_num_servers(allow_missing=False)
    runner = ms.Runner.create("rpc", config)
    assert isinstance(runner, ms.RPCRunner)
    assert runner.timeout_sec == 20
    assert runner.need(LLVM).resource == "board"
    assert runner.need(LLVM).priority == 2
    args = ms.ArgInfo.from_entry_func(scale())
    (future,) = runner.run([ms.RunnerInput(built(scale()), "cpu", args)])
    assert future.result().problem is None
    with pytest.raises(UserError, match="f_run_evaluator: functions of yours do not go"):
        ms.RPCRunner(config, f_run_evaluator=lambda *a: [1.0])
    config.connect_tracker().close()


def test_a_client_that_is_there_already(processes: Processes) -> None:
    import distributed

    with distributed.Client(processes.address, set_as_default=False) as client:
        cluster = ms.DaskCluster(client)
        assert cluster.address == processes.address
        assert ms.DaskBuilder(cluster).build([ms.BuilderInput(scale(9), LLVM)])[0].problem is None
        cluster.close()
        assert client.status == "running"  # it is its owner's


def test_answers_come_as_they_are_asked_for(cluster: ms.DaskCluster) -> None:
    need = ms.DaskRunner(cluster, resource="board").need(LLVM)
    batch = Batch(cluster, need, [describe_frame] * 3)
    last = batch.answer(2)
    assert not isinstance(last, Exception)
    assert last.header["data"]["gputune"] == gt.__version__
    assert need.place == CPU


# ----------------------------------------------------------------------------- TLS
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
def test_a_cluster_with_tls(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    import distributed

    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += [
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=gputune",
        "-keyout",
        str(key),
        "-out",
        str(cert),
    ]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    files = ("--tls-ca-file", str(cert), "--tls-cert", str(cert), "--tls-key", str(key))
    processes = Processes(tmp_path, *files)
    try:
        processes.worker("a")
        assert processes.address.startswith("tls://")
        with pytest.raises(UserError, match="needs certificates") as refused:
            ms.DaskCluster(processes.address)
        assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in refused.value.hint
        security = distributed.Security(
            tls_ca_file=str(cert), tls_client_cert=str(cert), tls_client_key=str(key)
        )
        cluster = ms.DaskCluster(processes.address, security=security)
        processes.joined("a")
        (worker,) = cluster.usable(Need(BUILD, LLVM))
        assert worker.address.startswith("tls://127.0.0.1:")
        cluster.close()
        missing = distributed.Security(tls_ca_file="/nowhere", tls_client_cert="/nowhere")
        with pytest.raises(UserError, match="a certificate is missing"):
            ms.DaskCluster(processes.address, security=missing)
    finally:
        processes.end()


def test_a_scheduler_that_is_not_there() -> None:
    with pytest.raises(RunError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 ") as e:
        ms.DaskRunner("127.0.0.1:1", patience_sec=0.3)
    assert "dask scheduler --host" in e.value.hint
