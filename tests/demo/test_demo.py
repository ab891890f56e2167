"""The demo as a new user runs it: what it shows, that it ends, and that `--keep` stays for a look."""

import asyncio
import re
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from agent.demo.local_run import run_demo

ROOT = Path(__file__).parents[2]
WAY = ("Downloading", "Loading", "Ready")


@asynccontextmanager
async def demo(*words: str):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", "demo", *words, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said_until(process: asyncio.subprocess.Process, end: str) -> str:
    lines = []
    async for line in process.stdout:
        lines.append(line.decode())
        if end in lines[-1]:
            break
    return "".join(lines)


def assert_shown(text: str) -> None:
    """Each model went its way in order, and the change was told."""
    for name in ("fraud", "churn", "ranking", "spam", "pricing", "ads"):
        phases = re.findall(rf"^  {name} +(\w+)", text, re.MULTILINE)
        assert [phase for phase in phases if phase in WAY][:3] == list(WAY), (name, phases)
    assert re.search(r"^  churn +Updating", text, re.MULTILINE)
    assert re.search(r"^  spam +gone", text, re.MULTILINE)
    assert text.count("Seen:") == 2
    assert '"rejected"' in text


async def test_demo_keep_shows_the_way_of_each_model_and_stays_until_it_is_told_to_end():
    async with demo("--keep") as process:
        text = await said_until(process, "Ctrl-C ends it")
        assert_shown(text)
        async with aiohttp.ClientSession() as session:
            for url in re.findall(r"http://\S+", text.partition("Still running")[2]):
                async with session.get(url) as answer:
                    assert answer.status == 200, url
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.soak
async def test_the_demo_ends_by_itself_with_0():
    async with demo() as process:
        assert_shown(await said_until(process, "no such line"))
        assert await process.wait() == 0


async def test_a_demo_that_is_interrupted_ends_with_130_and_leaves_no_process():
    async with demo() as process:
        await said_until(process, "1. models.json names")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert await process.stdout.read() is not None  # the agent held it too: it is gone


async def test_a_demo_that_is_not_done_in_time_says_so_and_ends_with_1(capsys):
    assert await run_demo(keep=False, seconds=0.1) == 1
    assert "not done within 0.1 s. The agent's log:" in capsys.readouterr().out
