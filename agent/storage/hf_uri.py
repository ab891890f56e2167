"""`hf://` URIs as pure values: which repository of the Hub, at which revision, and what in it.

    hf://owner/name                   the model repository at `main`
    hf://owner/name:revision          as KServe writes it
    hf://owner/name@revision/path     as huggingface_hub writes it; `refs/pr/1` may stand unquoted
    hf://datasets/owner/name/path     another kind of repository: datasets, spaces, kernels; models too

Nothing else of a path is decoded. A bucket of the Hub (`hf://buckets/…`) is no repository: it has no commit.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from agent.core.errors import TerminalError
from agent.core.paths import relative_path
from agent.core.reasons import Reason
from agent.core.uri import redacted

KINDS = ("models", "datasets", "spaces", "kernels")
DEFAULT_REVISION = "main"

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")
_REF = re.compile(r"refs/(?:convert/[\w.-]+|pr/[0-9]+)(?=/|\Z)")
_KSERVE = re.compile(r"([^/@:]+/[^/@:]+):([^:]+?)/?")


@dataclass(frozen=True, slots=True)
class Place:
    """What a URI names; `path` is empty for the whole repository. Paths of URLs are percent-encoded."""

    kind: str
    repository: str
    revision: str
    path: str

    @property
    def api(self) -> str:
        """The path at which the Hub tells about the repository."""
        return f"/api/{self.kind}/{self.repository}"

    def file(self, commit: str, path: str) -> str:
        """Return the path at which the Hub leads to a file's bytes."""
        kind = "" if self.kind == "models" else f"/{self.kind}"
        return f"{kind}/{self.repository}/resolve/{commit}/{quote(path, safe='/~')}"

    def __str__(self) -> str:
        kind = "" if self.kind == "models" else f"{self.kind}/"
        return f"hf://{kind}{self.repository}@{self.revision}{'/' if self.path else ''}{self.path}"


def place_of(uri: str) -> Place:
    """Parse a URI. Raises TerminalError(InvalidStorageUri), for a bucket UnsupportedScheme."""
    rest = uri.partition("://")[2].strip("/")
    kind, slash, below = rest.partition("/")
    if kind == "buckets":
        raise TerminalError(
            Reason.UNSUPPORTED_SCHEME,
            f"{redacted(uri)[:300]} names a bucket of the Hub, and only repositories are read: they have "
            "commits; copy the model to one, or to s3:// or https://",
        )
    if kind in KINDS and slash:
        rest = below
    else:
        kind = "models"
    if match := _KSERVE.fullmatch(rest):
        repository, revision, path = match[1], match[2], ""
    else:
        repository, revision, path = _split(rest)
    if not _REPOSITORY.fullmatch(repository) or not _usable(revision):
        raise TerminalError(
            Reason.INVALID_STORAGE_URI,
            f"{redacted(uri)[:300]} names no repository of the Hub: write hf://owner/name, "
            "hf://owner/name:revision or hf://owner/name@revision/path",
        )
    return Place(kind, repository, revision, relative_path(path) if path else "")


def _split(rest: str) -> tuple[str, str, str]:
    repository, at, after = rest.partition("@")
    if not at or repository.count("/") > 1:  # an @ further on is one of a file's name
        owner, _, below = rest.partition("/")
        name, _, path = below.partition("/")
        return f"{owner}/{name}", DEFAULT_REVISION, path
    if match := _REF.match(after):
        return repository, match[0], after[match.end() :].strip("/")
    revision, _, path = after.partition("/")
    return repository, unquote(revision), path


def _usable(revision: str) -> bool:
    """Git itself allows no more; a dotted segment would lead to another page of the Hub."""
    printable = revision.isprintable() and " " not in revision
    return 0 < len(revision) <= 255 and printable and not {"", ".", ".."} & set(revision.split("/"))
