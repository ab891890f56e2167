"""Storage URIs as text: their scheme, and what of them may be shown.

The list of schemes is one constant that the parser, the CRD and the webhook share (design §8.17).
"""

import re
from urllib.parse import urlsplit

TRAINED_MODEL_SCHEMES = ("s3", "gs", "https", "http")
"""What KServe's TrainedModel admission lets through (kserve-contract §2.2)."""

BUILT_IN_SCHEMES = (*TRAINED_MODEL_SCHEMES, "file", "pvc", "hf", "abfs", "abfss", "az", "oci")
"""Schemes with a provider of our own; a path that begins with / is `file`. Others go through fsspec."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(uri: str) -> str | None:
    """Return the lower-case scheme, `file` for an absolute path, None where there is neither."""
    if uri.startswith("/"):
        return "file"
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def redacted(uri: str) -> str:
    """Return *uri* without userinfo, query and fragment: what may appear in logs, status and errors.

    Never raises; what cannot be split is shown as its scheme alone.
    """
    try:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return f"{scheme_of(uri) or 'unreadable'}://…"
    # without :// what stands before an @ may be a password, as in https:user:password@host
    path = parts.path if scheme_of(uri) else parts.path.rpartition("@")[2]
    return f"{parts.scheme}://{host}{path}" if parts.scheme else path
