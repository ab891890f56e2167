"""What parent and child say to each other: one order, then JSON lines, each bounded in length."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from agent.artifacts.manifest import BlobId
from agent.core.archive import ArchiveKind

MAX_LINE = 64 * 1024
"""A path of 3072 bytes takes at most 18 KiB as JSON."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one archive may cost; each limit that is met refuses the whole archive.

    `total_bytes`   of all members; None: what is free on the volume.
    `members`       files and folders.
    `ratio`         members' bytes to the archive's, once they are over 10 MiB.
    `seconds`       wall clock and CPU time for all of it.
    `stall_seconds` without any progress.
    `memory_bytes`  address space of the child.
    """

    total_bytes: int | None = None
    members: int = 100_000
    ratio: int = 200
    seconds: float = 3600.0
    stall_seconds: float = 120.0
    memory_bytes: int = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """The child's order. The descriptors are inherited; the identity holds no secrets.

    `below`: it is a layer of an image, of which only what is below that folder counts.
    """

    archive: int
    folder: int
    kind: ArchiveKind
    identity: str
    total_bytes: int
    limits: Limits
    below: str | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """A file for the member is about to be made."""

    path: str


@dataclass(frozen=True, slots=True)
class Written:
    """So many bytes came out of the archive so far."""

    size: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member is whole: a file `.agent-part-<blob>` of the store dir, mode 0644, not synced.

    `sha256` is lower-case hex.
    """

    path: str
    size: int
    sha256: str
    blob: BlobId


@dataclass(frozen=True, slots=True)
class Hidden:
    """A layer takes away what layers below it have at *path*; *how* is one of `agent.core.layers.Hides`."""

    path: str
    how: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The archive is not unpacked: a Reason and a message."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The system refused something: an errno."""

    errno: int


@dataclass(frozen=True, slots=True)
class Done:
    """Everything was laid down."""

    members: int


Message = Begin | Written | Member | Hidden | Refused | Failed | Done
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Begin, Written, Member, Hidden, Refused, Failed, Done)
}


def encode(message: Message) -> bytes:
    """Return one line."""
    return json.dumps([type(message).__name__, asdict(message)], separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message of one line. Raises ValueError for anything that `encode` would not write."""
    try:
        kind, fields = json.loads(line)
        message = _KINDS[kind](**fields)
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("not a message of the child") from error
    for name, value in asdict(message).items():
        wanted = int if name in {"size", "errno", "members"} else str
        if type(value) is not wanted:
            raise ValueError(f"{kind}.{name} is no {wanted.__name__}")
    return message


def encode_job(job: Job) -> bytes:
    """Return what the child finds on its standard input."""
    return json.dumps(asdict(job)).encode()


def decode_job(raw: bytes) -> Job:
    """Return the order."""
    fields: dict[str, Any] = json.loads(raw)
    limits, kind = Limits(**fields.pop("limits")), ArchiveKind(fields.pop("kind"))
    return Job(limits=limits, kind=kind, **fields)
