"""The page answers: what is refused, what failed, what is on its way, to every reader, with its token."""

import asyncio
import time
from dataclasses import replace

import pytest

from agent.core.model import Rejection
from agent.core.progress import ProgressReading
from agent.core.reasons import Reason
from agent.core.status import Phase
from tests.web.boards import board_with, failed, moving, ready
from tests.web.browsing import FAINT, expect, in_chromium, opened, row, shot, shows
from tests.web.example import busy_board
from tests.web.test_events import guarded, serving

pytestmark = in_chromium

HEARD = """
- link "Skip to the models"
- banner:
  - heading "model-agent" [level=1]
  - paragraph: 2 of 14 models failed. 1 entry is refused.
  - status: live
- main:
  - region "Overview":
    - article "Model server":
      - paragraph: Ready
    - article "Config":
      - paragraph: 14 accepted
      - group: 1 entry refused
    - article "Memory budget":
      - paragraph: 10.5 GiB of 12 GiB
      - img /10.5 GiB of 12 GiB. ranking-home 2.1 GiB/
  - region "Models":
    - group "Show only models of a phase":
      - button "All 15" [pressed]
      - button "Failed 2"
      - button "Rejected 1"
    - searchbox "Filter by name, reason or URI"
    - table /Models, with what is going on/:
      - rowgroup:
        - row:
          - columnheader "Model"
          - columnheader "Phase"
          - columnheader "What is going on"
      - rowgroup:
        - row /churn-daily .* Failed .* AccessDenied/:
          - cell /churn-daily/:
            - button "churn-daily"
        - row /translate-de .* Downloading/:
          - cell "Downloading"
          - cell:
            - progressbar "Download of translate-de"
"""
HEARD_OF_ONE = """
- dialog "churn-daily":
  - heading "churn-daily" [level=2]
  - button "Close"
  - text: Failed
  - paragraph: /the role may not list this prefix/
  - heading "What to do" [level=3]
  - paragraph: Grant list and get on the prefix to the identity of the pod.
  - heading "What is next" [level=3]
  - term: Next step
  - definition: /Try again/
  - heading "Last tries" [level=3]
  - list:
    - listitem: /AccessDenied/
  - heading "What happened" [level=3]
  - list:
    - listitem: /Failed/
"""


async def test_one_answer_that_fails_is_asked_for_again_and_then_no_more(browser):
    asked: list[str] = []

    async def first_fails(page):
        await page.clock.install()

        async def answer(route):
            asked.append(route.request.url)
            await (route.fulfill(status=503, body="no") if len(asked) == 1 else route.continue_())

        await page.route("**/status", answer)

    board = board_with(ready("a"))
    async with (
        serving(board) as url,
        opened(browser, url, allowed=("503",), before=first_fails) as page,
    ):
        await expect(page.locator("#line-words")).to_contain_text("trying again")
        await page.clock.fast_forward(2500)
        await shows(page, "a", "Ready")
        await expect(page.locator("#line-words")).to_have_text("live")
        await page.clock.fast_forward(20_000)
        board.post(failed("a"))
        await shows(page, "a", "Failed")
        assert len(asked) == 2


async def test_what_changes_while_an_older_answer_is_on_its_way_is_not_lost(browser):
    board, posted = board_with(ready("a")), asyncio.Event()

    async def slowly(page):
        async def answer(route):
            old = await route.fetch()
            board.post(failed("a"))
            posted.set()
            await page.wait_for_timeout(400)  # the change overtakes it
            await route.fulfill(response=old)

        await page.route("**/status", answer)

    async with serving(board) as url, opened(browser, url, before=slowly) as page:
        await posted.wait()
        await shows(page, "a", "Failed")


async def test_the_detail_follows_progress_and_its_times_go_on(browser):
    board = board_with(moving("m", Phase.DOWNLOADING))
    reading = ProgressReading(25 << 20, 100 << 20, 5.0 * (1 << 20), 15.0)
    board.progress = lambda uri: reading
    board.post(replace(failed("f"), next_retry=time.time() + 300))

    async def clocked(page):
        await page.clock.install()

    async with serving(board) as url, opened(browser, f"{url}/#model=m", before=clocked) as page:
        bar = page.locator("#one-body [role=progressbar]")
        await expect(bar).to_have_attribute("aria-valuenow", "25")
        reading = ProgressReading(75 << 20, 100 << 20, 5.0 * (1 << 20), 5.0)
        await expect(bar).to_have_attribute("aria-valuenow", "75")
        await expect(page.locator("#one-going")).to_contain_text("75 MiB of 100 MiB")
        await page.goto(f"{url}/#model=f")
        await expect(page.locator("#one-body")).to_contain_text("in 4 min")
        await page.clock.fast_forward(120_000)
        await expect(page.locator("#one-body")).to_contain_text("in 2 min")


async def test_a_refused_entry_is_a_row_with_its_answer_and_the_verdict_tells_it(browser):
    board = board_with(ready("a"))
    entry = Rejection("geo", Reason.INVALID_MEMORY, "memory '4 gigs' is no quantity")
    board.say(config=replace(board.config, digest="d" * 64, accepted=1, rejected=(entry,)))
    async with serving(board) as url, opened(browser, url) as page:
        await shows(page, "geo", "Rejected")
        await shows(page, "geo", "memory '4 gigs' is no quantity")
        verdict = page.locator("#verdict")
        await expect(verdict).to_have_text("All 1 models are ready and up to date. 1 entry is refused.")
        await row(page, "geo").locator("button").click()
        await expect(page.locator("#one-body")).to_contain_text("Nothing serves under")
        await expect(page.locator("#one-body .todo")).to_contain_text("Write memory as")
        await shot(page, "one-rejected")


@pytest.mark.parametrize("models", [(), (ready("a"),)])
async def test_a_refused_document_is_told_and_never_taken_for_an_empty_one(browser, models):
    board = board_with(*models)
    error = (Reason.CONFIG_REJECTED, "line 3 column 1: no JSON")
    async with serving(board) as url, opened(browser, url, allowed=("404",)) as page:
        await expect(page.locator("#line-words")).to_have_text("live")
        if not models:
            for place in ("#verdict", "#empty"):
                await expect(page.locator(place)).to_have_text("models.json has not been read yet.")
        board.say(config=replace(board.config, digest="d" * 64, error=error))
        await expect(page.locator("#verdict")).to_contain_text("models.json is refused")
        await expect(page.locator("#news")).to_have_text("models.json is refused: ConfigRejected")
        await expect(page.locator("#config-told")).to_contain_text("line 3 column 1")
        await expect(page.locator("#config-told")).to_contain_text("Correct it;")
        assert "No models are wanted" not in await page.inner_text("body")
        await page.goto(f"{url}/#model={'a' if models else 'nobody'}")
        await expect(page.locator("#one-body .todo")).to_contain_text("Correct it;")


async def test_the_last_tries_are_told_with_their_times_and_errors(browser):
    board = board_with()
    for attempt in range(40):
        board.post(moving("b", Phase.DOWNLOADING))
        board.post(replace(failed("b"), attempts=attempt + 1, message=f"answer {attempt}"))
    async with serving(board) as url, opened(browser, f"{url}/#model=b") as page:
        tries = page.locator("#one-body .tries li")
        await expect(tries).to_have_count(5)
        await expect(tries.first).to_contain_text("answer 39")
        await expect(page.locator("#one-body .left-out")).to_contain_text("no longer kept")


async def test_it_asks_for_the_token_and_keeps_it_for_its_tab(browser, tmp_path):
    (tmp_path / "token").write_text("s3cr3t")
    board = board_with(ready("a"))
    async with (
        guarded(board, tmp_path / "token") as url,
        opened(browser, url, allowed=("401",)) as page,
    ):
        lock = page.locator("#lock")
        await expect(lock).to_contain_text("asks for its bearer token")
        await shot(page, "lock")
        for _ in range(3):
            await page.keyboard.press("Escape")
        await expect(lock).to_be_visible()
        for token, words in (("wrong", "not the one"), ("s3cr3t", "")):
            await page.fill("#token", token)
            await page.get_by_role("button", name="Show the status").click()
            if words:
                await expect(lock).to_contain_text(words)
        await shows(page, "a", "Ready")
        board.post(failed("a"))
        await shows(page, "a", "Failed")
        await page.reload()
        await shows(page, "a", "Failed")
        await expect(lock).not_to_be_visible()
        assert "s3cr3t" not in page.url


async def test_a_screen_reader_hears_the_head_the_table_and_the_answer(browser):
    async with serving(busy_board()) as url, opened(browser, url) as page:
        await shows(page, "churn-daily", "Failed")
        await expect(page.locator("body")).to_match_aria_snapshot(HEARD)
        await page.goto(f"{url}/#model=churn-daily")
        await expect(page.locator("#one")).to_match_aria_snapshot(HEARD_OF_ONE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_word_stands_out_from_its_ground(browser, scheme):
    board = busy_board()
    how = {"color_scheme": scheme, "reduced_motion": "reduce"}
    async with serving(board) as url, opened(browser, url, **how) as page:
        await shows(page, "churn-daily", "Failed")
        await page.locator("#refused summary").click()
        assert await page.evaluate(FAINT) == []
        for name in ("churn-daily", "embeddings-xl", "geo-index"):
            await page.goto(f"{url}/#model={name}")
            await expect(page.locator("#one-name")).to_have_text(name)
            await expect(page.locator("#one-body .todo").first).to_be_visible()
            assert await page.evaluate(FAINT) == []
        await page.get_by_role("button", name="Close").click()
        await expect(page).to_have_url(f"{url}/")
        error = (Reason.CONFIG_REJECTED, "line 3 column 1: no JSON")
        board.say(config=replace(board.config, digest="d" * 64, error=error))
        await expect(page.locator("#config-told")).to_be_visible()
        assert await page.evaluate(FAINT) == []
