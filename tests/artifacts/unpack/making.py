"""Archives built by hand, where the standard library would refuse to write them."""

import struct
import zlib
from dataclasses import dataclass, field

BLOCK = 512


def header(
    name: bytes = b"model.bin",
    size: int | bytes = 0,
    kind: bytes = b"0",
    *,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    mode: int = 0o644,
) -> bytes:
    """Return one tar header with a right checksum."""
    size_field = size if isinstance(size, bytes) else b"%011o\0" % size
    raw = bytearray(
        struct.pack(
            "100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x",
            name,
            b"%07o\0" % mode,
            b"0000000\0",
            b"0000000\0",
            size_field,
            b"00000000000\0",
            b" " * 8,
            kind,
            link,
            magic,
            b"",
            b"",
            b"",
            b"",
            prefix,
        )
    )
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def member(name: bytes = b"model.bin", content: bytes = b"", kind: bytes = b"0", **fields) -> bytes:
    """Return a header and its content."""
    return header(name, len(content), kind, **fields) + padded(content)


def pax(kind: bytes = b"x", **records: str | bytes) -> bytes:
    """Return an extended header; a keyword's double underscore is a dot."""
    return member(
        b"pax", b"".join(_record(key.replace("__", "."), value) for key, value in records.items()), kind
    )


def _record(key: str, value: str | bytes) -> bytes:
    value = value if isinstance(value, bytes) else value.encode()
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(body) + len(str(length)) != length:
        length = len(body) + len(str(length))
    return str(length).encode() + body


def tar(*parts: bytes) -> bytes:
    """Return the parts with an end mark."""
    return b"".join(parts) + bytes(2 * BLOCK)


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


@dataclass
class Zipped:
    """One member of a zip; every number can be made a lie. `central` and `local` replace fields there."""

    name: bytes = b"model.bin"
    content: bytes = b"content"
    method: int = 0
    packed: bytes | None = None
    central: dict = field(default_factory=dict)
    local: dict = field(default_factory=dict)

    def fields(self, packed: bytes) -> dict:
        return {
            "name": self.name,
            "flags": 0,
            "method": self.method,
            "crc": zlib.crc32(self.content),
            "packed": len(packed),
            "size": len(self.content),
            "extra": b"",
            "attributes": 0o100644 << 16,
            "host": 3,
            "disk": 0,
        }


def make_zip(*members: Zipped, between: bytes = b"", comment: bytes = b"", **end) -> bytes:
    """Return a zip of *members*; `end` replaces fields of the end record."""
    body, directory = b"", b""
    for each in members:
        packed = each.packed if each.packed is not None else each.content
        local = each.fields(packed) | each.local
        central = each.fields(packed) | {"offset": len(body)} | each.central
        body += local_header(local) + packed + between
        directory += central_header(central)
    fields = {
        "disk": 0,
        "here": len(members),
        "count": len(members),
        "size": len(directory),
        "offset": len(body),
    } | end
    closing = struct.pack(
        "<4s4H2LH",
        b"PK\5\6",
        fields["disk"],
        fields["disk"],
        fields["here"],
        fields["count"],
        fields["size"],
        fields["offset"],
        len(comment),
    )
    return body + directory + end.get("middle", b"") + closing + comment


def local_header(fields: dict) -> bytes:
    return (
        struct.pack(
            "<4s5H3L2H",
            b"PK\3\4",
            20,
            fields["flags"],
            fields["method"],
            0,
            0,
            fields["crc"],
            fields["packed"],
            fields["size"],
            len(fields["name"]),
            len(fields["extra"]),
        )
        + fields["name"]
        + fields["extra"]
    )


def central_header(fields: dict) -> bytes:
    return (
        struct.pack(
            "<4sBB5H3L5H2L",
            b"PK\1\2",
            20,
            fields["host"],
            20,
            fields["flags"],
            fields["method"],
            0,
            0,
            fields["crc"],
            fields["packed"],
            fields["size"],
            len(fields["name"]),
            len(fields["extra"]),
            0,
            fields["disk"],
            0,
            fields["attributes"],
            fields["offset"],
        )
        + fields["name"]
        + fields["extra"]
    )
