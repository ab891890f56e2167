"""Failures of a connection as reasons: the one place, as `errors` is for the disk."""

import errno
import os
import ssl

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def network_error(error: OSError | EOFError, place: str) -> AgentError:
    """Translate a failure of a connection; *place* names the origin with no secret in it."""
    match error:
        case ssl.SSLCertVerificationError():
            return TerminalError(
                Reason.TLS_ERROR,
                f"{place}: {error.verify_message}; check the CA bundle, the host name and the clock",
            )
        case ssl.SSLError():
            return RetryableError(Reason.TLS_ERROR, f"{place}: {error.reason or 'the TLS connection broke'}")
        case TimeoutError():
            return RetryableError(Reason.STORAGE_TIMEOUT, f"{place}: nothing came in time")
        case OSError() if error.errno in _EXHAUSTED:
            return RetryableError(
                Reason.RESOURCE_EXHAUSTED,
                f"{place}: {os.strerror(error.errno or 0)}; raise the limit (ulimit -n, memory)",
            )
        case _:
            return RetryableError(Reason.STORAGE_UNAVAILABLE, f"{place}: {_words(error)}")


def _words(error: OSError | EOFError) -> str:
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return "the connection broke, or the name does not resolve"
