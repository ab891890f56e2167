"""models.json: refused by a ConfigError, or read to values that are written and read back to the same."""

import json

from agent.core.document import ConfigError
from agent.core.model import DesiredState, ModelName, ModelSpec
from agent.core.modelconfig import desired_state, storage_uri_problem, to_document, valid_name

BEFORE = DesiredState({ModelName(name): ModelSpec("s3://b/before", "sklearn", 1, "1") for name in ("a", "b")})


def one(data: bytes) -> None:
    try:
        desired = desired_state(data, None)
    except ConfigError as refused:
        assert refused.message.isprintable()
        return
    assert isinstance(json.loads(data.decode("utf-8-sig")), list)
    for name, spec in desired.models.items():
        assert valid_name(name)
        assert storage_uri_problem(spec.storage_uri) is None
        assert spec.memory_bytes >= 0
    assert desired_state(to_document(desired.models), None).models == desired.models
    after = desired_state(data, BEFORE)
    rejected = {each.name for each in after.rejected}
    for name, spec in BEFORE.models.items():
        if name in rejected or None in rejected:
            assert after.models[name] == desired.models.get(name, spec), "a bad entry took something away"
        else:
            assert after.models.get(name) == desired.models.get(name)
