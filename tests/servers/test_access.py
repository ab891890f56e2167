"""A model server that asks for a token and shows a certificate of its own authority (fault X10)."""

from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp import web

from agent.servers.wire import Access, Lost, Unreached, Wire
from tests.fakes.tls import server_tls


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@asynccontextmanager
async def serving(tls=None):
    async def answer(request):
        return web.Response(text=request.headers.get("Authorization", "nothing"))

    app = web.Application()
    app.router.add_get("/who", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
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


async def test_a_ca_file_that_is_none_is_told_and_nothing_is_sent(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    async with serving() as url:
        wire = Wire(url, access=Access(ca_file=tmp_path / "ca.pem"))
        with pytest.raises(Unreached, match="cannot be used"):
            await heard(wire)
        await wire.close()
