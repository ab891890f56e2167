"""Where members go: flat new files of the store dir, counted against the limits before they are written.

Nothing here makes a folder, follows a link, or opens a name that the archive chose: a file is named by the
hash of the archive's identity and the member's path.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable

from agent.artifacts.manifest import BlobId, blob_id
from agent.artifacts.unpack.wire import Begin, Hidden, Limits, Member, Message, Written
from agent.core.errors import TerminalError
from agent.core.layers import Hides
from agent.core.paths import relative_path
from agent.core.reasons import Reason

FREE_BYTES = 10 * 1024 * 1024
"""An archive may unpack to so much whatever its ratio."""

_DRIVE = re.compile(r"[A-Za-z]:")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REPORT_EVERY = 64 * 1024 * 1024


def member_blob(identity: str, path: str) -> BlobId:
    """Return the blob that the member *path* of the archive of that identity is."""
    return blob_id(f"{identity}\n{path}")


def refused(words: str) -> TerminalError:
    """Return the error for an archive that breaks a rule."""
    return TerminalError(Reason.ARCHIVE_REFUSED, words)


def too_large(words: str) -> TerminalError:
    """Return the error for an archive that is over a limit."""
    return TerminalError(Reason.ARCHIVE_TOO_LARGE, words)


def plain_path(name: str) -> str:
    """Return a member's path without leading `./` and without the slash at a folder's end; "" is the root.

    Raises TerminalError(ArchiveRefused) for any path that could lead out or that no file can have.
    """
    path = name
    while path.startswith("./"):
        path = path[2:]
    path = path.removesuffix("/")
    if path in {"", "."} and name[:1] == ".":
        return ""
    if _DRIVE.match(path):
        raise refused(f"the member {name[:200]!r} has a drive letter; make the archive with relative paths")
    try:
        return relative_path(path)
    except TerminalError as error:
        raise refused(f"a member of the archive cannot be laid down: {error.message}") from error


class Tree:
    """The paths so far: no file twice, no file that is a folder, no two that differ by case alone."""

    def __init__(self, max_members: int) -> None:
        self._max_members = max_members
        self._kinds: dict[str, tuple[str, bool]] = {}
        self._entries = 0

    def add(self, path: str, *, is_file: bool) -> None:
        """Take in one entry; raises TerminalError for what cannot stand beside the others."""
        self._entries += 1
        if self._entries > self._max_members:
            raise too_large(f"the archive has more than {self._max_members} members; store it unpacked")
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if not self._stand(parent, is_file=False):
                break
        if not self._stand(path, is_file=is_file) and is_file:
            raise refused(f"the archive holds {path[:200]!r} twice")

    def _stand(self, path: str, *, is_file: bool) -> bool:
        """Return whether *path* is new."""
        key = path.casefold()
        if key not in self._kinds:
            self._kinds[key] = (path, is_file)
            return True
        known, known_is_file = self._kinds[key]
        if known_is_file != is_file:
            raise refused(f"{path[:200]!r} is a file and a folder at once in the archive")
        if known != path:
            raise refused(f"{path[:200]!r} and {known[:200]!r} differ by case alone in the archive")
        return False


class Sink:
    """Writes members into one folder, each announced before its file exists."""

    def __init__(
        self,
        folder: int,
        identity: str,
        limits: Limits,
        total_bytes: int,
        archive_bytes: int,
        say: Callable[[Message], None],
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._say = say
        self._tree = Tree(limits.members)
        self._limit = total_bytes
        self._ratio_limit = max(FREE_BYTES, archive_bytes * limits.ratio)
        self._ratio = limits.ratio
        self._expanded = self._unsaid = self._laid = self._hidden = 0
        self._most_hidden = limits.members

    def expand(self, size: int) -> None:
        """Count bytes that came out of the archive, members or not, before more of them are asked for."""
        self._expanded += size
        if self._expanded > self._ratio_limit:
            raise too_large(
                f"the archive expands to more than {self._ratio} times its size, as a decompression bomb "
                "does; store it unpacked"
            )
        self._unsaid += size
        if self._unsaid >= _REPORT_EVERY:
            self._unsaid = 0
            self._say(Written(self._expanded))

    def expect(self, total_bytes: int) -> None:
        """Check what an archive declares of its members against the room there is."""
        if total_bytes > self._limit:
            raise too_large(
                f"the archive's members need {total_bytes} bytes and {self._limit} bytes may be written; "
                "free some, or give the volume more room"
            )

    def folder(self, path: str) -> None:
        """Take note of a folder; none is made."""
        if path:
            self._tree.add(path, is_file=False)

    def hide(self, path: str, how: Hides) -> None:
        """Tell what the layers below have no more."""
        self._hidden += 1
        if self._hidden > self._most_hidden:
            raise too_large(f"the layer hides more than {self._most_hidden} paths; build the image anew")
        self._say(Hidden(path, how))

    def file(self, path: str, size: int, content: Iterable[bytes | memoryview]) -> None:
        """Write one member whole; *content* that is not exactly *size* bytes is refused."""
        if not path:
            raise refused("a file in the archive has no name")
        self._tree.add(path, is_file=True)
        self._laid += size
        self.expect(self._laid)
        blob = member_blob(self._identity, path)
        self._say(Begin(path))
        digest, written = hashlib.sha256(), 0
        descriptor = self._create(f".agent-part-{blob}")
        try:
            for piece in content:
                digest.update(piece)
                written += len(piece)
                if written > size:
                    break
                _write(descriptor, piece)
        finally:
            os.close(descriptor)
        if written != size:
            raise refused(
                f"the member {path[:200]!r} does not hold the {size} bytes that the archive declares"
            )
        self._say(Member(path, size, digest.hexdigest(), blob))

    def _create(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)  # of an unpacking that was killed
        return os.open(name, _NEW_FILE, 0o644, dir_fd=self._folder)


def _write(descriptor: int, piece: bytes | memoryview) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]
