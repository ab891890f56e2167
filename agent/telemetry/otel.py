"""Traces by OpenTelemetry, sent over OTLP/HTTP; imported by the wiring only, where traces are wanted.

The tracer provider is ours alone and never the process's: what a storage library would trace of itself goes
nowhere. The SDK reads the standard OTEL_ variables by itself.
"""

import logging
import threading
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from agent import __version__
from agent.telemetry.traces import Span, Value

log = logging.getLogger("agent.traces")

_SILENCED = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",  # each failed batch, in the collector's words
    "opentelemetry.util.re",  # a header that it cannot read, whole
)
_PLACE = {
    "POD_NAME": "k8s.pod.name",
    "POD_NAMESPACE": "k8s.namespace.name",
    "POD_UID": "k8s.pod.uid",
}


class OtelTracer:
    """Begins traces and sends what has ended, in batches, on a thread of the SDK's.

    *exporter* sends them, by OTLP/HTTP as the environment says if none is given.
    """

    def __init__(self, environ: Mapping[str, str], exporter: SpanExporter | None = None) -> None:
        for name in _SILENCED:  # what they say is said below, once and without secrets
            logging.getLogger(name).setLevel(logging.CRITICAL)
        _check_headers(environ)
        self._provider = TracerProvider(resource=_resource(environ), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Telling(exporter or OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("model-agent", __version__)
        propagators = environ.get("OTEL_PROPAGATORS", "") or "tracecontext"
        self._propagates = "tracecontext" in {each.strip().lower() for each in propagators.split(",")}

    def begin(self, name: str, attributes: Mapping[str, Value], linked: Span | None) -> "OtelSpan":
        """Begin a trace; see `Tracer`."""
        links = [trace.Link(linked.span.get_span_context())] if isinstance(linked, OtelSpan) else []
        started = self._tracer.start_span(name, Context(), attributes=_named(attributes), links=links)
        return OtelSpan(self._tracer, started, propagates=self._propagates)

    def close(self, seconds: float) -> None:
        """Send what has ended, for at most *seconds*; blocks. A collector that hangs is left behind."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        thread.start()
        thread.join(seconds)


class OtelSpan:
    """A span of the SDK's; see `Span`."""

    __slots__ = ("_propagates", "_tracer", "headers", "span", "trace_id")

    def __init__(self, tracer: trace.Tracer, span: trace.Span, *, propagates: bool) -> None:
        self._tracer, self.span, self._propagates = tracer, span, propagates
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        sent = f"00-{self.trace_id}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        self.headers: Mapping[str, str] = {"traceparent": sent} if propagates else {}

    def child(self, name: str, attributes: Mapping[str, Value]) -> "OtelSpan":
        """Begin a part of this."""
        above = trace.set_span_in_context(self.span, Context())
        started = self._tracer.start_span(name, above, attributes=_named(attributes))
        return OtelSpan(self._tracer, started, propagates=self._propagates)

    def set(self, name: str, value: Value) -> None:
        """Note what is known of it."""
        self.span.set_attribute(f"modelagent.{name}", value)

    def note(self, name: str, attributes: Mapping[str, Value]) -> None:
        """Note that something happened now."""
        self.span.add_event(name, _named(attributes))

    def end(self, failure: str | None = None) -> None:
        """End it, as failed if it did."""
        if failure is not None:
            self.span.set_status(trace.Status(trace.StatusCode.ERROR, failure))
        self.span.end()


class _Telling(SpanExporter):
    """Says once that traces do not arrive, and once that they do again; what was not sent is lost."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans*."""
        result = self._exporter.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            log.warning("traces cannot be sent and are lost; look at the collector and OTEL_EXPORTER_OTLP_*")
        elif self._fails and not fails:
            log.info("traces are sent again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is kept back here."""
        return self._exporter.force_flush(timeout_millis)


def _named(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {f"modelagent.{name}": value for name, value in attributes.items()}


def _check_headers(environ: Mapping[str, str]) -> None:
    name = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    if not environ.get(name):
        name = "OTEL_EXPORTER_OTLP_HEADERS"
    given = [each for each in environ.get(name, "").split(",") if each.strip()]
    if len(parse_env_headers(",".join(given), liberal=True)) < len(given):
        log.warning(
            "a header for traces is not name=value with the value URL-encoded, or is there twice; "
            "it is not sent",
            extra={"variable": name},
        )


def _resource(environ: Mapping[str, str]) -> Resource:
    """Say who we are; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say it better."""
    ours = {"service.name": "model-agent", "service.version": __version__}
    place = {name: environ[variable] for variable, name in _PLACE.items() if environ.get(variable)}
    return Resource.create(ours | place).merge(OTELResourceDetector().detect())
