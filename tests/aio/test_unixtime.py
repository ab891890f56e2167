"""A moment in words that do not flicker, and that are right after the clock was set."""

from hypothesis import given
from hypothesis import strategies as st

from agent.aio.unixtime import STEP_SECONDS, UnixTime

MOMENTS = st.floats(min_value=0, max_value=1e9)


class Clocks:
    def __init__(self) -> None:
        self.monotonic, self.wall = 100.0, 1_700_000_000.0

    def unix(self) -> UnixTime:
        return UnixTime(lambda: self.monotonic, lambda: self.wall)


@given(MOMENTS, st.lists(st.floats(min_value=-STEP_SECONDS / 3, max_value=STEP_SECONDS / 3), max_size=9))
def test_the_same_moment_is_shown_alike_whenever_it_is_shown(moment, jitters):
    clocks = Clocks()
    unix = clocks.unix()
    first = unix(moment)
    for jitter in jitters:
        clocks.monotonic += 5.0
        clocks.wall = 1_700_000_000.0 + (clocks.monotonic - 100.0) + jitter
        assert unix(moment) == first


@given(MOMENTS, st.floats(min_value=-1e6, max_value=1e6).filter(lambda step: abs(step) > 2 * STEP_SECONDS))
def test_after_the_clock_was_set_a_moment_is_shown_by_the_new_time(moment, step):
    clocks = Clocks()
    unix = clocks.unix()
    before = unix(moment)
    clocks.wall += step
    assert abs(unix(moment) - (before + step)) < 1e-3
