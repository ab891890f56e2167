"""The revision of a listing: one digest over what every object is, never over where it came from.

Equal listings have equal revisions in whatever order they were read; any other path, size or identity is
another revision (design §5).
"""

import hashlib
import json
from collections.abc import Iterable

from agent.core.model import Revision

_FORMAT = "model-agent revision 1"
_written = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def revision_of(objects: Iterable[tuple[str, int | None, str]]) -> Revision:
    """Return the sha256 hex of the canonical form of *objects*: (path, size in bytes, identity) each.

    A size of None (known only by reading) differs from every number.
    """
    parts = sorted(map(_written, objects))
    digest = hashlib.sha256(_FORMAT.encode())
    for part in parts:
        digest.update(b"\n")
        digest.update(part.encode())
    return Revision(digest.hexdigest())
