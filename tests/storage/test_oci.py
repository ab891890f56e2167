"""OciProvider: what is its own, on a registry that asks for tokens."""

import asyncio
import json
import random
from functools import partial

import pytest
import trustme
from aiohttp import web

from agent.core.errors import RetryableError, TerminalError
from agent.core.reach import Denied, networks
from agent.core.reasons import Reason
from agent.storage.landings import FRESH_SECONDS
from agent.storage.oci import LANDED_SECONDS
from tests.contracts.reading import fetched
from tests.contracts.storage import CONTENT, OTHER, assert_hidden, files, one, read
from tests.fakes.origin import Origin, redirect, status
from tests.fakes.registry import (
    IMAGE,
    INDEX,
    LOGIN,
    SECRETS,
    Registry,
    artifact,
    digest_of,
    docker_config,
    layer,
    manifest,
)
from tests.fakes.tls import server_tls


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def registry():
    async with Registry(login=LOGIN).serving() as registry:
        yield registry


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connect(connect_oci, clock):
    return partial(connect_oci, clock=clock)


@pytest.fixture
def provider(connect, registry, tmp_path):
    return connect(docker_config(tmp_path, registry.host))


async def test_an_artifact_is_its_files_each_proved_by_its_digest(provider, registry):
    pushed = registry.push("m", {"b/deep.bin": b"d", "a.bin": CONTENT, "empty": b""}, "v1")
    for version in (":v1", f"@{pushed}", f":v1@{pushed}"):
        listing = await provider.resolve(f"oci://{registry.host}/m{version}")
        assert not listing.single
        assert list(files(listing).items()) == [("a.bin", len(CONTENT)), ("b/deep.bin", 1), ("empty", 0)]
        for obj, content in zip(listing.objects, (CONTENT, b"d", b""), strict=True):
            assert (obj.checksums, obj.pinned) == ({"sha256": digest_of(content)[7:]}, True)
            assert await read(provider, obj) == content


async def test_two_tags_of_two_repositories_share_what_is_the_same(provider, registry):
    registry.push("a", {"x.bin": CONTENT, "y.bin": b"1"}, "v1")
    registry.push("b", {"x.bin": CONTENT, "y.bin": b"2"}, "v2")
    a = await provider.resolve(f"oci://{registry.host}/a:v1")
    b = await provider.resolve(f"oci://{registry.host}/b:v2")
    same = [old.identity == new.identity for old, new in zip(a.objects, b.objects, strict=True)]
    assert same == [True, False]


async def test_of_an_index_the_manifest_of_this_machine_is_read(connect, registry, tmp_path):
    registry.login = None
    choices = []
    for machine, content in (("amd64", CONTENT), ("arm64", OTHER)):
        registry.blob("m", content)
        digest = registry.manifest("m", machine, artifact({"model.bin": content}))
        platform = {"os": "linux", "architecture": machine}
        choices.append({"mediaType": "x", "digest": digest, "size": 1, "platform": platform})
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": choices}
    registry.manifest("m", "latest", json.dumps(index).encode(), INDEX)
    for machine, content in (("x86_64", CONTENT), ("aarch64", OTHER)):
        provider = connect({}, machine=machine)
        assert await read(provider, await one(provider, f"oci://{registry.host}/m")) == content
    with pytest.raises(TerminalError, match="only for: linux/amd64, linux/arm64"):
        await connect({}, machine="s390x").resolve(f"oci://{registry.host}/m")


async def test_a_manifest_of_another_digest_than_the_pinned_is_refused_whatever_the_header_says(
    provider, registry
):
    pinned = digest_of(artifact({"a": b"1"}))
    registry.manifest("m", pinned, artifact({"a": b"2"}))
    registry.extra["Docker-Content-Digest"] = pinned
    with pytest.raises(TerminalError, match="came with the digest") as caught:
        await provider.resolve(f"oci://{registry.host}/m@{pinned}")
    assert caught.value.reason is Reason.INTEGRITY_MISMATCH


async def test_a_manifest_that_changed_on_its_way_is_asked_for_again(provider, registry):
    async def spoilt(request):
        return web.Response(
            body=artifact({"a": b"2"}), headers={"Docker-Content-Digest": digest_of(b"other")}
        )

    registry.scripts["/v2/m/manifests/latest"] = spoilt
    with pytest.raises(RetryableError) as caught:
        await provider.resolve(f"oci://{registry.host}/m")
    assert caught.value.reason is Reason.INTEGRITY_MISMATCH


@pytest.mark.parametrize(
    ("raw", "kind", "said"),
    [
        (b"<html>", "text/html", "is no JSON object; is this a registry?"),
        (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "prettyjws'; image manifests"),
        (manifest([layer(b"x", kind="text/plain")], IMAGE), None, "a layer of the type 'text/plain'"),
        (b"x" * (5 << 20), None, "more than 4,194,304 bytes"),
    ],
    ids=["html", "schema 1", "layer", "huge"],
)  # fmt: skip
async def test_what_is_not_read_is_told_by_name(provider, registry, raw, kind, said):
    registry.manifest("m", "latest", raw, kind or "application/vnd.oci.image.manifest.v1+json")
    with pytest.raises((TerminalError, RetryableError), match=said):
        await provider.resolve(f"oci://{registry.host}/m")


async def test_a_registry_that_has_its_blobs_itself_is_asked_where_they_are_once(
    provider, registry, tmp_path
):
    many = {f"{number}.bin": b"%d" % number for number in range(40)}
    registry.push("m", many)
    listing = await provider.resolve(f"oci://{registry.host}/m")
    assert await read(provider, listing.objects[0]) == b"0"
    before = len(registry.received)
    for obj in listing.objects[1:]:
        assert await read(provider, obj) == many[obj.path]
    assert len(registry.received) == before + 39
    registry.away = f"http://127.0.0.1:{registry.elsewhere.port}"
    registry.push("m", many | {"new.bin": CONTENT})
    assert (await fetched(provider, f"oci://{registry.host}/m", tmp_path))[0] == many | {"new.bin": CONTENT}
    assert all("authorization" not in each.headers for each in registry.elsewhere.received)


# --- who is let in


async def test_a_token_is_asked_for_once_and_renewed_before_it_ends(provider, registry, clock):
    registry.push("m", {f"{number}.bin": b"%d" % number for number in range(5)})
    listing = await provider.resolve(f"oci://{registry.host}/m")
    await asyncio.gather(*(read(provider, obj) for obj in listing.objects))
    assert registry.issued == 1
    clock.now += 295
    registry.valid.clear()
    await asyncio.gather(*(read(provider, obj) for obj in listing.objects))
    assert registry.issued == 2


async def test_a_token_that_ends_too_early_is_renewed_and_one_that_is_fresh_is_denied(
    provider, registry, clock
):
    registry.push("m", {"model.bin": CONTENT})
    obj = await one(provider, f"oci://{registry.host}/m")
    assert await read(provider, obj, 0, 5) == CONTENT[:5]
    registry.valid.clear()
    with pytest.raises(TerminalError) as caught:
        await read(provider, obj, 5, 10)
    assert caught.value.reason is Reason.ACCESS_DENIED
    clock.now += FRESH_SECONDS + 1
    with pytest.raises(RetryableError, match="asked for anew"):
        await read(provider, obj, 5, 10)
    assert await read(provider, obj, 5, 10) == CONTENT[5:10]


async def test_a_signed_url_elsewhere_is_asked_for_anew_when_it_is_old_and_hears_of_no_token(
    provider, registry, clock
):
    registry.away = f"http://127.0.0.1:{registry.elsewhere.port}"
    registry.push("m", {"model.bin": CONTENT})
    obj = await one(provider, f"oci://{registry.host}/m")
    assert await read(provider, obj) == CONTENT
    asked = sum("/blobs/" in each.target for each in registry.received)
    assert await read(provider, obj, 5, 10) == CONTENT[5:10]
    assert sum("/blobs/" in each.target for each in registry.received) == asked
    clock.now += LANDED_SECONDS + 1
    assert await read(provider, obj) == CONTENT
    assert sum("/blobs/" in each.target for each in registry.received) > asked
    assert all("authorization" not in each.headers for each in registry.elsewhere.received)


async def test_an_identity_token_is_posted_and_never_in_a_url(connect, registry, tmp_path):
    registry.refresh = "r3fresh"
    registry.push("m", {"model.bin": CONTENT})
    provider = connect(docker_config(tmp_path, registry.host, identitytoken="r3fresh"))
    assert await read(provider, await one(provider, f"oci://{registry.host}/m")) == CONTENT
    assert all("r3fresh" not in each.target for each in registry.received)


@pytest.mark.parametrize("variable", ["KSERVE_OCI_DOCKER_CONFIG", "DOCKER_CONFIG", "HOME"])
async def test_credentials_are_found_where_docker_and_kserve_put_them(connect, registry, tmp_path, variable):
    registry.push("m", {"model.bin": CONTENT})
    folder = tmp_path / ".docker" if variable == "HOME" else tmp_path
    folder.mkdir(exist_ok=True)
    docker_config(folder, registry.host)
    assert files(await connect({variable: str(tmp_path)}).resolve(f"oci://{registry.host}/m"))


@pytest.mark.parametrize(
    ("environ", "reason", "said"),
    [
        ({"HOME": "/nonexistent"}, Reason.ACCESS_DENIED, "KSERVE_OCI_DOCKER_CONFIG, DOCKER_CONFIG"),
        ({"KSERVE_OCI_DOCKER_CONFIG": "/nonexistent"}, Reason.INVALID_CREDENTIALS, "which is not there"),
    ],
)
async def test_who_has_no_credentials_is_told_where_they_come_from(connect, registry, environ, reason, said):
    registry.push("m", {"model.bin": CONTENT})
    with pytest.raises(TerminalError, match=said) as caught:
        await connect(environ).resolve(f"oci://{registry.host}/m")
    assert caught.value.reason is reason


async def test_wrong_credentials_are_denied_and_not_shown_and_corrected_ones_are_taken_up(
    connect, registry, tmp_path
):
    registry.push("m", {"model.bin": CONTENT})
    provider = connect(docker_config(tmp_path, registry.host, username="reader", password="CANARY"))
    with pytest.raises(TerminalError) as caught:
        await provider.resolve(f"oci://{registry.host}/m")
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert_hidden(["CANARY", *SECRETS], [caught.value, provider])
    docker_config(tmp_path, registry.host)
    assert files(await provider.resolve(f"oci://{registry.host}/m"))


async def test_another_registrys_credentials_are_never_sent(connect, registry, tmp_path):
    registry.push("m", {"model.bin": CONTENT})
    provider = connect(docker_config(tmp_path, "other.example"))
    with pytest.raises(TerminalError):
        await provider.resolve(f"oci://{registry.host}/m")
    assert all("authorization" not in each.headers for each in registry.received)


# --- over which wire


@pytest.fixture
async def secure(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with Registry(login=LOGIN).serving(server_tls(authority, "127.0.0.1")) as registry:
        registry.push("m", {"model.bin": CONTENT})
        yield registry


@pytest.fixture
def trusting(connect, secure, tmp_path):
    environ = {"CA_BUNDLE": str(tmp_path / "ca.pem"), "KSERVE_OCI_INSECURE_REGISTRY": "false"}
    return connect(environ | docker_config(tmp_path, secure.host))


async def test_https_is_spoken_and_no_password_or_token_request_goes_over_http(secure, trusting):
    async with Origin().serving() as plain:
        secure.realm = f"http://127.0.0.1:{plain.port}/token"
        with pytest.raises(TerminalError, match="over http") as caught:
            await trusting.resolve(f"oci://{secure.host}/m")
        assert caught.value.reason is Reason.REDIRECT_REFUSED
        assert plain.received == []
        secure.realm = f"https://127.0.0.1:{secure.port}/token"
        obj = await one(trusting, f"oci://{secure.host}/m")
        assert (await trusting.source(obj)).url.startswith("https://")
        secure.away = f"http://127.0.0.1:{plain.port}"
        secure.push("n", {"model.bin": OTHER})
        with pytest.raises(TerminalError, match="from https to http"):
            await trusting.source(await one(trusting, f"oci://{secure.host}/n"))
        assert plain.received == []


@pytest.mark.parametrize(
    ("said", "host", "insecure"),
    [
        ("", "127.0.0.1:1", True),
        ("", "localhost:1", True),
        ("", "[::1]:1", True),
        ("", "registry.invalid:1", False),
        ("0", "127.0.0.1:1", False),
        ("true", "registry.invalid:1", True),
        ("Yes", "registry.invalid:1", True),
    ],
)
async def test_plain_http_is_for_loopback_and_what_is_declared(connect, said, host, insecure):
    with pytest.raises(RetryableError) as caught:
        await connect({"KSERVE_OCI_INSECURE_REGISTRY": said}).resolve(f"oci://{host}/m")
    assert (f"http://{host}" in caught.value.message) == insecure


async def test_a_token_server_that_redirects_gives_the_password_to_nobody_else(provider, registry):
    registry.push("m", {"model.bin": CONTENT})
    async with Origin().serving() as other:
        registry.scripts["/token"] = redirect(f"http://127.0.0.1:{other.port}/token")
        with pytest.raises(TerminalError):
            await provider.resolve(f"oci://{registry.host}/m")
        assert len(other.received) == 1
        assert "authorization" not in other.received[0].headers


async def test_registry_token_server_and_blobs_are_judged_by_address_and_by_name(connect, registry, tmp_path):
    registry.push("m", {"model.bin": CONTENT})
    environ, uri = docker_config(tmp_path, registry.host), f"oci://{registry.host}/m"
    with pytest.raises(TerminalError) as caught:
        await connect(environ, policy=Denied(networks("loopback"))).resolve(uri)
    assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
    named = connect(environ, allowed_hosts=("127.0.0.1",))
    obj = await one(named, uri)
    assert (await named.source(obj)).judged
    registry.realm = "http://tokens.invalid/token"
    registry.valid.clear()
    with pytest.raises(TerminalError, match="--allow-host does not name its host"):
        await connect(environ, allowed_hosts=("127.0.0.1",)).resolve(uri)


# --- through the engine


class Expiring(Registry):
    """Ends all tokens at the second read of a blob."""

    reads = 0

    def ended(self):
        """What else is to happen then."""

    async def send(self, request, path):
        self.reads += "/blobs/" in path
        if self.reads == 2:
            self.valid.clear()
            self.ended()
        return await super().send(request, path)


async def test_a_token_that_ends_in_the_middle_of_a_blob_is_renewed_and_no_byte_is_lost(
    connect, clock, tmp_path
):
    large = random.Random(4).randbytes(20 << 20)  # noqa: S311 - bytes that do not repeat
    async with Expiring(login=LOGIN).serving() as registry:
        registry.ended = lambda: setattr(clock, "now", clock.now + FRESH_SECONDS + 1)
        registry.push("m", {"model.bin": large})
        provider = connect(docker_config(tmp_path, registry.host))
        came, _ = await fetched(provider, f"oci://{registry.host}/m", tmp_path)
    assert came == {"model.bin": large}
    assert registry.reads > 3
    assert registry.issued == 2


async def test_a_blob_of_other_bytes_than_its_digest_is_thrown_away(provider, registry, tmp_path):
    registry.push("m", {"model.bin": CONTENT})
    registry.files[f"/v2/m/blobs/{digest_of(CONTENT)}"] = OTHER
    with pytest.raises(RetryableError, match="its sha256 is") as caught:
        await fetched(provider, f"oci://{registry.host}/m", tmp_path)
    assert caught.value.reason is Reason.INTEGRITY_MISMATCH


async def test_a_throttled_registry_is_waited_for(provider, registry):
    registry.scripts["/v2/m/manifests/latest"] = status(429, Retry_After="7")
    with pytest.raises(RetryableError) as caught:
        await provider.resolve(f"oci://{registry.host}/m")
    assert (caught.value.reason, caught.value.retry_after_seconds) == (Reason.STORAGE_THROTTLED, 7)
