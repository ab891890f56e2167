"""Which proxy a request goes through."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import TerminalError
from agent.storage.proxies import bypassed, proxies_of, proxy_for

HOSTS = st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,3}", fullmatch=True)
PORTS = st.integers(1, 65535)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(st.lists(st.text(max_size=20)), st.text(max_size=20), PORTS)
def test_any_text_is_matched_without_an_error(entries, host, port):
    assert bypassed(tuple(entries), host, port) in {True, False}


@given(HOSTS, HOSTS, PORTS)
def test_a_domain_means_itself_and_what_is_below_it_and_nothing_beside_it(domain, label, port):
    assert bypassed((domain,), domain, port)
    assert bypassed((domain,), f"{label}.{domain}", port)
    assert not bypassed((domain,), f"x{domain}", port)
    assert not bypassed((f".{domain}",), domain, port)
    assert bypassed((f".{domain}",), f"{label}.{domain}", port)
    assert bypassed((f"*.{domain}",), f"{label}.{domain}", port)


@given(HOSTS, PORTS, PORTS)
def test_a_port_narrows_an_entry(host, port, other):
    assert bypassed((f"{host}:{port}",), host, other) == (port == other)


@given(ADDRESSES, st.integers(0, 32), ADDRESSES)
def test_a_network_means_the_addresses_in_it(base, bits, address):
    network = ip_network(f"{base}/{bits}", strict=False)
    mapped = getattr(address, "ipv4_mapped", None) or address
    inside = mapped.version == network.version and mapped in network
    assert bypassed((str(network),), str(address), 443) == (inside or mapped.is_loopback)


@given(ADDRESSES, ADDRESSES)
def test_an_address_means_itself(listed, address):
    same = (getattr(listed, "ipv4_mapped", None) or listed) == (
        getattr(address, "ipv4_mapped", None) or address
    )
    assert bypassed((str(listed),), str(address), 80) == (same or address.is_loopback)


@given(HOSTS, PORTS)
def test_a_star_means_every_host_and_no_list_means_none(host, port):
    assert bypassed(("*",), host, port)
    assert not bypassed((), host, port)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
)
def test_the_loopback_never_goes_through_a_proxy(host):
    proxies = proxies_of({"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:1"})
    assert proxy_for(proxies, "http", host, 80) is None


@pytest.mark.parametrize(
    ("environ", "http", "https"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://p:1"}, "http://p:1", None),
        ({"https_proxy": "p:1"}, None, "http://p:1"),
        ({"HTTP_PROXY": "", "http_proxy": "q"}, "http://q", None),
        ({"HTTPS_PROXY": "http://u:p@up:1", "https_proxy": "low:1"}, None, "http://u:p@up:1"),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": " other , H.test"}, None, None),
        ({"HTTP_PROXY": "p:1", "no_proxy": "h.test:81, [::2], 10.0.0.0/8"}, "http://p:1", None),
    ],
)
def test_the_variables_are_read_as_go_reads_them(environ, http, https):
    proxies = proxies_of(environ)
    assert proxy_for(proxies, "http", "h.test", 80) == http
    assert proxy_for(proxies, "https", "h.test", 443) == https


@pytest.mark.parametrize("url", ["https://p:1", "socks5://p:1", "http://", "http://p:0"])
def test_a_proxy_that_bytes_could_not_go_through_is_refused_before_anything_is_listed(url):
    with pytest.raises(TerminalError, match="HTTPS_PROXY is no http:// proxy"):
        proxies_of({"HTTPS_PROXY": url})


@given(st.text())
def test_a_proxy_is_usable_or_refused_and_its_password_never_shown(text):
    for value in (f"http://user:CANARY@{text}", f"{text}://user:CANARY@host"):
        try:
            proxies = proxies_of({"HTTPS_PROXY": value})
        except TerminalError as error:
            shown = error.message
        else:
            shown = f"HTTPS_PROXY {proxies}"
        assert "HTTPS_PROXY" in shown
        assert "CANARY" not in shown


def test_ipv6_entries_may_be_in_brackets_and_have_a_port():
    assert bypassed(("[2001:db8::1]",), "2001:db8::1", 80)
    assert bypassed(("[2001:db8::1]:80",), "2001:db8::1", 80)
    assert not bypassed(("[2001:db8::1]:81",), "2001:db8::1", 80)
    assert bypassed(("2001:db8::/32",), "2001:db8::1", 80)
    assert ip_address("2001:db8::1").version == 6
