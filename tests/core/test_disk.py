"""What may be removed: never what is wanted or told, and no more than room asks for."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.core.disk import DiskPolicy, KeptRevision, LooseFile, Volume, choose_removal
from agent.core.model import Revision, StoredRevision

NOW = 1_000_000.0
URIS = st.sampled_from(["a", "b", "c", "d"])
REVISIONS = st.sampled_from(["1", "2", "3"]).map(Revision)
BLOBS = {f"blob{n}": 10 * n for n in range(6)}
TIMES = st.floats(0, 2 * NOW)
KEPT = st.lists(
    st.builds(
        KeptRevision,
        st.builds(StoredRevision, URIS, REVISIONS, st.just(1), TIMES),
        st.lists(st.sampled_from(sorted(BLOBS)), unique=True).map(tuple),
        TIMES,
    ),
    unique_by=lambda each: (each.stored.uri, each.stored.revision),
)
LOOSE = st.lists(
    st.builds(LooseFile, st.uuids().map(str), st.integers(0, 100), TIMES, st.booleans()),
    unique_by=lambda each: each.name,
)
VOLUMES = st.integers(1, 1000).flatmap(
    lambda total: st.builds(
        Volume, st.just(total), st.integers(0, total), st.sampled_from([0, 100]), st.integers(0, 100)
    )
)
POLICIES = st.builds(
    DiskPolicy,
    st.floats(0, 1),
    st.none() | st.integers(0, 300),
    st.just(3600.0),
    st.integers(0, 5),
)
WANTED = st.frozensets(URIS)
TOLD = st.frozensets(st.tuples(URIS, REVISIONS))
EVERYTHING = {
    "kept": KEPT,
    "loose": LOOSE,
    "wanted": WANTED,
    "told": TOLD,
    "volume": VOLUMES,
    "policy": POLICIES,
}


def ask(kept, loose=(), **given_):
    defaults = {"wanted": (), "told": (), "volume": Volume(1000, 0), "policy": DiskPolicy(), "sizes": BLOBS}
    return choose_removal(kept, loose, **{**defaults, **given_}, now=NOW)


def keys(kept):
    return [(each.stored.uri, each.stored.revision) for each in kept]


@given(**EVERYTHING)
def test_nothing_wanted_or_told_is_ever_removed(kept, loose, wanted, told, volume, policy):
    removal = ask(kept, loose, wanted=wanted, told=told, volume=volume, policy=policy)
    newest = {each.stored.uri: each.stored.revision for each in kept}
    assert not set(removal.revisions) & told
    assert not set(removal.revisions) & {(uri, newest[uri]) for uri in wanted & newest.keys()}
    assert set(removal.revisions) <= set(keys(kept))
    assert not set(removal.loose) & {each.name for each in loose if each.expected}


@given(**EVERYTHING)
def test_nothing_more_goes_once_there_is_room(kept, loose, wanted, told, volume, policy):
    removal = ask(kept, loose, wanted=wanted, told=told, volume=volume, policy=policy)
    assert len(set(removal.revisions)) == len(removal.revisions)
    if removal.revisions and (removal.short_bytes or removal.short_inodes):
        spare = [key for key in keys(kept) if key not in told]
        newest = {each.stored.uri: each.stored.revision for each in kept}
        assert set(removal.revisions) == {
            key for key in spare if not (key[0] in wanted and newest[key[0]] == key[1])
        }


@given(**EVERYTHING, stuck=st.integers(0, 300))
def test_what_is_stuck_makes_the_budget_smaller(kept, loose, wanted, told, volume, policy, stuck):
    rest = {"wanted": wanted, "told": told}
    budget = 300 if policy.budget_bytes is None else policy.budget_bytes
    smaller = replace(policy, budget_bytes=budget - stuck)
    removal = ask(kept, loose, volume=volume, policy=smaller, **rest)
    policy, volume = replace(policy, budget_bytes=budget), replace(volume, stuck_bytes=stuck)
    assert ask(kept, loose, volume=volume, policy=policy, **rest) == removal


@given(kept=KEPT, wanted=WANTED, told=TOLD)
def test_with_room_enough_all_stays(kept, wanted, told):
    assert ask(kept, wanted=wanted, told=told, volume=Volume(1000, 1000)).revisions == ()


@given(loose=LOOSE)
def test_loose_files_go_after_an_hour_unless_a_wanted_fetch_expects_them(loose):
    gone = ask([], loose, volume=Volume(1000, 1000)).loose
    assert set(gone) == {each.name for each in loose if not each.expected and NOW - each.used_at > 3600}


def kept(uri, revision, used_at, *blobs):
    return KeptRevision(StoredRevision(uri, Revision(revision), 1, used_at), blobs, used_at)


def test_the_least_recently_used_goes_first():
    revisions = [kept("a", "1", 30.0, "blob5"), kept("b", "1", 10.0, "blob4"), kept("c", "1", 20.0, "blob3")]
    assert ask(revisions, volume=Volume(1000, 99)).revisions == (("b", "1"),)
    assert ask(revisions, volume=Volume(1000, 50)).revisions == (("b", "1"), ("c", "1"))


def test_the_revision_before_a_wanted_one_goes_last():
    revisions = [kept("a", "1", 1.0, "blob5"), kept("a", "2", 2.0, "blob4"), kept("b", "1", 99.0, "blob3")]
    assert ask(revisions, wanted={"a"}).revisions == (("b", "1"), ("a", "1"))


def test_of_older_revisions_only_the_last_one_is_spared():
    revisions = [kept("a", str(n), float(n), "blob5") for n in range(4)] + [kept("b", "1", 99.0, "blob3")]
    assert ask(revisions, wanted={"a"}).revisions == (("a", "0"), ("a", "1"), ("b", "1"), ("a", "2"))


def test_bytes_that_another_revision_needs_free_nothing():
    revisions = [kept("a", "1", 1.0, "blob5"), kept("b", "1", 2.0, "blob5")]
    removal = ask(revisions, wanted={"b"}, volume=Volume(1000, 90))
    assert removal.short_bytes == 10


def test_a_budget_counts_what_is_ours():
    revisions = [kept("a", "1", 1.0, "blob5"), kept("b", "1", 2.0, "blob4")]
    policy = DiskPolicy(keep_free_ratio=0.0, budget_bytes=140)
    removal = ask(revisions, policy=policy, volume=Volume(1000, 0))
    assert (removal.revisions, removal.short_bytes) == ((("a", "1"),), 0)  # 150 bytes of blobs


def test_inodes_count_as_well_as_bytes():
    revisions = [kept("a", "1", 1.0, "blob1", "blob2"), kept("b", "1", 2.0, "blob3")]
    volume = Volume(1000, 1000, 100, 7)
    assert ask(revisions, volume=volume).revisions == (("a", "1"),)
    assert ask(revisions, volume=replace(volume, free_inodes=10)).revisions == ()


def test_ever_so_small_revisions_are_bounded_in_number():
    revisions = [kept("a", str(n), float(n)) for n in range(10)]
    removal = ask(revisions, volume=Volume(1000, 1000), policy=DiskPolicy(spare_revisions=3))
    assert removal.revisions == tuple(("a", str(n)) for n in range(7))


def test_a_clock_that_went_back_makes_nothing_newer_than_now():
    revisions = [kept("a", "1", NOW + 500, "blob5"), kept("b", "1", NOW - 1, "blob5")]
    assert ask(revisions).revisions[0] == ("b", "1")
