"""From the mounted document to what is wanted: a bad document changes nothing, and says so (law 2)."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from agent.core.errors import AgentError
from agent.core.model import DesiredState
from agent.core.modelconfig import ConfigError, desired_state, to_document
from agent.core.reasons import Reason
from agent.telemetry.board import Board
from agent.watch import Document, Unreadable

log = logging.getLogger("agent.config")

MOST_IGNORED = 100  # so many keys are told of at most


class Source(Protocol):
    """Where the document is."""

    def read(self) -> Document | Unreadable:
        """Return the document as it is now, or why there is none."""
        ...


class Shelf(Protocol):
    """Where the document that was accepted last is kept. Both block, and raise AgentError."""

    def accepted_document(self) -> bytes | None:
        """Return what was kept last, None if nothing was."""
        ...

    def remember_document(self, raw: bytes) -> None:
        """Keep this one in place of what was kept before."""
        ...


@dataclass(frozen=True, slots=True)
class DocumentRules:
    """What the operator decided of documents. `max_removal` is None where any number may go at once."""

    default_memory_bytes: int = 0
    max_removal: int | None = None


class ConfigKeeper:
    """Keeps what is wanted equal to the last document that was good.

    What was accepted is stored, so that an agent that starts over a refused document goes on with it.
    `desired` is None until any document was accepted, in this life or the one before. A disk that cannot
    keep it holds nothing up: that is told once, and tried again at each look.
    """

    def __init__(self, source: Source, shelf: Shelf, board: Board, rules: DocumentRules) -> None:
        self.desired: DesiredState | None = None
        self._source, self._shelf, self._board, self._rules = source, shelf, board, rules
        self._to_keep: DesiredState | None = None
        self._said_unkept: Reason | None = None
        self._said_ignored: set[str] = set()

    def recall(self) -> DesiredState | None:
        """Return what was accepted last before this start; blocks briefly."""
        try:
            raw = self._shelf.accepted_document()
        except AgentError as error:
            fields = {"reason": error.reason, "message_": error.message}
            log.warning("the last accepted document cannot be read; going on without", extra=fields)
            return None
        if raw is None:
            return None
        try:
            return desired_state(raw, None, default_memory_bytes=self._rules.default_memory_bytes)
        except ConfigError:  # a later release may refuse what an earlier one stored
            log.warning("the stored copy of the last accepted document cannot be read; going on without")
            return None

    async def look(self, want: Callable[[DesiredState], None]) -> None:
        """Read the document once more and call *want* if something else is wanted now."""
        await self._read(want)
        await self._keep()

    async def _read(self, want: Callable[[DesiredState], None]) -> None:
        found = await asyncio.to_thread(self._source.read)
        if isinstance(found, Unreadable):
            self._refuse(found.reason, found.message, None)
            return
        if found.digest == self._board.config.digest:
            return
        try:
            desired = await asyncio.to_thread(self._parse, found.raw)
        except ConfigError as error:
            self._refuse(error.reason, error.message, found.digest)
            return
        before = self.desired
        self._accept(desired)
        want(desired)
        if before is None or desired.models != before.models:
            # Kept after it is acted on: that waits for the disk, and a start in between reads the mount.
            self._to_keep = desired

    async def _keep(self) -> None:
        wanted = self._to_keep
        if wanted is None:
            return
        try:
            await asyncio.to_thread(self._shelf.remember_document, to_document(wanted.models))
        except AgentError as error:
            if error.reason is not self._said_unkept:
                self._said_unkept = error.reason
                fields = {"reason": error.reason, "message_": error.message}
                log.warning(
                    "the document is in force, but cannot be kept for the next start; trying again",
                    extra=fields,
                )
            return
        self._to_keep = None
        if self._said_unkept is not None:
            self._said_unkept = None
            log.info("the document in force is kept for the next start again")

    def start_from(self, desired: DesiredState) -> None:
        """Go on with what was accepted before this start, until a good document is there."""
        self.desired = desired

    def _parse(self, raw: bytes) -> DesiredState:
        rules = self._rules
        return desired_state(
            raw,
            self.desired,
            default_memory_bytes=rules.default_memory_bytes,
            max_removal=rules.max_removal,
        )

    def _accept(self, desired: DesiredState) -> None:
        before = self.desired.models.keys() if self.desired is not None else frozenset()
        self.desired = desired
        fields = {
            "digest": (desired.digest or "")[:12],
            "models": len(desired.models),
            "added": len(desired.models.keys() - before),
            "removed": len(before - desired.models.keys()),
        }
        log.info("the document is in force", extra=fields)
        if before and not desired.models:
            log.warning(
                "the document wants no model any more: all are unloaded", extra={"models": len(before)}
            )
        self._tell_ignored(desired)
        for entry in desired.rejected:
            extra = {"model": entry.name, "reason": entry.reason, "message_": entry.message}
            log.warning("an entry of the document is rejected", extra=extra)
        self._board.say(
            config=replace(
                self._board.config,
                digest=desired.digest,
                applied_digest=desired.digest,
                accepted=desired.accepted,
                rejected=desired.rejected,
                error=None,
            )
        )

    def _tell_ignored(self, desired: DesiredState) -> None:
        """Name keys that nobody reads, each once: a slip of the pen, or of a later release (fault C12)."""
        news = [key for key in desired.ignored_keys if key not in self._said_ignored]
        if news and len(self._said_ignored) < MOST_IGNORED:
            self._said_ignored.update(news)
            log.warning("the document has keys that nobody reads", extra={"keys": ", ".join(news)})

    def _refuse(self, reason: Reason, message: str, digest: str | None) -> None:
        word = replace(self._board.config, digest=digest, error=(reason, message))
        if word.error != self._board.config.error or word.digest != self._board.config.digest:
            keeps = "what was accepted last stays" if self.desired is not None else "nothing is wanted yet"
            log.warning("the document is refused; %s", keeps, extra={"reason": reason, "message_": message})
        self._board.say(config=word)
