"""`s3://` against a real SeaweedFS: the contract, and what only S3 does."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.s3 import S3Provider
from tests.contracts.reading import read_source
from tests.contracts.storage import CONTENT, OTHER, FolderContract, assert_hidden, files, one, read

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
async def connect():
    """Make providers that are closed at the end."""
    made = []

    def connect(environ):
        made.append(S3Provider(environ))
        return made[-1]

    yield connect
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(connect, environ):
    return connect(environ)


class TestContract(FolderContract):
    """Keys that cannot be laid down are refused by SeaweedFS itself: those are put into moto, below."""

    @pytest.fixture
    def secrets(self, seaweedfs):
        return (seaweedfs.reader.secret_key, seaweedfs.reader.access_key)


async def refusal(provider, uri):
    """Resolve what must be refused."""
    with pytest.raises((RetryableError, TerminalError)) as caught:
        await provider.resolve(uri)
    return caught.value


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


async def test_a_whole_bucket_is_taken_when_no_key_is_named(admin, seaweedfs, environ, connect):
    admin.create_bucket(Bucket="whole")
    for key in ("a.bin", "sub/b.bin"):
        admin.put_object(Bucket="whole", Key=key, Body=b"x")
    provider = connect({**environ, **seaweedfs.admin.environ()})
    for uri in ("s3://whole", "s3://whole/"):
        assert files(await provider.resolve(uri)) == {"a.bin": 1, "sub/b.bin": 1}


async def test_a_missing_bucket_is_named(connect, environ, seaweedfs):
    error = await refusal(connect({**environ, **seaweedfs.admin.environ()}), "s3://no-such-bucket/m")
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
async def test_wrong_unknown_or_no_keys_are_denied_with_what_to_do(connect, environ, tree, changes, says):
    await tree.put("m/model.bin", b"x")
    error = await refusal(connect({**environ, **changes}), tree.uri("m"))
    assert isinstance(error, TerminalError)
    assert error.reason is Reason.ACCESS_DENIED
    assert says in error.message
    assert_hidden([value for name, value in (environ | changes).items() if "SECRET" in name], [error])


async def test_keys_are_denied_another_bucket_than_theirs(provider, admin):
    admin.create_bucket(Bucket="others")
    admin.put_object(Bucket="others", Key="m/model.bin", Body=b"x")
    for uri in ("s3://others/m", "s3://others/m/model.bin"):
        assert (await refusal(provider, uri)).reason is Reason.ACCESS_DENIED


async def test_a_get_with_keys_that_became_wrong_is_denied(connect, environ, tree):
    await tree.put("model.bin", CONTENT)
    obj = await one(connect(environ), tree.uri("model.bin"))
    wrong = connect({**environ, "AWS_SECRET_ACCESS_KEY": "wrongwrongwrong"})
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


async def test_the_object_is_meant_where_object_and_folder_have_one_name(connect, moto):
    import boto3  # noqa: PLC0415 - SeaweedFS cannot hold both, moto can

    client = boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1", **boto_keys())
    client.create_bucket(Bucket="both")
    for key, body in {"m": b"object", "m/a.bin": b"a", "n": b"", "n/b.bin": b"b", "z": b""}.items():
        client.put_object(Bucket="both", Key=key, Body=body)
    client.close()
    provider = connect({"S3_ENDPOINT": moto.endpoint, **some_keys()})
    assert files(await provider.resolve("s3://both/m")) == {"m": 6}
    assert files(await provider.resolve("s3://both/m/")) == {"a.bin": 1}
    assert files(await provider.resolve("s3://both/n")) == {"b.bin": 1}
    assert files(await provider.resolve("s3://both/z")) == {"z": 0}


@pytest.mark.parametrize(
    "key", ["m/x/../../evil", "m/../evil", "m//double", "m/./dot", f"m/{'x' * 256}", "m/a/b", "m/tab\there"]
)
async def test_a_key_that_could_not_be_laid_down_refuses_the_model(connect, moto, key):
    import boto3  # noqa: PLC0415 - SeaweedFS refuses such keys, moto keeps them

    client = boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1", **boto_keys())
    bucket = f"hostile-{next(PREFIXES)}"
    client.create_bucket(Bucket=bucket)
    for name in ("m/good.bin", "m/a", key):  # a/b beside a: a file that is a folder too
        client.put_object(Bucket=bucket, Key=name, Body=b"x")
    client.close()
    provider = connect({"S3_ENDPOINT": moto.endpoint, **some_keys()})
    error = await refusal(provider, f"s3://{bucket}/m")
    assert isinstance(error, TerminalError)
    assert error.reason is Reason.INVALID_OBJECT_KEY


def boto_keys():
    return {"aws_access_key_id": "x", "aws_secret_access_key": "y"}


def some_keys():
    return {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
async def test_https_is_verified_against_the_bundle_that_is_named(connect, environ, seaweedfs, tree):
    await tree.put("model.bin", CONTENT)
    secure = {**environ, "AWS_ENDPOINT_URL": seaweedfs.https_endpoint}
    for trust in (
        {"AWS_CA_BUNDLE": str(seaweedfs.ca_file)},
        {"S3_VERIFY_SSL": "0"},
    ):
        provider = connect({**secure, **trust})
        assert await read(provider, await one(provider, tree.uri("model.bin")), 5, 9) == CONTENT[5:9]


async def test_https_of_an_unknown_authority_is_refused(connect, environ, seaweedfs, tree):
    error = await refusal(connect({**environ, "AWS_ENDPOINT_URL": seaweedfs.https_endpoint}), tree.uri("m"))
    assert error.reason is Reason.TLS_ERROR
    assert "AWS_CA_BUNDLE" in error.message


async def test_a_bundle_from_kserves_config_map_is_taken_and_a_missing_one_named(
    connect, environ, seaweedfs, tree, tmp_path
):
    await tree.put("model.bin", b"x")
    mounted = {"CA_BUNDLE_CONFIGMAP_NAME": "bundle", "CA_BUNDLE_VOLUME_MOUNT_POINT": str(tmp_path)}
    provider = connect({**environ, **mounted, "AWS_ENDPOINT_URL": seaweedfs.https_endpoint})
    error = await refusal(provider, tree.uri("model.bin"))
    assert error.reason is Reason.TLS_ERROR
    assert str(tmp_path / "cabundle.crt") in error.message
    (tmp_path / "cabundle.crt").write_bytes(seaweedfs.ca_file.read_bytes())
    assert (await one(provider, tree.uri("model.bin"))).size == 1


async def test_a_storage_that_is_down_is_tried_again(connect, environ):
    down = {**environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "S3_MAX_ATTEMPTS": "1"}
    error = await refusal(connect(down), "s3://models/m")
    assert isinstance(error, RetryableError)
    assert error.reason is Reason.STORAGE_UNAVAILABLE


async def test_a_source_is_made_again_from_the_object_alone(connect, environ, tree):
    """As after a restart: nothing but what the listing said is known."""
    await tree.put("m/ü +%~.bin", CONTENT)
    obj = (await connect(environ).resolve(tree.uri("m"))).objects[0]
    assert await read(connect(environ), obj, 7, 70) == CONTENT[7:70]


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


async def test_a_proxy_of_the_environment_is_used_and_loopback_is_not_proxied(connect, environ, tree):
    await tree.put("model.bin", b"x")
    proxied = connect({**environ, "HTTP_PROXY": "http://user:pass@127.0.0.1:1"})
    obj = await one(proxied, tree.uri("model.bin"))
    assert (await proxied.source(obj)).proxy is None
    away = connect(
        {**environ, "HTTPS_PROXY": "http://user:pass@127.0.0.1:1", "AWS_ENDPOINT_URL": "https://far.test"}
    )
    assert (await away.source(obj)).proxy == "http://user:pass@127.0.0.1:1"
