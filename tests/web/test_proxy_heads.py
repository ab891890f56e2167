"""HTTP/1 heads and framings, as properties where one can be said."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.web.proxy_heads import CHUNKED, UNTIL_CLOSE, BadMessage, Chunks, read_request, read_response

PIECES = st.lists(st.binary(min_size=1, max_size=300), max_size=6)


def chunked(pieces, trailer=b""):
    body = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return body + b"0\r\n" + trailer + b"\r\n"


def cut(data, cuts):
    edges = sorted({0, len(data), *(each % (len(data) + 1) for each in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    PIECES, st.sampled_from([b"", b"X-Sum: 1\r\n"]), st.binary(max_size=40), st.lists(st.integers(0, 3000))
)
def test_a_chunked_body_ends_where_it_ends_however_it_is_cut(pieces, trailer, rest, cuts):
    body = chunked(pieces, trailer)
    chunks, seen = Chunks(), 0
    for piece in cut(body + rest, cuts):
        end = chunks.end(piece)
        if end >= 0:
            assert seen + end == len(body)
            return
        seen += len(piece)
    raise AssertionError("no end was found")


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"1\nA",
        b"1\r\nAB\r\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"x" * 9000,
        b"1;a\x00\r\nA\r\n",
        b"1;a\rb\r\nA\r\n",
        b"0\r\nX: \x01\r\n\r\n",
        b"0\r\nno field\r\n\r\n",
    ],
)
def test_a_chunked_body_that_is_none_is_refused(body):
    with pytest.raises(BadMessage):
        Chunks().end(body)


def request(*lines):
    return read_request(b"\r\n".join(lines), b"9.9.9.9")


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (400, [b"GET / HTTP/1.1", b"Content-Length: 1", b"Transfer-Encoding: chunked"]),
        (400, [b"GET / HTTP/1.1", b"Content-Length: 1", b"content-length: 2"]),
        (400, [b"GET / HTTP/1.1", b"Content-Length: 1, 1"]),
        (400, [b"GET / HTTP/1.1", b"Content-Length: +1"]),
        (400, [b"GET / HTTP/1.1", b"Content-Length : 1"]),
        (400, [b"GET / HTTP/1.1", b"A: b", b" folded"]),
        (400, [b"GET / HTTP/1.1", b"A: b\nContent-Length: 1"]),
        (400, [b"GET / HTTP/1.1", b"A: b\x00"]),
        (400, [b"GET / HTTP/1.1", b": empty"]),
        (400, [b"GET / HTTP/1.1", b"Host: a", b"host: b"]),
        (400, [b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"]),
        (400, [b"GET /a b HTTP/1.1"]),
        (400, [b"GET / HTTP/2.0"]),
        (405, [b"CONNECT a:1 HTTP/1.1"]),
        (501, [b"GET / HTTP/1.1", b"Transfer-Encoding: gzip, chunked"]),
    ],
)
def test_what_two_servers_could_read_differently_is_refused(status, lines):
    with pytest.raises(BadMessage) as caught:
        request(*lines)
    assert caught.value.status == status


def test_what_belongs_to_one_connection_stays_on_it():
    told = request(
        b"GET / HTTP/1.1", b"Host: a", b"Connection: keep-alive, X-Private, Host", b"Keep-Alive: 5",
        b"X-Private: 1", b"TE: gzip, trailers", b"Upgrade: h2c", b"Proxy-Connection: x", b"Accept: */*",
        b"Proxy-Authorization: Basic eDp5",
    )  # fmt: skip
    assert told.head.split(b"\r\n") == [
        b"GET / HTTP/1.1", b"Host: a", b"Accept: */*", b"TE: trailers", b"X-Forwarded-For: 9.9.9.9", b"", b"",
    ]  # fmt: skip
    assert (told.length, told.keep, told.upgrade) == (0, True, False)


def test_the_client_is_added_to_those_who_passed_it_on():
    told = request(
        b"GET / HTTP/1.1",
        b"X-Forwarded-For: 1.1.1.1, ::2",
        b"x-forwarded-proto: https",
        b"X-Forwarded-Host: h",
    )
    assert b"X-Forwarded-For: 1.1.1.1, ::2, 9.9.9.9\r\n" in told.head
    assert b'Forwarded: for=1.1.1.1;host=h;proto=https, for="[::2]"\r\n' in told.head
    assert read_request(b"GET / HTTP/1.0", b"").head == b"GET / HTTP/1.0\r\n\r\n"


def test_an_upgrade_is_passed_on_as_one():
    told = request(b"GET / HTTP/1.1", b"Connection: keep-alive, Upgrade", b"Upgrade: websocket")
    assert told.upgrade
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in told.head


@pytest.mark.parametrize(
    ("method", "lines", "length", "keep"),
    [
        (b"GET", [b"HTTP/1.1 200 OK", b"Content-Length: 5"], 5, True),
        (b"GET", [b"HTTP/1.1 200", b"Transfer-Encoding: chunked"], CHUNKED, True),
        (b"GET", [b"HTTP/1.1 200 OK"], UNTIL_CLOSE, False),
        (b"HEAD", [b"HTTP/1.1 200 OK", b"Content-Length: 5"], 0, True),
        (b"GET", [b"HTTP/1.1 304 Not Modified", b"Content-Length: 5"], 0, True),
        (b"GET", [b"HTTP/1.1 204 No Content"], 0, True),
        (b"GET", [b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Connection: close"], 5, False),
        (b"GET", [b"HTTP/1.0 200 OK", b"Content-Length: 5"], 5, False),
        (b"GET", [b"HTTP/1.0 200 OK", b"Content-Length: 5", b"Connection: keep-alive"], 5, True),
    ],
)
def test_an_answers_end_is_known_from_its_head(method, lines, length, keep):
    told = read_response(b"\r\n".join(lines), method, closing=False)
    assert (told.length, told.keep) == (length, keep)
    assert (b"Connection: close" in told.head) == (length == UNTIL_CLOSE)


@pytest.mark.parametrize(
    "lines",
    [
        [b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"],
        [b"HTTP/1.1 204 No Content", b"Transfer-Encoding: chunked"],
        [b"HTTP/1.1 103 Early Hints", b"Transfer-Encoding: chunked"],
    ],
)
def test_an_answer_with_a_framing_that_it_cannot_have_is_refused(lines):
    with pytest.raises(BadMessage):
        read_response(b"\r\n".join(lines), b"GET", closing=False)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(head):
    for read in (lambda: read_request(head, b""), lambda: read_response(head, b"GET", closing=True)):
        try:
            told = read()
        except BadMessage:
            continue
        assert told.head.endswith(b"\r\n\r\n")
        assert told.head.count(b"\r\n\r\n") == 1
