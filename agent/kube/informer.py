"""A local copy of all objects of a kind, kept by listing once and watching from there.

Level, not edge: `changed` tells that an object is other than it was, and whoever is told reads the copy.
What was missed while a watch was down shows in the difference of the next list, deletions too.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping

from agent.core.errors import AgentError
from agent.kube.client import ApiClient, ApiExpiredError, ApiNotFoundError
from agent.kube.resources import Key, Object, Resource, is_older, key_of, version_of

log = logging.getLogger("agent.kube")

WATCH_SECONDS = 280.0
"""A watch is ended by the server and begun again after this long, and a bit less at random."""

SILENCE_SECONDS = 90.0
"""Bookmarks come every minute; a watch without a byte for this long is taken for dead."""

ABSENT_SECONDS = 30.0
"""A kind that is not installed is looked for again after this long."""

_SHORT_WATCH_SECONDS = 1.0
_TOMBSTONES = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


def unchanged(obj: Object) -> Object:
    """Keep the whole object."""
    return obj


class Informer:
    """The copy. `synced` is set after the first list.

    With *optional* a kind that the server never knew counts as one without objects, and `present` is
    false meanwhile. Any other 404 changes nothing: what was read last stays.

    *changed* is called with the object before and after, None where there is none. *keep* makes the copy
    of an object smaller. *silence_seconds* and *pause_seconds* are for tests.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        changed: Callable[[Object | None, Object | None], None],
        *,
        selector: str | None = None,
        keep: Callable[[Object], Object] = unchanged,
        optional: bool = False,
        silence_seconds: float = SILENCE_SECONDS,
        pause_seconds: float = _FIRST_PAUSE,
    ) -> None:
        self.resource = resource
        self.present = True
        self.synced = asyncio.Event()
        self.lists = 0
        self._client = client
        self._changed = changed
        self._selector = selector
        self._keep = keep
        self._optional = optional
        self._silence_seconds = silence_seconds
        self._first_pause = pause_seconds
        self._objects: dict[Key, Object] = {}
        self._gone: dict[Key, Object] = {}

    def get(self, key: Key) -> Object | None:
        """Return the newest version known of one object."""
        return self._objects.get(key)

    def __iter__(self) -> Iterator[Object]:
        return iter(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def note(self, obj: Object) -> None:
        """Take in what a write of our own answered, so that no older reading makes us write again."""
        gone = self._gone.get(key_of(obj))
        if gone is None or not is_older(obj, gone):
            self._put(obj)

    async def run(self) -> None:
        """Keep the copy; never returns."""
        pause = self._first_pause
        while True:
            try:
                version = await self._list()
                pause = self._first_pause
                await self._watch(version)
            except ApiExpiredError:
                continue  # the list that follows is bounded by the server's own rate
            except AgentError as error:
                if isinstance(error, ApiNotFoundError) and self._optional and self.lists == 0:
                    self.present = False
                    self.synced.set()
                    await asyncio.sleep(ABSENT_SECONDS)
                    continue
                log.warning(
                    "cannot read the cluster; what was read last stays, trying again",
                    extra={
                        "resource": self.resource.plural,
                        "reason": error.reason,
                        "error_message": error.message,
                    },
                )
                await asyncio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 - jitter
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _list(self) -> str:
        objects, version = await self._client.list(self.resource, self._selector)
        self.lists += 1
        self.present = True
        found = {key_of(obj): obj for obj in objects}
        for key in [key for key in self._objects if key not in found]:
            self._changed(self._objects.pop(key), None)
        for obj in found.values():
            self._put(obj)
        self.synced.set()
        return version

    async def _watch(self, version: str) -> None:
        """Follow from *version* until the server forgets it; a watch that ends goes on where it was."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begun_at = loop.time()
            try:
                async for kind, obj in self._client.watch(
                    self.resource,
                    version,
                    selector=self._selector,
                    timeout_seconds=WATCH_SECONDS * random.uniform(0.8, 1),  # noqa: S311 - jitter
                    silence_seconds=self._silence_seconds,
                ):
                    version = version_of(obj) or version
                    self._follow(kind, obj)
            except (ApiExpiredError, ApiNotFoundError):
                raise
            except AgentError:
                failures += 1
                if failures > 3:
                    raise
            if loop.time() - begun_at > _SHORT_WATCH_SECONDS:
                failures = 0
            else:
                await asyncio.sleep(random.uniform(0.5, 1) * self._first_pause)  # noqa: S311 - jitter

    def _follow(self, kind: str, obj: Object) -> None:
        match kind:
            case "ADDED" | "MODIFIED":
                self._put(obj)
            case "DELETED":
                before = self._objects.get(key_of(obj))
                if before is None or not is_older(obj, before):
                    self._bury(obj)
                if before is not None and not is_older(obj, before):
                    self._changed(self._objects.pop(key_of(obj)), None)
            case _:
                pass  # a bookmark carries a version alone

    def _put(self, obj: Object) -> None:
        key = key_of(obj)
        before = self._objects.get(key)
        if before is not None and _is_no_news(obj, before):
            return
        kept = self._keep(obj)
        self._objects[key] = kept
        self._changed(before, kept)

    def _bury(self, obj: Object) -> None:
        """Remember a deletion, so that the late answer to a write of ours does not bring the object back."""
        self._gone[key_of(obj)] = obj
        if len(self._gone) > _TOMBSTONES:
            del self._gone[next(iter(self._gone))]


def _is_no_news(obj: Object, before: Object) -> bool:
    known = is_older(obj, before) or version_of(obj) == version_of(before)
    return known and _uid(obj) == _uid(before)


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))


def without_managed_fields(obj: Object) -> Object:
    """Leave out the longest part of most objects."""
    metadata: Mapping[str, object] = obj["metadata"]
    if "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}
