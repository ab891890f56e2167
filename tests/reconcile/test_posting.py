"""The statuses of thousands of models are posted in turns with all other tasks, and nothing old after new."""

import asyncio

import pytest

from agent.core.model import DesiredState, ModelName, ModelSpec, Revision, StoredRevision, Told
from agent.reconcile.loop import Outlook
from tests.fakes.memory_world import MemoryWorld
from tests.reconcile.test_loop import reconciling

URI, NEXT = "s3://b/one", "s3://b/two"

pytestmark = pytest.mark.looptime(start=1000.0)


def document(count, uri, digest):
    names = [ModelName(f"m{number}") for number in range(count)]
    return DesiredState({name: ModelSpec(uri, "sklearn", 1) for name in names}, digest=digest)


def serving(document):
    """A world in which all of *document* is served already, so that there is nothing to do."""
    revision = Revision("0001")
    told = Told(revision, URI, "sklearn", 1, confirmed=True)
    return MemoryWorld(
        {URI: revision},
        stored={URI: StoredRevision(URI, revision, 1, 1000.0)},
        told=dict.fromkeys(document.models, told),
        loaded=dict.fromkeys(document.models, (revision, 1)),
    )


async def turns(board):
    """Yield how many words were posted in each turn of the event loop, until a plan's last one is."""
    posted = []
    board.watch(lambda name, status: posted.append((name, status)))
    while board.config.planned_digest is None:
        posted.clear()
        await asyncio.sleep(0)
        yield posted


async def test_other_tasks_get_their_turn_while_ten_thousand_models_are_posted():
    wanted = document(10_000, URI, "one")
    async with reconciling(serving(wanted)) as (reconciler, board):
        reconciler.want(wanted)
        counts = [len(posted) async for posted in turns(board)]
    assert sum(counts) == 10_000
    assert max(counts) < 500


async def test_all_is_settled_only_once_all_is_posted():
    wanted = document(1000, URI, "one")
    async with reconciling(serving(wanted)) as (reconciler, board):
        await asyncio.sleep(0)  # it waits for the bell now: one plan is made
        reconciler.want(wanted)
        outlooks = [(len(board.models), reconciler.outlook()) async for _ in turns(board)]
        assert outlooks[-1] == (1000, Outlook.SETTLED)
    assert {outlook for count, outlook in outlooks if count < 1000} == {Outlook.WORKING}


async def test_a_document_that_comes_while_another_one_is_posted_is_the_only_one_spoken_of_from_then_on():
    old, new = document(1000, URI, "old"), document(1000, NEXT, "new")
    async with reconciling(serving(old)) as (reconciler, board):
        reconciler.want(old)
        async for posted in turns(board):
            if posted:
                break
        assert 0 < len(board.models) < 1000
        reconciler.want(new)
        words = []
        board.watch(lambda _, status: words.append(status.spec.storage_uri))
        async for _ in turns(board):
            pass
    assert len(board.models) == 1000
    assert set(words) == {NEXT}
    assert board.config.planned_digest == "new"
