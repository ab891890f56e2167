"""What kept an http answer from coming, in our two kinds of error; shared by whoever uses aiohttp.

The texts are made of the host, the system's own error and what the operator can do, never of a library's
message, which may hold a signed URL (law 10).
"""

import errno
import os
import ssl

import aiohttp

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.addresses import AddressRefusedError
from agent.storage.answers import status_error

# X509_V_ERR_* of OpenSSL: numbers are fixed, texts are not
_CERTIFICATE_PROBLEMS = {
    9: "its certificate is not valid yet (is this machine's clock right?)",
    10: "its certificate has expired",
    18: "its certificate is signed by itself; add its CA to CA_BUNDLE",
    19: "its certificate is of a CA that is not trusted; add the CA to CA_BUNDLE",
    20: "its certificate is of a CA that is not trusted; add the CA to CA_BUNDLE",
    21: "its certificate is of a CA that is not trusted; add the CA to CA_BUNDLE",
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
}

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def network_error(error: aiohttp.ClientError | OSError, where: str) -> AgentError:
    """Translate what kept an answer from coming.

    Raise the result `from None`: the library's own text may hold a signed URL.
    """
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, AddressRefusedError):
        return TerminalError(Reason.FORBIDDEN_ADDRESS, f"{where}: {cause.args[1]}")
    if isinstance(cause, OSError) and cause.errno in _EXHAUSTED:
        return RetryableError(
            Reason.RESOURCE_EXHAUSTED, f"{where}: {_why(cause)}; raise the limit (ulimit -n, memory)"
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError):
        return _tls_error(error, where)
    if isinstance(error, aiohttp.ClientHttpProxyError | aiohttp.ClientProxyConnectionError):
        return _proxy_error(error, where)
    match error:
        case aiohttp.ClientConnectorDNSError():
            return RetryableError(Reason.STORAGE_UNAVAILABLE, f"the host of {where} cannot be resolved")
        case aiohttp.InvalidURL():
            return TerminalError(Reason.INVALID_STORAGE_URI, f"{where} is no usable URL")
        case TimeoutError():
            return RetryableError(Reason.STORAGE_TIMEOUT, f"{where} did not answer in time")
        case aiohttp.ClientResponseError():
            return RetryableError(Reason.STORAGE_ERROR, f"{where} answered with what is no http")
        case OSError():
            return RetryableError(Reason.STORAGE_UNAVAILABLE, f"{where} cannot be reached: {_why(error)}")
        case _:
            return RetryableError(
                Reason.STORAGE_UNAVAILABLE, f"{where}: the connection was cut ({type(error).__name__})"
            )


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "no connection"


def _proxy_error(
    error: aiohttp.ClientHttpProxyError | aiohttp.ClientProxyConnectionError, where: str
) -> AgentError:
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        why = _why(error.os_error)
        return RetryableError(
            Reason.STORAGE_UNAVAILABLE, f"the proxy on the way to {where} cannot be reached: {why}"
        )
    if error.status in {401, 403, 407}:
        return status_error(407, {}, where)
    return RetryableError(
        Reason.STORAGE_UNAVAILABLE, f"the proxy on the way to {where} refused it (status {error.status})"
    )


def _tls_error(error: Exception, where: str) -> AgentError:
    cause: object = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        problem = _CERTIFICATE_PROBLEMS.get(
            cause.verify_code, f"its certificate is refused (OpenSSL code {cause.verify_code})"
        )
        return TerminalError(Reason.TLS_ERROR, f"{where} is not trusted: {problem}")
    if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return RetryableError(Reason.TLS_ERROR, f"{where} ended the connection in the TLS handshake")
    code = cause.reason if isinstance(cause, ssl.SSLError) else None
    return TerminalError(
        Reason.TLS_ERROR, f"{where} does not speak TLS as it should ({code or 'handshake failed'})"
    )
