"""How far a fetch is: the rate is of bytes that come, and nobody counts what he did not bring."""

import pytest

from agent.artifacts.progress import Meter, Progress

GIB = 1 << 30


def test_bytes_that_were_found_on_disk_are_no_speed():
    progress = Progress(0.0)
    progress.expect(10 * GIB)
    progress.held(8 * GIB)
    meter = Meter()
    progress.follow(meter, mine=True)
    meter.set(GIB)  # a partial of an earlier try
    meter.add(GIB // 10)
    reading = progress.snapshot(1.0)
    assert reading.bytes == 9 * GIB + GIB // 10
    assert reading.bytes_per_second == pytest.approx(GIB / 10, rel=0.01)
    assert reading.eta_seconds == pytest.approx(9, rel=0.01)


def test_what_another_fetch_moves_makes_progress_but_is_not_counted_as_ours():
    progress, meter = Progress(0.0), Meter()
    progress.expect(100)
    meter.add(10)  # before we came
    progress.follow(meter, mine=False)
    meter.add(20)
    assert progress.snapshot(1.0).bytes == 30
    assert progress.snapshot(2.0).bytes_per_second == 10
    progress.settle(meter)
    assert progress.moved_bytes == 0


@pytest.mark.parametrize("settled", [True, False])
def test_bytes_that_came_twice_were_moved_twice_and_are_there_once(settled):
    progress, meter = Progress(), Meter()
    progress.expect(100)
    progress.follow(meter, mine=True)
    meter.add(60)
    meter.set(0)  # thrown away
    meter.add(100)
    if settled:
        progress.settle(meter)
    assert progress.snapshot(1.0).bytes == 100
    assert progress.moved_bytes == 160


def test_a_second_listing_begins_again_and_forgets_nothing_of_what_was_moved():
    progress, meter = Progress(), Meter()
    progress.follow(meter, mine=True)
    meter.add(5)
    progress.expect(50)
    assert progress.snapshot(1.0).bytes == 0
    assert progress.moved_bytes == 5
