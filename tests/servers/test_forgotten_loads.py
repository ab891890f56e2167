"""A load that the server took, and then knows nothing of: it restarted in between.

Not tried with Triton, which answers 400 for what it does not know and for what is not ready yet.
"""

import asyncio

import pytest
from aiohttp import web

from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.demo.dummy_models import Dialect
from agent.demo.dummy_server import DummyServer
from agent.servers.v2 import Patience
from tests.servers.test_uncertain_outcomes import connected


@pytest.mark.parametrize("dialect", [Dialect.KSERVE, Dialect.MLSERVER])
async def test_a_server_that_restarted_just_after_a_load_is_not_waited_for_until_the_load_is_late(
    tmp_path, dialect
):
    """It was found by a history with MLServer: ten minutes of 404 for a load that nobody knew of any more."""

    dummy = DummyServer(tmp_path, dialect)
    for name in ("model", "model-settings.json"):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_text('{"name": "m"}')

    async def restarted(_):
        return web.Response(status=404)

    dummy._ready = restarted
    async with connected(dummy, Patience(load=60, settle=0.3)) as server, asyncio.timeout(10):
        with pytest.raises(RetryableError, match="does not hold it now") as caught:
            await server.load("m")
    assert caught.value.reason is Reason.SERVER_UNAVAILABLE
