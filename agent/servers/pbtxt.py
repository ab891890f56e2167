"""Just enough of protobuf's text format to give Triton's config.pbtxt another `name`.

The law here: nothing but the value of the top-level `name` field changes; names of inputs and outputs
stand deeper and stay.
"""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    rb"""(?P<space>\s+|\#[^\n]*)
      |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      |(?P<word>[A-Za-z0-9_.+-]+)
      |(?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPEN, _CLOSE = b"{[<", b"}]>"


def renamed(config: bytes, name: str) -> bytes:
    """Return *config* with each top-level `name` replaced by *name*; the same bytes where none differs.

    *name* must need no escape in text format, which a model's name never does.
    """
    wanted = f'"{name}"'.encode()
    out, end = bytearray(), 0
    for start, stop in _values(config, b"name"):
        out += config[end:start] + wanted
        end = stop
    return bytes(out + config[end:])


def has_platform(config: bytes, platform: str) -> bool:
    """Tell whether the top-level `platform` field has this value."""
    return any(
        config[start:stop].strip(b"\"'") == platform.encode() for start, stop in _values(config, b"platform")
    )


def says_file_name(config: bytes) -> bool:
    """Tell whether the config itself names the model's file."""
    return any(True for _ in _values(config, b"default_model_filename"))


def _values(config: bytes, field: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the string values of a top-level field start and stop, adjacent strings as one."""
    depth = 0
    state = ""  # "", then "field" after its name, "value" after the colon
    start = stop = -1
    for token in _TOKEN.finditer(config):
        kind, text = token.lastgroup, token.group()
        if kind == "space":
            continue
        if state == "value" and kind == "text":
            start, stop = (token.start() if start < 0 else start), token.end()
            continue
        if start >= 0:
            yield start, stop
            start = stop = -1
        if state == "field" and text == b":":
            state = "value"
            continue
        state = "field" if depth == 0 and kind == "word" and text == field else ""
        depth += (text in _OPEN) - (text in _CLOSE) if kind == "mark" else 0
    if start >= 0:
        yield start, stop
