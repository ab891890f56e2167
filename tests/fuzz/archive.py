"""Archives, read in this process: flat files of our own and nothing else, within every limit, or a refusal.

The first byte says the kind; the rest is the archive.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from agent.artifacts.unpack import streams
from agent.artifacts.unpack.sink import Sink
from agent.artifacts.unpack.tar import unpack_tar
from agent.artifacts.unpack.wire import Limits, Member
from agent.artifacts.unpack.zip import unpack_zip
from agent.core.errors import TerminalError
from agent.core.paths import check_tree, relative_path
from agent.core.reasons import Reason

LIMITS = Limits(total_bytes=200_000, members=50)
IDENTITY = "s3://bucket/archive#1"
ROOT = Path(tempfile.mkdtemp(prefix="fuzz-archive-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
STORE = ROOT / "store"


def one(data: bytes) -> None:
    STORE.mkdir(exist_ok=True)
    said: list[object] = []
    archive, folder = os.memfd_create("archive"), os.open(STORE, os.O_RDONLY)
    try:
        os.write(archive, data[1:])
        os.lseek(archive, 0, os.SEEK_SET)
        sink = Sink(folder, IDENTITY, LIMITS, LIMITS.total_bytes or 0, len(data) - 1, said.append)
        unpack(data[0] % 4 if data else 0, archive, sink)
    except TerminalError as refused:
        assert refused.reason in {Reason.ARCHIVE_REFUSED, Reason.ARCHIVE_TOO_LARGE}
    else:
        check([each for each in said if isinstance(each, Member)])
    finally:
        os.close(archive)
        os.close(folder)
        written = list(STORE.iterdir())
        assert os.listdir(ROOT) == ["store"]  # noqa: PTH208 - names are what is judged
        for path in written:
            assert path.name.startswith(".agent-part-")
            assert path.is_file()
            assert not path.is_symlink()
        assert sum(path.stat().st_size for path in written) <= (LIMITS.total_bytes or 0)
        for path in written:
            path.unlink()


def unpack(kind: int, archive: int, sink: Sink) -> None:
    if kind == 0:
        unpack_zip(archive, sink, LIMITS.members)
        return
    source = (streams.plain, streams.gunzipped, streams.unzstd)[kind - 1](archive)
    unpack_tar(streams.Stream(source, sink.expand), sink)


def check(members: list[Member]) -> None:
    """Each file is where, as long and what was said; the paths could be laid down beside each other."""
    assert len(members) <= LIMITS.members
    check_tree(relative_path(each.path) for each in members)
    assert {path.name for path in STORE.iterdir()} == {f".agent-part-{each.blob}" for each in members}
    for each in members:
        content = (STORE / f".agent-part-{each.blob}").read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (each.size, each.sha256)
