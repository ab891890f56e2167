"""`s3://` where no real store will do: hostile keys, odd listings, other people's endpoints."""

import itertools

import boto3
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.base import RemoteObject
from tests.contracts.storage import files
from tests.storage.refusals import refusal

BUCKETS = (f"hostile-{number}" for number in itertools.count())


async def test_the_object_is_meant_where_object_and_folder_have_one_name(connect_s3, moto):
    # SeaweedFS cannot hold both an object and a folder of one name: moto can.
    client = boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1", **boto_keys())
    client.create_bucket(Bucket="both")
    for key, body in {"m": b"object", "m/a.bin": b"a", "n": b"", "n/b.bin": b"b", "z": b""}.items():
        client.put_object(Bucket="both", Key=key, Body=body)
    client.close()
    provider = connect_s3({"S3_ENDPOINT": moto.endpoint, **some_keys()})
    assert files(await provider.resolve("s3://both/m")) == {"m": 6}
    assert files(await provider.resolve("s3://both/m/")) == {"a.bin": 1}
    assert files(await provider.resolve("s3://both/n")) == {"b.bin": 1}
    assert files(await provider.resolve("s3://both/z")) == {"z": 0}


@pytest.mark.parametrize(
    "key", ["m/x/../../evil", "m/../evil", "m//double", "m/./dot", f"m/{'x' * 256}", "m/a/b", "m/tab\there"]
)
async def test_a_key_that_could_not_be_laid_down_refuses_the_model(connect_s3, moto, key):
    # SeaweedFS refuses such keys: moto keeps them.
    client = boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1", **boto_keys())
    bucket = next(BUCKETS)
    client.create_bucket(Bucket=bucket)
    for name in ("m/good.bin", "m/a", key):  # a/b beside a: a file that is a folder too
        client.put_object(Bucket=bucket, Key=name, Body=b"x")
    client.close()
    provider = connect_s3({"S3_ENDPOINT": moto.endpoint, **some_keys()})
    error = await refusal(provider, f"s3://{bucket}/m")
    assert isinstance(error, TerminalError)
    assert error.reason is Reason.INVALID_OBJECT_KEY


def boto_keys():
    return {"aws_access_key_id": "x", "aws_secret_access_key": "y"}


def some_keys():
    return {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}


class Odd:
    """An S3 that answers a listing with what it is told."""

    def __init__(self):
        self.pages = []
        self.asked = []

    async def answer(self, request):
        self.asked.append(dict(request.query))
        if request.method == "HEAD":
            return web.Response(status=404)
        body = self.pages[min(len(self.asked), len(self.pages)) - 1]
        return web.Response(
            text=f"<ListBucketResult>{body}</ListBucketResult>", content_type="application/xml"
        )


@pytest.fixture
async def odd():
    odd = Odd()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", odd.answer)
    async with TestServer(app, host="127.0.0.1") as server:
        odd.environ = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
            "awsAnonymousCredential": "true",
        }
        yield odd


def entry(key, **more):
    inside = {"Key": key, "Size": "1", "ETag": "&quot;e&quot;", **more}
    return (
        "<Contents>" + "".join(f"<{name}>{value}</{name}>" for name, value in inside.items()) + "</Contents>"
    )


MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"


async def test_empty_pages_in_between_do_not_end_a_listing(connect_s3, odd):
    odd.pages = [MORE.format("a"), entry("m/1") + MORE.format("b"), MORE.format("c"), entry("m/2")]
    assert files(await connect_s3(odd.environ).resolve("s3://b/m/")) == {"1": 1, "2": 1}
    assert [query.get("continuation-token") for query in odd.asked] == [None, "a", "b", "c"]


async def test_keys_are_decoded_once_from_a_listing_that_is_url_encoded(connect_s3, odd):
    odd.pages = ["<EncodingType>url</EncodingType>" + entry("m/a+b%2B%2520%C3%BC")]
    listing = await connect_s3(odd.environ).resolve("s3://b/m/")
    assert files(listing) == {"a b+%20ü": 1}
    assert odd.asked[0]["encoding-type"] == "url"


async def test_a_listing_that_turns_in_a_circle_is_given_up(connect_s3, odd):
    odd.pages = [entry("m/1") + MORE.format("a")]
    error = await refusal(connect_s3(odd.environ), "s3://b/m/")
    assert error.reason is Reason.STORAGE_ERROR


@pytest.mark.parametrize("restored", [False, True])
async def test_an_archived_object_is_named_unless_it_is_restored(connect_s3, odd, restored):
    until = "<RestoreExpiryDate>2030-01-01T00:00:00Z</RestoreExpiryDate>"
    state = {"RestoreStatus": f"<IsRestoreInProgress>false</IsRestoreInProgress>{until}"} if restored else {}
    odd.pages = [entry("m/1", StorageClass="GLACIER", **state)]
    if restored:
        assert files(await connect_s3(odd.environ).resolve("s3://b/m/")) == {"1": 1}
    else:
        error = await refusal(connect_s3(odd.environ), "s3://b/m/")
        assert error.reason is Reason.OBJECT_ARCHIVED
        assert "s3://b/m/1" in error.message


@pytest.mark.parametrize("etag", ['"abc-3"', '"a+b%20c=d?e/f ü"', "weak", '"etag=x"'])
@pytest.mark.parametrize("name", ["1", "q?etag=z"])
async def test_what_is_asked_for_is_pinned_to_the_etag_that_was_listed(connect_s3, odd, etag, name):
    odd.pages = [entry(f"m/{name}", ETag=etag)]
    provider = connect_s3(odd.environ)
    (obj,) = (await provider.resolve("s3://b/m/")).objects
    source = await provider.source(obj)
    assert (source.headers["If-Match"], source.expect) == (etag, {"etag": etag})


@pytest.mark.parametrize(
    "moment",
    ["2026-11-22T10:00:00.000Z", "2026-11-22T10:00:00Z", "Sun, 22 Nov 2026 10:00:00 GMT", "1795341600"],
)
async def test_a_time_is_read_however_it_is_spelled(connect_s3, odd, moment):
    odd.pages = [entry("m/1", ETag="", LastModified=moment)]
    (obj,) = (await connect_s3(odd.environ).resolve("s3://b/m/")).objects
    assert "modified=1795341600.000&" in obj.identity


async def test_an_object_without_an_etag_is_not_pinned(connect_s3, odd):
    odd.pages = [entry("m/1", ETag="", LastModified="2026-11-22T10:00:00.000Z")]
    (obj,) = (await connect_s3(odd.environ).resolve("s3://b/m/")).objects
    assert not obj.pinned
    assert (await connect_s3(odd.environ).source(obj)).expect == {}


async def test_an_answer_that_is_no_xml_is_tried_again(connect_s3, odd):
    odd.pages = ["<oops"]
    error = await refusal(connect_s3({**odd.environ, "S3_MAX_ATTEMPTS": "1"}), "s3://b/m/")
    assert isinstance(error, RetryableError)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "https://models.s3.eu-west-1.amazonaws.com/a%20b/%2B%25~%C3%BC"),
        (
            {"S3_USER_VIRTUAL_BUCKET": "false"},
            "https://s3.eu-west-1.amazonaws.com/models/a%20b/%2B%25~%C3%BC",
        ),
        ({"S3_USE_ACCELERATE": "true"}, "https://models.s3-accelerate.amazonaws.com/a%20b/%2B%25~%C3%BC"),
        ({"AWS_ENDPOINT_URL": "http://minio.svc:9000"}, "http://models.minio.svc:9000/a%20b/%2B%25~%C3%BC"),
        ({"AWS_ENDPOINT_URL": "https://minio.svc:443"}, "https://models.minio.svc/a%20b/%2B%25~%C3%BC"),
        ({"AWS_ENDPOINT_URL": "http://minio.svc/s3"}, "http://models.minio.svc/s3/a%20b/%2B%25~%C3%BC"),
    ],
)
async def test_the_address_follows_the_variables(connect_s3, environ, url):
    region = {"AWS_DEFAULT_REGION": "eu-west-1", **some_keys()}
    obj = RemoteObject("f", "models/a b/+%~ü", 1, 's3://x/models/f?etag="e"')
    source = await connect_s3({**region, **environ}).source(obj)
    assert source.url == url
    assert "/eu-west-1/s3/aws4_request" in source.headers["Authorization"]
