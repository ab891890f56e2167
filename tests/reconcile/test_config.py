"""What is wanted follows the mounted document, whatever the disk does with the copy that is kept of it."""

import json
import logging
from hashlib import sha256

import pytest

from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.reconcile.config import ConfigKeeper, DocumentRules
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord
from agent.watch import Document

FULL = RetryableError(Reason.DISK_FULL, "keeping the accepted document: No space left on device")


class Shelf:
    """Keeps one document in memory, or raises `fault`."""

    def __init__(self) -> None:
        self.fault: RetryableError | None = None
        self.kept: bytes | None = None
        self.tries = 0

    def accepted_document(self) -> bytes | None:
        if self.fault:
            raise self.fault
        return self.kept

    def remember_document(self, raw: bytes) -> None:
        self.tries += 1
        if self.fault:
            raise self.fault
        self.kept = raw


class Mount:
    """The document as it was mounted last."""

    def __init__(self) -> None:
        self.mount()

    def mount(self, *names: str, **more: object) -> None:
        spec = {"storageUri": "http://h/m", "framework": "sklearn", "memory": "1Mi", **more}
        raw = json.dumps([{"modelName": name, "modelSpec": spec} for name in names]).encode()
        self._found = Document(raw, sha256(raw).hexdigest())

    def read(self) -> Document:
        return self._found


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def mount():
    return Mount()


@pytest.fixture
def keeper(shelf, mount):
    board = Board(ConfigWord("models.json"), ServerWord("http://s"), MemoryWord(None))
    return ConfigKeeper(mount, shelf, board, DocumentRules())


def names(desired):
    return sorted(desired.models)


async def test_a_document_applies_though_the_disk_cannot_keep_it(keeper, shelf, mount, caplog):
    wanted = []
    shelf.fault = FULL
    for words in (["a"], ["a", "b"]):
        mount.mount(*words)
        await keeper.look(wanted.append)
    assert [names(each) for each in wanted] == [["a"], ["a", "b"]]
    told = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert [line.reason for line in told] == ["DiskFull"]


async def test_what_was_not_kept_is_kept_at_a_later_look_with_nothing_new_mounted(keeper, shelf, mount):
    shelf.fault = FULL
    mount.mount("a")
    await keeper.look(lambda _: None)
    shelf.fault = None
    await keeper.look(lambda _: None)
    assert b'"a"' in shelf.kept
    tries = shelf.tries
    await keeper.look(lambda _: None)
    assert shelf.tries == tries


async def test_a_kept_document_that_cannot_be_read_is_as_if_there_were_none(keeper, shelf, caplog):
    shelf.fault = RetryableError(Reason.DISK_ERROR, "reading the accepted document: Input/output error")
    assert keeper.recall() is None
    assert [line.reason for line in caplog.records] == ["DiskError"]


async def test_a_key_that_nobody_reads_is_told_once(keeper, mount, caplog):
    for words in (["a"], ["a", "b"], ["b"]):
        mount.mount(*words, memroy="1Gi")
        await keeper.look(lambda _: None)
    told = [line.keys for line in caplog.records if line.levelno >= logging.WARNING]
    assert told == ["memroy"]


async def test_a_document_that_unloads_everything_is_said_aloud(keeper, mount, caplog):
    for words in ([], ["a", "b"], []):
        mount.mount(*words)
        await keeper.look(lambda _: None)
    told = [(line.getMessage(), line.models) for line in caplog.records if line.levelno >= logging.WARNING]
    assert told == [("the document wants no model any more: all are unloaded", 2)]
