"""From a real object store to a served model: SeaweedFS, moto, fake-gcs-server, https with its own CA."""

import asyncio
import contextlib
import json
import re
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
import pytest
import trustme

from tests.e2e.rig import Rig, started
from tests.fakes.origin import Origin
from tests.fakes.tls import server_tls

REGION = {"AWS_DEFAULT_REGION": "us-east-1"}


class Bucket:
    """A place in an S3 store: a bucket, and a prefix in it."""

    def __init__(self, store, name: str, prefix: str = "") -> None:
        import boto3  # noqa: PLC0415 - slow to import, and only here

        self.uri = f"s3://{name}/{prefix}".rstrip("/")
        self.environ = {"AWS_ENDPOINT_URL": store.endpoint, **REGION, **store.admin.environ()}
        self._name, self._prefix = name, prefix
        self._client = boto3.client(
            "s3",
            endpoint_url=store.endpoint,
            region_name="us-east-1",
            aws_access_key_id=store.admin.access_key,
            aws_secret_access_key=store.admin.secret_key,
        )
        with contextlib.suppress(self._client.exceptions.BucketAlreadyOwnedByYou):
            self._client.create_bucket(Bucket=name)

    def put(self, **files: str) -> None:
        for key, content in files.items():
            self._client.put_object(Bucket=self._name, Key=self._prefix + key, Body=content.encode())

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def bucket(request, seaweedfs):
    """One bucket for all tests, for SeaweedFS keeps volumes for each, and a prefix for this one."""
    made = Bucket(seaweedfs, seaweedfs.readable_bucket, f"{request.node.name}/")
    yield made
    made.close()


@pytest.fixture
def whole_bucket(request, moto):
    """A bucket for this test alone, in a store that keeps keys as they are, `..` too."""
    made = Bucket(moto, re.sub("[^a-z0-9]+", "-", request.node.name)[-60:].strip("-"))
    yield made
    made.close()


def files(rig: Rig, name: str) -> dict[str, str]:
    folder = rig.model_dir / name
    return {str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.real
async def test_s3_cold_start_update_and_agent_restart(tmp_path, bucket):
    await asyncio.to_thread(bucket.put, **{"m1/v1/a": "first", "m1/v1/deep/b": "first", "m1/v2/a": "second"})
    async with started(tmp_path, environ=bucket.environ) as rig:
        rig.want(m=f"{bucket.uri}/m1/v1")
        await rig.settled("m")
        assert files(rig, "m") == {"a": "first", "deep/b": "first"}
        rig.want(m=f"{bucket.uri}/m1/v2/")
        await rig.settled("m")
        assert files(rig, "m") == {"a": "second"}
        await rig.agent.restart()
        await rig.settled("m")
        assert await rig.loads() == 2


@pytest.mark.real
async def test_s3_wrong_keys_are_told_and_take_nothing_away(tmp_path, bucket, seaweedfs):
    await asyncio.to_thread(bucket.put, **{"m/model": "good"})
    async with started(tmp_path, environ=bucket.environ) as rig:
        rig.want(m=f"{bucket.uri}/m")
        await rig.settled("m")
        rig.agent.environ["AWS_SECRET_ACCESS_KEY"] = "wrong-canary"
        await rig.agent.restart()
        rig.want(m=f"{bucket.uri}/m", n=f"{bucket.uri}/n")
        status = await rig.agent.wait(lambda status: status.model("n").get("phase") == "Failed")
        assert status.reason("n") in {"AccessDenied", "InvalidCredentials"}
        assert status.done == {"m"}
        assert "wrong-canary" not in rig.agent.said() + json.dumps(status)


@pytest.mark.real
async def test_s3_a_sibling_with_the_same_beginning_is_not_taken_in(tmp_path, bucket):
    """KServe: the files of model10 land in model1."""
    keys = {"models/model1/model.pt": "mine", "models/model10/model.pt": "10", "models/model1-v2/x.bin": "v2"}
    await asyncio.to_thread(bucket.put, **keys)
    async with started(tmp_path, environ=bucket.environ) as rig:
        rig.want(m=f"{bucket.uri}/models/model1")
        await rig.settled("m")
        assert files(rig, "m") == {"model.pt": "mine"}


@pytest.mark.real
async def test_s3_a_uri_of_one_object_gives_a_folder_with_that_file(tmp_path, bucket):
    """KServe: the object is written as the model's folder itself."""
    await asyncio.to_thread(bucket.put, **{"models/model.pt": "one"})
    async with started(tmp_path, environ=bucket.environ) as rig:
        rig.want(m=f"{bucket.uri}/models/model.pt")
        await rig.settled("m")
        assert files(rig, "m") == {"model.pt": "one"}


@pytest.mark.real
async def test_s3_a_whole_bucket_and_nothing_found(tmp_path, whole_bucket):
    await asyncio.to_thread(whole_bucket.put, **{"a": "a", "deep/b": "b"})
    async with started(tmp_path, environ=whole_bucket.environ) as rig:
        rig.want(all=whole_bucket.uri, none=f"{whole_bucket.uri}/nothing", gone="s3://no-such-bucket/m")
        status = await rig.agent.wait(
            lambda status: {status.reason(name) for name in ("none", "gone")} == {"NotFound"}
        )
        assert "/nothing" in status.model("none")["message"]
        await rig.agent.wait(lambda status: status.done == {"all"})
        assert files(rig, "all") == {"a": "a", "deep/b": "b"}


@pytest.mark.real
async def test_s3_a_key_that_climbs_is_refused_and_writes_nothing_outside(tmp_path, whole_bucket):
    """KServe: the file is written outside of the model dir."""
    objects = {"m/../../escaped": "out", "m/model": "in", "good/model": "good"}
    await asyncio.to_thread(whole_bucket.put, **objects)
    async with started(tmp_path, environ=whole_bucket.environ) as rig:
        rig.want(m=f"{whole_bucket.uri}/m", good=f"{whole_bucket.uri}/good")
        await rig.agent.wait(
            lambda status: status.done == {"good"} and status.reason("m") == "InvalidObjectKey"
        )
        assert rig.directories() == {"good"}
        assert not list(tmp_path.rglob("escaped"))


@asynccontextmanager
async def gcs(store, bucket: str, objects: dict[str, str]):
    async with aiohttp.ClientSession() as session:

        async def put(name: str, content: str) -> None:
            url = f"{store.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=media"
            async with session.post(f"{url}&name={quote(name, safe='')}", data=content.encode()) as answer:
                assert answer.status == 200, await answer.text()

        async with session.post(f"{store.endpoint}/storage/v1/b?project=p", json={"name": bucket}) as answer:
            assert answer.status == 200, await answer.text()
        for name, content in objects.items():
            await put(name, content)
        yield put


@pytest.mark.real
async def test_gs_cold_start_and_an_update_of_the_same_uri_at_sighup(tmp_path, fake_gcs):
    async with (
        gcs(fake_gcs, "models", {"m/model": "first", "m/sub/more": "first"}) as put,
        started(tmp_path, environ={"STORAGE_EMULATOR_HOST": fake_gcs.endpoint}) as rig,
    ):
        rig.want(m="gs://models/m")
        await rig.settled("m")
        assert files(rig, "m") == {"model": "first", "sub/more": "first"}
        await put("m/model", "second")
        rig.agent.signal(1)
        await rig.serves("m", "second")
        await rig.settled("m")
        assert files(rig, "m") == {"model": "second", "sub/more": "first"}


@pytest.mark.real
async def test_gs_folder_placeholders_are_no_files(tmp_path, fake_gcs):
    """KServe: the placeholder becomes a file, and the folder cannot be made."""
    objects = {"m/": "", "m/sub/": "", "m/sub/model": "model"}
    async with (
        gcs(fake_gcs, "folders", objects),
        started(tmp_path, environ={"STORAGE_EMULATOR_HOST": fake_gcs.endpoint}) as rig,
    ):
        rig.want(m="gs://folders/m")
        await rig.settled("m")
        assert files(rig, "m") == {"sub/model": "model"}


async def test_https_with_a_ca_of_its_own(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with (
        Origin().serving(server_tls(authority, "127.0.0.1")) as secure,
        started(tmp_path, agent=False) as rig,
    ):
        secure.put("/model", b"over tls")
        rig.want(m=f"https://127.0.0.1:{secure.port}/model")
        await rig.agent.start()
        status = await rig.agent.wait(lambda status: status.model("m").get("phase") == "Failed")
        assert status.reason("m") == "TlsError"
        await rig.agent.terminate()
        rig.agent.environ["SSL_CERT_FILE"] = str(tmp_path / "ca.pem")
        await rig.agent.start()
        await rig.settled("m")
        assert await rig.served("m") == "over tls"
