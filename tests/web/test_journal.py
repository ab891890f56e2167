"""The journal: whatever comes and goes, a reader who follows it ends with what is true."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import ModelName
from agent.telemetry.board import MemoryWord
from agent.web.journal import Journal
from tests.web.boards import board_with, failed, ready

NAMES = st.sampled_from("abcdef")
STEPS = st.lists(st.tuples(st.sampled_from(["ready", "failed", "drop", "read", "head"]), NAMES), max_size=60)


@given(STEPS, st.integers(0, 3), st.integers(1, 3))
def test_a_reader_who_follows_ends_with_what_is_true(steps, most_gone, most):
    board = board_with(ready("a"))
    journal = Journal(board, "boot", most_gone)
    seen, position = dict(board.models), journal.position
    for step, name in [*steps, *[("read", "a")] * 10]:
        match step:
            case "ready":
                board.post(ready(name))
            case "failed":
                board.post(failed(name))
            case "drop":
                board.drop(ModelName(name))
            case "head":
                board.say(memory=MemoryWord(None, board.memory.reserved_bytes + 1))
            case "read":
                changes = journal.since(position, most)
                if changes is None:
                    seen, position = dict(board.models), journal.position
                    continue
                assert len(changes.names) <= most
                for changed in changes.names:
                    status = board.models.get(changed)
                    seen = (
                        {**seen, changed: status}
                        if status
                        else {k: v for k, v in seen.items() if k != changed}
                    )
                position = changes.upto
    assert seen == board.models
    assert position == journal.position


@given(STEPS)
def test_it_is_no_larger_than_the_models_and_the_gone_that_are_kept(steps):
    board = board_with()
    journal = Journal(board, most_gone=2)
    for step, name in steps:
        if step == "ready":
            board.post(ready(name))
        elif step == "drop":
            board.drop(ModelName(name))
    assert len(journal._order) <= len(board.models) + 2


def test_a_change_of_the_head_is_told_once():
    board = board_with(ready("a"))
    journal = Journal(board)
    before = journal.position
    board.say(memory=MemoryWord(5))
    changes = journal.since(before, 10)
    assert (changes.head, changes.names) == (True, ())
    assert not journal.since(changes.upto, 10).head


def test_a_position_of_another_life_or_one_that_never_was_is_none():
    journal = Journal(board_with(ready("a")), "boot")
    assert journal.position_of(journal.mark(1)) == 1
    for mark in ("", "other-1", "boot-", "boot-2", "boot--1", "boot-1x", "boot-²", "boot-" + "9" * 40):
        assert journal.position_of(mark) is None


async def test_waiting_ends_with_a_change_the_time_or_the_end():
    board = board_with()
    journal = Journal(board)
    assert not await journal.beyond(0, 0.01)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(journal.beyond(0, 10))
        await asyncio.sleep(0)
        board.post(ready("a"))
    assert waiting.result()
    journal.close()
    assert await journal.beyond(99, 10)
