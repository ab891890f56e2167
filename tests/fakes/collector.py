"""A real OTLP/HTTP collector on 127.0.0.1, port 0: what was sent, as plain values."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Received:
    """One span."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    failure: str | None
    seconds: float
    links: tuple[str, ...]
    events: tuple[str, ...]
    resource: dict[str, Any]


@dataclass
class Collector:
    """What came in; `refuse` answers with that status instead, `hangs` not at all."""

    spans: list[Received] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    refuse: int | None = None
    hangs: bool = False
    port: int = 0

    def named(self, name: str, **attributes: object) -> list[Received]:
        wanted = {f"modelagent.{key}": value for key, value in attributes.items()}
        return [
            each for each in self.spans if each.name == name and wanted.items() <= each.attributes.items()
        ]

    def trace(self, trace: str) -> list[Received]:
        return [each for each in self.spans if each.trace == trace]

    def environ(self) -> dict[str, str]:
        """What sends an agent's traces here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Collector"]:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuse is not None:
            return web.Response(status=self.refuse, text=f"no; you sent {dict(request.headers)}")
        raw = await request.read()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        batch = ExportTraceServiceRequest.FromString(raw)
        for each in batch.resource_spans:
            resource = _values(each.resource.attributes)
            self.spans += [_span(span, resource) for scope in each.scope_spans for span in scope.spans]
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")


def _span(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        failure=span.status.message if span.status.code == 2 else None,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        links=tuple(link.trace_id.hex() for link in span.links),
        events=tuple(event.name for event in span.events),
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
