"""Keys to files: the law of the prefix, for any keys at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import TerminalError
from agent.core.paths import relative_path
from agent.core.reasons import Reason
from agent.storage.base import RemoteObject
from agent.storage.buckets import Location, check_count, choose, location, path_below
from agent.storage.identities import identity_of, pins_of

SEGMENT = st.text("ab.0é ", min_size=1, max_size=4).filter(lambda part: part not in {".", ".."})
KEY = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)
ANY_KEY = st.text(max_size=40)


def file(path, size=1):
    return RemoteObject(path=path, key=path, size=size, identity=path)


@given(KEY, ANY_KEY)
def test_what_is_laid_down_is_a_plain_relative_path_below_the_prefix(folder, rest):
    place = Location("s3", "b", folder)
    try:
        path = path_below(place.prefix, place.prefix + rest)
    except TerminalError as error:
        assert error.reason is Reason.INVALID_OBJECT_KEY  # noqa: PT017 - refusing is right as well
    else:
        assert path is None or (relative_path(path) == path and f"{folder}/{path}" == place.prefix + rest)


@given(KEY, KEY)
def test_a_prefix_ends_with_a_slash_so_no_sibling_begins_with_it(folder, tail):
    place = Location("s3", "b", folder)
    assert place.prefix.endswith("/")
    assert not f"{folder}{tail}".startswith(place.prefix) or tail.startswith("/")


@given(
    st.text(),
    st.dictionaries(st.text("abc", min_size=1), st.text(), min_size=1, max_size=3),
    st.integers(min_value=0),
)
def test_an_identity_tells_the_pins_and_the_size_that_it_was_made_of(name, pins, size):
    assert pins_of(identity_of(name, pins, size)) == {**pins, "size": str(size)}


@given(st.from_regex(r"\A[a-z0-9][a-z0-9.-]{2,20}\Z"), ANY_KEY)
def test_a_uri_is_split_and_never_decoded(bucket, key):
    place = location(f"S3://{bucket}/{key}")
    assert (place.scheme, place.bucket, place.key) == ("s3", bucket, key)


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///key", "s3://user:secret@bucket/key", "s3://bu cket/k", "s3://b?x=1"]
)
def test_a_uri_without_a_bucket_is_refused_and_shows_no_secret(uri):
    with pytest.raises(TerminalError) as caught:
        location(uri)
    assert caught.value.reason is Reason.INVALID_STORAGE_URI
    assert "secret" not in caught.value.message


@given(st.sets(KEY, max_size=6), st.none() | st.integers(0, 2))
def test_a_listing_is_the_object_or_the_folder_and_never_both(paths, single_size):
    place = Location("s3", "b", "m")
    single = None if single_size is None else file("m", single_size)
    below = [file(path) for path in paths]
    try:
        listing = choose(place, single, below)
    except TerminalError as error:
        reason = error.reason
    else:
        reason = None
    if reason is not None:
        assert reason in {Reason.NOT_FOUND, Reason.INVALID_OBJECT_KEY}
        assert (reason is Reason.NOT_FOUND) == (single is None and not below)
        return
    assert listing.single == (single is not None and (single_size > 0 or not below))
    assert [obj.path for obj in listing.objects] == (["m"] if listing.single else sorted(paths))


def test_a_listing_without_end_is_refused():
    with pytest.raises(TerminalError):
        check_count(1_000_001, Location("s3", "b", "m"))
