"""Pods at admission: those that ask for the sidecar get it; the others pass as they are.

A pod that asks and cannot have it is refused in words, which its Deployment's events then tell.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from agent.core.inject import InjectError, Options
from agent.core.injection import patch_of, wanted
from agent.webhook.review import ReviewError, parsed

PATH = "/mutate-v1-pod"


def answer(body: bytes, options: Options) -> dict[str, Any]:
    """Return the answer to a review of a pod. Raises ReviewError."""
    review = parsed(body)
    request = review["request"]
    pod = request.get("object")
    response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
    if request.get("operation") == "CREATE":
        if not isinstance(pod, Mapping) or not isinstance(pod.get("metadata") or {}, Mapping):
            raise ReviewError("request.object is no pod")
        if wanted(pod):
            response |= _injected(pod, options)
    return {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}


def _injected(pod: Mapping[str, Any], options: Options) -> dict[str, Any]:
    try:
        patch = patch_of(pod, options)
    except InjectError as error:
        said = f"the model-agent sidecar cannot be put into this pod: {error}"
        return {"allowed": False, "status": {"code": 422, "reason": "Invalid", "message": said}}
    if not patch:
        return {}
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
