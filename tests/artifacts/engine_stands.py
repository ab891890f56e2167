"""Stand-ins for the parts around a lane, a pool or a download, each the few lines that a test looks at."""

import threading

from agent.artifacts.engine.dial import Route
from agent.artifacts.engine.pieces import Piece
from agent.artifacts.orders import Order
from agent.artifacts.progress import Meter
from agent.storage.base import HttpSource, RemoteObject
from tests.fakes.origin_provider import OriginAnswers

ROUTE = Route(False, "127.0.0.1", 80, None, None)
SOURCE = HttpSource("http://127.0.0.1/x", OriginAnswers())


def order_in(folder, size, settle=lambda moved: None, checksums=None):
    """An order of an object of that size into the folder."""
    obj = RemoteObject("x", "/x", size, "identity", checksums=checksums or {})
    return Order(obj, lambda: None, folder / "part", folder / "journal", Meter(), settle)


class StandDownload:
    """Gives pieces for as long as there are any, and notes what becomes of them."""

    def __init__(self, pieces=1, order=None, signs=None):
        self.order, self.left, self.signs = order, pieces, signs
        self.failed, self.came = [], bytearray()
        self.changed = threading.Event()
        self.on_write = lambda: None

    def take(self, connections, now):
        if not self.left:
            return None
        self.left -= 1
        return Piece(self, SOURCE, 0, None)

    def begin(self, piece, head):
        pass

    def last(self, piece):
        return False

    def call_for_help(self, piece, now):
        pass

    def write(self, piece, data):
        self.came += data
        self.changed.set()
        self.on_write()
        return False

    def finish(self, piece):
        self.changed.set()

    def fail(self, piece, error):
        self.failed.append(error)
        self.changed.set()


class StandPool:
    """A pool that has no work of its own. `handed_out` connections are not idle any more."""

    busy = True

    def __init__(self):
        self.handed_out = set()
        self.lost_pieces = []

    def wanted(self, piece):
        return True

    def pump(self):
        pass

    def next_after(self, lane, connection, piece):
        return None

    def lost(self, connection, piece, error=None):
        self.lost_pieces.append(piece)

    def forget(self, connection):
        return connection not in self.handed_out


class StandCrew:
    """Notes what a download reports."""

    def __init__(self):
        self.agains, self.done_, self.failures, self.offers = [], [], [], 0
        self.changed = threading.Event()

    def again(self, download, pause_seconds):
        self.agains.append(pause_seconds)

    def offer(self, download):
        self.offers += 1

    def replace(self, old, new):
        raise AssertionError("not expected here")

    def done(self, download):
        self.done_.append(download)
        self.changed.set()

    def failed(self, error):
        self.failures.append(error)
        self.changed.set()


def said(body, status=200):
    """An answer as it comes over the wire."""
    return b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
