"""Which repository of the Hub, at which revision and what in it, an `hf://` URI names."""

import pytest

from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.storage.hf_uri import place_of


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("hf://owner/model", ("models", "owner/model", "main", "")),
        ("hf://models/owner/model/", ("models", "owner/model", "main", "")),
        ("hf://owner/model:v1", ("models", "owner/model", "v1", "")),
        ("hf://owner/model:refs/pr/1", ("models", "owner/model", "refs/pr/1", "")),
        ("hf://owner/model@v1/sub/a@b", ("models", "owner/model", "v1", "sub/a@b")),
        ("hf://owner/model@refs/pr/12/sub", ("models", "owner/model", "refs/pr/12", "sub")),
        ("hf://owner/model@feature%2Fx/sub", ("models", "owner/model", "feature/x", "sub")),
        ("hf://owner/model/per%20cent@1.txt", ("models", "owner/model", "main", "per%20cent@1.txt")),
        ("hf://datasets/owner/d/x", ("datasets", "owner/d", "main", "x")),
        ("hf://spaces/owner/d@r", ("spaces", "owner/d", "r", "")),
    ],
)
def test_a_uri_names_a_repository_as_kserve_and_the_hubs_own_library_write_it(uri, place):
    found = place_of(uri)
    assert (found.kind, found.repository, found.revision, found.path) == place


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("hf://", Reason.INVALID_STORAGE_URI),
        ("hf://gpt2", Reason.INVALID_STORAGE_URI),
        ("hf://../model", Reason.INVALID_STORAGE_URI),
        ("hf://owner/model@", Reason.INVALID_STORAGE_URI),
        ("hf://owner/model@../../x", Reason.INVALID_STORAGE_URI),
        ("hf://owner/model@%2e%2e", Reason.INVALID_STORAGE_URI),
        ("hf://owner/model@a%0ab", Reason.INVALID_STORAGE_URI),
        ("hf://a/b::file:///etc/passwd", Reason.INVALID_STORAGE_URI),
        ("hf://owner/model/../../x", Reason.INVALID_OBJECT_KEY),
        ("hf://buckets/owner/b/x", Reason.UNSUPPORTED_SCHEME),
    ],
)
def test_what_names_no_repository_is_refused(uri, reason):
    with pytest.raises(TerminalError) as caught:
        place_of(uri)
    assert caught.value.reason is reason
