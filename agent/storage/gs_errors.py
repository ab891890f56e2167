"""Google Cloud Storage's refusals, from its answers or from its libraries, as our reasons.

As with S3: of a body only one word is taken, by a pattern, and no library's text is repeated (law 10).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.answers import checksums, retry_after_seconds, status_error

MAX_BODY_BYTES = 16_384

_THROTTLED = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"})
_MISSING = "gs:// needs an extra: pip install 'model-agent[gcs]'"


@dataclass(slots=True)
class Standing:
    """How we stand with the service: whether anybody vouches for us, and whether that was refused."""

    anonymous: bool = True
    refused: bool = False


def gs_error(
    status: int,
    headers: Mapping[str, str],
    reason: str,
    where: str,
    standing: Standing,
    *,
    listed: bool = False,
) -> AgentError:
    """Translate a status with Google's word for it; *listed*: the object was there a moment ago."""
    said = f"({status} {reason})" if reason else f"({status})"
    if status == 404 and listed:
        return RetryableError(
            Reason.SNAPSHOT_CHANGED, f"{where} was listed and that generation is gone {said}"
        )
    if status == 404:
        return TerminalError(
            Reason.NOT_FOUND, f"{where} does not exist {said}; check bucket, name and spelling"
        )
    if status == 429 or reason in _THROTTLED:
        return RetryableError(
            Reason.STORAGE_THROTTLED,
            f"GCS asks to slow down at {where} {said}",
            retry_after_seconds=retry_after_seconds(headers),
        )
    if status in {401, 403}:
        standing.refused = True
        return TerminalError(Reason.ACCESS_DENIED, f"GCS denies {where} {said}; {_remedy(standing)}")
    if status == 400 and reason == "userProjectMissing":
        return TerminalError(
            Reason.ACCESS_DENIED,
            f"the bucket of {where} lets the requester pay, which is not supported {said}",
        )
    return status_error(status, headers, f"{where} {said}" if reason else where)


def _remedy(standing: Standing) -> str:
    if standing.anonymous:
        return (
            "it was asked without credentials, since none were found: set GOOGLE_APPLICATION_CREDENTIALS, or"
            " bind the pod's service account to one of Google (workload identity)"
        )
    return "grant roles/storage.objectViewer on the bucket to the account in use"


def reason_of(body: bytes | bytearray) -> str:
    """Return Google's word for an error, empty where the body has none."""
    match = re.search(rb'"reason"\s*:\s*"([A-Za-z]{1,60})"', body[:MAX_BODY_BYTES])
    return match[1].decode() if match else ""


@dataclass(frozen=True, slots=True)
class GsAnswers:
    """How the answers to a GET of a listed object are read."""

    where: str
    standing: Standing = field(default_factory=Standing, repr=False)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        """Translate an answer that is not the bytes asked for."""
        return gs_error(status, headers, reason_of(body), self.where, self.standing, listed=True)

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the checksums of the whole object, as stored: which is how we ask for it."""
        return checksums({**headers, "x-goog-stored-content-encoding": "identity"})


@contextmanager
def translated(where: str, standing: Standing) -> Iterator[None]:
    """Let no error of Google's libraries pass, nor keep one as a cause."""
    try:
        import google.cloud.storage  # noqa: F401, PLC0415 - optional, only for gs://
        import requests  # noqa: PLC0415 - optional, only for gs://
        from google.api_core import exceptions as api  # noqa: PLC0415 - optional, only for gs://
        from google.auth import exceptions as auth  # noqa: PLC0415 - optional, only for gs://
    except ImportError as error:
        raise TerminalError(Reason.MISSING_DEPENDENCY, _MISSING) from error
    try:
        yield
    except api.GoogleAPICallError as error:
        raise _answered(error, where, standing) from None
    except (auth.TransportError, requests.ConnectionError, requests.Timeout) as error:
        raise _network_error(error, where) from None
    except auth.GoogleAuthError as error:
        standing.refused = True
        kind = RetryableError if error.retryable else TerminalError
        raise kind(
            Reason.INVALID_CREDENTIALS,
            f"{where}: Google gives no token for these credentials ({type(error).__name__}); check that the"
            " key is valid, the workload identity binding, and this machine's clock",
        ) from None
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RetryableError(
            Reason.STORAGE_ERROR, f"{where}: the answer is not one of GCS ({type(error).__name__})"
        ) from None


def _answered(error: Any, where: str, standing: Standing) -> AgentError:
    headers = {name.lower(): value for name, value in error.response.headers.items()}
    return gs_error(error.response.status_code, headers, reason_of(error.response.content), where, standing)


def _network_error(error: BaseException, where: str) -> AgentError:
    import requests  # noqa: PLC0415 - optional, only for gs://

    chain = (error, error.__cause__, error.__context__, *error.args)
    if any(isinstance(link, requests.exceptions.SSLError) for link in chain):
        return TerminalError(
            Reason.TLS_ERROR,
            f"{where}: the certificate of Google's endpoint is not trusted; check the CA bundle",
        )
    if any(isinstance(link, requests.exceptions.Timeout) for link in chain):
        return RetryableError(Reason.STORAGE_TIMEOUT, f"{where}: GCS did not answer in time")
    if any(isinstance(link, requests.exceptions.ProxyError) for link in chain):
        return RetryableError(Reason.STORAGE_UNAVAILABLE, f"{where}: the proxy cannot be reached")
    return RetryableError(Reason.STORAGE_UNAVAILABLE, f"{where}: GCS cannot be reached")
