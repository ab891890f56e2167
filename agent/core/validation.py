"""Whether a TrainedModel is allowed: KServe's rules in KServe's words, then ours.

One function for the admission webhook, `model-agent validate`, the controller and the tests; the CRD's
schema says the same in CEL (config/crd/bases), and a property holds the two together. First come the
three rules of kserve-contract §2.2, letter for letter, for other tools match on those messages.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.core.quantity import MAX_INT64, parse_quantity
from agent.core.trainedmodel import UnreadableObjectError, parse
from agent.core.uri import TRAINED_MODEL_SCHEMES

NAME_PATTERN = "^[a-zA-Z0-9_-]+$"
PARENT_PATTERN = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
MEMORY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
TEXT_PATTERN = r"^[\p{L}\p{M}\p{N}\p{P}\p{S} ]*$"
"""What can be printed, as the API server reads it; `str.isprintable` says the same here."""
URI_PATTERN = "^[^\\x00-\\x20\\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$"
"""No white space of Unicode and no control character, as the agent reads models.json."""
MAX_NAME = 253
MAX_PARENT = 63  # it is the value of a label, and part of the ConfigMap's name
MAX_URI = 4096
MAX_FRAMEWORK = 253
MAX_MEMORY = 64

_SURROGATE = re.compile("[\ud800-\udfff]")
_PREFIXES = tuple(f"{scheme}://" for scheme in TRAINED_MODEL_SCHEMES)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: the field's path, and a message in words."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def faults(obj: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> tuple[Fault, ...]:
    """Return everything wrong with *obj*, KServe's rules first; empty where it may be stored.

    *old* is the stored object on an update. An object that is going is not checked at all.
    """
    metadata = obj.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("deletionTimestamp") and old is not None:
        return ()
    try:
        model = parse(obj)
    except UnreadableObjectError as error:
        field, _, message = str(error).partition(" ")
        return (Fault(field, f"{field} {message}"),)
    found = [*_kserve_faults(model.name, model.spec.model.storage_uri)]
    if old is not None:
        found += _memory_change(model.name, model.spec.model.written, old)
    written = {
        "metadata.name": (model.name, None, MAX_NAME),
        "spec.inferenceService": (model.spec.inference_service, PARENT_PATTERN, MAX_PARENT),
        "spec.model.storageUri": (model.spec.model.storage_uri, URI_PATTERN, MAX_URI),
        "spec.model.framework": (model.spec.model.framework, None, MAX_FRAMEWORK),
    }
    if isinstance(model.spec.model.written, str):
        written["spec.model.memory"] = (model.spec.model.written, MEMORY_PATTERN, MAX_MEMORY)
    for field, (value, pattern, length) in written.items():
        found += _text_faults(field, value, pattern, length)
    if not model.spec.model.framework.isprintable():
        found.append(Fault("spec.model.framework", f"spec.model.framework does not match {TEXT_PATTERN}"))
    if not 0 < model.spec.model.memory.nanos <= MAX_INT64 * 10**9:
        shown = model.spec.model.written
        found.append(Fault("spec.model.memory", f"memory must be above 0 and at most 2^63-1, not {shown}"))
    if any(model.spec.model.storage_uri == prefix for prefix in _PREFIXES):
        found.append(Fault("spec.model.storageUri", "storageUri names nothing after its scheme"))
    return tuple(found)


def _kserve_faults(name: str, uri: str) -> list[Fault]:
    found = []
    if re.fullmatch(NAME_PATTERN[1:-1], name) is None:
        found.append(
            Fault(
                "metadata.name",
                f'the Trained Model "{name}" is invalid: a Trained Model name must consist of alphanumeric '
                "characters, '_', or '-'. (e.g. \"my-Name\" or \"abc_123\", regex used for validation is "
                f"'{NAME_PATTERN}')",
            )
        )
    if not uri.startswith(_PREFIXES):
        found.append(
            Fault(
                "spec.model.storageUri",
                f'the Trained Model "{name}" storageUri field is invalid. The storage uri must start with '
                f'one of the prefixes: {", ".join(_PREFIXES)}. (the storage uri given is "{uri}")',
            )
        )
    return found


def _memory_change(name: str, written: str | int, old: Mapping[str, Any]) -> list[Fault]:
    try:
        before = parse(old).spec.model
    except UnreadableObjectError:
        return []  # what cannot be read cannot have been served; let it be mended
    if before.memory == parse_quantity(str(written)):
        return []
    return [
        Fault(
            "spec.model.memory",
            f'the Trained Model "{name}" memory field is immutable. The memory was '
            f'"{before.memory}" but it is updated to "{parse_quantity(str(written))}"',
        )
    ]


def _text_faults(field: str, value: str, pattern: str | None, length: int) -> list[Fault]:
    if len(value) > length:
        return [Fault(field, f"{field} has {len(value)} characters, more than {length}")]
    if _SURROGATE.search(value):
        return [Fault(field, f"{field} holds half of a surrogate pair, which is no character")]
    if pattern is not None and re.fullmatch(pattern[1:-1], value) is None:
        return [Fault(field, f"{field} does not match {pattern}")]
    return []
