"""A store in each of its two layouts, an origin, and wires."""

import socket

import pytest

from agent.artifacts.engine.wire import PlainWire
from tests.artifacts.shelf import Clock, Shelf
from tests.fakes.faulty_origin import FaultyOrigin


@pytest.fixture(params=["drop-in", "beside"])
def shelf(request, tmp_path):
    store_dir = tmp_path / "store" if request.param == "beside" else None
    return Shelf(tmp_path / "models", store_dir, Clock())


@pytest.fixture
def store(shelf):
    with shelf.open() as store:
        yield store


@pytest.fixture
def origin():
    with FaultyOrigin() as origin:
        yield origin


@pytest.fixture
def wired():
    """Make wires for a lane, each with the other end of it."""
    both = []

    def wired():
        ours, theirs = socket.socketpair()
        both.extend((ours, theirs))
        return PlainWire(ours), theirs

    yield wired
    for end in both:
        end.close()
