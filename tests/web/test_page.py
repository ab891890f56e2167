"""The page in a real Chromium: what an operator sees, live, with no error on the console."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from agent.core.model import ModelName
from agent.core.progress import ProgressReading
from agent.core.status import Phase
from agent.telemetry.board import MemoryWord
from agent.web.pages import TYPES, Pages
from tests.web.boards import board_with, failed, moving, ready
from tests.web.browsing import expect, in_chromium, opened, row, shot, shows
from tests.web.example import busy_board
from tests.web.test_events import serving


class TestFiles:
    """What needs no browser."""

    def test_all_of_it_is_small(self):
        folder = Path(Pages.__module__.replace(".", "/")).parent
        assert sum(len(content) for content in Pages()._files.values()) < 150 * 1024
        assert {
            path.name for path in (Path(__file__).parent.parent.parent / folder / "page").iterdir()
        } == set(TYPES)

    async def test_every_file_comes_with_the_policy(self, client):
        async with serving(board_with()) as url:
            for path in ("/", "/favicon.ico", *(f"/page/{name}" for name in TYPES)):
                async with client.get(url + path) as answer:
                    assert answer.status == 200
                    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                    assert "unsafe" not in answer.headers["Content-Security-Policy"]
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    etag = answer.headers["ETag"]
                async with client.get(url + path, headers={"If-None-Match": etag}) as again:
                    assert again.status == 304

    @pytest.mark.parametrize("name", ["nothing.js", "..%2fserver.py"])
    async def test_no_other_file_is_given(self, client, name):
        async with (
            serving(board_with()) as url,
            client.get(f"{url}/page/{name}", allow_redirects=False) as answer,
        ):
            assert answer.status == 404

    def test_it_names_no_other_host(self):
        for name, content in Pages()._files.items():
            text = content.decode().replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text, name
            assert "https:" not in text, name
            assert "innerHTML" not in text


class TestInChromium:
    pytestmark = in_chromium

    async def test_it_shows_how_things_stand_in_light_in_dark_and_on_a_phone(self, browser):
        board = busy_board()
        async with serving(board) as url:
            for name, how in {
                "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
                "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
                "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
            }.items():
                async with opened(browser, url, **how) as page:
                    await shows(page, "churn-daily", "the role may not list this prefix")
                    await shows(page, "translate-de", "867 MiB of 1.3 GiB")
                    wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    assert wide <= 0, "it must not scroll sideways"
                    await shot(page, f"page-{name}")

    async def test_a_download_is_followed_to_its_failure_and_its_recovery(self, browser):
        board = board_with(ready("other"), moving("m", Phase.DOWNLOADING))
        reading = ProgressReading(25 << 20, 100 << 20, 5.0 * (1 << 20), 15.0)
        board.progress = lambda uri: reading if uri.endswith("/m") else None
        async with serving(board) as url, opened(browser, url) as page:
            await shows(page, "m", "25 MiB of 100 MiB · 5 MiB/s · 15 s left")
            bar = row(page, "m").locator(".c-going [role=progressbar]")
            await expect(bar).to_have_attribute("aria-valuenow", "25")
            reading = ProgressReading(75 << 20, 100 << 20, 5.0 * (1 << 20), 5.0)
            await expect(bar).to_have_attribute("aria-valuenow", "75")
            board.post(replace(failed("m"), next_retry=time.time() + 30))
            await shows(page, "m", "nothing is there")
            await shows(page, "m", "try 3 in")
            await expect(page.locator("#news")).to_have_text("m failed: NotFound")
            await row(page, "m").locator("button").click()
            await expect(page.locator("#one-body")).to_contain_text("Correct storageUri")
            await shot(page, "one-failed")
            board.post(ready("m"))
            await expect(page.locator("#one-body .summary")).to_contain_text("Ready:")
            story = page.locator("#one-body .story li")
            assert [text.split(" ")[0] for text in await story.all_inner_texts()] == [
                "Ready",
                "Failed",
                "Downloading",
            ]
            await page.keyboard.press("Escape")
            await expect(row(page, "m").locator("button")).to_be_focused()
            board.drop(ModelName("m"))
            await expect(row(page, "m")).to_have_count(0)
            await expect(page.locator("#verdict")).to_contain_text("All 1 models are ready")

    async def test_it_lives_through_a_restart_of_the_agent(self, browser):
        allowed = (
            "ERR_CONNECTION_REFUSED",
            "ERR_INCOMPLETE_CHUNKED",
            "ERR_EMPTY_RESPONSE",
            "ERR_CONNECTION_RESET",
        )
        async with serving(board_with(ready("a"))) as url:
            context = opened(browser, url, allowed=allowed)
            page = await context.__aenter__()
            await shows(page, "a", "Ready")
        await expect(page.locator("#line")).to_contain_text("does not answer")
        async with serving(board_with(failed("a")), port=int(url.rpartition(":")[2])):
            await shows(page, "a", "Failed")
            await expect(page.locator("#line-words")).to_have_text("live", timeout=20_000)
            await context.__aexit__(None, None, None)

    async def test_where_events_do_not_come_it_asks_again_and_again(self, browser):
        board = board_with(ready("a"))
        async with (
            serving(board) as url,
            opened(browser, url, allowed=("503",), refused="**/events") as page,
        ):
            await shows(page, "a", "Ready")
            await expect(page.locator("#line-words")).to_have_text("polling")
            board.post(failed("a"))
            await shows(page, "a", "Failed")

    async def test_ten_thousand_models_are_sorted_filtered_and_scrolled(self, browser):
        board = board_with(*(ready(f"model-{number:05}") for number in range(10_000)), failed("zz-broken"))
        async with serving(board) as url, opened(browser, url) as page:
            await shows(page, "zz-broken", "Failed")
            assert await page.locator("#rows tr").count() < 100
            assert await page.locator("#models").get_attribute("aria-rowcount") == "10002"
            await page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
            await shows(page, "model-09999", "Ready")
            await page.fill("#filter", "07 model 777")
            await shows(page, "model-07777", "Ready")
            await page.fill("#filter", "NotFound")
            await expect(page.locator("#rows tr button")).to_have_count(1)
            await page.fill("#filter", "")
            await page.get_by_role("button", name="Model", exact=True).click()
            await page.get_by_role("button", name="Model", exact=True).click()
            await expect(page.locator("#rows tr button").first).to_have_text("zz-broken")
            await page.get_by_role("button", name="Ready 10000").click()
            await expect(row(page, "zz-broken")).to_have_count(0)
            await shot(page, "ten-thousand")

    async def test_it_can_be_used_with_the_keyboard_alone(self, browser):
        async with serving(board_with(ready("a"), ready("b"))) as url, opened(browser, url) as page:
            await shows(page, "b", "Ready")
            await page.keyboard.press("/")
            await expect(page.locator("#filter")).to_be_focused()
            for _ in range(5):
                await page.keyboard.press("Tab")
            await expect(row(page, "a").locator("button")).to_be_focused()
            await page.keyboard.press("ArrowDown")
            await page.keyboard.press("Enter")
            await expect(page.locator("#one h2")).to_have_text("b")
            assert page.url.endswith("#model=b")

    async def test_hostile_words_are_words(self, browser):
        evil = '<img src=x onerror=alert(1)>"; \u202e'
        status = replace(failed("a"), message=evil)
        board = board_with(status)
        board.say(memory=MemoryWord(0, 5), config=replace(board.config, path=evil))
        async with serving(board) as url, opened(browser, f"{url}") as page:
            await shows(page, "a", evil)
            await row(page, "a").locator("button").click()
            await expect(page.locator("#one-body .story")).to_contain_text("<img")
            assert await page.locator("img").count() == 0

    async def test_a_link_to_a_model_that_is_gone_says_so(self, browser):
        async with serving(board_with(ready("a"))) as url, aiohttp.ClientSession():
            allowed = ("404",)
            async with opened(browser, url, allowed=allowed) as page:
                await page.goto(f"{url}/#model=nobody")
                await expect(page.locator("#one-body")).to_contain_text("no model named")
                await asyncio.sleep(0)
