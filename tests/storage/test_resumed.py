"""What a kill costs: the schemes whose URLs are signed anew go on where they were, as the others do."""

import asyncio
import contextlib
import os
import random
import sys
import time

import pytest

from tests.fakes.faulty_origin import Fault
from tests.fakes.faulty_relay import FaultyRelay
from tests.fakes.hub import Hub
from tests.fakes.registry import Registry

pytestmark = pytest.mark.real

MIB = 1 << 20
SLICE = 64 << 10
LARGE = random.Random(9).randbytes(12 * MIB)  # noqa: S311 - bytes that do not repeat


@contextlib.asynccontextmanager
async def hf(request):
    async with Hub().serving() as hub:
        with FaultyRelay(f"http://127.0.0.1:{hub.bridge.port}", lambda _: "model") as relay:
            hub.away = relay.url
            hub.put("model.bin", LARGE)
            yield relay, "hf://owner/model/model.bin", {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}"}


@contextlib.asynccontextmanager
async def azure(request):
    from azure.storage.blob import BlobServiceClient  # noqa: PLC0415 - slow to import, for few tests

    account, _, endpoint = request.getfixturevalue("azurite").partition("BlobEndpoint=")
    upstream, _, path = endpoint.rstrip(";").rpartition("/")
    reads = lambda asked: "model" if asked.path.endswith("/resumed/model.bin") else None  # noqa: E731
    with (
        BlobServiceClient.from_connection_string(f"{account}BlobEndpoint={endpoint}") as service,
        FaultyRelay(upstream, reads) as relay,
    ):
        container = await asyncio.to_thread(service.create_container, "resumed")
        await asyncio.to_thread(container.upload_blob, "model.bin", LARGE)
        through = f"{account}BlobEndpoint={relay.url}/{path};"
        yield relay, "abfs://resumed/model.bin", {"AZURE_STORAGE_CONNECTION_STRING": through}


@contextlib.asynccontextmanager
async def oci(request):
    """Blobs come from another host than the registry, by URLs that it gives."""
    async with Registry(login=None).serving() as registry:
        with FaultyRelay(f"http://127.0.0.1:{registry.elsewhere.port}", blob) as relay:
            registry.away = relay.url
            registry.push("resumed", {"model.bin": LARGE})
            yield relay, f"oci://{registry.host}/resumed", {"HOME": "/nonexistent"}


def blob(asked):
    """Name a read; what is asked for one byte is a look."""
    return "model" if asked.headers.get("range") != "bytes=0-0" else None


def on_disk(folder):
    """How many bytes of LARGE the partial download has by now."""
    for partial in folder.glob("store/.agent-part-*"):
        raw = partial.read_bytes()
        slices = range(0, len(raw), SLICE)
        return sum(SLICE for at in slices if raw[at : at + SLICE] == LARGE[at : at + SLICE])
    return 0


@pytest.mark.parametrize("scheme", [hf, azure, oci])
async def test_after_sigkill_at_most_a_mebibyte_a_connection_is_fetched_again(scheme, request, tmp_path):
    request.getfixturevalue("azurite")
    async with scheme(request) as (relay, uri, environ):
        command = (sys.executable, "-m", "tests.storage.fetch_child", uri, str(tmp_path))
        relay.scripts["model"] = [Fault(stall=5 * MIB // 2)] * 40
        child = await asyncio.create_subprocess_exec(*command, env=os.environ | environ)
        deadline = time.monotonic() + 30
        while relay.sent_bytes < 5 * MIB or await asyncio.to_thread(on_disk, tmp_path) < 5 * MIB:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        child.kill()
        await child.wait()
        connections = len({asked.connection for asked in relay.requests()})
        relay.scripts.clear()
        before = relay.sent_bytes
        again = await asyncio.create_subprocess_exec(*command, env=os.environ | environ)
        assert await again.wait() == 0
        came = relay.sent_bytes - before
        assert len(LARGE) - before <= came <= len(LARGE) - before + connections * MIB + SLICE
        assert came < len(LARGE) * 3 // 4  # or the line above would prove little
        blobs = [path.read_bytes() for path in (tmp_path / "store").glob(".agent-blob-*")]
        assert blobs == [LARGE]
