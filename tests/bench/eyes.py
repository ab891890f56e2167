"""What looking costs with many models: `python -m tests.bench.eyes [status] [events] [page]`, or all three.

Figures to report, asserted nowhere. The agent's side is a status port over a board in a process of its own.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import aiohttp
import psutil
from aiohttp import web

from agent.core.model import ModelName
from agent.telemetry.metrics import Metrics
from agent.web.render import Renderer
from agent.web.server import StatusSite
from tests.web.boards import board_with, failed, ready

MODELS, READERS, CHANGES_A_SECOND, SECONDS = 10_000, 50, 100, 20.0


async def serve(changes_a_second: int) -> None:
    """Serve a board of many models; change so many a second, each with its time in its message."""
    board = board_with(*(ready(f"model-{number:05}") for number in range(MODELS)))
    site = StatusSite(
        board, Renderer(board, lambda at: at), lambda: True, Metrics(board, time.monotonic).scrape
    )
    runner = web.AppRunner(site.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    number = 0
    began = time.monotonic()
    while True:
        await asyncio.sleep(0.01 if changes_a_second else 1.0)
        while number < (time.monotonic() - began) * changes_a_second:
            status = failed(f"model-{number % MODELS:05}")
            object.__setattr__(status, "message", repr(time.time()))
            board.post(status)
            number += 1
            if number % 7 == 0:
                board.post(ready(ModelName(f"model-{number % MODELS:05}")))


class Site:
    def __init__(self, changes_a_second: int) -> None:
        words = [sys.executable, "-m", "tests.bench.eyes", "serve", str(changes_a_second)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.seen = psutil.Process(self.process.pid)

    def cpu_seconds(self) -> float:
        return sum(self.seen.cpu_times()[:2])

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


async def timed(session, url: str, count: int, **headers: str) -> dict[str, float]:
    spans, size = [], 0
    for _ in range(count):
        began = time.perf_counter()
        async with session.get(url, headers=headers) as answer:
            size = len(await answer.read())
        spans.append(1000 * (time.perf_counter() - began))
    cuts = statistics.quantiles(spans, n=100)
    return {
        "p50_ms": round(cuts[49], 1),
        "p99_ms": round(cuts[98], 1),
        "first_ms": round(spans[0], 1),
        "bytes": size,
    }


async def status_and_metrics() -> dict[str, object]:
    with Site(0) as still, Site(CHANGES_A_SECOND) as changing:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            return {
                "status, nothing changes": await timed(
                    session, f"{still.url}/status", 200, **{"Accept-Encoding": "identity"}
                ),
                "status gzip, nothing changes": await timed(
                    session, f"{still.url}/status", 200, **{"Accept-Encoding": "gzip"}
                ),
                "status, 100 changes/s": await timed(
                    session, f"{changing.url}/status", 100, **{"Accept-Encoding": "identity"}
                ),
                "status gzip, 100 changes/s": await timed(
                    session, f"{changing.url}/status", 100, **{"Accept-Encoding": "gzip"}
                ),
                "metrics": await timed(session, f"{still.url}/metrics", 100),
                "metrics, OpenMetrics": await timed(
                    session, f"{still.url}/metrics", 100, Accept="application/openmetrics-text"
                ),
                "rss_mib": still.seen.memory_info().rss >> 20,
            }


async def read(session, url: str, until: float, delays: list[float]) -> None:
    async with session.get(f"{url}/events", timeout=aiohttp.ClientTimeout(total=None)) as answer:
        async for line in answer.content:
            now = time.time()
            if line.startswith(b'data: {"models":['):
                said = [model["message"] for model in json.loads(line[6:])["models"]]
                delays.extend(now - float(message) for message in said if message)
            if now > until:
                return


async def events() -> dict[str, object]:
    connector = aiohttp.TCPConnector(limit=0)
    with Site(CHANGES_A_SECOND) as site:
        async with aiohttp.ClientSession(connector=connector, read_bufsize=1 << 24) as session:
            await asyncio.sleep(1)
            alone = site.cpu_seconds()
            await asyncio.sleep(5)
            alone = (site.cpu_seconds() - alone) / 5
            delays: list[float] = []
            before, began = site.cpu_seconds(), time.time()
            async with asyncio.TaskGroup() as group:
                for _ in range(READERS):
                    group.create_task(read(session, site.url, began + SECONDS, delays))
            spent = (site.cpu_seconds() - before) / (time.time() - began)
    cuts = statistics.quantiles(delays, n=100)
    return {
        "agent_cpu_share": round(spent, 3), "agent_cpu_share_without_readers": round(alone, 3),
        "delay_p50_ms": round(1000 * cuts[49]), "delay_p99_ms": round(1000 * cuts[98]),
        "changes_heard_a_second_and_reader": round(len(delays) / SECONDS / READERS, 1),
    }  # fmt: skip


async def page() -> dict[str, object] | str:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    try:
        from playwright.async_api import async_playwright  # noqa: PLC0415 - heavy, and of this figure alone
    except ImportError:
        return "playwright is not installed"
    if chromium is None:
        return "chromium is not installed"
    spans = []
    with Site(0) as site:
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            for _ in range(7):
                tab = await browser.new_page()
                began = time.perf_counter()
                await tab.goto(site.url, wait_until="commit")
                await tab.wait_for_selector("#rows td.c-name")
                spans.append(1000 * (time.perf_counter() - began))
                await tab.close()
            await browser.close()
    return {"first_table_ms_median": round(statistics.median(spans)), "worst_ms": round(max(spans))}


PARTS = {"status": status_and_metrics, "events": events, "page": page}


async def main(parts: Sequence[str]) -> None:
    figures: dict[str, object] = {"models": MODELS}
    for part in parts:
        figures[part] = await PARTS[part]()
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2])))
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("parts", nargs="*", metavar="|".join(PARTS))
        asked = parser.parse_args().parts or [*PARTS]
        if unknown := set(asked) - PARTS.keys():
            parser.error(f"no such part: {', '.join(sorted(unknown))}")
        asyncio.run(main(asked))
