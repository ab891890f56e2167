"""What http answers mean: errors of our two kinds, waits and checksums; shared by every http scheme.

Nothing here shows a URL's query, a header's value or a library's own words, which may hold either
(law 10): the texts are made of the status, the host and what the operator can do.
"""

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason

LONGEST_RETRY_AFTER_SECONDS = 3600.0

_ALGORITHMS = {"sha-256": "sha256", "md5": "md5", "crc32c": "crc32c", "crc64nvme": "crc64nvme"}
_DIGEST_BYTES = {"sha256": 32, "md5": 16, "crc32c": 4, "crc64nvme": 8}
_AMAZON = ("sha256", "crc32c", "crc64nvme")


def retry_after_seconds(headers: Mapping[str, str], clock: Callable[[], float] = time.time) -> float | None:
    """Return what Retry-After asks for, in seconds from now, between 0 and an hour; None where it is absent.

    It may be a number or a date (RFC 9110 §10.2.3). A date is taken against the answer's own Date, so
    that a wrong clock on either side does no harm.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,12}", text):
        return min(float(text), LONGEST_RETRY_AFTER_SECONDS)
    until = http_date(text)
    if until is None:
        return None
    now = http_date(headers.get("date", ""))
    return min(max(until - (clock() if now is None else now), 0.0), LONGEST_RETRY_AFTER_SECONDS)


def http_date(text: str) -> float | None:
    """Return the Unix seconds of an http date, None where it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def status_error(status: int, headers: Mapping[str, str], where: str) -> AgentError:
    """Translate a status that is not the bytes asked for. *where* names the object, without secrets."""
    wait = retry_after_seconds(headers)
    match status:
        case 404 | 410:
            return TerminalError(Reason.NOT_FOUND, f"{where} does not exist (status {status})")
        case 401:
            return TerminalError(
                Reason.ACCESS_DENIED, f"{where} needs credentials, or refused those it was given (status 401)"
            )
        case 403:
            return TerminalError(
                Reason.ACCESS_DENIED, f"{where} may not be read with these credentials (status 403)"
            )
        case 407:
            return TerminalError(
                Reason.ACCESS_DENIED, f"the proxy on the way to {where} wants credentials (status 407)"
            )
        case 408 | 504:
            return RetryableError(
                Reason.STORAGE_TIMEOUT, f"{where} timed out (status {status})", retry_after_seconds=wait
            )
        case 412 | 416:
            return RetryableError(
                Reason.SNAPSHOT_CHANGED, f"{where} is not what was listed any more (status {status})"
            )
        case 425 | 429 | 503:
            return RetryableError(
                Reason.STORAGE_THROTTLED,
                f"{where} asks to slow down (status {status})",
                retry_after_seconds=wait,
            )
        case _ if status >= 500:
            return RetryableError(
                Reason.STORAGE_UNAVAILABLE, f"{where} failed (status {status})", retry_after_seconds=wait
            )
        case _:
            return TerminalError(
                Reason.STORAGE_ERROR, f"{where} answered with the unexpected status {status}"
            )


def checksums(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums of the whole object that an answer declares, as `RemoteObject.checksums`.

    Known: Repr-Digest (RFC 9530), Digest (RFC 3230), Content-MD5, x-goog-hash, x-amz-checksum-*, and
    x-checksum-sha256 / -md5 of artifact repositories. A part's own checksum, a composite one and one of a
    stored encoding that is not the one served do not count; nor does what has not the right length.
    """
    found: dict[str, str] = {}
    for line in (headers.get("digest", ""), headers.get("repr-digest", "")):
        for name, value in _pairs(line):
            _add(found, _ALGORITHMS.get(name), value.strip(":"))
    if "content-range" not in headers:
        _add(found, "md5", headers.get("content-md5", ""))
    if headers.get("x-goog-stored-content-encoding", "identity") == "identity":
        for name, value in _pairs(headers.get("x-goog-hash", "")):
            _add(found, _ALGORITHMS.get(name), value)
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT":
        for name in _AMAZON:
            _add(found, name, headers.get(f"x-amz-checksum-{name}", ""))
    for name in ("sha256", "md5"):
        value = headers.get(f"x-checksum-{name}", "").lower()
        if re.fullmatch(rf"[0-9a-f]{{{2 * _DIGEST_BYTES[name]}}}", value):
            found[name] = value
    return found


def _pairs(line: str) -> list[tuple[str, str]]:
    split = (part.strip().partition("=") for part in line.split(","))
    return [(name.strip().lower(), value.strip()) for name, _, value in split]


def _add(found: dict[str, str], algorithm: str | None, encoded: str) -> None:
    if algorithm is None or not encoded:
        return
    try:
        digest = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return
    if len(digest) == _DIGEST_BYTES[algorithm]:
        found[algorithm] = digest.hex()
