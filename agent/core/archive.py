"""Which single object is an archive to unpack, and which is a model file that only looks like one. Pure.

The rule (issue 2 part 6, faults A11, kserve-contract §3):

1. What an object *is* is told by its first bytes alone: a zip, a tar, a gzip or zstd stream with a tar
   inside. Neither its name nor its media type can make anything else an archive.
2. Whether it is *meant* to be unpacked is told by its name: yes with one of `ARCHIVE_SUFFIXES`, no with one
   of `MODEL_SUFFIXES` (a .pt, .npz, .keras or .mar is a zip, a .nemo is a tar, and they stay whole). With
   any other name the media type tells, as KServe's agent goes by it.
3. A name that promises an archive over bytes that are none is an error (an HTML page, a Git LFS pointer):
   no server could load that file. A .gz or .zst with no tar inside, under a name that promises none, stays
   a file.

bzip2, xz, 7z and rar are not unpacked: such an object stays a file.
"""

import zlib
from enum import StrEnum

from agent.core.errors import TerminalError
from agent.core.reasons import Reason

HEAD_BYTES = 256 * 1024
"""How much of an object's beginning `archive_kind` wants to see: a whole zstd block fits in it."""

BLOCK = 512
"""The unit of a tar."""

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst")

# fmt: off (one a line would be two screens)
MODEL_SUFFIXES = frozenset(
    {
        ".7z",
        ".apk",
        ".bin",
        ".bst",
        ".bz2",
        ".cbm",
        ".ckpt",
        ".csv",
        ".dill",
        ".docx",
        ".egg",
        ".engine",
        ".ggml",
        ".gguf",
        ".h5",
        ".hdf5",
        ".jar",
        ".joblib",
        ".json",
        ".keras",
        ".lgb",
        ".mar",
        ".mlmodel",
        ".mlpackage",
        ".model",
        ".msgpack",
        ".nemo",
        ".npy",
        ".npz",
        ".ocf",
        ".onnx",
        ".ort",
        ".ot",
        ".params",
        ".parquet",
        ".pb",
        ".pdmodel",
        ".pdparams",
        ".pickle",
        ".pkl",
        ".plan",
        ".pmml",
        ".ptl",
        ".pt",
        ".pte",
        ".pth",
        ".py",
        ".rar",
        ".rds",
        ".safetensors",
        ".sav",
        ".skops",
        ".t7",
        ".tbz2",
        ".tflite",
        ".torchscript",
        ".trt",
        ".txt",
        ".txz",
        ".ubj",
        ".vsix",
        ".war",
        ".weights",
        ".whl",
        ".xlsx",
        ".xml",
        ".xz",
        ".yaml",
        ".yml",
    }
)
"""Endings of files that are loaded as they are, though some of them are zips or tars by their bytes."""

_ARCHIVE_MEDIA_TYPES = frozenset(
    {
        "application/gzip",
        "application/x-gzip",
        "application/gzip-compressed",
        "application/zip",
        "application/x-zip",
        "application/x-zip-compressed",
        "application/tar",
        "application/x-tar",
        "application/x-gtar",
        "application/tar+gzip",
        "application/x-tar+gzip",
        "application/x-tgz",
        "application/x-compressed-tar",
        "application/x-gtar-compressed",
        "application/x-compressed",
        "application/zstd",
        "application/x-zstd",
        "application/x-zstd-compressed-tar",
    }
)
# fmt: on

_GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")


class ArchiveKind(StrEnum):
    """The archives that are unpacked, by what they are and not by what they are called."""

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_ZST = "tar.zst"


def archive_kind(name: str, media_type: str | None, head: bytes) -> ArchiveKind | None:
    """Return how to unpack an object, None where it is to stay the file that it is.

    *name* is its last path segment, *head* its first `HEAD_BYTES` (or all of it).
    Raises TerminalError(ArchiveRefused) where the name promises an archive and the bytes are none.
    """
    lower = name.lower()
    promised = lower.endswith(ARCHIVE_SUFFIXES)
    if not promised and (_is_model_file(lower) or not _is_archive_type(media_type)):
        return None
    kind = _kind_of(head)
    if promised and kind is None:
        raise TerminalError(
            Reason.ARCHIVE_REFUSED,
            f"{name[-200:]!r} is named like an archive but is {described(head)}; check what is stored there",
        )
    return kind


def layer_kind(head: bytes) -> ArchiveKind:
    """Return how to unpack a layer of an image, which is a tar whatever is in it, nothing too."""
    if head.startswith(_GZIP):
        return ArchiveKind.TAR_GZ
    return ArchiveKind.TAR_ZST if head.startswith(_ZSTD) else ArchiveKind.TAR


def looks_like_tar(block: bytes) -> bool:
    """Tell whether *block* begins with a tar header: by its checksum, by `ustar` where it is cut short."""
    if len(block) >= BLOCK:
        return stored_checksum(block) in checksums(block) and any(block[:BLOCK])
    return block[257:262] == b"ustar"


def stored_checksum(header: bytes) -> int | None:
    """Return the checksum that a tar header states, None where it states none."""
    digits = header[148:156].strip(b" \0")
    return int(digits, 8) if digits and digits.strip(b"01234567") == b"" else None


def checksums(header: bytes) -> tuple[int, int]:
    """Return the sums of a tar header's bytes, unsigned and signed: writers of both kinds exist."""
    counted = header[:148] + b" " * 8 + header[156:BLOCK]
    unsigned = sum(counted)
    return unsigned, unsigned - 256 * sum(byte > 127 for byte in counted)


def described(head: bytes) -> str:
    """Say in a few words what bytes these are; nothing of their content is repeated."""
    text = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith(b"<?xml"):
        return "an XML document"
    if text.startswith((b"{", b"[")):
        return "a JSON document"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    if head.startswith(_GZIP):
        return "a gzip stream with no tar in it"
    if head.startswith(_ZSTD):
        return "a zstd stream with no tar in it"
    return f"neither zip, tar, tar.gz nor tar.zst (it begins with the bytes {head[:8].hex(' ')})"


def _is_model_file(lower: str) -> bool:
    dot = lower.rfind(".")
    return dot >= 0 and lower[dot:] in MODEL_SUFFIXES


def _is_archive_type(media_type: str | None) -> bool:
    return (media_type or "").partition(";")[0].strip().lower() in _ARCHIVE_MEDIA_TYPES


def _kind_of(head: bytes) -> ArchiveKind | None:
    if head.startswith(_ZIP):
        return ArchiveKind.ZIP
    if head.startswith(_GZIP):
        return ArchiveKind.TAR_GZ if looks_like_tar(_first_of_gzip(head)) else None
    if head.startswith(_ZSTD):
        return ArchiveKind.TAR_ZST if looks_like_tar(_first_of_zstd(head)) else None
    return ArchiveKind.TAR if looks_like_tar(head) else None


def _first_of_gzip(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, BLOCK)
    except zlib.error:
        return b""


def _first_of_zstd(head: bytes) -> bytes:
    import zstandard  # noqa: PLC0415 (a native library that few models need)

    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(head) as reader:
            return reader.read(BLOCK)
    except zstandard.ZstdError:
        return b""
