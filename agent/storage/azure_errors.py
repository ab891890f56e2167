"""Azure's refusals, from its answers or from its SDK, as our reasons.

Of an answer only the status, the word in `x-ms-error-code` and the date are taken, and no library's text is
repeated: it may hold a signed URL (law 10).
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.answers import checksums, http_date, retry_after_seconds, status_error
from agent.storage.sessions import library

_WORD = re.compile(r"[A-Za-z]{1,80}")
_SKEW_SECONDS = 600
_ARCHIVED = frozenset({"BlobArchived", "BlobBeingRehydrated"})
_MISSING = "abfs:// needs an extra: pip install 'model-agent[azure]'"


@dataclass(slots=True)
class Standing:
    """How we stand with the service: whether anybody vouches for us, and whether that was refused."""

    anonymous: bool = False
    refused: bool = False


def azure_error(
    status: int,
    headers: Mapping[str, str],
    where: str,
    standing: Standing,
    *,
    listed: bool = False,
    clock: Callable[[], float] = time.time,
) -> AgentError:
    """Translate a status with Azure's word for it; *listed*: the blob was there a moment ago."""
    match = _WORD.fullmatch(headers.get("x-ms-error-code", ""))
    code = match[0] if match else ""
    said = f"({status} {code})" if code else f"({status})"
    if status == 404 and listed:
        return RetryableError(Reason.SNAPSHOT_CHANGED, f"{where} was listed and is gone {said}")
    if status == 404:
        return TerminalError(
            Reason.NOT_FOUND, f"{where} does not exist {said}; check account, container, name and spelling"
        )
    if code in _ARCHIVED:
        return TerminalError(
            Reason.OBJECT_ARCHIVED, f"{where} is in the archive tier {said}; rehydrate it to read it"
        )
    if code == "AuthenticationFailed" and (skew := _skew(headers, clock)) > _SKEW_SECONDS:
        return RetryableError(
            Reason.CLOCK_SKEW,
            f"Azure refuses what was signed for {where} {said}: this machine's clock is {skew:.0f} s off its",
        )
    if status in {401, 403} or code == "PublicAccessNotPermitted":
        standing.refused = True
        return TerminalError(Reason.ACCESS_DENIED, f"Azure denies {where} {said}; {_remedy(standing)}")
    if code in {"ServerBusy", "OperationTimedOut"}:
        return RetryableError(
            Reason.STORAGE_THROTTLED,
            f"Azure asks to slow down at {where} {said}",
            retry_after_seconds=retry_after_seconds(headers),
        )
    return status_error(status, headers, f"{where} {said}" if code else where)


def _skew(headers: Mapping[str, str], clock: Callable[[], float]) -> float:
    now = http_date(headers.get("date", ""))
    return 0.0 if now is None else abs(clock() - now)


def _remedy(standing: Standing) -> str:
    if standing.anonymous:
        return (
            "it was asked without credentials, as AZURE_STORAGE_ANON says: give it an account key, a SAS"
            " token or an identity"
        )
    return (
        "grant Storage Blob Data Reader on the container to the identity in use; or check the account key,"
        " the SAS token and when it expires"
    )


@dataclass(frozen=True, slots=True)
class AzureAnswers:
    """How the answers to a GET of a listed blob are read."""

    where: str
    standing: Standing = field(default_factory=Standing, repr=False)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        """Translate an answer that is not the bytes asked for."""
        del body
        return azure_error(status, headers, self.where, self.standing, listed=True)

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the checksums of the whole blob: of a range it has one too, under a name of its own."""
        whole = headers.get("x-ms-blob-content-md5")
        if whole is None:
            return checksums(headers)
        said = {name: value for name, value in headers.items() if name != "content-range"}
        return checksums({**said, "content-md5": whole})


@contextmanager
def translated(where: str, standing: Standing) -> Iterator[None]:
    """Let no error of Azure's libraries pass, nor keep one as a cause."""
    try:
        core = library("azure.core.exceptions")
    except ImportError as error:
        raise TerminalError(Reason.MISSING_DEPENDENCY, _MISSING) from error
    try:
        yield
    except ImportError as error:
        raise TerminalError(Reason.MISSING_DEPENDENCY, _MISSING) from error
    except core.HttpResponseError as error:
        raise _answered(error, where, standing) from None
    except (core.ServiceRequestError, core.ServiceResponseError) as error:
        raise _network_error(error, where) from None
    except (core.AzureError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RetryableError(
            Reason.STORAGE_ERROR, f"{where}: the answer is not one of Azure's ({type(error).__name__})"
        ) from None


def _answered(error: Any, where: str, standing: Standing) -> AgentError:
    """The SDK's own class for a refusal has no answer of storage in it where azure-identity gave no token."""
    if error.response is None or getattr(error, "status_code", None) is None:
        return no_token(error, where, standing)
    headers = {str(name).lower(): str(value) for name, value in error.response.headers.items()}
    return azure_error(error.status_code, headers, where, standing)


def no_token(error: Exception, where: str, standing: Standing) -> AgentError:
    """Say that azure-identity has no token."""
    standing.refused = True
    return TerminalError(
        Reason.INVALID_CREDENTIALS,
        f"{where}: Azure gives no token ({type(error).__name__}); set AZURE_STORAGE_CONNECTION_STRING, "
        "AZURE_STORAGE_ACCESS_KEY or AZURE_STORAGE_SAS_TOKEN, give the pod a workload identity or a service "
        "principal (AZURE_CLIENT_ID, AZURE_TENANT_ID, AZURE_CLIENT_SECRET), or for a public container set "
        "AZURE_STORAGE_ANON=true",
    )


def _network_error(error: BaseException, where: str) -> AgentError:
    requests = library("requests.exceptions")
    core = library("azure.core.exceptions")
    kinds = set(_kinds(error))
    if any(issubclass(kind, requests.SSLError) for kind in kinds):
        return TerminalError(
            Reason.TLS_ERROR,
            f"{where}: the certificate of Azure's endpoint is not trusted; check the CA bundle",
        )
    if isinstance(error, core.ServiceRequestTimeoutError | core.ServiceResponseTimeoutError):
        return RetryableError(Reason.STORAGE_TIMEOUT, f"{where}: Azure did not answer in time")
    if any(issubclass(kind, requests.ProxyError) for kind in kinds):
        return RetryableError(Reason.STORAGE_UNAVAILABLE, f"{where}: the proxy cannot be reached")
    return RetryableError(Reason.STORAGE_UNAVAILABLE, f"{where}: Azure cannot be reached")


def _kinds(error: BaseException) -> Iterator[type]:
    """Return the classes of an error and of what it wraps."""
    for link in (error, getattr(error, "inner_exception", None), error.__cause__, error.__context__):
        if link is not None:
            yield type(link)
            yield from (type(each) for each in link.args if isinstance(each, BaseException))
