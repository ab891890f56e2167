"""The engine against an origin that misbehaves: whatever happens, the bytes are right or there are none."""

import asyncio
import hashlib
import itertools
import os
import threading
import time
from collections import Counter

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.artifacts.crc import CRCS
from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.settings import MIB, EngineSettings
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.base import RemoteObject
from tests.artifacts.engine_orders import FAST, LARGE, SMALL, Orders
from tests.fakes.faulty_origin import Fault, FaultyOrigin
from tests.fakes.origin_provider import OriginAnswers, OriginProvider


@pytest.fixture
def engine():
    engine = Engine(FAST)
    yield engine
    engine.close()


def crc32c(content):
    return {"crc32c": f"{google_crc32c.value(content):08x}"}


def crc64nvme(content):
    return {"crc64nvme": f"{CRCS['crc64nvme'].calc(content):016x}"}


def sha256(content):
    return {"sha256": hashlib.sha256(content).hexdigest()}


def md5(content):
    return {"md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}


def git_sha1(content):
    return {
        "git-sha1": hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    }


async def moved_undisturbed(engine, folder):
    """Move LARGE from a fresh origin until it takes less than a second; return origin and orders.

    On a busy machine a part may last longer: it is then shared out or given up, and some of it comes twice.
    """
    loop = asyncio.get_running_loop()
    for number in itertools.count():
        (folder / str(number)).mkdir()
        with FaultyOrigin() as origin:
            origin.put("/large", LARGE)
            orders = Orders(origin, folder / str(number))
            began = loop.time()
            await engine.move(await orders.of("/large"))
            if loop.time() - began < min(1.0, FAST.stall_seconds):
                return origin, orders
    raise AssertionError


async def test_a_large_object_comes_in_ranges_over_several_connections_and_each_byte_once(engine, tmp_path):
    origin, orders = await moved_undisturbed(engine, tmp_path)
    assert orders.read("/large") == LARGE
    assert len({asked.connection for asked in origin.requests()}) > 1
    assert all("range" in asked.headers for asked in origin.requests())
    assert origin.sent_bytes == len(LARGE)
    assert orders.meters["/large"].done == len(LARGE)
    assert orders.proofs["/large"] == f"seen-first crc32c:{crc32c(LARGE)['crc32c']}"
    assert orders.litter() == []


async def test_small_objects_share_kept_connections(origin, engine, tmp_path):
    paths = [f"/small/{number}" for number in range(300)]
    for number, path in enumerate(paths):
        origin.put(path, SMALL[: number * 10])
    orders = Orders(origin, tmp_path)
    await engine.move(await orders.of(*paths))
    assert [orders.read(path) for path in paths] == [SMALL[: number * 10] for number in range(300)]
    assert len(origin.requests()) == 300
    assert origin.connected <= FAST.max_connections // 2


@pytest.mark.parametrize("checksums", [crc32c, crc64nvme, sha256, md5, git_sha1])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_flipped_bit_never_gets_past_a_checksum(origin, engine, tmp_path, checksums, content):
    origin.put("/x", content, [Fault(flip=66_000)])
    orders = Orders(origin, tmp_path, checksums=checksums)
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == content
    assert orders.settled["/x"] == 2
    assert orders.proofs["/x"].startswith("provider ")
    assert orders.litter() == []


async def test_a_checksum_that_only_the_answers_tell_is_verified_over_all_ranges(origin, engine, tmp_path):
    origin.answer_headers = lambda _: {"X-Checksum-crc64nvme": crc64nvme(LARGE)["crc64nvme"]}
    origin.put("/x", LARGE, [Fault(), Fault(flip=15 * MIB), Fault(flip=15 * MIB), Fault(flip=15 * MIB)])
    orders = Orders(origin, tmp_path)
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == LARGE
    assert orders.proofs["/x"].startswith("provider crc64nvme")


PASSING = [
    Fault(cut=1000),
    Fault(reset=1000),
    Fault(cut=3 * MIB),
    Fault(reset=2 * MIB),
    Fault(stall=1000),
    Fault(hang_up=True),
    Fault(status=503),
    Fault(status=503, headers={"Retry-After": "0"}),
    Fault(status=500),
    Fault(short=1),
    Fault(extra=1),
    Fault(encode=True),
    Fault(shift=4096, claim_range="bytes 4096-9999999/20983865"),
    Fault(claim_range="bytes 0-5/20983865"),
    Fault(claim_range="nonsense"),
    Fault(chunked=True),
    Fault(chunked=True, cut=2000),
    Fault(ignore_range=True),
    Fault(close=True),
]


def known_by(fault):
    return ",".join(
        f"{name}={getattr(fault, name)!r}"
        for name in fault.__slots__
        if getattr(fault, name) != getattr(Fault(), name)
    )


@pytest.mark.parametrize("fault", PASSING, ids=known_by)
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_fault_that_passes_is_got_over(origin, engine, tmp_path, fault, content):
    origin.put("/x", content, [fault])
    orders = Orders(origin, tmp_path)
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == content
    assert orders.meters["/x"].done == len(content)
    assert orders.litter() == []


@pytest.mark.parametrize("fault", PASSING, ids=known_by)
async def test_a_fault_on_a_later_range_is_got_over(origin, engine, tmp_path, fault):
    origin.put("/x", LARGE, [Fault(), Fault(), fault])
    orders = Orders(origin, tmp_path)
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == LARGE
    assert orders.meters["/x"].done == len(LARGE)


STAYING = [
    (Fault(swap_etag=True), Reason.SNAPSHOT_CHANGED),
    (Fault(drop_etag=True), Reason.SNAPSHOT_CHANGED),
    (Fault(status=412), Reason.SNAPSHOT_CHANGED),
    (Fault(status=416), Reason.SNAPSHOT_CHANGED),
    (Fault(status=404), Reason.NOT_FOUND),
    (Fault(status=503, headers={"Retry-After": "600"}), Reason.STORAGE_THROTTLED),
    (Fault(hang_up=True), Reason.STORAGE_UNAVAILABLE),
    (Fault(cut=1000), Reason.STORAGE_UNAVAILABLE),
    (Fault(stall=0), Reason.STORAGE_TIMEOUT),
    (Fault(encode=True), Reason.STORAGE_ERROR),
]


@pytest.mark.parametrize(
    ("fault", "reason"), STAYING, ids=lambda each: getattr(each, "value", None) or known_by(each)
)
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_fault_that_stays_is_told_and_nothing_is_settled(
    origin, engine, tmp_path, fault, reason, content
):
    origin.put("/x", content)
    origin.every = fault
    orders = Orders(origin, tmp_path)
    with pytest.raises(AgentError) as caught:
        await engine.move(await orders.of("/x"))
    if fault != Fault(encode=True) or content is SMALL:
        assert caught.value.reason is reason
    assert not (tmp_path / "x").exists()
    assert not orders.proofs


async def test_an_object_replaced_between_two_ranges_is_never_spliced(origin, engine, tmp_path):
    origin.put("/x", LARGE)
    served = threading.Event()

    def replace(asked):
        if len(origin.asked) == 2 and not served.is_set():
            served.set()
            origin.put("/x", LARGE[::-1])

    origin.on_request = replace
    orders = Orders(origin, tmp_path)
    with pytest.raises(RetryableError) as caught:
        await engine.move(await orders.of("/x"))
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED
    assert not (tmp_path / "x").exists()


async def test_an_origin_that_always_ignores_ranges_is_read_in_one_stream(origin, engine, tmp_path):
    origin.put("/x", LARGE)
    origin.every = Fault(ignore_range=True)
    orders = Orders(origin, tmp_path, checksums=crc32c)
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == LARGE
    assert len(origin.requests()) == 1


async def test_chunked_bytes_of_unknown_size_and_without_validator_are_digested(origin, engine, tmp_path):
    origin.put("/x", LARGE)
    origin.every = Fault(chunked=True, drop_etag=True)
    orders = Orders(origin, tmp_path, pinned=False, sizes=False)
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == LARGE
    assert orders.proofs["/x"] == f"seen-first sha256:{sha256(LARGE)['sha256']}"


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_an_origin_that_asks_for_a_pause_has_it_from_all_models_and_no_other_origin_has(
    origin, engine, tmp_path, content
):
    orders = Orders(origin, tmp_path)
    origin.put("/x", content, [Fault(status=429, headers={"Retry-After": "1"})])
    origin.put("/y", content)
    first = asyncio.ensure_future(engine.move(await orders.of("/x")))
    while not origin.requests("/x"):
        await asyncio.sleep(0.001)
    refused = origin.requests("/x")[0].at
    while origin.sent_bytes < len(b"<Error>no</Error>"):
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)  # let the refusal be read
    with FaultyOrigin() as elsewhere:
        elsewhere.put("/z", content)
        second = asyncio.ensure_future(engine.move(await orders.of("/y")))
        await engine.move(await Orders(elsewhere, tmp_path).of("/z"))
        assert elsewhere.requests("/z")[0].at - refused < 0.9
    await asyncio.gather(first, second)
    later = [asked for asked in origin.requests() if asked.at > refused]
    assert {asked.path for asked in later} == {"/x", "/y"}
    assert min(asked.at for asked in later) - refused >= 0.99
    assert orders.read("/x") == orders.read("/y") == content


async def test_cancel_lets_go_at_once_and_the_next_try_goes_on_from_the_journal(origin, engine, tmp_path):
    origin.put("/x", LARGE)
    orders = Orders(origin, tmp_path)
    loop = asyncio.get_running_loop()
    origin.every = Fault(stall=3 * MIB)
    task = asyncio.ensure_future(engine.move(await orders.of("/x")))
    while orders.meters["/x"].done < 3 * MIB:
        await asyncio.sleep(0.01)
    began = loop.time()
    task.cancel()
    await asyncio.wait([task])
    assert loop.time() - began < 1
    assert task.cancelled()
    origin.every = Fault()
    sent = origin.sent_bytes
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == LARGE
    assert origin.sent_bytes - sent <= len(LARGE) - 3 * MIB + MIB
    assert orders.litter() == []


async def interrupted(origin, folder, identity_of=None, boot="boot"):
    """Leave a partial with a journal of some of LARGE in *folder*; return its orders."""
    origin.put("/x", LARGE)
    origin.every = Fault(stall=3 * MIB)
    engine = Engine(FAST, boot=boot)
    orders = Orders(origin, folder)
    task = asyncio.ensure_future(engine.move(await orders.of("/x")))
    while orders.meters["/x"].done < 3 * MIB:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    engine.close()
    origin.every = Fault()
    origin.sent_bytes = 0
    return orders


async def test_after_a_reboot_only_ranges_whose_crc_is_right_count(origin, tmp_path):
    orders = await interrupted(origin, tmp_path, boot="one")
    missing = len(LARGE) - orders.meters["/x"].done
    (partial,) = tmp_path.glob("part-*")
    with partial.open("r+b") as file:
        file.seek(100)
        file.write(b"torn")
    engine = Engine(FAST, boot="two")
    await engine.move(await orders.of("/x"))
    engine.close()
    assert orders.read("/x") == LARGE
    assert missing < origin.sent_bytes < len(LARGE)


async def test_a_torn_journal_costs_only_what_it_no_longer_tells(origin, tmp_path):
    orders = await interrupted(origin, tmp_path)
    (journal,) = tmp_path.glob("journal-*")
    os.truncate(journal, journal.stat().st_size - 5)
    engine = Engine(FAST, boot="boot")
    await engine.move(await orders.of("/x"))
    engine.close()
    assert orders.read("/x") == LARGE
    assert origin.sent_bytes < len(LARGE)


@pytest.mark.parametrize("damage", ["other identity", "no partial", "short partial", "garbage journal"])
async def test_a_partial_that_is_not_surely_ours_is_thrown_away(origin, tmp_path, damage):
    orders = await interrupted(origin, tmp_path)
    (partial,), (journal,) = tmp_path.glob("part-*"), tmp_path.glob("journal-*")
    match damage:
        case "other identity":
            origin.put("/x", LARGE[::-1])
        case "no partial":
            partial.unlink()
        case "short partial":
            os.truncate(partial, 5)
        case _:
            journal.write_bytes(b"garbage" * 1000)
    if damage == "other identity":  # under the very name: only the journal's head can tell
        (order,) = await orders.of("/x")
        partial.rename(order.partial)
        journal.rename(order.journal)
    engine = Engine(FAST, boot="boot")
    await engine.move(await orders.of("/x"))
    engine.close()
    assert orders.read("/x") == origin.objects["/x"]
    assert origin.sent_bytes >= len(LARGE)  # all of it came again


async def test_a_slow_large_model_does_not_keep_a_small_one_waiting(origin, engine, tmp_path):
    origin.put("/large", LARGE)
    origin.put("/small", SMALL)
    orders = Orders(origin, tmp_path)
    origin.every = Fault(drip=200_000)
    large = asyncio.ensure_future(engine.move(await orders.of("/large")))
    while not origin.requests("/large"):
        await asyncio.sleep(0.01)
    origin.put("/small", SMALL, [Fault()])
    async with asyncio.timeout(1):
        await engine.move(await orders.of("/small"))
    large.cancel()
    await asyncio.wait([large])


async def test_two_slow_large_models_do_not_keep_a_small_third_one_waiting(origin, tmp_path):
    engine = Engine(EngineSettings(max_connections=8))
    origin.every = Fault(drip=100_000)
    orders = Orders(origin, tmp_path)
    for path in ("/one", "/two"):
        origin.put(path, LARGE)
    large = [asyncio.ensure_future(engine.move(await orders.of(path))) for path in ("/one", "/two")]
    while (
        min(Counter(asked.path for asked in origin.requests()).get(path, 0) for path in ("/one", "/two")) < 2
    ):
        await asyncio.sleep(0.01)
    origin.put("/small", SMALL, [Fault()])
    async with asyncio.timeout(5):
        await engine.move(await orders.of("/small"))
    for task in large:
        task.cancel()
    await asyncio.wait(large)
    engine.close()


async def test_a_drip_is_given_up_after_a_while_and_another_connection_goes_on(origin, engine, tmp_path):
    origin.put("/x", SMALL, [Fault(drip=100)])
    orders = Orders(origin, tmp_path)
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == SMALL
    assert len(origin.requests("/x")) == 2


async def test_an_origin_that_is_shut_for_long_fails_the_next_model_at_once_and_says_how_long(
    origin, engine, tmp_path
):
    origin.put("/x", SMALL, [Fault(status=503, headers={"Retry-After": "600"})])
    origin.put("/y", SMALL)
    orders = Orders(origin, tmp_path)
    for path in ("/x", "/y"):
        with pytest.raises(RetryableError) as caught:
            await engine.move(await orders.of(path))
        assert caught.value.reason is Reason.STORAGE_THROTTLED
        assert caught.value.retry_after_seconds == pytest.approx(600, abs=5)
    assert origin.requests("/y") == []
    assert "asks to be left alone for" in caught.value.message


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_credentials_that_run_out_on_the_way_are_asked_for_anew_once(origin, engine, tmp_path, content):
    class Answers(OriginAnswers):
        def error(self, status, headers, body):
            if status == 403:
                return TerminalError(Reason.ACCESS_DENIED, "the token expired")
            return super().error(status, headers, body)

    origin.put("/x", content, [Fault(cut=1000), Fault(status=403), Fault()])
    orders = Orders(origin, tmp_path)
    orders.provider.answers = Answers()
    await engine.move(await orders.of("/x"))
    assert orders.read("/x") == content


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("checksums", [crc32c, sha256])
async def test_an_unforeseen_error_while_settling_ends_the_model_and_not_its_hope(
    origin, engine, tmp_path, content, checksums
):
    origin.put("/x", content)
    orders = Orders(origin, tmp_path, checksums=checksums)
    (tmp_path / "x").mkdir()  # the rename will not do
    with pytest.raises((IsADirectoryError, AgentError)):
        async with asyncio.timeout(10):
            await engine.move(await orders.of("/x"))


async def test_one_order_that_fails_stops_the_others_of_its_model_only(origin, engine, tmp_path):
    origin.put("/good", LARGE)
    origin.put("/also", LARGE)
    origin.put("/bad", SMALL)
    orders = Orders(origin, tmp_path)
    bad = await orders.of("/bad", "/also")
    origin.put("/bad", SMALL, [Fault(status=404)])
    other = asyncio.ensure_future(engine.move(await orders.of("/good")))
    with pytest.raises(TerminalError):
        await engine.move(bad)
    await other
    assert orders.read("/good") == LARGE


async def test_the_bandwidth_limit_holds_within_five_percent(origin, tmp_path):
    limit = 4 * MIB
    engine = Engine(EngineSettings(bandwidth_limit=limit))
    origin.put("/x", LARGE[: 8 * MIB])
    orders = Orders(origin, tmp_path)
    await engine.move(await orders.of("/x"))
    began = time.monotonic()
    origin.put("/y", LARGE[1 : 1 + 8 * MIB])
    await engine.move(await orders.of("/y"))
    rate = 8 * MIB / (time.monotonic() - began)
    engine.close()
    assert rate == pytest.approx(limit, rel=0.05)


async def test_the_bandwidth_limit_is_one_for_all_models_together(origin, tmp_path):
    limit = 4 * MIB
    engine = Engine(EngineSettings(bandwidth_limit=limit))
    orders = Orders(origin, tmp_path)
    paths = [f"/m{number}" for number in range(4)]
    for number, path in enumerate(paths):
        origin.put(path, LARGE[number : number + 2 * MIB])
    began = time.monotonic()
    await asyncio.gather(*[engine.move(await orders.of(path)) for path in paths])
    rate = 8 * MIB / (time.monotonic() - began)
    engine.close()
    assert limit * 0.7 < rate < limit * 1.05


async def test_a_full_disk_is_told(origin, engine, tmp_path):
    class Vast(OriginProvider):
        def _object(self, path, key, *, folder):
            obj = super()._object(path, key, folder=folder)
            return RemoteObject(obj.path, obj.key, 1 << 60, obj.identity)

    origin.put("/x", SMALL)
    orders = Orders(origin, tmp_path)
    orders.provider = Vast(origin)
    with pytest.raises(RetryableError) as caught:
        await engine.move(await orders.of("/x"))
    assert caught.value.reason is Reason.DISK_FULL


FAULTS = st.lists(
    st.builds(
        Fault,
        cut=st.none() | st.integers(0, 6 * MIB),
        reset=st.none() | st.none() | st.integers(0, 6 * MIB),
        flip=st.none() | st.integers(0, len(LARGE) - 1),
        shift=st.just(0) | st.just(0) | st.integers(1, 5),
        ignore_range=st.booleans(),
        chunked=st.booleans(),
        extra=st.just(0) | st.integers(0, 3),
        short=st.just(0) | st.integers(0, 3),
        encode=st.booleans(),
        status=st.none() | st.none() | st.sampled_from([500, 503, 404, 412, 206, 200]),
        hang_up=st.booleans(),
        close=st.booleans(),
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=FAULTS, small=st.booleans())
def test_no_mixture_of_faults_is_ever_taken_for_the_object(tmp_path, faults, small):
    content = SMALL if small else LARGE
    if small:
        faults = [fault for fault in faults if fault.flip is None or fault.flip < len(SMALL)]

    async def attempt():
        engine = Engine(FAST)
        with FaultyOrigin() as origin:
            origin.put("/x", content, faults)
            orders = Orders(origin, tmp_path, checksums=crc32c)
            try:
                await engine.move(await orders.of("/x"))
            except AgentError:
                assert not (tmp_path / "x").exists()
            else:
                assert orders.read("/x") == content
                (tmp_path / "x").unlink()
            finally:
                engine.close()

    asyncio.run(attempt())
    for path in tmp_path.iterdir():
        path.unlink()


async def test_the_end_of_a_slow_part_is_taken_over_by_others(origin, tmp_path):
    engine = Engine(EngineSettings(stall_seconds=30))  # nothing but the others can help
    origin.put("/x", LARGE, [Fault(), Fault(drip=100_000)])
    orders = Orders(origin, tmp_path)
    async with asyncio.timeout(20):
        await engine.move(await orders.of("/x"))
    engine.close()
    assert orders.read("/x") == LARGE  # alone the part would take 40 s
    assert origin.sent_bytes < len(LARGE) + 3 * MIB  # and little of it came twice


async def test_a_silent_last_part_is_asked_for_again_long_before_it_counts_as_stalled(origin, tmp_path):
    engine = Engine(EngineSettings(stall_seconds=30, hedge_seconds=0.5))
    origin.put("/x", LARGE, [Fault(), Fault(), Fault(stall=2 * MIB)])
    orders = Orders(origin, tmp_path)
    async with asyncio.timeout(10):
        await engine.move(await orders.of("/x"))
    engine.close()
    assert orders.read("/x") == LARGE


async def test_sources_of_large_objects_are_asked_for_while_others_move(origin, engine, tmp_path):
    orders, asking, most = Orders(origin, tmp_path), 0, 0
    paths = [f"/shard{number}" for number in range(12)]
    for number, path in enumerate(paths):
        origin.put(path, LARGE[number : number + 2 * MIB])

    class Slow(OriginProvider):
        async def source(self, obj):
            nonlocal asking, most
            asking += 1
            most = max(most, asking)
            await asyncio.sleep(0.01)
            asking -= 1
            return await super().source(obj)

    orders.provider = Slow(origin)
    await engine.move(await orders.of(*paths))
    assert [orders.read(path) for path in paths] == [origin.objects[path] for path in paths]
    assert 4 <= most <= 9


async def test_more_orders_than_are_ever_under_way_at_once_all_come(origin, engine, tmp_path):
    paths = [f"/many/{number}" for number in range(1000)]
    for path in paths:
        origin.put(path, path.encode())
    orders = Orders(origin, tmp_path)
    await engine.move([*await orders.of(*paths)])
    assert {path.name for path in tmp_path.iterdir()} == {path.rpartition("/")[2] for path in paths}
