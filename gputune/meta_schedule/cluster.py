"""Which machines of a Dask cluster may work for this one, and how do they get work?

Dask is the engine: it knows the workers, brings requests to them, and gives those of a worker that
died to another. What is decided here is who is used at all. A worker is looked at once: another
version of gputune, another processor or another model of GPU than the run's is refused, and said.
"""

from __future__ import annotations

import atexit
import contextlib
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gputune

from ..errors import RunError, UserError
from .cluster_fit import Need, models, unfit
from .dask_address import OPTION, checked_address, distributed, is_safe, need_certificates, parts
from .logging import console
from .remote import BUILD, GPU, describe_frame, error_of, lost, serve, unpacked

_TICK_S = 0.5  # between two looks at who is there
_CONNECT_S, _LEAST_S = 10.0, 2.0  # for a scheduler to answer
_RECONNECT_S = 5.0
_LOOK_S = 30.0  # for a worker's first answer: it imports gputune
_FETCH_S = 60.0
_STRIKES = 2  # failures of a worker's own, one after the other, that end its work
_FIRST = 100  # a priority above all others


@dataclass(slots=True, eq=False)
class WorkerSeen:
    """A worker of the cluster.

    Attributes:
        facts: what it says of itself (`remote.describe`); None before it did.
        problem: why it is of no use for anything, or "".
        look: the request that asks it, while that is under way.
        told: reasons for not using it that the user has read.
        strikes: how often running it failed for a reason of its own.
    """

    address: str
    resources: dict[str, float]
    threads: int
    facts: dict[str, Any] | None = None
    problem: str = ""
    look: Any = None
    told: set[str] = field(default_factory=set)
    strikes: int = 0

    def slots(self, need: Need) -> int:
        """How many requests it carries out at a time."""
        if not need.resource:
            return self.threads
        return max(1, min(self.threads, int(self.resources.get(need.resource, 1))))

    def unfit(self, need: Need) -> str:
        """Why it cannot do it, or ""."""
        if self.problem or self.facts is None:
            return self.problem
        return unfit(self.facts, self.resources, need)

    @property
    def name(self) -> str:
        """Its address, and the machine once that is known."""
        where = "" if self.facts is None else f" on {self.facts['host']}"
        return f"{self.address}{where}"


class DaskCluster:
    """A connection to a Dask cluster, for builders and runners to share.

    Args:
        scheduler: its address: `tls://HOST:PORT`, or one of this machine; or a `distributed.Client`
            that is connected to it. None: what Dask's configuration says.
        security: a `distributed.Security` with certificates; default: Dask's configuration.
        allow_insecure: plain TCP to other machines is all right.
        patience_sec: how long to go on when no worker is left that could do the work.

    Raises:
        UserError: the address may be anybody's, TLS is not set up, or distributed is missing.
        RunError: no scheduler answers there.

    Example:
        >>> cluster = DaskCluster("tls://farm:8786")                   # doctest: +SKIP
        >>> runner = DaskRunner(cluster)                               # doctest: +SKIP
    """

    def __init__(
        self,
        scheduler: Any = None,
        *,
        security: Any = None,
        allow_insecure: bool = False,
        patience_sec: float = 60.0,
    ) -> None:
        if not patience_sec > 0:
            raise UserError(f"DaskCluster: patience_sec must be positive, found {patience_sec!r}")
        self.patience_sec = float(patience_sec)
        self.allow_insecure = allow_insecure
        self.security = security
        self._own = not hasattr(scheduler, "submit")
        address = scheduler if self._own else scheduler.scheduler.address
        self.address = checked_address(address, allow_insecure)
        wait_s = max(_LEAST_S, min(_CONNECT_S, self.patience_sec))
        self._client: Any = self._connect(wait_s) if self._own else scheduler
        self._known: dict[tuple[str, str], WorkerSeen] = {}
        self._models: dict[str, str] = {}
        self._missing: dict[Need, float] = {}
        self._looked = -_TICK_S
        self._check_scheduler()
        atexit.register(_close, weakref.ref(self))

    def __repr__(self) -> str:
        return f"DaskCluster({self.address!r})"

    def close(self) -> None:
        """End the connection, if it was made here."""
        if self._own and self._client is not None:
            self._client.close()
            self._client = None

    # ------------------------------------------------------------------ the connection
    def _connect(self, timeout_s: float) -> Any:
        dask = distributed()
        security = self.security
        try:
            if security is None:
                security = dask.Security()
            if parts(self.address)[0] == "tls":
                need_certificates(self.address, security)
            return dask.Client(
                self.address, timeout=timeout_s, security=security, set_as_default=False,
                name="gputune",
            )  # fmt: skip
        except FileNotFoundError as e:
            raise UserError(f"{self.address}: a certificate is missing: {e}", code="tls") from None
        except (OSError, TimeoutError) as e:
            raise RunError(
                f"no Dask scheduler answers at {self.address} ({in_a_line(e)})",
                hint="start one: dask scheduler --host 127.0.0.1 --port 8786",
                code="dask-scheduler",
            ) from None

    def _check_scheduler(self) -> None:
        """A scheduler that listens to others than this machine is as open as its address there."""
        told = str(self._identity().get("address", self.address))
        if not (is_safe(told) or self.allow_insecure):
            self.close()
            raise UserError(
                f"the scheduler at {self.address} listens at {told}: anybody who can reach that "
                "could run programs there and here",
                hint=f"dask scheduler --host 127.0.0.1, or TLS; {OPTION} does without",
                code="dask-insecure",
            )

    def _identity(self) -> dict[str, Any]:
        """What the scheduler says of itself and its workers; {} while it does not answer."""
        client = self._client
        if client is None or client.status == "closed":
            if not self._own:
                return {}
            try:
                self._client = client = self._connect(_RECONNECT_S)
            except RunError:
                return {}
        if client.status != "running":
            return {}
        try:
            found: dict[str, Any] = client.sync(
                client.scheduler.identity, n_workers=-1, callback_timeout=_CONNECT_S
            )
        except (OSError, TimeoutError, RuntimeError):  # it is going away
            return {}
        return found

    # ------------------------------------------------------------------ the workers
    def usable(self, need: Need) -> list[WorkerSeen]:
        """The workers that may do it, now; [] while there is none."""
        first = not self._known
        self._look()
        if first:
            self._wait_for_looks()
        found = self._fitting(need)
        if found:
            self._missing.pop(need, None)
        else:
            self._missing.setdefault(need, time.monotonic())
        return found

    def threads(self) -> int:
        """How many requests the workers build at a time; at least 1."""
        self._look()
        return max(1, sum(x.threads for x in self._known.values() if not x.problem))

    def announcing(self, resource: str) -> int:
        """How many workers announce a resource."""
        told = self._identity().get("workers", {}).values()
        return sum((w.get("resources") or {}).get(resource, 0) >= 1 for w in told)

    def gave_up(self, need: Need) -> bool:
        """Has nobody been there for longer than anybody wants to wait?"""
        since = self._missing.get(need)
        return since is not None and time.monotonic() - since >= self.patience_sec

    def nobody(self, need: Need) -> RunError:
        """Says that nobody is there to do it, and why not."""
        reasons = [f"{x.name}: {x.unfit(need) or 'it has not answered'}" for x in self._seen()]
        what = {BUILD: "build", GPU: "measure on a GPU"}.get(need.place, "measure on a processor")
        told = "; ".join(reasons) or "no worker is connected"
        text = f"for {self.patience_sec:g} s no Dask worker of {self.address} could {what} ({told})"
        return lost("no-worker", text)

    def _seen(self) -> list[WorkerSeen]:
        return list(self._known.values())

    def _look(self) -> None:
        """Who is there, who is gone, and what do the new ones say of themselves?"""
        if time.monotonic() - self._looked < _TICK_S:
            return
        told = self._identity().get("workers", {})
        there = {
            (str(address), str(w.get("local_directory", ""))): w
            for address, w in told.items()
            if w.get("status") == "running"
        }
        for key in [k for k in self._known if k not in there]:
            del self._known[key]
        for key, w in there.items():
            x = self._known.get(key)
            if x is None or (x.facts is None and x.look is None and not x.problem):
                self._known[key] = self._meet(key[0], w)
        for x in self._known.values():
            self._hear(x)
        self._looked = time.monotonic()

    def _meet(self, address: str, told: dict[str, Any]) -> WorkerSeen:
        x = WorkerSeen(address, dict(told.get("resources") or {}), int(told.get("nthreads", 1)))
        if not (is_safe(address) or self.allow_insecure):
            x.problem = f"its address may be anybody's (TLS, or {OPTION})"
            self._tell(x, x.problem)
        else:
            try:
                x.look = self.submit(describe_frame(), [address], priority=_FIRST)
            except Exception:  # of Dask: the connection has just gone
                x.look = None  # it is met again, if it is there then
        return x

    def _hear(self, x: WorkerSeen) -> None:
        """Take in what a worker says of itself, once it has."""
        if x.look is None or x.look.status == "pending":
            return
        look, x.look = x.look, None
        try:
            told = unpacked(look.result(timeout=_FETCH_S)).header
        except Exception as e:  # whatever importing gputune there, or Dask, raises
            if look.status == "error":
                x.problem = f"gputune does not work there ({in_a_line(e)})"
        else:
            if "error" in told:
                x.problem = f"gputune does not work there ({error_of(told['error']).message})"
            else:
                x.facts = dict(told["data"])
                have = x.facts["gputune"]
                if have != gputune.__version__:
                    x.problem = f"it has gputune {have}, and this is {gputune.__version__}"
        if x.problem:
            self._tell(x, x.problem)

    def _wait_for_looks(self) -> None:
        """At first, all that are there have a say: which model of GPU ranks follows from them."""
        ends = time.monotonic() + _LOOK_S
        while any(x.look is not None for x in self._seen()) and time.monotonic() < ends:
            time.sleep(_TICK_S / 10)
            for x in self._seen():
                self._hear(x)

    def _fitting(self, need: Need) -> list[WorkerSeen]:
        good: list[tuple[WorkerSeen, str]] = []
        for x in self._seen():
            if x.facts is None or x.problem:
                continue
            if why := x.unfit(need):
                if not need.resource or need.resource in x.resources:
                    self._tell(x, why)  # else its owner has other plans for it
            else:
                good.append((x, next(iter(models(x.facts)), "")))
        if need.place != GPU or need.mixed or not good:
            return [x for x, _ in good]
        arch = need.target.arch
        if arch not in self._models:
            self._models[arch] = Counter(model for _, model in good).most_common(1)[0][0]
        ranked = self._models[arch]
        for x, model in good:
            if model != ranked:
                self._tell(x, f"its GPU is a {model}, and this run ranks times of the {ranked}")
        return [x for x, model in good if model == ranked]

    def _tell(self, x: WorkerSeen, why: str) -> None:
        """Say once why a worker is not used."""
        if why not in x.told:
            x.told.add(why)
            console().warning("The Dask worker %s is not used: %s", x.name, why)

    def note(self, by: Sequence[Any], problem: str = "") -> None:
        """A worker has carried something out, or could not for a reason of its own; one that cannot
        again and again is not used any more."""
        for x in self._seen():
            if x.facts is None or [x.facts["host"], x.facts["pid"]] != list(by):
                continue
            x.strikes = x.strikes + 1 if problem else 0
            if x.strikes >= _STRIKES:
                x.problem = problem
                self._tell(x, problem)

    # ------------------------------------------------------------------ requests
    def submit(
        self, frame: bytes, workers: Sequence[str], *, resource: str = "", priority: int = 0
    ) -> Any:
        """Have one of some workers carry out what a frame asks for.

        Returns:
            A future of `distributed`, of the answering frame.
        """
        return self._client.submit(
            serve, frame, key=f"gputune-{uuid.uuid4().hex}", workers=list(workers), pure=False,
            allow_other_workers=False, resources={resource: 1} if resource else None,
            priority=priority,
        )  # fmt: skip

    def cancel(self, futures: Sequence[Any]) -> None:
        """Nobody waits for these any more."""
        if futures and self._client is not None and self._client.status == "running":
            with contextlib.suppress(Exception):  # of Dask: then they are gone with the connection
                self._client.cancel(list(futures), force=True)


def cluster_of(scheduler: Any, **options: Any) -> DaskCluster:
    """The cluster that is meant: as it is, or connected to; one connection for equal arguments.

    Raises:
        UserError, RunError: as of `DaskCluster`.
    """
    if isinstance(scheduler, DaskCluster):
        if options:
            raise UserError(
                f"{', '.join(options)}: a DaskCluster has these already", code="dask-options"
            )
        return scheduler
    if hasattr(scheduler, "submit"):
        return DaskCluster(scheduler, **options)
    address = checked_address(scheduler, bool(options.get("allow_insecure")))
    key = (address, *sorted((k, id(v) if k == "security" else v) for k, v in options.items()))
    found = _connected.get(key)
    if found is None or found._client is None:
        found = _connected[key] = DaskCluster(address, **options)
    return found


_connected: dict[tuple[Any, ...], DaskCluster] = {}


def _close(cluster: weakref.ref[DaskCluster]) -> None:
    found = cluster()
    if found is not None:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            found.close()


def in_a_line(e: BaseException) -> str:
    """An error in a line."""
    text = str(e).strip().splitlines()
    return f"{type(e).__name__}: {text[0]:.200}" if text else type(e).__name__
