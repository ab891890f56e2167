"""The one translator of file-system errors."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.artifacts.errors import disk_error, disk_errors
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (errno.ENOSPC, RetryableError, Reason.DISK_FULL),
        (errno.EDQUOT, RetryableError, Reason.DISK_FULL),
        (errno.EFBIG, RetryableError, Reason.DISK_FULL),
        (errno.EROFS, RetryableError, Reason.READ_ONLY_VOLUME),
        (errno.EIO, RetryableError, Reason.DISK_ERROR),
        (errno.EMFILE, RetryableError, Reason.RESOURCE_EXHAUSTED),
        (errno.ENFILE, RetryableError, Reason.RESOURCE_EXHAUSTED),
        (errno.EACCES, RetryableError, Reason.DISK_ERROR),
        (errno.EXDEV, TerminalError, Reason.DISK_ERROR),
    ],
)
def test_each_fault_has_its_reason(code, kind, reason):
    error = disk_error(OSError(code, "whatever"), "writing a blob")
    assert isinstance(error, kind)
    assert error.reason is reason
    assert error.message.startswith(f"writing a blob: {os.strerror(code)}")


def test_a_full_disk_tells_what_is_needed_and_what_is_free(tmp_path):
    error = disk_error(OSError(errno.ENOSPC, ""), "writing", need_bytes=12345, volume=tmp_path)
    assert "12345 bytes are needed" in error.message
    assert "bytes are free" in error.message


def test_a_full_quota_on_an_empty_disk_says_that_the_number_may_deceive(tmp_path):
    error = disk_error(OSError(errno.EDQUOT, ""), "writing", need_bytes=1, volume=tmp_path)
    assert "quota" in error.message


@given(code=st.none() | st.integers(-5, 200), need=st.none() | st.integers(0))
def test_any_error_at_all_becomes_one_line_of_ours(code, need):
    for volume in (None, "/nowhere/at/all"):
        error = disk_error(OSError(code, "x"), "doing", need_bytes=need, volume=volume)
        assert isinstance(error, AgentError)
        assert "\n" not in error.message


def test_the_cause_is_kept_and_other_errors_pass():
    with pytest.raises(RetryableError) as raised, disk_errors("doing"):
        raise FileNotFoundError(errno.ENOENT, "gone")
    assert isinstance(raised.value.__cause__, FileNotFoundError)
    with pytest.raises(KeyError), disk_errors("doing"):
        raise KeyError
