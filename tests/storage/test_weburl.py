"""http URLs as values: what is sent, of whom, and what is never shown."""

import base64
import json
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from agent.core.errors import TerminalError
from agent.core.paths import relative_path
from agent.storage.weburl import credentials, file_name, redirected, web_url

CANARY = "c4n4ry"
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)
PATHS = st.text(alphabet=st.sampled_from("ab/.%2F?é #&=+;@:\\~"), max_size=20)


@given(PATHS, TEXT)
def test_no_secret_of_a_url_is_in_its_key_its_repr_or_what_is_shown(path, tail):
    secret = quote(tail, safe="") + CANARY
    url = web_url(f"https://{secret}:{secret}@host.test/{path.replace('?', '')}?sig={secret}#{secret}")
    for shown in (url.key, url.shown, repr(url), str(url)):
        assert CANARY not in shown
    assert "@host" not in url.request


@given(PATHS)
def test_parsing_what_is_sent_changes_nothing_more(path):
    url = web_url(f"http://host.test/{path}")
    again = web_url(url.request)
    assert again.request == url.request
    assert url.request.isascii()
    assert str(URL(url.request, encoded=True)) == url.request


@given(TEXT)
def test_an_encoded_name_comes_back_as_the_files_name_or_is_refused(name):
    url = web_url(f"http://host.test/folder/{quote(name, safe='')}?x=y")
    try:
        found = file_name(url, None)
    except TerminalError:
        return
    last = name.rpartition("/")[2]
    assert found == (last or "model")
    assert relative_path(found) == found
    assert "/" not in found


@given(
    st.one_of(
        st.text(st.characters(), max_size=60),
        st.text(alphabet=st.sampled_from("aZ1.:/@\\[]%?# é\t-"), max_size=20),
    )
)
def test_any_text_is_a_url_of_one_host_or_is_refused(text):
    for uri in (text, f"http://{text}", f"https://good.test{text}"):
        try:
            url = web_url(uri)
        except TerminalError as error:
            assert error.reason == "InvalidStorageUri"  # noqa: PT017 - both outcomes are right
            continue
        # what connects reads the same host as what judges it
        seen = URL(url.request, encoded=True)
        assert (seen.raw_host or "") == url.origin.hostname
        assert seen.port == url.origin.port
        assert seen.user is None


@given(st.text(max_size=60), st.sampled_from(["http", "https"]))
def test_a_redirect_never_goes_down_nor_keeps_userinfo(location, scheme):
    start = web_url(f"{scheme}://user:pw@host.test/a/b?c")
    try:
        target = redirected(start, location)
    except TerminalError as error:
        assert error.reason == "RedirectRefused"  # noqa: PT017 - both outcomes are right
        return
    assert target.userinfo is None
    assert target.origin.scheme == "https" or scheme == "http"


@given(
    st.binary(max_size=40), st.sampled_from(["", "attachment; filename=", "attachment; filename*=utf-8''"])
)
def test_whatever_bytes_a_disposition_has_a_file_gets_a_plain_name(raw, before):
    """aiohttp gives bytes that are no UTF-8 as lone surrogates."""
    name = file_name(web_url("https://host.test/folder/"), before + raw.decode("utf-8", "surrogateescape"))
    assert relative_path(name) == name


@pytest.mark.parametrize(
    ("uri", "host", "port"),
    [
        ("http://A.Test/x", "a.test", 80),
        ("HTTPS://a.test:8443/x", "a.test", 8443),
        ("http://user@a.test:80", "a.test", 80),
        ("http://good.test@evil.test/", "evil.test", 80),
        ("http://bücher.test/", "xn--bcher-kva.test", 80),
        ("http://[::1]:81/", "::1", 81),
    ],
)
def test_the_origin_is_what_follows_the_userinfo(uri, host, port):
    origin = web_url(uri).origin
    assert (origin.hostname, origin.port) == (host, port)


@pytest.mark.parametrize(
    "uri", ["http://evil.test\\@good.test/", "http://a.test%2f@b.test\\.c.test/", "http://a.test#@b.test:x/"]
)
def test_a_back_slash_or_a_hash_does_not_hide_a_host(uri):
    try:
        host = web_url(uri).origin.hostname
    except TerminalError:
        return
    assert host in {"good.test", "a.test"}


def test_variables_are_found_by_host_without_port_whatever_the_case():
    headers = json.dumps({"X-Key": "1"})
    for name in ("a.test-headers", "A.Test-headers", "a.test-HEADERS"):
        assert credentials({name: headers}, web_url("https://A.test:8443/x")) == {"X-Key": "1"}
    assert credentials({"b.test-headers": headers}, web_url("https://a.test/x")) == {}
    assert credentials({"::1-headers": headers}, web_url("http://[::1]:80/x")) == {"X-Key": "1"}


def test_custom_headers_win_over_userinfo():
    headers = json.dumps({"authorization": "Bearer t"})
    assert credentials({"a.test-headers": headers}, web_url("https://u:p@a.test/")) == {
        "authorization": "Bearer t"
    }


@given(
    st.dictionaries(
        st.text(max_size=10), st.one_of(st.text(max_size=10), st.integers(), st.none()), min_size=1
    )
)
def test_headers_are_taken_whole_or_refused_without_their_content(content):
    content[f"X-{CANARY}"] = CANARY
    try:
        taken = credentials({"a.test-headers": json.dumps(content)}, web_url("https://a.test/"))
    except TerminalError as error:
        assert (error.reason, CANARY in str(error)) == ("InvalidCredentials", False)  # noqa: PT017 - as well
    else:
        assert taken == content
        assert all("\n" not in value and "\r" not in value for value in taken.values())


@given(TEXT, TEXT)
def test_userinfo_is_decoded_once(user, password):
    text = f"https://{quote(user, safe='')}:{quote(password, safe='')}@a.test/"
    sent = credentials({}, web_url(text))
    if user or password:
        name, _, secret = base64.b64decode(sent["Authorization"].split()[1]).decode().partition(":")
        assert (name, secret) == (user, password) or ":" in user
    assert unquote(quote(user)) == user
