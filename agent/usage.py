"""A user's mistake: told in words, with what would be right, and no traceback (exit code 64)."""

from collections.abc import Sequence


class UsageError(Exception):
    """What the user wrote cannot be run; the text names every fault and what would be right."""


def no_more(name: str, rest: Sequence[str]) -> None:
    """Refuse words that no flag took."""
    if rest:
        raise UsageError(f"model-agent {name}: what is {' '.join(rest)!r}? see model-agent {name} --help")
