"""Who uses which connection: one pool for all models, shared fairly, backing off an origin together.

A model (a `Job`) uses at most half of the connections, and the one that uses fewest is served first.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from agent.artifacts.engine.dial import Route
from agent.artifacts.engine.exchange import Connection
from agent.artifacts.engine.patience import throttled_seconds
from agent.artifacts.engine.pieces import Download, Piece
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.engine.wire import Wire
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason

_GOOD_IN_A_ROW = 16  # so many answers let an origin that was throttled have one connection more


class Lane(Protocol):
    """A thread that serves connections."""

    @property
    def load(self) -> int:
        """How many connections it has."""
        ...

    def give(self, connection: Connection, piece: Piece) -> None:
        """Start *piece* on *connection*, which may be new here. From any thread."""
        ...

    def discard(self, connection: Connection) -> None:
        """Close an idle connection. From any thread."""
        ...


@dataclass(eq=False, slots=True)
class Job:
    """What one model wants: downloads by route in their order. Changed under the pool's lock only."""

    ready: dict[Route, dict[Download, None]] = field(default_factory=dict)
    active: int = 0
    dialing: int = 0
    over: bool = False
    idle: Callable[[], None] = lambda: None

    @property
    def writing(self) -> int:
        """How many of its connections may be writing to its files."""
        return self.active - self.dialing


@dataclass(eq=False, slots=True)
class _Origin:
    limit: int
    busy: int = 0
    idle: list[tuple[Lane, Connection]] = field(default_factory=list)
    shut_until: float = 0.0
    refusals: int = 0
    good: int = 0


class Pool:
    """The connections of the engine; safe from any thread."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        start_thread: Callable[[Callable[[], None]], None],
        pick_lane: Callable[[], Lane],
        connect: Callable[[Route], Wire],
        clock: Callable[[], float],
    ) -> None:
        self._connect = connect
        self._settings, self._start_thread, self._pick_lane, self._clock = (
            settings,
            start_thread,
            pick_lane,
            clock,
        )
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._origins: dict[Route, _Origin] = {}
        self._open = 0
        self._owner: dict[Piece, Job] = {}

    @property
    def busy(self) -> bool:
        """Whether any job is there."""
        return bool(self._jobs)

    def add(self, job: Job) -> None:
        """A job begins."""
        with self._lock:
            self._jobs.append(job)

    def remove(self, job: Job) -> None:
        """A job is over: nothing of it is started any more."""
        with self._lock:
            job.over = True
            job.ready.clear()
            if job in self._jobs:
                self._jobs.remove(job)

    def offer(self, job: Job, route: Route, download: Download) -> None:
        """*download* may have pieces to take. Follow with `pump`."""
        with self._lock:
            if job.over:
                return
            job.ready.setdefault(route, {})[download] = None

    def pump(self) -> None:
        """Start all that may be started now."""
        dials: list[tuple[Route, Piece]] = []
        starts: list[tuple[Lane, Connection, Piece]] = []
        evicted: list[tuple[Lane, Connection]] = []
        with self._lock:
            now = self._clock()
            for route in {route for job in self._jobs for route, queue in job.ready.items() if queue}:
                origin = self._origin(route)
                while self._may_serve(origin, now) and (piece := self._take(route, now)) is not None:
                    origin.busy += 1
                    if origin.idle:
                        starts.append((*origin.idle.pop(), piece))
                        continue
                    if self._open >= self._settings.max_connections:
                        evicted.append(self._evict())
                    self._open += 1
                    self._owner[piece].dialing += 1
                    dials.append((route, piece))
        for lane, connection in evicted:
            lane.discard(connection)
        for lane, connection, piece in starts:
            lane.give(connection, piece)
        for route, piece in dials:
            self._start_thread(lambda route=route, piece=piece: self._dial(route, piece))  # type: ignore[misc]

    def saturated(self, job: Job) -> bool:
        """Whether *job* has all the connections it may have, so that `pump` is no use. A glance, no lock."""
        return job.active >= self._settings.connections_per_model

    def wanted(self, piece: Piece) -> bool:
        """Whether the job of *piece* still wants it."""
        with self._lock:
            return not self._owner[piece].over

    def owner_of(self, piece: Piece) -> Job | None:
        """Return the job that *piece* is under way for."""
        with self._lock:
            return self._owner.get(piece)

    def pieces_of(self, job: Job) -> set[Piece]:
        """Return what is under way for *job*."""
        with self._lock:
            return {piece for piece, owner in self._owner.items() if owner is job}

    def next_after(self, lane: Lane, connection: Connection, piece: Piece) -> Piece | None:
        """*piece* is over and *connection* is good: return what it does next, None to keep it idle."""
        with self._lock:
            now = self._clock()
            origin = self._origin(connection.route)
            origin.busy -= 1
            self._leave(piece)
            origin.refusals = 0
            origin.good += 1
            if origin.good % _GOOD_IN_A_ROW == 0:
                origin.limit = min(origin.limit + 1, self._settings.max_connections)
            if now >= origin.shut_until and origin.busy < origin.limit:
                following = self._take(connection.route, now)
                if following is not None:
                    origin.busy += 1
                    return following
            origin.idle.append((lane, connection))
            return None

    def lost(self, connection: Connection, piece: Piece | None, error: AgentError | None = None) -> None:
        """*connection* is closed, with the *piece* it worked on or while it was idle."""
        with self._lock:
            origin = self._origin(connection.route)
            self._open -= 1
            if piece is not None:
                origin.busy -= 1
                self._leave(piece)
            else:
                origin.idle = [each for each in origin.idle if each[1] is not connection]
            self._back_off(origin, error)

    def _dial(self, route: Route, piece: Piece) -> None:
        """Connect for *piece*, which writes nothing meanwhile: its job need not wait for this to end."""
        failure: AgentError | None = None
        wire: Wire | None = None
        try:
            wire = self._connect(route)
        except AgentError as error:
            failure = error
        with self._lock:
            job = self._owner[piece]
            job.dialing -= 1
            over = job.over
            if wire is None or over:
                self._open -= 1
                self._origin(route).busy -= 1
                self._leave(piece)
        if wire is not None and not over:
            self._pick_lane().give(Connection(wire, route, self._clock()), piece)
            return
        if wire is not None:
            wire.close()
        if failure is not None and not over:
            piece.download.fail(piece, failure)
        self.pump()

    def _back_off(self, origin: _Origin, error: AgentError | None) -> None:
        if isinstance(error, RetryableError) and error.reason is Reason.STORAGE_THROTTLED:
            origin.refusals += 1
            origin.limit = max(1, min(origin.limit, origin.busy + 1) // 2)
            wait = throttled_seconds(error, origin.refusals)
            origin.shut_until = max(origin.shut_until, self._clock() + wait)

    def _origin(self, route: Route) -> _Origin:
        origin = self._origins.get(route)
        if origin is None:
            if len(self._origins) > 256:  # forget those that nobody uses
                kept = {key: each for key, each in self._origins.items() if each.busy or each.idle}
                self._origins = kept
            origin = self._origins[route] = _Origin(self._settings.max_connections)
        return origin

    def _may_serve(self, origin: _Origin, now: float) -> bool:
        if now < origin.shut_until or origin.busy >= origin.limit:
            return False
        if origin.idle or self._open < self._settings.max_connections:
            return True
        return any(each.idle for each in self._origins.values())

    def _evict(self) -> tuple[Lane, Connection]:
        idle = next(each.idle for each in self._origins.values() if each.idle)
        self._open -= 1
        return idle.pop(0)

    def _take(self, route: Route, now: float) -> Piece | None:
        most = self._settings.connections_per_model
        jobs = self._jobs if len(self._jobs) == 1 else sorted(self._jobs, key=lambda job: job.active)
        for job in jobs:
            queue = job.ready.get(route)
            while queue and job.active < most:
                download = next(iter(queue))
                piece = download.take(most, now)
                if piece is not None:
                    job.active += 1
                    self._owner[piece] = job
                    return piece
                del queue[download]
        return None

    def _leave(self, piece: Piece) -> None:
        job = self._owner.pop(piece)
        job.active -= 1
        if job.over and not job.writing:
            job.idle()
