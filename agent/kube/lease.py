"""Leader election with a Lease: at most one of us writes.

Times are those of this machine alone: a lease has run out when its record has not changed *here* for its
duration, so clocks need not agree. The leader stops `renew` seconds after its last renewal, well before
others may take over.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.core.errors import AgentError
from agent.core.reasons import Reason
from agent.kube.client import ApiClient, ApiConflictError, ApiNotFoundError
from agent.kube.resources import LEASES, Object

log = logging.getLogger("agent.kube")


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds: others may take over `lease` after a renewal, the leader stops after `renew`."""

    lease: int = 15
    renew: float = 10.0
    retry: float = 2.0


class Lease:
    """One contender for the lease *name* in *namespace*; *identity* is unique to this process."""

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times or LeaseTimes()
        self._renewed_at = float("-inf")
        self._seen: str | None = None
        self._seen_at = 0.0
        self._acquired = asyncio.Event()
        self._others = False

    @property
    def held(self) -> bool:
        """Tell whether we may write at this moment."""
        return asyncio.get_running_loop().time() < self._renewed_at + self._times.renew

    @property
    def others(self) -> bool:
        """Tell whether somebody else leads, as it was read last."""
        return self._others and not self.held

    async def acquire(self) -> None:
        """Wait until we lead. `run` has to be running."""
        await self._acquired.wait()

    async def run(self) -> None:
        """Contend, then renew; returns when the lease was lost, for then the process should end."""
        led = False
        while True:
            asked_at = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(self._times.retry * 2):
                    holds = await self._try()
                    self._others = not holds
            except (AgentError, TimeoutError) as error:
                holds = self._others = False
                log.warning("the lease could not be read or written; trying again", extra=_why(error))
            if holds:
                self._renewed_at = asked_at
                led = True
                self._acquired.set()
            elif led and not self.held:
                log.warning("the lease was lost; ending", extra={"lease": self._name})
                return
            await asyncio.sleep(self._times.retry)

    async def release(self) -> None:
        """Give the lease up, so that the next one need not wait. Does nothing for one that does not lead."""
        if not self.held:
            return
        self._renewed_at = float("-inf")
        try:
            lease = await self._client.get(LEASES, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                await self._client.replace(LEASES, self._written(lease, holder="", seconds=1))
        except AgentError as error:
            log.info("the lease was not given up", extra={"reason": error.reason})

    async def _try(self) -> bool:
        try:
            lease = await self._client.get(LEASES, self._namespace, self._name)
        except ApiNotFoundError:
            return await self._write(None)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        if holder and holder != self._identity and not self._has_run_out(lease):
            return False
        return await self._write(lease)

    def _has_run_out(self, lease: Object) -> bool:
        now = asyncio.get_running_loop().time()
        record = repr(sorted((lease.get("spec") or {}).items())) + str(
            lease["metadata"].get("resourceVersion")
        )
        if record != self._seen:
            self._seen, self._seen_at = record, now
        duration = (lease.get("spec") or {}).get("leaseDurationSeconds")
        return now - self._seen_at > (duration if isinstance(duration, int) else self._times.lease)

    async def _write(self, lease: Object | None) -> bool:
        written = self._written(lease, holder=self._identity, seconds=self._times.lease)
        try:
            if lease is None:
                await self._client.create(LEASES, written)
            else:
                await self._client.replace(LEASES, written)
        except ApiConflictError:
            return False
        return True

    def _written(self, lease: Object | None, *, holder: str, seconds: int) -> Object:
        spec: dict[str, Any] = dict((lease or {}).get("spec") or {})
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if spec.get("holderIdentity") != holder:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (
                1 if lease is not None else 0
            )
        spec |= {"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": now}
        metadata = (
            dict(lease["metadata"])
            if lease is not None
            else {"name": self._name, "namespace": self._namespace}
        )
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _why(error: AgentError | TimeoutError) -> dict[str, str]:
    if isinstance(error, AgentError):
        return {"reason": error.reason, "message_": error.message}
    return {"reason": Reason.API_UNAVAILABLE, "message_": "the API server did not answer in time"}
