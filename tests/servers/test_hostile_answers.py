"""Whatever a server answers, a reading, a load or an unload ends in a result or an AgentError (fault M8)."""

import asyncio
import json
from contextlib import suppress

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.core.errors import AgentError
from agent.core.model import ModelName
from agent.servers.base import ServerGoneError, ServerReading
from agent.servers.detect import PROTOCOLS, detect
from agent.servers.v2 import Patience
from agent.servers.wire import Lost, Unreached, Wire
from tests.servers.real import free_ports

PATIENCE = Patience(read=0.5, load=0.02, unload=0.02, settle=0.02)
NAMES = st.sampled_from(["a", "b", "..", "\ud800", "ä/ö"]) | st.text(max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | NAMES
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)
STATES = st.sampled_from(["READY", "LOADING", "UNAVAILABLE"]) | ANYTHING
ENTRIES = st.fixed_dictionaries({}, optional={"name": NAMES | ANYTHING, "state": STATES}) | ANYTHING
LISTS = st.fixed_dictionaries({"models": st.lists(NAMES | ANYTHING, max_size=3) | ANYTHING})
ERRORS = st.fixed_dictionaries({}, optional={"error": ANYTHING, "detail": ANYTHING, "message": ANYTHING})
METADATA = st.fixed_dictionaries({}, optional={"name": ANYTHING, "extensions": ANYTHING | st.lists(ANYTHING)})
DOCUMENTS = st.lists(ENTRIES, max_size=3) | LISTS | ERRORS | METADATA | ANYTHING
BODIES = DOCUMENTS.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=30)
STATUSES = st.sampled_from([200, 200, 200, 204, 301, 400, 404, 405, 409, 422, 429, 500, 503])
ANSWERS = st.lists(st.tuples(STATUSES, BODIES), min_size=1, max_size=4)
UNHASHABLE = [(200, b'[{"name": "a", "state": ["READY"]}, {"name": ["a"], "state": {}}]')]


class Puppet:
    """A server that answers one thing after the other, whatever it is asked, and begins again."""

    def __init__(self):
        self.answers, self.asked = [(200, b"{}")], 0

    async def answer(self, _request):
        status, body = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        return web.Response(status=status, body=body, headers={"Location": "/", "Retry-After": "x"})


@pytest.fixture(scope="module")
def stage():
    """A loop, a puppet that is served on it, and its URL."""
    puppet, loop = Puppet(), asyncio.new_event_loop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", puppet.answer)
    runner = web.AppRunner(app, access_log=None)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    yield loop, puppet, f"http://127.0.0.1:{runner.addresses[0][1]}"
    loop.run_until_complete(runner.cleanup())
    loop.close()


async def tried(url, protocol):
    server = PROTOCOLS[protocol](Wire(url), PATIENCE)
    try:
        for work in (server.read, lambda: server.load(ModelName("a")), lambda: server.unload(ModelName("a"))):
            with suppress(AgentError):
                answer = await work()
                assert answer is None or isinstance(answer, ServerReading)
    finally:
        await server.close()


async def looked_up(url):
    wire = Wire(url)
    with suppress(Unreached, Lost):
        assert await detect(wire) in {None, *PROTOCOLS}
    await wire.close()


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(answers=ANSWERS)
@example(answers=UNHASHABLE)
@example(answers=[(200, b'{"models": ["\\ud800"]}')])
def test_an_answer_is_a_reading_or_an_error_that_says_what_to_do_next(stage, protocol, answers):
    loop, puppet, url = stage
    puppet.answers, puppet.asked = answers, 0
    loop.run_until_complete(tried(url, protocol))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(answers=ANSWERS)
def test_who_answers_is_found_out_or_not(stage, answers):
    loop, puppet, url = stage
    puppet.answers, puppet.asked = answers, 0
    loop.run_until_complete(looked_up(url))


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
async def test_a_server_where_nobody_listens_is_gone(protocol):
    (port,) = free_ports(1)
    server = PROTOCOLS[protocol](Wire(f"http://127.0.0.1:{port}"), PATIENCE)
    with pytest.raises(ServerGoneError):
        await server.read()
    await server.close()
