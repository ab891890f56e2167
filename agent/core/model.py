"""The nouns: what is wanted, what was told, what is there. Bytes are plain `int`, times are Unix seconds."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import NewType

from agent.core.declaration import NOTHING_DECLARED, Declaration
from agent.core.reasons import Reason

ModelName = NewType("ModelName", str)
"""A name the agent takes: `[A-Za-z0-9_.-]{1,253}`, no leading dot, not `SUCCESS.*` (design §8.2)."""

Revision = NewType("Revision", str)
"""Lower-case hex digest of a resolved listing: paths, sizes, identities. New bytes are a new revision."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One accepted entry of models.json. `memory` is the text as written, null where it was absent.

    `sha256` and `signature` are what the bytes must be, see `Declaration`; null for any.
    """

    storage_uri: str
    framework: str
    memory_bytes: int
    memory: str | None = None
    sha256: str | None = None
    signature: str | None = None

    @property
    def declared(self) -> Declaration:
        """What the bytes must be."""
        plain = self.sha256 is None and self.signature is None
        return NOTHING_DECLARED if plain else Declaration(self.sha256, self.signature)

    @property
    def source(self) -> str:
        """What is to be fetched: the URI, and which bytes it must have."""
        declared = self.declared
        return self.storage_uri if declared is NOTHING_DECLARED else f"{self.storage_uri}\n{declared}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """An entry that the entry alone proves wrong. `name` is null where none could be read."""

    name: str | None
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What one document asks for, bad entries replaced by what was last accepted under their name.

    `accepted` counts the entries of the document itself that are good; `models` also holds those that
    stay because their entry was rejected (law 2). `digest` is the sha256 hex of the document's bytes.
    `ignored_keys` are some of the keys that nobody reads.
    """

    models: Mapping[ModelName, ModelSpec]
    rejected: tuple[Rejection, ...] = ()
    accepted: int = 0
    digest: str | None = None
    ignored_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Integrity:
    """What speaks for the bytes of a revision: the weakest proof of its files, and their kinds of checksum.

    `proof` is "signed", "declared", "provider", or "seen-first": then nobody but us has named a digest.
    """

    proof: str
    checksums: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether somebody else's word was compared with the bytes."""
        return self.proof != "seen-first"


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A complete, verified revision on disk: its manifest exists, and every blob of it.

    `sha256` is the digest of the one object that the URI names, None for a folder or where none is known.
    `checked` holds the `Declaration.checks` that all of its files have passed.
    """

    uri: str
    revision: Revision
    size_bytes: int
    resolved_at: float
    sha256: str | None = None
    checked: frozenset[str] = frozenset()
    integrity: Integrity | None = field(default=None, compare=False)

    def fits(self, spec: ModelSpec) -> bool:
        """Whether these are bytes that *spec* declares, or it declares none."""
        declared = spec.declared
        return declared is NOTHING_DECLARED or self.meets(declared)

    def meets(self, declared: Declaration) -> bool:
        """Whether these are known to be the bytes that are declared."""
        return declared.digest in {None, self.sha256} and declared.checks <= self.checked


@dataclass(frozen=True, slots=True)
class Told:
    """What the server was last told under a name, and whether it confirmed it.

    `confirmed` is false from before the publish until the server's answer is known, and after an
    outcome that could not be found out: then the name is loaded again (design §5).
    `uri` is the storage URI this revision came from, `memory_bytes` what it was admitted with.
    `beside_bytes`: what the server may hold of another revision while this one is not confirmed, since
    nobody knows what became of a load: one of them, or both while it goes on.
    `suspect` is the revision that took the server down when it was loaded last under this name, `crashes`
    how often in a row; so no restart of the agent gives it a new chance to.
    """

    revision: Revision
    uri: str
    framework: str
    memory_bytes: int
    confirmed: bool
    beside_bytes: int = 0
    suspect: Revision | None = None
    crashes: int = 0

    def held_bytes(self, *, moving: bool = False) -> int:
        """The most that the server may hold under this name, *moving* while it loads there (law 5)."""
        beside = 0 if self.confirmed else self.beside_bytes
        return self.memory_bytes + beside if moving else max(self.memory_bytes, beside)

    def doubted(self, beside_bytes: int) -> "Told":
        """Return the same, not confirmed, with what the server may hold in its stead."""
        return replace(self, confirmed=False, beside_bytes=beside_bytes)

    def found_loaded(self) -> "Told":
        """Return the same, confirmed: the server holds the name, and nothing else can be what it holds."""
        return replace(self, confirmed=True, beside_bytes=0).suspecting(self)

    def suspecting(self, before: "Told | None", crashed: Revision | None = None) -> "Told":
        """Return the same with the suspect of *before*, or *crashed*, which just took the server down.

        One that is confirmed is no suspect any more.
        """
        suspect, crashes = (before.suspect, before.crashes) if before is not None else (None, 0)
        if crashed is not None:
            suspect, crashes = crashed, crashes + 1 if suspect == crashed else 1
        if self.confirmed and suspect == self.revision:
            suspect, crashes = None, 0
        return replace(self, suspect=suspect, crashes=crashes)


@dataclass(frozen=True, slots=True)
class ObservedState:
    """One reading of disk and server.

    `stored`     the newest complete revision of each URI.
    `told`       what the server was told, by name.
    `restorable` the names whose told revision is still complete on disk.
    `loaded`     the names that the server itself lists as served, ours or not.
    `moving`     the names that it lists as loading or unloading just now.
    `server_up`  the server answered its last reading and is ready for work.
    `layout_by_framework` the server's folder layout depends on the framework, so its change is a new load.
    """

    stored: Mapping[str, StoredRevision]
    told: Mapping[ModelName, Told]
    restorable: Container[ModelName]
    loaded: frozenset[ModelName]
    server_up: bool
    moving: frozenset[ModelName] = frozenset()
    layout_by_framework: bool = False

    def serves(self, name: ModelName) -> Told | None:
        """Return what the server is known to serve under *name*, None if nothing or if it is not known."""
        told = self.told.get(name)
        return told if told is not None and told.confirmed and name in self.loaded else None

    def held_bytes(self, name: ModelName, spec: ModelSpec | None) -> int:
        """Return what the server holds under *name*, wanted as *spec*, while no action runs there."""
        if name not in self.loaded and name not in self.moving:
            return 0
        told = self.told.get(name)
        if told is None:  # loaded by somebody else: only counted where the name is ours to manage
            return spec.memory_bytes if spec is not None else 0
        if spec is not None and self.settled(name, spec):
            return spec.memory_bytes
        return told.held_bytes(moving=name in self.moving)

    def settled(self, name: ModelName, spec: ModelSpec) -> bool:
        """Whether the server confirmed exactly the revision that *spec* means, as far as was listed."""
        stored = self.stored.get(spec.storage_uri)
        served = self.serves(name)
        return (
            stored is not None
            and served is not None
            and served.revision == stored.revision
            and stored.fits(spec)
            and (not self.layout_by_framework or served.framework == spec.framework)
        )
