"""What one client's connection needs of the proxy that it belongs to."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from agent.web.proxy_heads import Request
from agent.web.proxy_upstream import Upstream

_Client_contra = TypeVar("_Client_contra", contravariant=True)


class Hub(Protocol[_Client_contra]):
    """What a connection needs of the proxy."""

    draining: bool
    linger_seconds: float

    def join(self, client: _Client_contra) -> bool:
        """Take a connection in; false where there are so many that it may only ask for a probe."""
        ...

    def part(self, client: _Client_contra) -> None:
        """Forget a connection that ended."""
        ...

    def probe(self, request: Request) -> Awaitable[bytes] | None:
        """Return the answer to a probe, None for a request that is to be passed on."""
        ...

    def connect(self, make: Callable[[], Upstream], failed: Callable[[], None]) -> None:
        """Open a connection to the model server in the background."""
        ...

    def in_background(self, work: Awaitable[bytes], then: Callable[[bytes], None]) -> None:
        """Call *then* with what *work* brings."""
        ...

    def seen(self) -> None:
        """Note that a request came, now."""
        ...

    def now(self) -> float:
        """Return the loop's time."""
        ...
