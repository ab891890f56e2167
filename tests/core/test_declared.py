"""A declared digest in the plan: what does not fit is never loaded, what serves stays."""

from dataclasses import replace

import pytest

from agent.core.actions import Fetch, Load
from agent.core.model import DesiredState, ModelName, ModelSpec, ObservedState, Revision, StoredRevision, Told
from agent.core.modelconfig import desired_state, to_document
from agent.core.plan import Rules, plan
from agent.core.reasons import Reason

M, URI, REV = ModelName("m"), "s3://b/m", Revision("r1")
GOOD, OTHER = "a" * 64, "b" * 64
SPEC = ModelSpec(URI, "sklearn", 1)


def asked(sha256, stored_sha256, *, served=False):
    stored = {URI: StoredRevision(URI, REV, 1, 0.0, stored_sha256)}
    told = {M: Told(REV, URI, "sklearn", 1, confirmed=True)} if served else {}
    seen = ObservedState(stored, told, frozenset(told), frozenset(told), server_up=True)
    wanted = DesiredState({M: replace(SPEC, sha256=sha256)})
    return plan(wanted, seen, busy={}, holds={}, rules=Rules(), now=0.0)


@pytest.mark.parametrize("known", [OTHER, None])
@pytest.mark.parametrize("served", [True, False])
def test_what_does_not_fit_is_asked_for_again_and_neither_loaded_nor_unloaded(known, served):
    made = asked(GOOD, known, served=served)
    assert made.fetches == (Fetch(M, replace(SPEC, sha256=GOOD), relist=True),)
    assert (made.loads, made.unloads) == ((), ())


def test_what_fits_is_loaded_and_what_serves_and_fits_is_left_alone():
    assert [type(action) for action in asked(GOOD, GOOD).loads] == [Load]
    made = asked(GOOD, GOOD, served=True)
    assert (made.fetches, made.loads, made.unloads) == ((), (), ())


def test_a_digest_is_read_folded_and_written_back():
    raw = b'[{"modelName":"m","modelSpec":{"storageUri":"s3://b/m","framework":"x","sha256":"%s"}}]'
    read = desired_state(raw % (b"A" * 64), None)
    assert read.models[M].sha256 == GOOD
    assert desired_state(to_document(read.models), None).models == read.models


@pytest.mark.parametrize("value", ['"../zz"', '"' + "a" * 63 + '"', "1", "[]", '"' + "g" * 64 + '"'])
def test_what_is_no_digest_is_rejected_by_entry(value):
    raw = f'[{{"modelName":"m","modelSpec":{{"storageUri":"s3://b/m","sha256":{value}}}}}]'
    (rejection,) = desired_state(raw.encode(), None).rejected
    assert rejection.reason is Reason.INVALID_ENTRY
    assert "sha256" in rejection.message
