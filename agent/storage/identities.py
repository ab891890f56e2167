"""An object's identity as one line: `s3://host/bucket/key?etag=...&size=...`, written and read back.

It names which bytes are meant, is compared as text, and is kept on disk: what writes it must not change.
"""

from collections.abc import Mapping
from urllib.parse import unquote_plus, urlencode


def identity_of(name: str, pins: Mapping[str, object], size: int | None) -> str:
    """Return the identity of what *name* names, a quoted address, at the version that *pins* tell."""
    return f"{name}?{urlencode({**pins, 'size': size})}"


def pins_of(identity: str) -> dict[str, str]:
    """Read back the pins and the size; by hand, as `parse_qs` takes four times as long, for each object."""
    pairs = (pair.partition("=") for pair in identity.rpartition("?")[2].split("&"))
    return {name: unquote_plus(value) for name, _, value in pairs}
