"""AdmissionReview in, AdmissionReview out; v1 and v1beta1 (kserve-contract §2.2)."""

import json
import math
from collections.abc import Mapping
from typing import Any

from agent.core.validation import faults

VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")


class ReviewError(ValueError):
    """The body is no AdmissionReview; the message says what is missing."""


def answer(body: bytes) -> dict[str, Any]:
    """Return the answer to a review. Raises ReviewError.

    A refusal tells the first fault alone, as KServe's webhook does; what is deleted is always allowed.
    """
    review = parsed(body)
    request = review["request"]
    message = None
    if not isinstance(request.get("operation"), str):
        raise ReviewError("request.operation is no string such as CREATE")
    if request["operation"] in {"CREATE", "UPDATE"}:
        obj, old = request.get("object"), request.get("oldObject")
        if not isinstance(obj, Mapping):
            raise ReviewError("request.object is missing")
        update = request["operation"] == "UPDATE"
        found = faults(obj, old if update and isinstance(old, Mapping) else None)
        message = found[0].message if found else None
    response: dict[str, Any] = {"uid": request["uid"], "allowed": message is None}
    if message is not None:
        response["status"] = {"code": 403, "reason": "Forbidden", "message": message}
    return {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}


def parsed(body: bytes) -> Mapping[str, Any]:
    """Return the AdmissionReview that a body is, with its `request.uid`. Raises ReviewError."""
    try:
        review = json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ReviewError("the body is no JSON") from error
    if not isinstance(review, Mapping) or review.get("kind") != "AdmissionReview":
        raise ReviewError("the body is no AdmissionReview")
    if review.get("apiVersion") not in VERSIONS:
        raise ReviewError(f"apiVersion must be one of {', '.join(VERSIONS)}")
    request = review.get("request")
    if not isinstance(request, Mapping) or not isinstance(request.get("uid"), str):
        raise ReviewError("request.uid is missing")
    return review


def _finite(text: str) -> float:
    """Return a number, but none that JSON cannot say again: NaN, or one too large."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
