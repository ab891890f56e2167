"""A strict reader of tar streams: ustar, pax and GNU long names (POSIX.1-2017 pax, GNU tar manual).

Only regular files and folders; what another reader might understand otherwise is refused. Each turn of its
loop consumes a block, nothing is ever read back, and no header makes it hold more than 64 KiB (A4, A5).
"""

from dataclasses import dataclass, field

from agent.artifacts.unpack.sink import Sink, plain_path, refused
from agent.artifacts.unpack.streams import Stream
from agent.core.archive import BLOCK, checksums, stored_checksum
from agent.core.layers import Hides, whiteout

MAX_EXTENSION = 64 * 1024
MAX_EXTENSIONS = 8
"""How many extended headers may stand before one member."""

_FILES, _FOLDER, _IGNORED = frozenset({"0", "\0", "7"}), "5", frozenset({"V"})
_NO_CONTENT = frozenset("123456")
"""Types that no content follows, whatever size they say: Go's archive/tar, which writes layers, has it so."""
_REFUSED = {
    "1": "a hard link",
    "2": "a symbolic link",
    "3": "a character device",
    "4": "a block device",
    "6": "a fifo",
    "S": "a sparse file",
    "M": "a part of a multi-volume archive",
}


@dataclass(slots=True)
class _Extended:
    """What extended headers say of the next member."""

    path: str | None = None
    long_name: str | None = None
    size: int | None = None
    count: int = field(default=0)


def unpack_tar(stream: Stream, sink: Sink, below: str | None = None) -> None:
    """Lay down every file of the stream. Raises TerminalError for an archive that is not plain and whole.

    With *below* it is a layer of an image: only what is below that folder of the root is laid down, under its
    path there; whiteouts are told; what is elsewhere may be anything, and is passed over.
    """
    extended = _Extended()
    while (header := stream.take(BLOCK)) != bytes(BLOCK):
        _check(header)
        size = _number(header[124:136], "size")
        kind = chr(header[156])
        if kind in "xgLK":
            extended.count += 1
            _extend(extended, kind, stream, size)
            continue
        _member(header, kind, size, extended, stream, sink, below)
        extended = _Extended()
    if extended.count:
        raise refused("the tar ends after an extended header")
    if not stream.is_zero_from_here():
        raise refused("the tar has data after its end mark; were two archives put one after the other?")


def _member(
    header: bytes,
    kind: str,
    size: int,
    extended: _Extended,
    stream: Stream,
    sink: Sink,
    below: str | None,
) -> None:
    name = extended.path or extended.long_name or _name(header)
    size = size if extended.size is None else extended.size
    if kind in _IGNORED and not size:
        return
    if kind == "\0" and name.endswith("/"):
        kind = _FOLDER  # how tars from before POSIX marked one
    path = name if below is None else _of_layer(name, kind, below, sink)
    if path is None and kind in _FILES | _NO_CONTENT:
        stream.skip(0 if kind in _NO_CONTENT else size + -size % BLOCK)
    elif path is not None and kind == _FOLDER and not size:
        sink.folder(plain_path(path))
    elif path is not None and kind in _FILES and not name.endswith("/"):
        sink.file(plain_path(path), size, stream.pieces(size))
        stream.skip(-size % BLOCK)
    else:
        what = _REFUSED.get(kind, f"of the type {kind!r}")
        raise refused(
            f"the member {name[:200]!r} is {what}; only files and folders are unpacked (tar -h follows links)"
        )


def _of_layer(name: str, kind: str, below: str, sink: Sink) -> str | None:
    """Return the path below the folder that counts; None where it is elsewhere, or only takes away."""
    path = name
    while path.startswith(("./", "/")):
        path = path.removeprefix(".").lstrip("/")
    hides = whiteout(path) if kind in _FILES else None
    if hides is not None:
        path = hides[0]
    first, _, inside = path.partition("/")
    if first != below and path:
        return None
    if hides is not None:
        gone = plain_path(inside) if inside else ""
        if inside and not gone:
            raise refused(f"the whiteout {name[:200]!r} names no path")
        sink.hide(gone, hides[1])
        return None
    if kind == _FOLDER and inside:
        sink.hide(plain_path(inside), Hides.FILE)
    if not path:
        return None
    return inside or ("./" if kind == _FOLDER else "")


def _check(header: bytes) -> None:
    if stored_checksum(header) not in checksums(header):
        raise refused("a tar header has a wrong checksum; the archive is damaged or is no tar")
    if header[257:262] not in {b"ustar", bytes(5)}:
        raise refused("a tar header is of no known format; make the archive as ustar, pax or gnu")


def _number(raw: bytes, what: str) -> int:
    """Return an octal number, or a binary one of GNU's; both are never negative."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    digits = raw.lstrip(b" ").partition(b"\0")[0].rstrip(b" ")
    if digits.strip(b"01234567"):
        raise refused(f"a tar header has no legal {what}")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name = _text(header[:100].partition(b"\0")[0])
    if header[257:263] != b"ustar\0":
        return name  # GNU keeps times where POSIX keeps the prefix
    prefix = _text(header[345:500].partition(b"\0")[0])
    return f"{prefix}/{name}" if prefix else name


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise refused(f"a member's name is no UTF-8: {raw[:100]!r}") from error


def _extend(extended: _Extended, kind: str, stream: Stream, size: int) -> None:
    if size > MAX_EXTENSION or extended.count > MAX_EXTENSIONS:
        raise refused(f"an extended tar header claims {size} bytes, or there are too many of them")
    content = stream.take(size)
    stream.skip(-size % BLOCK)
    if kind == "L":
        extended.long_name = _text(content.partition(b"\0")[0])
    elif kind in "xg":
        records = _records(content)
        if kind == "g" and records.keys() & {"path", "size", "linkpath"}:
            raise refused("a global pax header names or sizes every member")
        if "path" in records:
            extended.path = records["path"]
        if "size" in records:
            extended.size = _decimal(records["size"])


def _records(content: bytes) -> dict[str, str]:
    """Return the pax records that matter. Raises TerminalError for any that is malformed or means sparse."""
    records: dict[str, str] = {}
    while content:
        length_text = content[:6].partition(b" ")[0].decode("latin-1")
        length = _decimal(length_text)
        record, content = content[:length], content[length:]
        key, equals, value = record[len(length_text) + 1 :].partition(b"=")
        if len(record) != length or not equals or record[-1:] != b"\n":
            raise refused("a pax header is malformed")
        if key.startswith(b"GNU.sparse."):
            raise refused("the archive holds a sparse file; make it without --sparse")
        if key == b"hdrcharset" and value != b"ISO-IR 10646 2000 UTF-8\n":
            raise refused("a pax header is not in UTF-8")
        if key in {b"path", b"size", b"linkpath"}:
            if (known := key.decode()) in records:
                raise refused(f"a pax header says {known} twice")
            records[known] = _text(value[:-1])
    return records


def _decimal(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise refused("a pax header has an illegal number")
    return int(text)
