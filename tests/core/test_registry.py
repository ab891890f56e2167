"""What a registry asks for and what docker's config.json answers."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, TerminalError
from agent.core.oci import reference_of
from agent.core.reasons import Reason
from agent.core.registry import (
    DEFAULT_SECONDS,
    LONGEST_SECONDS,
    Challenge,
    Login,
    challenge_of,
    login_of,
    token_of,
)

HERE = reference_of("oci://r.example:5000/team/model")
HUB = reference_of("oci://docker.io/org/m")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def login(document, reference=HERE):
    return login_of(json.dumps(document), reference, "/config.json")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Bearer realm="https://a/t?x=1",service="s",scope="repository:a/b:pull"',
         Challenge("https://a/t?x=1", "s", "repository:a/b:pull")),
        ("bearer realm=https://a/t", Challenge("https://a/t")),
        (r'Bearer realm="https://a/t", service="a \"b\""', Challenge("https://a/t", 'a "b"')),
        ('Basic realm="x"', Challenge()),
        ('Negotiate, Basic realm="x"', Challenge()),
        ("Negotiate YII=, Basic", Challenge()),
        ('Digest realm="x", nonce="y", Bearer realm="https://a"', Challenge("https://a")),
        ("", None),
        ('Digest realm="x"', None),
        ("Bearer", None),
    ],
)  # fmt: skip
def test_a_challenge_is_read(header, found):
    assert challenge_of(header) == found


@given(st.text(max_size=60) | st.text('Bbearsic Rlm="\\,x ', max_size=60))
def test_any_header_is_a_challenge_or_none(header):
    assert challenge_of(header) is None or isinstance(challenge_of(header), Challenge)


@pytest.mark.parametrize(
    "auths",
    [
        {"r.example:5000": {"auth": encoded("u:p:w")}},
        {"https://r.example:5000": {"username": "u", "password": "p:w"}},
        {"https://R.example:5000/v2/": {"auth": encoded("u:p:w")}, "r.example": {"auth": encoded("a:b")}},
        {"r.example:5000/team": {"auth": encoded("u:p:w")}, "r.example:5000": {"auth": encoded("a:b")}},
        {"r.example:5000/other": {"auth": encoded("a:b")}, "r.example:5000": {"auth": encoded("u:p:w")}},
        {"r.example:5000/tea": {"auth": encoded("a:b")}, "r.example:5000": {"auth": encoded("u:p:w\0")}},
    ],
)
def test_what_fits_a_registry_best_is_taken(auths):
    assert login({"auths": auths}) == Login("u", "p:w")


def test_docker_hub_has_several_names():
    assert login({"auths": {"https://index.docker.io/v1/": {"auth": encoded("u:p")}}}, HUB) == Login("u", "p")


def test_an_identity_token_is_taken_and_a_missing_registry_has_no_login():
    token = {"auth": encoded("00000000-0000-0000-0000-000000000000:"), "identitytoken": "t0ken"}
    assert login({"auths": {"r.example:5000": token}}).identity_token == "t0ken"
    assert login({"auths": {"r.example": token}}) is None
    assert login({"auths": {"r.example:5000": {}}}) is None
    assert login({"credsStore": "desktop"}) is None
    assert login({}) is None


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no JSON object"),
        ({"credHelpers": {"r.example:5000": "ecr-login"}}, "no helper is run here"),
        ({"credsStore": "desktop", "auths": {"r.example:5000": {}}}, "no helper is run here"),
        ({"auths": {"r.example:5000": {"auth": "CANARY!"}}}, "no base64 of name:password"),
        ({"auths": {"r.example:5000": {"auth": encoded("CANARY")}}}, "no base64 of name:password"),
    ],
)
def test_what_cannot_be_used_is_told_without_what_is_in_it(document, said):
    with pytest.raises(TerminalError, match=said) as caught:
        login(document)
    assert caught.value.reason is Reason.INVALID_CREDENTIALS
    assert caught.value.message.startswith("/config.json")
    assert "CANARY" not in caught.value.message


def test_nothing_secret_is_in_what_is_shown():
    shown = repr([Login("u", "CANARY", "CANARY"), token_of(b'{"token":"CANARY"}', "x")])
    assert "CANARY" not in shown


JSON = st.recursive(
    st.none() | st.text(max_size=6) | st.integers() | st.just(encoded("a:b")),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["auths", "auth", "r.example:5000", "credHelpers"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_any_config_is_a_login_none_or_told(document):
    try:
        assert login(document) is None or isinstance(login(document), Login)
    except TerminalError as error:
        assert error.reason is Reason.INVALID_CREDENTIALS  # noqa: PT017 - it may as well be read


@given(
    st.none()
    | st.lists(st.just(1), max_size=1)
    | st.fixed_dictionaries(
        {"token": st.none() | st.text(max_size=5)},
        optional={
            "expires_in": st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
        },
    )
)
def test_a_token_is_good_for_a_bounded_time_or_is_none(document):
    try:
        token = token_of(json.dumps(document).encode(), "the server")
    except AgentError as error:
        assert error.reason is Reason.STORAGE_ERROR  # noqa: PT017 - it may as well be one
    else:
        assert token.value.isascii()
        assert token.value.isprintable()
        assert 0 < token.seconds <= LONGEST_SECONDS


def test_a_token_that_does_not_say_how_long_it_is_good_is_so_for_a_minute():
    assert token_of(b'{"access_token": "x"}', "the server").seconds == DEFAULT_SECONDS
