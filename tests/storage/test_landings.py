"""Where bytes are is asked once for all who want to know, anew when it is old; a failure is the asker's."""

import asyncio

import pytest

from agent.storage.landings import FRESH_SECONDS, MAX_REMEMBERED, Landings

LASTS = 100.0


class Service:
    """Answers with numbers that go up, once it is let; or fails, where it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = 0
        self.open = asyncio.Event()

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        await self.open.wait()
        if number <= self.fails:
            raise OSError
        return number


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def landings(now):
    return Landings(lambda: now[0], lambda _, age: age > LASTS)


async def test_all_who_want_to_know_at_once_ask_once(landings):
    service = Service()
    waiting = [asyncio.ensure_future(landings.of("a", service)) for _ in range(9)]
    await asyncio.sleep(0)
    service.open.set()
    assert {known.landing for known in await asyncio.gather(*waiting)} == {1}
    assert service.asked == 1


async def test_a_failure_is_the_askers_and_the_next_one_asks(landings):
    service = Service()
    service.fails = 1
    waiting = [asyncio.ensure_future(landings.of("a", service)) for _ in range(3)]
    await asyncio.sleep(0)
    service.open.set()
    first, *others = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, OSError)
    assert [known.landing for known in others] == [2, 2]


async def test_one_who_gives_up_keeps_nobody_waiting(landings):
    service = Service()
    asking, waiting = (asyncio.ensure_future(landings.of("a", service)) for _ in range(2))
    await asyncio.sleep(0)
    asking.cancel()
    service.open.set()
    assert (await waiting).landing == 2


async def test_what_is_old_or_over_is_asked_for_anew(landings, now):
    service = Service()
    service.open.set()
    known = await landings.of("a", service)
    assert landings.fresh(known)
    now[0] += FRESH_SECONDS
    assert not landings.fresh(known)
    assert (await landings.of("a", service)).landing == 1
    now[0] += LASTS
    again = await landings.of("a", service)
    assert again.landing == 2
    again.expired = True
    assert (await landings.of("a", service)).landing == 3


async def test_no_more_are_remembered_than_are_allowed_and_the_oldest_goes():
    gone = []
    landings = Landings(lambda: 0.0, lambda *_: False, gone.append)
    for number in range(MAX_REMEMBERED + 2):
        landings.remember(str(number), number)
    assert gone == ["0", "1"]
    assert "0" not in landings
    assert "2" in landings
