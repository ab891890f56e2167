"""Is this answer made of the bytes that were asked for? Pure; every doubt is an error."""

from collections.abc import Mapping

from agent.artifacts.engine.http1 import Head, content_range
from agent.artifacts.engine.pieces import Piece
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource


def check_pins(expect: Mapping[str, str], head: Head, path: str) -> None:
    """Raise RetryableError(SnapshotChanged) unless the answer carries each pinned header as pinned."""
    for name, value in expect.items():
        if head.headers.get(name) != value:
            raise RetryableError(
                Reason.SNAPSHOT_CHANGED, f"{path} is not the version that was listed (its {name} differs)"
            )


def check_whole(head: Head, size: int | None, path: str) -> None:
    """Check the head of a 200: its length is the listed one, and nothing was encoded on the way."""
    encoding = head.headers.get("content-encoding", "identity").lower()
    stored_so = (
        size is not None and head.length == size
    )  # encoded before it was uploaded: those are the bytes
    if encoding not in {"", "identity"} and not stored_so:
        raise RetryableError(
            Reason.STORAGE_ERROR,
            f"{path}: the answer has Content-Encoding {encoding[:20]!r} though none was asked for",
        )
    if size is not None and head.length is not None and head.length != size:
        raise RetryableError(
            Reason.INTEGRITY_MISMATCH, f"{path}: {head.length} bytes were offered where {size} were listed"
        )


def check_range(head: Head, start: int, stop: int, size: int, path: str) -> None:
    """Check the head of a 206: exactly the range that was asked for, of an object of the listed size."""
    asked = f"{path}: bytes {start} to {stop - 1} of {size} were asked for"
    if head.headers.get("content-type", "").lower().startswith("multipart/byteranges"):
        raise RetryableError(Reason.STORAGE_ERROR, f"{asked}, several ranges came")
    first, last, total = content_range(head.headers.get("content-range", ""))
    if total not in {None, size}:
        raise RetryableError(Reason.SNAPSHOT_CHANGED, f"{asked}, it has {total} bytes now")
    if (first, last) != (start, stop) or head.length not in {None, stop - start}:
        raise RetryableError(Reason.STORAGE_ERROR, f"{asked}, others came ({first} to {last - 1})")


def refusal(source: HttpSource, head: Head, body: bytes, piece: Piece) -> AgentError:
    """Say what an answer means that is neither 200 nor 206."""
    if head.status == 416:
        return RetryableError(
            Reason.SNAPSHOT_CHANGED,
            f"{piece.download.order.obj.path}: it no longer has the bytes from {piece.start} on",
        )
    return source.answers.error(head.status, head.headers, body)
