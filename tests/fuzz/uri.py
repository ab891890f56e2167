"""URIs: nothing but the documented refusals, one reading of the host, no secret shown, no way out."""

from urllib.parse import unquote

from agent.core.errors import TerminalError
from agent.core.modelconfig import storage_uri_problem
from agent.core.oci import reference_of
from agent.core.paths import relative_path
from agent.core.reach import uri_refusal
from agent.core.uri import redacted, scheme_of
from agent.storage.buckets import location
from agent.storage.weburl import file_name, redirected, web_url

CANARY = "c4n4ryc4n4ry"
ALLOWED = ("s3://bucket/models", "https://good.test/models/")


def one(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    shown = redacted(text)
    if scheme_of(text) not in {"file", None}:
        assert "@" not in shown.partition("://")[2].partition("/")[0]
    storage_uri_problem(text)
    split(text)
    for uri in (text, f"s3://bucket/models/{text}", f"https://good.test/models/{text}"):
        confined(uri)
    secret(text)


def confined(uri: str) -> None:
    if uri_refusal(uri, ALLOWED) is None:
        path = unquote(uri.partition("?")[0])
        assert ".." not in path.split("/"), uri
        assert path.partition("://")[2].startswith(("bucket/models", "good.test/models/", "GOOD.TEST")) or (
            path.partition("://")[2].lower().startswith("good.test/models/")
        )


def split(text: str) -> None:
    for parse in (location, web_url, reference_of):
        try:
            found = parse(text)
        except TerminalError:
            continue
        str(found)
    try:
        url = web_url(f"https://good.test/{text}")
    except TerminalError:
        return
    assert url.origin.host == "good.test"
    assert web_url(url.request).request == url.request
    try:
        assert relative_path(file_name(url, text))
    except TerminalError:
        return
    try:
        target = redirected(url, text)
    except TerminalError:
        return
    assert target.origin.scheme == "https"
    assert target.userinfo is None


def secret(text: str) -> None:
    """A secret in userinfo, query or fragment shows in nothing, whatever stands beside it."""
    part = text.replace("/", "").replace("?", "").replace("#", "").replace("\\", "")
    for uri in (
        f"https://user:{CANARY}@host.test/{part}",
        f"https://host.test/{part}?{part}={CANARY}",
        f"https://host.test/{part}#{CANARY}{part}",
    ):
        assert CANARY not in redacted(uri), uri
        try:
            url = web_url(uri)
        except TerminalError as refused:
            assert CANARY not in str(refused)
            continue
        assert CANARY not in f"{url.shown} {url.key} {url!r} {url}"
