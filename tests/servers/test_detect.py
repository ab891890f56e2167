"""Which dialect is spoken, and at which of several addresses."""

import pytest

from agent.core.errors import RetryableError
from agent.core.model import ModelSpec
from agent.core.reasons import Reason
from agent.servers.detect import connect, detect, server_urls
from agent.servers.wire import Wire
from tests.servers.fakes import always, raw_server, request, response
from tests.servers.real import free_ports


def by_path(answers):
    """Answer by method and path, 404 elsewhere."""

    async def talk(reader, writer):
        while True:
            line = (await request(reader)).removesuffix(" HTTP/1.1")
            writer.write(answers.get(line, response(b'{"detail":"Not Found"}', "404 Not Found")))
            await writer.drain()

    return talk


@pytest.mark.parametrize(
    ("answers", "dialect"),
    [
        ({"GET /v2": response(b'{"name":"my-gpu-box","extensions":["model_repository"]}')}, "triton"),
        ({"GET /v2": response(b'{"name":"custom","extensions":["model_repository_extension"]}')}, "kserve"),
        ({"GET /v2": response(b'{"name":"mlserver","extensions":[]}')}, "mlserver"),
        ({"GET /v2": response(b'{"name":"x"}'), "GET /v2/models": response(b'{"models":[]}')}, "kserve"),
        ({"POST /v2/repository/index": response(b"{}", "422 Unprocessable")}, "mlserver"),
        ({"POST /v2/repository/index": response(b"[]")}, "triton"),
        ({"POST /v2/repository/index": response(b'"hello"')}, None),
        ({"GET /v2": response(b"<html>"), "GET /v2/models": response(b"<html>")}, None),
        ({}, None),
    ],
)
async def test_a_dialect_is_told_by_its_answers(answers, dialect):
    async with raw_server(by_path(answers)) as url:
        wire = Wire(url)
        assert await detect(wire) == dialect
        await wire.close()


def test_the_address_given_is_the_only_one():
    assert server_urls("http://10.0.0.1:9", 8080) == ("http://10.0.0.1:9",)


def test_kserves_port_is_tried_before_the_components():
    assert server_urls(None, 9000) == ("http://127.0.0.1:8080", "http://127.0.0.1:9000")
    assert server_urls(None, 8080) == ("http://127.0.0.1:8080",)


async def test_the_first_address_that_speaks_the_protocol_is_taken_and_said_once():
    said = []
    kserve = {
        "GET /v2": response(b'{"extensions":["model_repository_extension"]}'),
        "GET /v2/models": response(b'{"models":[]}'),
        "GET /v2/health/ready": response(b"{}"),
    }
    async with raw_server(by_path({})) as web, raw_server(by_path(kserve)) as model_server:
        server = connect([web, model_server], found=lambda url, protocol: said.append((url, protocol)))
        assert server.traits.concurrent_loads == 1
        for _ in range(2):
            assert (await server.read()).ready
        await server.close()
    assert said == [(model_server, "kserve")]


async def test_until_a_server_answers_it_is_unavailable_and_each_address_is_named():
    (port,) = free_ports(1)
    async with raw_server(always(response(b"hello"))) as web:
        server = connect([f"http://127.0.0.1:{port}", web])
        for attempt in (server.read, lambda: server.load("m"), lambda: server.unload("m")):
            with pytest.raises(RetryableError, match=rf"127.0.0.1:{port}: .*takes no models") as caught:
                await attempt()
            assert caught.value.reason is Reason.SERVER_UNAVAILABLE
        with pytest.raises(RetryableError):
            server.layout("m", ModelSpec("s3://b/k", "sklearn", 0), ["x"], lambda _path: b"")
        await server.close()


@pytest.mark.parametrize(
    ("urls", "protocol"), [(["http://x"], "tensorflow"), (["x"], "auto"), (["x"], "kserve")]
)
def test_a_protocol_or_an_address_that_is_none_is_refused_at_once(urls, protocol):
    with pytest.raises(ValueError, match=r"protocol|addressed"):
        connect(urls, protocol)
