"""A strict reader of zip files (PKWARE APPNOTE 6.3.10): central directory and local headers must agree.

Stored and deflated members, zip64, Unix modes. Refused: overlap, anything before or after what the end
record describes, encryption, several disks, links and devices, other methods (A7).
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from agent.artifacts.unpack.sink import Sink, plain_path, refused, too_large
from agent.artifacts.unpack.streams import PIECE

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_MAX_COMMENT = 0xFFFF
_MAX_DIRECTORY = 64 * 1024 * 1024
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800
_REFUSED_FLAGS = (
    _ENCRYPTED | 0x20 | 0x40 | 0x2000
)  # encrypted, patched data, strong encryption, masked headers
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class _Entry:
    """One member as the central directory has it; `offset` is its local header's."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    is_folder: bool


@dataclass(frozen=True, slots=True)
class _Directory:
    """Where the central directory is, and how many entries it has."""

    offset: int
    size: int
    count: int


def unpack_zip(descriptor: int, sink: Sink, max_members: int) -> None:
    """Lay down every file of the zip. Raises TerminalError for one that is not plain and whole."""
    file = _File(descriptor)
    directory = _find_directory(file)
    if directory.count > max_members:
        raise too_large(f"the zip has {directory.count} members, more than {max_members}; store it unpacked")
    entries = sorted(_entries(file.at(directory.offset, directory.size), directory.count), key=_offset)
    sink.expect(sum(entry.size for entry in entries))
    end = 0
    for entry in entries:
        if entry.offset < end:
            raise refused(f"the member {entry.name[:200]!r} overlaps another one")
        start = _data_start(file, entry)
        end = start + entry.packed
        if end > directory.offset:
            raise refused(f"the member {entry.name[:200]!r} reaches beyond the members' part of the zip")
        if entry.is_folder:
            sink.folder(plain_path(entry.name))
        else:
            sink.file(plain_path(entry.name), entry.size, _content(file, entry, start, sink))


class _File:
    """Reads at offsets; a read beyond the end is refused."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def at(self, offset: int, size: int) -> bytes:
        if offset + size > self.size:
            raise refused("the zip is cut short, or its directory points beyond its end")
        pieces = []
        while size:
            piece = os.pread(self._descriptor, size, offset)
            if not piece:
                raise refused("the zip became shorter while it was read")
            pieces.append(piece)
            size, offset = size - len(piece), offset + len(piece)
        return b"".join(pieces)


def _offset(entry: _Entry) -> int:
    return entry.offset


def _find_directory(file: _File) -> _Directory:
    tail_size = min(file.size, _END.size + _MAX_COMMENT)
    tail = file.at(file.size - tail_size, tail_size)
    ends = [at for at in _occurrences(tail, b"PK\5\6") if _fits(tail, at)]
    if len(ends) != 1:
        raise refused("the zip has no end record at its end, or more than one; it is cut short or damaged")
    at = file.size - tail_size + ends[0]
    _, disk, directory_disk, here, count, size, offset, _ = _END.unpack_from(tail, ends[0])
    if disk not in {0, _MAX16} or directory_disk not in {0, _MAX16} or here != count:
        raise refused("the zip is one of several parts; join them first")
    directory = _Directory(offset, size, count)
    locator_at = at - _LOCATOR.size
    if locator_at >= 0 and file.at(locator_at, 4) == b"PK\6\7":
        at, directory = _find_directory64(file, locator_at, directory)
    if directory.offset + directory.size != at:
        raise refused("the zip's directory is not where its end record says; it is damaged")
    if directory.size > _MAX_DIRECTORY:
        raise too_large(f"the zip's directory is larger than {_MAX_DIRECTORY} bytes; store it unpacked")
    return directory


def _occurrences(text: bytes, word: bytes) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + 1)


def _fits(tail: bytes, at: int) -> bool:
    """Tell whether an end record at *at* with its comment ends where the file ends."""
    if len(tail) - at < _END.size:
        return False
    return at + _END.size + int(_END.unpack_from(tail, at)[7]) == len(tail)


def _find_directory64(file: _File, locator_at: int, short: _Directory) -> tuple[int, _Directory]:
    _, disk, at, disks = _LOCATOR.unpack(file.at(locator_at, _LOCATOR.size))
    signature, size, _, _, this, directory_disk, here, count, length, offset = _END64.unpack(
        file.at(at, _END64.size)
    )
    if signature != b"PK\6\6" or at + 12 + size != locator_at:
        raise refused("the zip64 end record is not where its locator says")
    if disk or disks > 1 or this or directory_disk or here != count:
        raise refused("the zip is one of several parts; join them first")
    long = _Directory(offset, length, count)
    for small, large, unsaid in (
        (short.offset, long.offset, _MAX32),
        (short.size, long.size, _MAX32),
        (short.count, long.count, _MAX16),
    ):
        if small not in {large, unsaid}:
            raise refused("the zip's two end records contradict each other")
    return at, long


def _entries(directory: bytes, count: int) -> Iterator[_Entry]:
    at = 0
    for _ in range(count):
        if len(directory) - at < _CENTRAL.size:
            raise refused("the zip's directory has fewer entries than its end record says")
        fields = _CENTRAL.unpack_from(directory, at)
        at += _CENTRAL.size
        name_size, extra_size, comment_size = fields[12:15]
        name = directory[at : at + name_size]
        extra = directory[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size + comment_size
        if fields[0] != b"PK\1\2" or at > len(directory):
            raise refused("the zip's directory is damaged")
        yield _entry(fields, name, extra)
    if at != len(directory):
        raise refused("the zip's directory has more entries than its end record says")


def _entry(fields: tuple[int, ...], raw_name: bytes, extra: bytes) -> _Entry:
    flags, method, crc = fields[5], fields[6], fields[9]
    size, packed, offset, disk = _long_values(extra, fields[11], fields[10], fields[18], fields[15])
    name = _decoded(raw_name, flags)
    if disk:
        raise refused("the zip is one of several parts; join them first")
    if flags & _REFUSED_FLAGS:
        raise refused(f"the member {name[:200]!r} is encrypted or patched; store it plain")
    is_folder = name.endswith("/")
    kind = stat.S_IFMT(fields[17] >> 16)
    if kind not in ({0, stat.S_IFDIR} if is_folder else {0, stat.S_IFREG}):
        raise refused(f"the member {name[:200]!r} is a link or a device; only files and folders are unpacked")
    if is_folder and size:
        raise refused(f"the folder {name[:200]!r} has content")
    if method not in {_STORED, _DEFLATED}:
        raise refused(f"the member {name[:200]!r} is compressed by method {method}; use deflate or store")
    return _Entry(raw_name, name, flags, method, crc, packed, size, offset, is_folder)


def _long_values(extra: bytes, *values: int) -> tuple[int, int, int, int]:
    """Return size, packed size, offset and disk, those that say 0xffffffff taken from the zip64 field."""
    limits = (_MAX32, _MAX32, _MAX32, _MAX16)
    field = _zip64_field(extra)
    longs = list(values)
    at = 0
    for index, (value, limit) in enumerate(zip(values, limits, strict=True)):
        if value != limit:
            continue
        width = 4 if limit == _MAX16 else 8
        if len(field) - at < width:
            raise refused("a zip64 field is missing or too short")
        longs[index] = int.from_bytes(field[at : at + width], "little")
        at += width
    size, packed, offset, disk = longs
    return size, packed, offset, disk


def _zip64_field(extra: bytes) -> bytes:
    while len(extra) >= 4:
        tag, size = struct.unpack_from("<2H", extra)
        if tag == 1:
            return extra[4 : 4 + size]
        extra = extra[4 + size :]
    return b""


def _decoded(raw: bytes, flags: int) -> str:
    """Return the name: UTF-8 where it says so or is so (as macOS writes it unsaid), else code page 437."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        if flags & _UTF8:
            raise refused(f"a member's name is no UTF-8: {raw[:100]!r}") from error
        return raw.decode("cp437")


def _data_start(file: _File, entry: _Entry) -> int:
    """Return where the member's bytes begin, its local header compared with the directory's entry."""
    fields = _LOCAL.unpack(file.at(entry.offset, _LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, name_size, extra_size = fields
    raw_name = file.at(entry.offset + _LOCAL.size, name_size)
    same = signature == b"PK\3\4" and raw_name == entry.raw_name and method == entry.method
    same = same and (flags ^ entry.flags) & ~_UTF8 == 0
    later = bool(flags & _DESCRIPTOR)  # sizes and checksum follow the data
    same = same and (crc == entry.crc or (later and crc == 0))
    for local, central in ((packed, entry.packed), (size, entry.size)):
        same = same and (local in {central, _MAX32} or (later and local == 0))
    if not same:
        raise refused(f"the zip says two things of the member {entry.name[:200]!r}; make the archive anew")
    return entry.offset + _LOCAL.size + int(name_size) + int(extra_size)


def _content(file: _File, entry: _Entry, start: int, sink: Sink) -> Iterator[bytes]:
    """Yield the member's bytes, checked against its checksum."""
    crc = 0
    for piece in _inflated(file, entry, start) if entry.method == _DEFLATED else _packed(file, entry, start):
        sink.expand(len(piece))
        crc = zlib.crc32(piece, crc)
        yield piece
    if crc != entry.crc:
        raise refused(
            f"the member {entry.name[:200]!r} does not match its checksum; upload the archive again"
        )


def _packed(file: _File, entry: _Entry, start: int) -> Iterator[bytes]:
    for at in range(0, entry.packed, PIECE):
        yield file.at(start + at, min(PIECE, entry.packed - at))


def _inflated(file: _File, entry: _Entry, start: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(wbits=-15)
    try:
        for data in _packed(file, entry, start):
            yield inflater.decompress(data, PIECE)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, PIECE)
        while not inflater.eof and (last := inflater.decompress(b"", PIECE)):
            yield last
    except zlib.error as error:
        raise refused(f"the member {entry.name[:200]!r} is damaged ({error})") from error
    if not inflater.eof or inflater.unused_data:
        raise refused(f"the member {entry.name[:200]!r} does not end where the zip says")
