"""Any other scheme (`webhdfs://`, `sftp://`, …) by its fsspec filesystem.

The library only lists and reads ranges; the loops, the checks and what counts as unchanged are ours.
What lies behind fsspec raises whatever it likes, in words that may hold a token: it is translated here by
its kind and its status, never by its text.
"""

import asyncio
import errno
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from agent.aio.threads import Daemons
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.paths import relative_path
from agent.core.reasons import Reason
from agent.core.uri import BUILT_IN_SCHEMES
from agent.storage.addresses import AddressPolicy, permit_all
from agent.storage.answers import status_error
from agent.storage.base import Listing, ReaderSource, RemoteObject
from agent.storage.dialling import judged
from agent.storage.fsspec_files import (
    base_of,
    checked_scheme,
    checksums_of,
    size_of,
    validator_of,
)

MAX_FILESYSTEMS = 64  # one a URI that was listed lately
PATIENCE_SECONDS = 300.0
"""How long a library may take to list a model: nothing tells how far it is."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Mounted:
    """A filesystem and the path in it that a URI names."""

    scheme: str
    base: str
    files: Any
    root: str
    policy: AddressPolicy
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


class FsspecProvider:
    """Files and folders of the filesystems that fsspec knows and whose package is installed.

    Their credentials are their own business. Chains of filesystems, local ones and those of our own
    providers are refused. Where the filesystem tells no version, digest or time, a file is not pinned.
    *policy* is asked of each address that a library connects to.
    """

    def __init__(
        self, *, policy: AddressPolicy = permit_all, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._policy = policy
        self._patience_seconds = patience_seconds
        self._threads = Daemons("fsspec", limit=4)
        self._mounted: OrderedDict[str, _Mounted] = OrderedDict()

    @property
    def hanging(self) -> int:
        """How many threads are in a call that nobody waits for any more."""
        return self._threads.hanging

    async def resolve(self, uri: str) -> Listing:
        """List the file or folder, on a thread."""
        scheme = checked_scheme(uri)
        mounted = await self._bounded(scheme, _mount, scheme, uri, self._policy)
        listing = await self._bounded(scheme, _listing, mounted)
        self._remember(mounted)
        return listing

    async def source(self, obj: RemoteObject) -> ReaderSource:
        """Say how to read the file; asks storage for nothing."""
        base, _, path = obj.key.partition("#")
        mounted = self._mounted.get(base)
        if mounted is None:
            if "?" in base:
                raise RetryableError(
                    Reason.SNAPSHOT_CHANGED, f"{base.partition('?')[0]} must be listed again"
                )
            scheme = checked_scheme(base)
            mounted = await self._bounded(scheme, _mount, scheme, base, self._policy)
            self._remember(mounted)
        return ReaderSource(
            read=partial(_read, mounted, path, obj.size),
            recheck=partial(self._bounded, mounted.scheme, _identity_now, mounted, path, obj.identity),
        )

    async def close(self) -> None:
        """Let the threads go."""
        self._threads.close()
        self._mounted.clear()

    async def _bounded(self, scheme: str, work: Callable[..., T], *args: object) -> T:
        """Run *work* on a thread; one that does not come back is left behind (fault S21)."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await self._threads.run(work, *args)
        except TimeoutError:
            raise RetryableError(
                Reason.STORAGE_TIMEOUT,
                f"the library of {scheme}:// did not come back within {self._patience_seconds:.0f} s; "
                "its call is left behind",
                retry_after_seconds=self._patience_seconds,
            ) from None

    def _remember(self, mounted: _Mounted) -> None:
        self._mounted[mounted.base] = mounted
        self._mounted.move_to_end(mounted.base)
        if len(self._mounted) > MAX_FILESYSTEMS:
            self._mounted.popitem(last=False)


def _mount(scheme: str, uri: str, policy: AddressPolicy) -> _Mounted:
    import fsspec  # noqa: PLC0415 - 15 MiB, for these schemes only

    library: Any = fsspec
    base = base_of(uri)
    try:
        kind = library.get_filesystem_class(scheme)
    except ImportError:
        raise _missing(scheme) from None
    except ValueError:
        raise _unsupported(scheme) from None
    if getattr(kind, "local_file", False):
        raise _unsupported(scheme)
    with _calling(base, policy):
        files = _constructed(scheme, kind, kind._get_kwargs_from_urls(uri))  # noqa: SLF001 - fsspec's own way to read user and host off a URL
        root = str(kind._strip_protocol(uri)).rstrip("/")  # noqa: SLF001 - as url_to_fs does
        return _Mounted(scheme, base, files, root, policy)


def _constructed(scheme: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        return kind(**options, skip_instance_cache=True, use_listings_cache=False)
    except ImportError:
        raise _missing(scheme) from None
    except (ValueError, TypeError, KeyError):
        raise TerminalError(
            Reason.INVALID_CREDENTIALS,
            f"{scheme}:// cannot be set up from the URI and the environment; its credentials are incomplete",
        ) from None


def _missing(scheme: str) -> TerminalError:
    return TerminalError(
        Reason.MISSING_DEPENDENCY,
        f"{scheme}:// needs a package that is not installed: install fsspec's package for {scheme}",
    )


def _unsupported(scheme: str) -> TerminalError:
    known = ", ".join(sorted(BUILT_IN_SCHEMES))
    return TerminalError(
        Reason.UNSUPPORTED_SCHEME,
        f"{scheme}:// is not supported; supported are {known}, and what an installed fsspec package adds",
    )


def _listing(mounted: _Mounted) -> Listing:
    with _calling(mounted.base, mounted.policy):
        mounted.files.invalidate_cache()
        info = mounted.files.info(mounted.root)
        if info.get("type") != "directory":
            path = relative_path(mounted.root.rpartition("/")[2])
            return Listing((_object(mounted, path, mounted.root, info),), single=True)
        found = tuple(_walk(mounted))
    if not found:
        raise TerminalError(Reason.NOT_FOUND, f"nothing is below {mounted.base}")
    return Listing(tuple(sorted(found, key=lambda obj: obj.path)))


def _walk(mounted: _Mounted) -> Iterator[RemoteObject]:
    """Yield every file; not by the library's `walk` or `find`, which leave out what they cannot list."""
    folders = [mounted.root]
    while folders:
        folder = folders.pop()
        for info in mounted.files.ls(folder, detail=True):
            name = str(info["name"])
            if name.rstrip("/") == folder.rstrip("/"):
                continue  # the folder itself, or its placeholder
            path = _below(mounted, name)
            match info.get("type"):
                case "directory":
                    folders.append(name.rstrip("/"))
                case "file" if name.endswith("/") and not info.get("size"):
                    continue  # a folder's placeholder
                case "file":
                    yield _object(mounted, path, name, info)
                case other:
                    raise TerminalError(
                        Reason.INVALID_OBJECT_KEY, f"{path!r} is neither a file nor a folder but {other!r}"
                    )


def _below(mounted: _Mounted, name: str) -> str:
    root = mounted.root.strip("/")
    below = name.strip("/")
    if root:
        if not below.startswith(f"{root}/"):
            raise TerminalError(
                Reason.INVALID_OBJECT_KEY,
                f"{mounted.base} listed a name that is not below it: {name[:200]!r}",
            )
        below = below[len(root) + 1 :]
    return relative_path(below)


def _object(mounted: _Mounted, path: str, name: str, info: Mapping[str, Any]) -> RemoteObject:
    return RemoteObject(
        path=path,
        key=f"{mounted.base}#{name}",
        size=size_of(info),
        identity=_identity(mounted, name, info),
        pinned=validator_of(info) is not None,
        checksums=checksums_of(info),
    )


def _identity(mounted: _Mounted, name: str, info: Mapping[str, Any]) -> str:
    field, value = validator_of(info) or ("unknown", "")
    size = size_of(info)
    return f"{mounted.scheme}#{mounted.base}#{name}#{field}={value};size={'?' if size is None else size}"


def _identity_now(mounted: _Mounted, path: str, expected: str) -> str:
    """Tell the identity afresh: by `info`, and where that tells other fields, by the folder's list."""
    with mounted.lock, _calling(mounted.base, mounted.policy):
        mounted.files.invalidate_cache()
        identity = _identity(mounted, path, mounted.files.info(path))
        if identity == expected:
            return identity
        for info in mounted.files.ls(path.rpartition("/")[0], detail=True):
            if info["name"] == path and _identity(mounted, path, info) == expected:
                return expected
        return identity


def _read(mounted: _Mounted, path: str, size: int | None, start: int, stop: int) -> bytes:
    if size is not None:
        stop = min(stop, size)
    if start >= stop:
        return b""
    with _calling(mounted.base, mounted.policy):
        content = bytes(mounted.files.cat_file(path, start=start, end=stop))
    if len(content) > stop - start:
        raise TerminalError(
            Reason.INTEGRITY_MISMATCH, f"{mounted.base} gave more bytes than asked for: it ignores ranges"
        )
    return content


@contextmanager
def _calling(where: str, policy: AddressPolicy) -> Iterator[None]:
    """Judge what a library connects to; turn what it raises into our two kinds of error, without its text."""
    shown = where.partition("?")[0]
    with judged(policy) as call:
        try:
            yield
        except AgentError:
            raise
        except Exception as error:  # noqa: BLE001 - any library lies behind fsspec; its exceptions have no common root
            if call.refused is not None:
                raise TerminalError(Reason.FORBIDDEN_ADDRESS, f"{shown}: {call.refused}") from None
            raise _error(error, shown) from None


def _error(error: Exception, where: str) -> AgentError:
    status = _status_of(error)
    if status is not None and status >= 400:
        return status_error(status, {}, where)
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return TerminalError(Reason.NOT_FOUND, f"{where} does not exist")
        case PermissionError():
            return TerminalError(Reason.ACCESS_DENIED, f"{where} may not be read with these credentials")
        case TimeoutError():
            return RetryableError(Reason.STORAGE_TIMEOUT, f"{where} did not answer in time")
        case ImportError():
            return TerminalError(Reason.MISSING_DEPENDENCY, f"{where} needs a package that is not installed")
        case socket.gaierror():
            return RetryableError(Reason.STORAGE_UNAVAILABLE, f"the host of {where} cannot be resolved")
        case OSError() if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            return RetryableError(Reason.RESOURCE_EXHAUSTED, f"no descriptor or memory to read {where}")
        case OSError() if error.errno:
            return RetryableError(
                Reason.STORAGE_UNAVAILABLE, f"{where} cannot be reached: {os.strerror(error.errno)}"
            )
    return RetryableError(Reason.STORAGE_ERROR, f"{where} failed in its library: {type(error).__name__}")


def _status_of(error: BaseException | None) -> int | None:
    """The http status an exception or its cause carries, under the names that libraries use."""
    while error is not None:
        response = getattr(error, "response", None)
        for holder, name in (
            (response, "status_code"),
            (response, "status"),
            (error, "status_code"),
            (error, "status"),
        ):
            status = getattr(holder, name, None)
            if isinstance(status, int):
                return status
        error = error.__cause__
    return None
