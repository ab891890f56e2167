"""gRPC's own client and server with the proxy between them."""

import asyncio
import contextlib

import grpc
import pytest
from grpc import aio

from tests.fakes.grpcserver import grpc_server
from tests.web.relays import relayed


@contextlib.asynccontextmanager
async def called(**more):
    """A proxy before a gRPC server, and a channel to the proxy."""
    async with (
        grpc_server() as (server, port, calls),
        relayed(port, **more) as relay,
        aio.insecure_channel(f"127.0.0.1:{relay.proxy.port}") as channel,
    ):
        yield channel, calls, relay, server


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
async def test_a_call_passes(size):
    async with called() as (channel, _, _, _):
        infer = channel.unary_unary("/test.Inference/Infer")
        content = b"ab" * (size // 2)
        assert await infer(content) == content[::-1]


async def test_many_calls_at_once_share_one_connection():
    async with called() as (channel, calls, _, _):
        infer = channel.unary_unary("/test.Inference/Infer")
        answers = await asyncio.gather(*(infer(b"%d." % number) for number in range(200)))
        assert answers == [(b"%d." % number)[::-1] for number in range(200)]
        assert len(calls.peers) == 1


async def test_streams_pass_both_ways():
    async with called() as (channel, _, _, _):
        stream = channel.unary_stream("/test.Inference/Stream")
        assert [each async for each in stream(b"5")] == [b"%d" % number for number in range(5)]
        talk = channel.stream_stream("/test.Inference/Talk")()
        for word in (b"one", b"two"):
            await talk.write(word)
            assert await talk.read() == word.upper()
        await talk.done_writing()
        assert await talk.read() == aio.EOF


async def test_a_call_that_is_given_up_is_given_up_at_the_server():
    async with called() as (channel, calls, _, _):
        call = channel.unary_stream("/test.Inference/Stream")(b"10")
        assert await call.read() == b"0"
        call.cancel()
        async with asyncio.timeout(5):
            await calls.given_up.wait()


async def test_an_error_of_the_server_passes_with_its_code():
    async with called() as (channel, _, _, _):
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Inference/None")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_draining_waits_for_a_call_under_way():
    async with called(quiet=0.5) as (channel, calls, relay, _):
        waiting = asyncio.ensure_future(_await(channel.unary_unary("/test.Inference/Wait")(b"")))
        await calls.begun.wait()
        relay.proxy.stop()
        calls.go.set()
        assert await waiting == b"waited"
        await asyncio.wait_for(relay.serving, 5)


async def test_a_servers_goaway_passes_and_the_next_call_goes_to_its_successor():
    """What a rolling restart of the model server looks like: no call is lost."""
    async with called() as (channel, _, relay, server):
        infer = channel.unary_unary("/test.Inference/Infer")
        assert await infer(b"ab") == b"ba"
        await server.stop(grace=5)
        async with grpc_server(relay.component_port) as (_, _, successor):
            assert await infer(b"cd", wait_for_ready=True, timeout=10) == b"dc"
            assert len(successor.peers) == 1


async def _await(call):
    return await call
