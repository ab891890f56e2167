"""The seam to storage: a provider resolves a URI to objects and says how to read each.

A provider never writes files, retries, or compares sizes and checksums: the artifact layer does, after
every provider alike (design §6). It raises RetryableError or TerminalError and nothing else on purpose.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from agent.core.errors import AgentError

_NOTHING_TOLD: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One file of a model, as storage lists it.

    `path`      where it goes below the model's directory, checked by `agent.core.paths.relative_path`.
    `key`       the provider's own name for it, given back to `source`.
    `size`      bytes, or None where only reading tells (a chunked http answer).
    `identity`  names these very bytes: scheme, bucket or origin, key, and version, ETag, generation,
                digest, or size and time. Two objects of equal identity are the same bytes. No secrets.
    `pinned`    false where the identity cannot prove the bytes (no validator at all).
    `checksums` what the service says of the whole object: lower-case algorithm (`sha256`, `crc32c`,
                `crc64nvme`, `md5`, `git-sha1`) to lower-case hex.
    `link`      a path at which the model server sees these very bytes too, so that no copy is needed
                (--shared-root); None elsewhere, and for an archive.
    `media_type` the service's Content-Type where it gave one; only a hint (archives).
    """

    path: str
    key: str
    size: int | None
    identity: str
    pinned: bool = True
    checksums: Mapping[str, str] = field(default_factory=lambda: _NOTHING_TOLD)
    media_type: str | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything under a URI at one moment, sorted by path, or lowest first; never empty.

    `single` is true where the URI named one object, which then is the directory's only file.
    `packed` are the paths of objects that are tars, plain or compressed: the model is what is in them, and
    the other objects; what a later one has replaces what an earlier one has at the same path.
    `below` names the folder in them that the model is, where they are the layers of an image.
    """

    objects: tuple[RemoteObject, ...]
    single: bool = False
    packed: frozenset[str] = frozenset()
    below: str | None = None


class HttpAnswers(Protocol):
    """How a provider reads the answers to its own requests. Pure and quick: called on any thread."""

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        """Translate an answer that is not the bytes asked for. *headers* have lower-case names."""
        ...

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the checksums of the whole object that an answer carries, as in `RemoteObject`."""
        ...


@dataclass(frozen=True, slots=True)
class HttpSource:
    """The object is read by GET, whole or by `Range`; redirects are refused, they were resolved before.

    `url` and `headers` may hold secrets: never logged, never in an error. Add `Range` freely, it is not
    signed. `expect` holds lower-case response header names with the exact value that every answer must
    carry, whole or partial (an ETag, a generation): any other, or none, is `SnapshotChanged`.
    `proxy` is an http proxy's URL, with userinfo where it needs one. `judged` is false where the operator
    chose the host, not the author of the URI: then no policy of addresses is asked.
    """

    url: str = field(repr=False)
    answers: HttpAnswers
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    expect: Mapping[str, str] = field(default_factory=dict)
    ssl_context: ssl.SSLContext | None = None
    proxy: str | None = field(default=None, repr=False)
    judged: bool = True


@dataclass(frozen=True, slots=True)
class FileSource:
    """The object is a file of this machine.

    `open` returns a new read-only descriptor that follows no link out of the allowed roots; the reader
    closes it.
    """

    open: Callable[[], int]


@dataclass(frozen=True, slots=True)
class ReaderSource:
    """The object is read through a library.

    `read(start, stop)` blocks, returns exactly those bytes or fewer at the end, and is called on a
    worker thread; `recheck` tells the identity again after the last byte, so that no two versions are
    spliced.
    """

    read: Callable[[int, int], bytes]
    recheck: Callable[[], Awaitable[str]]


Source = HttpSource | FileSource | ReaderSource


class StorageProvider(Protocol):
    """Read access to what is under the URIs of its schemes."""

    @property
    def hanging(self) -> int:
        """How many of its threads are in a call that nobody waits for any more."""
        ...

    async def resolve(self, uri: str) -> Listing:
        """List everything under *uri* with the identity of each object, all pages of it.

        Raises TerminalError(NotFound) where nothing is there.
        """
        ...

    async def source(self, obj: RemoteObject) -> Source:
        """Say how to read *obj*, pinned to its identity.

        Asked again for each request, since credentials may have been renewed; so it is cheap, with no
        request to storage of its own where that can be avoided.
        """
        ...

    async def close(self) -> None:
        """Give back sessions and threads."""
        ...
