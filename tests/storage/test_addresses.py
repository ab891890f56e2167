"""Fault X1: the addresses that kernels and networks take for the same place are judged alike."""

import socket

import pytest

from agent.core.errors import TerminalError
from agent.core.reach import Denied, networks
from agent.core.reasons import Reason
from agent.storage.addresses import refusal
from agent.storage.http import HttpProvider
from tests.fakes.origin import Origin, redirect

METADATA = Denied(networks("metadata"))
POD = Denied(networks("metadata,loopback"))


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "fe80::1%eth0",
        "100.100.100.200",
        "168.63.129.16",
    ],
)
def test_metadata_is_refused_in_every_form_of_its_address(address):
    assert refusal(METADATA, address)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_the_pod_itself_is_refused_where_it_is_named(address):
    assert refusal(POD, address)
    assert refusal(METADATA, address) is None


@pytest.mark.parametrize("address", ["10.0.0.1", "8.8.8.8", "2606:4700::1", "fd12::1"])
def test_all_else_is_permitted(address):
    assert refusal(POD, address) is None


@pytest.mark.parametrize(
    "host", ["127.1", "0177.0.0.1", "0x7f000001", "2130706433", "localhost", "[::1]", "[::ffff:7f00:1]", "0"]
)
async def test_the_servers_admin_port_is_never_reached_by_any_spelling(host):
    async with Origin().serving() as origin:
        provider = HttpProvider({}, policy=POD)
        try:
            with pytest.raises(TerminalError) as caught:
                await provider.resolve(f"http://{host}:{origin.port}/v2/repository/models/m/unload")
        finally:
            await provider.close()
        assert caught.value.reason in {Reason.FORBIDDEN_ADDRESS, Reason.INVALID_STORAGE_URI}
        assert origin.received == []


async def test_a_host_that_is_not_named_is_not_asked_even_behind_a_redirect():
    async with Origin().serving() as origin:
        origin.put("/x", b"x")
        origin.scripts["/go"] = redirect(f"http://localhost:{origin.port}/x")
        provider = HttpProvider({}, allowed_hosts=("127.0.0.1",))
        try:
            await provider.resolve(f"http://127.0.0.1:{origin.port}/x")
            asked = len(origin.received)
            with pytest.raises(TerminalError) as caught:
                await provider.resolve(f"http://127.0.0.1:{origin.port}/go")
        finally:
            await provider.close()
        assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
        assert "localhost" in caught.value.message
        assert {each.target for each in origin.received[asked:]} == {"/go"}


class Rebinding:
    """A name that is harmless when it is looked at and the loopback when it is used."""

    def __init__(self):
        self.answers = iter(["192.0.2.1", "127.0.0.1", "127.0.0.1"])

    async def resolve(self, host, port=0, family=socket.AF_INET):
        address = next(self.answers)
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self):
        pass


async def test_a_name_that_changes_its_mind_is_judged_by_what_is_connected():
    async with Origin().serving() as origin:
        names = Rebinding()
        next(names.answers)  # somebody looked at the harmless answer
        provider = HttpProvider({}, policy=POD, resolver=names)
        try:
            with pytest.raises(TerminalError) as caught:
                await provider.resolve(f"http://rebind.test:{origin.port}/x")
        finally:
            await provider.close()
        assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
        assert origin.received == []
