"""`hf://owner/name`: a repository of the Hugging Face Hub, or a folder or a file of one.

A listing is of one commit. A file's identity is its content, the sha256 of what the Hub keeps outside of git
and git's own id of the rest, so that a new commit fetches what is new in it only; its bytes are asked for at
`resolve/<commit>/<path>`, which for large files redirects to a signed URL of another host. The token goes to
the Hub alone. What Xet holds comes by that way too, by the Hub's bridge: Xet's own protocol (chunks shared
between files, `hf_xet`) is not spoken here.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.paths import check_tree, relative_path
from agent.core.reasons import Reason
from agent.storage.addresses import AddressPolicy, permit_all
from agent.storage.answers import checksums
from agent.storage.base import HttpSource, Listing, RemoteObject
from agent.storage.hf_hub import Entry, Hub, Landing, hub_error
from agent.storage.hf_uri import Place, place_of
from agent.storage.identities import identity_of, pins_of
from agent.storage.landings import Known, Landings
from agent.storage.trust import trust_of
from agent.storage.web import REDIRECTS, complete

SIGNED_SECONDS = 1800.0  # the Hub signs for an hour
PLAIN_BYTES = 50 * 10**9
"""Beyond this the Hub says that Xet alone is sure to bring a file; plain ranges are tried all the same."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """Reads the answers of one landing."""

    where: str
    size: int
    elsewhere: bool
    expire: Callable[[], bool] = field(repr=False)
    chase: Callable[[], None] = field(repr=False)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        """Translate by status; a signed URL that refuses may have expired, one that redirects is followed."""
        del body
        if status in REDIRECTS:
            self.chase()
            return RetryableError(
                Reason.SNAPSHOT_CHANGED, f"{self.where} is redirected once more; it is looked for anew"
            )
        if status in {400, 401, 403, 410} and self.expire():
            return RetryableError(
                Reason.ACCESS_DENIED,
                f"the signed URL of {self.where} is refused by now (status {status}); it is asked for anew",
            )
        if self.elsewhere and self.size > PLAIN_BYTES and 400 <= status < 500 and status not in {408, 429}:
            return TerminalError(
                Reason.STORAGE_ERROR,
                f"{self.where} has over 50 GB and does not come by plain http (status {status}); Xet's own "
                "protocol is not spoken here: save the model in smaller shards, or copy it to s3:// or gs://",
            )
        return hub_error(status, headers, self.where, listed=True)

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the declared checksums of the whole object."""
        return checksums(headers)


class HfProvider:
    """Repositories of the Hub that HF_ENDPOINT names, read with HF_TOKEN or the token of `hf auth login`.

    *policy* is asked of the addresses that the Hub redirects to.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        policy: AddressPolicy = permit_all,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environ, self._policy = environ, policy
        self._trust = trust_of(environ)
        self._made: Hub | None = None
        self._chased: set[str] = set()
        self._landings: Landings[Landing] = Landings(
            clock, lambda _, age: age > SIGNED_SECONDS, self._chased.discard
        )

    @property
    def hanging(self) -> int:
        """None: it has no thread that a library could keep."""
        return 0

    async def resolve(self, uri: str) -> Listing:
        """List the commit that the revision is now."""
        place, commit = await self._hub().commit(place_of(uri))
        files = await self._files(place, commit)
        alone = next((each for each in files if each.path == place.path), None)
        if alone is not None:
            name = place.path.rpartition("/")[2]
            return Listing((self._object(place, commit, alone, name),), single=True)
        prefix = f"{place.path}/" if place.path else ""
        found = [self._object(place, commit, each, _below(prefix, each.path)) for each in files]
        if not found:
            raise TerminalError(Reason.NOT_FOUND, f"{place} has no files")
        check_tree(obj.path for obj in found)
        return Listing(tuple(sorted(found, key=lambda obj: obj.path)))

    async def source(self, obj: RemoteObject) -> HttpSource:
        """Say what to request; asks the Hub once for each file, and again when its signed URL is old."""
        known = await self._landings.of(obj.identity, lambda: self._landed(obj))
        landing = known.landing
        secure = landing.url.origin.scheme == "https"
        return HttpSource(
            url=landing.url.request,
            answers=_Answers(
                f"hf://{obj.key}",
                obj.size or 0,
                landing.elsewhere,
                lambda: self._expire(known),
                lambda: self._chase(obj.identity, known),
            ),
            headers=complete(landing.headers),
            expect={"etag": landing.etag} if landing.etag and landing.etag.isascii() else {},
            ssl_context=await self._trust.context() if secure else None,
            proxy=self._hub().web.proxy(landing.url),
            judged=landing.elsewhere,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.close()

    def _hub(self) -> Hub:
        if self._made is None:
            self._made = Hub(self._environ, self._trust, self._policy)
        return self._made

    async def _files(self, place: Place, commit: str) -> list[Entry]:
        """Return the files below the path, or the file of that very path, which the Hub has no folder for."""
        try:
            return await self._hub().files(place, commit, place.path, deep=True)
        except TerminalError as error:
            if error.reason is not Reason.NOT_FOUND or not place.path:
                raise
            beside = await self._hub().files(place, commit, place.path.rpartition("/")[0], deep=False)
            if alone := [each for each in beside if each.path == place.path]:
                return alone
            raise

    async def _landed(self, obj: RemoteObject) -> Landing:
        """Ask the Hub where the content is, at a later commit too."""
        place, commit, path = _placed(obj.key)
        landing = await self._hub().land(place, commit, path, chase=obj.identity in self._chased)
        _refuse_other(obj, commit, landing)
        return landing

    def _expire(self, known: Known[Landing]) -> bool:
        """Note that a signed URL is refused; False where another one would not help."""
        if not known.landing.elsewhere or self._landings.fresh(known):
            return False
        known.expired = True
        return True

    def _chase(self, identity: str, known: Known[Landing]) -> None:
        """Note that the bytes are further on than the Hub's own redirect leads."""
        known.expired = True
        self._chased.add(identity)

    def _object(self, place: Place, commit: str, entry: Entry, path: str) -> RemoteObject:
        content = {"sha256": entry.sha256} if entry.sha256 else {"oid": entry.oid}
        host = self._hub().endpoint.shown.partition("://")[2].rstrip("/")
        name = f"{place.kind}/{place.repository}/{quote(entry.path, safe='/~')}"
        return RemoteObject(
            path=relative_path(path),
            key=f"{place.kind}/{place.repository}@{commit}/{entry.path}",
            size=entry.size,
            identity=identity_of(f"hf://{host}/{name}", content, entry.size),
            checksums={"sha256": entry.sha256} if entry.sha256 else {"git-sha1": entry.oid},
        )


def _placed(key: str) -> tuple[Place, str, str]:
    repository, _, rest = key.partition("@")
    kind, _, name = repository.partition("/")
    commit, _, path = rest.partition("/")
    return Place(kind, name, commit, ""), commit, path


def _below(prefix: str, path: str) -> str:
    if not path.startswith(prefix):
        raise TerminalError(
            Reason.INVALID_OBJECT_KEY, f"the Hub listed a file that is not below {prefix!r}: {path[:200]!r}"
        )
    return path.removeprefix(prefix)


def _refuse_other(obj: RemoteObject, commit: str, landing: Landing) -> None:
    """Compare what came with the way to a file with what was listed; what is not told is not held against it.

    Raises RetryableError(SnapshotChanged).
    """
    pins = pins_of(obj.identity)
    listed = pins.get("sha256") or pins["oid"]
    said = (landing.linked or landing.etag or "").removeprefix("W/").strip('"')
    same_kind = len(said) == len(listed) and all(char in "0123456789abcdef" for char in said)
    if (same_kind and said != listed) or landing.commit not in {None, commit}:
        raise RetryableError(Reason.SNAPSHOT_CHANGED, f"hf://{obj.key} is not what was listed any more")
