"""`/status?wait=<digest>`: answered once the document of that digest was dealt with, or the time is over.

The digest is the sha256 of the bytes of models.json, as `config.digest` shows it. Dealt with means: it
was refused, or it is in force and no model of it is on its way: each is ready, failed, or short of memory.
"""

import asyncio
import re
from collections.abc import Callable

from aiohttp import web

from agent.core.status import ModelStatus, Phase
from agent.telemetry.board import Board
from agent.web.journal import Journal

MOST_WAITING = 100
LONGEST_SECONDS = 300.0
DEFAULT_SECONDS = 30.0
LOOK_SECONDS = 0.2  # between two looks at all models
THERE_SECONDS = 2.0  # between two looks whether who asked is still there
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,3}")


class Waiting:
    """Who waits for a document; `count` says how many do."""

    def __init__(self, board: Board, journal: Journal) -> None:
        self._board, self._journal = board, journal
        self.count = 0
        self._bell = asyncio.Event()
        board.watch(lambda *_: self._ring())
        board.watch_head(self._ring)

    async def wait(self, digest: str, seconds: float, there: Callable[[], bool] = lambda: True) -> bool:
        """Wait until the document of *digest* was dealt with, at most *seconds*; whether it was.

        It ends soon after *there* has said that nobody listens any more.
        """
        if self.count >= MOST_WAITING:
            raise web.HTTPServiceUnavailable(
                text=f"{MOST_WAITING} wait already", headers={"Retry-After": "30"}
            )
        self.count += 1
        try:
            async with asyncio.timeout(seconds):
                while not (done := dealt_with(self._board, digest)) and not self._journal.closed and there():
                    await self._rung()
                return done
        except TimeoutError:
            return dealt_with(self._board, digest)
        finally:
            self.count -= 1

    def let_go(self) -> None:
        """Have everybody look again; who has closed the journal before lets them go."""
        self._ring()

    async def _rung(self) -> None:
        bell = self._bell
        try:
            async with asyncio.timeout(THERE_SECONDS):
                await bell.wait()
        except TimeoutError:
            return
        await asyncio.sleep(LOOK_SECONDS)

    def _ring(self) -> None:
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()


def dealt_with(board: Board, digest: str) -> bool:
    """Tell whether the document of *digest* was refused, or leads nowhere further by itself."""
    config = board.config
    if config.digest != digest:
        return False
    if config.error is not None:
        return True
    return config.planned_digest == digest and all(map(_rests, board.models.values()))


def _rests(status: ModelStatus) -> bool:
    return status.reason is None or status.phase is Phase.FAILED or status.shortage is not None


def asked(request: web.Request) -> tuple[str, float] | None:
    """Return the digest and the seconds that a request asks for, None where it asks for none."""
    digest = request.query.get("wait")
    seconds = request.query.get("timeout")
    if seconds is not None and (_NUMBER.fullmatch(seconds) is None or float(seconds) > LONGEST_SECONDS):
        raise web.HTTPBadRequest(text=f"timeout must be whole seconds, at most {LONGEST_SECONDS:g}")
    if digest is None:
        return None
    if _DIGEST.fullmatch(digest) is None:
        raise web.HTTPBadRequest(text="wait must be the sha256 of models.json, 64 lower-case hex digits")
    return digest, float(seconds) if seconds is not None else DEFAULT_SECONDS
