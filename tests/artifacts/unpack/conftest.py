"""A store dir to unpack into, by the child process and, for many small cases, in this process."""

import hashlib
import os
from pathlib import Path

import psutil
import pytest

from agent.artifacts.unpack import streams
from agent.artifacts.unpack.run import unpack
from agent.artifacts.unpack.sink import Sink
from agent.artifacts.unpack.tar import unpack_tar
from agent.artifacts.unpack.wire import Limits, Member
from agent.artifacts.unpack.zip import unpack_zip
from agent.core.archive import ArchiveKind
from agent.core.errors import TerminalError
from agent.core.reasons import Reason

IDENTITY = "s3://bucket/model.tar#1"


class Bench:
    """`outer` holds the archive and the store dir; nothing else may ever stand there."""

    def __init__(self, outer: Path) -> None:
        self.archive = outer / "archive"
        self.folder = outer / "store"
        self.folder.mkdir()
        self._others = set(psutil.Process().children())  # servers of other tests of this session

    def put(self, raw: bytes) -> None:
        self.archive.write_bytes(raw)

    async def unpack(self, raw: bytes, kind: ArchiveKind, **limits) -> dict[str, bytes]:
        """Unpack in a child and return what each member's file holds."""
        self.put(raw)
        members = await unpack(self.archive, kind, self.folder, IDENTITY, Limits(**limits))
        return self.read(members)

    def read(self, members: tuple[Member, ...] | list[Member]) -> dict[str, bytes]:
        found = {each.path: (self.folder / f".agent-part-{each.blob}").read_bytes() for each in members}
        for each in members:
            assert (len(found[each.path]), hashlib.sha256(found[each.path]).hexdigest()) == (
                each.size,
                each.sha256,
            )
        assert len(list(self.folder.iterdir())) == len(found)
        return found

    def here(self, raw: bytes, kind: ArchiveKind, *, below: str | None = None, **limits) -> dict[str, bytes]:
        """Unpack in this process; what was written before a refusal stays, and is looked at."""
        self.put(raw)
        said: list[object] = []
        archive, folder = os.open(self.archive, os.O_RDONLY), os.open(self.folder, os.O_RDONLY)
        chosen = Limits(**({"total_bytes": 1 << 30} | limits))
        try:
            sink = Sink(folder, IDENTITY, chosen, chosen.total_bytes or 0, len(raw), said.append)
            match kind:
                case ArchiveKind.ZIP:
                    unpack_zip(archive, sink, chosen.members)
                case ArchiveKind.TAR:
                    unpack_tar(streams.Stream(streams.plain(archive), sink.expand), sink, below)
                case ArchiveKind.TAR_GZ:
                    unpack_tar(streams.Stream(streams.gunzipped(archive), sink.expand), sink, below)
                case ArchiveKind.TAR_ZST:
                    unpack_tar(streams.Stream(streams.unzstd(archive), sink.expand), sink, below)
        finally:
            os.close(archive)
            os.close(folder)
        return self.read([each for each in said if isinstance(each, Member)])

    def refuses(self, raw: bytes, kind: ArchiveKind, words: str, **limits) -> None:
        """Check that the archive is refused in these words, and that only flat files of ours were made."""
        with pytest.raises(TerminalError, match=words) as caught:
            self.here(raw, kind, **limits)
        assert caught.value.reason in {Reason.ARCHIVE_REFUSED, Reason.ARCHIVE_TOO_LARGE}
        self.holds_only_own_files()

    def holds_only_own_files(self) -> None:
        assert {path.name for path in self.folder.parent.iterdir()} <= {"archive", "store"}
        for path in self.folder.iterdir():
            assert path.name.startswith(".agent-part-")
            assert path.is_file()
            assert not path.is_symlink()

    def children(self) -> set[psutil.Process]:
        """Return the processes that unpacking has started and that are not reaped."""
        return set(psutil.Process().children()) - self._others

    def is_empty(self) -> bool:
        return not any(self.folder.iterdir())


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)
