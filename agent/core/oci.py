"""What an `oci://` URI names, and what a manifest says is in it. Pure.

The rules are those of the OCI image and distribution specifications 1.1, and of Docker's image manifest V2
schema 2, which registries serve as well. A document of another kind is refused by its name, never guessed.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.core.errors import RetryableError, TerminalError
from agent.core.paths import check_tree, relative_path
from agent.core.reasons import Reason
from agent.core.uri import redacted

MANIFEST_BYTES: Final = 4 << 20
"""The specification has registries take at least so much, and clients need take no more."""

MOST = (1 << 63) - 1

_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEXES: Final = frozenset({_INDEX, _DOCKER_LIST})
ACCEPT: Final = f"{_MANIFEST}, {_INDEX}, {_DOCKER_MANIFEST}, {_DOCKER_LIST}"
_EMPTY = "application/vnd.oci.empty.v1+json"
_LAYER_TYPE = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.gzip|\.zstd)?)"
)
_IMAGE_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_PACKED_TYPE = re.compile(r".*\.tar(?:[+.]gzip|[+.]zstd)?", re.DOTALL)
MOST_PACKED: Final = 256
"""Twice what Docker builds; a process unpacks each."""
_TITLES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_UNPACK = "io.deis.oras.content.unpack"
_ATTESTATION = "vnd.docker.reference.type"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ANY_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]{1,200}")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REGISTRY = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Reference:
    """One manifest: of a tag, or of a digest, which then is what its bytes must have."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def host(self) -> str:
        """Whom to ask; Docker Hub's registry has another name than its images."""
        return "registry-1.docker.io" if self.registry in DOCKER_HUB else self.registry

    @property
    def path(self) -> str:
        """The path of its manifest."""
        return f"/v2/{self.repository}/manifests/{self.digest or self.tag}"

    def blob(self, digest: str) -> str:
        """Return the path of a blob of the same repository."""
        return f"/v2/{self.repository}/blobs/{digest}"

    def __str__(self) -> str:
        version = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"oci://{self.registry}/{self.repository}{version}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a manifest. `title` is its file's path; `packed` tells that it is a folder's archive."""

    digest: str
    size: int
    media_type: str
    title: str | None = None
    packed: bool = False

    @property
    def sha256(self) -> str:
        """The digest's hex digits."""
        return self.digest.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Files:
    """An artifact whose layers are the model's files, each under its title; sorted."""

    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Layered:
    """Packed folders and files one over the other, lowest first; of an image what is `below` a folder."""

    layers: tuple[Layer, ...]
    below: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an index: a manifest and the platform that it is for, "" for none."""

    digest: str
    platform: str


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests, one of which is to be chosen."""

    choices: tuple[Choice, ...]


Content = Files | Layered | Index


def reference_of(uri: str) -> Reference:
    """Parse a URI. Raises TerminalError(InvalidStorageUri)."""
    rest = uri.partition("://")[2]
    registry, _, name = rest.partition("/")
    if "@" in registry:
        raise _invalid(uri, "credentials are given by a docker config.json, not in the URI")
    if not _REGISTRY.fullmatch(registry.lower()) or not _names_registry(registry):
        raise _invalid(uri, "write oci://registry.example/repository:tag, Docker Hub's as oci://docker.io/…")
    name, at, digest = name.partition("@")
    before, colon, tag = name.rpartition(":")
    repository = before if colon else name
    if at and not _DIGEST.fullmatch(digest):
        raise _invalid(uri, "a digest is sha256: and 64 lower-case hex digits")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(uri, "a tag is up to 128 letters, digits and . _ -")
    registry = registry.lower()
    if registry in DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        raise _invalid(uri, "a repository is lower-case words between slashes")
    return Reference(registry, repository, None if at else (tag if colon else "latest"), digest or None)


def blob_of(key: str) -> Reference:
    """Return the blob, as a reference, that an object's key names."""
    return reference_of(f"oci://{key}")


def _names_registry(word: str) -> bool:
    """Docker's own rule for telling a registry from the first word of a name."""
    return "." in word or ":" in word or word == "localhost"


def _invalid(uri: str, what: str) -> TerminalError:
    return TerminalError(
        Reason.INVALID_STORAGE_URI, f"{redacted(uri)[:300]} names nothing of a registry: {what}"
    )


def verified(raw: bytes, told: str | None, reference: Reference) -> str:
    """Return the digest of a manifest's bytes.

    Raises TerminalError(IntegrityMismatch) where the reference is another one's, RetryableError where the
    registry itself *told* another one: then they changed on their way.
    """
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    if reference.digest not in {None, digest}:
        raise TerminalError(
            Reason.INTEGRITY_MISMATCH, f"{reference} came with the digest {digest}; nothing of it is used"
        )
    if told is not None and _DIGEST.fullmatch(told) and told != digest:
        raise RetryableError(
            Reason.INTEGRITY_MISMATCH, f"{reference} came with the digest {digest}, the registry says {told}"
        )
    return digest


def content_of(raw: bytes, media_type: str | None, where: Reference) -> Content:
    """Read a manifest or an index; *media_type* is what the answer says that it is.

    Raises TerminalError for what is not read here, and says what is.
    """
    document = _parsed(raw, where)
    said = document.get("mediaType") or (media_type or "").partition(";")[0].strip().lower()
    said = said if isinstance(said, str) else ""
    if "manifests" in document and ("layers" in document or "config" in document):
        raise _odd(where, "is an index and a manifest at once")  # CVE-2021-41190
    if said in _INDEXES and isinstance(manifests := document.get("manifests"), list):
        return Index(tuple(_choice(each, where) for each in manifests if _is_manifest(each)))
    if said not in {_MANIFEST, _DOCKER_MANIFEST} or not isinstance(document.get("layers"), list):
        kind = str(said)[:100] or "of no told type"
        raise _odd(
            where, f"is {kind!r}; image manifests and indexes of OCI and of Docker (schema 2) are read"
        )
    layers = tuple(_layer(each, where) for each in document["layers"])
    return _sorted_out([each for each in layers if each.media_type != _EMPTY], document, where)


def chosen(index: Index, platform: str, where: Reference) -> Reference:
    """Return the one manifest of an index that is for *platform* (`linux/arm64`), else the only one there is.

    Raises TerminalError(NotFound) naming what there is.
    """
    matching = [each for each in index.choices if each.platform == platform] or list(index.choices)
    if not matching or (len(matching) > 1 and matching[0].platform != platform):
        there = ", ".join(sorted({each.platform or "none" for each in index.choices})) or "nothing"
        raise TerminalError(
            Reason.NOT_FOUND, f"{where} has no manifest for {platform}, only for: {there[:300]}"
        )
    return replace(where, tag=None, digest=matching[0].digest)


def _sorted_out(layers: Sequence[Layer], document: Mapping[str, Any], where: Reference) -> Content:
    if not layers:
        raise TerminalError(Reason.NOT_FOUND, f"{where} has no layers, so there is no model in it")
    config = document.get("config")
    kind = config.get("mediaType") if isinstance(config, Mapping) else None
    titled = any(each.title is not None for each in layers)
    if not titled and kind in _IMAGE_CONFIGS and not document.get("artifactType"):
        if other := next((each for each in layers if not _LAYER_TYPE.fullmatch(each.media_type)), None):
            raise _odd(where, f"has a layer of the type {other.media_type[:100]!r}; tars of images are read")
        return _layered([replace(each, packed=True) for each in layers], "models", where)
    if bare := next((each for each in layers if each.title is None and not each.packed), None):
        raise _odd(
            where, f"has a layer without a title, of the type {bare.media_type[:100]!r}: no file's name"
        )
    check_tree(relative_path(each.title or "") for each in layers if not each.packed)
    if any(each.packed for each in layers):
        return _layered(layers, None, where)
    return Files(tuple(sorted(layers, key=lambda each: each.title or "")))


def _layered(layers: Sequence[Layer], below: str | None, where: Reference) -> Layered:
    if sum(each.packed for each in layers) > MOST_PACKED:
        raise _odd(where, f"has more than {MOST_PACKED} archives to unpack; build it of fewer layers")
    return Layered(tuple(layers), below)


def _layer(each: Any, where: Reference) -> Layer:
    match each:
        case {"digest": str(digest), "size": int(size), "mediaType": str(kind), **rest} if 0 <= size <= MOST:
            _check_digest(digest, where)
            notes = rest.get("annotations")
            notes = notes if isinstance(notes, Mapping) else {}
            titles = [notes[name] for name in _TITLES if isinstance(notes.get(name), str)]
            told = notes.get(_UNPACK)
            packed = told == "true" if isinstance(told, str) else _is_packed(kind)
            return Layer(digest, size, kind, titles[0] if titles else None, packed)
        case _:
            raise _odd(where, "has a layer without a digest, a size or a type")


def _is_packed(kind: str) -> bool:
    """Tell whether a layer of this type is a folder; oras gives plain files the type of a plain tar."""
    plain = kind == "application/vnd.oci.image.layer.v1.tar"
    return not plain and _PACKED_TYPE.fullmatch(kind) is not None


def _choice(each: Mapping[str, Any], where: Reference) -> Choice:
    digest = str(each.get("digest"))
    _check_digest(digest, where)
    platform = each.get("platform")
    if not isinstance(platform, Mapping):
        return Choice(digest, "")
    return Choice(digest, f"{platform.get('os')}/{platform.get('architecture')}")


def _is_manifest(each: Any) -> bool:
    """Attestations stand in an index beside what they attest to."""
    if not isinstance(each, Mapping):
        return False
    notes = each.get("annotations")
    return not (isinstance(notes, Mapping) and _ATTESTATION in notes)


def _check_digest(digest: str, where: Reference) -> None:
    if _DIGEST.fullmatch(digest):
        return
    kind = digest.partition(":")[0][:20] if _ANY_DIGEST.fullmatch(digest) else "none"
    raise _odd(where, f"names a blob by the digest {kind!r}; sha256 is what is read")


def _parsed(raw: bytes, where: Reference) -> Mapping[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _odd(where, "is no JSON object; is this a registry?")
    return document


def _odd(where: Reference, problem: str) -> TerminalError:
    return TerminalError(Reason.STORAGE_ERROR, f"{where} {problem}")
