"""Fault S13 in the engine: a name that does not resolve costs who wants it a bounded wait, and one thread."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.artifacts.engine.dial import CONNECT_SECONDS, Route, dial
from agent.artifacts.engine.hosts import AT_ONCE, PATIENCE_SECONDS, Hosts
from agent.core.errors import RetryableError
from agent.core.reasons import Reason

ROOT = Path(__file__).parents[2]


class Resolver:
    """Counts what it is asked; names ending in `.hangs` are answered only once it is let go."""

    def __init__(self):
        self.asked = []
        self.let_go = threading.Event()

    def __call__(self, host, port):
        self.asked.append(host)
        if host.endswith(".hangs"):
            self.let_go.wait(30)
        if host.endswith(".none"):
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def resolver():
    made = Resolver()
    yield made
    made.let_go.set()


def test_a_name_waits_ten_seconds_as_a_connection_does():
    assert PATIENCE_SECONDS == CONNECT_SECONDS == 10


def test_a_resolver_that_hangs_is_given_up_and_other_names_are_found_meanwhile(resolver):
    hosts = Hosts(resolver, patience_seconds=0.05)
    with pytest.raises(TimeoutError):
        hosts.addresses("a.hangs", 80)
    assert hosts.addresses("b.test", 80)[0][4] == ("127.0.0.1", 80)


def test_all_who_want_a_host_that_hangs_wait_for_one_question_and_have_its_answer(resolver):
    hosts, found = Hosts(resolver), []
    waiting = [
        threading.Thread(target=lambda: found.append(hosts.addresses("a.hangs", 80))) for _ in range(50)
    ]
    for each in waiting:
        each.start()
    resolver.let_go.set()
    for each in waiting:
        each.join()
    assert (len(found), resolver.asked) == (50, ["a.hangs"])


def test_who_gave_up_left_a_question_that_the_next_one_waits_for_too(resolver):
    hosts = Hosts(resolver, patience_seconds=0.02)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            hosts.addresses("a.hangs", 80)
    assert resolver.asked == ["a.hangs"]


def test_however_many_names_hang_there_are_no_more_threads_than_may_be(resolver):
    hosts = Hosts(resolver, patience_seconds=0.01)
    for number in range(3 * AT_ONCE):
        with pytest.raises(TimeoutError):
            hosts.addresses(f"{number}.hangs", 80)
    assert len(resolver.asked) == AT_ONCE
    assert hosts.addresses("127.0.0.1", 80), "a number needs no name server"
    resolver.let_go.set()
    assert hosts.addresses("0.hangs", 80)


def test_an_answer_is_good_for_a_few_seconds_and_a_failure_for_none(resolver):
    now = [0.0]
    hosts = Hosts(resolver, kept_seconds=5, clock=lambda: now[0])
    for now[0] in (0.0, 4.9, 5.1):
        hosts.addresses("a.test", 80)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            hosts.addresses("a.none", 80)
    assert resolver.asked == ["a.test", "a.test", "a.none", "a.none"]


SCRIPT = """
import socket, threading
from agent.artifacts.engine.dial import Route, dial
from agent.artifacts.engine.hosts import Hosts
from agent.core.errors import RetryableError
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
try:
    dial(Route(False, "never.test", 80, None, None), lookup=Hosts(patience_seconds=0.3).addresses)
except RetryableError as error:
    print(error, flush=True)
print(b"never" in server.recv(512), [each.name for each in threading.enumerate()], flush=True)
"""


def test_a_name_server_that_takes_questions_and_never_answers_is_given_up(tmp_path):
    """In namespaces of its own: the system's resolver, told to ask a silent server for minutes."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    inside = f'ip link set lo up && mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$0" -c "$1"'
    command = ["unshare", "-Urmn", "sh", "-c", inside, sys.executable, f"{SCRIPT}\nimport os\nos._exit(0)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=25)
    assert done.returncode == 0, done.stderr
    told, after = done.stdout.splitlines()
    assert told.startswith("StorageTimeout: never.test:80: the name was not resolved in time")
    assert after == "True ['MainThread', 'name']", "it was asked, and hangs still"


def test_the_name_of_a_host_that_hangs_is_told(resolver):
    lookup = Hosts(resolver, patience_seconds=0.02).addresses
    with pytest.raises(RetryableError) as caught:
        dial(Route(secure=False, host="a.hangs", port=80, proxy=None, context=None), lookup=lookup)
    assert caught.value.reason is Reason.STORAGE_TIMEOUT
    assert "a.hangs:80" in caught.value.message
