"""Requests to storage tell of which trace they are a part, and no signature suffers by it."""

import asyncio
from contextlib import nullcontext
from functools import partial

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.artifacts.orders import carrying
from agent.core.errors import TerminalError
from agent.storage.azure import AzureProvider
from agent.storage.gs import GsProvider
from agent.storage.hf import HfProvider
from agent.storage.http import HttpProvider
from agent.telemetry.traces import outgoing, within
from tests.contracts.reading import read_source
from tests.fakes.spans import FakeTracer


@pytest.fixture
def root():
    return FakeTracer().begin("root", {})


@pytest.fixture
async def refusing():
    """A server that refuses everything and remembers the headers."""
    heads: list[dict[str, str]] = []

    async def refuse(request):
        heads.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with TestServer(app, host="127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.port}", heads


async def asked(provider, uri, heads, root):
    """Return the traces that a listing was told to be a part of, with and without one."""
    for current in (nullcontext(), within(root)):
        with pytest.raises(TerminalError, match="NotFound"), current:
            await provider.resolve(uri)
    return [head.get("traceparent") for head in heads]


@pytest.mark.parametrize("scheme", ["s3", "gs", "http", "hf", "azure"])
async def test_a_listing_is_a_part_of_its_trace(scheme, refusing, root, connect_s3):
    url, heads = refusing
    match scheme:
        case "s3":
            environ = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
            provider, uri = connect_s3(environ | {"AWS_REGION": "eu-west-1"}), "s3://bucket/m"
        case "gs":
            provider, uri = GsProvider({"STORAGE_EMULATOR_HOST": url}), "gs://bucket/m"
        case "hf":
            provider, uri = HfProvider({"HF_ENDPOINT": url}), "hf://owner/model"
        case "azure":
            connection = f"AccountName=a;AccountKey=aaaa;BlobEndpoint={url}"
            provider, uri = AzureProvider({"AZURE_STORAGE_CONNECTION_STRING": connection}), "abfs://c/m"
        case _:
            provider, uri = HttpProvider({}), f"{url}/m"
    told = await asked(provider, uri, heads, root)
    await provider.close()
    half = len(told) // 2
    assert told == [None] * half + [root.headers["traceparent"]] * half
    assert half


@pytest.mark.real
async def test_a_real_store_takes_signed_requests_that_carry_a_trace(seaweedfs, admin, connect_s3, root):
    await asyncio.to_thread(admin.put_object, Bucket="models", Key="carried/m", Body=b"bytes")
    environ = {
        "AWS_ENDPOINT_URL": seaweedfs.endpoint,
        "AWS_REGION": "eu-west-1",
        **seaweedfs.reader.environ(),
    }
    provider = connect_s3(environ)
    with within(root):
        (obj,) = (await provider.resolve("s3://models/carried")).objects
        source = await carrying(outgoing(), partial(provider.source, obj))()
    assert source.headers["traceparent"] == root.headers["traceparent"]
    assert "traceparent" not in source.headers["Authorization"]
    assert await read_source(source, obj.identity) == b"bytes"


async def test_a_trace_that_the_operator_sends_is_left_as_it_is(root):
    environ = {"127.0.0.1-headers": '{"Traceparent": "mine"}'}
    provider = HttpProvider(environ)
    found = []

    async def answer(request):
        found.append(request.headers["traceparent"])
        return web.Response(headers={"ETag": "x"}, text="bytes")

    app = web.Application()
    app.router.add_get("/m", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        with within(root):
            (obj,) = (await provider.resolve(f"http://127.0.0.1:{server.port}/m")).objects
            source = await carrying(outgoing(), partial(provider.source, obj))()
    await provider.close()
    assert [name for name in source.headers if name.lower() == "traceparent"] == ["Traceparent"]
    assert set(found) == {"mine"}
