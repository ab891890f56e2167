"""What KServe tells its storage initializer by environment (contract §5), as values. Pure.

STORAGE_CONFIG and STORAGE_OVERRIDE_CONFIG become the variables that the storage providers read;
STORAGE_ALLOW_PATTERNS and STORAGE_IGNORE_PATTERNS choose among the files of a URI.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

_OF_S3: Mapping[str, str] = {
    "endpoint_url": "AWS_ENDPOINT_URL",
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
    "region": "AWS_DEFAULT_REGION",
    "ca_bundle": "AWS_CA_BUNDLE",
    "verify_ssl": "S3_VERIFY_SSL",
    "anonymous": "awsAnonymousCredential",
}


class InitializerError(ValueError):
    """A variable that cannot be read; names it, never its value."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """Which files of a URI are wanted: with `allow`, those that match one of it; none that match `ignore`."""

    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def keep(self, path: str) -> bool:
        """Tell whether a file, relative to the model, is wanted."""
        allowed = not self.allow or any(fnmatchcase(path, pattern) for pattern in self.allow)
        return allowed and not any(fnmatchcase(path, pattern) for pattern in self.ignore)

    def __bool__(self) -> bool:
        return bool(self.allow or self.ignore)


def patterns_of(environ: Mapping[str, str]) -> Patterns:
    """Read the patterns: each a JSON list, or words between commas. Raises InitializerError."""
    return Patterns(_words(environ, "STORAGE_ALLOW_PATTERNS"), _words(environ, "STORAGE_IGNORE_PATTERNS"))


def effective(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with what the two configs say, which wins. Raises InitializerError."""
    config = {**_document(environ, "STORAGE_CONFIG"), **_document(environ, "STORAGE_OVERRIDE_CONFIG")}
    told = dict(environ)
    kind = config.get("type") or ""
    if config and kind not in {"", "s3"}:
        raise InitializerError(
            f"STORAGE_CONFIG has the type {str(kind)[:63]!r}; only s3 is read from it: give other credentials"
            " by their own variables (see the README)"
        )
    if kind == "s3":
        for key, name in _OF_S3.items():
            value = config.get(key)
            if isinstance(value, bool):
                value = "true" if value else "false"
            if value is not None and value != "":
                told[name] = str(value)
    return told


def pairs_of(words: list[str]) -> tuple[tuple[str, str], ...]:
    """Return (source, folder) of `SRC DEST [SRC DEST …]`. Raises InitializerError."""
    if len(words) < 2 or len(words) % 2:
        raise InitializerError("sources and folders come in pairs: SRC DEST [SRC DEST …]")
    pairs = tuple(zip(words[::2], words[1::2], strict=True))
    if len({folder.rstrip("/") for _, folder in pairs}) < len(pairs):
        raise InitializerError("each source needs a folder of its own")
    return pairs


def _words(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    text = environ.get(name, "").strip()
    if not text.startswith("["):
        return tuple(word for each in text.split(",") if (word := each.strip()))
    try:
        listed = json.loads(text)
    except ValueError:
        raise InitializerError(f"{name} is no JSON list and no words between commas") from None
    if not all(isinstance(each, str) for each in listed):
        raise InitializerError(f"{name} holds something else than words")
    return tuple(listed)


def _document(environ: Mapping[str, str], name: str) -> Mapping[str, Any]:
    text = environ.get(name, "").strip()
    if not text:
        return {}
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise InitializerError(f"{name} is no JSON object")
    return document
