"""What may go wrong, told by what to do next; the whole tree is here.

AgentError                 never raised itself
├── RetryableError         the same step may succeed later with nothing changed: back-off with jitter
└── TerminalError          it will not, until spec, bytes or server change

Both carry a reason of `agent.core.reasons` and a message an operator can act on. The message never
holds a credential, a signed query or a header value (law 10). Adapters raise nothing else on purpose;
anything else that escapes one is a bug and becomes `InternalError` where the action ends.
"""

from agent.core.reasons import Reason


class AgentError(Exception):
    """The abstract error; raise one of its two kinds.

    `reason` is the CamelCase word shown on /status, `message` one line of plain words.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        if type(self) is AgentError:
            raise TypeError("raise RetryableError or TerminalError: the reader must know what to do next")
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class RetryableError(AgentError):
    """The same step may succeed later.

    `retry_after_seconds`: what the other side asked for (Retry-After), None where it said nothing.
    """

    def __init__(self, reason: Reason, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after_seconds = retry_after_seconds


class TerminalError(AgentError):
    """The same step will fail again until spec, bytes or server change."""
