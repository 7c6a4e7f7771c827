"""Where would candidates run, if not on this machine? The settings; running comes later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from .. import knobs
from ..errors import UserError
from .runner import Runner, RunnerFuture, RunnerInput


@dataclass(frozen=True, slots=True)
class RPCConfig:
    """Which tracker knows the machines that measure.

    Attributes:
        tracker_host, tracker_port, tracker_key: of the tracker, and of the machines wanted; None:
            what TVM_TRACKER_HOST, TVM_TRACKER_PORT and TVM_TRACKER_KEY say.
        session_priority: a larger one is served first.
        session_timeout_sec: of one session, in seconds.
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

    def count_num_servers(self, allow_missing: bool = True) -> int:
        """How many machines the tracker has: not in this version (UserError)."""
        _later("RPCConfig.count_num_servers")

    def connect_tracker(self) -> Any:
        """A connection to the tracker: not in this version (UserError)."""
        _later("RPCConfig.connect_tracker")

    def connect_server(self) -> Any:
        """A session on a machine: not in this version (UserError)."""
        _later("RPCConfig.connect_server")


def _or_knob(given: Any, knob: knobs.Knob) -> Any:
    found = knob.get() if given is None else given
    if found == "":
        raise UserError(
            f"the RPC tracker is not known: {knob.name} is not set",
            hint=f"set it, or give RPCConfig({knob.name.removeprefix('TVM_').lower()}=...)",
            code="rpc-config",
        )
    return found


def _later(what: str) -> NoReturn:
    raise UserError(
        f"{what}: this version measures on this machine only; remote running comes with a later "
        "version",
        hint='use runner="local"',
        code="rpc",
    )


class RPCRunner(Runner):
    """Times kernels on other machines: not in this version (UserError when one is made).

    Args:
        rpc_config: see `RPCConfig`.
        options: those of `LocalRunner`.
    """

    def __init__(self, rpc_config: RPCConfig | None = None, **options: Any) -> None:
        _later("RPCRunner")

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Refused, as the constructor is."""
        _later("RPCRunner.run")
