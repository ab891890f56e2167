"""Spans as the agent's code sees them: nothing where nothing is current, and no secret in what went wrong."""

import asyncio
import sys

import pytest

from agent.aio.threads import Daemons
from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.telemetry.traces import outgoing, span, trace_id, within
from agent.telemetry.tracing import open_tracing, refusal, wanted
from tests.fakes.spans import FakeTracer

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def root():
    return FakeTracer().begin("root", {})


def test_while_nothing_is_current_all_spans_are_one_object_and_there_are_no_headers():
    assert span("resolve") is span("fetch", objects=1)
    with span("resolve") as current:
        current.set("bytes", 1)
        assert span("inner") is span("resolve")
        assert outgoing() is outgoing()
    assert outgoing() == {}
    assert trace_id() is None


async def test_what_is_done_within_a_span_is_a_part_of_it_in_other_tasks_and_threads_too(root):
    daemons = Daemons("t")
    with within(root), span("fetch", objects=2) as fetch:
        assert outgoing() == await asyncio.create_task(asyncio.to_thread(outgoing)) == fetch.headers
        assert await daemons.run(outgoing) == fetch.headers
        with span("inner"):
            pass
    daemons.close()
    assert outgoing() == {}
    assert ([each.name for each in root.children], fetch.attributes) == (["fetch"], {"objects": 2})
    assert [(each.name, each.ended) for each in fetch.children] == [("inner", 1)]
    assert root.ended == 0


def test_an_error_is_told_by_reason_and_words_without_secrets_and_a_bug_by_its_kind_alone(root):
    secret = "https://user:c4n4ry@host/x?sig=c4n4ry"
    errors = (
        RetryableError(Reason.NOT_FOUND, f"nothing at {secret}"),
        KeyError(secret),
        asyncio.CancelledError(),
    )
    for error in errors:
        with pytest.raises(type(error)), within(root), span("resolve"):
            raise error
    assert [(each.failure, each.ended) for each in root.children] == [
        ("NotFound: nothing at https://host/x", 1),
        ("InternalError: KeyError", 1),
        (None, 1),
    ]
    assert root.children[2].attributes == {"cancelled": True}


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, True),
    ],
)
def test_the_standard_variables_decide_whether_there_are_traces(environ, asked):
    assert wanted(environ) is asked


def test_a_protocol_that_is_not_spoken_is_refused_in_words_and_nothing_else_happens(caplog):
    environ = ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert refusal(environ | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}) is None
    assert open_tracing(environ, lambda: 0.0) is None
    (line,) = caplog.messages
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is not http/protobuf" in line


def test_the_seam_loads_no_tracing_library():
    assert "opentelemetry" not in vars(sys.modules["agent.telemetry.traces"])
