"""Who uses which connection: one pool for all models, shared fairly, backing off an origin together.

A model (a `Job`) uses at most half of the connections, one of two a third, and so on: there is always
a share free for the next to come, whatever the others' parts take. Who uses fewest is served first.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from agent.artifacts.engine.dial import Route
from agent.artifacts.engine.exchange import Connection
from agent.artifacts.engine.patience import LONGEST_WAIT_SECONDS, throttled_seconds
from agent.artifacts.engine.pieces import Download, Piece, unwanted
from agent.artifacts.engine.settings import MOST_TOGETHER, EngineSettings
from agent.artifacts.engine.wire import Wire
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason


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
    fail: Callable[[AgentError], None] = lambda _: None

    @property
    def writing(self) -> int:
        """How many of its connections may be writing to its files."""
        return self.active - self.dialing


_PROOF = 16
"""One more request is sent ahead after so many answers, twice as many for each time that it went wrong."""


@dataclass(eq=False, slots=True)
class _Origin:
    limit: int
    busy: int = 0
    idle: list[tuple[Lane, Connection]] = field(default_factory=list)
    shut_until: float = 0.0
    refusals: int = 0
    refused_at: float = -1.0
    good: int = 0
    in_order: int = 0
    proof: int = _PROOF
    doubted_at: float = -1.0

    @property
    def together(self) -> int:
        """How many small objects are asked for at once on a connection: ever more where that goes well."""
        return min(MOST_TOGETHER, 1 + self.in_order // self.proof)


class Pool:
    """The connections of the engine; safe from any thread."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        start_thread: Callable[[Callable[[], None]], None],
        pick_lane: Callable[[Piece], Lane],
        connect: Callable[[Route], Wire],
        crashed: Callable[[Piece, BaseException], None],
        clock: Callable[[], float],
    ) -> None:
        self._connect, self._crashed = connect, crashed
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
        hopeless: list[tuple[Job, AgentError]] = []
        with self._lock:
            now = self._clock()
            for route in {route for job in self._jobs for route, queue in job.ready.items() if queue}:
                origin = self._origin(route)
                hopeless += self._hopeless(route, origin.shut_until - now)
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
        for job, told in hopeless:
            job.fail(told)
        for lane, connection in evicted:
            lane.discard(connection)
        for lane, connection, piece in starts:
            lane.give(connection, piece)
        for route, piece in dials:
            try:
                self._start_thread(partial(self._dial, route, piece))
            except AgentError as error:
                self._undialed(route, piece, error)

    def _hopeless(self, route: Route, shut_seconds: float) -> list[tuple[Job, AgentError]]:
        """Return who would wait in silence for longer than anybody should, and what to tell them."""
        if shut_seconds <= LONGEST_WAIT_SECONDS:
            return []
        message = f"{route.place} asks to be left alone for {shut_seconds:.0f} s more"
        told = RetryableError(Reason.STORAGE_THROTTLED, message, retry_after_seconds=shut_seconds)
        return [(job, told) for job in self._jobs if job.ready.get(route)]

    def saturated(self, job: Job) -> bool:
        """Whether *job* has all the connections it may have, so that `pump` is no use. A glance, no lock."""
        return job.active >= self._most()

    def wanted(self, piece: Piece) -> bool:
        """Whether the job of *piece* still wants it."""
        with self._lock:
            return not self._owner[piece].over

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
            self._answered(origin)
            if now >= origin.shut_until and origin.busy < origin.limit:
                following = self._take(connection.route, now)
                if following is not None:
                    origin.busy += 1
                    following.behind = self._behind(following, connection.route, origin.together, now)
                    return following
            origin.idle.append((lane, connection))
            return None

    def go_on(self, connection: Connection, piece: Piece) -> Piece | None:
        """*piece* is over: return the one behind it, whose answer follows; None where it is unwanted."""
        following, *behind = piece.behind
        with self._lock:
            if self._owner[piece].over:
                return None
            self._answered(self._origin(connection.route))
            self._owner[following] = self._owner.pop(piece)
            following.behind = tuple(behind)
            return following

    def lost(self, connection: Connection, piece: Piece, error: AgentError | None = None) -> None:
        """*connection* is closed, with the *piece* it worked on."""
        with self._lock:
            origin = self._origin(connection.route)
            together = piece.behind or connection.midway
            if error is not None and together and not self._owner[piece].over:
                origin.in_order = 0
                if connection.asked_at >= origin.doubted_at:  # what was asked before is the same failure
                    origin.doubted_at, origin.proof = self._clock(), origin.proof * 2
            self._open -= 1
            origin.busy -= 1
            self._leave(piece)
            self._back_off(origin, connection.asked_at, error)

    def forget(self, connection: Connection) -> bool:
        """*connection* is to be closed for being idle; false where it was handed out meanwhile."""
        with self._lock:
            origin = self._origin(connection.route)
            kept = [each for each in origin.idle if each[1] is not connection]
            idle = len(kept) < len(origin.idle)
            if idle:
                origin.idle = kept
                self._open -= 1
            return idle

    def _dial(self, route: Route, piece: Piece) -> None:
        """Connect for *piece*, which writes nothing meanwhile: its job need not wait for this to end."""
        try:
            wire = self._connect(route)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the piece must not wait for ever
            self._undialed(route, piece, error)
            self.pump()
            return
        with self._lock:
            job = self._owner[piece]
            over = job.over
            if not over:
                job.dialing -= 1
        if over:
            wire.close()
            self._undialed(route, piece, None)
            self.pump()
        else:
            self._pick_lane(piece).give(Connection(wire, route, self._clock()), piece)

    def _undialed(self, route: Route, piece: Piece, error: BaseException | None) -> None:
        """There is no connection for *piece* after all."""
        with self._lock:
            job = self._owner[piece]
            job.dialing -= 1
            self._open -= 1
            self._origin(route).busy -= 1
            self._leave(piece)
        try:
            if error is None or isinstance(error, AgentError):
                piece.download.fail(piece, error or unwanted())
            else:
                self._crashed(piece, error)
        except BaseException as bug:  # noqa: BLE001 - `fail` never raises; if it does, its job is told
            self._crashed(piece, bug)

    def _answered(self, origin: _Origin) -> None:
        origin.refusals = 0
        origin.in_order += 1
        origin.good += 1
        if origin.good >= origin.limit:  # about one more each time that all of them were answered
            origin.good = 0
            origin.limit = min(origin.limit + 1, self._settings.max_connections)

    def _behind(self, first: Piece, route: Route, together: int, now: float) -> tuple[Piece, ...]:
        """Return what to ask for right behind *first* (RFC 9112 §9.3.2), of the same job.

        No two answers on their way may look alike: one in another's place would not be seen.
        """
        signs = first.download.signs
        if signs is None or together < 2 or (route.proxy and not route.secure):
            return ()
        queue = self._owner[first].ready.get(route, {})
        queue.pop(first.download, None)  # what has signs comes in one piece
        behind: list[Piece] = []
        expected = {signs}
        while queue and len(expected) < together:
            download = next(iter(queue))
            signs = download.signs
            if signs is None or signs in expected:
                break
            del queue[download]
            piece = download.take(1, now)
            if piece is not None:
                expected.add(signs)
                behind.append(piece)
        return tuple(behind)

    def _back_off(self, origin: _Origin, asked_at: float, error: AgentError | None) -> None:
        """Leave the origin alone for a while. All that was asked before it first refused is one refusal."""
        if not isinstance(error, RetryableError) or error.reason is not Reason.STORAGE_THROTTLED:
            return
        now = self._clock()
        if asked_at >= origin.refused_at:
            origin.refusals += 1
            origin.refused_at, origin.good = now, 0
            origin.limit = max(1, min(origin.limit, origin.busy + 1) // 2)
        wait = throttled_seconds(error, origin.refusals)
        origin.shut_until = max(origin.shut_until, now + wait)

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

    def _most(self) -> int:
        """Return how many connections one job may have, with as many as are at work now."""
        at_work = 1 if len(self._jobs) < 2 else sum(1 for job in self._jobs if job.active or job.ready)
        return max(1, (self._settings.max_connections + 1) // (max(1, at_work) + 1))

    def _take(self, route: Route, now: float) -> Piece | None:
        most = self._most()
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
