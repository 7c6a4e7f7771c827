"""Which Dask schedulers may be spoken to, and where is Dask's package?

Dask's peers send each other pickles, so whoever may speak to a scheduler can run anything. Plain
TCP asks nobody who he is: it stays on this machine unless the user allows more.
"""

from __future__ import annotations

import importlib
import ipaddress
from typing import Any

from ..errors import UserError

OPTION = "allow_insecure=True"
_LOCAL = ("localhost",)


def distributed() -> Any:
    """The package; UserError where it is not installed."""
    try:
        return importlib.import_module("distributed")
    except ImportError as e:
        raise UserError(
            f"builders and runners on other machines need Dask's package distributed ({e})",
            hint='pip install "gputune[dask]"',
            code="no-dask",
        ) from None


def is_safe(address: str) -> bool:
    """Does a connection to this address either stay on this machine or prove who is there?

    Example:
        >>> is_safe("tls://farm:8786"), is_safe("tcp://127.0.0.1:8786"), is_safe("tcp://farm:8786")
        (True, True, False)
    """
    scheme, name = parts(address)
    if scheme == "tls":
        return True
    if scheme != "tcp":
        return False
    if name in _LOCAL:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def parts(address: str) -> tuple[str, str]:
    """Scheme and host of an address; ("", "") if it is none."""
    scheme, there, rest = address.partition("://")
    if not there:
        scheme, rest = "tcp", address
    name, colon, port = rest.rpartition(":")
    if not colon or not port.isdecimal() or not name:
        return "", ""
    return scheme.lower(), name.strip("[]").lower()


def checked_address(address: object, allow_insecure: bool = False) -> str:
    """The address of a scheduler, its scheme written out.

    Args:
        address: None: the one of Dask's configuration (DASK_SCHEDULER_ADDRESS).

    Raises:
        UserError: it is none, or may be anybody's; names the option that allows it.
    """
    if address is None:
        distributed()
        address = importlib.import_module("dask").config.get("scheduler-address", None)
        if address is None:
            raise UserError(
                "no Dask scheduler is named",
                hint='scheduler="tls://HOST:8786", or DASK_SCHEDULER_ADDRESS',
                code="dask-address",
            )
    if not isinstance(address, str) or parts(address) == ("", ""):
        raise UserError(
            f"the address of a Dask scheduler is such as tls://HOST:8786, found {address!r:.80}",
            code="dask-address",
        )
    text = address if "://" in address else f"tcp://{address}"
    if not (is_safe(text) or allow_insecure):
        raise UserError(
            f"{text} is not used: anybody who can reach it could run programs there and here",
            hint="start the cluster with TLS and use tls://HOST:PORT, or a loopback address; "
            f"{OPTION} does without where you know the network",
            code="dask-insecure",
        )
    return text


def need_certificates(address: str, security: Any) -> None:
    """UserError unless a `distributed.Security` names what TLS needs."""
    if not (getattr(security, "tls_ca_file", None) and getattr(security, "tls_client_cert", None)):
        raise UserError(
            f"{address} needs certificates: neither security= nor Dask's configuration names them",
            hint="distributed.Security(tls_ca_file=..., tls_client_cert=..., tls_client_key=...), "
            "or DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ..__TLS__CLIENT__CERT, ..__TLS__CLIENT__KEY",
            code="tls",
        )
