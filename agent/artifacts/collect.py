"""Carrying out what `agent.core.disk` decides: manifests first, then the blobs that nobody needs any more."""

import os
from collections.abc import Collection
from dataclasses import dataclass

from agent.artifacts.blobs import Blobs, blob_file, part_file
from agent.artifacts.index import RevisionKey
from agent.artifacts.manifest import BlobId
from agent.core.disk import DiskPolicy, KeptRevision, LooseFile, Volume, choose_removal
from agent.core.model import Revision


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, and what it could not make room for."""

    revisions: tuple[tuple[str, Revision], ...] = ()
    blobs: int = 0
    partials: int = 0
    freed_bytes: int = 0
    short_bytes: int = 0
    short_inodes: int = 0


def collect(
    blobs: Blobs,
    wanted: Collection[str],
    told: Collection[RevisionKey],
    policy: DiskPolicy,
    now: float,
    *,
    stuck: int = 0,
) -> Collected:
    """Remove what may go; *stuck* bytes are used and cannot.

    May raise OSError; what was removed by then is consistent.
    """
    volume = _volume(blobs, stuck)
    with blobs.lock:
        for uri in blobs.expected.keys() - set(wanted):
            del blobs.expected[uri]
        partials = _partials(blobs)
        _mark_used(blobs, frozenset(wanted), frozenset(told), now)
        removal = choose_removal(
            [KeptRevision(each.stored, each.blobs, each.used_at) for _, each in blobs.index.listed()],
            [*partials.values(), *_loose_blobs(blobs)],
            sizes={blob: record.stat.size for blob, record in blobs.index.blobs.items()},
            wanted=frozenset(wanted),
            told=frozenset(told),
            volume=volume,
            policy=policy,
            now=now,
        )
        loose = frozenset(removal.loose)
        gone = [blob for blob, found in partials.items() if found.name in loose]
        freed = sum(partials[blob].size for blob in gone)
        retired = [blobs.retire_partial(blob) for blob in gone]
        taken, freed_blobs = _retire(blobs, removal.revisions, loose)
    blobs.discard([*retired, *taken])
    return Collected(
        removal.revisions,
        len(taken),
        len(gone),
        freed + freed_blobs,
        removal.short_bytes,
        removal.short_inodes,
    )


def _volume(blobs: Blobs, stuck: int) -> Volume:
    room = os.statvfs(blobs.folder.fd)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    return Volume(total, free, room.f_files, room.f_favail, stuck)


def _partials(blobs: Blobs) -> dict[BlobId, LooseFile]:
    """Read the partial downloads we know of; those that never were written are forgotten."""
    expected = _expected(blobs)
    found: dict[BlobId, LooseFile] = {}
    for blob in tuple(blobs.partials):
        stat = blobs.folder.blob_stat(part_file(blob))
        touched = blobs.partial_touched(blob)
        if stat is not None and touched is not None:
            found[blob] = LooseFile(part_file(blob), stat.size, touched, blob in expected)
        elif blob not in expected:
            del blobs.partials[blob]
    return found


def _loose_blobs(blobs: Blobs) -> list[LooseFile]:
    """Return the verified blobs of downloads that are not complete yet."""
    expected = _expected(blobs)
    return [
        LooseFile(blob_file(blob), record.stat.size, record.touched, blob in expected)
        for blob, record in blobs.index.blobs.items()
        if record.references == 0
    ]


def _expected(blobs: Blobs) -> frozenset[BlobId]:
    return frozenset().union(*blobs.expected.values())


def _mark_used(blobs: Blobs, wanted: frozenset[str], told: frozenset[RevisionKey], now: float) -> None:
    """What is wanted or told now is used now, so that it is the last to go when it is not any more."""
    for uri, stored in blobs.index.snapshot().items():
        record = blobs.index.get((uri, stored.revision))
        if uri in wanted and record is not None:
            record.used_at = now
    for key in told:
        record = blobs.index.get(key)
        if record is not None:
            record.used_at = now


def _retire(blobs: Blobs, revisions: Collection[RevisionKey], loose: frozenset[str]) -> tuple[list[str], int]:
    """Drop the manifests, then every blob that only they needed; blobs of a fetch under way stay."""
    expected = _expected(blobs)
    freed: set[BlobId] = set()
    for key in revisions:
        record = blobs.index.get(key)
        freed.update(record.blobs if record else ())
        blobs.drop_revision(key)
    gone = [
        blob
        for blob, record in blobs.index.blobs.items()
        if record.references == 0 and blob not in expected and (blob in freed or blob_file(blob) in loose)
    ]
    size = sum(blobs.index.blobs[blob].stat.size for blob in gone)
    return [blobs.retire(blob) for blob in gone], size
