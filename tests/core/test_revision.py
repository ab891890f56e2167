"""The revision: independent of order, sensitive to everything else."""

from hypothesis import assume, given
from hypothesis import strategies as st

from agent.core.revision import revision_of

OBJECT = st.tuples(st.text(max_size=8), st.none() | st.integers(0, 2**63), st.text(max_size=8))
OBJECTS = st.lists(OBJECT, max_size=6)


@given(OBJECTS, st.randoms())
def test_the_order_of_the_listing_does_not_matter(objects, random):
    shuffled = list(objects)
    random.shuffle(shuffled)
    assert revision_of(shuffled) == revision_of(objects)


@given(OBJECTS, OBJECTS)
def test_equal_revisions_are_equal_listings(one, other):
    key = repr
    assert (revision_of(one) == revision_of(other)) == (sorted(one, key=key) == sorted(other, key=key))


@given(OBJECTS.filter(bool), st.data())
def test_any_other_path_size_or_identity_is_another_revision(objects, data):
    at = data.draw(st.integers(0, len(objects) - 1))
    changed = [*objects]
    changed[at] = data.draw(OBJECT)
    assume(changed[at] != objects[at])
    assert revision_of(changed) != revision_of(objects)


def test_what_cannot_be_encoded_has_a_revision_too():
    assert revision_of([("\ud800", None, "x")]) != revision_of([("\ud801", None, "x")])


def test_the_revision_is_the_same_on_every_machine_and_in_every_release():
    expected = "2aa4aa3d95a81af4"
    assert revision_of([("a", 1, "x"), ("b", None, "y")]).startswith(expected)
