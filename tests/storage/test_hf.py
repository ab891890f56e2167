"""HfProvider: the contract on a hub that answers as the real one was recorded to, and what is its own."""

import asyncio
import random

import pytest
from aiohttp import web

from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.errors import RetryableError, TerminalError
from agent.core.reach import Denied, networks
from agent.core.reasons import Reason
from agent.storage.hf import PLAIN_BYTES, SIGNED_SECONDS, HfProvider
from agent.storage.landings import FRESH_SECONDS
from tests.contracts.storage import CONTENT, OTHER, FolderContract, assert_hidden, files, one, read
from tests.fakes.hub import TAG, Hub, git_id
from tests.fakes.origin import Origin, redirect, status

TOKEN = "hf_CANARYtoken"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class HubTree:
    def __init__(self, hub: Hub, uri: str) -> None:
        self._hub = hub
        self._uri = uri

    async def put(self, path: str, content: bytes) -> None:
        self._hub.put(path, content)

    async def remove(self, path: str) -> None:
        del self._hub.files[path]

    def uri(self, path: str = "") -> str:
        return f"{self._uri}/{path}".rstrip("/")


@pytest.fixture
async def hub():
    async with Hub(token=TOKEN, page=10).serving() as hub:
        yield hub


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def provider(hub, clock, tmp_path):
    environ = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}", "HF_HOME": str(tmp_path)}
    provider = HfProvider(environ, clock=clock)
    yield provider
    await provider.close()


class TestContract(FolderContract):
    uri = "hf://owner/model"
    hostile = ("back\\slash", "new\nline")

    @pytest.fixture
    def secrets(self):
        return (TOKEN, "s1gn4ture")

    @pytest.fixture
    def tree(self, hub):
        return HubTree(hub, self.uri)


class TestRevision(TestContract):
    uri = f"hf://owner/model@{TAG}"


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", TAG])
async def test_kserves_spelling_of_a_revision_is_taken_with_the_hubs_digest(provider, hub, revision):
    hub.put("config.json", b"{}")
    hub.put("sub/model.safetensors", CONTENT)
    listing = await provider.resolve(f"hf://owner/model:{revision}")
    assert files(listing) == {"config.json": 2, "sub/model.safetensors": len(CONTENT)}
    assert all(obj.pinned for obj in listing.objects)
    assert [set(obj.checksums) for obj in listing.objects] == [{"git-sha1"}, {"sha256"}]
    assert await read(provider, listing.objects[0]) == b"{}"
    assert await read(provider, listing.objects[1], 100, 2000) == CONTENT[100:2000]


@pytest.mark.parametrize("uri", ["hf://owner/other", "hf://owner/model@none", "hf://owner/model/none"])
async def test_what_the_hub_has_not_is_not_found(provider, hub, uri):
    hub.put("config.json", b"{}")
    with pytest.raises(TerminalError) as caught:
        await provider.resolve(uri)
    assert caught.value.reason is Reason.NOT_FOUND


async def test_a_renamed_repository_is_found_by_its_old_name(hub, provider):
    hub.put("model.bin", CONTENT)
    listing = await provider.resolve("hf://owner/old")
    assert listing == await provider.resolve("hf://owner/model")
    assert await read(provider, listing.objects[0]) == CONTENT


async def test_a_gated_repository_is_access_denied(hub):
    hub.put("config.json", b"{}")
    provider = HfProvider({"HF_TOKEN": "hf_CANARYwrong", "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}"})
    with pytest.raises(TerminalError, match="set HF_TOKEN") as caught:
        await provider.resolve("hf://owner/model")
    await provider.close()
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert_hidden(["CANARY"], [caught.value])


async def test_what_xet_holds_comes_by_the_bridge_and_the_token_does_not_go_there(hub, provider):
    hub.put("model.safetensors", CONTENT)
    obj = await one(provider, "hf://owner/model/model.safetensors")
    source = await provider.source(obj)
    assert f":{hub.bridge.port}/xet-bridge-us/" in source.url
    assert source.judged
    assert "Authorization" not in source.headers
    assert await read(provider, obj) == CONTENT
    assert [each.method for each in hub.bridge.received] == ["GET"]
    assert all("authorization" not in each.headers for each in hub.bridge.received)


async def test_what_the_hub_itself_holds_is_asked_for_with_the_token_and_the_hub_is_not_judged(hub, provider):
    hub.put("config.json", b"{}")
    obj = await one(provider, "hf://owner/model/config.json")
    source = await provider.source(obj)
    assert source.headers["Authorization"] == f"Bearer {TOKEN}"
    assert not source.judged
    assert await read(provider, obj) == b"{}"
    assert hub.bridge.received == []


async def test_each_file_is_asked_after_once_until_its_signature_is_old(hub, provider, clock):
    hub.put("model.bin", CONTENT)
    obj = await one(provider, "hf://owner/model/model.bin")

    async def asked() -> int:
        await provider.source(obj)
        return sum("/resolve/" in each.target for each in hub.received)

    await asyncio.gather(*(asked() for _ in range(5)))
    before = await asked()
    assert before == 1
    clock.now += SIGNED_SECONDS + 1
    assert await asked() == before + 1


async def test_a_signature_that_expired_is_renewed_and_one_that_is_fresh_is_denied(hub, provider, clock):
    hub.put("model.bin", CONTENT)
    obj = await one(provider, "hf://owner/model/model.bin")
    await provider.source(obj)
    hub.bridge.issued.clear()
    with pytest.raises(TerminalError) as caught:
        await read(provider, obj)
    assert caught.value.reason is Reason.ACCESS_DENIED
    clock.now += FRESH_SECONDS + 1
    with pytest.raises(RetryableError, match="asked for anew"):
        await read(provider, obj)
    assert await read(provider, obj) == CONTENT


async def test_a_bridge_that_leads_on_is_followed_without_the_token(hub, provider):
    hub.put("model.bin", CONTENT)
    obj = await one(provider, "hf://owner/model/model.bin")
    async with Origin().serving() as further:
        further.put("/blob", CONTENT)
        path = (await provider.source(obj)).url.partition("?")[0].partition(str(hub.bridge.port))[2]
        hub.bridge.scripts[path] = redirect(f"http://127.0.0.1:{further.port}/blob")
        with pytest.raises(RetryableError) as caught:
            await read(provider, obj)
        assert caught.value.reason is Reason.SNAPSHOT_CHANGED
        assert await read(provider, obj, 5, 50) == CONTENT[5:50]
        assert all("authorization" not in each.headers for each in further.received)


async def test_a_new_commit_leaves_the_identity_of_what_it_did_not_change(hub, provider):
    hub.put("a.bin", CONTENT)
    hub.put("config.json", b"{}")
    before = await provider.resolve("hf://owner/model")
    hub.put("a.bin", OTHER)
    after = await provider.resolve("hf://owner/model")
    assert [old.identity == new.identity for old, new in zip(before.objects, after.objects, strict=True)] == [
        False, True
    ]  # fmt: skip
    assert await read(provider, before.objects[0]) == CONTENT


@pytest.mark.parametrize("told", [{"X_Linked_Etag": f'"{"0" * 64}"'}, {"X_Repo_Commit": "0" * 40}])
async def test_a_hub_that_leads_to_other_bytes_than_it_listed_is_not_followed(hub, provider, told):
    hub.put("model.bin", CONTENT)
    obj = await one(provider, "hf://owner/model/model.bin")
    hub.scripts[f"/owner/model/resolve/{hub.commit()}/model.bin"] = status(302, Location="http://x/", **told)
    with pytest.raises(RetryableError) as caught:
        await provider.source(obj)
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED


async def test_a_commit_that_is_no_more_is_listed_again(hub, provider):
    hub.put("model.bin", CONTENT)
    obj = await one(provider, "hf://owner/model/model.bin")
    hub.commits.clear()
    hub.put("model.bin", OTHER)
    with pytest.raises(RetryableError) as caught:
        await provider.source(obj)
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED


async def test_over_50_gb_the_bridges_refusal_names_xet(hub, provider):
    hub.put("model.bin", CONTENT)
    obj = await one(provider, "hf://owner/model/model.bin")
    answers = (await provider.source(obj)).answers
    assert "Xet" not in answers.error(416, {}, b"").message
    huge = type(obj)(obj.path, obj.key, PLAIN_BYTES + 1, obj.identity)
    error = (await provider.source(huge)).answers.error(403, {}, b"")
    assert (type(error), error.reason) == (TerminalError, Reason.STORAGE_ERROR)
    assert "Xet's own protocol is not spoken here" in error.message


async def test_the_hubs_window_of_requests_is_waited_for(hub, provider):
    limit = status(429, RateLimit='"resolvers";r=0;t=172')
    hub.scripts["/api/models/owner/model/revision/main"] = limit
    with pytest.raises(RetryableError) as caught:
        await provider.resolve("hf://owner/model")
    assert caught.value.reason is Reason.STORAGE_THROTTLED
    assert caught.value.retry_after_seconds == 172


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"[]", b'{"sha": 1}', b'{"sha": "../../x"}', b"[" * 100_000],
    ids=["html", "list", "number", "path", "deep"],
)
async def test_what_is_no_answer_of_a_hub_is_told(hub, provider, answer):
    async def say(request):
        return web.Response(body=answer)

    hub.scripts["/api/models/owner/model/revision/main"] = say
    with pytest.raises(RetryableError, match="not one of the Hub"):
        await provider.resolve("hf://owner/model")


async def test_the_token_of_a_login_is_read_from_its_file_anew(hub, tmp_path):
    hub.put("config.json", b"{}")
    token = tmp_path / "token"
    provider = HfProvider({"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}/", "HF_TOKEN_PATH": str(token)})
    with pytest.raises(TerminalError):
        await provider.resolve("hf://owner/model")
    await asyncio.to_thread(token.write_text, f"{TOKEN}\n")
    assert files(await provider.resolve("hf://owner/model")) == {"config.json": 2}
    await asyncio.to_thread(token.write_text, "two\nlines")
    with pytest.raises(TerminalError, match="holds no token"):
        await provider.resolve("hf://owner/model")
    await provider.close()


@pytest.fixture
async def fetched(provider, tmp_path):
    """Fetches a URI into one store by the engine; returns the files and what proves them."""
    with Store.open(tmp_path / "models", tmp_path / "store") as store:
        fetcher = Fetcher(lambda _: provider, store, Engine(EngineSettings(max_connections=4)))

        async def fetch(uri):
            stored = await fetcher.fetch(uri, Progress(), relist=True)
            manifest = store.manifest(stored.uri, stored.revision)
            return {e.path: store.blob_path(e.blob).read_bytes() for e in manifest.entries}, manifest.proof

        yield fetch
        await fetcher.close()


async def test_small_files_are_proved_by_gits_own_name_and_large_ones_by_their_sha256(hub, fetched):
    wanted = {"config.json": b'{"a": 1}', "model.bin": CONTENT, "empty.txt": b""}
    for path, content in wanted.items():
        hub.put(path, content)
    path = f"/api/resolve-cache/models/owner/model/{hub.commit()}/config.json"

    async def rot(request):
        if request.method == "GET":
            del hub.scripts[path]
        return web.Response(body=b'{"a": 2}', headers={"ETag": f'"{git_id(wanted["config.json"])}"'})

    hub.scripts[path] = rot
    assert await fetched("hf://owner/model") == (wanted, "provider")
    assert path not in hub.scripts


async def test_a_signature_that_runs_out_in_the_midst_is_renewed_and_no_byte_is_lost(hub, fetched, clock):
    large = random.Random(4).randbytes(9 << 20)  # noqa: S311 - three parts that do not repeat
    hub.put("model.bin", large)

    async def once(request):
        """Answer the first range, then have all that was signed so far expire."""
        del hub.bridge.scripts[request.path]
        clock.now += FRESH_SECONDS + 1
        hub.bridge.issued.clear()
        return await hub.bridge.send(request, request.path)

    hub.bridge.scripts[f"/xet-bridge-us/65c0e0a2/{hub.digest(large)}"] = once
    assert await fetched("hf://owner/model/model.bin") == ({"model.bin": large}, "provider")
    assert hub.bridge.refused
    asked = [each.headers["range"] for each in hub.bridge.received]
    assert len(asked) == len(set(asked)), "no range was brought twice"
    assert sum("/resolve/" in each.target for each in hub.received) == 2


async def test_the_policy_is_asked_of_what_the_hub_leads_to_and_not_of_the_hub(hub, tmp_path):
    hub.put("config.json", b"{}")
    hub.put("model.bin", CONTENT)
    hub.away = "http://169.254.169.254"
    environ = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}"}
    denied = Denied(networks("loopback,metadata"))
    provider = HfProvider(environ, policy=denied)
    with Store.open(tmp_path / "models", tmp_path / "store") as store:
        fetcher = Fetcher(lambda _: provider, store, Engine(policy=denied))
        assert await fetcher.fetch("hf://owner/model/config.json", Progress(), relist=True)
        with pytest.raises(TerminalError) as caught:
            await fetcher.fetch("hf://owner/model/model.bin", Progress(), relist=True)
        assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
        hub.scripts["/api/models/owner/model/revision/main"] = redirect("http://127.0.0.2:1/")
        with pytest.raises(TerminalError) as caught:
            await fetcher.fetch("hf://owner/model", Progress(), relist=True)
        assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
        await fetcher.close()
    await provider.close()


async def test_the_hub_of_these_tests_is_one_to_its_own_library_too(hub, provider):
    """huggingface_hub lists the same and is led to the same places, so that the fake is no wish of ours."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url  # noqa: PLC0415 - slow to import

    for path, content in {"config.json": b"{}", "sub/model.bin": CONTENT, "sub/deep/x": b"x"}.items():
        hub.put(path, content)
    endpoint = f"http://127.0.0.1:{hub.port}"

    def theirs():
        api = HfApi(endpoint=endpoint, token=TOKEN)
        commit = api.model_info("owner/model", revision="main").sha
        found = {}
        for each in api.list_repo_tree("owner/model", recursive=True, revision=commit):
            if hasattr(each, "blob_id"):
                url = hf_hub_url("owner/model", each.path, revision=commit, endpoint=endpoint)
                told = get_hf_file_metadata(url, token=TOKEN, endpoint=endpoint)
                digest = each.lfs.sha256 if each.lfs else each.blob_id
                assert (told.commit_hash, told.etag) == (commit, digest)
                found[each.path] = (each.size, digest, told.location.partition("?")[0])
        return found

    found = await asyncio.to_thread(theirs)
    for obj in (await provider.resolve("hf://owner/model")).objects:
        size, digest, location = found.pop(obj.path)
        assert obj.size == size
        assert f"={digest}&" in obj.identity
        assert (await provider.source(obj)).url.partition("?")[0] == location
    assert found == {}


async def test_an_endpoint_that_is_no_url_is_named():
    provider = HfProvider({"HF_ENDPOINT": "hub"})
    with pytest.raises(TerminalError, match="HF_ENDPOINT"):
        await provider.resolve("hf://owner/model")
    await provider.close()
