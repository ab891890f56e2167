"""AzureProvider by the real SDK against a real Azurite: the contract, each kind of credentials, refusals."""

import asyncio
import base64
import json
import socket
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reach import Denied, networks
from agent.core.reasons import Reason
from agent.storage.azure import AzureProvider
from agent.storage.azure_client import AzureClient, Unjudged
from agent.storage.azure_uri import Account
from agent.storage.base import RemoteObject
from agent.storage.dialling import judged
from agent.storage.proxies import Proxies
from tests.contracts.storage import CONTENT, FolderContract, assert_hidden, files, one, read
from tests.fakes import objectstores
from tests.fakes.faulty_origin import FaultyOrigin

pytestmark = pytest.mark.real

CONTAINER = "models"


@pytest.fixture(scope="session")
def container(azurite):
    """A client of the one container, and the account's connection string."""
    from azure.storage.blob import BlobServiceClient  # noqa: PLC0415 - slow to import, for few tests

    with BlobServiceClient.from_connection_string(azurite) as client:
        yield client.create_container(CONTAINER), azurite


class Prefix:
    """A prefix of its own in the shared container."""

    def __init__(self, client, scheme="abfs"):
        self._client, self.name, self._scheme = client, uuid.uuid4().hex, scheme

    async def put(self, path, content, **more):
        name = f"{self.name}/{path}"
        await asyncio.to_thread(self._client.upload_blob, name, content, overwrite=True, **more)

    async def remove(self, path):
        await asyncio.to_thread(self._client.delete_blob, f"{self.name}/{path}")

    def uri(self, path=""):
        return f"{self._scheme}://{CONTAINER}/{self.name}/{path}".rstrip("/")


@pytest.fixture
def tree(container):
    return Prefix(container[0])


@pytest.fixture
async def make():
    """Makes providers that are closed at the end."""
    made = []

    def make(environ, **more):
        made.append(AzureProvider(environ, **more))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


class TestContract(FolderContract):
    """Azure itself takes a backslash for a slash."""

    hostile = ("new\nline",)

    @pytest.fixture
    def secrets(self, container):
        return (objectstores.AZURITE_KEY, "sig=")

    @pytest.fixture
    def provider(self, make, container):
        return make({"AZURE_STORAGE_CONNECTION_STRING": container[1]}, page_size=10)


def sas(*, seconds=600, permission="rl"):
    from azure.storage.blob import generate_container_sas  # noqa: PLC0415 - slow to import, for few tests

    until = datetime.now(UTC) + timedelta(seconds=seconds)
    key = objectstores.AZURITE_KEY
    return generate_container_sas(
        "devstoreaccount1", CONTAINER, account_key=key, permission=permission, expiry=until
    )


def endpoint(connection):
    return connection.partition("BlobEndpoint=")[2].rstrip(";")


async def test_an_account_key_signs_no_range_and_makes_a_url_that_reads_this_container_alone(
    make, container, tree
):
    provider = make({"AZURE_STORAGE_CONNECTION_STRING": container[1]})
    await tree.put("model.bin", CONTENT)
    obj = await one(provider, tree.uri("model.bin"))
    first, again = await provider.source(obj), await provider.source(obj)
    assert first.url == again.url
    assert {"sp=r", "sr=c"} <= set(first.url.partition("?")[2].split("&"))
    assert "Authorization" not in first.headers
    assert first.expect == {"etag": first.headers["If-Match"]}
    assert not first.judged
    assert first.url.partition("?")[2] not in repr([first, obj])
    assert await read(provider, obj, 70_000) == CONTENT[70_000:]


async def test_a_sas_token_lists_and_reads(make, container, tree):
    await tree.put("m/model.bin", CONTENT)
    connection = f"BlobEndpoint={endpoint(container[1])};SharedAccessSignature={sas()}"
    provider = make({"AZURE_STORAGE_CONNECTION_STRING": connection})
    listing = await provider.resolve(tree.uri("m"))
    assert files(listing) == {"model.bin": len(CONTENT)}
    assert await read(provider, listing.objects[0]) == CONTENT
    assert_hidden(["sig="], [await provider.source(listing.objects[0]), listing, provider])


async def test_a_sas_token_that_may_only_read_reads_the_one_blob(make, container, tree):
    await tree.put("model.bin", CONTENT)
    token = sas(permission="r")
    connection = f"BlobEndpoint={endpoint(container[1])};SharedAccessSignature={token}"
    provider = make({"AZURE_STORAGE_CONNECTION_STRING": connection})
    obj = await one(provider, tree.uri("model.bin"))
    assert await read(provider, obj) == CONTENT
    with pytest.raises(TerminalError) as caught:
        await provider.resolve(tree.uri("absent"))
    assert caught.value.reason in {Reason.ACCESS_DENIED, Reason.NOT_FOUND}
    assert_hidden([token], [caught.value])


@pytest.mark.parametrize("seconds", [-60])
async def test_what_azure_denies_is_told_with_what_to_grant(make, container, tree, seconds):
    await tree.put("model.bin", CONTENT)
    connection = f"BlobEndpoint={endpoint(container[1])};SharedAccessSignature={sas(seconds=seconds)}"
    with pytest.raises(TerminalError, match="Storage Blob Data Reader") as caught:
        await make({"AZURE_STORAGE_CONNECTION_STRING": connection}).resolve(tree.uri("model.bin"))
    assert caught.value.reason is Reason.ACCESS_DENIED


async def test_a_wrong_account_key_is_denied_and_not_repeated(make, container):
    wrong = base64.b64encode(b"CANARY").decode()
    connection = container[1].replace(objectstores.AZURITE_KEY, wrong)
    with pytest.raises(TerminalError) as caught:
        await make({"AZURE_STORAGE_CONNECTION_STRING": connection}).resolve("abfs://models/m")
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert_hidden([wrong, "CANARY"], [caught.value])


async def test_a_blobs_md5_is_its_checksum_in_a_range_too(make, container, tree):
    provider = make({"AZURE_STORAGE_CONNECTION_STRING": container[1]})
    await tree.put("model.bin", CONTENT)
    obj = await one(provider, tree.uri("model.bin"))
    assert set(obj.checksums) == {"md5"}
    answers = (await provider.source(obj)).answers
    told = base64.b64encode(bytes.fromhex(obj.checksums["md5"])).decode()
    part = {"content-range": "bytes 0-1/9", "content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    assert answers.checksums(part) == {}
    assert answers.checksums(part | {"x-ms-blob-content-md5": told}) == obj.checksums


async def test_what_stands_for_a_folder_of_data_lake_is_no_file(make, container, tree):
    provider = make({"AZURE_STORAGE_CONNECTION_STRING": container[1]})
    await tree.put("m/sub", b"", metadata={"hdi_isfolder": "true"})
    await tree.put("m/sub/model.bin", b"x")
    await tree.put("m", b"", metadata={"Hdi_IsFolder": "true"})
    assert files(await provider.resolve(tree.uri("m"))) == {"sub/model.bin": 1}
    with pytest.raises(TerminalError) as caught:
        await provider.resolve(tree.uri("m/sub/none"))
    assert caught.value.reason is Reason.NOT_FOUND


async def test_an_archived_blob_is_named(make, container, tree):
    from azure.storage.blob import StandardBlobTier  # noqa: PLC0415 - slow to import, for few tests

    provider = make({"AZURE_STORAGE_CONNECTION_STRING": container[1]})
    await tree.put("m/model.bin", b"x", standard_blob_tier=StandardBlobTier.ARCHIVE)
    with pytest.raises(TerminalError) as caught:
        await provider.resolve(tree.uri("m"))
    assert caught.value.reason is Reason.OBJECT_ARCHIVED


async def test_nobody_listening_is_retried(make):
    (port,) = objectstores.free_ports(1)
    connection = f"AccountName=a;AccountKey=aaaa;BlobEndpoint=http://127.0.0.1:{port}/a"
    with pytest.raises(RetryableError) as caught:
        await make({"AZURE_STORAGE_CONNECTION_STRING": connection}).resolve("abfs://c/m")
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE


@pytest.mark.parametrize("connection", ["CANARY", "AccountName=CANARY", "a=CANARY;b", ";;"])
async def test_a_connection_string_that_is_none_is_named_and_not_repeated(make, connection):
    with pytest.raises(AgentError, match=r"AZURE_STORAGE_CONNECTION_STRING|cannot be reached") as caught:
        await make({"AZURE_STORAGE_CONNECTION_STRING": connection}).resolve("abfs://c/m")
    assert_hidden(["CANARY"], [caught.value])


class Identity:
    """azure-identity's credentials as its callers see them: a token that Azurite takes, counted."""

    def __init__(self, lasts=3600):
        self.lasts, self.asked = lasts, 0

    def __call__(self, account):
        return self

    def get_token(self, *scopes, **options):
        self.asked += 1
        until = int(time.time()) + self.lasts
        issuer = "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/"
        claims = {
            "aud": "https://storage.azure.com", "iss": issuer,
            "iat": until - 7200, "nbf": until - 7200, "exp": until, "tid": "t", "oid": "o", "ver": "1.0",
        }  # fmt: skip
        parts = [{"alg": "none", "typ": "JWT"}, claims, {}]
        text = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)
        return SimpleNamespace(token=text, expires_on=until)


async def test_an_identitys_token_is_a_bearer_and_is_asked_for_anew_before_it_ends(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("azurite-https")
    with objectstores.azurite(folder, https=True) as connection:
        from azure.storage.blob import BlobServiceClient  # noqa: PLC0415 - slow to import, for few tests

        bundle = {"connection_verify": str(folder / "ca.pem")}
        with BlobServiceClient.from_connection_string(connection, **bundle) as client:
            client.create_container(CONTAINER).upload_blob("m/model.bin", CONTENT)
        host = endpoint(connection).removeprefix("https://")
        environ = {"AZURE_STORAGE_ACCOUNT_HOST": host, "CA_BUNDLE": str(folder / "ca.pem")}
        identity = Identity()
        provider = make(environ, identity=identity)
        obj = (await provider.resolve("abfs://models/m")).objects[0]
        source = await provider.source(obj)
        assert source.headers["Authorization"].startswith("Bearer ")
        assert "?" not in source.url
        assert await read(provider, obj, 5, 70) == CONTENT[5:70]
        before = identity.asked
        await provider.source(obj)
        assert identity.asked == before
        ending = Identity(lasts=300)
        again = make(environ, identity=ending)
        await again.source(obj)
        count = ending.asked
        await again.source(obj)
        assert ending.asked == count + 1


async def test_no_token_is_told_with_what_to_set(make):
    from azure.identity import CredentialUnavailableError  # noqa: PLC0415 - slow to import, for few tests

    class Nobody(Identity):
        def get_token(self, *scopes, **options):
            raise CredentialUnavailableError(message="CANARY")

    with pytest.raises(TerminalError, match="AZURE_STORAGE_ANON=true") as caught:
        await make({"AZURE_STORAGE_ACCOUNT_NAME": "nobody"}, identity=Nobody()).resolve("abfs://c/m")
    assert caught.value.reason is Reason.INVALID_CREDENTIALS
    assert_hidden(["CANARY"], [caught.value])


@pytest.mark.parametrize("judged", [True, False])
async def test_the_policy_is_asked_where_the_uri_names_the_account(container, tree, judged):
    """The SDK's own connections are judged too: a refused address is never connected to."""
    refusing = FaultyOrigin()
    with refusing:
        account = Account(refusing.url, judged=judged, anonymous=True)
        denied = Denied(networks("loopback"))
        client = AzureClient(account, None, Proxies(), denied, Identity())
        with pytest.raises(TerminalError) as caught:
            await asyncio.to_thread(client.page, "c", "m/", None)
        client.close()
    assert caught.value.reason is (Reason.FORBIDDEN_ADDRESS if judged else Reason.NOT_FOUND)
    assert (refusing.connected == 0) == judged


async def test_an_account_of_the_uri_is_judged_by_whoever_reads_it_too(make):
    provider = make({"AZURE_STORAGE_ANON": "true"})
    obj = RemoteObject(
        "m", "c@acc1.blob.core.windows.net/m", 1, "abfs://acc1.blob.core.windows.net/c/m?etag=1"
    )
    source = await provider.source(obj)
    assert source.url == "https://acc1.blob.core.windows.net/c/m"
    assert source.judged
    assert source.headers["x-ms-version"] >= "2020"


async def test_where_the_pods_own_token_comes_from_is_not_judged(container):
    with FaultyOrigin() as metadata, judged(Denied(networks("loopback"))):
        where = ("127.0.0.1", metadata.port)

        class Asking(Identity):
            def get_token(self, *scopes, **options):
                socket.create_connection(where).close()
                return super().get_token(*scopes, **options)

        with pytest.raises(OSError, match="may not be connected to"):
            Asking().get_token()
        assert Unjudged(Asking()).get_token().token


async def test_a_permitted_address_is_connected_to(container, tree):
    with FaultyOrigin() as origin:
        account = Account(origin.url, judged=True, anonymous=True)
        client = AzureClient(account, None, Proxies(), Denied(networks("metadata")), Identity())
        with pytest.raises(TerminalError) as caught:
            await asyncio.to_thread(client.page, "c", "m/", None)
        client.close()
        assert caught.value.reason is Reason.NOT_FOUND
        assert origin.connected


async def test_without_the_extra_it_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.storage.blob", None)  # as if it were not installed
    with pytest.raises(TerminalError, match=r"model-agent\[azure\]") as caught:
        await make({"AZURE_STORAGE_ANON": "1", "AZURE_STORAGE_ACCOUNT_NAME": "a"}).resolve("az://c/m")
    assert caught.value.reason is Reason.MISSING_DEPENDENCY
