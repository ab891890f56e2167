"""Asks the model server what its own readiness probe asks. Says nothing about models.

Every ask is bounded in time and in bytes, and a fault is an answer: not ready.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from agent.core.probe import (
    QUICK_PAUSE_SECONDS,
    QUICK_SECONDS,
    GrpcCheck,
    HttpCheck,
    Probe,
    TcpCheck,
)

_MAX_ANSWER_BYTES = 1 << 16
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
_FRAMES = 64


class Health:
    """Whether the model server is ready. Asks made at the same time share one look."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = tuple(probes)
        self._look: asyncio.Task[bool] | None = None

    async def ready(self) -> bool:
        """Ask now; true where there is nothing to ask."""
        if not self._probes:
            return True
        if self._look is None:
            self._look = asyncio.get_running_loop().create_task(self._all(), name="readiness")
            self._look.add_done_callback(self._looked)
        return await asyncio.shield(self._look)

    async def close(self) -> None:
        """Give up a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])

    def _looked(self, _: "asyncio.Task[bool]") -> None:
        self._look = None

    async def _all(self) -> bool:
        return all([await _passes(probe) for probe in self._probes])


async def _passes(probe: Probe) -> bool:
    if probe.period_seconds > 0:
        return await _once(probe, probe.timeout_seconds)
    loop = asyncio.get_running_loop()
    end, successes = loop.time() + QUICK_SECONDS, 0
    while (left := end - loop.time()) > 0:
        successes = successes + 1 if await _once(probe, min(left, probe.timeout_seconds)) else 0
        if successes >= probe.successes:
            return True
        await asyncio.sleep(QUICK_PAUSE_SECONDS)
    return False


async def _once(probe: Probe, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            match probe.check:
                case HttpCheck() as check:
                    return await _http(check)
                case TcpCheck(host, port):
                    async with _connected(host, port):
                        return True
                case GrpcCheck() as check:
                    return await _grpc(check)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, EOFError):
        return False


@contextlib.asynccontextmanager
async def _connected(
    host: str, port: int, *, tls: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = None
    if tls:
        from agent.web.proxy_tls import trusting  # noqa: PLC0415 - see agent.web.proxy_start

        context = trusting()
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=_MAX_ANSWER_BYTES)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _http(check: HttpCheck) -> bool:
    fields = {"host": f"{check.host}:{check.port}", "user-agent": "kube-probe/model-agent", "accept": "*/*"}
    fields |= {name.lower(): value for name, value in check.headers}
    fields["connection"] = "close"
    lines = [f"GET {check.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    async with _connected(check.host, check.port, tls=check.tls) as (reader, writer):
        writer.write("\r\n".join(lines).encode())
        words = (await reader.readline()).split(None, 2)
    return len(words) > 1 and words[0].startswith(b"HTTP/1.") and 200 <= int(words[1]) < 400


async def _grpc(check: GrpcCheck) -> bool:
    """Call grpc.health.v1.Health/Check over HTTP/2 written by hand: one stream, nothing compressed."""
    service = check.service.encode()
    message = (b"\x0a" + bytes([len(service)]) + service) if service else b""
    if len(service) > 127:
        raise ValueError("a service name of more than 127 bytes")
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/grpc.health.v1.Health/Check"),
        (b":authority", f"{check.host}:{check.port}".encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", b"kube-probe/model-agent"),
    )
    head = b"".join(b"\x10" + _hpack(name) + _hpack(value) for name, value in fields)
    body = b"\x00" + len(message).to_bytes(4) + message
    async with _connected(check.host, check.port) as (reader, writer):
        writer.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(4, 0, 0)
            + _frame(1, 4, 1, head)
            + _frame(0, 1, 1, body)
        )
        return await _answered(reader, writer)


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Read frames until the stream ends; true where its one message says SERVING."""
    told = b""
    for _ in range(_FRAMES):
        head = await reader.readexactly(9)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9]) & 0x7FFFFFFF
        payload = await reader.readexactly(int.from_bytes(head[:3]))
        if kind == 4 and not flags & 1:
            writer.write(_frame(4, 1, 0))
        elif kind == 6 and not flags & 1:
            writer.write(_frame(6, 1, 0, payload))
        elif kind == 0 and stream == 1:
            told += payload
        elif kind in {3, 7}:
            return False
        if stream == 1 and flags & 1 and kind in {0, 1}:
            break
        if len(told) > 1024:
            return False
    return told[:5] == b"\x00" + len(_SERVING).to_bytes(4) and told[5:] == _SERVING


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _hpack(text: bytes) -> bytes:
    """A literal string with no Huffman coding (RFC 7541 §5.2); ours are all shorter than 127 bytes."""
    if len(text) > 126:
        raise ValueError("a header of more than 126 bytes")
    return bytes([len(text)]) + text
