"""A gRPC server of plain bytes, no generated code: what an inference server's gRPC port does, in little."""

import asyncio
import contextlib

import grpc
from grpc import aio

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class Calls:
    """What came; `given_up` is set when a stream's client goes away."""

    def __init__(self):
        self.given_up = asyncio.Event()
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.peers = set()
        self.health = SERVING

    async def check(self, request, context):
        return self.health

    async def infer(self, request, context):
        self.peers.add(context.peer())
        return request[::-1]

    async def wait(self, request, context):
        self.begun.set()
        await self.go.wait()
        return b"waited"

    async def stream(self, request, context):
        self.begun.set()
        try:
            for number in range(int(request)):
                yield b"%d" % number
            if request.endswith(b"0"):
                await asyncio.Event().wait()
        finally:
            self.given_up.set()

    async def talk(self, requests, context):
        async for each in requests:
            yield each.upper()


@contextlib.asynccontextmanager
async def grpc_server(port=0):
    """Serve on 127.0.0.1; yields server, port and calls."""
    server, calls = aio.server(), Calls()
    handlers = {
        "Infer": grpc.unary_unary_rpc_method_handler(calls.infer),
        "Wait": grpc.unary_unary_rpc_method_handler(calls.wait),
        "Stream": grpc.unary_stream_rpc_method_handler(calls.stream),
        "Talk": grpc.stream_stream_rpc_method_handler(calls.talk),
    }
    check = {"Check": grpc.unary_unary_rpc_method_handler(calls.check)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("test.Inference", handlers),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", check),
        )
    )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield server, port, calls
    finally:
        await server.stop(None)
