"""Which stored bytes may go, and in which order (design §8.9). Pure; `agent.artifacts` carries it out.

The law: the newest revision of a wanted URI and whatever a server was told of never goes. What nothing
refers to goes only when room is short, least recently used first, the revision before a wanted one last.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.core.model import Revision, StoredRevision


@dataclass(frozen=True, slots=True)
class DiskPolicy:
    """How much of the volume the store leaves alone. Both limits hold where both are given.

    `keep_free_ratio`   share of the volume's bytes and inodes that stays free; 0 asks for nothing.
    `budget_bytes`      the most that blobs, partial downloads and what is stuck may take; None: no limit.
    `loose_seconds`     how long a partial download, or a blob without a manifest, stays unasked for.
    `spare_revisions`   the most revisions kept that nothing refers to, however small they are (law 9).
    """

    keep_free_ratio: float = 0.10
    budget_bytes: int | None = None
    loose_seconds: float = 3600.0
    spare_revisions: int = 20_000


@dataclass(frozen=True, slots=True)
class Volume:
    """A reading of the file system: what an unprivileged writer may still use. 0 inodes: not counted.

    `stuck_bytes` are ours, and used by what cannot be removed.
    """

    total_bytes: int
    free_bytes: int
    total_inodes: int = 0
    free_inodes: int = 0
    stuck_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KeptRevision:
    """A complete revision, the blobs it needs, and when it was last listed, published or wanted."""

    stored: StoredRevision
    blobs: tuple[str, ...]
    used_at: float


@dataclass(frozen=True, slots=True)
class LooseFile:
    """A partial download, or a blob that no manifest names. `expected`: a wanted fetch asked for it."""

    name: str
    size: int
    used_at: float
    expected: bool


@dataclass(frozen=True, slots=True)
class Removal:
    """What goes. `short_bytes` and `short_inodes` are what is still missing after all of it."""

    revisions: tuple[tuple[str, Revision], ...] = ()
    loose: tuple[str, ...] = ()
    short_bytes: int = 0
    short_inodes: int = 0


def choose_removal(
    kept: Collection[KeptRevision],
    loose: Collection[LooseFile],
    *,
    sizes: Mapping[str, int],
    wanted: Collection[str],
    told: Collection[tuple[str, Revision]],
    volume: Volume,
    policy: DiskPolicy,
    now: float,
) -> Removal:
    """Choose what to remove. *sizes* tells each blob's bytes, *wanted* the URIs, *told* (URI, revision).

    *kept* is in the order of listing: the last one of a URI is its newest, whatever the clock said.
    A clock that went back never makes anything older: a time in the future counts as now.
    """
    gone = [each for each in loose if not each.expected and now - each.used_at > policy.loose_seconds]
    spare = _in_order(kept, frozenset(wanted), frozenset(told), now)
    freed = sum(each.size for each in gone)
    used = sum(sizes.values()) + sum(each.size for each in loose) + volume.stuck_bytes
    short_bytes = _short_bytes(volume, used, policy) - freed
    short_inodes = _share(volume.total_inodes, policy) - volume.free_inodes - len(gone)
    references = Counter(blob for each in kept for blob in each.blobs)
    revisions: list[tuple[str, Revision]] = []
    for each in spare:
        if short_bytes <= 0 and short_inodes <= 0 and len(spare) - len(revisions) <= policy.spare_revisions:
            break
        revisions.append((each.stored.uri, each.stored.revision))
        references.subtract(each.blobs)
        freed_blobs = [blob for blob in each.blobs if references[blob] == 0]
        short_bytes -= sum(sizes.get(blob, 0) for blob in freed_blobs)
        short_inodes -= len(freed_blobs) + 1
    return Removal(
        tuple(revisions), tuple(each.name for each in gone), max(0, short_bytes), max(0, short_inodes)
    )


def _in_order(
    kept: Iterable[KeptRevision], wanted: frozenset[str], told: frozenset[tuple[str, Revision]], now: float
) -> Sequence[KeptRevision]:
    """Return what may go at all: least recently used first, the last one before a wanted one at the end."""
    by_uri: dict[str, list[KeptRevision]] = {}
    for each in kept:
        by_uri.setdefault(each.stored.uri, []).append(each)
    ranked: list[tuple[int, float, str, Revision, KeptRevision]] = []
    for uri, revisions in by_uri.items():
        revisions.reverse()
        for place, each in enumerate(revisions[1:] if uri in wanted else revisions):
            previous = int(uri in wanted and place == 0)
            if (uri, each.stored.revision) not in told:
                ranked.append((previous, min(each.used_at, now), uri, each.stored.revision, each))
    return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:4])]


def _short_bytes(volume: Volume, used: int, policy: DiskPolicy) -> int:
    short = _share(volume.total_bytes, policy) - volume.free_bytes
    if policy.budget_bytes is not None:
        short = max(short, used - policy.budget_bytes)
    return short


def _share(total: int, policy: DiskPolicy) -> int:
    return int(total * policy.keep_free_ratio)
