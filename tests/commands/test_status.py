"""`model-agent status` against a status port: what it prints, and its exit codes."""

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
from aiohttp import web
from rich.console import Console

from agent.core.model import Integrity, Rejection
from agent.core.progress import ProgressReading
from agent.core.reasons import Reason
from agent.core.status import Phase
from agent.telemetry.views import ago, document_view, error_view, model_view
from agent.web.render import Renderer
from tests.commands.run import run, run_process
from tests.web.boards import board_with, failed, moving, ready
from tests.web.test_events import serving

status = partial(run, "status")


async def test_all_ready_is_nought():
    async with serving(board_with(ready("a"))) as url:
        code, out, _ = await run_process("status", "--url", url)
    assert code == 0
    assert "1 Ready" in out


async def test_something_failed_is_one_and_is_told():
    async with serving(board_with(ready("a"), failed("b"))) as url:
        code, out, _ = await status("--url", url)
    assert code == 1
    assert "NotFound: nothing is there" in " ".join(out.split())


async def test_one_model_is_explained():
    async with serving(board_with(ready("a"), failed("b"))) as url:
        code, out, _ = await status("--url", url, "b")
    assert code == 1
    for words in ("Failed: Nothing is there. 2 tries have failed in a row.", "what to do", "what happened"):
        assert words in " ".join(out.split())


async def test_a_model_that_is_not_there_is_one():
    async with serving(board_with()) as url:
        code, out, _ = await status("--url", url, "nobody")
    assert (code, "no model named 'nobody'" in out) == (1, True)


async def test_json_is_the_answer_as_it_is():
    async with serving(board_with(ready("a"))) as url:
        code, out, _ = await status("--url", url, "--json")
    assert (code, json.loads(out)["models"][0]["name"]) == (0, "a")


async def test_nobody_there_is_two(unused_tcp_port):
    code, out, err = await status("--url", f"http://127.0.0.1:{unused_tcp_port}")
    assert (code, out) == (2, "")
    assert "is it running" in err


async def test_somebody_else_there_is_two():
    async def hello(_: web.Request) -> web.Response:
        return web.json_response({"hello": "world"})

    application = web.Application()
    application.router.add_get("/{any:.*}", hello)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    code, _, err = await status("--url", f"http://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()
    assert (code, "as an agent" in err) == (2, True)


async def test_what_is_no_url_is_a_mistake_of_the_user():
    code, _, err = await status("--url", "localhost:9082")
    assert (code, "is no URL" in err) == (64, True)


async def test_watching_gives_a_line_for_each_change_and_outlives_the_agent():
    board = board_with(ready("a"))
    async with serving(board) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent", "status", "--url", url, "--watch", "--json",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(20):
            first = json.loads(await process.stdout.readline())
            board.post(failed("a"))
            second = json.loads(await process.stdout.readline())
    async with asyncio.timeout(20):
        third = json.loads(await process.stdout.readline())
    process.terminate()
    await process.wait()
    process._transport.close()
    assert [first["models"][0]["phase"], second["models"][0]["phase"], third] == ["Ready", "Failed", None]


def rendered(view) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(view)
    console.file.close()
    return console.export_text()


def test_a_download_has_its_bar():
    board = board_with(moving("a", Phase.DOWNLOADING))
    board.progress = lambda _: ProgressReading(50 << 20, 100 << 20, 10.0 * (1 << 20), 5.0)
    document = json.loads(Renderer(board, lambda at: at).document(["a"]))
    text = rendered(document_view(document, 0.0))
    assert "████████········" in text
    assert "50% 50 MiB of 100 MiB" in text


@pytest.mark.parametrize(
    ("integrity", "words"),
    [
        (None, None),
        (Integrity("provider", ("crc32c",)), "as the storage's own checksum says (crc32c)"),
        (Integrity("seen-first"), "as first seen; nobody names a checksum"),
    ],
)
def test_one_model_says_what_speaks_for_its_bytes(integrity, words):
    board = board_with(replace(ready("a"), integrity=integrity))
    text = rendered(model_view(json.loads(Renderer(board, lambda at: at).explained(board.models["a"])), 0.0))
    assert "s3://bucket/model (sklearn)" in text
    assert words is None or words in text


def test_of_too_many_models_those_in_trouble_are_shown():
    board = board_with(*(ready(f"m{number}") for number in range(100)), failed("z"))
    document = json.loads(Renderer(board, lambda at: at).document(sorted(board.models)))
    text = rendered(document_view(document, 0.0, rows=5))
    assert "NotFound" in text
    assert "… and 96 more" in text


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_be_shown(reason):
    status = failed("a")
    board = board_with(
        type(status)(*[reason if field is Reason.NOT_FOUND else field for field in vals(status)])
    )
    model = json.loads(Renderer(board, lambda at: at).explained(board.models["a"]))
    assert "what to do" in rendered(model_view(model, 0.0))


def vals(status):
    return [getattr(status, name) for name in type(status).__slots__]


def refusing(board, *entries: Rejection, error=None):
    board.say(config=replace(board.config, digest="d" * 64, rejected=entries, error=error))
    return board


NO_MEMORY = Rejection("a", Reason.INVALID_MEMORY, "entry [0]: memory '4 gigs' is no quantity")


@pytest.mark.parametrize("there", [(), (ready("a"),)])
async def test_a_rejected_model_is_explained_and_one(there):
    async with serving(refusing(board_with(*there), NO_MEMORY)) as url:
        code, out, _ = await status("--url", url, "a")
    said = " ".join(out.split())
    assert code == 1
    assert "Entry [0]: memory '4 gigs' is no quantity" in said
    assert "refused its entry: InvalidMemory" in said
    assert "Write memory as Kubernetes does" in said
    assert ("serves" if there else "Nothing serves") in said


async def test_while_the_document_is_refused_it_is_told_why_and_what_to_do():
    board = refusing(board_with(), error=(Reason.CONFIG_REJECTED, "line 3 column 1: no JSON"))
    async with serving(board) as url:
        whole, one = await status("--url", url), await status("--url", url, "a")
    for code, out, _ in (whole, one):
        assert code == 1
        assert "line 3 column 1" in out
        assert "what was accepted last stays in force" in " ".join(out.split())
    assert "none are wanted" not in whole[1]


def test_of_too_many_refused_entries_the_first_are_shown():
    entries = [Rejection(f"m{n}", Reason.INVALID_MEMORY, "no quantity") for n in range(500)]
    document = json.loads(Renderer(refusing(board_with(ready("z")), *entries), lambda at: at).document(["z"]))
    text = rendered(document_view(document, 0.0, rows=5))
    assert len(text.splitlines()) < 20
    assert "… and 495 more" in text
    assert " ".join(text.split()).count("Write memory as Kubernetes does") == 1


def test_the_last_tries_are_shown_with_their_times_and_what_is_left_out():
    moments = iter(range(1000))
    board = board_with()
    board._wall = lambda: float(next(moments))
    for attempt in range(40):
        board.post(moving("b", Phase.DOWNLOADING))
        board.post(replace(failed("b"), attempts=attempt + 1, message=f"answer {attempt}"))
    text = rendered(model_view(json.loads(Renderer(board, lambda at: at).explained(board.models["b"])), 80.0))
    assert "1 min 20 s ago" in text, "the trouble's beginning"
    assert "5 s ago: NotFound: answer 37" in text
    assert "no longer kept" in text


async def test_watching_in_a_terminal_draws_it_anew_and_asks_for_changes_only():
    board = board_with(ready("a"), moving("b", Phase.DOWNLOADING))
    half = ProgressReading(50 << 20, 100 << 20, 10.0 * (1 << 20), 5.0)
    board.progress = {"s3://bucket/b": half}.get
    answers = []

    @web.middleware
    async def noting(request, handler):
        answer = await handler(request)
        answers.append(answer.status)
        return answer

    async with serving(board, noting) as url, in_a_terminal("status", "--url", url, "--watch") as shown:
        await shown("50 MiB of 100 MiB")
        board.post(failed("b"))
        await shown("NotFound: nothing is there")
        before = len(answers)
        async with asyncio.timeout(10):
            while len(answers) < before + 2:
                await asyncio.sleep(0.05)
    assert answers[-1] == 304


@asynccontextmanager
async def in_a_terminal(*arguments):
    """Run the command in a terminal of its own; yield how to wait until it shows some words."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", *arguments, stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"},
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, lambda: seen.extend(read(ours)))

    async def shown(words: str) -> None:
        async with asyncio.timeout(20):
            while words not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace")):
                assert process.returncode is None, seen.decode()
                await asyncio.sleep(0.05)

    try:
        yield shown
    finally:
        loop.remove_reader(ours)
        process.terminate()
        await process.wait()
        os.close(ours)
        process._transport.close()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side has gone
        return b""


EVIL = "x\x1b]0;evil\x07\x1b[2Jy\u202e\r\nz"


def test_no_word_of_a_document_moves_the_cursor():
    board = refusing(
        board_with(replace(failed("a"), message=EVIL)), Rejection(EVIL, Reason.INVALID_NAME, EVIL)
    )
    board.say(config=replace(board.config, error=(Reason.CONFIG_REJECTED, EVIL), path=EVIL))
    renderer = Renderer(board, lambda at: at)
    document, model, error = (
        json.loads(body)
        for body in (renderer.document(["a"]), renderer.explained(board.models["a"]), renderer.unknown(EVIL))
    )
    for view in (document_view(document, 0.0), model_view(model, 0.0), error_view(error, 0.0)):
        text = rendered(view)
        assert "x\\x1b]0;evil" in " ".join(text.split())
        assert not set(text) & set("\x1b\x07\u202e\r")


def test_times_are_told_from_now():
    assert ago("1970-01-01T00:01:00.000Z", 70.0) == "10 s ago"
    assert ago("1970-01-01T00:01:00.000Z", 50.0) == "in 10 s"
