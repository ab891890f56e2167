"""S3's refusals, from an XML answer or from botocore, through one table to our reasons.

Only the error code and the answer's times and region are ever taken from an answer, each by a pattern of
its own: the body may be hostile, or repeat what was signed (law 10).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.answers import checksums, retry_after_seconds, status_error

MAX_BODY_BYTES = 16_384

_ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion"})
_DENIED = frozenset(
    {
        *("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AccountProblem", "NotSignedUp"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "UnauthorizedAccess"),
        *("UnauthorizedOperation", "MissingSecurityHeader", "KMS.DisabledException", "KMS.NotFoundException"),
        *("KMS.KMSInvalidStateException", "XMinioInvalidAccessKeyId"),
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
_THROTTLED = frozenset(
    {
        *("SlowDown", "SlowDownRead", "Throttling", "ThrottlingException", "ThrottledException"),
        *("RequestLimitExceeded", "TooManyRequests", "BandwidthLimitExceeded", "RequestThrottled"),
    }
)
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_NEW_KEYS_WANTED = _EXPIRED | {"InvalidAccessKeyId", "SignatureDoesNotMatch"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What one answer of S3 says. `code` is empty where it says none (HEAD has no body)."""

    status: int
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    region: str | None = None
    skew_seconds: int | None = None


def refusal_of(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Read an answer's bounded beginning with patterns: no parser, so no entity is ever expanded."""
    text = body[:MAX_BODY_BYTES].decode("utf-8", "replace")
    region = headers.get("x-amz-bucket-region") or _between("Region", text)
    return Refusal(
        status,
        _plain(_between("Code", text)),
        headers,
        region if region and re.fullmatch(r"[a-z0-9-]{1,40}", region) else None,
        skew_seconds(_between("RequestTime", text), _between("ServerTime", text)),
    )


def refusal_of_client_error(response: Mapping[str, object]) -> Refusal:
    """Read what botocore's ClientError keeps of the answer."""
    error = response.get("Error")
    meta = response.get("ResponseMetadata")
    told: Mapping[str, object] = error if isinstance(error, Mapping) else {}
    about: Mapping[str, object] = meta if isinstance(meta, Mapping) else {}
    raw = about.get("HTTPHeaders")
    headers = {str(k).lower(): str(v) for k, v in raw.items()} if isinstance(raw, Mapping) else {}
    region = headers.get("x-amz-bucket-region") or str(told.get("Region", ""))
    code = _plain(str(told.get("Code", "")))
    return Refusal(
        int(str(about.get("HTTPStatusCode", 0))),
        "" if code.isdigit() else code,
        headers,
        region if re.fullmatch(r"[a-z0-9-]{1,40}", region) else None,
        skew_seconds(str(told.get("RequestTime", "")), str(told.get("ServerTime", ""))),
    )


def skew_seconds(request_time: str, server_time: str) -> int | None:
    """Return by how many seconds this machine's clock is ahead of S3's, None where either is unreadable."""
    ours, theirs = _moment(request_time), _moment(server_time)
    return round((ours - theirs).total_seconds()) if ours and theirs else None


def s3_error(refusal: Refusal, where: str, *, listed: bool = False, renewable: bool = False) -> AgentError:
    """Translate a refusal; *where* names bucket and key.

    *listed*: the object was there a moment ago. *renewable*: the source of the credentials may give others.
    """
    code, status = refusal.code, refusal.status
    said = f"({status} {code})" if code else f"({status})"
    if code in _ABSENT or status == 404:
        return _absent(code, where, said, listed=listed)
    if code == "RequestTimeTooSkewed":
        return TerminalError(Reason.CLOCK_SKEW, f"S3 refuses {where}: {_skew(refusal.skew_seconds)}")
    if code == "InvalidObjectState":
        return TerminalError(
            Reason.OBJECT_ARCHIVED, f"{where} is in an archive storage class {said}; restore it to read it"
        )
    if code in _EXPIRED:
        return _expired(where, said, renewable=renewable)
    if code in _ELSEWHERE or status in {301, 307, 308}:
        return _elsewhere(refusal, where, said)
    if code in _THROTTLED or status in {429, 503}:
        return RetryableError(
            Reason.STORAGE_THROTTLED,
            f"S3 asks to slow down at {where} {said}",
            retry_after_seconds=retry_after_seconds(refusal.headers),
        )
    if code in _DENIED or status in {401, 403}:
        return TerminalError(Reason.ACCESS_DENIED, f"S3 denies {where} {said}; {_remedy(code)}")
    if code == "RequestTimeout":
        return RetryableError(Reason.STORAGE_TIMEOUT, f"S3 gave up waiting at {where} {said}")
    if status == 400:
        return TerminalError(
            Reason.STORAGE_ERROR,
            f"S3 refuses the request for {where} {said}; an object under a customer's key (SSE-C) is not"
            " supported, and an endpoint that speaks https may have been asked over http",
        )
    return status_error(status, refusal.headers, f"{where} {said}" if code else where)


def _absent(code: str, where: str, said: str, *, listed: bool) -> AgentError:
    if code == "NoSuchBucket":
        return TerminalError(
            Reason.NOT_FOUND, f"the bucket of {where} does not exist {said}; check its name and the endpoint"
        )
    if listed:
        return RetryableError(Reason.SNAPSHOT_CHANGED, f"{where} was listed and is gone {said}")
    return TerminalError(Reason.NOT_FOUND, f"{where} does not exist {said}; check bucket, key and spelling")


def _expired(where: str, said: str, *, renewable: bool) -> AgentError:
    text = f"S3 refuses {where}: the credentials have expired or their token is not valid {said}"
    if renewable:
        return RetryableError(Reason.ACCESS_DENIED, f"{text}; they are resolved again")
    return TerminalError(Reason.ACCESS_DENIED, f"{text}; renew AWS_SESSION_TOKEN and its keys")


def _elsewhere(refusal: Refusal, where: str, said: str) -> AgentError:
    region = refusal.region or "another region, which the answer does not name"
    return TerminalError(
        Reason.STORAGE_ERROR,
        f"the bucket of {where} is in {region} {said}; set AWS_DEFAULT_REGION and AWS_ENDPOINT_URL for it",
    )


def _skew(seconds: int | None) -> str:
    if seconds is None:
        return "the clock of this machine is off by more than 15 minutes; set it"
    return f"the clock of this machine is {abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}; set it"


def _remedy(code: str) -> str:
    match code:
        case "InvalidAccessKeyId":
            return "the access key is unknown there: check AWS_ACCESS_KEY_ID and the endpoint"
        case "SignatureDoesNotMatch":
            return "the secret key is not that of the access key: check AWS_SECRET_ACCESS_KEY"
        case _ if code.startswith("KMS."):
            return "the key that encrypts it cannot be used: check the KMS key and its policy"
        case _:
            return "allow s3:GetObject and s3:ListBucket there, or check which credentials are used"


def _between(tag: str, text: str) -> str:
    match = re.search(rf"<{tag}>([^<&]{{1,80}})</{tag}>", text)
    return match[1].strip() if match else ""


def _plain(code: str) -> str:
    return code if re.fullmatch(r"[A-Za-z0-9.]{1,60}", code) else ""


def _moment(text: str) -> datetime | None:
    for form in ("%Y%m%dT%H%M%SZ", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


@dataclass(frozen=True, slots=True)
class S3Answers:
    """How the answers to a GET of a listed object are read.

    `refused` is called when the credentials themselves were refused; it only sets a mark. `known` are the
    object's checksums as HEAD told them.
    """

    where: str
    renewable: bool = False
    refused: Callable[[], None] | None = field(default=None, repr=False)
    known: Mapping[str, str] = field(default_factory=dict)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        """Translate an answer that is not the bytes asked for."""
        refusal = refusal_of(status, headers, body)
        if self.refused is not None and refusal.code in _NEW_KEYS_WANTED:
            self.refused()
        return s3_error(refusal, self.where, listed=True, renewable=self.renewable)

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the whole object's checksums; a partial answer may carry those of a part: never those."""
        return self.known if "content-range" in headers else {**self.known, **checksums(headers)}


def wants_new_keys(refusal: Refusal) -> bool:
    """Tell whether the credentials themselves were refused, so that others might do."""
    return refusal.code in _NEW_KEYS_WANTED
