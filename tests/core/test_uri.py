"""What of a storage URI may be shown."""

import pytest

from agent.core.uri import redacted


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:password@host/m?sig=x#f", "https://host/m"),
        ("https:user:password@host/m", "https://host/m"),
        ("user:password@host/m", "user://host/m"),
        ("us er:password@host/m", "host/m"),
        ("//user:password@host/m", "/m"),
        ("s3://bucket/m@v2", "s3://bucket/m@v2"),
        ("/models/m@v2", "/models/m@v2"),
        ("https://[broken/m", "https://…"),
    ],
)
def test_userinfo_is_never_shown_however_it_is_written(uri, shown):
    assert redacted(uri) == shown
