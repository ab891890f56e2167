"""Whether the standard OTEL_ variables ask for traces, and what sends them then.

No tracing library is loaded where they do not; nothing wrong with them keeps a model from being served.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.telemetry.journeys import Journeys

if TYPE_CHECKING:
    from agent.telemetry.otel import OtelTracer

log = logging.getLogger("agent.traces")


@dataclass(frozen=True, slots=True)
class Tracing:
    """What begins traces, and what follows the models by it."""

    tracer: "OtelTracer"
    journeys: Journeys


def open_tracing(environ: Mapping[str, str], now: Callable[[], float]) -> Tracing | None:
    """Return what sends traces, None where none are asked for or none can be sent, which is said. Blocks."""
    if not wanted(environ):
        return None
    if (refused := refusal(environ)) is not None:
        log.warning("no traces are sent: %s", refused)
        return None
    try:
        # Imported when needed: it costs 20 MiB and a quarter of a second.
        from agent.telemetry.otel import OtelTracer  # noqa: PLC0415
    except ImportError:
        log.warning("no traces are sent: the extra 'otel' (model-agent[otel]) is not installed")
        return None
    try:
        tracer = OtelTracer(environ)
    except (OSError, ValueError) as error:
        log.warning(
            "no traces are sent: an OTEL_ variable is of no use", extra={"error": type(error).__name__}
        )
        return None
    return Tracing(tracer, Journeys(tracer, now))


def wanted(environ: Mapping[str, str]) -> bool:
    """Say whether the standard variables ask for traces over OTLP."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporters:
        return "otlp" in {each.strip() for each in exporters.split(",")}
    return any(environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT", "").strip() for part in ("TRACES_", ""))


def refusal(environ: Mapping[str, str]) -> str | None:
    """Say why what is asked for cannot be done, None where it can: only http/protobuf is spoken."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environ.get(name, "").strip()
        if protocol:
            return None if protocol == "http/protobuf" else f"{name} is not http/protobuf (port 4318)"
    return None
