"""What the fetches under way may still write: no two of them count the same free bytes (faults D1, K10).

A partial is laid out whole when its download begins, so what it has on disk by then is no need any more.
"""

import threading
from collections.abc import Callable, Collection, Mapping

from agent.artifacts.manifest import BlobId
from agent.artifacts.store import Store
from agent.core.errors import RetryableError
from agent.core.reasons import Reason


class Claims:
    """The room of one store's volume, and of its budget.

    `make_room` is called with the bytes that are missing on the volume, and with those that the downloads
    under way will add to what the store has; it may remove what nothing refers to.
    """

    def __init__(
        self,
        store: Store,
        budget_bytes: int | None = None,
        make_room: Callable[[int, int], None] = lambda missing, coming: None,  # noqa: ARG005
    ) -> None:
        self._store, self._budget, self._make_room = store, budget_bytes, make_room
        self._turn = threading.Lock()
        self._claims: set[Claim] = set()

    def of(self, sizes: Mapping[BlobId, int]) -> "Claim":
        """Return a claim of room for blobs of these sizes: `take` it, and `release` it when they came."""
        return Claim(self, sizes)

    def take(self, claim: "Claim") -> None:
        """See `Claim.take`. One after the other: who comes second is the one that does not fit."""
        with self._turn:
            if claim.released:
                return
            self._claims.add(claim)
            try:
                self._check(claim)
            except BaseException:
                self._claims.discard(claim)
                raise

    def drop(self, claim: "Claim") -> None:
        """See `Claim.release`. In memory."""
        claim.released = True
        self._claims.discard(claim)

    def left_bytes(self) -> int:
        """Return what may still be written beside all that is claimed, as for the members of an archive."""
        coming = self._coming(self._claims)
        left = self._store.free_bytes() - coming
        if self._budget is not None:
            left = min(left, self._budget - self._store.used_bytes() - coming)
        return max(0, left)

    def _check(self, claim: "Claim") -> None:
        missing, over = self._short()
        if missing > 0 or over > 0:
            self._make_room(max(0, missing), self._coming(self._claims))
            missing, over = self._short()
        if missing <= 0 and over <= 0:
            return
        need, where = self._coming([claim]), self._store.store_dir
        if missing > 0:
            free = self._store.free_bytes()
            others = free + missing - need
            promised = f", {others} of them for other downloads" if others > 0 else ""
            raise RetryableError(
                Reason.DISK_FULL,
                f"{need} bytes are to be downloaded and {free} bytes are free on the volume of {where}"
                f"{promised}; free some, or give it a larger volume",
            )
        raise RetryableError(
            Reason.DISK_BUDGET_EXCEEDED,
            f"{need} bytes are to be downloaded, {over} more than --disk-budget ({self._budget} bytes) "
            f"leaves in {where}; raise it, or remove models",
        )

    def _short(self) -> tuple[int, int]:
        """Return how many bytes are missing on the volume, and how many of the budget."""
        coming = self._coming(self._claims)
        missing = coming - self._store.free_bytes()
        over = self._store.used_bytes() + coming - self._budget if self._budget is not None else 0
        return missing, over

    def _coming(self, claims: Collection["Claim"]) -> int:
        """Return what is claimed and not on the disk yet; what two claim comes once."""
        sizes = {blob: size for claim in list(claims) for blob, size in claim.sizes.items()}
        return sum(max(0, size - self._store.bytes_of(blob)) for blob, size in sizes.items())


class Claim:
    """Room for the blobs of one fetch."""

    def __init__(self, claims: Claims, sizes: Mapping[BlobId, int]) -> None:
        self._claims = claims
        self.sizes = sizes
        self.released = False

    def take(self) -> None:
        """Hold the room from now on; blocks.

        Raises RetryableError(DiskFull, DiskBudgetExceeded) where there is none, before a byte is asked for.
        """
        self._claims.take(self)

    def release(self) -> None:
        """Hold it no longer, or never if `take` is still at it. In memory."""
        self._claims.drop(self)
