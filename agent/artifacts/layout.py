"""From a revision's files to the published tree's: pure, and checked before anything is written."""

from collections.abc import Mapping

from agent.artifacts.blobs import blob_file
from agent.artifacts.index import BlobRecord
from agent.artifacts.manifest import BlobId, Manifest
from agent.artifacts.publish import Fresh, Item, Linked, Pointer
from agent.core.errors import RetryableError, TerminalError
from agent.core.paths import check_tree, relative_path
from agent.core.reasons import Reason
from agent.core.uri import redacted


def arrange(
    manifest: Manifest, layout: Mapping[str, str | bytes], blobs: Mapping[BlobId, BlobRecord]
) -> Mapping[str, Item]:
    """Return what stands at each published path.

    Raises TerminalError(InvalidObjectKey) for a path that leads out or clashes, TerminalError(NotFound) for
    a file that the revision does not have, RetryableError(IntegrityMismatch) for a blob that is gone.
    """
    check_tree(relative_path(path) for path in layout)
    entries = {entry.path: entry for entry in manifest.entries}
    items: dict[str, Item] = {}
    for path, source in layout.items():
        if isinstance(source, bytes):
            items[path] = Fresh(source)
            continue
        entry = entries.get(source)
        if entry is None:
            raise TerminalError(
                Reason.NOT_FOUND, f"{redacted(manifest.uri)} has no file {source[:200]!r} to publish"
            )
        if entry.link is not None:
            items[path] = Pointer(entry.link)
            continue
        record = blobs.get(entry.blob)
        if record is None or record.stat.size != entry.size:
            raise RetryableError(
                Reason.INTEGRITY_MISMATCH,
                f"a file of {redacted(manifest.uri)} is not in the store any more; it is fetched again",
            )
        items[path] = Linked(entry.blob, blob_file(entry.blob), record.stat)
    return items
