"""How the text of a flag is read, where it is more than a path: pure, and a ValueError says what is wrong."""

import re
from collections.abc import Callable

from agent.core.quantity import parse_quantity
from agent.core.reach import Network, networks

DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def duration(text: str) -> float:
    """Return seconds of `10`, `10s`, `1m`, `1h30m`. Raises ValueError."""
    match = DURATION.fullmatch(text.strip())
    if not text.strip() or match is None:
        raise ValueError("is not a duration like 10, 10s, 1m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def memory(text: str) -> int | None:
    """Return bytes of a Kubernetes quantity, None for `none`. Raises ValueError."""
    if text.strip().lower() in {"none", ""}:
        return None
    amount = parse_quantity(text).bytes_ceil()
    if amount < 0:
        raise ValueError("is negative")
    return amount


def amount(text: str) -> int:
    """Return bytes of a Kubernetes quantity. Raises ValueError."""
    return memory(text) or 0


def count(text: str) -> int:
    """Return a whole number of at least one. Raises ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def port(text: str) -> int:
    """Return a TCP port, 0 for any free one. Raises ValueError."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError("is not a port (0 to 65535)")
    return number


def switch(text: str) -> bool:
    """Return a truth value as Go's flag package reads it. Raises ValueError."""
    if text.lower() in {"1", "t", "true", "yes"}:
        return True
    if text.lower() in {"0", "f", "false", "no", ""}:
        return False
    raise ValueError("is not true or false")


def optional_count(text: str) -> int | None:
    """Return a whole number, None for `none`. Raises ValueError."""
    return None if text.lower() in {"none", ""} else count(text)


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes exactly *choices*."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return text

    return parse


def optional_networks(text: str) -> tuple[Network, ...] | None:
    """Return the networks of a list, None where nothing is said. Raises ValueError."""
    return networks(text) if text else None


def plain(error: ValueError) -> str:
    """Return what is wrong with a text, in words of ours."""
    text = str(error)
    return "is not a whole number" if text.startswith("invalid literal") else text
