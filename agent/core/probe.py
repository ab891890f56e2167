"""A model server's readiness probe, as KServe hands it to its agent: a Kubernetes Probe in JSON, or several.

Source of the rules: contract §1.5 to §1.7 (Knative's readiness package). Pure: nothing is asked here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUICK_SECONDS = 10.0
"""How long a probe with no period is repeated; Knative's own numbers, as the next one."""
QUICK_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """GET must be answered with 200 to 399."""

    host: str
    port: int
    path: str
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """The port must take a connection."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class GrpcCheck:
    """grpc.health.v1.Health/Check must say SERVING."""

    host: str
    port: int
    service: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One check and its timing. With `period_seconds` 0 it is repeated for a while, else made once."""

    check: HttpCheck | TcpCheck | GrpcCheck
    timeout_seconds: float = 1.0
    period_seconds: int = 0
    successes: int = 1


class ProbeError(ValueError):
    """A text that is no probe; what is wrong, in words."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read, and a note on what was read otherwise than it was written, empty where nothing was."""

    probes: tuple[Probe, ...]
    notes: tuple[str, ...] = ()


def read_probes(text: str | None, *, component_port: int, own_port: int) -> Reading:
    """Read SERVING_READINESS_PROBE. Nothing in it: always ready. Raises ProbeError.

    None (no such variable: KServe leaves it out for exec and gRPC probes, and its own agent then ends at
    once) is taken for the component port taking connections. So is an exec probe, whose command lives in
    another container, as Knative does.
    """
    if text is None:
        return Reading(
            (Probe(TcpCheck("127.0.0.1", component_port)),),
            (f"SERVING_READINESS_PROBE is not set: ready when port {component_port} takes connections",),
        )
    try:
        document = json.loads(text) if text.strip() else None
    except ValueError:
        raise ProbeError("is no JSON") from None
    entries = document if isinstance(document, list) else [] if document is None else [document]
    reader = _Reader(component_port, own_port)
    probes = tuple(reader.probe(entry) for entry in entries)
    return Reading(probes, tuple(reader.notes))


class _Reader:
    def __init__(self, component_port: int, own_port: int) -> None:
        self._component_port, self._own_port = component_port, own_port
        self.notes: list[str] = []

    def probe(self, entry: Any) -> Probe:
        """Read one probe."""
        if not isinstance(entry, Mapping):
            raise ProbeError("is no probe: an object is wanted")
        return Probe(
            self._check(entry),
            timeout_seconds=_number(entry, "timeoutSeconds", 1) or 1,
            period_seconds=_number(entry, "periodSeconds", 0),
            successes=max(_number(entry, "successThreshold", 1), 1),
        )

    def _check(self, entry: Mapping[str, Any]) -> HttpCheck | TcpCheck | GrpcCheck:
        match entry:
            case {"httpGet": Mapping() as get}:
                return HttpCheck(
                    _text(get, "host") or "127.0.0.1",
                    self._port(get),
                    "/" + _text(get, "path").removeprefix("/"),
                    tls=_text(get, "scheme").upper() == "HTTPS",
                    headers=tuple(_header(each) for each in get.get("httpHeaders") or ()),
                )
            case {"tcpSocket": Mapping() as tcp}:
                return TcpCheck(_text(tcp, "host") or "127.0.0.1", self._port(tcp))
            case {"grpc": Mapping() as grpc}:
                return GrpcCheck("127.0.0.1", self._port(grpc), _text(grpc, "service"))
            case {"exec": _}:
                self.notes.append(
                    "the readiness probe runs a command in the model server's container, where the agent"
                    f" cannot: ready when port {self._component_port} takes connections"
                )
                return TcpCheck("127.0.0.1", self._component_port)
            case _:
                raise ProbeError("is a probe of no known kind: httpGet, tcpSocket, grpc or exec is wanted")

    def _port(self, where: Mapping[str, Any]) -> int:
        port = where.get("port")
        if isinstance(port, str) and port.isascii() and port.isdigit():
            port = int(port)
        if isinstance(port, str) and port:
            self.notes.append(
                f"the readiness probe names port {port[:63]!r}, which only the model server's container"
                f" knows: port {self._component_port} is asked"
            )
            return self._component_port
        if port in [None, 0, "", self._own_port] and port is not False:  # a list: anything may stand there
            return self._component_port
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise ProbeError("has a port that is none")
        return port


def _number(where: Mapping[str, Any], key: str, absent: int) -> int:
    value = where.get(key)
    if value is None:
        return absent
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1 << 31:
        raise ProbeError(f"has a {key} that is no whole number")
    return value


def _text(where: Mapping[str, Any], key: str) -> str:
    value = where.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        raise ProbeError(f"has a {key} that is no plain text")
    return value


def _header(each: Any) -> tuple[str, str]:
    match each:
        case {"name": str(name), "value": str(value)} if (
            name and f"{name}{value}".isprintable() and not set(name) & set(": ")
        ):
            return name, value
        case _:
            raise ProbeError("has a header that is none")
