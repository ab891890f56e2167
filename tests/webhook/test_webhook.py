import asyncio
import contextlib
import io
import itertools
import json
import ssl

import aiohttp
import pytest
import trustme
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from agent.aio.door import DoorLimits
from agent.core.errors import TerminalError
from agent.core.validation import faults
from agent.webhook.review import ReviewError, answer
from agent.webhook.server import PATH, make_app, serve_webhook
from tests.core.trainedmodels import ANY, trained_model

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "apiVersion",
                    "kind",
                    "request",
                    "uid",
                    "object",
                    "oldObject",
                    "operation",
                    "metadata",
                    "spec",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


def review(obj, old=None, operation="CREATE", version="v1"):
    request = {"uid": "u", "operation": operation, "object": obj, "oldObject": old}
    return {"apiVersion": f"admission.k8s.io/{version}", "kind": "AdmissionReview", "request": request}


def ask(*args, **options):
    return answer(json.dumps(review(*args, **options)).encode())


@given(ANY)
def test_the_webhook_allows_what_has_no_fault_and_tells_the_first_of_the_others(obj):
    response = ask(obj)["response"]
    found = faults(obj)
    assert (response["uid"], response["allowed"]) == ("u", not found)
    if found:
        assert response["status"]["message"] == found[0].message


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_the_answer_has_the_version_of_the_question(version):
    assert ask(trained_model(), version=version)["apiVersion"] == f"admission.k8s.io/{version}"


def test_an_update_may_not_change_memory_and_a_deletion_is_always_allowed():
    changed = ask(trained_model(memory="2Gi"), trained_model(memory="1Gi"), "UPDATE")["response"]
    assert "memory field is immutable" in changed["status"]["message"]
    assert ask(None, trained_model(), "DELETE")["response"]["allowed"]
    going = trained_model("a.b", deletionTimestamp="2026-01-01T00:00:00Z")
    assert ask(going, trained_model("a.b"), "UPDATE")["response"]["allowed"]


@given(st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_answered_or_refused(body):
    with contextlib.suppress(ReviewError):
        assert answer(body)["kind"] == "AdmissionReview"


@pytest.fixture
async def client():
    async with TestClient(TestServer(make_app())) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (json.dumps(review(trained_model())).encode(), 200),
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"[]", 400),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v2"}', 400),
        (json.dumps(review(None)).encode(), 400),
        (b" " * (3 * 2**20), 413),
    ],
)
async def test_what_is_no_review_is_400_or_413_and_never_500(client, body, status):
    async with client.post(PATH, data=io.BytesIO(body)) as answered:
        assert answered.status == status


@pytest.mark.parametrize("operation", [[], {}, None, 5])
async def test_an_operation_that_is_no_word_is_400(client, operation):
    body = json.dumps(review(trained_model(), operation=operation)).encode()
    async with client.post(PATH, data=io.BytesIO(body)) as answered:
        assert (answered.status, await answered.text()) == (
            400,
            "request.operation is no string such as CREATE",
        )


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_packed_as_it_says_is_400(client, encoding):
    headers = {"Content-Encoding": encoding}
    async with client.post(PATH, data=io.BytesIO(b"{}" * 50), headers=headers) as answered:
        assert answered.status == 400


async def test_a_body_that_does_not_come_is_400_and_holds_nobody_up():
    async with TestServer(make_app(body_seconds=0.3)) as server, TestClient(server) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{{".encode())
        async with client.post(PATH, json=review(trained_model())) as answered:
            assert answered.status == 200
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_client_that_says_nothing_is_put_out(tmp_path):
    write(trustme.CA().issue_cert("127.0.0.1"), tmp_path)
    listening = asyncio.get_running_loop().create_future()
    limits = DoorLimits(head_seconds=0.2)
    files = (tmp_path / "tls.crt", tmp_path / "tls.key")
    async with asyncio.TaskGroup() as group:
        served = group.create_task(serve_webhook("127.0.0.1", 0, *files, listening=listening, limits=limits))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for tls in (None, context):
            reader, writer = await asyncio.open_connection("127.0.0.1", await listening, ssl=tls)
            writer.write(b"POST / HTTP/1.1\r\n" if tls else b"")
            with contextlib.suppress(OSError):
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        served.cancel()


async def test_other_paths_and_methods_are_refused(client):
    assert (await client.get(PATH)).status == 405
    assert (await client.post("/other")).status == 404
    assert (await client.get("/healthz")).status == 200


def write(leaf, folder):
    leaf.private_key_pem.write_to_path(str(folder / "tls.key"))
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))


async def serial(port, authority, name=None, newest=ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.maximum_version = newest
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    found = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    await writer.wait_closed()
    return found


async def test_a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not(tmp_path):
    authority = trustme.CA()
    write(authority.issue_cert("127.0.0.1"), tmp_path)
    listening = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        served = group.create_task(
            serve_webhook(
                "127.0.0.1",
                0,
                tmp_path / "tls.crt",
                tmp_path / "tls.key",
                reload_seconds=0.02,
                listening=listening,
            )
        )
        port = await listening
        first = await serial(port, authority)
        write(authority.issue_cert("127.0.0.1"), tmp_path)
        async with asyncio.timeout(5):
            while await serial(port, authority) == first:
                await asyncio.sleep(0.02)
        second = await serial(port, authority)
        (tmp_path / "tls.crt").write_text("broken")
        await asyncio.sleep(0.1)
        assert await serial(port, authority) == second
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        async with aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{port}{PATH}"
            async with session.post(url, json=review(trained_model()), ssl=context) as answered:
                assert (await answered.json())["response"]["allowed"]
        served.cancel()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", [None, "webhook.test"])
async def test_no_handshake_fails_while_the_certificate_changes_all_the_time(tmp_path, name, newest):
    """One that began between the new certificate and its key would be reset."""
    authority = trustme.CA()
    leaves = [authority.issue_cert("127.0.0.1", "webhook.test") for _ in range(2)]
    write(leaves[0], tmp_path)
    listening = asyncio.get_running_loop().create_future()
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    async with asyncio.TaskGroup() as group:
        serving = serve_webhook("127.0.0.1", 0, *files, reload_seconds=0.001, listening=listening)
        served = group.create_task(serving)
        port, seen = await listening, set()
        for number in itertools.count():
            if number >= 40 and len(seen) == 2:
                break
            write(leaves[number % 2], tmp_path)
            seen |= set(await asyncio.gather(*(serial(port, authority, name, newest) for _ in range(2))))
        served.cancel()


async def test_a_certificate_that_cannot_be_used_at_start_is_told(tmp_path):
    with pytest.raises(TerminalError, match="certificate"):
        await serve_webhook("127.0.0.1", 0, tmp_path / "none", tmp_path / "none")
