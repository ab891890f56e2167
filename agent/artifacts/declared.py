"""What a user declares of a model's bytes, compared with what was stored, before any of it is committed.

Bytes that are not what was declared are not unpacked, not stored as a revision and not served.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent.artifacts.errors import disk_errors
from agent.artifacts.manifest import Entry, Manifest
from agent.artifacts.signatures import signed_digests
from agent.artifacts.store import Store
from agent.core.declaration import MAX_LIST_BYTES, Declaration, DigestListError, difference, parse_digest_list
from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.core.uri import redacted


def sha256_of(file: Path) -> str:
    """Return the lower-case hex digest of a file. Blocks."""
    with disk_errors("reading a download to compare its digest"), file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def recorded_sha256(checksum: str | None) -> str | None:
    """Return the digest of a checksum as manifests write it, None where it is of another kind."""
    algorithm, _, value = (checksum or "").partition(":")
    return value if algorithm == "sha256" else None


def refuse_other(uri: str, declared: str | None, found: str | None) -> None:
    """Raise TerminalError(IntegrityMismatch) unless *found* is the digest that is declared, if one is."""
    if declared is not None and found != declared:
        raise TerminalError(
            Reason.INTEGRITY_MISMATCH,
            f"the sha256 of {redacted(uri)[:300]} is {found}, modelSpec.sha256 declares {declared}; correct "
            "the one or upload the other",
        )


def refuse_folder(uri: str, count: int) -> None:
    """Refuse a digest that is declared of several objects, since it says not of which."""
    raise TerminalError(
        Reason.INTEGRITY_MISMATCH,
        f"modelSpec.sha256 is the digest of one object, {redacted(uri)[:300]} holds {count}; name "
        "one object, an archive of them for instance, or the file among them that lists their digests",
    )


@dataclass(frozen=True, slots=True)
class Checker:
    """Compares whole revisions with what is declared of them. *key* is the PEM file of the public key."""

    store: Store
    key: Path | None = None

    def checked(self, manifest: Manifest, declared: Declaration) -> Manifest:
        """Return *manifest* with what it has passed. Blocks; hashes what was not hashed on its way.

        Raises TerminalError(IntegrityMismatch, SignatureInvalid, MissingDependency).
        """
        missing = declared.checks - manifest.checked
        if not missing:
            return manifest
        found = {entry.path: self._digest(entry) for entry in manifest.entries}
        own = {path for path in (declared.listing, declared.signature) if path is not None}
        proof = manifest.proof
        if declared.listing is not None:
            self._compare(
                manifest, self._listed(manifest, declared.listing), found, own, Reason.INTEGRITY_MISMATCH
            )
            proof = "declared"
        if declared.signature is not None:
            file = self._file(manifest, declared.signature, "signature")
            signed, ignored = signed_digests(file, self.key)
            own = {declared.signature, *ignored}
            self._compare(manifest, signed, found, own, Reason.SIGNATURE_INVALID)
            proof = "signed"
        return replace(manifest, checked=manifest.checked | missing, proof=proof)

    def _digest(self, entry: Entry) -> str:
        file = Path(entry.link) if entry.link is not None else self.store.blob_path(entry.blob)
        return recorded_sha256(entry.checksum) or sha256_of(file)

    def _listed(self, manifest: Manifest, path: str) -> Mapping[str, str]:
        file = self._file(manifest, path, "sha256")
        with disk_errors("reading a list of digests"), file.open("rb") as opened:
            raw = opened.read(MAX_LIST_BYTES + 1)
        try:
            return parse_digest_list(raw)
        except DigestListError as error:
            raise TerminalError(
                Reason.INTEGRITY_MISMATCH,
                f"{path[:200]!r} of {redacted(manifest.uri)[:300]} is no list of digests: {error}; write it "
                "with sha256sum",
            ) from error

    def _file(self, manifest: Manifest, path: str, field: str) -> Path:
        for entry in manifest.entries:
            if entry.path == path:
                return Path(entry.link) if entry.link is not None else self.store.blob_path(entry.blob)
        raise TerminalError(
            Reason.SIGNATURE_INVALID if field == "signature" else Reason.INTEGRITY_MISMATCH,
            f"modelSpec.{field} names {path[:200]!r}, and {redacted(manifest.uri)[:300]} has no such file; "
            "upload it beside the others, or correct the name",
        )

    def _compare(
        self,
        manifest: Manifest,
        declared: Mapping[str, str],
        found: Mapping[str, str],
        ignored: set[str],
        reason: Reason,
    ) -> None:
        problem = difference(declared, found, ignored)
        if problem is not None:
            raise TerminalError(
                reason,
                f"{redacted(manifest.uri)[:300]} is not what was declared: {problem}; upload it again whole",
            )
