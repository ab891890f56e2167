"""One simple stream an object: the first mover, to be replaced by the parallel engine.

Whatever a server does, the partial holds exactly the body of one answer with the pinned identity, or the
order fails.
"""

import asyncio
import http.client
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agent.artifacts.digests import Digests, needed
from agent.artifacts.errors import disk_errors
from agent.artifacts.localfile import copy_file
from agent.artifacts.neterrors import network_error
from agent.artifacts.orders import Moved, Order
from agent.artifacts.retries import first_error, patiently
from agent.artifacts.threads import Threads
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.base import FileSource, HttpSource, ReaderSource, Source

BUFFER_BYTES = 256 << 10
STALL_SECONDS = 30.0
PIECE_BYTES = 8 << 20  # of a library's reader
_MAX_ERROR_BODY = 64 << 10


class StreamMover:
    """Moves each object in one stream on a thread of its own, a few at once."""

    def __init__(self, *, streams: int = 8, stall_seconds: float = STALL_SECONDS) -> None:
        self._slots = asyncio.Semaphore(streams)
        self._streams = streams
        self._stall_seconds = stall_seconds
        self._threads = Threads("move")

    async def move(self, orders: Sequence[Order]) -> None:
        """Carry out all *orders*; see `Mover`."""
        rest = iter(orders)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(self._streams, len(orders))):
                    group.create_task(self._drain(rest), name=f"move-{number}")
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    def close(self) -> None:
        """Let the threads end."""
        self._threads.close()

    async def _drain(self, orders: Iterator[Order]) -> None:
        for order in orders:
            async with self._slots:
                await patiently(lambda order=order: self._one(order))  # type: ignore[misc]

    async def _one(self, order: Order) -> None:
        source = await order.source()
        order.meter.set(0)
        stream = _Stream(order, self._stall_seconds)
        if not isinstance(source, ReaderSource):
            await self._threads.run(lambda: stream.finish(source), abort=stream.abort)
            return
        moved = await self._threads.run(lambda: stream.read(source), abort=stream.abort)
        if await source.recheck() != order.obj.identity:
            raise RetryableError(Reason.SNAPSHOT_CHANGED, f"{order.obj.path} changed while it was read")
        await self._threads.run(lambda: order.settle(moved))


class _Stream:
    """The reading of one object, from another thread than the one that may abort it."""

    def __init__(self, order: Order, stall_seconds: float) -> None:
        self._order = order
        self._stall_seconds = stall_seconds
        self._cancelled = threading.Event()
        self._socket: socket.socket | None = None

    def abort(self) -> None:
        """Make `read` end soon; it then raises, or returns something that nobody takes."""
        self._cancelled.set()
        if (sock := self._socket) is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already

    def finish(self, source: Source) -> None:
        """Bring all of the object to the partial, and settle unless aborted."""
        moved = self.read(source)
        if not self._cancelled.is_set():
            self._order.settle(moved)

    def read(self, source: Source) -> Moved:
        """Bring all of the object to the partial."""
        order = self._order
        match source:
            case FileSource():
                want = needed(order.want, order.obj.checksums)
                return copy_file(source.open, order.partial, order.meter, self._cancelled, want)
            case ReaderSource():
                return self._library(source)
            case HttpSource():
                place = urlsplit(source.url).hostname or "storage"
                with _network(place):
                    return self._http(source, place)

    def _library(self, source: ReaderSource) -> Moved:
        order = self._order
        digests = Digests(needed(order.want or {"sha256"}, order.obj.checksums))
        done = 0
        with _partial(order.partial, order.obj.size) as descriptor:
            while not self._cancelled.is_set():
                stop = (
                    done + PIECE_BYTES if order.obj.size is None else min(done + PIECE_BYTES, order.obj.size)
                )
                piece = source.read(done, stop) if stop > done else b""
                if not piece:
                    break
                self._write(descriptor, memoryview(piece), done, digests)
                done += len(piece)
        return Moved(done, digests.result())

    def _write(self, descriptor: int, data: memoryview, at: int, digests: Digests) -> None:
        digests.update(data)
        with disk_errors("writing a download", need_bytes=len(data), volume=self._order.partial.parent):
            while data:
                count = os.pwrite(descriptor, data, at)
                data, at = data[count:], at + count
                self._order.meter.add(count)

    def _http(self, source: HttpSource, place: str) -> Moved:
        order = self._order
        connection, target, extra = _connect(source, self._stall_seconds)
        with closing(connection):
            connection.connect()
            self._socket = connection.sock
            # A source that says itself how it wants the bytes encoded (gs://: as stored) is followed.
            headers = {"Accept-Encoding": "identity", **source.headers, **extra}
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            got = {name.lower(): value for name, value in answer.getheaders()}
            if answer.status != http.client.OK:
                raise source.answers.error(answer.status, got, answer.read(_MAX_ERROR_BODY))
            check_pins(source.expect, got, order.obj.path)
            check_encoding(got, order.obj.size, place)
            told = source.answers.checksums(got)
            digests = Digests(needed(order.want or {"sha256"}, {**told, **order.obj.checksums}))
            size = self._body(answer, digests)
            declared = got.get("content-length")
            if declared is not None and size != int(declared):
                raise RetryableError(
                    Reason.STORAGE_UNAVAILABLE, f"{place}: the connection broke after {size} bytes"
                )
        return Moved(size, digests.result(), told)

    def _body(self, answer: http.client.HTTPResponse, digests: Digests) -> int:
        limit = self._order.obj.size
        buffer = memoryview(bytearray(BUFFER_BYTES))
        done = 0
        with _partial(self._order.partial, limit) as descriptor:
            while not self._cancelled.is_set() and (count := answer.readinto(buffer)):
                if limit is not None and done + count > limit:
                    raise RetryableError(
                        Reason.INTEGRITY_MISMATCH,
                        f"{self._order.obj.path} is longer than the {limit} bytes listed",
                    )
                self._write(descriptor, buffer[:count], done, digests)
                done += count
        return done


def check_pins(expect: Mapping[str, str], got: Mapping[str, str], path: str) -> None:
    """Raise RetryableError(SnapshotChanged) unless the answer carries each pinned header as pinned."""
    for name, value in expect.items():
        if got.get(name) != value:
            raise RetryableError(
                Reason.SNAPSHOT_CHANGED, f"{path} is not the version that was listed (its {name} differs)"
            )


def check_encoding(got: Mapping[str, str], size: int | None, place: str) -> None:
    """Refuse a body that was encoded on the way: only bytes as listed may be written."""
    encoding = got.get("content-encoding", "identity").lower()
    stored_so = size is not None and got.get("content-length") == str(size)  # encoded before it was uploaded
    if encoding not in {"", "identity"} and not stored_so:
        raise RetryableError(
            Reason.STORAGE_ERROR,
            f"{place} answered with Content-Encoding {encoding!r} though none was asked for",
        )


def _connect(source: HttpSource, timeout: float) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    parts = urlsplit(source.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    secure = parts.scheme == "https"
    hop = urlsplit(source.proxy) if source.proxy else parts
    host, port = hop.hostname or "", hop.port or (443 if hop.scheme == "https" else 80)
    if not secure:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        extra = _proxy_headers(source.proxy)
        return (connection, source.url, extra) if source.proxy else (connection, target, {})
    connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=source.ssl_context)
    if source.proxy:
        connection.set_tunnel(parts.hostname or "", parts.port or 443, _proxy_headers(source.proxy))
    return connection, target, {}


def _proxy_headers(proxy: str | None) -> dict[str, str]:
    parts = urlsplit(proxy or "")
    if parts.username is None:
        return {}
    import base64  # noqa: PLC0415 - only behind a proxy that wants a password

    userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(userinfo.encode()).decode()}"}


@contextmanager
def _partial(path: Path, size: int | None) -> Iterator[int]:
    with disk_errors("creating a download", volume=path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        if size:
            with disk_errors("reserving room for a download", need_bytes=size, volume=path.parent):
                os.posix_fallocate(descriptor, 0, size)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _network(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        raise network_error(error, place) from error
    except http.client.HTTPException as error:
        raise RetryableError(
            Reason.STORAGE_UNAVAILABLE,
            f"{place}: the answer broke off or is no HTTP ({type(error).__name__})",
        ) from error
    except ValueError as error:
        raise TerminalError(
            Reason.STORAGE_ERROR, f"{place}: the address or a header cannot be sent"
        ) from error
