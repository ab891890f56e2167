"""`s3://` against a real SeaweedFS: the contract, and what only S3 does."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.errors import RetryableError, TerminalError
from agent.core.model import Integrity
from agent.core.reasons import Reason
from tests.contracts.reading import read_source
from tests.contracts.storage import CONTENT, OTHER, FolderContract, assert_hidden, files, one, read
from tests.storage.refusals import refusal

pytestmark = pytest.mark.real

BUCKET = "models"
PREFIXES = (f"t{number}" for number in itertools.count())


class Prefix:
    """A prefix of its own in the shared bucket."""

    def __init__(self, admin):
        self._admin = admin
        self.name = next(PREFIXES)

    async def put(self, path, content):
        await asyncio.to_thread(
            self._admin.put_object, Bucket=BUCKET, Key=f"{self.name}/{path}", Body=content
        )

    async def remove(self, path):
        await asyncio.to_thread(self._admin.delete_object, Bucket=BUCKET, Key=f"{self.name}/{path}")

    def uri(self, path=""):
        return f"s3://{BUCKET}/{self.name}/{path}".removesuffix("/")


@pytest.fixture
def tree(admin):
    return Prefix(admin)


@pytest.fixture
def environ(seaweedfs):
    """What the injector sets, with keys that may only read."""
    return {
        "AWS_ENDPOINT_URL": seaweedfs.endpoint,
        "AWS_DEFAULT_REGION": "eu-west-1",
        **seaweedfs.reader.environ(),
    }


@pytest.fixture
def provider(connect_s3, environ):
    return connect_s3(environ)


class TestContract(FolderContract):
    """Keys that cannot be laid down are refused by SeaweedFS itself: see `test_s3_odd.py`."""

    @pytest.fixture
    def secrets(self, seaweedfs):
        return (seaweedfs.reader.secret_key, seaweedfs.reader.access_key)


async def test_1205_keys_are_listed_over_two_pages(provider, tree, admin):
    keys = [f"{tree.name}/m/{number:04}.bin" for number in range(1205)]
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda key: admin.put_object(Bucket=BUCKET, Key=key, Body=b"x"), keys):
            pass
    assert [obj.path for obj in (await provider.resolve(tree.uri("m"))).objects] == [
        f"{number:04}.bin" for number in range(1205)
    ]


async def test_folder_placeholders_are_no_files(provider, tree):
    for path in ("m/", "m/sub/", "m/sub/model.bin"):
        await tree.put(path, b"" if path.endswith("/") else b"x")
    assert files(await provider.resolve(tree.uri("m"))) == {"sub/model.bin": 1}


async def test_a_folder_of_placeholders_only_is_not_found(provider, tree):
    await tree.put("m/", b"")
    assert (await refusal(provider, tree.uri("m"))).reason is Reason.NOT_FOUND


async def test_a_whole_bucket_is_taken_when_no_key_is_named(admin, seaweedfs, environ, connect_s3):
    admin.create_bucket(Bucket="whole")
    for key in ("a.bin", "sub/b.bin"):
        admin.put_object(Bucket="whole", Key=key, Body=b"x")
    provider = connect_s3({**environ, **seaweedfs.admin.environ()})
    for uri in ("s3://whole", "s3://whole/"):
        assert files(await provider.resolve(uri)) == {"a.bin": 1, "sub/b.bin": 1}


async def test_a_missing_bucket_is_named(connect_s3, environ, seaweedfs):
    error = await refusal(connect_s3({**environ, **seaweedfs.admin.environ()}), "s3://no-such-bucket/m")
    assert isinstance(error, TerminalError)
    assert error.reason is Reason.NOT_FOUND
    assert "bucket" in error.message
    assert "no-such-bucket" in error.message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrongwrongwrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN000000000"}, "InvalidAccessKeyId"),
        ({"awsAnonymousCredential": "TRUE"}, "AccessDenied"),
    ],
)
async def test_wrong_unknown_or_no_keys_are_denied_with_what_to_do(connect_s3, environ, tree, changes, says):
    await tree.put("m/model.bin", b"x")
    error = await refusal(connect_s3({**environ, **changes}), tree.uri("m"))
    assert isinstance(error, TerminalError)
    assert error.reason is Reason.ACCESS_DENIED
    assert says in error.message
    assert_hidden([value for name, value in (environ | changes).items() if "SECRET" in name], [error])


async def test_keys_are_denied_another_bucket_than_theirs(provider, admin):
    admin.create_bucket(Bucket="others")
    admin.put_object(Bucket="others", Key="m/model.bin", Body=b"x")
    for uri in ("s3://others/m", "s3://others/m/model.bin"):
        assert (await refusal(provider, uri)).reason is Reason.ACCESS_DENIED


async def test_a_get_with_keys_that_became_wrong_is_denied(connect_s3, environ, tree):
    await tree.put("model.bin", CONTENT)
    obj = await one(connect_s3(environ), tree.uri("model.bin"))
    wrong = connect_s3({**environ, "AWS_SECRET_ACCESS_KEY": "wrongwrongwrong"})
    with pytest.raises(TerminalError) as caught:
        await read(wrong, obj)
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert "wrongwrongwrong" not in str(caught.value)


async def test_an_object_replaced_after_the_listing_is_a_changed_snapshot(provider, tree):
    await tree.put("m/model.bin", CONTENT)
    obj = (await provider.resolve(tree.uri("m"))).objects[0]
    await tree.put("m/model.bin", OTHER)
    for start in (0, 100):
        with pytest.raises(RetryableError) as caught:
            await read(provider, obj, start, 200)
        assert caught.value.reason is Reason.SNAPSHOT_CHANGED
        assert "412" in caught.value.message


async def test_a_listing_and_a_head_agree_on_the_identity(provider, tree):
    await tree.put("m/model.bin", CONTENT)
    listed = (await provider.resolve(tree.uri("m"))).objects[0]
    assert (await one(provider, tree.uri("m/model.bin"))).identity == listed.identity


async def test_an_object_of_many_parts_is_pinned_by_its_etag(provider, tree, admin):
    key = {"Bucket": BUCKET, "Key": f"{tree.name}/big.bin"}
    upload = admin.create_multipart_upload(**key)["UploadId"]
    part = bytes(5 << 20)
    parts = [
        {"PartNumber": n, "ETag": admin.upload_part(**key, UploadId=upload, PartNumber=n, Body=part)["ETag"]}
        for n in (1, 2)
    ]
    admin.complete_multipart_upload(**key, UploadId=upload, MultipartUpload={"Parts": parts})
    obj = await one(provider, tree.uri("big.bin"))
    assert obj.size == 10 << 20
    assert "-2" in obj.identity
    assert await read(provider, obj, (5 << 20) - 1, (5 << 20) + 1) == b"\0\0"


async def test_large_objects_of_a_folder_are_proved_by_the_checksums_that_only_s3_itself_tells(
    provider, tree, admin, tmp_path
):
    for name in ("a", "b"):
        content = name.encode() * (2 << 20)
        await asyncio.to_thread(
            admin.put_object,
            Bucket=BUCKET,
            Key=f"{tree.name}/m/{name}",
            Body=content,
            ChecksumAlgorithm="SHA256",
        )
    with Store.open(tmp_path / "models", tmp_path / "store") as store:
        fetcher = Fetcher(lambda _: provider, store, Engine())
        stored = await fetcher.fetch(tree.uri("m"), Progress(), relist=True)
        await tree.put("m/c", b"x" * (2 << 20))  # of this nobody knows a checksum
        weaker = await fetcher.fetch(tree.uri("m"), Progress(), relist=True)
        await fetcher.close()
    assert stored.integrity == Integrity("provider", ("sha256",))
    assert not weaker.integrity.verified


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
async def test_https_is_verified_against_the_bundle_that_is_named(connect_s3, environ, seaweedfs, tree):
    await tree.put("model.bin", CONTENT)
    secure = {**environ, "AWS_ENDPOINT_URL": seaweedfs.https_endpoint}
    for trust in (
        {"AWS_CA_BUNDLE": str(seaweedfs.ca_file)},
        {"S3_VERIFY_SSL": "0"},
    ):
        provider = connect_s3({**secure, **trust})
        assert await read(provider, await one(provider, tree.uri("model.bin")), 5, 9) == CONTENT[5:9]


async def test_https_of_an_unknown_authority_is_refused(connect_s3, environ, seaweedfs, tree):
    error = await refusal(
        connect_s3({**environ, "AWS_ENDPOINT_URL": seaweedfs.https_endpoint}), tree.uri("m")
    )
    assert error.reason is Reason.TLS_ERROR
    assert "AWS_CA_BUNDLE" in error.message


async def test_a_bundle_from_kserves_config_map_is_taken_and_a_missing_one_named(
    connect_s3, environ, seaweedfs, tree, tmp_path
):
    await tree.put("model.bin", b"x")
    mounted = {"CA_BUNDLE_CONFIGMAP_NAME": "bundle", "CA_BUNDLE_VOLUME_MOUNT_POINT": str(tmp_path)}
    provider = connect_s3({**environ, **mounted, "AWS_ENDPOINT_URL": seaweedfs.https_endpoint})
    error = await refusal(provider, tree.uri("model.bin"))
    assert error.reason is Reason.TLS_ERROR
    assert str(tmp_path / "cabundle.crt") in error.message
    (tmp_path / "cabundle.crt").write_bytes(seaweedfs.ca_file.read_bytes())
    assert (await one(provider, tree.uri("model.bin"))).size == 1


async def test_a_storage_that_is_down_is_tried_again(connect_s3, environ):
    down = {**environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "S3_MAX_ATTEMPTS": "1"}
    error = await refusal(connect_s3(down), "s3://models/m")
    assert isinstance(error, RetryableError)
    assert error.reason is Reason.STORAGE_UNAVAILABLE


async def test_a_source_is_made_again_from_the_object_alone(connect_s3, environ, tree):
    """As after a restart: nothing but what the listing said is known."""
    await tree.put("m/ü +%~.bin", CONTENT)
    obj = (await connect_s3(environ).resolve(tree.uri("m"))).objects[0]
    assert await read(connect_s3(environ), obj, 7, 70) == CONTENT[7:70]


async def test_the_signature_is_fresh_for_each_source_and_hidden(provider, tree, seaweedfs):
    await tree.put("model.bin", CONTENT)
    source = await provider.source(await one(provider, tree.uri("model.bin")))
    assert source.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
    assert_hidden(
        [source.headers["Authorization"], seaweedfs.reader.secret_key], [source, source.answers, provider]
    )


async def test_a_cancelled_listing_leaves_the_provider_usable(provider, tree):
    await tree.put("model.bin", b"x")
    task = asyncio.ensure_future(provider.resolve(tree.uri("model.bin")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await one(provider, tree.uri("model.bin"))).size == 1


async def test_a_range_beyond_the_end_is_a_changed_snapshot(provider, tree):
    await tree.put("model.bin", b"x")
    source = await provider.source(await one(provider, tree.uri("model.bin")))
    with pytest.raises(RetryableError) as caught:
        await read_source(source, "", 10, 20)
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED


async def test_a_proxy_of_the_environment_is_used_and_loopback_is_not_proxied(connect_s3, environ, tree):
    await tree.put("model.bin", b"x")
    proxied = connect_s3({**environ, "HTTP_PROXY": "http://user:pass@127.0.0.1:1"})
    obj = await one(proxied, tree.uri("model.bin"))
    assert (await proxied.source(obj)).proxy is None
    away = connect_s3(
        {**environ, "HTTPS_PROXY": "http://user:pass@127.0.0.1:1", "AWS_ENDPOINT_URL": "https://far.test"}
    )
    assert (await away.source(obj)).proxy == "http://user:pass@127.0.0.1:1"


def without_keys(environ):
    return {name: value for name, value in environ.items() if "ACCESS" not in name}


async def test_keys_of_a_profile_are_read_again_after_they_were_refused(
    connect_s3, environ, tree, tmp_path, seaweedfs
):
    await tree.put("m/model.bin", CONTENT)
    path = tmp_path / "credentials"
    text = f"[team]\naws_access_key_id = {seaweedfs.reader.access_key}\naws_secret_access_key = "
    path.write_text(f"{text}wrongwrongwrong\n")
    profile = {"AWS_PROFILE": "team", "AWS_SHARED_CREDENTIALS_FILE": str(path)}
    provider = connect_s3({**without_keys(environ), **profile}, renew_seconds=0)
    assert (await refusal(provider, tree.uri("m"))).reason is Reason.ACCESS_DENIED
    path.write_text(f"{text}{seaweedfs.reader.secret_key}\n")
    assert await read(provider, (await provider.resolve(tree.uri("m"))).objects[0], 0, 9) == CONTENT[:9]


async def test_a_profile_that_is_missing_is_named_so(connect_s3, environ):
    error = await refusal(connect_s3({**without_keys(environ), "AWS_PROFILE": "nobody"}), "s3://models/m")
    assert error.reason is Reason.INVALID_CREDENTIALS
    assert "profile" in error.message


def soon_over(asked):
    """Keys that the first one is given end before they are used a second time."""
    return (datetime.now(UTC) + timedelta(minutes=5 if len(asked) == 1 else 120)).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


async def test_pod_identity_is_asked_and_asked_again_when_its_keys_are_about_to_end(
    connect_s3, environ, tree, seaweedfs, monkeypatch
):
    """botocore itself reads where the container's credentials are, so the process's environment says it."""
    await tree.put("m/model.bin", CONTENT)
    asked = []

    async def give(request):
        asked.append(request.headers.get("Authorization"))
        keys = {"AccessKeyId": seaweedfs.reader.access_key, "SecretAccessKey": seaweedfs.reader.secret_key}
        return web.json_response({**keys, "Token": "", "Expiration": soon_over(asked)})

    app = web.Application()
    app.router.add_get("/v1/credentials", give)
    async with TestServer(app, host="127.0.0.1") as server:
        monkeypatch.setenv(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.port}/v1/credentials"
        )
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token")
        provider = connect_s3(without_keys(environ))
        obj = (await provider.resolve(tree.uri("m"))).objects[0]
        for start in range(3):
            assert await read(provider, obj, start, 9) == CONTENT[start:9]
    assert asked == ["pod-token", "pod-token"]


async def test_web_identity_is_exchanged_for_keys_with_the_token_as_it_is_now(
    connect_s3, environ, tree, seaweedfs, monkeypatch, tmp_path
):
    """As a service account's role gives it on EKS; the kubelet rotates the file of the token."""
    await tree.put("m/model.bin", CONTENT)
    token, asked = tmp_path / "token", []
    token.write_text("first-token")

    async def assume(request):
        form = await request.post()
        asked.append((form["Action"], form["RoleArn"], form["WebIdentityToken"]))
        token.write_text("second-token")
        keys = seaweedfs.reader
        return web.Response(
            content_type="text/xml",
            text="<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
            f"<AccessKeyId>{keys.access_key}</AccessKeyId><SecretAccessKey>{keys.secret_key}</SecretAccessKey>"
            f"<SessionToken></SessionToken><Expiration>{soon_over(asked)}</Expiration>"
            "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        )

    app = web.Application()
    app.router.add_post("/", assume)
    async with TestServer(app, host="127.0.0.1") as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{sts.port}")
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/models")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        provider = connect_s3(without_keys(environ))
        obj = (await provider.resolve(tree.uri("m"))).objects[0]
        assert await read(provider, obj, 0, 9) == CONTENT[:9]
    role = ("AssumeRoleWithWebIdentity", "arn:aws:iam::1:role/models")
    assert asked == [(*role, "first-token"), (*role, "second-token")]


async def test_the_metadata_of_the_machine_gives_its_role_s_keys(
    connect_s3, environ, tree, seaweedfs, monkeypatch
):
    """IMDSv2: a session token first, then the role, then its keys."""
    await tree.put("m/model.bin", CONTENT)
    asked = []
    role = "/latest/meta-data/iam/security-credentials/"

    async def answer(request):
        if request.method == "PUT":
            return web.Response(text="session", status=200 if request.path == "/latest/api/token" else 404)
        if request.headers.get("X-aws-ec2-metadata-token") != "session":
            return web.Response(status=401)
        if request.path == role:
            return web.Response(text="node")
        if request.path != f"{role}node":
            return web.Response(status=404)
        asked.append(request.path)
        keys = {"AccessKeyId": seaweedfs.reader.access_key, "SecretAccessKey": seaweedfs.reader.secret_key}
        return web.json_response({"Code": "Success", "Token": "", "Expiration": soon_over([0, 0]), **keys})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{metadata.port}")
        provider = connect_s3(without_keys(environ))
        obj = (await provider.resolve(tree.uri("m"))).objects[0]
        assert await read(provider, obj, 0, 9) == CONTENT[:9]
    assert asked == [f"{role}node"]


async def test_no_credentials_at_all_says_what_to_set(connect_s3, environ, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = await refusal(connect_s3(without_keys(environ)), "s3://models/m")
    assert error.reason is Reason.INVALID_CREDENTIALS
    assert "awsAnonymousCredential" in error.message
