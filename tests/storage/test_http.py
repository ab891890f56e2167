"""HttpProvider where the contract ends: redirects, credentials, refusals, TLS, addresses."""

import asyncio
import datetime as dt
import json
import socket
from contextlib import AsyncExitStack

import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.base import RemoteObject
from agent.storage.http import FRESH_SECONDS, HttpProvider
from tests.contracts.reading import read_source
from tests.contracts.storage import CONTENT, OTHER, assert_hidden, one
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.origin import Origin, redirect, status
from tests.fakes.tls import server_tls

SECRET = "CANARY"


class Names(AbstractResolver):
    """Sends every name below .test to the loopback; any other does not exist."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses or ("127.0.0.1",)

    async def resolve(self, host, port=0, family=socket.AF_INET):
        if not host.endswith(".test"):
            raise OSError(None, "name or service not known")
        return [
            {"hostname": host, "host": a, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for a in self._addresses
        ]

    async def close(self):
        pass


async def read(provider: HttpProvider, obj: RemoteObject, start: int = 0, stop: int | None = None) -> bytes:
    source = await provider.source(obj)
    return await read_source(source, obj.identity, start, stop, resolver=Names())


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def make(stack):
    """Makes a provider that resolves *.test, closed at the end."""

    def make(environ=None, **options):
        provider = HttpProvider(environ or {}, **({"resolver": Names()} | options))
        stack.push_async_callback(provider.close)
        return provider

    return make


@pytest.fixture
async def origin(stack):
    origin = await stack.enter_async_context(Origin().serving())
    origin.put("/model.bin", CONTENT)
    return origin


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
async def secure(stack, authority):
    tls = server_tls(authority, "a.test", "b.test", "127.0.0.1")
    secure = await stack.enter_async_context(Origin().serving(tls))
    secure.put("/model.bin", CONTENT)
    return secure


@pytest.fixture
def trusting(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {"CA_BUNDLE": str(tmp_path / "ca.pem")}


async def refusal(provider: HttpProvider, uri: str) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await provider.resolve(uri)
    assert_hidden([SECRET], [caught.value, caught.value.message])
    return caught.value


# --- redirects


async def test_a_get_that_redirects_though_head_did_not_is_followed_once_it_is_known(make, origin):
    async def only_get(request):
        if request.method == "HEAD":
            return await origin.send(request, "/model.bin")
        return web.Response(status=302, headers={"Location": "/elsewhere.bin"})

    origin.scripts["/moved.bin"] = only_get
    origin.put("/elsewhere.bin", OTHER)
    provider, uri = make(), f"http://a.test:{origin.port}/moved.bin"
    first = await one(provider, uri)
    source = await provider.source(first)
    error = source.answers.error(302, {"location": "/elsewhere.bin"}, b"")
    assert isinstance(error, RetryableError)
    assert error.reason is Reason.SNAPSHOT_CHANGED  # so that the fetch lists again
    for _ in range(2):
        obj = await one(provider, uri)
        assert await read(provider, obj) == OTHER


async def test_a_get_that_redirects_to_where_nothing_may_go_is_refused(make, secure, trusting):
    async def only_get(request):
        if request.method == "HEAD":
            return await secure.send(request, "/model.bin")
        return web.Response(status=302, headers={"Location": "http://a.test/plain"})

    secure.scripts["/moved.bin"] = only_get
    provider, uri = make(trusting), f"https://a.test:{secure.port}/moved.bin"
    (await provider.source(await one(provider, uri))).answers.error(302, {}, b"")
    assert (await refusal(provider, uri)).reason is Reason.REDIRECT_REFUSED


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["/model.bin", "../model.bin", "//a.test:{port}/model.bin", "?x", "model.bin#f"]
)
async def test_redirects_of_every_kind_and_form_are_followed(make, origin, code, location):
    origin.scripts["/go/there"] = redirect(location.format(port=origin.port), code)
    origin.scripts["/go/model.bin"] = redirect("/model.bin")
    if location == "?x":

        async def by_query(request: web.BaseRequest) -> web.StreamResponse:
            if request.query_string:
                return await origin.send(request, "/model.bin")
            return await redirect("?x", code)(request)

        origin.scripts["/go/there"] = by_query
    provider = make()
    obj = await one(provider, f"http://a.test:{origin.port}/go/there")
    assert (obj.path, obj.size) == ("there", len(CONTENT))
    assert await read(provider, obj, 5, 50) == CONTENT[5:50]


async def test_five_redirects_are_followed_and_six_are_refused(make, origin):
    for number in range(1, 7):
        origin.scripts[f"/{number}"] = redirect(f"/{number - 1}")
    origin.put("/0", b"x")
    assert (await one(make(), f"http://a.test:{origin.port}/5")).size == 1
    error = await refusal(make(), f"http://a.test:{origin.port}/6?sig={SECRET}")
    assert error.reason is Reason.REDIRECT_REFUSED
    assert "5 times" in error.message


async def test_a_circle_is_named(make, origin):
    origin.scripts["/a"] = redirect("/b")
    origin.scripts["/b"] = redirect("/a")
    error = await refusal(make(), f"http://a.test:{origin.port}/a")
    assert error.reason is Reason.REDIRECT_REFUSED
    assert "circle" in error.message
    assert len(origin.received) == 2


async def test_https_never_becomes_http(make, origin, secure, trusting):
    secure.scripts["/down"] = redirect(f"http://a.test:{origin.port}/model.bin?sig={SECRET}")
    error = await refusal(make(trusting), f"https://a.test:{secure.port}/down")
    assert error.reason is Reason.REDIRECT_REFUSED
    assert "https to http" in error.message
    assert origin.received == []


@pytest.mark.parametrize(
    "location", ["ftp://a.test/x", "file:///etc/passwd", "http://", "http://[::1/", "\\\\x y:z/"]
)
async def test_a_redirect_to_no_web_url_reaches_nobody(make, origin, location):
    origin.scripts["/go"] = redirect(location)
    error = await refusal(make(), f"http://a.test:{origin.port}/go")
    assert isinstance(error, TerminalError)


async def test_a_redirect_without_a_location_is_refused(make, origin):
    origin.scripts["/go"] = status(302)
    assert (await refusal(make(), f"http://a.test:{origin.port}/go")).reason is Reason.REDIRECT_REFUSED


async def test_the_identity_stays_when_the_redirect_is_signed_anew(make, origin):
    async def sign(request: web.BaseRequest) -> web.StreamResponse:
        return await redirect(f"/model.bin?sig={SECRET}{len(origin.received)}")(request)

    origin.scripts["/go"] = sign
    provider = make()
    first, second = [await one(provider, f"http://a.test:{origin.port}/go") for _ in range(2)]
    assert first == second
    assert_hidden([SECRET], [first, await provider.source(first)])


async def test_a_signed_target_that_expired_is_asked_for_anew(make, origin):
    clock, valid = Clock(), ["1"]

    async def target(request: web.BaseRequest) -> web.StreamResponse:
        if request.query_string not in valid:
            return web.Response(status=403)
        return await origin.send(request, "/model.bin")

    async def sign(request: web.BaseRequest) -> web.StreamResponse:
        return await redirect(f"/signed?{valid[-1]}")(request)

    origin.scripts.update({"/go": sign, "/signed": target})
    provider = make(clock=clock)
    obj = await one(provider, f"http://a.test:{origin.port}/go")
    valid[:] = ["2"]
    with pytest.raises(TerminalError):  # refused at once: it did not expire
        await read(provider, obj)
    clock.now += FRESH_SECONDS
    with pytest.raises(RetryableError) as caught:
        await read(provider, obj)
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert await read(provider, obj) == CONTENT
    valid[:] = ["3"]
    clock.now += FRESH_SECONDS
    with pytest.raises(RetryableError):
        await read(provider, obj)
    origin.put("/model.bin", OTHER)
    with pytest.raises(RetryableError) as caught:
        await provider.source(obj)
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED


async def test_a_source_asks_storage_for_nothing(make, origin):
    provider = make()
    obj = await one(provider, f"http://a.test:{origin.port}/model.bin")
    before = len(origin.received)
    for _ in range(5):
        await provider.source(obj)
    assert len(origin.received) == before


async def test_what_was_forgotten_is_asked_for_again_and_memory_is_bounded(make, origin):
    provider = make(remember=1)
    plain = await one(provider, f"http://a.test:{origin.port}/model.bin")
    hidden = await one(provider, f"http://a.test:{origin.port}/model.bin?sig={SECRET}")
    assert await read(provider, plain) == CONTENT
    with pytest.raises(RetryableError) as caught:
        await provider.source(hidden)
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED
    assert len(provider._remembered) == 1


# --- credentials


def leaked(*origins: Origin) -> list[str]:
    return [str(received) for origin in origins for received in origin.received if SECRET in str(received)]


@pytest.fixture
def custom():
    headers = json.dumps({"Authorization": f"Bearer {SECRET}", "X-Api-Key": SECRET})
    return {"a.test-headers": headers, "unrelated.test-headers": json.dumps({"X-Other": SECRET})}


async def test_headers_go_to_the_uris_own_host_for_listing_and_for_reading(make, origin, custom):
    provider = make(custom)
    obj = await one(provider, f"http://a.test:{origin.port}/model.bin")
    await read(provider, obj, 1, 2)
    assert len(origin.received) == 2
    for received in origin.received:
        assert received.headers["x-api-key"] == SECRET
        assert received.headers["authorization"] == f"Bearer {SECRET}"
        assert received.headers["accept-encoding"] == "identity"


async def test_headers_do_not_go_to_another_host(make, origin, custom):
    provider = make(custom)
    await read(provider, await one(provider, f"http://b.test:{origin.port}/model.bin"))
    assert leaked(origin) == []


@pytest.mark.parametrize("change", ["host", "port", "scheme"])
@pytest.mark.parametrize("userinfo", ["", f"user:{SECRET}@"])
async def test_credentials_are_dropped_at_any_change_of_origin(
    make, stack, origin, secure, custom, trusting, change, userinfo
):
    other = await stack.enter_async_context(Origin().serving())
    for place in (other, secure):
        place.put("/model.bin", CONTENT)
    target = {
        "host": f"http://b.test:{origin.port}/model.bin",
        "port": f"http://a.test:{other.port}/model.bin",
        "scheme": f"https://a.test:{secure.port}/model.bin",
    }[change]
    origin.scripts["/go"] = redirect(target)
    provider = make(custom | trusting)
    obj = await one(provider, f"http://{userinfo}a.test:{origin.port}/go")
    assert await read(provider, obj) == CONTENT
    assert len(leaked(origin)) == 1  # the one request to /go
    assert leaked(other, secure) == []


async def test_credentials_stay_dropped_when_the_redirects_come_back(make, stack, origin, custom):
    other = await stack.enter_async_context(Origin().serving())
    origin.scripts["/go"] = redirect(f"http://b.test:{other.port}/back")
    other.scripts["/back"] = redirect(f"http://a.test:{origin.port}/model.bin")
    provider = make(custom)
    await read(provider, await one(provider, f"http://u:{SECRET}@a.test:{origin.port}/go"))
    assert len(leaked(origin)) == 1
    assert leaked(other) == []


async def test_credentials_are_kept_along_redirects_inside_the_origin(make, origin, custom):
    origin.scripts["/go"] = redirect("/model.bin")
    provider = make(custom)
    await read(provider, await one(provider, f"http://a.test:{origin.port}/go"))
    assert len(leaked(origin)) == 3


async def test_userinfo_becomes_basic_authentication_and_is_never_in_the_url(make, origin):
    provider = make()
    obj = await one(provider, f"http://us%40er:p%3Ass%2Fw@a.test:{origin.port}/model.bin")
    await read(provider, obj)
    for received in origin.received:
        assert received.headers["authorization"] == "Basic dXNAZXI6cDpzcy93"
        assert "@" not in received.target + received.headers["host"]


async def test_userinfo_in_a_location_is_not_used(make, origin):
    origin.scripts["/go"] = redirect(f"http://evil:pw@b.test:{origin.port}/model.bin")
    provider = make()
    await read(provider, await one(provider, f"http://a.test:{origin.port}/go"))
    assert all("authorization" not in received.headers for received in origin.received)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '"x"', "null", '{"a": 1}', '{"a": null}', '{"a b": "x"}', '{"a": "x\\r\\nb"}', '{"": "x"}',
        '{"Range": "x"}', '{"a": "\\ud800"}', "[" * 100_000,
    ],
)  # fmt: skip
async def test_bad_headers_are_told_by_the_variables_name_alone(make, origin, text):
    error = await refusal(
        make({"a.test-headers": text.replace("x", SECRET)}), f"http://a.test:{origin.port}/model.bin"
    )
    assert error.reason is Reason.INVALID_CREDENTIALS
    assert "a.test-headers" in error.message
    assert origin.received == []


# --- refusals


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (400, TerminalError, Reason.STORAGE_ERROR),
        (401, TerminalError, Reason.ACCESS_DENIED),
        (403, TerminalError, Reason.ACCESS_DENIED),
        (404, TerminalError, Reason.NOT_FOUND),
        (407, TerminalError, Reason.ACCESS_DENIED),
        (408, RetryableError, Reason.STORAGE_TIMEOUT),
        (410, TerminalError, Reason.NOT_FOUND),
        (418, TerminalError, Reason.STORAGE_ERROR),
        (429, RetryableError, Reason.STORAGE_THROTTLED),
        (500, RetryableError, Reason.STORAGE_UNAVAILABLE),
        (502, RetryableError, Reason.STORAGE_UNAVAILABLE),
        (503, RetryableError, Reason.STORAGE_THROTTLED),
        (504, RetryableError, Reason.STORAGE_TIMEOUT),
        (204, TerminalError, Reason.STORAGE_ERROR),
    ],
)
async def test_each_status_has_its_reason_when_listing_and_when_reading(make, origin, code, kind, reason):
    provider = make()
    obj = await one(provider, f"http://a.test:{origin.port}/model.bin")
    origin.scripts["/model.bin"] = status(code, Retry_After="7")
    for error in (
        await refusal(provider, f"http://a.test:{origin.port}/model.bin?sig={SECRET}"),
        (await provider.source(obj)).answers.error(code, {"retry-after": "7"}, b"<html>"),
    ):
        assert type(error) is kind
        assert error.reason is reason
        assert "http://a.test" in error.message
        assert not isinstance(error, RetryableError) or error.retry_after_seconds == 7


async def test_a_date_to_retry_at_is_taken_against_the_servers_own_clock(make, origin):
    origin.scripts["/model.bin"] = status(
        503, Date="Fri, 01 Jan 1999 00:00:00 GMT", Retry_After="Fri, 01 Jan 1999 00:00:30 GMT"
    )
    error = await refusal(make(), f"http://a.test:{origin.port}/model.bin")
    assert isinstance(error, RetryableError)
    assert error.retry_after_seconds == 30


async def test_nobody_listening_is_retried(make):
    with socket.socket() as held:  # bound, so that nobody else gets it, and not listening
        held.bind(("127.0.0.1", 0))
        error = await refusal(make(), f"http://u:{SECRET}@a.test:{held.getsockname()[1]}/m?sig={SECRET}")
    assert isinstance(error, RetryableError)
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert "refused" in error.message


async def test_a_name_that_does_not_resolve_is_retried(make):
    error = await refusal(make(), f"http://nowhere.invalid/m?sig={SECRET}")
    assert isinstance(error, RetryableError)
    assert "resolve" in error.message


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad"],
)
async def test_what_is_no_http_answer_is_retried(make, stack, answer):
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await stack.enter_async_context(await asyncio.start_server(speak, "127.0.0.1", 0))
    error = await refusal(make(), f"http://a.test:{server.sockets[0].getsockname()[1]}/m?sig={SECRET}")
    assert isinstance(error, RetryableError)


@pytest.mark.parametrize(
    "text",
    [
        "1", "{2}", "http://", "http:///x", "https://h:99999/x", "http://a.test:0/", "http://a b/x",
        "http://exa\x00mple/", "http://[::1/x", "http://a.test/\nx", "ftp://a.test/x",
    ],
)  # fmt: skip
async def test_what_is_no_url_is_refused(make, text):
    assert (await refusal(make(), text)).reason is Reason.INVALID_STORAGE_URI


# --- names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b/model.joblib", "model.joblib"),
        ("/m%C3%B6del%20x.bin", "mödel x.bin"),
        ("/b/bucket/o/models%2Fm1%2Fmodel.bin", "model.bin"),
        ("/x..y", "x..y"),
        ("/folder/", "told.zip"),
        ("", "told.zip"),
        ("/", "told.zip"),
    ],
)
async def test_the_file_is_named_by_the_path_else_by_what_the_server_says(make, origin, path, name):
    origin.extra["Content-Disposition"] = 'attachment; filename="told.zip"'
    handle = origin.send

    async def any_file(request: web.BaseRequest, _: str) -> web.StreamResponse:
        return await handle(request, "/model.bin")

    origin.send = any_file
    assert (await one(make(), f"http://a.test:{origin.port}{path}")).path == name


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (None, "model"),
        ("attachment", "model"),
        ("attachment; filename=x.tar.gz", "x.tar.gz"),
        ("attachment; filename*=UTF-8''m%C3%B6.zip", "mö.zip"),
        ('attachment; filename="../../etc/passwd"', "model"),
        ('attachment; filename="a/b"', "model"),
        ('attachment; filename=".."', "model"),
        ('attachment; filename="a\\\\b"', "model"),
        ("attachment; filename=" + "x" * 300, "model"),
    ],
)
async def test_a_name_that_the_server_says_is_taken_only_when_safe(make, origin, disposition, name):
    origin.put("/", b"x")
    if disposition:
        origin.extra["Content-Disposition"] = disposition
    assert (await one(make(), f"http://a.test:{origin.port}/")).path == name


@pytest.mark.parametrize("path", ["/a/%2e%2e", "/..%2f..", "/%5Cx", "/a%00b", "/" + "x" * 300, "/a/%ff"])
async def test_a_last_segment_that_no_file_may_be_named_is_refused(make, origin, path):
    handle = origin.send

    async def any_file(request: web.BaseRequest, _: str) -> web.StreamResponse:
        return await handle(request, "/model.bin")

    origin.send = any_file
    assert (await refusal(make(), f"http://a.test:{origin.port}{path}")).reason is Reason.INVALID_OBJECT_KEY


async def test_an_encoded_path_and_query_go_out_as_they_are_written(make, origin):
    provider = make()
    origin.put("/a b/ü+%.bin", CONTENT)
    text = "/a%20b/%c3%BC+%25.bin?X-Sig=a%2Fb%2bc&d=~e%7E&empty="
    obj = await one(provider, f"http://a.test:{origin.port}{text}")
    await read(provider, obj)
    assert {received.target for received in origin.received} == {text}


async def test_queries_tell_objects_apart_and_fragments_do_not(make, origin):
    uri = f"http://a.test:{origin.port}/model.bin"
    provider = make()
    plain, other, fragment = [await one(provider, uri + tail) for tail in ("", f"?{SECRET}", "#x")]
    assert plain.identity != other.identity
    assert plain == fragment


# --- what is told of an object


async def test_checksums_of_the_whole_object_are_told(make, origin):
    origin.extra["Repr-Digest"] = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    obj = await one(make(), f"http://a.test:{origin.port}/model.bin")
    assert obj.checksums == {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}


async def test_a_date_of_this_second_does_not_pin(make, origin):
    async def just_now(request: web.BaseRequest) -> web.StreamResponse:
        now = "Fri, 01 Jan 1999 00:00:30 GMT"
        return web.Response(body=b"x", headers={"Last-Modified": now, "Date": now})

    origin.scripts["/now"] = just_now
    assert not (await one(make(), f"http://a.test:{origin.port}/now")).pinned


async def test_a_tag_that_clients_read_differently_does_not_pin(make, origin):
    async def odd(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"x", headers={"ETag": '"\u00e9"'})

    origin.scripts["/odd"] = odd
    provider = make()
    obj = await one(provider, f"http://a.test:{origin.port}/odd")
    assert not obj.pinned
    assert (await provider.source(obj)).expect == {}


async def test_a_head_that_lies_about_the_size_is_not_believed(make, origin):
    async def lying(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": "0"})
        return await origin.send(request, "/model.bin")

    origin.scripts["/lie"] = lying
    assert (await one(make(), f"http://a.test:{origin.port}/lie")).size == len(CONTENT)


async def test_a_compressed_answer_is_listed_with_the_bytes_it_has(make, origin):
    origin.extra["Content-Encoding"] = "gzip"  # a server that has only this encoding
    provider = make()
    obj = await one(provider, f"http://a.test:{origin.port}/model.bin")
    assert await read(provider, obj) == CONTENT


# --- TLS


async def tls_refusal(make, stack, authority, environ, *names, **certificate) -> AgentError:
    tls = server_tls(authority, *names, **certificate)
    origin = await stack.enter_async_context(Origin().serving(tls))
    return await refusal(make(environ), f"https://u:{SECRET}@a.test:{origin.port}/model.bin?sig={SECRET}")


async def test_an_unknown_authority_is_named(make, stack, authority):
    error = await tls_refusal(make, stack, authority, {}, "a.test")
    assert (type(error), error.reason) == (TerminalError, Reason.TLS_ERROR)
    assert "not trusted" in error.message
    assert "CA_BUNDLE" in error.message


async def test_an_expired_certificate_is_named(make, stack, authority, trusting):
    past = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    error = await tls_refusal(
        make, stack, authority, trusting, "a.test", not_before=past, not_after=past.replace(year=2002)
    )
    assert error.reason is Reason.TLS_ERROR
    assert "expired" in error.message


async def test_a_certificate_of_tomorrow_names_the_clock(make, stack, authority, trusting):
    future = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    error = await tls_refusal(
        make,
        stack,
        authority,
        trusting,
        "a.test",
        not_before=future,
        not_after=future + dt.timedelta(days=1),
    )
    assert "clock" in error.message


@pytest.mark.parametrize("name", ["b.test", "127.0.0.1"])
async def test_a_certificate_for_another_host_is_named(make, stack, authority, trusting, name):
    error = await tls_refusal(make, stack, authority, trusting, name)
    assert error.reason is Reason.TLS_ERROR
    assert "another" in error.message


async def test_https_to_a_plain_server_is_a_tls_error(make, origin):
    error = await refusal(make(), f"https://a.test:{origin.port}/model.bin")
    assert error.reason is Reason.TLS_ERROR


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CA_BUNDLE"])
async def test_each_bundle_variable_is_honoured(make, secure, trusting, variable):
    provider = make({variable: trusting["CA_BUNDLE"]})
    assert (await one(provider, f"https://a.test:{secure.port}/model.bin")).size == len(CONTENT)


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_bundle_that_cannot_be_used_is_named_with_its_variable(make, secure, tmp_path, content):
    if content:
        (tmp_path / "bad.pem").write_text(content)
    environ = {"REQUESTS_CA_BUNDLE": str(tmp_path / "bad.pem")}
    error = await refusal(make(environ), f"https://a.test:{secure.port}/model.bin")
    assert error.reason is Reason.TLS_ERROR
    assert "REQUESTS_CA_BUNDLE" in error.message


async def test_a_bundle_that_is_rotated_is_taken_up(make, secure, authority, tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    provider = make({"CA_BUNDLE": str(tmp_path / "ca.pem")})
    await refusal(provider, f"https://a.test:{secure.port}/model.bin")
    authority.cert_pem.write_to_path(tmp_path / "new.pem")
    (tmp_path / "new.pem").rename(tmp_path / "ca.pem")
    obj = await one(provider, f"https://a.test:{secure.port}/model.bin")
    assert await read(provider, obj) == CONTENT


# --- proxies


async def test_a_proxy_that_wants_credentials_is_named(make, stack):
    proxy = await stack.enter_async_context(ForwardProxy({}, "Basic eDp5").serving())
    environ = {"HTTP_PROXY": f"http://u:{SECRET}@127.0.0.1:{proxy.port}"}
    environ["HTTPS_PROXY"] = environ["HTTP_PROXY"]
    for scheme in ("http", "https"):
        error = await refusal(make(environ), f"{scheme}://a.test/m?sig={SECRET}")
        assert (type(error), error.reason) == (TerminalError, Reason.ACCESS_DENIED)
        assert "proxy" in error.message


async def test_a_proxy_that_is_down_is_retried(make):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        environ = {"HTTP_PROXY": f"http://u:{SECRET}@127.0.0.1:{held.getsockname()[1]}"}
        error = await refusal(make(environ), f"http://a.test/m?sig={SECRET}")
    assert isinstance(error, RetryableError)
    assert "proxy" in error.message


async def test_no_proxy_goes_past_the_proxy(make, stack, origin):
    proxy = await stack.enter_async_context(ForwardProxy({"b.test": origin.port}).serving())
    provider = make({"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": "a.test"})
    await read(provider, await one(provider, f"http://a.test:{origin.port}/model.bin"))
    assert proxy.seen == []
    await read(provider, await one(provider, f"http://b.test:{origin.port}/model.bin"))
    assert len(proxy.seen) == 2


async def test_the_proxy_is_chosen_anew_for_each_redirect(make, stack, origin):
    proxy = await stack.enter_async_context(ForwardProxy({"b.test": origin.port}).serving())
    origin.scripts["/go"] = redirect(f"http://b.test:{origin.port}/model.bin")
    provider = make({"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": "a.test"})
    await read(provider, await one(provider, f"http://a.test:{origin.port}/go"))
    assert [line.split()[0] for line in proxy.seen] == ["HEAD", "GET"]


async def test_a_proxy_of_another_kind_is_refused_by_its_variables_name(make):
    error = await refusal(make({"https_proxy": f"socks5://u:{SECRET}@h:1"}), "https://a.test/m")
    assert "HTTPS_PROXY" in error.message


# --- addresses


def no_loopback(address):
    return "it is a loopback address" if address.is_loopback else None


@pytest.mark.parametrize(
    "host", ["a.test", "127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]"]
)
async def test_a_refused_address_is_never_connected_to_however_it_is_written(make, origin, host):
    provider = make(policy=no_loopback, **({} if host == "a.test" else {"resolver": None}))
    error = await refusal(provider, f"http://{host}:{origin.port}/model.bin?sig={SECRET}")
    assert (type(error), error.reason) == (TerminalError, Reason.FORBIDDEN_ADDRESS)
    assert "loopback" in error.message
    assert origin.received == []


async def test_the_policy_is_asked_at_each_redirect(make, stack, origin):
    other = await stack.enter_async_context(Origin().serving())
    origin.scripts["/go"] = redirect(f"http://127.0.0.2:{other.port}/model.bin")

    def no_second(address):
        return "it is the second" if str(address) == "127.0.0.2" else None

    error = await refusal(make(policy=no_second), f"http://a.test:{origin.port}/go")
    assert error.reason is Reason.FORBIDDEN_ADDRESS
    assert other.received == []


async def test_a_host_with_a_permitted_address_is_reached_by_that_one(make, origin):
    def no_metadata(address):
        return "metadata" if str(address) == "169.254.169.254" else None

    provider = make(policy=no_metadata, resolver=Names("169.254.169.254", "127.0.0.1"))
    assert (await one(provider, f"http://a.test:{origin.port}/model.bin")).size == len(CONTENT)
    provider = make(policy=no_metadata, resolver=Names("169.254.169.254"))
    assert (await refusal(provider, "http://a.test/latest/meta-data")).reason is Reason.FORBIDDEN_ADDRESS
