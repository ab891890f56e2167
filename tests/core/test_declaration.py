"""What is declared of bytes: every file of a list, and no other (integrity by declaration)."""

import hashlib
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.core.declaration import Declaration, DigestListError, difference, parse_digest_list

NAMES = (
    st.text(string.ascii_letters + string.digits + " -_é", min_size=1, max_size=12)
    .map(str.strip)
    .filter(bool)
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
DIGESTS = st.binary(max_size=8).map(lambda raw: hashlib.sha256(raw).hexdigest())
LISTS = st.dictionaries(PATHS, DIGESTS, min_size=1, max_size=6)
ONE = "a" * 64


def gnu(digests):
    return "".join(f"{digest}  {path}\n" for path, digest in digests.items()).encode()


@given(LISTS, st.sampled_from(["{d}  {p}", "{d} *{p}", "SHA256 ({p}) = {d}", "{d}  ./{p}"]))
def test_what_sha256sum_writes_is_read_back(digests, form):
    raw = "".join(form.format(d=digest, p=path) + "\n" for path, digest in digests.items()).encode()
    assert parse_digest_list(raw) == digests


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_no_list_and_nothing_else(raw):
    try:
        digests = parse_digest_list(raw)
    except DigestListError:
        return
    assert digests
    assert all(len(digest) == 64 for digest in digests.values())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "lists nothing"),
        (b"# only words\n", "lists nothing"),
        (b"\xff", "UTF-8"),
        (f"{ONE}  a\nnonsense\n".encode(), "line 2"),
        (f"{ONE}  ../a\n".encode(), "line 1"),
        (f"{ONE}  /etc/passwd\n".encode(), "line 1"),
        (f"\\{ONE}  a\\nb\n".encode(), "line 1"),
        (f"{ONE}  a\n{'b' * 64}  a\n".encode(), "second digest"),
        (b"x" * (9 << 20), "more than"),
    ],
)
def test_what_is_no_list_is_told_with_its_line(raw, words):
    with pytest.raises(DigestListError, match=words):
        parse_digest_list(raw)


@given(LISTS)
def test_files_are_what_was_declared_only_if_they_are_just_those(digests):
    assert difference(digests, dict(digests)) is None


@given(LISTS, PATHS, DIGESTS)
def test_a_file_more_a_file_less_or_other_bytes_differ(digests, path, digest):
    assume(digests.get(path) != digest)
    assert path in (difference(digests, {**digests, path: digest}) or "")
    assert difference({**digests, path: digest}, digests) is not None


@given(LISTS, PATHS)
def test_what_is_ignored_may_be_there_but_may_not_be_other_than_declared(digests, path):
    assume(path not in digests)
    assert difference(digests, {**digests, path: ONE}, {path}) is None
    assert difference(digests, {**digests, f"{path}/in": ONE}, {path}) is None
    assert difference({**digests, path: "b" * 64}, {**digests, path: ONE}, {path}) is not None


def test_a_digest_and_a_list_are_told_apart():
    assert (Declaration(ONE).digest, Declaration(ONE).listing) == (ONE, None)
    assert (Declaration("SHA256SUMS").digest, Declaration("SHA256SUMS").listing) == (None, "SHA256SUMS")
    assert Declaration("a/b", "model.sig").checks == {"sha256:a/b", "signature:model.sig"}
    assert not Declaration()
