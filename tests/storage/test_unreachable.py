"""Faults S13, S14: names that resolve slowly, addresses where packets vanish. The loop waits for neither."""

import asyncio
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.storage.http import HttpProvider
from agent.storage.names import AT_ONCE, ThreadNames, _answer
from agent.storage.web import CONNECT_SECONDS
from tests.fakes.origin import Origin
from tests.storage.test_http import Names

ROOT = Path(__file__).parents[2]


@contextmanager
def black_hole(host: str, port: int = 0):
    """A port whose SYNs go unanswered: nobody accepts, and the queue is full. Linux drops what comes then."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, port))
        listener.listen(0)
        queued = []
        for _ in range(3):
            sock = socket.socket(family)
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname()[:2])
            queued.append(sock)
        try:
            yield listener.getsockname()[1]
        finally:
            for sock in queued:
                sock.close()


class Slow(Names):
    """A resolver that takes half a minute."""

    async def resolve(self, host, port=0, family=socket.AF_INET):
        await asyncio.sleep(30)
        return await super().resolve(host, port, family)


async def refused(provider, uri):
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(RetryableError) as caught:
        await provider.resolve(uri)
    await provider.close()
    return caught.value.reason, loop.time() - began


@pytest.mark.looptime
async def test_a_name_that_resolves_too_slowly_is_given_up():
    reason, seconds = await refused(HttpProvider({}, resolver=Slow()), "http://a.test/m")
    assert reason is Reason.STORAGE_TIMEOUT
    assert seconds == pytest.approx(CONNECT_SECONDS, abs=0.5)


@pytest.mark.looptime
async def test_packets_that_vanish_are_waited_for_as_long_as_a_connection_may_take():
    with black_hole("127.0.0.1") as port:
        reason, seconds = await refused(HttpProvider({}, resolver=Names()), f"http://a.test:{port}/m")
    assert reason is Reason.STORAGE_TIMEOUT
    assert seconds == pytest.approx(CONNECT_SECONDS, abs=0.5)


async def test_a_name_server_that_says_nothing_takes_no_thread_of_anybody_else():
    """The loop's executor reads documents and the store; a hundred models of one host may wait here."""
    never, asked = threading.Event(), []

    def lookup(host, *_):
        asked.append(host)
        never.wait(30)
        raise OSError

    names = ThreadNames(lookup)
    waiting = [asyncio.ensure_future(names.resolve(f"{number}.test")) for number in range(100)]
    async with asyncio.timeout(5):
        while len(asked) < AT_ONCE:
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(lambda: "read") == "read"
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
    never.set()
    await names.close()


async def test_the_systems_own_names_are_found_with_their_addresses():
    names = ThreadNames()
    found = await names.resolve("localhost", 80)
    await names.close()
    assert ("127.0.0.1", 80) in {(each["host"], each["port"]) for each in found}
    assert _answer("h", (socket.AF_INET6, 1, 6, "", ("fe80::1%lo", 80, 0, 1)))["host"] == "fe80::1%1"


async def test_a_second_address_is_tried_while_the_first_says_nothing():
    async with Origin().serving() as origin:
        origin.put("/m", b"content")
        with black_hole("127.0.0.2", origin.port):
            provider = HttpProvider({}, resolver=Names("127.0.0.2", "127.0.0.1"))
            async with asyncio.timeout(CONNECT_SECONDS / 2):
                listing = await provider.resolve(f"http://a.test:{origin.port}/m")
            await provider.close()
    assert listing.objects[0].size == 7


SCRIPT = """
import socket, threading, time
from agent.artifacts.engine.dial import Route, dial
from tests.storage.test_unreachable import black_hole
with socket.create_server(("127.0.0.1", 0)) as good:
    port = good.getsockname()[1]
    threading.Thread(target=good.accept, daemon=True).start()
    with black_hole("::1", port):
        began = time.monotonic()
        dial(Route(secure=False, host="both.test", port=port, proxy=None, context=None)).close()
        print(time.monotonic() - began)
"""


def test_the_engine_too_tries_the_other_family_while_one_leads_nowhere(tmp_path):
    """In a mount namespace of its own, where the name has both families."""
    (tmp_path / "hosts").write_text("::1 both.test\n127.0.0.1 both.test\n")
    inside = f'mount --bind {tmp_path}/hosts /etc/hosts && exec "$0" -c "$1"'
    command = ["unshare", "-Urm", "sh", "-c", inside, sys.executable, SCRIPT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < CONNECT_SECONDS / 2
