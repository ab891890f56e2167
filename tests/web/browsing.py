"""A real Chromium for the tests of the page, and what they ask it."""

from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.web.chromium import CHROMIUM

playwright_api = pytest.importorskip(
    "playwright.async_api", reason="requirements/dev.txt installs playwright"
)

OUT = Path(__file__).parent.parent / "artifacts-out"
expect = playwright_api.expect
in_chromium = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the driver's own pipes
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@asynccontextmanager
async def opened(browser, url: str, *, allowed: tuple[str, ...] = (), refused: str = "", before=None, **how):
    """Open a page that must say nothing on the console but what is *allowed*, and ask no other host.

    *before* is awaited with the page before it goes anywhere.
    """
    said: list[str] = []
    context = await browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | how))
    page = await context.new_page()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    own = url.partition("/#")[0]
    page.on("request", lambda asked: None if asked.url.startswith(own) else said.append(asked.url))
    if refused:
        await page.route(refused, lambda route: route.fulfill(status=503, body="no"))
    if before is not None:
        await before(page)
    await page.goto(url)
    yield page
    await context.close()
    heard = [line for line in said if not any(part in line for part in allowed)]
    assert heard == [], heard


def row(page, name: str):
    return page.locator("#rows tr", has=page.locator(f'button[title="{name}"]'))


async def shows(page, name: str, text: str) -> None:
    await expect(row(page, name)).to_contain_text(text)


async def shot(page, name: str) -> None:
    OUT.mkdir(exist_ok=True)
    await page.screenshot(path=OUT / f"{name}.png")


FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (v) => (v <= 10 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => {
    const [r, g, b] = rgb.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => getComputedStyle(node).backgroundColor;
  const grounds = (node) => (node === null ? ["white"] : [...grounds(node.parentElement), ground(node)]);
  const modal = document.querySelector("dialog[open]") ?? document.body;
  const faint = [];
  for (const node of modal.querySelectorAll("*")) {
    const words = [...node.childNodes].filter((each) => each.nodeType === 3 && each.data.trim());
    if (!words.length || !node.checkVisibility() || node.closest(".hidden, .skip")) continue;
    const style = getComputedStyle(node), size = parseFloat(style.fontSize), under = grounds(node);
    const [a, b] = [light(paint(...under)), light(paint(...under, style.color))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${words[0].data.trim()}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""
"""What is too faint by WCAG 2.2 §1.4.3: words with too little contrast to what is painted behind them."""
