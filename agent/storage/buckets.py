"""From a bucket's keys to a model's files: the one mapping and listing that s3, gs and abfs share.

| URI                 | what it takes                                                              |
|---------------------|----------------------------------------------------------------------------|
| `s3://b`, `s3://b/` | every object of the bucket                                                 |
| `s3://b/m/`         | the objects below `m/`, by the rest of their key                           |
| `s3://b/m`          | the object `m` as the only file, else the objects below `m/`; never `m10/` |

Where both the object `m` and objects below `m/` exist, the object is meant, unless it has no bytes: then
it is the placeholder of a folder, as consoles and Hadoop make them. Keys that end with `/` are
placeholders too and no files; zero-byte objects are files. Nothing in a key is decoded.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.paths import check_tree, relative_path
from agent.core.reasons import Reason
from agent.core.uri import redacted
from agent.storage.base import Listing, RemoteObject

MAX_OBJECTS = 1_000_000
"""A listing beyond this is refused: it is held in memory whole (law 9)."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket and a key in it, as the URI spells them."""

    scheme: str
    bucket: str
    key: str

    @property
    def prefix(self) -> str:
        """What every key below this folder begins with."""
        return self.key if not self.key or self.key.endswith("/") else f"{self.key}/"

    @property
    def may_be_object(self) -> bool:
        """Whether the key can name one object."""
        return bool(self.key) and not self.key.endswith("/")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def location(uri: str) -> Location:
    """Split `scheme://bucket/key`. Raises TerminalError(InvalidStorageUri)."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise TerminalError(
            Reason.INVALID_STORAGE_URI,
            f"{redacted(uri)} has no bucket name of letters, digits, '.', '-' and '_' after {scheme}://",
        )
    return Location(scheme.lower(), bucket, key)


def path_below(prefix: str, key: str) -> str | None:
    """Return where *key* goes, None for a placeholder. Raises TerminalError(InvalidObjectKey)."""
    if key.endswith("/"):
        return None
    return relative_path(key.removeprefix(prefix))


def base_name(key: str) -> str:
    """Return the file name of an object that is the only one. Raises TerminalError(InvalidObjectKey)."""
    return relative_path(key.rpartition("/")[2])


Page = tuple[Sequence[RemoteObject | None], str | None]
"""The objects of one page, None for each placeholder, and the token of the next page, if there is one."""


async def listed(
    service: str,
    place: Location,
    page: Callable[[str | None], Awaitable[Page]],
    single: Callable[[], Awaitable[RemoteObject]],
) -> Listing:
    """List the object of this very key or everything below the prefix.

    *page* takes the token of a page, None for the first. Whoever may only GET, or only list, gets what that
    tells. Raises what both raise, TerminalError(NotFound, StorageError) and RetryableError(StorageError).
    """
    below, no_list = await _below(service, place, page)
    alone, no_get = await sole(place, single)
    if alone is None and not below and (refusal := no_list or no_get) is not None:
        raise refusal
    return choose(place, alone, below)


async def sole(
    place: Location, single: Callable[[], Awaitable[RemoteObject]]
) -> tuple[RemoteObject | None, AgentError | None]:
    """Return the object of this very key; nothing and the refusal where it is not known to be absent."""
    if not place.may_be_object:
        return None, None
    try:
        return await single(), None
    except TerminalError as error:
        if error.reason is Reason.NOT_FOUND:
            return None, None
        if error.reason is Reason.ACCESS_DENIED:
            return None, error
        raise


async def _below(
    service: str, place: Location, page: Callable[[str | None], Awaitable[Page]]
) -> tuple[list[RemoteObject], AgentError | None]:
    """Return the files below the prefix; nothing and the refusal where only a GET might be allowed."""
    found: list[RemoteObject] = []
    token: str | None = None
    tokens: set[str] = set()
    seen = 0
    while True:
        try:
            objects, token = await page(token)
        except TerminalError as error:
            if error.reason is Reason.ACCESS_DENIED and place.may_be_object and not tokens:
                return [], error
            raise
        found += [obj for obj in objects if obj is not None]
        seen += len(objects) + 1  # an empty page counts too, or it never ends
        check_count(seen, place)
        if not token:
            return found, None
        if token in tokens:
            raise RetryableError(
                Reason.STORAGE_ERROR, f"{service} lists the same page of {place} again and again"
            )
        tokens.add(token)


def choose(place: Location, single: RemoteObject | None, below: Iterable[RemoteObject]) -> Listing:
    """Build the listing from the object of this very key, if any, and the files below it.

    Raises TerminalError(NotFound) where there is neither.
    """
    files = tuple(sorted(below, key=lambda obj: obj.path))
    if single is not None and (single.size or not files):
        return Listing((single,), single=True)
    if not files:
        raise TerminalError(
            Reason.NOT_FOUND,
            f"nothing is at {place}: no object of that key, none below {place.prefix or 'it'!r};"
            " check bucket, key and spelling",
        )
    check_tree(obj.path for obj in files)
    return Listing(files)


def check_count(count: int, place: Location) -> None:
    """Refuse a listing without end. Raises TerminalError(StorageError)."""
    if count > MAX_OBJECTS:
        raise TerminalError(
            Reason.STORAGE_ERROR, f"{place} holds more than {MAX_OBJECTS:,} objects; name a narrower prefix"
        )
