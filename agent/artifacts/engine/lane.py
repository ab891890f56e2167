"""A thread that serves many connections: it sleeps in epoll, and reads each into the one same buffer."""

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from agent.artifacts.engine.exchange import Connection, believed, translated
from agent.artifacts.engine.http1 import ProtocolError
from agent.artifacts.engine.pieces import Piece, unwanted
from agent.artifacts.engine.pool import Pool
from agent.artifacts.engine.settings import BUFFER_BYTES, EngineSettings
from agent.artifacts.engine.throttle import Throttle
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason

log = logging.getLogger(__name__)

_READS_A_TURN = 4
_TICK_SECONDS = 0.25


class EpollLane:
    """Serves connections until closed.

    Whatever ends it, nobody who gave it work waits for ever: all of it fails, what is still to come too.
    """

    def __init__(
        self,
        name: str,
        pool: Pool,
        settings: EngineSettings,
        throttle: Throttle | None,
        *,
        clock: Callable[[], float],
        crashed: Callable[[Piece, BaseException], None],
        busy: Callable[[], list[Connection]],
        pick_lane: "Callable[[Piece], EpollLane]",
    ) -> None:
        self._pool, self._settings, self._throttle, self._clock = pool, settings, throttle, clock
        self._crashed, self._all_busy, self._pick_lane = crashed, busy, pick_lane
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._posted: deque[Callable[[], None]] = deque()
        self._connections: dict[int, Connection] = {}
        self._again: dict[Connection, float] = {}  # to be read at this time though epoll may say nothing
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._ticked = 0.0
        self._closing = self._ended = False
        self._posting = threading.Lock()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def load(self) -> int:
        """How many connections it has, with those on their way to it."""
        return len(self._connections) + len(self._posted)

    @property
    def over(self) -> bool:
        """Whether it ended, so that another has to take its place."""
        return self._ended

    def busy(self) -> list[Connection]:
        """Return the connections that are at work. From any thread."""
        return [each for each in list(self._connections.values()) if each.piece is not None]

    def give(self, connection: Connection, piece: Piece) -> None:
        """Start *piece* on *connection*, which may be new here. From any thread."""
        self._post(lambda: self._start(connection, piece))

    def discard(self, connection: Connection) -> None:
        """Close a connection that the pool forgot. From any thread."""
        self._post(lambda: self._close(connection))

    def drop(self, pieces: set[Piece], error: AgentError) -> None:
        """Break off those of *pieces* that are here. From any thread."""
        self._post(lambda: self._drop(pieces, error))

    def close(self) -> None:
        """Close all connections and end. From any thread; does not wait."""
        self._closing = True
        self._post(lambda: None)

    def _post(self, job: Callable[[], None]) -> None:
        with self._posting:
            if not self._ended:
                self._posted.append(job)
                os.eventfd_write(self._wake, 1)
                return
        job()  # nobody is there any more to do it: it fails on the thread of who asks

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:
            log.exception("a thread that moves bytes broke; another takes its place")
            for connection in self._connections.values():
                if connection.piece is not None:
                    self._crashed(connection.piece, error)
        finally:
            self._end()

    def _turn(self) -> None:
        for descriptor, mask in self._epoll.poll(self._timeout()):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
                while self._posted:
                    self._posted.popleft()()
            elif (connection := self._connections.get(descriptor)) is not None:
                self._serve(connection, writable=bool(mask & select.EPOLLOUT))
        now = self._clock()
        for connection in [each for each, due in self._again.items() if due <= now]:
            del self._again[connection]
            self._resume(connection)
        if now - self._ticked >= _TICK_SECONDS:
            self._ticked = now
            self._tick(now)

    def _end(self) -> None:
        self._closing = True
        with self._posting:
            self._ended = True
            os.close(self._wake)
        error = RetryableError(Reason.STORAGE_UNAVAILABLE, "the agent is stopping")
        for connection in list(self._connections.values()):
            self._break(connection, error)
        while self._posted:
            self._posted.popleft()()
        self._epoll.close()

    def _timeout(self) -> float | None:
        if self._again:
            return max(0.0, min(_TICK_SECONDS, min(self._again.values()) - self._clock()))
        if self._pool.busy:
            return _TICK_SECONDS
        return self._settings.idle_seconds if self._connections else None

    def _start(self, connection: Connection, piece: Piece) -> None:
        descriptor = connection.wire.descriptor
        try:
            if self._closing:
                raise RetryableError(Reason.STORAGE_UNAVAILABLE, "the agent is stopping")
            if descriptor not in self._connections:
                self._epoll.register(descriptor, select.EPOLLIN)
                self._connections[descriptor] = connection
        except (OSError, ValueError, AgentError) as error:
            connection.piece = piece
            self._break(connection, error)
        else:
            self._request(connection, piece)

    def _request(self, connection: Connection, piece: Piece) -> None:
        connection.piece = piece
        if not self._pool.wanted(piece):
            self._break(connection, unwanted())
            return
        if piece.stop is not None and (lane := self._pick_lane(piece)).load + 1 < self.load:
            self._let_go(connection)
            lane.give(connection, piece)
            return
        try:
            connection.start(piece, self._clock())
            if connection.wants_to_write:
                self._epoll.modify(connection.wire.descriptor, select.EPOLLIN | select.EPOLLOUT)
        except (OSError, ValueError, AgentError) as error:
            self._break(connection, error)
        except BaseException as error:  # noqa: BLE001 - a bug: its job ends with it, the lane lives on
            self._crashed(piece, error)
            self._break(connection, RetryableError(Reason.INTERNAL_ERROR, type(error).__name__))

    def _serve(self, connection: Connection, *, writable: bool) -> None:
        if connection in self._again:
            return  # it waits for its share of the bandwidth
        try:
            if writable and connection.wants_to_write and connection.flush():
                self._epoll.modify(connection.wire.descriptor, select.EPOLLIN)
            self._read(connection)
        except (OSError, AgentError, ProtocolError, ValueError) as error:
            self._break(connection, error)
        except BaseException as error:  # noqa: BLE001 - a bug: its job ends with it, the lane lives on
            if connection.piece is not None:
                self._crashed(connection.piece, error)
            self._break(connection, RetryableError(Reason.INTERNAL_ERROR, type(error).__name__))

    def _read(self, connection: Connection) -> None:
        wire = connection.wire
        for _ in range(_READS_A_TURN):
            room = self._granted(connection)
            if not room:
                return
            count = wire.read(self._buffer[:room])
            if self._throttle is not None:
                self._throttle.give_back(room - (count or 0))
            if count is None:
                return
            if not count:
                self._closed(connection)
                return
            connection.last_byte = self._clock()
            connection.window_bytes += count
            if not self._received(connection, self._buffer[:count]):
                return
            if count < room and not wire.buffered:
                return
        if wire.buffered:
            self._again[connection] = 0.0

    def _received(self, connection: Connection, data: memoryview) -> bool:
        """Hand over what came, the ends of several answers maybe; false where nothing more comes now."""
        while connection.received(data):
            if not self._over(connection):
                return False
            data = connection.rest
        return True

    def _granted(self, connection: Connection) -> int:
        """Return how much may be read now; 0 where the connection has to wait for it."""
        room = connection.room
        if self._throttle is None:
            return room
        room = self._throttle.take(room)
        if not room:
            self._pause(connection, self._throttle.pause_seconds)
        return room

    def _closed(self, connection: Connection) -> None:
        if connection.piece is None:
            self._forget_idle(connection)
        elif connection.closed():
            self._over(connection)

    def _over(self, connection: Connection) -> bool:
        """An exchange came to its end; true where the answer to the next follows on the connection."""
        piece = connection.piece
        if piece is None:
            return False
        error: AgentError | None = None
        try:
            piece.download.finish(piece)
        except AgentError as trouble:
            error = trouble
        except BaseException as bug:  # noqa: BLE001 - of settling, not of the connection: its job is told
            self._crashed(piece, bug)
        connection.piece = following = None
        if connection.reusable and piece.behind and error is None:
            following = self._pool.go_on(connection, piece)
            if following is not None:
                connection.go_on(following)
                return True
        if connection.reusable and not piece.behind:
            connection.used, connection.midway = True, False
            following = self._pool.next_after(self, connection, piece)
        else:
            self._close(connection)
            self._pool.lost(connection, piece)
            self._ask_again(piece.behind)
        if error is not None:
            self._fail(piece, error)
        if following is None:
            self._pool.pump()
        else:
            self._request(connection, following)
        return False

    def _ask_again(self, pieces: Iterable[Piece]) -> None:
        """Nothing came of *pieces* through no fault of theirs: they are asked for on other connections."""
        for piece in pieces:
            piece.tries -= 1
            self._fail(piece, RetryableError(Reason.STORAGE_UNAVAILABLE, "the connection was given up"))

    def _break(self, connection: Connection, error: Exception) -> None:
        """The exchange failed and the connection is worthless."""
        piece, connection.piece = connection.piece, None
        if piece is None:
            self._forget_idle(connection)
            return
        self._close(connection)
        told = translated(error, connection.route)
        if piece.behind or connection.midway:
            told = believed(told)
        self._pool.lost(connection, piece, told)
        if connection.untouched and isinstance(error, OSError | RetryableError):
            piece.tries -= 1  # it was closed while it was idle: nobody's fault
        self._fail(piece, told)
        self._ask_again(piece.behind)
        self._pool.pump()

    def _fail(self, piece: Piece, error: AgentError) -> None:
        try:
            piece.download.fail(piece, error)
        except BaseException as bug:  # noqa: BLE001 - as above: its job is told, or it would wait for ever
            self._crashed(piece, bug)

    def _forget_idle(self, connection: Connection) -> None:
        """Close an idle connection; one that was just handed out stays for its piece to find it broken."""
        if self._pool.forget(connection):
            self._close(connection)
        else:
            connection.spoiled = True

    def _close(self, connection: Connection) -> None:
        self._let_go(connection)
        connection.wire.close()

    def _let_go(self, connection: Connection) -> None:
        self._again.pop(connection, None)
        descriptor = connection.wire.descriptor
        if self._connections.pop(descriptor, None) is not None:
            with suppress(OSError):  # the kernel forgot it already
                self._epoll.unregister(descriptor)

    def _pause(self, connection: Connection, seconds: float) -> None:
        now = self._clock()
        self._again[connection] = now + seconds
        connection.last_byte = now  # it is we who do not read
        self._epoll.modify(connection.wire.descriptor, 0)

    def _resume(self, connection: Connection) -> None:
        if connection.wire.descriptor in self._connections:
            if self._throttle is not None:
                mask = select.EPOLLIN | (select.EPOLLOUT if connection.wants_to_write else 0)
                self._epoll.modify(connection.wire.descriptor, mask)
            self._serve(connection, writable=False)

    def _drop(self, pieces: set[Piece], error: AgentError) -> None:
        for connection in list(self._connections.values()):
            if connection.piece in pieces:
                self._break(connection, error)

    def _tick(self, now: float) -> None:
        for connection in self.busy():
            words = self._lagging(connection, now)
            if words is not None:
                told = f"{connection.route.place}: {words}"
                self._break(connection, RetryableError(Reason.STORAGE_TIMEOUT, told))
            elif connection.piece is not None:
                connection.piece.download.call_for_help(connection.piece, now)
        for connection in list(self._connections.values()):
            if connection.piece is None and now - connection.last_byte > self._settings.idle_seconds:
                self._forget_idle(connection)
        if self._pool.busy:
            self._pool.pump()

    def _lagging(self, connection: Connection, now: float) -> str | None:
        """Say why a connection is to be given up, None where it is not."""
        settings, piece, silent = self._settings, connection.piece, now - connection.last_byte
        if silent > settings.stall_seconds:
            return f"nothing came for {silent:.0f} s"
        if piece is None:
            return None
        if silent > settings.hedge_seconds and connection.midway and connection.untouched:
            return f"nothing came for {silent:.0f} s behind an answer"
        if silent > settings.hedge_seconds and not piece.hedged and piece.download.last(piece):
            piece.hedged = True
            piece.tries -= 1  # not a failure yet: only that another connection may be luckier
            return f"nothing came for {silent:.0f} s, and all else is done"
        if now - connection.window_began > settings.slow_seconds:
            if self._too_slow(connection):
                return f"less than {settings.min_rate} bytes/s for {settings.slow_seconds:.0f} s"
            connection.window_began, connection.window_bytes = now, 0
        return None

    def _too_slow(self, connection: Connection) -> bool:
        """Slow by itself, and not just because many share one line, those of other lanes too."""
        floor = self._settings.min_rate
        if self._throttle is not None:
            floor = min(
                floor, (self._settings.bandwidth_limit or floor) // (2 * self._settings.max_connections)
            )
        seconds = self._settings.slow_seconds
        if connection.window_bytes >= floor * seconds:
            return False
        peers = [
            each.window_bytes
            for each in self._all_busy()
            if each.route == connection.route and each is not connection
        ]
        return sum(peers) + connection.window_bytes < floor * seconds or (
            bool(peers) and connection.window_bytes < sum(peers) / len(peers) / 8
        )
