"""`oci://registry/repository:tag`, or `@sha256:…`: an artifact of a registry, a layer a file; or an image.

A listing is of one manifest, whose bytes are hashed. A file's identity is its digest and nothing else, so
that two models, tags or registries that hold it share its blob. Whatever brings its bytes, a registry or the
host that it redirects to, they are proved by their sha256.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.oci import Content, Files, Index, Layer, Layered, Reference, blob_of, chosen, reference_of
from agent.core.paths import check_tree
from agent.core.reasons import Reason
from agent.storage.addresses import AddressPolicy, permit_all
from agent.storage.base import HttpSource, Listing, RemoteObject
from agent.storage.landings import FRESH_SECONDS, MAX_REMEMBERED, Known, Landings
from agent.storage.oci_client import Landing, RegistryClient, registry_error
from agent.storage.trust import trust_of
from agent.storage.web import REDIRECTS, complete

LANDED_SECONDS = 240.0  # signed URLs of registries are good for five minutes and more

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""How Go, and so an index, calls what Linux calls otherwise."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """Reads the answers of one landing."""

    where: str
    expire: Callable[[], bool] = field(repr=False)
    again: Callable[[], None] = field(repr=False)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        """Translate by status; a token and a signed URL may have ended, a redirect is followed anew."""
        del body
        if status in REDIRECTS:
            self.again()
            return RetryableError(
                Reason.STORAGE_ERROR, f"{self.where} is redirected once more; it is looked for anew"
            )
        if status in {400, 401, 403, 410} and self.expire():
            return RetryableError(
                Reason.ACCESS_DENIED,
                f"{self.where} is refused by now (status {status}); a token or a URL is asked for anew",
            )
        return registry_error(status, headers, self.where, listed=True)

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Nothing: the manifest has told all."""
        del headers
        return {}


class OciProvider:
    """Registries of OCI and of Docker, read with what docker's config.json has for each.

    *policy* and *allowed_hosts* hold for the registry, its token server and where its blobs are.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        policy: AddressPolicy = permit_all,
        allowed_hosts: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        machine: str | None = None,
    ) -> None:
        machine = machine or platform.machine()
        self._platform = f"linux/{ARCHITECTURES.get(machine, machine)}"
        self._trust = trust_of(environ)
        self._client = RegistryClient(
            environ, self._trust, policy=policy, allowed_hosts=allowed_hosts, clock=clock
        )
        self._landings: Landings[Landing] = Landings(
            clock, lambda landing, age: landing.elsewhere and age > LANDED_SECONDS
        )
        self._serving: set[tuple[str, str]] = set()  # hosts and repositories that redirected no blob so far

    @property
    def hanging(self) -> int:
        """None: it has no thread that a library could keep."""
        return 0

    async def resolve(self, uri: str) -> Listing:
        """List the manifest that the tag is now."""
        reference = reference_of(uri)
        digest, content = await self._client.manifest(reference)
        if isinstance(content, Index):
            reference = chosen(content, self._platform, reference)
            digest, content = await self._client.manifest(reference)
        return _listing(content, Reference(reference.registry, reference.repository, None, digest))

    async def source(self, obj: RemoteObject) -> HttpSource:
        """Say what to request; asks the registry once for each blob, and again when that is old."""
        blob = blob_of(obj.key)
        if obj.key not in self._landings and (blob.host, blob.repository) in self._serving:
            self._landings.remember(obj.key, self._client.at_home(blob))
        known = await self._landings.of(obj.key, lambda: self._landed(blob))
        landing = known.landing
        own = {} if landing.elsewhere else await self._client.authorization(blob)
        return HttpSource(
            url=landing.url.request,
            answers=_Answers(
                str(blob), lambda: self._expire(known, blob, own), lambda: self._again(known, blob)
            ),
            headers=complete(own),
            ssl_context=await self._trust.context() if landing.url.origin.scheme == "https" else None,
            proxy=self._client.web.proxy(landing.url),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _landed(self, blob: Reference) -> Landing:
        landing = await self._client.land(blob)
        if not landing.elsewhere and len(self._serving) < MAX_REMEMBERED:
            self._serving.add((blob.host, blob.repository))
        return landing

    def _again(self, known: Known[Landing], blob: Reference) -> None:
        """Note that the bytes are not where they were thought to be, nor need those of its neighbours be."""
        known.expired = True
        self._serving.discard((blob.host, blob.repository))

    def _expire(self, known: Known[Landing], blob: Reference, used: Mapping[str, str]) -> bool:
        """Note that what was asked is refused; False where asking anew would not help."""
        if known.landing.elsewhere:
            ended = not self._landings.fresh(known)
        else:
            ended = self._client.doubt(blob, used, FRESH_SECONDS)
        known.expired = known.expired or ended
        return ended


def _listing(content: Content, manifest: Reference) -> Listing:
    match content:
        case Files(layers):
            found = tuple(_object(manifest, layer, layer.title or "") for layer in layers)
            return Listing(found, single=len(found) == 1)
        case Layered((layer,), None):
            return Listing((_object(manifest, layer, "layer.tar"),), single=True)
        case Layered(layers, below):
            named = [_layer_path(number, layer) for number, layer in enumerate(layers)]
            check_tree(named)
            found = tuple(_object(manifest, layer, path) for layer, path in zip(layers, named, strict=True))
            packed = frozenset(path for layer, path in zip(layers, named, strict=True) if layer.packed)
            return Listing(found, packed=packed, below=below)
        case Index():
            raise TerminalError(Reason.STORAGE_ERROR, f"{manifest} is an index in an index")


def _layer_path(number: int, layer: Layer) -> str:
    """Name an object; a packed one's name is in no model, and promises a tar."""
    return f"layer-{number:04}-{layer.sha256[:12]}.tar" if layer.packed else layer.title or ""


def _object(manifest: Reference, layer: Layer, path: str) -> RemoteObject:
    return RemoteObject(
        path=path,
        key=f"{manifest.registry}/{manifest.repository}@{layer.digest}",
        size=layer.size,
        identity=f"oci:{layer.digest}?size={layer.size}",
        checksums={"sha256": layer.sha256},
        media_type=layer.media_type,
    )
