"""AdmissionReview: whatever is posted, both webhooks answer 200 or 400, and keep their laws in a 200.

The answer is a whole review in strict JSON of the question's version and uid. A TrainedModel is allowed just
where validation finds no fault; a pod's patch applies, leaves the pod's own containers there, and is no patch
any more the second time. A dry run is answered like any other. A review that is one is never 400.
"""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from agent.core.inject import NAME, Options
from agent.core.validation import faults
from agent.webhook import injection
from agent.webhook.review import VERSIONS, answer
from agent.webhook.server import Answer, reply
from tests.fakes.jsonpatch import carried_out
from tests.fuzz.reviews import REAL, changed, written

VALIDATION, MUTATION = answer, partial(injection.answer, options=Options())
LONGEST_MESSAGE = 16 * 1024

SEEDS = [written(each) for each in REAL]
mutate = changed


@contextmanager
def stack(limit: int) -> Iterator[None]:
    """Let the judge have more stack than the judged."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)


def one(data: bytes) -> None:
    with stack(4000):
        judge(data)


def judge(data: bytes) -> None:
    question = read(data)
    validation(data, question)
    mutation(data, question)


def validation(data: bytes, question: Any) -> None:
    """Hold the webhook of TrainedModels to its laws."""
    status, response = ask(VALIDATION, data, question)
    request = question["request"] if whole(question) else {}
    judged = request.get("operation") in ("CREATE", "UPDATE")
    complete = isinstance(request.get("object"), dict) or not judged
    if status != 200:
        assert not (isinstance(request.get("operation"), str) and complete) or is_deep(question)
        return
    assert complete
    old = request.get("oldObject") if request["operation"] == "UPDATE" else None
    fault = judged and bool(faults(request["object"], old if isinstance(old, dict) else None))
    assert response["allowed"] is not fault
    assert set(response) == ({"uid", "allowed", "status"} if fault else {"uid", "allowed"})


def mutation(data: bytes, question: Any) -> None:
    """Hold the webhook of pods to its laws."""
    status, response = ask(MUTATION, data, question)
    request = question["request"] if whole(question) else None
    if status != 200:
        assert request is None or not is_pod(request.get("object")) or is_deep(question)
        return
    assert ("patch" in response) is ("patchType" in response)
    if "patch" not in response:
        return
    assert response["allowed"]
    assert (response["patchType"], request["operation"]) == ("JSONPatch", "CREATE")
    pod = request["object"]
    patched = carried_out(pod, strict(base64.b64decode(response["patch"], validate=True)))
    assert {**patched, "spec": 0} == {**pod, "spec": 0}
    assert names(patched["spec"]).count(NAME) == 1
    assert [each for each in names(patched["spec"]) if each != NAME] == [
        each for each in names(pod["spec"]) if each != NAME
    ]
    again = {**question, "request": {**request, "object": patched}}
    _, second = ask(MUTATION, json.dumps(again).encode(), again)
    assert second == {"uid": request["uid"], "allowed": True}


def names(spec: Any) -> list[Any]:
    return [each.get("name") for key in ("initContainers", "containers") for each in spec.get(key) or ()]


def ask(webhook: Answer, data: bytes, question: Any) -> tuple[int, Any]:
    """Post it, hold the answer to what both webhooks promise, and return status and response."""
    status, body = post(webhook, data)
    assert status in {200, 400}, status
    if status != 200:
        assert len(body) < 1000
        assert len(body.splitlines()) <= 1, body
        return status, None
    assert whole(question)
    said = strict(body)
    response = said["response"]
    assert (said["kind"], said["apiVersion"]) == ("AdmissionReview", question["apiVersion"])
    assert response["uid"] == question["request"]["uid"]
    assert type(response["allowed"]) is bool
    assert ("status" in response) is not response["allowed"]
    if "status" in response:
        told = response["status"]
        assert 400 <= told["code"] < 500
        assert told["reason"]
        assert 0 < len(told["message"]) <= LONGEST_MESSAGE
    dry = {**question, "request": {**question["request"], "dryRun": True, "x-unknown": [None]}}
    assert post(webhook, json.dumps(dry).encode()) == (status, body)
    return status, response


def read(data: bytes) -> Any:
    """Return the document that *data* is in strict JSON, None for none."""
    try:
        return strict(data)
    except (ValueError, RecursionError):
        return None


def strict(data: bytes) -> Any:
    def finite(word: str) -> float:
        if word in {"NaN", "Infinity", "-Infinity"} or abs(float(word)) == float("inf"):
            raise ValueError(word)
        return float(word)

    return json.loads(data, parse_constant=finite, parse_float=finite)


def whole(question: Any) -> bool:
    """Tell whether it is a review with what every review has."""
    request = question.get("request") if isinstance(question, dict) else None
    return (
        isinstance(request, dict)
        and question.get("kind") == "AdmissionReview"
        and question.get("apiVersion") in VERSIONS
        and isinstance(request.get("uid"), str)
    )


def is_deep(question: Any) -> bool:
    """Tell whether it is nested deeper than any object of Kubernetes, near the end of Python's stack."""
    depth, layer = 0, [question]
    while layer:
        depth += 1
        each = [node.values() if isinstance(node, dict) else node for node in layer]
        layer = [below for nodes in each for below in nodes if isinstance(below, dict | list)]
    return depth > 800


def is_pod(obj: Any) -> bool:
    return isinstance(obj, dict) and isinstance(obj.get("metadata") or {}, dict)


def post(webhook: Answer, data: bytes) -> tuple[int, bytes]:
    with stack(1000):
        response = reply(webhook, data)
    return response.status, bytes(response.body)
