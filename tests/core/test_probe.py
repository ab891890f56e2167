"""SERVING_READINESS_PROBE, as KServe and Knative write it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.probe import GrpcCheck, HttpCheck, Probe, ProbeError, TcpCheck, read_probes

PORTS = {"component_port": 8080, "own_port": 9081}


def read(text):
    return read_probes(text if text is None or isinstance(text, str) else json.dumps(text), **PORTS)


@pytest.mark.parametrize(
    ("written", "check"),
    [
        ({"httpGet": {"path": "/v1/models/m", "port": 8081}}, HttpCheck("127.0.0.1", 8081, "/v1/models/m")),
        (
            {
                "httpGet": {
                    "port": 1,
                    "scheme": "HTTPS",
                    "host": "h",
                    "httpHeaders": [{"name": "A", "value": "b"}],
                }
            },
            HttpCheck("h", 1, "/", tls=True, headers=(("A", "b"),)),
        ),
        ({"tcpSocket": {"port": 8080}}, TcpCheck("127.0.0.1", 8080)),
        ({"tcpSocket": {"port": 0}}, TcpCheck("127.0.0.1", 8080)),
        ({"tcpSocket": {"port": 9081}}, TcpCheck("127.0.0.1", 8080)),  # ourselves: never asked
        ({"grpc": {"port": 8085, "service": "s"}}, GrpcCheck("127.0.0.1", 8085, "s")),
        ({"grpc": {"port": 8085, "service": None}}, GrpcCheck("127.0.0.1", 8085)),
        ({"exec": {"command": ["true"]}}, TcpCheck("127.0.0.1", 8080)),
        ({"httpGet": {"port": "http1"}}, HttpCheck("127.0.0.1", 8080, "/")),
        ({"httpGet": {"port": "8081"}}, HttpCheck("127.0.0.1", 8081, "/")),
    ],
)
def test_each_kind_is_read(written, check):
    reading = read(written)
    assert reading.probes == (Probe(check),)
    assert bool(reading.notes) == ("exec" in written or written.get("httpGet", {}).get("port") == "http1")


def test_timing_is_the_probes_own():
    written = {"tcpSocket": {"port": 1}, "timeoutSeconds": 3, "periodSeconds": 10, "successThreshold": 2}
    assert read(written).probes == (Probe(TcpCheck("127.0.0.1", 1), 3, 10, 2),)


def test_several_containers_give_several_probes():
    assert len(read([{"tcpSocket": {"port": 1}}, {"grpc": {"port": 2}}]).probes) == 2


@pytest.mark.parametrize("text", ["", "  ", "null", "[]"])
def test_no_probe_is_always_ready(text):
    assert read(text).probes == ()


def test_a_missing_variable_asks_the_component_port_and_says_so():
    reading = read(None)
    assert reading.probes == (Probe(TcpCheck("127.0.0.1", 8080)),)
    assert "8080" in reading.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "{", "7", "[7]", "{}", '{"httpGet": 7}', '{"tcpSocket": {"port": 70000}}',
        '{"tcpSocket": {"port": true}}',
        '{"tcpSocket": {"port": 1}, "timeoutSeconds": "x"}', '{"httpGet": {"port": 1, "path": "/a b"}}',
        '{"httpGet": {"port": 1, "httpHeaders": [{"name": "a\\r\\nb", "value": ""}]}}',
    ],
)  # fmt: skip
def test_what_is_no_probe_is_refused(text):
    with pytest.raises(ProbeError):
        read(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["httpGet", "tcpSocket", "grpc", "port", "path", "host"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_document_is_read_or_refused(document):
    try:
        reading = read(document)
    except ProbeError:
        return
    assert all(0 < probe.check.port < 65536 for probe in reading.probes)
