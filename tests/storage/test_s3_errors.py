"""Every refusal of S3 has a reason and a next step, whoever reads the answer: we, or botocore."""

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.s3_client import translated
from agent.storage.s3_errors import S3Answers, refusal_of, s3_error

CASES = [
    (404, "NoSuchBucket", TerminalError, Reason.NOT_FOUND),
    (403, "AccessDenied", TerminalError, Reason.ACCESS_DENIED),
    (403, "InvalidAccessKeyId", TerminalError, Reason.ACCESS_DENIED),
    (403, "SignatureDoesNotMatch", TerminalError, Reason.ACCESS_DENIED),
    (400, "KMS.DisabledException", TerminalError, Reason.ACCESS_DENIED),
    (401, "", TerminalError, Reason.ACCESS_DENIED),
    (403, "RequestTimeTooSkewed", TerminalError, Reason.CLOCK_SKEW),
    (403, "InvalidObjectState", TerminalError, Reason.OBJECT_ARCHIVED),
    (503, "SlowDown", RetryableError, Reason.STORAGE_THROTTLED),
    (503, "", RetryableError, Reason.STORAGE_THROTTLED),
    (429, "", RetryableError, Reason.STORAGE_THROTTLED),
    (500, "InternalError", RetryableError, Reason.STORAGE_UNAVAILABLE),
    (502, "", RetryableError, Reason.STORAGE_UNAVAILABLE),
    (412, "PreconditionFailed", RetryableError, Reason.SNAPSHOT_CHANGED),
    (416, "InvalidRange", RetryableError, Reason.SNAPSHOT_CHANGED),
    (301, "PermanentRedirect", TerminalError, Reason.STORAGE_ERROR),
    (400, "AuthorizationHeaderMalformed", TerminalError, Reason.STORAGE_ERROR),
    (400, "RequestTimeout", RetryableError, Reason.STORAGE_TIMEOUT),
    (400, "InvalidRequest", TerminalError, Reason.STORAGE_ERROR),
]


def xml(code, more=""):
    return f"<Error><Code>{code}</Code><Message>secret-words</Message>{more}</Error>".encode()


def by_botocore(status, code, headers=None, **more):
    meta = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    error = {"Code": code or str(status), "Message": "secret-words", **more}
    with pytest.raises(AgentError) as caught, translated("s3://b/k"):
        raise ClientError({"Error": error, "ResponseMetadata": meta}, "ListObjectsV2")
    return caught.value


@pytest.mark.parametrize(("status", "code", "kind", "reason"), CASES)
def test_a_refusal_means_the_same_in_an_answer_and_through_botocore(status, code, kind, reason):
    ours = S3Answers("s3://b/k").error(status, {}, xml(code) if code else b"")
    for error in (ours, by_botocore(status, code)):
        assert type(error) is kind
        assert error.reason is reason
        assert "s3://b/k" in error.message
        assert "secret-words" not in str(error)
        assert error.__cause__ is None


def test_a_missing_key_is_not_found_in_a_listing_and_a_changed_snapshot_after_it():
    assert s3_error(refusal_of(404, {}, xml("NoSuchKey")), "s3://b/k").reason is Reason.NOT_FOUND
    assert s3_error(refusal_of(404, {}, b""), "s3://b/k").reason is Reason.NOT_FOUND
    changed = S3Answers("s3://b/k").error(404, {}, xml("NoSuchKey"))
    assert isinstance(changed, RetryableError)
    assert changed.reason is Reason.SNAPSHOT_CHANGED


@pytest.mark.parametrize(
    ("ours", "said"), [("20261122T103000Z", "1800 s ahead"), ("20261122T093000Z", "1800 s behind")]
)
def test_a_skewed_clock_is_told_in_seconds(ours, said):
    times = {"RequestTime": ours, "ServerTime": "2026-11-22T10:00:00Z"}
    body = xml("RequestTimeTooSkewed", "".join(f"<{k}>{v}</{k}>" for k, v in times.items()))
    for error in (
        S3Answers("s3://b/k").error(403, {}, body),
        by_botocore(403, "RequestTimeTooSkewed", **times),
    ):
        assert error.reason is Reason.CLOCK_SKEW
        assert said in error.message


def test_the_right_region_is_named_from_header_and_from_body():
    answers = S3Answers("s3://b/k")
    by_header = answers.error(301, {"x-amz-bucket-region": "eu-central-1"}, b"")
    by_body = answers.error(400, {}, xml("AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>"))
    for error in (by_header, by_body, by_botocore(301, "", {"x-amz-bucket-region": "eu-central-1"})):
        assert "eu-central-1" in error.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:09 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 9),
        ({}, None),
    ],
)
def test_a_throttled_request_waits_as_long_as_it_is_told(headers, seconds):
    for error in (
        S3Answers("s3://b/k").error(503, headers, xml("SlowDown")),
        by_botocore(503, "SlowDown", headers),
    ):
        assert error.retry_after_seconds == seconds


def test_an_expired_token_is_tried_again_only_where_it_can_be_renewed():
    marks = []
    renewable = S3Answers("s3://b/k", renewable=True, refused=lambda: marks.append(1))
    assert isinstance(renewable.error(400, {}, xml("ExpiredToken")), RetryableError)
    assert marks == [1]
    fixed = S3Answers("s3://b/k").error(400, {}, xml("ExpiredToken"))
    assert isinstance(fixed, TerminalError)
    assert "AWS_SESSION_TOKEN" in fixed.message


@given(st.integers(300, 599), st.binary(max_size=300) | st.text(max_size=200).map(xml))
def test_no_answer_however_hostile_breaks_the_reading(status, body):
    error = S3Answers("s3://b/k").error(status, {"retry-after": "x", "x-amz-bucket-region": "\x1b[31m"}, body)
    assert isinstance(error, AgentError)
    assert "\x1b" not in error.message
    assert "secret-words" not in error.message


def test_entities_are_never_expanded_and_only_the_beginning_is_read():
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><Error><Code>&a;&a;</Code></Error>'
    assert refusal_of(403, {}, bomb).code == ""
    assert refusal_of(403, {}, b" " * 20_000 + xml("SlowDown")).code == ""


def test_a_checksum_of_a_part_is_not_one_of_the_object():
    headers = {"x-amz-checksum-crc32c": "AQIDBA=="}
    answers = S3Answers("s3://b/k")
    assert answers.checksums(headers) == {"crc32c": "01020304"}
    assert answers.checksums({**headers, "x-amz-checksum-type": "COMPOSITE"}) == {}
    assert answers.checksums({**headers, "content-range": "bytes 0-1/9"}) == {}


def test_what_is_under_a_customers_key_is_named_and_what_the_requester_pays_for_is_denied():
    """Fault S20: neither is read; who asks for it is told what it is."""
    answers = S3Answers("s3://b/k")
    assert "SSE-C" in answers.error(400, {}, xml("InvalidRequest")).message
    assert answers.error(403, {}, xml("AccessDenied")).reason is Reason.ACCESS_DENIED
