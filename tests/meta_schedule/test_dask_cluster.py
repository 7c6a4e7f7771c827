"""Who is used of a cluster, and what becomes of requests whose workers fail?

The cluster is made up: a stand-in for Dask's client that answers at once. See `test_dask.py` for
real ones."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

import gputune
from gputune import meta_schedule as ms
from gputune.errors import BuildError, GputuneError, RunError, UserError
from gputune.meta_schedule import cluster as cluster_module
from gputune.meta_schedule import cluster_batch, remote
from gputune.meta_schedule.cluster_batch import Batch
from gputune.meta_schedule.cluster_fit import Need, unfit
from gputune.meta_schedule.dask_address import checked_address, is_safe
from gputune.meta_schedule.failures import Failure
from gputune.meta_schedule.remote import BUILD, CPU, GPU
from gputune.meta_schedule.runner import BestSoFar, EvaluatorConfig, RunnerInput, RunnerResult
from gputune.runtime.process import Request
from gputune.target import Target

LLVM = Target("llvm -num-cores 1")
SM90 = Target("cuda -arch=sm_90a")
HERE = remote.describe()
LOOPBACK = "tcp://127.0.0.1:8786"
ON_CPU = Need(CPU, LLVM, "CPU")
ON_GPU = Need(GPU, SM90, "GPU")


def gpu(name: str = "H100", arch: str = "sm_90") -> dict[str, str]:
    return {"name": name, "arch": arch, "pci": "0000:3B:00.0"}


class Future:
    """Of Dask: done at once, unless its result is None."""

    def __init__(self, key: str, result: Any) -> None:
        self.key, self._result = key, result
        failed = isinstance(result, Exception)
        self.status = "pending" if result is None else "error" if failed else "finished"

    def add_done_callback(self, f: Callable[[Any], None]) -> None:
        if self.status != "pending":
            f(self)

    def result(self, timeout: float | None = None) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


class Client:
    """Of Dask: `workers` are the facts of those that are there, by address; `answer` gives what a
    worker answers to a request: a header, an error to raise, or None for not yet."""

    def __init__(self, **facts: dict[str, Any]) -> None:
        self.status = "running"
        self.listens = LOOPBACK
        self.scheduler = SimpleNamespace(address=LOOPBACK, identity="identity")
        self.workers: dict[str, dict[str, Any]] = {}
        self.offers: dict[str, dict[str, float]] = {}
        self.sent: list[tuple[str, list[str]]] = []
        self.cancelled: list[Any] = []
        self.answer: Callable[[str], Any] = lambda address: {"data": address}
        for k, (name, own) in enumerate(facts.items()):
            self.join(name, k, **own)

    def join(
        self, name: str, number: int, address: str = "", offers: Any = None, **own: Any
    ) -> str:
        address = address or f"tcp://127.0.0.1:{4000 + number}"
        self.workers[address] = {**HERE, "pid": number, **own}
        self.offers[address] = {"CPU": 1.0, "GPU": 1.0} if offers is None else offers
        return address

    def sync(self, what: Any, **options: Any) -> dict[str, Any]:
        assert what == "identity"
        told = {
            a: {
                "status": "running",
                "local_directory": "",
                "nthreads": 1,
                "resources": self.offers[a],
            }
            for a in self.workers
        }
        return {"address": self.listens, "workers": told}

    def submit(
        self, f: Any, frame: bytes, *, key: str, workers: list[str], **options: Any
    ) -> Future:
        assert f is remote.serve
        assert options["allow_other_workers"] is False
        assert options["pure"] is False
        address = next((w for w in workers if w in self.workers), "")
        if not address:
            return Future(key, None)  # it waits for one of them
        by = [HERE["host"], self.workers[address]["pid"]]
        if remote.unpacked(frame).header["ask"] == "describe":
            return Future(key, remote.packed({"data": self.workers[address], "by": by}))
        self.sent.append((address, workers))
        told = self.answer(address)
        if isinstance(told, dict):
            told = remote.packed({**told, "by": by})
        return Future(key, told)

    def cancel(self, futures: list[Any], force: bool = False) -> None:
        self.cancelled += futures

    def close(self) -> None:
        self.status = "closed"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_TICK_S", 0.0)
    monkeypatch.setattr(cluster_batch, "_TICK_S", 0.01)


def a_cluster(client: Client, **options: Any) -> ms.DaskCluster:
    return ms.DaskCluster(client, **{"patience_sec": 0.05, **options})


def used(client: Client, need: Need, **options: Any) -> list[int]:
    """The numbers of the workers that are used."""
    found = a_cluster(client, **options).usable(need)
    return [int(x.address.rsplit(":", 1)[1]) - 4000 for x in found]


def ask(cluster: ms.DaskCluster, count: int, need: Need = ON_CPU) -> list[cluster_batch.Answer]:
    frames = [partial(remote.request_frame, Request("ping"), need.place)] * count
    batch = Batch(cluster, need, frames)
    return [batch.answer(k) for k in range(count)]


# ----------------------------------------------------------------------------- addresses
@pytest.mark.parametrize(
    ("address", "safe"),
    [
        ("tls://farm.example:8786", True),
        ("tcp://127.0.0.1:8786", True),
        ("127.0.0.1:8786", True),
        ("localhost:8786", True),
        ("tcp://[::1]:8786", True),
        ("tcp://127.8.9.1:1", True),
        ("tcp://0.0.0.0:8786", False),
        ("tcp://10.0.0.1:8786", False),
        ("farm.example:8786", False),
        ("tcp://localhost.example:8786", False),
        ("ws://127.0.0.1:8786", False),
        ("ucx://10.0.0.1:8786", False),
    ],
)
def test_loopback_or_tls(address: str, safe: bool) -> None:
    assert is_safe(address) is safe
    if safe:
        assert checked_address(address).endswith(address)
        return
    with pytest.raises(UserError, match="anybody who can reach it could run programs") as refused:
        checked_address(address)
    assert "allow_insecure=True" in refused.value.hint
    assert checked_address(address, allow_insecure=True).endswith(address)
    for make in (ms.DaskBuilder, ms.DaskRunner, partial(ms.Runner.create, "dask")):
        with pytest.raises(UserError, match="is not used: anybody"):
            make(scheduler=address)


@pytest.mark.parametrize("address", ["", "farm", "tls://farm", ":8786", "tcp://farm:port", 3])
def test_what_is_no_address(address: Any) -> None:
    with pytest.raises(UserError, match="the address of a Dask scheduler is such as tls://HOST"):
        ms.DaskCluster(address)


def test_the_address_of_the_configuration() -> None:
    import dask

    with dask.config.set({"scheduler-address": None}):
        with pytest.raises(UserError, match="no Dask scheduler is named") as refused:
            ms.Runner.create("dask")
        assert "DASK_SCHEDULER_ADDRESS" in refused.value.hint
    elsewhere = dask.config.set({"scheduler-address": "tcp://10.0.0.1:1"})
    with elsewhere, pytest.raises(UserError, match=r"tcp://10\.0\.0\.1:1 is not used"):
        ms.Builder.create("dask")


def test_dask_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="need Dask's package distributed") as refused:
        ms.DaskRunner("127.0.0.1:8786")
    assert "gputune[dask]" in refused.value.hint


def test_a_scheduler_that_others_can_reach_is_not_used() -> None:
    """Though it is reached by a loopback address: it listens to all."""
    client = Client(a={})
    client.listens = "tcp://192.168.1.7:8786"
    with pytest.raises(UserError, match=r"listens at tcp://192\.168\.1\.7:8786") as refused:
        a_cluster(client)
    assert "allow_insecure=True" in refused.value.hint
    assert used(client, ON_CPU, allow_insecure=True) == [0]


def test_a_worker_that_others_can_reach_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(a={}, b={"address": "tcp://10.0.0.1:4001"}, c={"address": "tls://far:4002"})
    assert used(client, ON_CPU) == [0, 2]
    said = capsys.readouterr().err
    assert "tcp://10.0.0.1:4001 is not used: its address may be anybody's" in said
    assert used(client, ON_CPU, allow_insecure=True) == [0, 1, 2]


# ----------------------------------------------------------------------------- who fits
def test_a_worker_says_what_it_is_for() -> None:
    client = Client(a={"offers": {"CPU": 1.0}}, b={"offers": {}}, c={"offers": {"CPU": 0.5}})
    assert used(client, ON_CPU) == [0]
    assert used(client, Need(BUILD, LLVM)) == [0, 1, 2]
    assert used(client, Need(CPU, LLVM, "GPU")) == []


def test_processors_of_another_model_do_not_rank(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(a={}, b={"device": "Another one cpu/1234"}, c={"features": ["sse2"]})
    assert used(client, ON_CPU) == [0]
    said = capsys.readouterr().err
    assert "another model (Another one cpu/1234), whose times do not rank" in said
    assert "mixed=True" in said
    assert used(client, Need(CPU, LLVM, "CPU", mixed=True)) == [0, 1]  # what cannot run, does not
    assert used(client, Need(CPU, SM90, "CPU")) == [0, 1, 2]  # host execution


def test_gpus_of_another_model_do_not_rank(capsys: pytest.CaptureFixture[str]) -> None:
    odd = gpu("H100 PCIe")
    facts: dict[str, Any] = {
        "a": {"gpus": [odd]}, "b": {"gpus": [gpu(), gpu()]}, "c": {"gpus": [gpu()]},
        "d": {"gpus": [gpu("A100", "sm_80")]}, "e": {"gpus": [], "gpu_problem": "no driver"},
        "f": {"gpus": [gpu(), odd]},
    }  # fmt: skip
    client = Client(**facts)
    assert used(client, ON_GPU) == [1, 2]  # most have it
    said = capsys.readouterr().err
    assert "its GPU is a H100 PCIe, and this run ranks times of the H100" in said
    assert "its A100 (sm_80) does not run code for sm_90a" in said
    assert "it has no GPU to use: no driver" in said
    assert "its GPUs are of different models (H100, H100 PCIe)" in said
    assert used(client, Need(GPU, SM90, "GPU", mixed=True)) == [0, 1, 2, 5]


def test_who_can_build() -> None:
    other = {**HERE, "triple": "aarch64-unknown-linux-gnu"}
    assert unfit(other, {}, Need(BUILD, LLVM)).startswith("it compiles for aarch64")
    without = {**HERE, "cuda_compiler": False}
    assert unfit(without, {}, Need(BUILD, LLVM)) == ""
    assert unfit(without, {}, Need(BUILD, SM90)) == "it has neither NVRTC nor nvcc"


def test_a_worker_that_cannot_say_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors come as data: Dask loses some, among them a deep recursion's."""

    def describe() -> dict[str, Any]:
        raise RecursionError("too deep")

    monkeypatch.setattr(remote, "describe", describe)
    answer = remote.serve(remote.describe_frame())
    assert "RecursionError: too deep" in remote.unpacked(answer).header["error"]["message"]
    client = Client(a={}, b={})
    before = client.submit
    client.submit = lambda *a, **k: (  # type: ignore[method-assign]  # one answers otherwise
        Future(k["key"], answer) if k["workers"] == ["tcp://127.0.0.1:4000"] else before(*a, **k)
    )
    assert used(client, ON_CPU) == [1]
    assert "gputune does not work there" in capsys.readouterr().err


# ----------------------------------------------------------------------------- requests
def lost(kind: str = "lost") -> dict[str, Any]:
    e = RunError("its disk is full", details={"phase": "start", "kind": kind})
    return {"error": remote.error_json(e)}


def test_a_worker_that_cannot_is_not_asked_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """Named for a fault: one whose GPU is gone answers quickly, and would get all there is."""
    client = Client(a={}, b={})
    broken = next(iter(client.workers))
    client.answer = lambda address: lost() if address == broken else {"data": address}
    cluster = a_cluster(client)
    answers = ask(cluster, 8)
    assert all(not isinstance(a, GputuneError) for a in answers)
    assert [address for address, _ in client.sent].count(broken) <= 4  # what was sent at once
    assert "is not used: its disk is full" in capsys.readouterr().err
    assert [x.address for x in cluster.usable(ON_CPU)] != [broken]


def test_what_is_lost_again_and_again_is_nobodys_fault() -> None:
    client = Client(a={})
    client.answer = lambda address: RuntimeError("KilledWorker: the worker died")
    (answer,) = ask(a_cluster(client), 1)
    assert isinstance(answer, RunError)
    assert Failure.of(answer, "run") == Failure(
        "start", "lost",
        "a request to Dask workers was lost 3 times: RuntimeError: KilledWorker: the worker died",
    )  # fmt: skip
    assert len(client.sent) == 3


def test_an_error_of_a_candidate_is_an_answer() -> None:
    client = Client(a={})
    told = remote.error_json(BuildError("no such instruction", hint="none", code="x"))
    client.answer = lambda address: {"error": told}
    (answer,) = ask(a_cluster(client), 1)
    assert isinstance(answer, BuildError)
    assert (answer.message, answer.hint, answer.code) == ("no such instruction", "none", "x")
    assert len(client.sent) == 1


def test_what_a_worker_had_that_is_gone_goes_to_others() -> None:
    client = Client(a={})
    (first,) = client.workers
    client.answer = lambda address: None if address == first else {"data": address}
    cluster = a_cluster(client, patience_sec=60)
    cluster.usable(ON_CPU)
    before = client.submit

    def submit(*args: Any, **options: Any) -> Future:
        future = before(*args, **options)
        if client.sent and first in client.workers:  # it dies with the request
            client.workers.pop(first)
            client.join("b", 1)
        return future

    client.submit = submit  # type: ignore[method-assign]  # a worker that dies
    answers = ask(cluster, 3)
    assert [a.header["data"] for a in answers if not isinstance(a, GputuneError)] == [
        "tcp://127.0.0.1:4001"
    ] * 3
    assert client.cancelled


def test_nobody_left_ends_with_a_reason_and_then_at_once() -> None:
    client = Client()
    cluster = a_cluster(client)
    (answer,) = ask(cluster, 1)
    assert isinstance(answer, RunError)
    assert "could measure on a processor (no worker is connected)" in answer.message
    assert Failure.of(answer, "run").infrastructure
    client.join("a", 0)
    assert not isinstance(ask(cluster, 1)[0], GputuneError)  # somebody has come


def test_a_connection_that_is_gone_ends_with_a_reason() -> None:
    client = Client(a={})
    cluster = a_cluster(client)
    client.status = "closed"
    (answer,) = ask(cluster, 1)
    assert isinstance(answer, RunError)
    assert Failure.of(answer, "run").infrastructure


def test_damage_on_the_way_is_nobodys_fault() -> None:
    frame = remote.packed({"by": ["x", 1]}, (b"code",))
    assert remote.unpacked(frame).blobs == (b"code",)
    for bad in (frame[:-1] + b"?", frame[:-1], b"", b"nonsense"):
        with pytest.raises(RunError, match="what arrived is not what was sent") as refused:
            remote.unpacked(bad)
        assert Failure.of(refused.value, "run").infrastructure


def test_who_stops_asking_calls_back_what_is_under_way() -> None:
    client = Client(a={})
    client.answer = lambda address: None
    cluster = a_cluster(client, patience_sec=60)
    frames = [partial(remote.request_frame, Request("ping"), CPU)] * 5
    batch = Batch(cluster, ON_CPU, frames)
    batch._step()
    assert len(client.sent) == 2  # one under way, one that waits there
    batch.abandon()
    assert len(client.cancelled) == 2
    client.answer = lambda address: {"data": 1}
    assert not isinstance(batch.answer(4), GputuneError)  # asked again, it begins again


def test_ctrl_c_calls_back_what_is_under_way() -> None:
    client = Client(a={}, b={})
    calls: list[str] = []

    def answer(address: str) -> None:
        calls.append(address)
        if len(calls) == 3:
            raise KeyboardInterrupt

    client.answer = answer
    with pytest.raises(KeyboardInterrupt):
        ask(a_cluster(client, patience_sec=60), 5)
    assert len(client.cancelled) == 2


def test_the_first_of_a_task_goes_alone() -> None:
    client = Client(a={}, b={})
    cluster = a_cluster(client)
    frames = [partial(remote.request_frame, Request("ping"), CPU)] * 6
    batch = Batch(cluster, ON_CPU, frames, settle=True)
    batch.answer(0)
    assert len(client.sent) == 1
    batch.answer(1)
    assert len(client.sent) == 5


# ----------------------------------------------------------------------------- there and back
@pytest.mark.parametrize(
    "result",
    [
        RunnerResult([1e-3, 2e-3], extras={"gpu": {"name": "H100"}}, disturbed=2, cut=True),
        RunnerResult.failed(Failure("run", "timeout", "too slow")),
    ],
)
def test_results_survive_the_way(result: RunnerResult) -> None:
    message = remote.unpacked(remote.packed({"data": remote.result_json(result)}))
    assert remote.result_of(message.header["data"]) == result


def test_settings_survive_the_way() -> None:
    x = RunnerInput("/nowhere", "cpu", [], BestSoFar(), 3)
    config = EvaluatorConfig(cut=math.inf)
    settings: dict[str, Any] = {"config": remote.finite({"cut": config.cut})}
    header = remote.unpacked(remote.measure_frame(x, b"code", CPU, **settings)).header
    assert header["best"]["seconds"] == "inf"
    assert header["config"] == {"cut": "inf"}
    assert header["input"]["placement"] == 3
    assert "artifact_path" not in header["input"]


def test_errors_survive_the_way() -> None:
    def picture() -> str:
        return "a picture"

    e = remote.error_of(remote.error_json(BuildError("no", draw=picture, details={"kind": "x"})))
    assert type(e) is BuildError
    assert e.details == {"kind": "x"}
    assert "a picture" in str(e)
    strange = {**remote.error_json(e), "type": "SystemExit"}
    assert type(remote.error_of(strange)) is RunError


# ----------------------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.DaskRunner(LOOPBACK, timeout_sec=0), "timeout_sec must be positive"),
        (lambda: ms.DaskBuilder(LOOPBACK, timeout_sec=-1), "timeout_sec must be positive"),
        (lambda: ms.DaskRunner(LOOPBACK, alloc_repeat=0), "alloc_repeat is a count"),
        (lambda: ms.DaskRunner(LOOPBACK, runner="far"), "runner is local or host, found 'far'"),
        (lambda: ms.DaskCluster(LOOPBACK, patience_sec=0), "patience_sec must be positive"),
        (lambda: ms.DaskBuilder(a_cluster(Client()), patience_sec=3), "a DaskCluster has these"),
        (lambda: ms.RPCRunner(ms.RPCConfig("far", 1, "k"), initializer=print), "initializer: func"),
        (lambda: ms.RPCConfig("far", 1, "k").connect_server(), "has no sessions"),
    ],
)  # fmt: skip
def test_bad_options(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_the_tracker_of_rpc_is_the_scheduler() -> None:
    assert ms.RPCConfig("far", 9190, "board").scheduler() == "tls://far:9190"
    assert ms.RPCConfig("far", 9190, "board").scheduler(allow_insecure=True) == "tcp://far:9190"
    assert ms.RPCConfig("127.0.0.1", 9190, "board").scheduler() == "tcp://127.0.0.1:9190"
    assert ms.RPCConfig("::1", 9190, "board").scheduler() == "tcp://[::1]:9190"


def test_a_worker_names_itself() -> None:
    facts = HERE
    assert facts["gputune"] == gputune.__version__
    assert facts["device"] == LLVM.device_key
    assert set(facts["features"]) >= {w[1:] for w in LLVM.mattr.split(",") if w[0] == "+"}
    assert unfit(facts, {"CPU": 1.0}, ON_CPU) == ""
