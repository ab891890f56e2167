"""What a user declares of a model's bytes, and whether bytes are those.

The law here: a declaration is met by all of a revision's files or by none. A list of digests names every
file that there is and no other, so a file can neither be swapped nor slipped in nor left out.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.core.errors import AgentError
from agent.core.paths import relative_path

_HEX = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9A-Fa-f]{64}) [ *](?P<path>.+)")
_BSD_LINE = re.compile(r"SHA256 \((?P<path>.+)\) = (?P<digest>[0-9A-Fa-f]{64})")
MAX_LIST_BYTES = 8 << 20


class DigestListError(ValueError):
    """A file that should be a list of digests is none; the message says where."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What modelSpec declares: `sha256`, a digest or the path of a list of digests, and `signature`.

    `signature` is the path of an OpenSSF model signature (a detached one, made with a key).
    """

    sha256: str | None = None
    signature: str | None = None

    @property
    def digest(self) -> str | None:
        """The lower-case hex digest of the one object, None where another kind or nothing is declared."""
        return self.sha256 if self.sha256 is not None and _HEX.fullmatch(self.sha256) else None

    @property
    def listing(self) -> str | None:
        """The path of the list of digests among the model's files, None where there is none."""
        return None if self.sha256 is None or self.digest is not None else self.sha256

    @property
    def checks(self) -> frozenset[str]:
        """What has to have been checked of a whole revision; a digest is compared by itself."""
        named = (("sha256", self.listing), ("signature", self.signature))
        return frozenset(f"{kind}:{path}" for kind, path in named if path is not None)

    def __bool__(self) -> bool:
        return self.sha256 is not None or self.signature is not None

    def __str__(self) -> str:
        """Return one line that is the same for the same declaration only."""
        return f"sha256:{self.sha256 or ''} signature:{self.signature or ''}"


NOTHING_DECLARED = Declaration()


def parse_digest_list(raw: bytes) -> Mapping[str, str]:
    """Return path to lower-case digest of what `sha256sum` wrote, GNU's form or BSD's.

    Empty lines and lines that begin with '#' are skipped. Raises DigestListError with the line's number.
    """
    if len(raw) > MAX_LIST_BYTES:
        raise DigestListError(f"it has more than {MAX_LIST_BYTES} bytes")
    try:
        lines = raw.decode().splitlines()
    except UnicodeDecodeError as error:
        raise DigestListError("it is no text in UTF-8") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line) or _BSD_LINE.fullmatch(line)
        if match is None or match.groupdict().get("escaped"):
            raise DigestListError(f"line {number} is not of the form '<64 hex digits>  <path>'")
        try:
            path = relative_path(match["path"].removeprefix("./"))
        except AgentError as error:
            raise DigestListError(f"line {number} names no file of a model: {error.message}") from error
        digest = match["digest"].lower()
        if found.setdefault(path, digest) != digest:
            raise DigestListError(f"line {number} gives {path[:200]!r} a second digest")
    if not found:
        raise DigestListError("it lists nothing")
    return found


def difference(
    declared: Mapping[str, str], found: Mapping[str, str], ignored: Collection[str] = ()
) -> str | None:
    """Say how *found* differs from *declared* (both path to digest), None where it does not.

    *ignored* are paths, files or folders, that need not be declared.
    """
    for path in sorted(declared.keys() - found.keys()):
        return f"{path[:200]!r} is declared and is not there"
    for path, digest in sorted(found.items()):
        wanted = declared.get(path)
        if wanted is None and not _ignores(ignored, path):
            return f"{path[:200]!r} is there and is not declared"
        if wanted is not None and wanted != digest:
            return f"the sha256 of {path[:200]!r} is {digest}, declared is {wanted}"
    return None


def _ignores(ignored: Collection[str], path: str) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in ignored)
