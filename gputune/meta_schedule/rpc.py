"""How are candidates measured by other machines, in MetaSchedule's words? RPCConfig, RPCRunner.

The tracker is a Dask scheduler, the servers are Dask workers, and the key is a resource that they
announce: `dask worker tls://HOST:9190 --resources "KEY=1"`. `on_dask` says the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import knobs
from ..errors import RunError, UserError
from .cluster import DaskCluster, cluster_of
from .dask_address import is_safe
from .on_dask import DaskRunner
from .runner import EvaluatorConfig


@dataclass(frozen=True, slots=True)
class RPCConfig:
    """Which tracker knows the machines that measure.

    Attributes:
        tracker_host, tracker_port: of the Dask scheduler; None: what TVM_TRACKER_HOST and
            TVM_TRACKER_PORT say. Other machines' are spoken to by TLS.
        tracker_key: the resource that the workers wanted announce; None: what TVM_TRACKER_KEY says.
        session_priority: a larger one is served first.
        session_timeout_sec: for one candidate, in seconds.
    """

    tracker_host: str | None = None
    tracker_port: int | None = None
    tracker_key: str | None = None
    session_priority: int = 1
    session_timeout_sec: int = 10

    def __post_init__(self) -> None:
        port = self.tracker_port
        if port is not None and (type(port) is not int or not 0 < port < 65536):
            raise UserError(
                f"RPCConfig: tracker_port is from 1 to 65535, found {port!r}", code="rpc-config"
            )
        if not self.session_timeout_sec > 0:
            raise UserError(
                "RPCConfig: session_timeout_sec must be positive, found "
                f"{self.session_timeout_sec!r}",
                code="rpc-config",
            )

    @staticmethod
    def _normalized(config: RPCConfig | None) -> RPCConfig:
        """The settings with what was left out taken from the environment.

        Raises:
            UserError: neither says it; names the variable.
        """
        given = config or RPCConfig()
        host = _or_knob(given.tracker_host, knobs.TRACKER_HOST)
        key = _or_knob(given.tracker_key, knobs.TRACKER_KEY)
        port = _or_knob(given.tracker_port, knobs.TRACKER_PORT)
        if isinstance(port, str):
            if not port.isdecimal():
                raise UserError(
                    f"{knobs.TRACKER_PORT.name} is a port number, found {port!r:.40}",
                    code="rpc-config",
                )
            port = int(port)
        return RPCConfig(host, port, key, given.session_priority, given.session_timeout_sec)

    def scheduler(self, allow_insecure: bool = False) -> str:
        """The address of the scheduler: by TLS, unless it is on this machine or need not be."""
        config = RPCConfig._normalized(self)
        host = (
            f"[{config.tracker_host}]" if ":" in str(config.tracker_host) else config.tracker_host
        )
        plain = f"tcp://{host}:{config.tracker_port}"
        return plain if allow_insecure or is_safe(plain) else f"tls://{host}:{config.tracker_port}"

    def count_num_servers(self, allow_missing: bool = True) -> int:
        """How many workers announce the key.

        Raises:
            UserError, RunError: as of `DaskCluster`.
            RunError: there is none, and it may not be missing.
        """
        key = str(RPCConfig._normalized(self).tracker_key)
        cluster = self.connect_tracker()
        count = cluster.announcing(key)
        if not (count or allow_missing):
            raise RunError(
                f"no worker of {cluster.address} announces {key}",
                hint=f'dask worker {cluster.address} --resources "{key}=1"',
                code="rpc",
            )
        return count

    def connect_tracker(self) -> DaskCluster:
        """A connection to the scheduler; errors as of `DaskCluster`."""
        return cluster_of(self.scheduler())

    def connect_server(self) -> Any:
        """A session on a machine: there is no such thing (UserError)."""
        raise UserError(
            "RPCConfig.connect_server: gputune sends whole measurements to whichever machine is "
            "free, and has no sessions on one",
            hint="RPCRunner measures; connect_tracker gives the cluster",
            code="rpc",
        )


def _or_knob(given: Any, knob: knobs.Knob) -> Any:
    found = knob.get() if given is None else given
    if found == "":
        raise UserError(
            f"the RPC tracker is not known: {knob.name} is not set",
            hint=f"set it, or give RPCConfig({knob.name.removeprefix('TVM_').lower()}=...)",
            code="rpc-config",
        )
    return found


class RPCRunner(DaskRunner):
    """Times kernels on other machines; see `DaskRunner`.

    Args:
        rpc_config: which ones.
        evaluator_config, cooldown_sec, alloc_repeat: as of `DaskRunner`.
        max_workers: accepted for compatibility: as many measure as there are.
        initializer: must be None, as must be `f_create_session` and its kin: functions of yours
            stay here.
        options: others of `DaskRunner`.

    Raises:
        UserError: nothing says where the tracker is; a function of yours; as of `DaskRunner`.
    """

    def __init__(
        self,
        rpc_config: RPCConfig | None = None,
        evaluator_config: EvaluatorConfig | None = None,
        cooldown_sec: float = 0.0,
        alloc_repeat: int = 1,
        max_workers: int | None = None,
        initializer: Any = None,
        **options: Any,
    ) -> None:
        functions = {k: options.pop(k) for k in list(options) if k.startswith("f_")}
        given = [k for k, f in {"initializer": initializer, **functions}.items() if f is not None]
        if given:
            raise UserError(
                f"RPCRunner: {', '.join(given)}: functions of yours do not go to other machines",
                hint="inherit from PyRunner to run them here",
                code="rpc",
            )
        config = RPCConfig._normalized(rpc_config)
        self.rpc_config = config
        super().__init__(
            config.scheduler(bool(options.get("allow_insecure"))),
            config.session_timeout_sec,
            evaluator_config,
            cooldown_sec,
            alloc_repeat,
            resource=str(config.tracker_key),
            priority=config.session_priority,
            **options,
        )
