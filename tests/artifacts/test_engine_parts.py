"""The pure and the small parts of the engine, each by its law."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from urllib.parse import urlsplit

import google_crc32c
import pytest
from anycrc.crc import Model
from hypothesis import given
from hypothesis import strategies as st

from agent.artifacts.crc import CRCS, DIGITS, combined
from agent.artifacts.engine.dial import url_parts
from agent.artifacts.engine.http1 import Chunks, ProtocolError, content_range, parse_head, request
from agent.artifacts.engine.journal import Span, open_journal
from agent.artifacts.engine.ordered import OrderedDigests
from agent.artifacts.engine.patience import pause_after
from agent.artifacts.engine.settings import MIB
from agent.artifacts.engine.throttle import Throttle
from agent.artifacts.engine.writeback import Writeback, cacheable_bytes
from agent.artifacts.reserve import reserve
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from tests.artifacts.engine_orders import LARGE
from tests.fakes.faulty_origin import Fault, FaultyOrigin

CUTS = st.lists(st.integers(0, 500), max_size=8)


def pieces(data, cuts):
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[start:stop] for start, stop in pairwise(edges)]


def chunked(parts, trailer=b""):
    return (
        b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in parts if part)
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


@given(st.lists(st.binary(max_size=60), max_size=6), CUTS, st.sampled_from([b"", b"X-A: b\r\n"]))
def test_chunks_are_the_same_bytes_however_they_arrive(parts, cuts, trailer):
    chunks, got = Chunks(), b""
    for piece in pieces(chunked(parts, trailer), cuts):
        got += b"".join(bytes(each) for each in chunks.feed(memoryview(piece)))
    assert chunks.done
    assert got == b"".join(parts)


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.data())
def test_a_chunked_body_that_is_cut_is_never_done(parts, data):
    whole = chunked(parts)
    cut = data.draw(st.integers(0, len(whole) - 1))
    chunks = Chunks()
    list(chunks.feed(memoryview(whole[:cut])))
    assert not chunks.done


@pytest.mark.parametrize(
    "body", [b"5\r\nhello!\r\n", b"x\r\n", b"\r\n", b"-1\r\n", b"5\nhello\r\n", b"0\r\n\r\nmore"]
)
def test_chunks_that_lie_are_refused(body):
    with pytest.raises(ProtocolError):
        list(Chunks().feed(memoryview(body)))


@given(st.binary(max_size=300))
def test_a_head_is_read_or_refused_and_nothing_else(raw):
    try:
        head = parse_head(raw)
    except ProtocolError:
        return
    assert 100 <= head.status < 600


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: +5"],
        ["Content-Length: -5"],
        ["Con tent: 5"],
        [" folded"],
    ],
    ids=str,
)
def test_a_head_that_two_readers_could_read_in_two_ways_is_refused(lines):
    with pytest.raises(ProtocolError):
        parse_head("\r\n".join(["HTTP/1.1 200 OK", *lines]).encode())


@pytest.mark.parametrize("header", [("A", "b\r\nEvil: 1"), ("A:", "b"), ("A b", "c"), ("", "x")])
def test_a_request_cannot_be_made_to_hold_another_header(header):
    with pytest.raises(ValueError, match="cannot be sent"):
        request("/", dict([header]))


ODD = st.text('aZ09.:@/?#%[]- \t\n\\"é\x7f', max_size=12)


@given(st.sampled_from(["http://", "https://", "HTTP://", "http:/", ""]), ODD, ODD, st.integers(0, 70000))
def test_a_plain_address_is_read_as_the_standard_library_reads_it(scheme, host, rest, port):
    for url in (f"{scheme}{host}/{rest}", f"{scheme}host:{port}{rest}", f"{scheme}{host}:{port}/{rest}"):
        try:
            parts = urlsplit(url)
            host_and_port = (parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme])
        except (ValueError, KeyError):
            with pytest.raises(ValueError):  # noqa: PT011 - the words are the standard library's
                url_parts(url)
            continue
        found = url_parts(url)
        assert (found.scheme, found.host, found.port) == (parts.scheme, *host_and_port)
        assert found.authority == parts.netloc.rpartition("@")[2]
        assert found.target == (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def test_content_ranges_are_exact():
    assert content_range("bytes 5-9/100") == (5, 10, 100)
    assert content_range("bytes 0-0/*") == (0, 1, None)
    for wrong in ("bytes 5-9", "5-9/100", "bytes=5-9/100", "bytes */100", "", "bytes 5-9/100, bytes 1-2/100"):
        with pytest.raises(ProtocolError):
            content_range(wrong)


@given(st.binary(max_size=400), CUTS, st.sampled_from(sorted(CRCS)))
def test_the_crc_of_parts_combined_is_the_crc_of_the_whole(data, cuts, algorithm):
    calc = CRCS[algorithm].calc
    parts = [(calc(piece), len(piece)) for piece in pieces(data, cuts)]
    whole = f"{calc(data):0{DIGITS[algorithm]}x}"
    assert combined(algorithm, parts) == whole


def test_each_crc_is_the_one_that_its_name_says():
    assert combined("crc64nvme", [(CRCS["crc64nvme"].calc(b"123456789"), 9)]) == "ae8b14860a799888"
    assert combined("crc32c", [(CRCS["crc32c"].calc(b"123456789"), 9)]) == "e3069283"


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20), st.integers(0, (1 << 32) - 1))
def test_two_libraries_agree_on_crc32c_of_any_bytes_and_where_they_go_on(start, stop, crc):
    data = memoryview(LARGE)[start:stop]
    assert CRCS["crc32c"].calc(data, crc) == Model("CRC32C").calc(data, crc)


SPANS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=10)


@given(spans=SPANS, torn=st.integers(0, 40), reboot=st.booleans())
def test_a_journal_never_tells_of_more_than_was_recorded(tmp_path_factory, spans, torn, reboot):
    folder = tmp_path_factory.mktemp("journal")
    content = bytes(range(20))
    partial = os.open(folder / "part", os.O_RDWR | os.O_CREAT)
    os.pwrite(partial, content, 0)
    bound = {"identity": "x", "size": 20, "algorithm": "crc32c"}
    opened = open_journal(folder / "journal", partial, boot="1", **bound)
    assert not opened.spans
    recorded = [
        Span(min(s), max(s), CRCS["crc32c"].calc(content[min(s) : max(s)])) for s in spans if s[0] != s[1]
    ]
    for span in recorded:
        opened.journal.append(span)
    opened.journal.close()
    if recorded and torn:
        os.truncate(folder / "journal", max(0, (folder / "journal").stat().st_size - torn))
    for _ in range(2):
        found = open_journal(folder / "journal", partial, boot="2" if reboot else "1", **bound).spans
        assert set(found) <= set(recorded)
        assert all(one.stop <= two.start for one, two in pairwise(found))
    assert open_journal(folder / "journal", partial, boot="1", **{**bound, "identity": "y"}).spans == ()
    os.close(partial)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 100_000)), min_size=5, max_size=200))
def test_a_throttle_never_grants_more_than_flowed_in(steps):
    now = [0.0]
    throttle = Throttle(100_000, lambda: now[0])
    granted = 0
    for pause, wanted in steps:
        now[0] += pause
        granted += throttle.take(wanted)
        assert granted <= 100_000 * now[0] + 1


def test_a_busy_throttle_grants_all_that_flows_in():
    now = [0.0]
    throttle = Throttle(1_000_000, lambda: now[0])
    granted = 0
    while now[0] < 10:
        got = throttle.take(65536)
        granted += got
        now[0] += 0 if got else throttle.pause_seconds
    assert granted == pytest.approx(10_000_000, rel=0.02)


def test_ordered_digests_see_every_byte_once_in_order(tmp_path):
    descriptor = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, LARGE[: 3 * MIB])
    moved = []
    ordered = OrderedDigests(descriptor, 3 * MIB, {"crc32c"}, lambda: moved.append(1))
    os.close(descriptor)
    ordered.advance(3 * MIB)
    assert ordered.run() == {"crc32c": f"{google_crc32c.value(LARGE[: 3 * MIB]):08x}"}


def test_reserving_keeps_what_is_there_and_tells_when_there_is_no_room(tmp_path):
    descriptor = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"kept")
    reserve(descriptor, 10_000)
    assert os.pread(descriptor, 4, 0) == b"kept"
    assert os.fstat(descriptor).st_size == 10_000
    with pytest.raises(OSError, match=r"space|large"):
        reserve(descriptor, 1 << 60)
    os.close(descriptor)


STEP = 32 * MIB


def filled(size, *, keep_cached, parts=4):
    """What is hinted while a file is filled by so many writers at once: steps begun, and steps let go."""
    begun, gone = [], []
    watch = Writeback(
        -1,
        size,
        keep_cached=keep_cached,
        write_out=lambda _, at, count: begun.append((at, count)),
        let_go=lambda _, at, count: gone.append((at, len(begun))),
    )
    part = size // parts // MIB * MIB
    for done in range(0, size, MIB):
        for start in range(0, size, part):
            stop = min(start + part, size)
            if start + done < stop:
                watch.wrote(start + done, min(start + done + MIB, stop))
    return begun, gone


@pytest.mark.parametrize("size", [65 * MIB, 640 * MIB, 1000 * MIB + 77])
def test_each_stretch_of_a_large_file_is_begun_to_be_written_once(size):
    begun, gone = filled(size, keep_cached=True)
    assert sorted(begun) == [(at, STEP) for at in range(0, size, STEP)]
    assert gone == []


def test_a_file_that_may_not_stay_in_memory_is_let_go_in_the_order_it_was_written_out():
    begun, gone = filled(1024 * MIB, keep_cached=False)
    assert [at for at, _ in gone] == [at for at, _ in begun[: len(gone)]]
    assert all((after - number) * STEP > 128 * MIB for number, (_, after) in enumerate(gone))
    assert len(begun) - len(gone) <= 4


def test_a_small_file_is_left_to_the_kernel():
    assert filled(64 * MIB, keep_cached=False) == ([], [])


@pytest.mark.parametrize(
    ("name", "content", "limited"),
    [("memory.max", "1073741824", True), ("memory.max", "max", False),
     ("memory/memory.limit_in_bytes", "1073741824", True), ("other", "", False)],
)  # fmt: skip
def test_what_may_stay_in_memory_is_a_quarter_of_what_this_container_may_have(
    tmp_path, name, content, limited
):
    (tmp_path / "memory").mkdir()
    (tmp_path / name).write_text(content)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert cacheable_bytes(tmp_path) == min(machine, (1 << 30) if limited else machine) // 4


@pytest.mark.parametrize(
    ("error", "failures", "waits"),
    [
        (TerminalError(Reason.NOT_FOUND, ""), 1, False),
        (RetryableError(Reason.STORAGE_UNAVAILABLE, ""), 2, True),
        (RetryableError(Reason.STORAGE_UNAVAILABLE, ""), 3, False),
        (RetryableError(Reason.SNAPSHOT_CHANGED, ""), 1, False),
        (RetryableError(Reason.STORAGE_THROTTLED, "", retry_after_seconds=20), 5, True),
        (RetryableError(Reason.STORAGE_THROTTLED, "", retry_after_seconds=60), 1, False),
    ],
)
def test_patience_is_quick_and_short_but_for_throttling(error, failures, waits):
    assert (pause_after(error, failures) is not None) == waits


SLICE = 64 << 10


def on_disk(folder):
    """How many bytes of LARGE the partial download in *folder* has by now."""
    for partial in folder.glob("store/.agent-part-*"):
        raw = partial.read_bytes()
        slices = range(0, len(raw), SLICE)
        return sum(SLICE for at in slices if raw[at : at + SLICE] == LARGE[at : at + SLICE])
    return 0


def test_after_sigkill_at_most_a_mebibyte_a_connection_is_fetched_again(tmp_path):
    with FaultyOrigin() as origin:
        origin.put("/x", LARGE)
        origin.every = Fault(stall=3 * MIB)
        arguments = (f"{origin.url}/x", str(len(LARGE)), origin.etag("/x"), str(tmp_path))
        command = (sys.executable, "-m", "tests.bench.resume", "--child", *arguments)
        child = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while origin.sent_bytes < 12 * MIB or on_disk(tmp_path) < origin.sent_bytes - SLICE:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before, connections = origin.sent_bytes, origin.connected
        origin.every = Fault()
        subprocess.run(command, check=True)
        again = origin.sent_bytes - len(LARGE)
        assert again <= connections * MIB
        assert again < before // 2  # or the line above would prove nothing
