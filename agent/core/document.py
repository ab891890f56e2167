"""The bytes of models.json as an array of values, or a refusal that says where they are wrong.

Strict where JSON readers differ (UTF-8, no NaN, no half surrogates), and bounded: nothing that comes in
costs more than some 20 MiB and a fraction of a second, for limits are looked at before parsing.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from agent.core.reasons import Reason

MAX_DOCUMENT_BYTES: Final = 2 * 1024 * 1024
"""Twice what a ConfigMap can hold, so that some 15,000 models fit where a plain file is mounted."""
"""Twice the largest ConfigMap; about 13,000 models."""

_MAX_ENTRIES = 32_768
_MAX_CONTAINERS = 2 * _MAX_ENTRIES + 1  # what has more is not models, but a way to fill memory
_MAX_COMMAS = 4 * _MAX_ENTRIES
_MAX_DIGITS = 400
_BOM = b"\xef\xbb\xbf"
# everything up to the first escaped surrogate that has no partner; back slashes occur in strings alone
_PAIRED = re.compile(
    r"(?:[^\\]++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\(?!u[dD][89a-fA-F]).)*+",
    re.DOTALL,
)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_STRING_OR_BAD_NUMBER = re.compile(
    rf'"(?:[^"\\]|\\.)*+"|NaN|-?Infinity|[0-9.eE+-]{{{_MAX_DIGITS + 1},}}', re.DOTALL
)
_MAX_DEPTH_TOLD = 64


class ConfigError(ValueError):
    """The document as a whole is refused; what was accepted last stays.

    `reason` and `message` are for /status and the log; the message holds nothing of the document but
    positions. It never leaves the one who reads the configuration.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class _BadNumberError(ValueError):
    """NaN, an infinity, or more digits than any number needs."""


class JsonNumber(str):
    """The text of a JSON number."""

    __slots__ = ()


def parse_entries(raw: bytes) -> list[Any]:
    """Parse the document: objects become tuples of pairs, numbers `JsonNumber`, so that nothing is lost.

    Raises ConfigError. Time and memory are bounded before anything is parsed.
    """
    text = _text(raw)
    if not text.strip(" \t\r\n"):
        raise ConfigError(Reason.CONFIG_REJECTED, "the document is empty; an empty list is written []")
    try:
        document = json.loads(
            text, object_pairs_hook=tuple, parse_int=_number, parse_float=_number, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise _refusal(text, error.pos, f"is no JSON: {error.msg}") from error
    except RecursionError as error:
        raise _refusal(text, _deep_position(text), "is nested too deeply") from error
    except _BadNumberError as error:
        raise _refusal(text, _number_position(text), "has a number that is none or endless") from error
    if "\\u" in text:
        end = _paired_end(text)
        if end < len(text):
            raise _refusal(text, end, "has half of a surrogate pair")
    if type(document) is not list:
        raise _refusal(text, 0, f"is {kind_of(document)} where an array of models is expected")
    if len(document) > _MAX_ENTRIES:
        raise ConfigError(
            Reason.CONFIG_TOO_LARGE, f"the document has {len(document)} entries, more than {_MAX_ENTRIES}"
        )
    return document


def _text(raw: bytes) -> str:
    size = len(raw)
    if size > MAX_DOCUMENT_BYTES:
        raise ConfigError(
            Reason.CONFIG_TOO_LARGE, f"the document has {size} bytes, more than {MAX_DOCUMENT_BYTES}"
        )
    if raw.count(b"[") + raw.count(b"{") > _MAX_CONTAINERS or raw.count(b",") > _MAX_COMMAS:
        raise ConfigError(
            Reason.CONFIG_TOO_LARGE,
            f"the document has more than {_MAX_CONTAINERS} arrays and objects or {_MAX_COMMAS} commas",
        )
    raw = raw.removeprefix(_BOM)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ConfigError(
            Reason.CONFIG_REJECTED, f"the document is not UTF-8 at line {line}, byte {column} of it"
        ) from error


def _number(text: str) -> JsonNumber:
    if len(text) > _MAX_DIGITS:
        raise _BadNumberError
    return JsonNumber(text)


def _constant(_: str) -> Any:
    raise _BadNumberError


def _refusal(text: str, position: int, problem: str) -> ConfigError:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return ConfigError(Reason.CONFIG_REJECTED, f"the document {problem}, at line {line} column {column}")


def _paired_end(text: str) -> int:
    match = _PAIRED.match(text)
    return match.end() if match else 0


def _deep_position(text: str) -> int:
    depth = 0
    for match in _outside_strings(_STRING_OR_BRACKET, text):
        depth += 1 if match[0] in "[{" else -1
        if depth > _MAX_DEPTH_TOLD:
            return match.start()
    return 0


def _number_position(text: str) -> int:
    return next((match.start() for match in _outside_strings(_STRING_OR_BAD_NUMBER, text)), 0)


def _outside_strings(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    return (match for match in pattern.finditer(text) if not match[0].startswith('"'))


def kind_of(value: Any) -> str:
    """Say in words what a value of `parse_entries` is."""
    match value:
        case JsonNumber():
            return "a number"
        case str():
            return "a string"
        case bool():
            return "true or false"
        case tuple():
            return "an object"
        case list():
            return "an array"
        case _:
            return "null"
