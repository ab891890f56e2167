import asyncio
import contextlib

import pytest

from agent.kube.informer import Informer
from agent.kube.resources import CONFIG_MAPS, INFERENCE_SERVICES, TRAINED_MODELS
from tests.core.trainedmodels import trained_model
from tests.fakes.cluster import inference_service
from tests.kube.test_client import config_map


class Watched:
    def __init__(self, informer):
        self.informer = informer
        self.changes = []
        self.news = asyncio.Event()

    def changed(self, before, after):
        self.changes.append((before and before["metadata"]["name"], after and after["metadata"]["name"]))
        self.news.set()

    async def until(self, holds):
        async with asyncio.timeout(10):
            while not holds():
                await self.news.wait()
                self.news.clear()

    def names(self):
        return sorted(obj["metadata"]["name"] for obj in self.informer)


@contextlib.asynccontextmanager
async def watching(client, resource=TRAINED_MODELS, **options):
    watched = Watched(None)
    watched.informer = Informer(client, resource, watched.changed, pause_seconds=0.01, **options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watched.informer.run())
        try:
            async with asyncio.timeout(10):
                await watched.informer.synced.wait()
            yield watched
        finally:
            task.cancel()


async def test_the_copy_follows_what_is_added_changed_and_deleted(server, client):
    server.put(trained_model("a"))
    async with watching(client) as watched:
        server.put(trained_model("b"))
        await watched.until(lambda: watched.names() == ["a", "b"])
        server.put(trained_model("a", uri="s3://b/2"))
        await watched.until(
            lambda: watched.informer.get(("default", "a"))["spec"]["model"]["storageUri"] == "s3://b/2"
        )
        server.delete("TrainedModel", "b")
        await watched.until(lambda: watched.names() == ["a"])
    assert watched.informer.lists == 1


async def test_after_410_it_lists_again_and_finds_what_was_deleted_meanwhile(server, client):
    server.put(trained_model("a"))
    server.put(trained_model("b"))
    async with watching(client) as watched:
        server.forget("TrainedModel", "b")
        server.compact()
        await server.drop()
        await watched.until(lambda: watched.names() == ["a"])
        assert ("b", None) in watched.changes
    assert watched.informer.lists == 2


async def test_a_watch_that_ends_goes_on_where_it_was(server, client):
    server.put(trained_model("a"))
    async with watching(client) as watched:
        for number in range(3):
            await server.drop()
            server.put(trained_model(f"n{number}"))
            await watched.until(lambda number=number: f"n{number}" in watched.names())
    assert watched.informer.lists == 1


async def test_bookmarks_move_the_version_on_so_that_a_quiet_watch_survives_compaction(server, client):
    server.put(trained_model("a"))
    async with watching(client) as watched:
        for number in range(5):
            server.put(config_map(f"c{number}"))
        await asyncio.sleep(0.5)  # a bookmark comes every 0.2 s
        server.compact()
        await server.drop()
        server.put(trained_model("b"))
        await watched.until(lambda: watched.names() == ["a", "b"])
    assert watched.informer.lists == 1


async def test_a_watch_that_is_half_open_is_given_up_after_a_silence(server, client):
    server.put(trained_model("a"))
    server.stalled = True
    async with watching(client, silence_seconds=0.3) as watched:
        server.put(trained_model("b"))
        await asyncio.sleep(0.2)
        assert watched.names() == ["a"]
        server.stalled = False
        await watched.until(lambda: watched.names() == ["a", "b"])


@pytest.mark.parametrize("status", [500, 503, 429, None])
async def test_a_server_in_trouble_is_asked_again(server, client, status):
    server.put(trained_model("a"))
    server.fail(status, times=3)
    async with watching(client) as watched:
        assert watched.names() == ["a"]


async def test_an_optional_kind_that_is_not_installed_is_an_empty_one(server, client):
    del server.collections["serving.kserve.io/v1beta1", "inferenceservices"]
    async with watching(client, INFERENCE_SERVICES, optional=True) as watched:
        assert (watched.names(), watched.informer.present) == ([], False)


async def test_an_optional_kind_that_was_seen_is_not_taken_for_absent_any_more(server, client):
    server.put(inference_service("p"))
    async with watching(client, INFERENCE_SERVICES, optional=True) as watched:
        server.fail(404, times=3, path="inferenceservices")
        server.compact()
        await server.drop()
        server.put(inference_service("q"))
        await watched.until(lambda: watched.names() == ["p", "q"])
    assert (watched.informer.present, ("p", None) in watched.changes) == (True, False)


async def test_a_needed_kind_that_is_not_found_is_never_taken_for_none(server, client, caplog):
    server.put(trained_model("a"))
    server.fail(404, times=2, path="trainedmodels")
    async with watching(client) as watched:
        assert watched.names() == ["a"]
        server.fail(404, times=2, path="trainedmodels")
        server.compact()
        await server.drop()
        server.put(trained_model("b"))
        await watched.until(lambda: watched.names() == ["a", "b"])
    assert ("a", None) not in watched.changes
    assert "ApiNotFound" in {getattr(record, "reason", None) for record in caplog.records}


async def test_an_older_reading_never_replaces_our_own_newer_write(server, client):
    server.put(config_map("c", a="1"))
    async with watching(client, CONFIG_MAPS) as watched:
        old = watched.informer.get(("default", "c"))
        new = await client.apply(CONFIG_MAPS, config_map("c", a="2"))
        watched.informer.note(new)
        watched.informer.note(old)
        assert watched.informer.get(("default", "c"))["data"] == {"a": "2"}


async def test_a_late_answer_does_not_bring_back_what_was_deleted(server, client):
    server.put(config_map("c", a="1"))
    async with watching(client, CONFIG_MAPS) as watched:
        late = await client.apply(CONFIG_MAPS, config_map("c", a="2"))
        server.delete("ConfigMap", "c")
        await watched.until(lambda: not watched.names())
        watched.informer.note(late)
        assert watched.names() == []


async def test_a_recreated_object_of_the_same_name_is_taken_for_a_new_one(server, client):
    server.put(trained_model("a"))
    async with watching(client) as watched:
        server.delete("TrainedModel", "a")
        server.put(trained_model("a", memory="1Gi"))
        await watched.until(
            lambda: (
                watched.names() == ["a"]
                and watched.informer.get(("default", "a"))["spec"]["model"]["memory"] == "1Gi"
            )
        )
