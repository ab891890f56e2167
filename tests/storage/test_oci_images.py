"""What is packed in registries: folders that were pushed as archives, and images with a model in /models/."""

import asyncio
import os
import sys
import time

import pytest
import zstandard

from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.disk import DiskPolicy
from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.storage.oci import OciProvider
from tests.contracts.reading import fetched
from tests.contracts.storage import CONTENT, OTHER
from tests.fakes.registry import IMAGE, Registry, digest_of, layer, manifest, packed

TAR = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
async def registry():
    async with Registry(login=None).serving() as registry:
        yield registry


@pytest.fixture
async def provider():
    provider = OciProvider({"HOME": "/nonexistent"})
    yield provider
    await provider.close()


async def test_a_folder_that_was_packed_is_unpacked(provider, registry, tmp_path):
    folder = packed({"model/weights.bin": CONTENT, "model/config.json": b"{}"})
    note = {"io.deis.oras.content.unpack": "true"}
    kind = "application/vnd.oci.image.layer.v1.tar+gzip"
    registry.blob("m", folder)
    registry.manifest("m", "latest", manifest([layer(folder, "model.bin", kind, **note)]))
    came, proof = await fetched(provider, f"oci://{registry.host}/m", tmp_path)
    assert came == {"model/weights.bin": CONTENT, "model/config.json": b"{}"}
    assert proof == "provider"


async def test_folders_and_files_are_pushed_together(provider, registry, tmp_path):
    folder = packed({"weights/w.bin": CONTENT})
    for blob in (folder, b"{}"):
        registry.blob("m", blob)
    layers = [layer(b"{}", "config.json", TAR), layer(folder, "weights", f"{TAR}+gzip")]
    registry.manifest("m", "latest", manifest(layers))
    came, proof = await fetched(provider, f"oci://{registry.host}/m", tmp_path)
    assert came == {"config.json": b"{}", "weights/w.bin": CONTENT}
    assert proof == "provider"


def image(registry, repository, *layers):
    """Push an image of layers, each a tar."""
    kinds = {b"\x1f\x8b": f"{TAR}+gzip", b"\x28\xb5": f"{TAR}+zstd"}
    for each in layers:
        registry.blob(repository, each)
    described = [layer(each, kind=kinds.get(each[:2], TAR)) for each in layers]
    registry.manifest(repository, "latest", manifest(described, IMAGE))
    return f"oci://{registry.host}/{repository}"


BASE = packed({"bin/sh": b"#!" * 500, "etc/passwd": b"root", "models-not/x": b"1"})
NOTHING = packed({})


async def test_an_image_is_what_its_layers_leave_below_models(provider, registry, tmp_path):
    first = packed({"models/1/model.onnx": OTHER, "models/old.bin": b"1", "models/config.json": b"{}"})
    second = zstandard.compress(packed({"models/.wh.old.bin": b"", "models/1/model.onnx": CONTENT}, "w"))
    third = packed({"models/sub/.wh..wh..opq": b"", "models/sub/x": b"2", "usr/y": b"3"}, "w")
    uri = image(registry, "m", BASE, NOTHING, first, NOTHING, second, third)
    came, proof = await fetched(provider, uri, tmp_path)
    assert came == {"1/model.onnx": CONTENT, "config.json": b"{}", "sub/x": b"2"}
    assert proof == "provider"


async def test_layers_without_models_are_kept_for_other_images_and_those_with_models_go(
    provider, registry, tmp_path
):
    a = image(registry, "a", BASE, packed({"models/a.bin": CONTENT}))
    b = image(registry, "b", BASE, packed({"models/b.bin": OTHER}))
    assert (await fetched(provider, a, tmp_path))[0] == {"a.bin": CONTENT}
    assert (await fetched(provider, b, tmp_path))[0] == {"b.bin": OTHER}
    asked = [each.target for each in registry.received if digest_of(BASE) in each.target]
    assert {each.split("/")[2] for each in asked} == {"a"}
    blobs = [path.read_bytes() for path in (tmp_path / "store").glob(".agent-blob-*")]
    assert sorted(blobs) == sorted([BASE, CONTENT, OTHER])
    before = len(registry.received)
    assert (await fetched(provider, a, tmp_path))[0] == {"a.bin": CONTENT}
    assert len(registry.received) == before + 1  # the manifest, and no layer again


async def test_layers_that_no_model_needs_go_after_an_hour_though_their_image_is_served(
    provider, registry, tmp_path
):
    uri = image(registry, "m", BASE, packed({"models/x": OTHER}), packed({"models/x": CONTENT}))
    await fetched(provider, uri, tmp_path)
    with Store.open(tmp_path / "models", tmp_path / "store") as store:
        fetcher = Fetcher(lambda scheme: provider, store, Engine())
        image(registry, "m", BASE, packed({"models/x": b"new"}))
        await fetcher.fetch(uri, Progress(), relist=True)
        await fetcher.close()
        store.collect([uri], time.time() + 3700, DiskPolicy(spare_revisions=0))
        blobs = [path.read_bytes() for path in (tmp_path / "store").glob(".agent-blob-*")]
    assert blobs == [b"new"]


async def test_many_images_of_one_base_come_at_once(provider, registry, tmp_path):
    images = [image(registry, f"m{n}", BASE, packed({"models/x": b"%d" % n})) for n in range(6)]
    with Store.open(tmp_path / "models", tmp_path / "store") as store:
        fetcher = Fetcher(lambda scheme: provider, store, Engine())
        came = await asyncio.gather(*(fetcher.fetch(uri, Progress(), relist=True) for uri in images))
        await fetcher.close()
        for number, stored in enumerate(came):
            (entry,) = store.manifest(stored.uri, stored.revision).entries
            assert store.blob_path(entry.blob).read_bytes() == b"%d" % number


async def test_pull_lays_an_image_out_whatever_patterns_say_of_files(registry, tmp_path):
    uri = image(registry, "m", BASE, packed({"models/a/model.bin": CONTENT}))
    environ = {**os.environ, "HOME": str(tmp_path), "STORAGE_ALLOW_PATTERNS": "*.json"}
    words = ["-m", "agent", "pull", uri, str(tmp_path / "out")]
    child = await asyncio.create_subprocess_exec(sys.executable, *words, env=environ)
    assert await child.wait() == 0
    out = tmp_path / "out"
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == {
        "a/model.bin": CONTENT
    }


async def test_an_image_without_models_is_told(provider, registry, tmp_path):
    for layers in ([BASE, NOTHING], [packed({"models/x": b"1"}), packed({".wh.models": b""})]):
        with pytest.raises(TerminalError, match="no file below /models") as caught:
            await fetched(provider, image(registry, "m", *layers), tmp_path)
        assert caught.value.reason is Reason.NOT_FOUND


async def test_a_layer_that_leads_out_is_refused_and_leaves_nothing(provider, registry, tmp_path):
    with pytest.raises(TerminalError) as caught:
        await fetched(provider, image(registry, "m", packed({"models/../x": b"1"})), tmp_path)
    assert caught.value.reason is Reason.ARCHIVE_REFUSED
    assert not any((tmp_path / "models").iterdir())
