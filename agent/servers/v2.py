"""What the dialects of the V2 repository protocol share: load and unload, confirmed, every doubt cleared.

The law here: a load is said to be done only when the server itself says READY, and an error is raised
only after a server whose answer got lost was asked again. A dialect says how to read the server, what
its refusals mean, and how it wants the folder.
"""

import abc
import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import ModelName, ModelSpec
from agent.core.reasons import Reason
from agent.core.words import duration
from agent.servers.base import ModelState, ServerGoneError, ServerReading, Traits
from agent.servers.wire import INDEX_LIMIT, Lost, Reply, Unreached, Wire, quoted

_RANK = (ModelState.UNAVAILABLE, ModelState.UNLOADING, ModelState.LOADING, ModelState.READY)
_STATES = {state.name: state for state in ModelState}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds.

    `read` for health, index and readiness; `load` and `unload` for the whole operation; `settle` for a
    server to say what became of a request whose answer was lost.
    """

    read: float = 5.0
    load: float = 600.0
    unload: float = 120.0
    settle: float = 10.0


class V2Server(abc.ABC):
    """A model server that speaks POST /v2/repository/models/<name>/load and /unload."""

    traits: Traits
    title: str
    """What people call this server, for messages."""

    def __init__(self, wire: Wire, patience: Patience | None = None) -> None:
        self._wire = wire
        self._patience = patience or Patience()
        self._present: set[str] | None = None
        """Names that held a model at the last reading and since; None before the first."""
        self._touched: set[str] = set()
        """Names that a load was asked for since the last reading began."""
        self._doubts: set[ModelName] = set()

    async def read(self) -> ServerReading:
        """Ask health and the list of models; see the seam."""
        self._touched.clear()
        try:
            reading = await self._with_doubts(await self._reading())
        except (Unreached, Lost) as error:
            if isinstance(error, Unreached) and error.refused:
                raise ServerGoneError(Reason.SERVER_UNAVAILABLE, f"{self._at}: {error}") from error
            raise self._unavailable(str(error)) from error
        held = {name for name, state in reading.models.items() if state is not ModelState.UNAVAILABLE}
        self._present = held | self._touched
        return reading

    def doubt(self, names: Collection[ModelName]) -> None:
        """Ask about each of *names* until it is asked for; see the seam."""
        self._doubts.update(names)

    async def load(self, name: ModelName) -> None:
        """Load and confirm; see the seam. Once repeated where only a repetition can tell the outcome."""
        deadline = time.monotonic() + self._patience.load
        self._doubts.discard(name)
        before = self._present is None or name in self._present
        self._touched.add(name)
        if self._present is not None:
            self._present.add(name)  # for all we know, until the next reading
        if await self._load_once(name, deadline, before=before, fresh=False):
            return
        if not await self._load_once(name, deadline, before=before, fresh=True):
            raise self._unavailable(f"broke off twice while loading {name}, and nothing tells the outcome")

    async def unload(self, name: ModelName) -> None:
        """Unload and confirm; see the seam."""
        deadline = time.monotonic() + self._patience.unload
        reply = await self._order_unload(name)
        if reply is not None and reply.status >= 300 and not await self._absent(name, reply):
            raise RetryableError(
                Reason.UNLOAD_FAILED,
                f"{self._at} refused to unload {name} ({reply.status}): {reply.words()}",
                retry_after_seconds=reply.retry_after_seconds,
            )
        await self._until_gone(name, deadline)
        self._doubts.discard(name)
        self._touched.discard(name)
        if self._present is not None:
            self._present.discard(name)

    def layout(
        self,
        name: ModelName,  # noqa: ARG002 - the seam's
        spec: ModelSpec,  # noqa: ARG002 - the seam's
        paths: Collection[str],
        read: Callable[[str], bytes],  # noqa: ARG002 - the seam's
    ) -> Mapping[str, str | bytes]:
        """Return every path unchanged."""
        return {path: path for path in paths}

    async def close(self) -> None:
        """Give back connections."""
        await self._wire.close()

    @abc.abstractmethod
    async def _reading(self) -> ServerReading:
        """Take one reading; raises Unreached and Lost."""

    @abc.abstractmethod
    async def _refusal(self, name: ModelName, reply: Reply) -> AgentError:
        """Say what an answer to a load other than 200 means."""

    @abc.abstractmethod
    async def _alive(self) -> bool:
        """Ask whether the server as a whole is fit for work; raises Unreached and Lost."""

    async def _gone(self, name: ModelName) -> bool:
        """Ask whether an unloaded model's memory is free; raises Unreached and Lost."""
        return not await self._is_ready(name)

    async def _with_doubts(self, reading: ServerReading) -> ServerReading:
        """Add what is held and not listed; raises Unreached and Lost."""
        unlisted = [name for name in self._doubts if name not in reading.models]
        held: dict[str, ModelState] = {}
        for name in unlisted:
            if await self._is_ready(name):
                held[name] = ModelState.READY
        return replace(reading, models={**reading.models, **held}) if held else reading

    @property
    def _at(self) -> str:
        return f"{self.title} at {self._wire.where}"

    def _unavailable(self, what: str, retry_after_seconds: float | None = None) -> RetryableError:
        return RetryableError(
            Reason.SERVER_UNAVAILABLE, f"{self._at}: {what}", retry_after_seconds=retry_after_seconds
        )

    async def _order_unload(self, name: ModelName) -> Reply | None:
        """Ask for an unload; None where the answer was lost, which is looked up anyway."""
        path, seconds = _path(name, "unload"), self._patience.unload
        try:
            try:
                return await self._wire.order(path, b"{}", seconds=seconds)
            except Lost as lost:
                return (
                    await self._wire.order(path, b"{}", seconds=seconds, fresh=True) if lost.stale else None
                )
        except Unreached as error:
            raise self._unavailable(str(error)) from error
        except Lost:
            return None

    async def _load_once(self, name: ModelName, deadline: float, *, before: bool, fresh: bool) -> bool:
        """Load; false where the answer was lost and only a second one can tell the outcome.

        An older load of that name may hide it, or the request may have died with its connection.
        """
        seconds = max(1.0, deadline - time.monotonic())
        try:
            reply = await self._wire.order(_path(name, "load"), b"{}", seconds=seconds, fresh=fresh)
        except Unreached as error:
            raise self._unavailable(str(error)) from error
        except Lost as lost:
            return await self._look_up(name, lost, before=before)
        if reply.status in (502, 504):  # a proxy between us speaks; the server may be at work
            doubt = Lost(f"{reply.status}: {reply.words()}", timed_out=reply.status == 504)
            return await self._look_up(name, doubt, before=before)
        if reply.status != 200:
            raise self._common_refusal(reply) or await self._refusal(name, reply)
        await self._until_ready(name, deadline)
        return True

    async def _look_up(self, name: ModelName, lost: Lost, *, before: bool) -> bool:
        """Find out what became of a load whose answer is not known."""
        deadline = time.monotonic() + self._patience.settle
        status = None
        for pause in _pauses():
            status = await self._told(name, f"while loading {name} ({lost})")
            if status == 200 and (not before or not lost.timed_out):
                return not before
            if lost.stale and status not in (200, None):
                return False
            if not lost.timed_out and status not in (200, None):
                raise RetryableError(
                    Reason.SERVER_CRASHED,
                    f"{self._at} broke off while loading {name} ({lost}) and does not hold it now",
                )
            if time.monotonic() + pause > deadline:
                break
            await asyncio.sleep(pause)
        if lost.timed_out:
            raise self._late(name)
        answers = "does not answer since" if status is None else "cannot tell what became of it"
        raise self._unavailable(f"broke off while loading {name} ({lost}) and {answers}")

    def _late(self, name: ModelName) -> RetryableError:
        return RetryableError(
            Reason.LOAD_TIMEOUT,
            f"{self._at} has not made {name} ready within {duration(self._patience.load)};"
            " raise the load time-out if the model needs longer",
        )

    async def _until_ready(self, name: ModelName, deadline: float) -> None:
        """Poll readiness after an accepted load; most servers are ready at the first question.

        A name that is unknown may mean that the server restarted and knows of no load any more: then it is
        waited for no longer than to settle. Silence is no sign: it may be busy with other work.
        """
        doubtful = False
        for pause in _pauses():
            status = await self._told(name, f"after loading {name}")
            if status == 200:
                return
            if status == 404 and not doubtful:
                doubtful, deadline = True, min(deadline, time.monotonic() + self._patience.settle)
            if time.monotonic() + pause > deadline:
                if doubtful:
                    raise self._unavailable(f"took {name} and does not hold it now; it may have restarted")
                raise self._late(name)
            await asyncio.sleep(pause)

    async def _until_gone(self, name: ModelName, deadline: float) -> None:
        for pause in _pauses():
            try:
                if await self._gone(name):
                    return
            except Unreached as error:
                raise self._unavailable(f"went away while unloading {name} ({error})") from error
            except Lost:
                pass
            if time.monotonic() + pause > deadline:
                raise RetryableError(
                    Reason.UNLOAD_FAILED,
                    f"{self._at} still holds {name} {duration(self._patience.unload)} after it was asked to"
                    " unload it; requests in flight may hold it",
                )
            await asyncio.sleep(pause)

    async def _absent(self, name: ModelName, reply: Reply) -> bool:
        """Tell whether a refused unload was refused because there is nothing to unload."""
        if reply.status not in (400, 404):
            return False
        try:
            return await self._gone(name)
        except (Unreached, Lost) as error:
            raise self._unavailable(str(error)) from error

    async def _is_ready(self, name: ModelName) -> bool:
        return await self._readiness(name) == 200

    async def _told(self, name: ModelName, when: str) -> int | None:
        """Return the status of the model's readiness after a load; None for silence, of a busy server too.

        Raises RetryableError(ServerCrashed) where nobody is there, or a relay takes connections for nobody:
        what was published may end the server at its next start, so that is not waited for.
        """
        try:
            status = await self._readiness(name)
        except Unreached as error:
            away: Exception = error
        except Lost as lost:
            if lost.timed_out:
                return None
            away = lost
        else:
            if status != 502:
                return None if status == 504 else status
            away = Lost("502: a gateway finds no server")
        raise RetryableError(Reason.SERVER_CRASHED, f"{self._at} went away {when}: {away}") from away

    async def _readiness(self, name: ModelName) -> int:
        """Return the status that answers for the model's readiness; 404 where the name is unknown."""
        path = f"/v2/models/{quoted(name)}/ready"
        return (await self._wire.get(path, seconds=self._patience.read)).status

    async def _healthy(self) -> bool:
        """Ask `_alive`, where silence is no."""
        try:
            return await self._alive()
        except (Unreached, Lost):
            return False

    async def _ask_index(self) -> Mapping[str, ModelState]:
        """Ask POST /v2/repository/index; raises Lost for an answer that is no list of models."""
        reply = await self._wire.post(
            "/v2/repository/index", b"{}", seconds=self._patience.read, limit=INDEX_LIMIT
        )
        if reply.status != 200:
            raise Lost(f"its index answers {reply.status}: {reply.words()}")
        entries = reply.json()
        if not isinstance(entries, list):
            raise Lost(
                "its index is no list of models" + (", or larger than 16 MiB" if reply.truncated else "")
            )
        return states(entries)

    def _common_refusal(self, reply: Reply) -> AgentError | None:
        """Say what those answers mean that mean the same in every dialect, else None."""
        if reply.status in (408, 409, 425, 429):
            return self._unavailable(f"is busy ({reply.status}): {reply.words()}", reply.retry_after_seconds)
        if reply.status in (401, 403):
            return self._not_supported(reply, "it restricts its repository API; allow it for this agent")
        if reply.status in (405, 501) or reply.route_missing:
            return self._not_supported(reply, "is this the model server, and does it load models on request?")
        if 300 <= reply.status < 400:
            return self._not_supported(reply, "redirects are not followed; give the server's own URL")
        return None

    def _not_supported(self, reply: Reply, advice: str) -> TerminalError:
        return TerminalError(
            Reason.LOAD_NOT_SUPPORTED,
            f"{self._at} takes no loads ({reply.status}: {reply.words()}): {advice}",
        )

    def _rejected(self, name: ModelName, reply: Reply) -> TerminalError:
        return TerminalError(
            Reason.LOAD_REJECTED, f"{self._at} refused {name} ({reply.status}): {reply.words()}"
        )


def states(entries: Collection[object]) -> dict[str, ModelState]:
    """Return each name's best state over its versions; an entry without a state was never loaded."""
    found: dict[str, ModelState] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
            continue
        told = entry.get("state")
        state = _STATES.get(told, ModelState.UNAVAILABLE) if isinstance(told, str) else ModelState.UNAVAILABLE
        known = found.get(name)
        if known is None or _RANK.index(state) > _RANK.index(known):
            found[name] = state
    return found


def _path(name: ModelName, verb: str) -> str:
    return f"/v2/repository/models/{quoted(name)}/{verb}"


def _pauses() -> Iterator[float]:
    """Yield endless pauses between questions: 20 ms, doubling to a second."""
    pause = 0.02
    while True:
        yield pause
        pause = min(1.0, pause * 2)
