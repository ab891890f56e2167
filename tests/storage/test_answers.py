"""What http answers mean."""

import base64
import hashlib
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.storage.answers import LONGEST_RETRY_AFTER_SECONDS, checksums, retry_after_seconds, status_error

SHA = hashlib.sha256(b"x")
MD5 = hashlib.md5(b"x", usedforsecurity=False)
CRC = bytes.fromhex("0a0b0c0d")


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@given(st.text())
def test_any_retry_after_is_none_or_between_zero_and_an_hour(text):
    wait = retry_after_seconds({"retry-after": text, "date": text}, lambda: 0.0)
    assert wait is None or 0 <= wait <= LONGEST_RETRY_AFTER_SECONDS


@given(st.integers(0, 10**15))
def test_seconds_are_taken_and_capped(seconds):
    wait = retry_after_seconds({"retry-after": str(seconds)})
    assert wait == min(seconds, LONGEST_RETRY_AFTER_SECONDS) or seconds >= 10**12


@given(st.integers(0, 3 * 10**9), st.integers(-10_000, 10_000), st.integers(0, 10**9))
def test_a_date_is_taken_against_the_date_of_the_answer(now, later, wrong_clock):
    until = formatdate(now + later, usegmt=True)
    headers = {"retry-after": until, "date": formatdate(now, usegmt=True)}
    expected = min(max(later, 0), LONGEST_RETRY_AFTER_SECONDS)
    assert retry_after_seconds(headers, lambda: float(wrong_clock)) == expected
    assert retry_after_seconds({"retry-after": until}, lambda: float(now)) == expected


@given(st.integers(200, 599), st.dictionaries(st.sampled_from(["retry-after", "date"]), st.text()))
def test_every_status_has_an_error_that_names_the_object(code, headers):
    assert "the object" in status_error(code, headers, "the object").message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {}),
        ({"digest": f"SHA-256={b64(SHA.digest())},MD5={b64(MD5.digest())}"},
         {"sha256": SHA.hexdigest(), "md5": MD5.hexdigest()}),
        ({"repr-digest": f"sha-512=:AAAA:, sha-256=:{b64(SHA.digest())}:"}, {"sha256": SHA.hexdigest()}),
        ({"content-md5": b64(MD5.digest())}, {"md5": MD5.hexdigest()}),
        ({"content-md5": b64(MD5.digest()), "content-range": "bytes 0-0/9"}, {}),
        ({"x-goog-hash": f"crc32c={b64(CRC)}, md5={b64(MD5.digest())}"},
         {"crc32c": CRC.hex(), "md5": MD5.hexdigest()}),
        ({"x-goog-hash": f"crc32c={b64(CRC)}", "x-goog-stored-content-encoding": "gzip"}, {}),
        ({"x-amz-checksum-crc32c": b64(CRC), "x-amz-checksum-type": "FULL_OBJECT"}, {"crc32c": CRC.hex()}),
        ({"x-amz-checksum-crc32c": f"{b64(CRC)}-3", "x-amz-checksum-type": "COMPOSITE"}, {}),
        ({"x-amz-checksum-crc32c": f"{b64(CRC)}-3"}, {}),
        ({"x-amz-checksum-crc64nvme": b64(bytes(8))}, {"crc64nvme": "00" * 8}),
        ({"x-checksum-sha256": SHA.hexdigest().upper()}, {"sha256": SHA.hexdigest()}),
        ({"digest": "SHA-256=AAAA", "content-md5": "%%%"}, {}),
    ],
)  # fmt: skip
def test_checksums_of_the_whole_object_are_taken_and_no_others(headers, expected):
    assert checksums(headers) == expected


HASHES = ("digest", "repr-digest", "content-md5", "x-goog-hash", "x-amz-checksum-sha256", "x-checksum-md5")


@given(st.dictionaries(st.sampled_from(HASHES), st.text()))
def test_any_header_gives_checksums_of_the_right_length_or_none(headers):
    lengths = {"sha256": 64, "md5": 32, "crc32c": 8, "crc64nvme": 16}
    assert all(len(value) == lengths[name] for name, value in checksums(headers).items())
