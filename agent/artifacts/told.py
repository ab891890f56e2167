"""What the server was told, as small files, one a name. No fsync: on power loss the server forgets too."""

import hashlib
import json
from dataclasses import asdict, dataclass

from agent.core.model import ModelName, Told

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ToldRecord:
    """What a name's file says. `previous` is the last confirmed one while `told` is not confirmed."""

    name: ModelName
    told: Told
    previous: Told | None = None


def told_file(name: ModelName) -> str:
    """Return the flat file name of a name's record."""
    return f".agent-told-{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def succeed(name: ModelName, told: Told, before: ToldRecord | None) -> ToldRecord:
    """Return the record after *told*, carrying the last confirmed one along until this one is."""
    if told.confirmed or before is None:
        return ToldRecord(name, told)
    return ToldRecord(name, told, before.told if before.told.confirmed else before.previous)


def encode(record: ToldRecord) -> bytes:
    """Return the file's content."""
    previous = asdict(record.previous) if record.previous else None
    body = {"format": FORMAT, "name": record.name, "told": asdict(record.told), "previous": previous}
    return json.dumps(body, separators=(",", ":")).encode()


def decode(raw: bytes) -> ToldRecord | None:
    """Return what *raw* says, None where it is torn or of another format version."""
    try:
        body = json.loads(raw)
        if body["format"] != FORMAT:
            return None
        previous = Told(**body["previous"]) if body["previous"] else None
        return ToldRecord(ModelName(body["name"]), Told(**body["told"]), previous)
    except (ValueError, KeyError, TypeError):
        return None
