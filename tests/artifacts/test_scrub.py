"""What rots on the disk is found by reading it again, and is fetched anew (fault D11)."""

import os
import time

from agent.artifacts.digests import Digests
from agent.artifacts.manifest import Entry, Manifest, blob_id
from agent.artifacts.scrub import scrub
from agent.artifacts.store import Store
from agent.core.model import Revision
from tests.artifacts.shelf import fetch


def checksum(content, algorithm):
    digests = Digests([algorithm])
    digests.update(memoryview(content))
    return f"{algorithm}:{digests.result()[algorithm]}"


def commit(store, uri, contents, algorithm="crc32c"):
    entries = tuple(
        Entry(f"f{number}", len(each), fetch(store, each, f"{uri}{number}"), checksum(each, algorithm))
        for number, each in enumerate(contents)
    )
    store.commit(Manifest(uri, Revision(uri), 1.0, entries, "seen-first"))
    return [entry.blob for entry in entries]


def rot(store, blob):
    """Flip a bit as a disk does: neither size nor mtime tell."""
    path = store.blob_path(blob)
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


async def test_what_is_whole_stays_and_what_rotted_is_no_revision_any_more(tmp_path):
    for algorithm in ("sha256", "crc32c", "crc64nvme"):
        with Store.open(tmp_path / algorithm, None) as store:
            commit(store, "s3://good", [b"one", b"two"], algorithm)
            bad = commit(store, "s3://bad", [b"three", b"four"], algorithm)
            assert (await scrub(store, 0)).damaged == ()
            rot(store, bad[1])
            assert store.intact("s3://bad", Revision("s3://bad")), "no stat tells"
            found = await scrub(store, 0)
            assert (found.blobs, found.damaged) == (4, (bad[1],))
            assert store.revisions().keys() == {"s3://good"}
            assert not store.holds(bad[1], 4)
            assert store.holds(bad[0], 5), "what is good of it need not be fetched again"


async def test_it_reads_no_faster_than_it_may(tmp_path):
    with Store.open(tmp_path, None) as store:
        commit(store, "s3://a", [bytes(100_000)])
        began = time.monotonic()
        await scrub(store, 200_000)
        assert time.monotonic() - began >= 0.45


async def test_a_blob_that_goes_meanwhile_is_no_fault(tmp_path):
    with Store.open(tmp_path, None) as store:
        (blob,) = commit(store, "s3://a", [b"one"])
        store.blob_path(blob).unlink()
        assert (await scrub(store, 0)).damaged == ()
        assert blob == blob_id("s3://a0")
