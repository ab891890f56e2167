"""models.json, as KServe writes it and as its agent reads it, told as what is wanted.

The law here: a bad document changes nothing, a bad entry changes nothing under its name, and everything
else applies. Format: kserve-contract §1.1 (an array of modelName and modelSpec{storageUri, framework,
memory}); keys are compared without case and in document order, as Go's encoding/json does.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from agent.core.document import MAX_DOCUMENT_BYTES, ConfigError, kind_of, parse_entries
from agent.core.errors import AgentError
from agent.core.model import DesiredState, ModelName, ModelSpec, Rejection
from agent.core.paths import relative_path
from agent.core.quantity import MAX_INT64, parse_quantity
from agent.core.reasons import Reason
from agent.core.uri import scheme_of

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "ConfigError",
    "desired_state",
    "storage_uri_problem",
    "to_document",
    "valid_name",
]

_MAX_URI = 4096
_MAX_FRAMEWORK = 253
_MAX_IGNORED = 5  # so many keys that nobody reads are named
_NAME = re.compile(r"(?!SUCCESS\.)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,252}")
_URI = re.compile(r"(?:/|[A-Za-z][A-Za-z0-9+.-]*://)[^\s\x00-\x1f\x7f-\x9f]+")
_ENTRY_FIELDS = frozenset({"modelName", "modelSpec"})
_SPEC_FIELDS = frozenset({"storageUri", "framework", "memory", "sha256", "signature"})
_HEX = re.compile(r"[0-9A-Fa-f]+")
_BY_FOLDED_KEY = {field.lower(): field for field in _ENTRY_FIELDS | _SPEC_FIELDS}
_GO_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


class _EntryError(ValueError):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def desired_state(
    raw: bytes,
    previous: DesiredState | None,
    *,
    default_memory_bytes: int = 0,
    max_removal: int | None = None,
) -> DesiredState:
    """Return what the document asks for, with what *previous* held under names whose entry is rejected.

    While an entry has no readable name, nothing of *previous* is removed at all. Names come sorted, so
    the order of the entries shows in the rejections' messages only.

    Raises ConfigError where the document as a whole is refused, and where it would remove more than
    *max_removal* of the models of *previous*.
    """
    ignored: set[str] = set()
    entries = [_entry(value, ignored) for value in parse_entries(raw)]
    names = Counter(entry.name for entry in entries)
    read_memory = _MemoryReader(default_memory_bytes)
    accepted: dict[ModelName, ModelSpec] = {}
    rejected: list[Rejection] = []
    for index, entry in enumerate(entries):
        try:
            if names[entry.name] > 1:
                _refuse_duplicate(entry)
            name = _model_name(entry)
            accepted[name] = _spec(entry.value, read_memory, ignored)
        except _EntryError as error:
            rejected.append(Rejection(entry.name, error.reason, f"entry [{index}]: {error.message}"))
    models = accepted | _carried_over(previous, accepted, rejected)
    if max_removal is not None and previous is not None:
        _check_removals(previous, models, max_removal)
    return DesiredState(
        models={name: models[name] for name in sorted(models)},
        rejected=tuple(rejected),
        accepted=len(accepted),
        digest=hashlib.sha256(raw).hexdigest(),
        ignored_keys=tuple(sorted(ignored)[:_MAX_IGNORED]),
    )


def to_document(models: Mapping[ModelName, ModelSpec]) -> bytes:
    """Return the models.json of *models*: sorted by name, compact, escaped as Go escapes it.

    The same models give the same bytes, and `desired_state` reads them back to the same models.
    """
    entries = []
    for name in sorted(models):
        spec = models[name]
        said = {"storageUri": spec.storage_uri, "framework": spec.framework}
        if spec.memory is not None:
            said["memory"] = spec.memory
        if spec.sha256 is not None:
            said["sha256"] = spec.sha256
        if spec.signature is not None:
            said["signature"] = spec.signature
        entries.append({"modelName": name, "modelSpec": said})
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_GO_ESCAPES).encode()


def valid_name(name: str) -> bool:
    """Tell whether the agent takes *name* for a model: a plain file name that KServe does not reserve."""
    return _NAME.fullmatch(name) is not None


def storage_uri_problem(uri: str) -> str | None:
    """Say in words, without the URI, why it cannot be one; None where it can.

    Whether anything reads its scheme is not looked at: that depends on what is installed.
    """
    if not uri:
        return "storageUri is missing or empty"
    if len(uri) > _MAX_URI:
        return f"storageUri has {len(uri)} characters, more than {_MAX_URI}"
    if _URI.fullmatch(uri):
        return None
    if scheme_of(uri) is None:
        return "storageUri has no scheme such as s3:// and is no absolute path"
    return "storageUri names nothing after its scheme, or holds white space or control characters"


def _carried_over(
    previous: DesiredState | None, accepted: Mapping[ModelName, ModelSpec], rejected: list[Rejection]
) -> dict[ModelName, ModelSpec]:
    if previous is None or not rejected:
        return {}
    names = {rejection.name for rejection in rejected}
    everything = None in names
    return {
        name: spec
        for name, spec in previous.models.items()
        if name not in accepted and (everything or name in names)
    }


def _check_removals(previous: DesiredState, models: Mapping[ModelName, ModelSpec], max_removal: int) -> None:
    removed = sorted(previous.models.keys() - models.keys())
    if len(removed) <= max_removal:
        return
    named = ", ".join(removed[:5]) + (", …" if len(removed) > 5 else "")
    raise ConfigError(
        Reason.TOO_MANY_REMOVALS,
        f"the document would remove {len(removed)} of {len(previous.models)} models ({named}), more than the "
        f"{max_removal} that --max-removal allows at once; restore them, remove fewer at a time, or raise it",
    )


class _Entry(NamedTuple):
    name: str | None
    value: Any


def _entry(value: Any, ignored: set[str]) -> _Entry:
    """Find the name that an entry is rejected under, None where there is none to be read."""
    if type(value) is not tuple:
        return _Entry(None, value)
    fields = _fields(value, _ENTRY_FIELDS, ignored)
    name = fields.get("modelName")
    if type(name) is str and 0 < len(name) <= 253 and name.isprintable():
        return _Entry(name, fields)
    return _Entry(None, fields)


def _model_name(entry: _Entry) -> ModelName:
    if type(entry.value) is not dict:
        raise _EntryError(Reason.INVALID_ENTRY, f"it is {kind_of(entry.value)} where an object is expected")
    if entry.name is None or not valid_name(entry.name):
        raise _EntryError(
            Reason.INVALID_NAME,
            "modelName must be a string of 1 to 253 letters, digits, '_', '.' and '-', not begin with a dot "
            "and not with 'SUCCESS.'",
        )
    return ModelName(entry.name)


def _refuse_duplicate(entry: _Entry) -> None:
    if entry.name is not None and valid_name(entry.name):
        raise _EntryError(Reason.DUPLICATE_NAME, "its modelName occurs more than once; leave one of them")


def _spec(entry: Mapping[str, Any], read_memory: "_MemoryReader", ignored: set[str]) -> ModelSpec:
    """Read the modelSpec of an entry. Raises _EntryError with the first thing that is wrong with it."""
    pairs = entry.get("modelSpec")
    if type(pairs) is not tuple:
        kind = "missing" if pairs is None else f"{kind_of(pairs)} where an object is expected"
        raise _EntryError(Reason.INVALID_ENTRY, f"modelSpec is {kind}")
    fields = _fields(pairs, _SPEC_FIELDS, ignored)
    uri = fields.get("storageUri", "")
    if type(uri) is not str:
        raise _EntryError(Reason.INVALID_STORAGE_URI, f"storageUri is {kind_of(uri)}, not a string")
    problem = storage_uri_problem(uri)
    if problem is not None:
        raise _EntryError(Reason.INVALID_STORAGE_URI, problem)
    framework = fields.get("framework", "")
    if type(framework) is not str:
        raise _EntryError(Reason.INVALID_ENTRY, f"framework is {kind_of(framework)}, not a string")
    if len(framework) > _MAX_FRAMEWORK or not framework.isprintable():
        raise _EntryError(
            Reason.INVALID_ENTRY, f"framework is over {_MAX_FRAMEWORK} characters or not printable"
        )
    text, size = read_memory(fields.get("memory"))
    sha256, signature = _sha256(fields.get("sha256")), _file(fields.get("signature"), "signature is not")
    return ModelSpec(uri, framework, size, text, sha256, signature)


def _sha256(value: Any) -> str | None:
    """Read a digest, or the path of a list of them; ours, and unknown to KServe, which ignores it."""
    if type(value) is str and _HEX.fullmatch(value) and len(value) == 64:
        return value.lower()
    if type(value) is str and (_HEX.fullmatch(value) or (len(value) == 64 and value.isalnum())):
        raise _EntryError(Reason.INVALID_ENTRY, "sha256 is no string of 64 hexadecimal digits")
    return _file(value, "sha256 is neither 64 hexadecimal digits nor")


def _file(value: Any, what: str) -> str | None:
    """Read the path of one of the model's own files."""
    if value is None or value == "":
        return None
    try:
        return relative_path(value if type(value) is str else "")
    except AgentError as error:
        raise _EntryError(Reason.INVALID_ENTRY, f"{what} the path of one of the model's files") from error


class _MemoryReader:
    """Reads the memory of the entries of one document, each text once, for most of them say the same."""

    def __init__(self, default_bytes: int) -> None:
        self._default_bytes = default_bytes
        self._read: dict[str, tuple[str, int]] = {}

    def __call__(self, memory: Any) -> tuple[str | None, int]:
        if memory is None:
            return None, self._default_bytes
        if not isinstance(memory, str):
            raise _EntryError(
                Reason.INVALID_MEMORY, f"memory is {kind_of(memory)}, not a quantity such as 256Mi"
            )
        known = self._read.get(memory)
        if known is None:
            text = str(memory).strip(" \t\r\n\v\f")
            known = self._read[memory] = (text, _memory_bytes(text) or self._default_bytes)
        return known


def _memory_bytes(text: str) -> int:
    shown = f"memory {text[:40]!a}"
    try:
        quantity = parse_quantity(text)
    except ValueError as error:
        raise _EntryError(Reason.INVALID_MEMORY, f"{shown} is no quantity: {error}") from error
    if quantity.nanos < 0:
        raise _EntryError(Reason.INVALID_MEMORY, f"{shown} is negative")
    size = quantity.bytes_ceil()
    if size > MAX_INT64:
        raise _EntryError(Reason.INVALID_MEMORY, f"{shown} is more than 2^63-1 bytes")
    return size


def _fields(pairs: tuple[tuple[str, Any], ...], fields: frozenset[str], ignored: set[str]) -> dict[str, Any]:
    """Return the value of each of *fields* as Go's decoder leaves it: later keys win, null changes nothing.

    An object under a key that comes twice is merged, for Go decodes it into the same struct. Other keys
    are added to *ignored*.
    """
    found = dict(pairs)
    if found.keys() <= fields and len(pairs) == len(found) and None not in found.values():
        return found  # just what KServe writes
    found = {}
    for key, value in pairs:
        # the long s folds to s; lower() makes the Kelvin sign a k by itself
        field = _BY_FOLDED_KEY.get(key.lower().replace("\u017f", "s"))
        if field not in fields:
            ignored.add(_shown(key))
        if field not in fields or value is None:
            continue
        before = found.get(field)
        found[field] = before + value if type(before) is tuple and type(value) is tuple else value
    return found


def _shown(key: str) -> str:
    return key[:40] if key.isprintable() else ascii(key[:40])
