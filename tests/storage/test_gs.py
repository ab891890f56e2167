"""`gs://` against a real fake-gcs-server: the contract, and what only GCS does."""

import asyncio
import base64
import gzip
import itertools
import json
import os
import subprocess
import sys
import threading
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from google.oauth2.credentials import Credentials

from agent.artifacts.engine.dial import request_of
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.gs import GsProvider
from agent.storage.gs_errors import GsAnswers
from tests.contracts.storage import CONTENT, OTHER, FolderContract, assert_hidden, files, one, read

pytestmark = pytest.mark.real

BUCKETS = (f"bucket-{number}" for number in itertools.count())


class Bucket:
    """A bucket of its own, written through the JSON API."""

    def __init__(self, session, endpoint):
        self._session = session
        self._endpoint = endpoint
        self.name = next(BUCKETS)

    async def create(self):
        async with self._session.post(f"{self._endpoint}/storage/v1/b", json={"name": self.name}) as answer:
            answer.raise_for_status()
        return self

    async def put(self, path, content, **meta):
        parts = aiohttp.MultipartWriter("related")
        parts.append_json({"name": path, **meta})
        parts.append(content, {"Content-Type": "application/octet-stream"})
        url = f"{self._endpoint}/upload/storage/v1/b/{self.name}/o?uploadType=multipart"
        async with self._session.post(url, data=parts) as answer:
            answer.raise_for_status()

    async def remove(self, path):
        url = f"{self._endpoint}/storage/v1/b/{self.name}/o/{quote(path, safe='')}"
        async with self._session.delete(aiohttp.client.URL(url, encoded=True)) as answer:
            answer.raise_for_status()

    def uri(self, path=""):
        return f"gs://{self.name}/{path}".removesuffix("/")


@pytest.fixture
async def tree(fake_gcs):
    async with aiohttp.ClientSession() as session:
        yield await Bucket(session, fake_gcs.endpoint).create()


@pytest.fixture
async def connect():
    """Make providers that are closed at the end."""
    made = []

    def connect(environ, **more):
        made.append(GsProvider(environ, **more))
        return made[-1]

    yield connect
    for provider in made:
        await provider.close()


@pytest.fixture
def environ(fake_gcs):
    return {"STORAGE_EMULATOR_HOST": fake_gcs.endpoint}


@pytest.fixture
def provider(connect, environ):
    return connect(environ)


class TestContract(FolderContract):
    hostile = ("x/../../evil", "../evil", "a//b", "./dot", "a\\b", "tab\there", "x" * 256)


async def refusal(awaitable):
    """Await what must be refused."""
    with pytest.raises(AgentError) as caught:
        await awaitable
    return caught.value


async def test_1205_names_are_listed_over_two_pages(provider, tree):
    async with asyncio.TaskGroup() as group:
        for number in range(1205):
            group.create_task(tree.put(f"m/{number:04}.bin", b"x"))
    listing = await provider.resolve(tree.uri("m"))
    assert [obj.path for obj in listing.objects] == [f"{number:04}.bin" for number in range(1205)]


async def test_folder_placeholders_are_no_files(provider, tree):
    for path in ("m/", "m/sub/", "m/sub/model.bin", "m"):
        await tree.put(path, b"x" if path.endswith(".bin") else b"")
    assert files(await provider.resolve(tree.uri("m"))) == {"sub/model.bin": 1}


async def test_the_object_is_meant_where_object_and_folder_have_one_name(provider, tree):
    await tree.put("m", b"object")
    await tree.put("m/a.bin", b"a")
    assert files(await provider.resolve(tree.uri("m"))) == {"m": 6}
    assert files(await provider.resolve(tree.uri("m") + "/")) == {"a.bin": 1}


async def test_a_file_that_is_a_folder_too_refuses_the_model(provider, tree):
    for path in ("m/a", "m/a/b"):
        await tree.put(path, b"x")
    error = await refusal(provider.resolve(tree.uri("m")))
    assert error.reason is Reason.INVALID_OBJECT_KEY


async def test_a_whole_bucket_is_taken_when_no_name_is_given(provider, tree):
    for path in ("a.bin", "sub/b.bin"):
        await tree.put(path, b"x")
    assert files(await provider.resolve(tree.uri())) == {"a.bin": 1, "sub/b.bin": 1}


async def test_a_missing_bucket_is_not_found_and_named(provider):
    error = await refusal(provider.resolve("gs://no-such-bucket/m"))
    assert isinstance(error, TerminalError)
    assert error.reason is Reason.NOT_FOUND
    assert "no-such-bucket" in error.message


async def test_crc32c_and_md5_are_told_of_every_object(provider, tree):
    await tree.put("m/model.bin", CONTENT)
    listed = (await provider.resolve(tree.uri("m"))).objects[0]
    assert listed.checksums.keys() == {"crc32c", "md5"}
    assert await one(provider, tree.uri("m/model.bin")) == type(listed)(
        path="model.bin",
        key=listed.key,
        size=listed.size,
        identity=listed.identity,
        checksums=listed.checksums,
        media_type=listed.media_type,
    )


async def test_a_replaced_object_is_a_changed_snapshot(provider, tree):
    await tree.put("m/model.bin", CONTENT)
    obj = (await provider.resolve(tree.uri("m"))).objects[0]
    await tree.put("m/model.bin", OTHER)
    for start in (0, 100):
        error = await refusal(read(provider, obj, start, 200))
        assert isinstance(error, RetryableError)
        assert error.reason is Reason.SNAPSHOT_CHANGED


async def test_an_object_stored_as_gzip_is_read_as_it_is_stored(provider, tree):
    stored = gzip.compress(b"hello" * 1000)
    await tree.put("vocab.json", stored, contentEncoding="gzip")
    obj = await one(provider, tree.uri("vocab.json"))
    assert obj.size == len(stored)
    assert await read(provider, obj) == stored
    assert b"Accept-Encoding: gzip\r\n" in request_of(
        await provider.source(obj), None
    )  # the engine asks so too


async def test_a_storage_that_is_down_is_tried_again(connect):
    provider = connect({"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"})
    error = await refusal(provider.resolve("gs://bucket/m"))
    assert isinstance(error, RetryableError)
    assert error.reason is Reason.STORAGE_UNAVAILABLE


async def test_an_endpoint_that_is_no_url_is_named(connect):
    error = await refusal(connect({"STORAGE_EMULATOR_HOST": "ftp://x"}).resolve("gs://bucket/m"))
    assert "STORAGE_EMULATOR_HOST" in error.message


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"type": "service_account"}', '{"type": "other"}'])
async def test_a_missing_or_broken_credentials_file_is_named(connect, environ, tmp_path, content):
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    error = await refusal(
        connect({**environ, "GOOGLE_APPLICATION_CREDENTIALS": str(path)}).resolve("gs://b/m")
    )
    assert isinstance(error, TerminalError)
    assert error.reason is Reason.INVALID_CREDENTIALS
    assert str(path) in error.message


class Google:
    """A token endpoint, a metadata server, and a guard before the real fake that wants the token."""

    def __init__(self, storage):
        self.storage = storage
        self.token = "ya29.first"
        self.tokens_given = 0
        self.refuse_token = False
        self.seen = []
        self.paths = []

    async def give(self, request):
        self.tokens_given += 1
        if self.refuse_token:
            return web.json_response(
                {"error": "invalid_grant", "error_description": "secret-words"}, status=400
            )
        answer = {"access_token": self.token, "expires_in": 3600, "token_type": "Bearer"}
        return web.json_response(answer, headers={"Metadata-Flavor": "Google"})

    async def metadata(self, request):
        if "token" in request.path:
            return await self.give(request)
        body = {"email": "default", "scopes": ["x"], "aliases": []} if "recursive" in request.query else {}
        return web.json_response(body, headers={"Metadata-Flavor": "Google"})

    async def guard(self, request):
        self.seen.append(request.headers.get("Authorization"))
        self.paths.append(request.path)
        if self.seen[-1] != f"Bearer {self.token}":
            errors = [{"reason": "authError", "message": "secret-words"}]
            return web.json_response({"error": {"code": 401, "errors": errors, "message": "no"}}, status=401)
        headers = {k: v for k, v in request.headers.items() if k in {"Range", "Accept-Encoding"}}
        url = aiohttp.client.URL(self.storage + request.raw_path, encoded=True)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(url, headers=headers) as answer,
        ):
            kept = {k: v for k, v in answer.headers.items() if k.lower().startswith(("x-goog", "content-"))}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)


@pytest.fixture
async def google(fake_gcs):
    google = Google(fake_gcs.endpoint)
    app = web.Application()
    app.router.add_post("/token", google.give)
    app.router.add_get("/computeMetadata/v1/{rest:.*}", google.metadata)
    app.router.add_get("/", google.metadata)
    app.router.add_get("/{rest:.*}", google.guard)
    async with TestServer(app, host="127.0.0.1") as server:
        google.url = f"http://127.0.0.1:{server.port}"
        yield google


@pytest.fixture
def account(google, tmp_path):
    """A service account's key file whose tokens come from `google`."""
    key = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True, text=True).stdout
    path = tmp_path / "key.json"
    content = {"type": "service_account", "client_email": "a@b.test", "token_uri": f"{google.url}/token"}
    path.write_text(json.dumps({**content, "private_key": key, "private_key_id": "1", "project_id": "p"}))
    return {"STORAGE_EMULATOR_HOST": google.url, "GOOGLE_APPLICATION_CREDENTIALS": str(path)}


async def test_a_service_account_lists_and_reads_with_one_token(connect, google, account, tree):
    await tree.put("m/model.bin", CONTENT)
    provider = connect(account)
    obj = (await provider.resolve(tree.uri("m"))).objects[0]
    assert await read(provider, obj, 5, 9) == CONTENT[5:9]
    assert await read(provider, obj) == CONTENT
    assert set(google.seen) == {"Bearer ya29.first"}
    assert google.tokens_given == 1
    source = await provider.source(obj)
    assert_hidden(["ya29.first"], [source, source.answers, provider])


async def test_nothing_is_asked_beside_the_listing_and_the_object(connect, google, account, tree, caplog):
    """No metadata of the bucket, no boundary of the account: both need permissions that reading does not."""
    caplog.set_level("DEBUG", logger="google")
    await tree.put("m/model.bin", CONTENT)
    before = set(threading.enumerate())
    provider = connect(account)
    await provider.resolve(tree.uri("m"))
    new = {thread.name for thread in set(threading.enumerate()) - before}
    assert all(name.startswith("gs") for name in new), new
    assert google.paths == [f"/storage/v1/b/{tree.name}/o", f"/storage/v1/b/{tree.name}/o/m"]
    assert "access boundary" not in caplog.text.lower()


async def test_a_bucket_that_gcs_would_not_take_is_no_uri(provider):
    error = await refusal(provider.resolve("gs://_bucket/m"))
    assert isinstance(error, TerminalError)
    assert error.reason is Reason.INVALID_STORAGE_URI


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"[]", Reason.STORAGE_ERROR),
        (200, b"<html>", Reason.STORAGE_ERROR),
        (200, b'{"items": [{"name": "m/a"}]}', Reason.STORAGE_ERROR),
        (200, b'{"items": [7]}', Reason.STORAGE_ERROR),
        (307, b"", Reason.STORAGE_ERROR),
        (429, b"", Reason.STORAGE_THROTTLED),
        (403, b'{"error": {"errors": [{"reason": "rateLimitExceeded"}]}}', Reason.STORAGE_THROTTLED),
        (404, b"not json", Reason.NOT_FOUND),
        (200, b'{"items": [' + b" " * (33 << 20) + b"]}", Reason.STORAGE_ERROR),
    ],
)
async def test_what_is_no_listing_is_refused_for_its_reason(connect, status, body, reason):
    asked = []

    async def answer(request):
        asked.append(request.path)
        return web.Response(
            status=status, body=body, content_type="application/json", headers={"Location": "/elsewhere"}
        )

    app = web.Application()
    app.router.add_get("/{rest:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        error = await refusal(
            connect({"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server.port}"}).resolve("gs://b/m/")
        )
    assert error.reason is reason
    assert "/elsewhere" not in asked


async def test_an_expired_token_is_renewed_before_the_next_request(connect, google, account, tree):
    await tree.put("m/model.bin", CONTENT)
    provider = connect(account)
    obj = (await provider.resolve(tree.uri("m"))).objects[0]
    provider._client._credentials.expiry = provider._client._credentials.expiry.replace(year=2000)
    google.token = "ya29.second"
    assert await read(provider, obj, 5, 9) == CONTENT[5:9]
    assert google.tokens_given == 2


async def test_a_key_that_google_refuses_is_told_without_googles_words(connect, google, account, tree):
    google.refuse_token = True
    error = await refusal(connect(account).resolve(tree.uri("m")))
    assert error.reason is Reason.INVALID_CREDENTIALS
    assert_hidden(["secret-words"], [error])


async def test_a_refused_token_is_access_denied(connect, google, account, tree):
    await tree.put("m/model.bin", CONTENT)
    provider = connect(account)
    obj = (await provider.resolve(tree.uri("m"))).objects[0]
    google.token = "ya29.other"
    for attempt in (
        read(provider, obj),
        connect({"STORAGE_EMULATOR_HOST": google.url}).resolve(tree.uri("m")),
    ):
        error = await refusal(attempt)
        assert isinstance(error, TerminalError)
        assert error.reason is Reason.ACCESS_DENIED
        assert_hidden(["secret-words", "ya29"], [error])
    assert "GOOGLE_APPLICATION_CREDENTIALS" in error.message  # the second asked as nobody


async def test_a_search_for_credentials_that_hangs_ends_as_anonymous(connect):
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    release = threading.Event()

    def hang():
        release.wait(30)
        loop.call_soon_threadsafe(ended.set)

    provider = connect({}, default=hang, search_seconds=0.05)
    client = await provider._connected()
    assert client.standing.anonymous
    assert provider._threads.hanging == 1
    release.set()
    await ended.wait()


async def test_who_was_denied_without_credentials_looks_for_them_again(connect, google, tree):
    """As where a metadata server comes up after the pod."""
    found = []
    provider = connect({}, default=lambda: found.pop() if found else None, renew_seconds=0)
    client = await provider._connected()
    assert client.standing.anonymous
    assert await provider._connected() is client  # nobody was denied yet
    denied = client.standing
    source_error = GsAnswers("gs://b/o", denied).error(401, {}, b"")
    assert source_error.reason is Reason.ACCESS_DENIED
    found.append(Credentials("ya29.later"))
    assert not (await provider._connected()).standing.anonymous
    assert (await provider._connected()).authorization() == {"Authorization": "Bearer ya29.later"}


ASK = """
import asyncio
from agent.storage.gs import GsProvider
from agent.storage.base import RemoteObject

async def main():
    provider = GsProvider({})
    source = await provider.source(RemoteObject("f", "b/f", 1, "gs://x/b/f?generation=1"))
    print(source.url, source.headers.get("Authorization"), source.ssl_context is not None)

asyncio.run(main())
"""


async def test_workload_identity_is_found_through_the_metadata_server(google):
    """In a process of its own: google-auth reads these variables when it is imported."""
    host = google.url.removeprefix("http://")
    environ = {
        "PATH": os.environ["PATH"],
        "GCE_METADATA_HOST": host,
        "GCE_METADATA_IP": host,
        "HOME": "/nowhere",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASK, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    url = "https://storage.googleapis.com/download/storage/v1/b/b/o/f?alt=media&generation=1"
    assert out.decode().split() == [url, "Bearer", "ya29.first", "True"], err.decode()


def test_the_hash_header_of_an_object_stored_as_gzip_is_that_of_its_stored_bytes():
    digest = base64.b64encode(b"\1\2\3\4").decode()
    headers = {"x-goog-hash": f"crc32c={digest}", "x-goog-stored-content-encoding": "gzip"}
    assert GsAnswers("gs://b/o").checksums(headers) == {"crc32c": "01020304"}
