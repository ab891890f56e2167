"""A client, and a status port on a thread of its own for tools that block."""

import asyncio
import threading

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from agent.telemetry.metrics import Metrics
from agent.web.render import Renderer
from agent.web.server import StatusSite
from tests.web.boards import board_with, failed, ready
from tests.web.chromium import CHROMIUM, QUIET


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="module")
def status_url():
    loop = asyncio.new_event_loop()
    started: asyncio.Future[str] = loop.create_future()
    board = board_with(ready("a"), failed("b"))
    board.missing = tuple  # ready: a 503 is an answer that is described, but a fault to the tool

    async def serve() -> None:
        site = StatusSite(
            board, Renderer(board, lambda moment: moment), lambda: True, Metrics(board, lambda: 0.0).scrape
        )
        runner = web.AppRunner(site.application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        started.set_result(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await stop.wait()
        await runner.cleanup()

    stop = asyncio.Event()
    url: list[str] = []
    known = threading.Event()
    started.add_done_callback(lambda future: (url.append(future.result()), known.set()))
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    known.wait(10)
    yield url[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    """One Chromium for the tests of a file, since it takes a second to start; each has its own context."""
    api = pytest.importorskip("playwright.async_api", reason="requirements/dev.txt installs playwright")
    async with api.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(QUIET))
        yield browser
        await browser.close()
