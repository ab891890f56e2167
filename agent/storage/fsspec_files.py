"""What an fsspec filesystem says of its files, as our values; pure.

Filesystems agree on `name`, `size` and `type` and on nothing else: the names under which a version, a
digest or a time hides are gathered here, most telling first.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.core.uri import redacted, scheme_of

OURS = frozenset({"s3", "s3a", "gs", "gcs", "http", "https", "pvc", "hf", "abfs", "abfss", "az", "oci"})
"""Schemes with a provider of our own, under any name: a second way in would have other rules."""

REFUSED = frozenset(
    {
        # files of this machine, or what runs a program or a notebook on it
        "file", "local", "asynclocal", "git", "dvc", "dask", "jupyter", "jlab", "pyscript",
        # wrappers of another filesystem, which may be a local one
        "simplecache", "filecache", "blockcache", "cached", "dir", "generic", "reference", "zip", "tar",
        "libarchive", "asyncwrapper", "data",
    }
)  # fmt: skip
"""Schemes that never name a model in storage, whatever is installed (faults X1, X4)."""

_VERSIONS = (
    "version_id", "versionId", "generation", "ETag", "etag", "e_tag", "eTag", "sha", "sha256",
    "checksum", "md5", "md5Hash", "content_md5", "content_hash",
)  # fmt: skip
_TIMES = (
    "mtime", "LastModified", "last_modified", "modificationTime", "modified", "updated", "last_updated",
    "timeModified", "created",
)  # fmt: skip


def checked_scheme(uri: str) -> str:
    """Return the scheme of a URI that may go to fsspec.

    Raises TerminalError: UnsupportedScheme for a refused one, InvalidStorageUri for a chain of them.
    """
    scheme = scheme_of(uri)
    if scheme is None:
        raise TerminalError(Reason.INVALID_STORAGE_URI, "the storage URI has no scheme")
    if "::" in uri:
        raise TerminalError(
            Reason.INVALID_STORAGE_URI, f"{scheme}: a chain of filesystems ('::') is not taken as storage URI"
        )
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in uri):
        raise TerminalError(
            Reason.INVALID_STORAGE_URI, f"{scheme}: the URI has a control character or is not valid Unicode"
        )
    if scheme in REFUSED or scheme in OURS:
        raise TerminalError(
            Reason.UNSUPPORTED_SCHEME, f"{scheme}:// is not a scheme that models are fetched from"
        )
    return scheme


def base_of(uri: str) -> str:
    """Return what names the filesystem and folder, with a digest in place of what must not be shown."""
    shown = redacted(uri).rstrip("/")
    if shown == uri.rstrip("/"):
        return shown
    return f"{shown}?sha256={hashlib.sha256(uri.encode()).hexdigest()[:32]}"


def validator_of(info: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the field that proves a file's version, with its value as text; None where there is none."""
    digest = checksums_of(info).get("sha256")
    if digest:
        return "sha256", digest
    for name in (*_VERSIONS, *_TIMES):
        text = _text(info.get(name))
        if text:
            return name, text
    return None


def checksums_of(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums of the whole file, as `RemoteObject.checksums`."""
    found = {}
    for name, length in (("sha256", 64), ("md5", 32)):
        value = _text(info.get(name))
        if value and re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", value):
            found[name] = value.lower()
    return found


def size_of(info: Mapping[str, Any]) -> int | None:
    """Return the file's size in bytes, None where it is not told."""
    size = info.get("size")
    return size if isinstance(size, int) and size >= 0 else None


def _text(value: object) -> str | None:
    match value:
        case None | "":
            return None
        case datetime():
            return value.isoformat()
        case bytes() | bytearray():
            return value.hex()
        case str() | int() | float():
            return str(value)
        case _:
            return None
