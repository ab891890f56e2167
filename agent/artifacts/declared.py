"""The digest that a user declares: bytes that have another are not unpacked, not stored and not served."""

import hashlib
from pathlib import Path

from agent.artifacts.errors import disk_errors
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


def refuse_other(uri: str, declared: str, found: str | None) -> None:
    """Raise TerminalError(IntegrityMismatch) unless *found* is the digest that is declared."""
    if found != declared:
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
        "one object, an archive of them for instance, or drop sha256",
    )
