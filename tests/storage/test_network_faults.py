"""Every scheme × every network fault: exactly the bytes, or an error with its reason; never anything else.

A relay that misbehaves stands between the provider and a real store. What no checksum tells of, a flipped bit
where the service gives none, is the one thing that cannot be found: then the manifest says `seen-first`.
"""

import asyncio
import contextlib
import itertools
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.errors import AgentError
from agent.core.reasons import Reason
from agent.storage.azure import AzureProvider
from agent.storage.gs import GsProvider
from agent.storage.hf import HfProvider
from agent.storage.http import HttpProvider
from agent.storage.oci import OciProvider
from agent.storage.s3 import S3Provider
from tests.fakes.faulty_origin import FaultyOrigin
from tests.fakes.faulty_relay import FaultyRelay
from tests.fakes.hub import Hub
from tests.fakes.registry import Pushing, digest_of
from tests.fakes.tls import server_tls
from tests.storage.matrix import OTHER, TROUBLES, Place, Trouble

pytestmark = pytest.mark.real

FAST = EngineSettings(stall_seconds=1.0, hedge_seconds=1.0, slow_seconds=1.2, min_rate=1 << 22)
AT_ONCE = 6
NUMBERS = itertools.count()
Make = Callable[[], Place]


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["s3", "s3 with checksums", "gs", "https", "hf", "azure", "oci"])
async def make(request, stack, tmp_path) -> Make:
    """Makes models of one scheme, behind one relay and read by one provider; hf has one of each a model."""
    maker = {"gs": gs, "https": https, "hf": hf, "azure": azure, "oci": oci}
    return await maker.get(request.param, s3)(request, stack, tmp_path)


async def s3(request, stack, tmp_path):
    store, admin = request.getfixturevalue("seaweedfs"), request.getfixturevalue("admin")
    checked = request.param != "s3"
    more = {"ChecksumAlgorithm": "SHA256"} if checked else {}
    bucket = store.readable_bucket
    reads = lambda asked: asked.path.split("/")[2] if asked.path.count("/") > 2 else None  # noqa: E731
    relay = stack.enter_context(FaultyRelay(store.endpoint, reads))
    environ = {"AWS_ENDPOINT_URL": relay.url, "AWS_DEFAULT_REGION": "eu-west-1", **store.reader.environ()}
    provider = S3Provider(environ)
    stack.push_async_callback(provider.close)

    def make():
        prefix = f"matrix{next(NUMBERS)}"
        return Place(
            f"s3://{bucket}/{prefix}",
            prefix,
            relay,
            provider,
            lambda path, body: admin.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=body, **more),
            lambda path: admin.delete_object(Bucket=bucket, Key=f"{prefix}/{path}"),
            checked,
        )

    return make


async def gs(request, stack, tmp_path):
    endpoint = request.getfixturevalue("fake_gcs").endpoint
    reads = lambda asked: asked.path.split("/")[5] if asked.path.startswith("/download/") else None  # noqa: E731
    relay = stack.enter_context(FaultyRelay(endpoint, reads))
    provider = GsProvider({"STORAGE_EMULATOR_HOST": relay.url})
    stack.push_async_callback(provider.close)

    def ask(method, path, body=None):
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}{path}", body, method=method)).close()

    def make():
        bucket = f"matrix{next(NUMBERS)}"
        ask("POST", "/storage/v1/b", json.dumps({"name": bucket}).encode())
        upload = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name="
        return Place(
            f"gs://{bucket}",
            bucket,
            relay,
            provider,
            lambda path, body: ask("POST", upload + quote(path, safe=""), body),
            lambda path: ask("DELETE", f"/storage/v1/b/{bucket}/o/{quote(path, safe='')}"),
            checked=True,
        )

    return make


async def https(request, stack, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    origin = stack.enter_context(FaultyOrigin())
    tls = server_tls(authority, "127.0.0.1")
    relay = stack.enter_context(FaultyRelay(origin.url, lambda asked: asked.path.split("/")[1], context=tls))
    provider = HttpProvider({"CA_BUNDLE": str(tmp_path / "ca.pem")})
    stack.push_async_callback(provider.close)

    def make():
        folder = f"matrix{next(NUMBERS)}"
        return Place(
            f"{relay.url}/{folder}/model.bin",
            folder,
            relay,
            provider,
            lambda path, body: origin.put(f"/{folder}/{path}", body),
            lambda path: origin.objects.pop(f"/{folder}/{path}"),
            checked=False,
            folder=False,
        )

    return make


async def hf(request, stack, tmp_path):
    """The relay is where the hub's redirects lead, as large files never come from the hub itself."""
    hubs = [await stack.enter_async_context(Hub().serving()) for _ in range(len(TROUBLES) + 2)]

    def make():
        hub = hubs.pop()
        reads = lambda asked: "hub"  # noqa: E731
        relay = stack.enter_context(FaultyRelay(f"http://127.0.0.1:{hub.bridge.port}", reads))
        hub.away = relay.url
        provider = HfProvider({"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}"})
        stack.push_async_callback(provider.close)
        return Place("hf://owner/model", "hub", relay, provider, hub.put, hub.files.pop, checked=True)

    return make


async def azure(request, stack, tmp_path):
    from azure.storage.blob import BlobServiceClient  # noqa: PLC0415 - slow to import, for few tests

    connection = request.getfixturevalue("azurite")
    account, _, endpoint = connection.partition("BlobEndpoint=")
    upstream, _, path = endpoint.rstrip(";").rpartition("/")
    reads = lambda asked: asked.path.split("/")[2] if "comp=list" not in asked.target else None  # noqa: E731
    relay = stack.enter_context(FaultyRelay(upstream, reads))
    through = f"{account}BlobEndpoint={relay.url}/{path};"
    provider = AzureProvider({"AZURE_STORAGE_CONNECTION_STRING": through})
    stack.push_async_callback(provider.close)
    service = stack.enter_context(BlobServiceClient.from_connection_string(connection))

    def make():
        name = f"matrix{next(NUMBERS)}"
        container = service.create_container(name)
        return Place(
            f"abfs://{name}",
            name,
            relay,
            provider,
            lambda path, body: container.upload_blob(path, body, overwrite=True),
            container.delete_blob,
            checked=True,
        )

    return make


async def oci(request, stack, tmp_path):
    """A put pushes all the files anew, as a tag is moved; what asks for one byte is no read."""
    host = request.getfixturevalue("docker_registry")
    blob = lambda asked: "/blobs/" in asked.path and asked.headers.get("range") != "bytes=0-0"  # noqa: E731
    reads = lambda asked: asked.path.split("/")[2] if blob(asked) else None  # noqa: E731
    relay = stack.enter_context(FaultyRelay(f"http://{host}", reads))
    provider = OciProvider({"HOME": str(tmp_path)})
    stack.push_async_callback(provider.close)
    pushing = Pushing(host)

    def make():
        name, files = f"matrix{next(NUMBERS)}", {}

        def put(path, body):
            files[path] = body
            pushing.artifact(name, files)

        def remove(path):
            pushing.remove(name, digest_of(files.pop(path)), "blobs")
            pushing.artifact(name, files)

        uri = f"oci://{relay.url.partition('://')[2]}/{name}"
        return Place(uri, name, relay, provider, put, remove, checked=True)

    return make


async def fetched(place: Place, store: Store) -> tuple[dict[str, bytes], str] | AgentError:
    """Fetch by an engine that remembers nothing: the files and what proves them, or what came of it."""
    fetcher = Fetcher(lambda scheme: place.provider, store, Engine(FAST))
    try:
        async with asyncio.timeout(40):
            stored = await fetcher.fetch(place.uri, Progress(), relist=True)
    except AgentError as error:
        return error
    finally:
        await fetcher.close()
    manifest = store.manifest(stored.uri, stored.revision)
    return {e.path: store.blob_path(e.blob).read_bytes() for e in manifest.entries}, manifest.proof


async def verdict(place: Place, store: Store, trouble: Trouble) -> str:
    """Say what is wrong with what one trouble leads to, nothing where all is well."""
    files = await place.fill()
    place.relay.scripts[place.name] = list(trouble.faults)
    came = await fetched(place, store)
    if isinstance(came, AgentError):
        if came.reason not in Reason or not came.message:
            return f"an error without a reason: {came!r}"
    elif came[0] != files:
        undetectable = trouble.blind and not place.checked and came[1] == "seen-first"
        return "" if undetectable else "SILENTLY CORRUPT"
    elif trouble.blind and not place.checked and not trouble.heals:
        return "the fault did not reach the bytes"
    place.relay.scripts.clear() if place.name == "hub" else place.relay.scripts.pop(place.name)
    after = await fetched(place, store)
    return (
        "" if not isinstance(after, AgentError) and after[0] == files else f"not whole afterwards: {after!r}"
    )


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings(  # sockets that a library has when its call is given up are its own to close
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning"
)
async def test_each_trouble_ends_in_the_bytes_or_in_a_reason_and_is_over_when_it_is_over(make, tmp_path):
    slots, bad = asyncio.Semaphore(AT_ONCE), {}

    async def cell(name: str, trouble: Trouble, folder: Path) -> None:
        async with slots:
            with Store.open(folder / "models", folder / "store") as store:
                if found := await verdict(await asyncio.to_thread(make), store, trouble):
                    bad[name] = found

    async with asyncio.TaskGroup() as group:
        for number, (name, trouble) in enumerate(TROUBLES.items()):
            group.create_task(cell(name, trouble, tmp_path / f"{number}"))
    assert bad == {}


async def test_an_object_that_is_replaced_while_it_is_read_is_never_spliced(make, tmp_path):
    place = make()
    old = await place.fill()
    place.relay.meanwhile[place.name] = lambda: place.put("model.bin", OTHER)
    with Store.open(tmp_path / "models", tmp_path / "store") as store:
        came = await fetched(place, store)
        new = old | {"model.bin": OTHER}
        assert isinstance(came, AgentError) or came[0] in (old, new)
        assert place.relay.meanwhile == {}
        assert (await fetched(place, store))[0] == new


async def test_an_object_that_goes_between_list_and_read_is_told_or_listed_again(make, tmp_path):
    place = make()
    files = await place.fill()
    place.relay.before[place.name] = lambda: place.remove("model.bin")
    with Store.open(tmp_path / "models", tmp_path / "store") as store:
        came = await fetched(place, store)
    if isinstance(came, AgentError):
        assert came.reason in {Reason.NOT_FOUND, Reason.SNAPSHOT_CHANGED}
    else:
        assert came[0] in (files, {"deep/small.bin": files["deep/small.bin"]})
