import contextlib
import json
import random
import re
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.model import DesiredState, ModelName, ModelSpec
from agent.core.modelconfig import MAX_DOCUMENT_BYTES, ConfigError, desired_state, to_document, valid_name
from agent.core.reasons import Reason

GOOD_NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True)
URIS = st.sampled_from(["s3://b/m", "gs://b/m?x=<1>&y", "https://h/p", "file:///m", "/mnt/m", "hf://o/m:é"])
MEMORY = st.sampled_from([None, "0", "256Mi", "1.5Gi", " 1G ", "1e3"])
SPECS = st.builds(
    lambda uri, framework, memory: ModelSpec(uri, framework, 0, memory),
    URIS,
    st.sampled_from(["", "sklearn"]),
    MEMORY,
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "modelName": GOOD_NAMES | st.text(max_size=4) | JUNK,
        "MODELNAME": GOOD_NAMES,
        "modelSpec": st.fixed_dictionaries(
            {},
            optional={
                "storageUri": URIS | st.text(max_size=6) | JUNK,
                "framework": st.just("sklearn") | JUNK,
                "memory": MEMORY | st.sampled_from(["-1", "NaN", 5, 1.5]) | JUNK,
                "memoryLimit": JUNK,
            },
        )
        | JUNK,
    },
)
PREVIOUS = st.none() | st.builds(
    DesiredState,
    st.dictionaries(
        GOOD_NAMES, st.builds(ModelSpec, URIS, st.just("f"), st.just(1), st.just("1")), max_size=4
    ),
)


def entry(name="m", uri="s3://b/m", framework="sklearn", memory="256Mi"):
    return {"modelName": name, "modelSpec": {"storageUri": uri, "framework": framework, "memory": memory}}


def read(document, previous=None, **options):
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return desired_state(raw, previous, **options)


def before(*names):
    return DesiredState({name: ModelSpec("s3://old/" + name, "old", 7, "7") for name in names})


# laws


@given(st.lists(ENTRIES | JUNK, max_size=6), PREVIOUS)
def test_every_entry_is_accepted_or_rejected_and_each_model_comes_from_here_or_from_before(entries, previous):
    state = read(entries, previous)
    assert state.accepted + len(state.rejected) == len(entries)
    carried = {} if previous is None else previous.models
    here = [name for name, spec in state.models.items() if carried.get(name) != spec]
    assert len(here) <= state.accepted <= len(state.models)
    assert all(valid_name(name) for name in state.models)
    assert list(state.models) == sorted(state.models)


@given(st.lists(ENTRIES | JUNK, max_size=6), PREVIOUS)
def test_a_rejected_name_keeps_what_it_had_and_a_nameless_entry_keeps_everything(entries, previous):
    state = read(entries, previous)
    rejected = {rejection.name for rejection in state.rejected}
    for name, spec in ({} if previous is None else previous.models).items():
        if name in rejected:
            assert state.models[name] == spec
        if None in rejected:
            assert name in state.models


@given(st.lists(ENTRIES | JUNK, max_size=6), PREVIOUS, st.randoms(use_true_random=False))
def test_the_order_of_the_entries_changes_nothing(entries, previous, shuffler):
    shuffled = list(entries)
    shuffler.shuffle(shuffled)
    one, two = read(entries, previous), read(shuffled, previous)
    assert one.models == two.models
    assert one.accepted == two.accepted
    key = [sorted((r.name or "", r.reason) for r in state.rejected) for state in (one, two)]
    assert key[0] == key[1]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), PREVIOUS)
def test_any_bytes_are_refused_as_a_whole_or_read(raw, previous):
    with contextlib.suppress(ConfigError):
        assert re.fullmatch("[0-9a-f]{64}", desired_state(raw, previous).digest)


@given(st.dictionaries(GOOD_NAMES, SPECS, max_size=6))
def test_a_written_document_reads_back_to_the_same_models_and_to_the_same_bytes(models):
    document = to_document(models)
    state = desired_state(document, None)
    assert state.rejected == ()
    assert {n: (s.storage_uri, s.framework) for n, s in state.models.items()} == {
        n: (s.storage_uri, s.framework) for n, s in models.items()
    }
    assert to_document(state.models) == to_document(desired_state(to_document(state.models), None).models)
    assert to_document(dict(reversed(state.models.items()))) == to_document(state.models)


@given(st.lists(ENTRIES, max_size=5), PREVIOUS)
def test_reading_again_what_was_accepted_changes_nothing(entries, previous):
    state = read(entries, previous)
    assert desired_state(to_document(state.models), state).models == state.models


# the format


def test_kserves_own_bytes_are_written_back_as_they_were():
    document = (
        b'[{"modelName":"m","modelSpec":{"storageUri":"https://h/p?a=1\\u0026b=\\u003c2\\u003e",'
        b'"framework":"\xc3\xa9","memory":"1536Mi"}}]'
    )
    state = desired_state(document, None)
    assert state.models["m"] == ModelSpec("https://h/p?a=1&b=<2>", "é", 1536 * 2**20, "1536Mi")
    assert to_document(state.models) == document


def test_an_empty_list_is_legal_and_means_none():
    state = read(b"[]", before("a", "b"))
    assert (state.models, state.rejected, state.accepted) == ({}, (), 0)


def test_a_byte_order_mark_is_tolerated():
    assert read(b"\xef\xbb\xbf" + json.dumps([entry()]).encode()).accepted == 1


@pytest.mark.parametrize("key", ["modelname", "MODELNAME", "ModelName", "modelNAME"])
def test_keys_are_compared_without_case(key):
    assert "m" in read([{key: "m", "MODELSPEC": {"STORAGEURI": "s3://b", "Memory": "1"}}]).models


def test_keys_fold_as_go_folds_them():
    assert (
        "m"
        in read(
            [{"modelName": "m", "model\u017fpec": {"\u017ftorageUri": "s3://b", "framewor\u212a": "f"}}]
        ).models
    )


def test_the_last_of_two_equal_keys_wins_whatever_its_case_and_null_changes_nothing():
    raw = b'[{"modelName":"a","MODELNAME":"b","modelname":null,"modelSpec":{"storageUri":"s3://b"}}]'
    assert list(read(raw).models) == ["b"]


def test_unknown_keys_are_ignored_so_that_the_format_can_grow():
    document = [entry() | {"extra": [1]}]
    document[0]["modelSpec"]["provenance"] = {"a": "b"}
    seen = read(document)
    assert (seen.rejected, seen.ignored_keys) == ((), ("extra", "provenance"))


def test_a_few_keys_that_nobody_reads_are_named_and_what_is_misplaced_is_one():
    keys = {f"k{number}\n": 1 for number in range(9)}
    seen = read([entry() | keys | {"memory": "1Mi", "MODELNAME": "a"}])
    assert seen.ignored_keys == ("'k0\\n'", "'k1\\n'", "'k2\\n'", "'k3\\n'", "'k4\\n'")
    assert read([entry() | {"memory": "1Mi", "x": None}]).ignored_keys == ("memory", "x")


@pytest.mark.parametrize(
    ("memory", "size", "text"),
    [
        ("256Mi", 2**28, "256Mi"),
        (" 1Gi\n", 2**30, "1Gi"),
        (1073741824, 2**30, "1073741824"),
        (1.5, 2, "1.5"),
        ("100m", 1, "100m"),
        (None, 99, None),
        ("0", 99, "0"),
    ],
)
def test_memory_is_a_quantity_or_a_number_in_whole_bytes_and_nothing_means_the_default(memory, size, text):
    spec = read([entry(memory=memory)], default_memory_bytes=99).models["m"]
    assert (spec.memory_bytes, spec.memory) == (size, text)


def test_an_absent_memory_takes_the_default():
    document = [entry()]
    del document[0]["modelSpec"]["memory"]
    assert read(document, default_memory_bytes=5).models["m"].memory_bytes == 5


# bad entries


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry(uri=""), Reason.INVALID_STORAGE_URI),
        (entry(uri="s3//model1"), Reason.INVALID_STORAGE_URI),
        (entry(uri="bucket/m"), Reason.INVALID_STORAGE_URI),
        (entry(uri="s3://"), Reason.INVALID_STORAGE_URI),
        (entry(uri="s3://b/a b"), Reason.INVALID_STORAGE_URI),
        (entry(uri="s3://b/a\x1b[0m"), Reason.INVALID_STORAGE_URI),
        (entry(uri="s3://" + "b" * 4096), Reason.INVALID_STORAGE_URI),
        (entry(uri=5), Reason.INVALID_STORAGE_URI),
        (entry(memory="NaN"), Reason.INVALID_MEMORY),
        (entry(memory="-1"), Reason.INVALID_MEMORY),
        (entry(memory="-0.1n"), Reason.INVALID_MEMORY),
        (entry(memory="1_000Mi"), Reason.INVALID_MEMORY),
        (entry(memory="1e999"), Reason.INVALID_MEMORY),
        (entry(memory=""), Reason.INVALID_MEMORY),
        (entry(memory=True), Reason.INVALID_MEMORY),
        (entry(memory={}), Reason.INVALID_MEMORY),
        (entry(framework=1), Reason.INVALID_ENTRY),
        (entry(framework=False), Reason.INVALID_ENTRY),
        (entry(uri=[]), Reason.INVALID_STORAGE_URI),
        (entry(framework="a\nb"), Reason.INVALID_ENTRY),
        ({"modelName": "m"}, Reason.INVALID_ENTRY),
        ({"modelName": "m", "modelSpec": []}, Reason.INVALID_ENTRY),
    ],
)
def test_a_bad_entry_is_rejected_by_name_keeps_what_it_had_and_the_others_apply(bad, reason):
    state = read([entry("a"), bad, entry("z")], before("m", "gone"))
    assert list(state.models) == ["a", "m", "z"]
    assert state.models["m"] == before("m").models["m"]
    assert [(r.name, r.reason) for r in state.rejected] == [("m", reason)]
    assert state.rejected[0].message.startswith("entry [1]: ")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        ".",
        "..",
        ".hidden",
        "SUCCESS.abc",
        "%2e%2e",
        "a b",
        "a.b/",
        "é",
        "x" * 253 + "/",
        "a\\b",
    ],
)
def test_names_that_are_no_plain_file_names_are_rejected(name):
    state = read([entry(name), entry("z")])
    assert list(state.models) == ["z"]
    assert state.rejected[0].reason is Reason.INVALID_NAME


@pytest.mark.parametrize(
    "nameless", [entry(None), entry(5), entry(""), entry("a\x00b"), entry("x" * 300), 7, [], None]
)
def test_while_an_entry_has_no_readable_name_nothing_is_removed(nameless):
    state = read([nameless, entry("z")], before("m", "z"))
    assert list(state.models) == ["m", "z"]
    assert state.models["z"].storage_uri == "s3://b/m"
    assert state.rejected[0].name is None


def test_a_name_that_occurs_twice_is_rejected_each_time():
    state = read([entry("m"), entry("z"), entry("m", uri="s3://other/m")], before("m"))
    assert [(r.name, r.reason) for r in state.rejected] == [("m", Reason.DUPLICATE_NAME)] * 2
    assert state.models["m"] == before("m").models["m"]


def test_a_message_shows_no_storage_uri():
    state = read([entry(uri="user:hunter2@host/x?sig=hunter2")])
    assert "hunter2" not in state.rejected[0].message


# bad documents


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"null", "line 1 column 1"),
        (b"{}", "line 1 column 1"),
        (b'"x"', "line 1 column 1"),
        (b"[\n  {", "line 2 column 4"),
        (b"[1,\n2,]", "line 2 column 3"),
        (b"[] x", "line 1 column 4"),
        (b'[\n{"modelName": "NaN", "x": NaN}]', "line 2 column 27"),
        (b"[-Infinity]", "line 1 column 2"),
        (b"[\xff]", "line 1, byte 2"),
        ("[]".encode("utf-16"), "line 1, byte 1"),
        (b'["\\ud83d\\ude00",\n"\\ud800"]', "line 2 column 2"),
        (b'["\\\\ud800", "\\udc00"]', "line 1 column 14"),
        (b"[" * 10_000, "line 1 column 65"),
        (b"[" + b"9" * 5000 + b"]", "line 1 column 2"),
        (b'["\x01"]', "line 1 column 3"),
    ],
)
def test_a_bad_document_is_refused_with_its_place(raw, place):
    with pytest.raises(ConfigError, match=re.escape(place)) as caught:
        desired_state(raw, before("m"))
    assert caught.value.reason is Reason.CONFIG_REJECTED


def test_escaped_backslashes_and_surrogate_pairs_are_fine():
    raw = json.dumps([entry() | {"x": "\\ud800 \U0001f600", "y": "\\\\"}]).encode()
    assert read(raw).accepted == 1


def test_a_document_beyond_the_limit_is_refused_by_size():
    with pytest.raises(ConfigError) as caught:
        desired_state(b" " * (MAX_DOCUMENT_BYTES + 1), None)
    assert caught.value.reason is Reason.CONFIG_TOO_LARGE


def test_more_removals_than_allowed_are_refused_with_the_numbers():
    previous = before("a", "b", "c")
    with pytest.raises(ConfigError, match="remove 2 of 3 models \\(b, c\\), more than the 1") as caught:
        read([entry("a")], previous, max_removal=1)
    assert caught.value.reason is Reason.TOO_MANY_REMOVALS
    assert read([entry("a")], previous, max_removal=2).accepted == 1


# bounds


def hostile():
    size = MAX_DOCUMENT_BYTES
    return {
        "16 MiB": b"[" * 2**24,
        "nesting": b"[" * size,
        "nested objects": b'{"a":' * (size // 5),
        "empty arrays": b"[" + b"[]," * (size // 3 - 1) + b"1]",
        "many zeros": b"[" + b"0," * (size // 2 - 1) + b"0]",
        "as many arrays as may be": b"[" + b"[]," * 32_000 + b"1]",
        "as many numbers as may be": b"[" + b"12345," * 130_000 + b"1]",
        "digits": b"[" + b"9" * (size - 2) + b"]",
        "exponents": b'[{"modelName":"a","modelSpec":{"storageUri":"/a","memory":1e999999999}}]',
        "many bad entries": b"[%b]" % b",".join(b'{"modelName":"%d"}' % index for index in range(30_000)),
        "one string": b'["' + b"a" * (size - 4) + b'"]',
        "back slashes": b'["' + b"\\\\" * (size // 2 - 8) + b'\\ud800"]',
        "surrogate pairs": b'["' + b"\\ud83d\\ude00" * (size // 12 - 2) + b'"]',
        "wide": b'["' + "\U0001f600".encode() + b"a" * (size - 10) + b'"]',
        "brackets in strings": b'["' + b"{" * 60_000 + b'",' + b"[" * 5000,
        "junk": random.Random(1).randbytes(size),  # noqa: S311
    }


@pytest.mark.parametrize("kind", hostile())
def test_hostile_bytes_cost_little_time_and_memory(kind):
    raw = hostile()[kind]
    best = min(timed(raw) for _ in range(3))
    tracemalloc.start()
    timed(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20
    assert best < 1.0, "CPU seconds; the aim is 0.1, the bound is loose for a shared machine"


def test_the_largest_config_map_of_good_entries_is_read_in_a_fraction_of_a_second():
    models = {
        ModelName(f"model-{n}"): ModelSpec(f"s3://b/models/{n}", "sklearn", 1, "1Mi") for n in range(6000)
    }
    raw = to_document(models)
    assert len(raw) < 2**20
    started = time.process_time()
    assert desired_state(raw, None).accepted == 6000
    assert time.process_time() - started < 1.0, "CPU seconds; the aim is 0.05, loose for a shared machine"


def timed(raw):
    started = time.process_time()
    with contextlib.suppress(ConfigError):
        desired_state(raw, None)
    return time.process_time() - started


@settings(max_examples=30)
@given(st.integers(0, 200))
def test_a_document_cut_anywhere_is_refused(cut):
    raw = to_document({"a": ModelSpec("s3://b/a", "f", 1, "1"), "b": ModelSpec("s3://b/b", "f", 1, "1")})
    if cut < len(raw):
        with pytest.raises(ConfigError):
            desired_state(raw[:cut], None)
