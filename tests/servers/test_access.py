"""A model server that asks for a token and shows a certificate of its own authority (fault X10)."""

import ssl
from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from agent.servers.wire import Access, Lost, Unreached, Wire
from tests.fakes.tls import server_tls


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@asynccontextmanager
async def serving(tls=None, port=0):
    async def answer(request):
        return web.Response(text=request.headers.get("Authorization", "nothing"))

    app = web.Application()
    app.router.add_get("/who", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def heard(wire):
    return (await wire.get("/who", seconds=5)).body.decode()


async def test_the_token_is_shown_and_a_rotated_one_counts_at_once(tmp_path):
    file = tmp_path / "token"
    async with serving() as url:
        wire = Wire(url, access=Access(token_file=file))
        with pytest.raises(Unreached, match="cannot be used"):
            await heard(wire)
        for token in ("one", "two"):
            file.write_text(f"{token}\n")
            assert await heard(wire) == f"Bearer {token}"
            other = wire.unkept()
            assert await heard(other) == f"Bearer {token}"
            await other.close()
        await wire.close()


async def test_a_certificate_of_our_own_authority_is_trusted_and_of_another_is_not(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(server_tls(authority, "127.0.0.1")) as url:
        wire = Wire(url, access=Access(ca_file=tmp_path / "ca.pem"))
        assert await heard(wire) == "nothing"
        await wire.close()
        wire = Wire(url)
        with pytest.raises((Unreached, Lost), match="not trusted"):
            await heard(wire)
        await wire.close()


def asking_for_certificates(authority):
    context = server_tls(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    return context


def write_client(authority, folder):
    client = authority.issue_cert("agent.example")
    client.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in client.cert_chain_pems))
    authority.cert_pem.write_to_path(folder / "ca.pem")


async def test_a_server_that_asks_for_a_client_certificate_is_shown_one(authority, tmp_path):
    write_client(authority, tmp_path)
    ca, cert, key = (tmp_path / f"{each}.pem" for each in ("ca", "cert", "key"))
    async with serving(asking_for_certificates(authority)) as url:
        for access in (Access(ca_file=ca, cert_file=cert, key_file=key), Access(None, ca, both(cert, key))):
            wire = Wire(url, access=access)
            assert await heard(wire) == "nothing"
            other = wire.unkept()
            assert await heard(other) == "nothing"
            await other.close()
            await wire.close()
        wire = Wire(url, access=Access(ca_file=ca))
        with pytest.raises((Unreached, Lost)):
            await heard(wire)
        await wire.close()


def both(cert, key):
    file = cert.with_name("both.pem")
    file.write_bytes(key.read_bytes() + cert.read_bytes())
    return file


async def test_a_rotated_authority_and_certificate_count_at_once(authority, tmp_path):
    """The server changes to another authority, and the files follow as the kubelet lets them."""
    old, new, files = tmp_path / "old", tmp_path / "new", tmp_path / "files"
    authorities = {old: authority, new: trustme.CA()}
    for folder, made_by in authorities.items():
        folder.mkdir()
        write_client(made_by, folder)
    files.symlink_to(old)
    wire = None
    for folder, made_by in authorities.items():
        async with serving(asking_for_certificates(made_by), port_of(wire)) as url:
            access = Access(
                ca_file=files / "ca.pem", cert_file=files / "cert.pem", key_file=files / "key.pem"
            )
            wire = wire or Wire(url, access=access)
            if folder is new:
                with pytest.raises((Unreached, Lost), match="not trusted"):
                    await heard(wire)
                (tmp_path / "swap").symlink_to(new)
                (tmp_path / "swap").rename(files)
            assert await heard(wire) == "nothing"
    await wire.close()


def port_of(wire):
    return int(wire.where.rpartition(":")[2]) if wire is not None else 0


async def test_a_key_that_asks_for_a_password_is_told_and_asks_nobody(authority, tmp_path):
    write_client(authority, tmp_path)
    key = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    )
    wire = Wire("https://127.0.0.1:1", access=Access(None, None, tmp_path / "cert.pem", tmp_path / "key.pem"))
    with pytest.raises(Unreached, match="cannot be used"):
        await heard(wire)
    await wire.close()


async def test_a_ca_file_that_is_none_is_told_and_nothing_is_sent(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    async with serving() as url:
        wire = Wire(url, access=Access(ca_file=tmp_path / "ca.pem"))
        with pytest.raises(Unreached, match="cannot be used"):
            await heard(wire)
        await wire.close()
