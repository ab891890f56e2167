"""JSON patches (RFC 6902) carried out, of the operations add, replace and remove.

Only what a patch leads through is copied: a document may be nested deeper than Python copies.
"""

import copy
from collections.abc import Sequence
from typing import Any


def carried_out(document: Any, patch: Sequence[dict[str, Any]]) -> Any:
    """Return the patched document. Raises KeyError, IndexError or ValueError where it does not fit."""
    holder = {"": document}
    for each in patch:
        where, key = holder, ""
        for part in each["path"].split("/")[1:]:
            below = where[key] = copy.copy(where[key])
            where = below
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(where, list):
                key = len(where) if key == "-" else int(key)
        match each["op"]:
            case "add" if isinstance(where, list):
                where.insert(key, each["value"])
            case "add":
                where[key] = each["value"]
            case "replace":
                where[key], _ = each["value"], where[key]
            case "remove":
                del where[key]
            case other:
                raise ValueError(f"no operation {other!r}")
    return holder[""]
