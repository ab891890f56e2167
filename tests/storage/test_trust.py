"""Who is trusted over https, and who we say we are."""

import asyncio
import contextlib
import ssl

import pytest
import trustme

from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.storage.gs import GsProvider
from agent.storage.proxies import Proxies
from agent.storage.s3_client import S3Client
from agent.storage.s3_settings import s3_settings
from agent.storage.trust import trust_of
from tests.fakes.faulty_origin import FaultyOrigin
from tests.fakes.tls import server_tls


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def origin(authority):
    context = server_tls(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    with FaultyOrigin(context=context) as origin:
        origin.put("/x", b"bytes")
        yield origin


def environ_of(authority, folder, *, one_file):
    issued, bundle = authority.issue_cert("agent.test"), folder / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    certificate, key = folder / "tls.crt", folder / "tls.key"
    issued.cert_chain_pems[0].write_to_path(certificate)
    environ = {"CA_BUNDLE": str(bundle), "AWS_CA_BUNDLE": str(bundle), "STORAGE_CERT_FILE": str(certificate)}
    if one_file:
        issued.private_key_pem.write_to_path(certificate, append=True)
        return environ
    issued.private_key_pem.write_to_path(key)
    return environ | {"STORAGE_KEY_FILE": str(key)}


async def answer(origin, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", origin.port, ssl=context)
    writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
    line = await reader.readline()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()  # over TLS that takes a while, and the loop may end before
    return line


@pytest.mark.parametrize("one_file", [True, False])
async def test_a_server_that_asks_who_we_are_is_shown_the_certificate(origin, authority, tmp_path, one_file):
    environ = environ_of(authority, tmp_path, one_file=one_file)
    context = await trust_of(environ).context()
    assert await answer(origin, context) == b"HTTP/1.1 200 Said\r\n"


@pytest.mark.parametrize("one_file", [True, False])
async def test_s3_shows_it_too_for_lists_and_for_bytes(origin, authority, tmp_path, one_file):
    environ = environ_of(authority, tmp_path, one_file=one_file)
    environ |= {"AWS_ENDPOINT_URL": origin.url, "awsAnonymousCredential": "true"}
    client = S3Client(s3_settings(environ), Proxies())
    assert await answer(origin, client.address("bucket").ssl_context) == b"HTTP/1.1 200 Said\r\n"
    with pytest.raises(TerminalError) as caught:
        await asyncio.to_thread(client.head, "bucket", "none")
    assert caught.value.reason is Reason.NOT_FOUND  # it was let in


async def test_gs_trusts_the_bundle_and_shows_the_certificate_too(origin, authority, tmp_path):
    environ = environ_of(authority, tmp_path, one_file=False) | {"STORAGE_EMULATOR_HOST": origin.url}
    nothing = {"STORAGE_EMULATOR_HOST": origin.url}
    for given, reason in ((environ, Reason.NOT_FOUND), (nothing, Reason.TLS_ERROR)):
        provider = GsProvider(given)
        with pytest.raises(TerminalError) as caught:
            await provider.resolve("gs://bucket/none")
        await provider.close()
        assert caught.value.reason is reason


async def test_a_certificate_that_was_renewed_is_taken_up(origin, authority, tmp_path):
    environ = environ_of(authority, tmp_path, one_file=True)
    trust = trust_of(environ)
    first = await trust.context()
    assert await trust.context() is first
    environ_of(authority, tmp_path, one_file=True)
    renewed = await trust.context()
    assert renewed is not first
    assert await answer(origin, renewed) == b"HTTP/1.1 200 Said\r\n"


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_certificate_that_cannot_be_used_is_told_with_the_variable(tmp_path, content):
    file = tmp_path / "tls.crt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TerminalError) as caught:
        await trust_of({"STORAGE_CERT_FILE": str(file)}).context()
    assert caught.value.reason is Reason.TLS_ERROR
    assert f"STORAGE_CERT_FILE {file}" in caught.value.message
