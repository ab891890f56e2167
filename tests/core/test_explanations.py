"""Every reason is explained, in words that a person can act on."""

import pytest

from agent.core import explanations as parts
from agent.core.explanations import EXPLANATIONS
from agent.core.reasons import Reason


def test_every_reason_has_its_explanation():
    assert [reason for reason in Reason if reason not in EXPLANATIONS] == []


def test_no_reason_is_explained_twice():
    tables = (parts.DOCUMENT, parts.STORAGE, parts.DISK, parts.SERVER, parts.PLANNING, parts.CONTROL_PLANE)
    assert sum(map(len, tables)) == len(EXPLANATIONS)


@pytest.mark.parametrize("reason", Reason)
def test_each_part_is_a_sentence(reason):
    told = EXPLANATIONS[reason]
    for part in (told.meaning, told.cause, told.remedy):
        assert part[0].isupper() or part.startswith(("--", "models.json"))
        assert part.endswith(".")
        assert "|" not in part, "it stands in a table"
