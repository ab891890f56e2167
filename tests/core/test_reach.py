"""What a storageUri may reach: prefixes that end where segments end, hosts, and networks by name."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.reach import Denied, host_allowed, networks, prefixes, uri_refusal

ALLOWED = ("s3://models/team-a", "https://hub.test/", "/mnt/pvc/a")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://models/team-a",
        "s3://models/team-a/iris",
        "S3://models/team-a/iris",
        "https://hub.test/x.tar?version=1",
        "https://HUB.test/x",
        "file:///mnt/pvc/a/model",
        "/mnt/pvc/a",
    ],
)
def test_what_is_under_a_prefix_is_let_through(uri):
    assert uri_refusal(uri, ALLOWED) is None


@pytest.mark.parametrize(
    "uri",
    [
        "s3://models/team-ab/iris",
        "s3://models/team-a-secret",
        "s3://models/Team-a/iris",
        "s3://models",
        "s3://models/team-a/../team-b/iris",
        "s3://models/team-a/%2e%2e/team-b",
        "s3://models/team-a/%252e%252e/team-b",
        "s3://models/team-a/..\\..\\x",
        "https://hub.test@evil.test/x",
        "https://hub.test.evil.test/x",
        "https://hub.test:8443/x",
        "https://hub.test\\@evil.test/x",
        "http://hub.test/x",
        "gs://models/team-a/iris",
        "/mnt/pvc/ab",
        "/mnt/pvc/a/../b",
    ],
)
def test_what_is_beside_or_climbs_is_refused(uri):
    assert "--allow-uri" in uri_refusal(uri, ALLOWED)


@given(st.text(max_size=40))
def test_any_text_is_let_through_or_refused_and_without_a_list_all_passes(text):
    assert uri_refusal(text, ()) is None
    refused = uri_refusal(text, ALLOWED)
    assert refused is None or "--allow-uri" in refused


def test_a_refusal_shows_no_secret():
    assert "CANARY" not in uri_refusal("https://user:CANARY@evil.test/x?sig=CANARY#CANARY", ALLOWED)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("hub.test", True),
        ("HUB.test.", True),
        ("a.cdn.test", True),
        ("cdn.test", False),
        ("hub.test.evil", False),
    ],
)
def test_a_host_is_named_or_below_a_named_domain(host, allowed):
    assert host_allowed(host, ("hub.test", "*.cdn.test")) is allowed
    assert host_allowed(host, ())


def test_networks_are_named_by_group_or_written_out():
    denied = Denied(networks("metadata, 10.0.0.0/8"))
    assert "169.254.0.0/16" in denied(ip_address("169.254.169.254"))
    assert denied(ip_address("fd00:ec2::254"))
    assert denied(ip_address("10.1.2.3"))
    assert denied(ip_address("127.0.0.1")) is None
    assert networks("none") == ()


@pytest.mark.parametrize("text", ["metadate", "10.0.0.1/8", "::1/129", "1.2.3"])
def test_what_is_no_network_is_named(text):
    with pytest.raises(ValueError, match=text.replace(".", r"\.")):
        networks(text)


def test_a_prefix_has_a_scheme():
    with pytest.raises(ValueError, match="models"):
        prefixes("s3://a,models")
