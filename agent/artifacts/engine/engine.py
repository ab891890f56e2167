"""The engine: a few threads, one pool of connections, and the crews that use them (design §6, §8.15).

Every HTTP-shaped source is read over ranges into preallocated files; files of this machine and objects
that only a library can read go their own way, with the same checks behind.
"""

import threading
import time
from collections.abc import Sequence

from agent.artifacts.engine.crew import OrderCrew, Tools
from agent.artifacts.engine.dial import dial
from agent.artifacts.engine.exchange import Connection
from agent.artifacts.engine.hosts import Hosts
from agent.artifacts.engine.journal import boot_id
from agent.artifacts.engine.lane import EpollLane
from agent.artifacts.engine.local import LocalMoves
from agent.artifacts.engine.pieces import Piece, unwanted
from agent.artifacts.engine.pool import Job, Pool
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.engine.throttle import Throttle
from agent.artifacts.engine.writeback import cacheable_bytes
from agent.artifacts.orders import Order
from agent.artifacts.retries import first_error
from agent.artifacts.threads import Threads
from agent.storage.addresses import AddressPolicy, permit_all


class Engine:
    """Moves the bytes of objects to disk; see `Mover`. Threads begin with the first object.

    `policy` refuses addresses to connect to; `boot` names this boot of the machine, found out if not given.
    """

    def __init__(
        self,
        settings: EngineSettings | None = None,
        *,
        policy: AddressPolicy = permit_all,
        boot: str | None = None,
    ) -> None:
        self._settings = settings or EngineSettings()
        self._threads = Threads("engine")
        hosts = Hosts()
        limit = self._settings.bandwidth_limit
        self._throttle = Throttle(limit, time.monotonic) if limit else None
        self._lanes: list[EpollLane] = []
        self._lock = threading.Lock()
        self._closed = False
        self._crews: dict[Job, OrderCrew] = {}
        self._pool = Pool(
            self._settings,
            start_thread=self._threads.start,
            pick_lane=self._lane,
            connect=lambda route: dial(route, policy, hosts.addresses),
            crashed=self._crashed,
            clock=time.monotonic,
        )
        self._local = LocalMoves(self._threads, self._throttle, self._settings.library_seconds)
        self._tools = Tools(
            pool=self._pool,
            threads=self._threads,
            break_off=self._break_off,
            move_locally=self._local.move,
            boot=boot or boot_id(),
            keep_cached=self._keep_cached,
            clock=time.monotonic,
        )

    @property
    def hanging(self) -> int:
        """How many threads are in a call that nobody waits for any more (fault S21)."""
        return self._threads.hanging

    async def move(self, orders: Sequence[Order]) -> None:
        """Carry out all *orders*; see `Mover`."""
        if not orders:
            return
        crew = OrderCrew(orders, self._tools)
        self._crews[crew.job] = crew
        try:
            await crew.run()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            del self._crews[crew.job]

    def close(self) -> None:
        """Stop everything; what is on its way fails."""
        with self._lock:
            self._closed = True
            for lane in self._lanes:
                lane.close()
        self._threads.close()

    def _lane(self, piece: Piece) -> EpollLane:
        """Return the lane for *piece*: the one with the fewest connections, a new one while there are few.

        What comes whole is mostly small, and costs Python more than it costs the kernel: on two lanes it
        takes a third longer than on one, as they only wait for each other. It stays on the first.
        """
        with self._lock:
            alive = [lane for lane in self._lanes if not lane.over]
            if not self._closed:
                self._lanes = alive
            if alive and piece.stop is None:
                return alive[0]
            idle = [lane for lane in alive if not lane.load]
            if not idle and len(alive) < self._settings.lanes and not self._closed:
                name = f"engine-lane-{len(self._lanes)}"
                lane = EpollLane(
                    name,
                    self._pool,
                    self._settings,
                    self._throttle,
                    clock=time.monotonic,
                    crashed=self._crashed,
                    busy=self._busy,
                    pick_lane=self._lane,
                )
                self._lanes.append(lane)
                return lane
            return min(self._lanes, key=lambda each: each.load)

    def _busy(self) -> list[Connection]:
        return [connection for lane in list(self._lanes) for connection in lane.busy()]

    def _keep_cached(self) -> bool:
        """Whether all that is being moved may stay in memory, for the server to read it from there."""
        return sum(crew.total_bytes for crew in list(self._crews.values())) <= cacheable_bytes()

    def _break_off(self, job: Job) -> None:
        pieces = self._pool.pieces_of(job)
        for lane in list(self._lanes):
            lane.drop(pieces, unwanted())

    def _crashed(self, piece: Piece, error: BaseException) -> None:
        """A bug: whoever waits for *piece* is told, as nobody else will."""
        for crew in list(self._crews.values()):
            if crew.moves(piece.download):
                crew.failed(error)
